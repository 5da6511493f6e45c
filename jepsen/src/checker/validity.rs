//! Whether the run proves anything.

use std::collections::BTreeSet;

use super::describe::seconds;
use super::operation::{Fault, Operation};
use super::results::{Check, Finding};
use super::{OperationCounts, PlanFacts, count};
use crate::history::{Event, History, Kind, Process};

/// Operations that have to succeed per second of the plan.
pub(super) const OK_PER_SECOND_MIN: u64 = 1;
/// Operations that have to succeed in any run.
pub(super) const OK_MIN: u64 = 20;
/// Operations that have to succeed after the last fault was healed.
pub(super) const OK_AFTER_HEALING_MIN: u64 = 1;
/// Attempts of one kind after which at least one has to have succeeded.
const ATTEMPTS_WITHOUT_OK_MAX: u64 = 50;

/// Operations of the harness about itself: they say nothing about what clients got done.
pub const PROBES: [&str; 3] = ["leader", "final-hash", "final-events"];

/// What the harness asks at the end, and its own resource: no client got anything done by these.
const OWN: [&str; 8] = [
    "final-read",
    "final-connect",
    "final-receive",
    "final-publish",
    "final-session",
    "final-stale",
    "final-follow",
    "use",
];

/// Operations that a workload cannot do without.
const ESSENTIAL: [(&str, &[&str]); 10] = [
    ("register", &["read", "write"]),
    ("membership", &["read", "write"]),
    ("lock", &["acquire", "release"]),
    ("lock-unfenced", &["acquire"]),
    ("fifo", &["acquire", "queue"]),
    ("shared", &["acquire", "release"]),
    ("multi", &["acquire", "release"]),
    ("election", &["campaign"]),
    ("session", &["connect", "receive", "publish", "subscribe"]),
    ("invalidation", &["append", "follow", "cleared"]),
];

/// Enough succeeded, overall, per kind and after healing; every fault was measured to have had an effect.
pub(super) fn check(
    plan: &PlanFacts,
    operations: &[Operation<'_>],
    problems: &[String],
    faults: &[Fault],
) -> Check {
    let mut check =
        Check::new("validity", "the run proves something: enough succeeded, every fault had an effect");
    for problem in problems {
        check.unknown(Finding::new(format!("the history breaks its own rules: {problem}")));
    }
    let by_clients = || operations.iter().filter(|one| !PROBES.contains(&one.f()) && !OWN.contains(&one.f()));
    enough(&mut check, plan, by_clients().filter(|operation| operation.is_ok()).count() as u64);
    every_kind(&mut check, plan, operations);
    faults_made(&mut check, plan, faults);
    if let Some(healed) = faults.iter().filter_map(|fault| fault.healed_ns).max() {
        let is_after = |one: &Operation<'_>| one.invoke.time_ns > healed;
        let mut after = by_clients().filter(|one| one.is_ok() && is_after(one)).count() as u64;
        check.count("ok after healing", after);
        if !by_clients().any(is_after) {
            // The last heal was slow and clients had stopped: what is read at the end is all that came after.
            after = operations
                .iter()
                .filter(|one| one.f() == "final-read" && one.is_ok() && is_after(one))
                .count() as u64;
            check.count("final reads after healing, when clients had stopped", after);
        }
        if after < OK_AFTER_HEALING_MIN {
            let text = format!("nothing succeeded after the last fault was healed at {}", seconds(healed));
            check.unknown(Finding::new(text));
        }
    }
    check
}

/// What every run of a cluster asks must be there: a check without anything to look at has found nothing.
pub(super) fn check_looked(
    plan: &PlanFacts,
    history: &History,
    operations: &[Operation<'_>],
) -> Option<Check> {
    let mut check =
        Check::new("looked at", "leaders, recovery and end states were looked at, so that they were judged");
    for number in 1..=plan.nodes {
        let node = format!("n{number}");
        let asked = |one: &&Operation<'_>| one.f() == "leader" && one.invoke.node.as_deref() == Some(&node);
        let answers = operations.iter().filter(asked).filter(|one| one.is_ok()).count() as u64;
        check.count("probes", answers);
        if answers == 0 {
            check.unknown(Finding::new(format!("{node} never said who leads")));
        }
    }
    let states = operations.iter().filter(|one| one.f() == "final-hash" && one.is_ok()).count() as u64;
    check.count("end states", states);
    if states == 0 {
        check.unknown(Finding::new("no node said what state it ended in"));
    }
    let is_recovery =
        |one: &&Event| one.process == Process::Nemesis && one.f == "recovery" && one.kind == Kind::Info;
    let recoveries = history.events.iter().filter(is_recovery).count() as u64;
    check.count("recoveries", recoveries);
    if recoveries == 0 {
        check.unknown(Finding::new("nobody waited for the nodes to become ready at the end"));
    }
    (plan.nodes > 0).then_some(check)
}

fn enough(check: &mut Check, plan: &PlanFacts, ok: u64) {
    check.count("ok", ok);
    let needed = OK_MIN.max(plan.time.as_secs() * OK_PER_SECOND_MIN);
    if ok < needed {
        let text = format!("only {ok} operations succeeded; {needed} are needed");
        check.unknown(Finding::new(text));
    }
}

fn every_kind(check: &mut Check, plan: &PlanFacts, operations: &[Operation<'_>]) {
    let counts = count(operations);
    let none = OperationCounts::default();
    if !ESSENTIAL.iter().any(|(workload, _)| *workload == plan.workload) {
        check.unknown(Finding::new(format!("there is no workload \"{}\" to judge", plan.workload)));
    }
    let essential = ESSENTIAL.iter().filter(|(workload, _)| *workload == plan.workload).flat_map(|(_, f)| *f);
    for f in essential.filter(|f| counts.get(**f).unwrap_or(&none).ok == 0) {
        check.unknown(Finding::new(format!(
            "no {f} ever succeeded, which the workload {} is about",
            plan.workload
        )));
    }
    for (f, of_kind) in counts.iter().filter(|(f, _)| !PROBES.contains(&f.as_str())) {
        let attempts = of_kind.ok + of_kind.fail + of_kind.info;
        if of_kind.ok == 0 && attempts > ATTEMPTS_WITHOUT_OK_MAX {
            check.unknown(Finding::new(format!("none of {attempts} attempts to {f} succeeded")));
        }
    }
}

fn faults_made(check: &mut Check, plan: &PlanFacts, faults: &[Fault]) {
    check.count("faults", faults.len() as u64);
    for fault in faults {
        let what = format!("fault {} ({} on {})", fault.id, fault.name, fault.targets.join(", "));
        if fault.healed_ns.is_none() {
            check.unknown(Finding::new(format!("{what} was never healed")));
        } else if !fault.effective {
            check.unknown(Finding::new(format!("{what} had no measured effect: {}", fault.effect)));
        }
    }
    let made: BTreeSet<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
    for planned in &plan.nemeses {
        let missing = match planned.as_str() {
            // Stands for whatever the machine can do, as far as the time allows.
            "mixed" => faults.is_empty(),
            "none" => false,
            name => !made.contains(name),
        };
        if missing {
            check.unknown(Finding::new(format!("no fault of the kind {planned} was made")));
        }
    }
}
