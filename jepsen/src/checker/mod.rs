//! The checks: a history in, a judgement out. No clock, no network, no files; the same history gives the same
//! answer, but for searches that reach their time limit.
//!
//! Each check looks for one broken promise and shows the operations that prove it. What it cannot decide it calls
//! `unknown`; a run whose faults had no measured effect, or in which too little succeeded, proves nothing and is
//! `unknown` too ([`validity`]). The promises are about what clients saw: times are those of the harness' own
//! monotonic clock, read before a request is sent and after its answer has arrived.

mod cluster;
mod describe;
mod dir;
mod facts;
mod invalidations;
pub mod linearizable;
mod locks;
mod operation;
mod registers;
mod results;
mod sessions;
pub mod synthetic;
mod validity;

pub use describe::{compact, seconds};
pub use dir::{DirError, check_dir, read_facts, read_history, read_results};
pub use facts::PlanFacts;
pub use operation::{Fault, Operation, Operations, Outcome, faults, operations};
pub use results::{Check, FINDINGS_MAX, Finding, OperationCounts, Results, Verdict};
pub use validity::PROBES;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::history::History;

/// The workload whose resource has no fence.
const UNFENCED: &str = "lock-unfenced";

/// Judges a run.
pub fn check(plan: &PlanFacts, history: &History) -> Results {
    let began = Instant::now();
    let Operations { all, problems } = operations(history);
    let faults = faults(history);
    let mut checks = of_registers(&all);
    checks.extend(of_locks(plan, history, &all));
    checks.extend(sessions::checks(&all));
    checks.extend(invalidations::checks(&all));
    checks.extend(
        [
            cluster::check_leaders(&all),
            cluster::check_end_state(&all),
            cluster::check_recovery(history, &all),
            cluster::check_exits(history),
            cluster::check_nemesis_findings(history),
        ]
        .into_iter()
        .flatten(),
    );
    checks.extend(validity::check_looked(plan, history, &all));
    checks.push(validity::check(plan, &all, &problems, &faults));
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Unknown);
    // What failed is read first; among equals the order above.
    checks.sort_by_key(|check| std::cmp::Reverse(check.verdict));
    Results {
        verdict,
        checks,
        operations: count(&all),
        faults,
        assumptions: assumptions(),
        history_ms: history.events.last().map_or(0, |event| event.time_ns / 1_000_000),
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn of_registers(operations: &[Operation<'_>]) -> Vec<Check> {
    let checks = [
        linearizable::check_registers(operations),
        registers::check_acknowledged(operations),
        registers::check_revisions(operations),
        registers::check_local_reads(operations),
    ];
    checks.into_iter().flatten().collect()
}

fn of_locks(plan: &PlanFacts, history: &History, operations: &[Operation<'_>]) -> Vec<Check> {
    let holdings = locks::holdings(operations);
    let times_ns: Vec<u64> = history.events.iter().map(|event| event.time_ns).collect();
    let checks = [
        locks::check_overlaps(&holdings),
        linearizable::check_locks(&holdings, &times_ns),
        locks::check_tokens(operations, &holdings),
        locks::check_fence(operations, plan.workload != UNFENCED),
        locks::check_order(operations),
        locks::check_deadlines(operations),
        locks::check_early_ends(&holdings),
        locks::check_given_back(&holdings),
        locks::check_views(operations, &holdings),
        locks::check_queues(operations),
        locks::check_refusals(operations, &holdings),
    ];
    checks.into_iter().flatten().collect()
}

fn count(operations: &[Operation<'_>]) -> BTreeMap<String, OperationCounts> {
    let mut counts: BTreeMap<String, OperationCounts> = BTreeMap::new();
    for operation in operations {
        let of_kind = counts.entry(operation.f().to_owned()).or_default();
        match operation.outcome {
            Outcome::Ok => of_kind.ok += 1,
            Outcome::Fail => of_kind.fail += 1,
            Outcome::Info => of_kind.info += 1,
        }
        if operation.outcome != Outcome::Ok {
            let error = operation.error().unwrap_or("none given").to_owned();
            *of_kind.errors.entry(error).or_default() += 1;
        }
    }
    counts
}

fn assumptions() -> BTreeMap<String, u64> {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    BTreeMap::from([
        ("clock_tolerance_ms".to_owned(), millis(locks::CLOCK_TOLERANCE)),
        ("entries_behind_max".to_owned(), cluster::BEHIND_MAX),
        ("lease_overdue_max_ms".to_owned(), locks::OVERDUE_MAX_MS),
        ("starved_ms".to_owned(), millis(cluster::STARVED)),
        ("key_time_max_ms".to_owned(), millis(linearizable::KEY_TIME_MAX)),
        ("all_keys_time_max_ms".to_owned(), millis(linearizable::ALL_KEYS_TIME_MAX)),
        ("configurations_max".to_owned(), linearizable::CONFIGURATIONS_MAX as u64),
        ("ok_per_second_min".to_owned(), validity::OK_PER_SECOND_MIN),
        ("ok_min".to_owned(), validity::OK_MIN),
        ("ok_after_healing_min".to_owned(), validity::OK_AFTER_HEALING_MIN),
    ])
}

#[cfg(test)]
mod tests;
