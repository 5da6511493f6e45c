//! What the nodes say about themselves: who leads, what they hold in the end, and whether they ended unasked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::describe::seconds;
use super::operation::Operation;
use super::results::{Check, Finding};
use crate::history::{History, Kind, Process};

/// Entries that a node may lack at the end, half a minute after healing, before that is called a fault. While nobody
/// writes, leases and watches add a few entries per second.
pub(super) const BEHIND_MAX: u64 = 500;

/// Half of what nodes answer from their own memory comes within this time, where they get to run at all: the shortest
/// election time-out is hardly longer. On a machine that is busier than that nobody can say that they do not recover.
pub(super) const STARVED: Duration = Duration::from_millis(100);

/// At most one leader per term, over everything that any node ever said.
pub(super) fn check_leaders(operations: &[Operation<'_>]) -> Option<Check> {
    let mut check = Check::new("leadership", "no two nodes lead in one term of Raft");
    let names = names_by_raft_id(operations);
    let mut leaders: BTreeMap<u64, BTreeMap<String, &Operation<'_>>> = BTreeMap::new();
    for probe in operations.iter().filter(|operation| operation.f() == "leader" && operation.is_ok()) {
        let output = probe.output();
        check.count("probes", 1);
        let leads = output.get("is_leader").and_then(Value::as_bool) == Some(true);
        let told = output.get(if leads { "node_id" } else { "leader_id" }).map(text).unwrap_or_default();
        let Some(term) = output.get("term").and_then(Value::as_u64).filter(|_| !told.is_empty()) else {
            continue;
        };
        // A node that does not know a member's name yet says its Raft id. One that nobody names in the end
        // cannot be compared with a name.
        let name = names.get(&told).cloned().unwrap_or(told);
        if name.parse::<u64>().is_ok() {
            check.count("leaders without a name", 1);
            continue;
        }
        leaders.entry(term).or_default().entry(name).or_insert(probe);
    }
    check.count("terms with a leader", leaders.len() as u64);
    for (term, told) in leaders.iter().filter(|(_, told)| told.len() > 1) {
        let names: Vec<&str> = told.keys().map(String::as_str).collect();
        let finding = Finding::new(format!("term {term} has several leaders: {}", names.join(", ")));
        check.fail(finding.shown_by(told.values().copied()));
    }
    check.counts.contains_key("probes").then_some(check)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Names of members by their Raft ids, as the nodes show them at the end.
fn names_by_raft_id(operations: &[Operation<'_>]) -> BTreeMap<String, String> {
    let members = operations
        .iter()
        .filter(|one| one.f() == "final-hash")
        .filter_map(|one| one.output().get("members").and_then(Value::as_array))
        .flatten();
    members.filter_map(|member| Some((text(member.get("raft_id")?), text(member.get("id")?)))).collect()
}

/// After healing all members come to the same index, and there they hold the same.
pub(super) fn check_end_state(operations: &[Operation<'_>]) -> Option<Check> {
    let asked: Vec<&Operation<'_>> = operations.iter().filter(|one| one.f() == "final-hash").collect();
    if asked.is_empty() {
        return None;
    }
    let mut check =
        Check::new("equal states", "nodes at one index hold one state, and all come to one after healing");
    let mut at_index: BTreeMap<u64, Vec<(&str, &Operation<'_>)>> = BTreeMap::new();
    let mut last: BTreeMap<&str, (u64, &Operation<'_>)> = BTreeMap::new();
    let mut silent: BTreeMap<&str, &Operation<'_>> = BTreeMap::new();
    for one in asked {
        let node = one.invoke.node.as_deref().unwrap_or("");
        let output = one.output();
        let index = output.get("applied_index").and_then(Value::as_u64);
        let hash = output.get("state_hash").and_then(Value::as_str);
        let (true, Some(index), Some(hash)) = (one.is_ok(), index, hash) else {
            silent.insert(node, one);
            continue;
        };
        at_index.entry(index).or_default().push((hash, one));
        last.insert(node, (index, one));
    }
    check.count("nodes", last.len() as u64);
    check.count("indexes compared", at_index.values().filter(|seen| seen.len() > 1).count() as u64);
    for (index, seen) in &at_index {
        let (first, by) = seen[0];
        if let Some((_, other)) = seen.iter().find(|(hash, _)| *hash != first) {
            let text = format!("at index {index} two nodes hold different states");
            check.fail(Finding::new(text).shown_by([by, *other]));
        }
    }
    for (node, one) in silent.iter().filter(|(node, _)| !last.contains_key(*node)) {
        // One look that got no answer in time proves nothing; that it is not ready, the recovery would have seen.
        check.unknown(Finding::new(format!("{node} did not say what state it ended in")).shown_by([*one]));
    }
    let newest = last.values().map(|(index, _)| *index).max().unwrap_or(0);
    for (node, (index, one)) in last.iter().filter(|(_, (index, _))| newest - index > BEHIND_MAX) {
        let text = format!("{node} stayed behind after healing, at index {index} of {newest}");
        check.fail(Finding::new(text).shown_by([*one]));
    }
    let indexes: BTreeSet<u64> = last.values().map(|(index, _)| *index).collect();
    if indexes.len() > 1 {
        let text = format!("the nodes did not come to one index: they ended at {indexes:?}");
        check.unknown(Finding::new(text).shown_by(last.values().map(|(_, one)| *one)));
    }
    Some(check)
}

/// Nodes end only when a fault ends them.
pub(super) fn check_exits(history: &History) -> Option<Check> {
    let mut check = Check::new("node exits", "no node ends that no fault has ended");
    let exits = history.events.iter().filter(|one| one.process == Process::Nemesis && one.f == "node-exit");
    for exit in exits {
        check.count("exits", 1);
        if exit.value.get("expected").and_then(Value::as_bool) != Some(false) {
            continue;
        }
        let part = |name: &str| match exit.value.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "unknown".to_owned(),
        };
        let text =
            format!("{} ended by itself at {}: {}", part("node"), seconds(exit.time_ns), part("status"));
        check.fail(Finding {
            window_ns: Some((exit.time_ns, exit.time_ns)),
            events: vec![exit.index],
            ..Finding::new(text)
        });
    }
    check.counts.contains_key("exits").then_some(check)
}

/// After everything is healed all nodes become ready, on a machine that lets them run.
pub(super) fn check_recovery(history: &History, operations: &[Operation<'_>]) -> Option<Check> {
    let mut check = Check::new("recovery", "once everything is healed, every node becomes ready");
    let events = history.events.iter().filter(|one| one.process == Process::Nemesis && one.f == "recovery");
    let mut began_ns = 0;
    for event in events {
        if event.kind != Kind::Info {
            began_ns = event.time_ns;
            continue;
        }
        check.count("waits", 1);
        check.count("ms until ready", event.value.get("took_ms").and_then(Value::as_u64).unwrap_or(0));
        let late: Vec<String> =
            event.value.get("not_ready").and_then(Value::as_array).into_iter().flatten().map(text).collect();
        if late.is_empty() {
            continue;
        }
        let median = median_answer(operations, began_ns, event.time_ns);
        let starved = median.filter(|median| *median > STARVED);
        for node in late {
            let at = seconds(event.time_ns);
            let finding = |text: String| Finding {
                window_ns: Some((event.time_ns, event.time_ns)),
                events: vec![event.index],
                ..Finding::new(text)
            };
            match starved {
                None => check.fail(finding(format!("{node} was not ready by {at}"))),
                Some(median) => check.unknown(finding(format!(
                    "{node} was not ready by {at}, but the machine was too busy to tell: half of what nodes \
                     answer from memory took longer than {} ms",
                    median.as_millis()
                ))),
            }
        }
    }
    check.counts.contains_key("waits").then_some(check)
}

/// Of the questions that nodes answer from their own memory, asked from one time to another: the median duration.
fn median_answer(operations: &[Operation<'_>], from_ns: u64, to_ns: u64) -> Option<Duration> {
    let asked = operations.iter().filter(|one| one.f() == "leader" && one.is_ok());
    let inside = asked.filter(|one| (from_ns..to_ns).contains(&one.invoke.time_ns));
    let mut took: Vec<u64> =
        inside.filter_map(|one| one.ended_ns()?.checked_sub(one.invoke.time_ns)).collect();
    took.sort_unstable();
    took.get(took.len() / 2).map(|median| Duration::from_nanos(*median))
}

/// What whoever made a fault saw go wrong.
pub(super) fn check_nemesis_findings(history: &History) -> Option<Check> {
    let mut check =
        Check::new("what faults showed", "nothing goes wrong before the eyes of whoever makes a fault");
    for event in history.events.iter().filter(|event| event.process == Process::Nemesis) {
        let effect = event.value.get("effect");
        let findings = effect.and_then(|effect| effect.get("findings")).and_then(Value::as_array);
        for finding in findings.into_iter().flatten() {
            let what = finding.as_str().map_or_else(|| finding.to_string(), str::to_owned);
            check.fail(Finding {
                window_ns: Some((event.time_ns, event.time_ns)),
                events: vec![event.index],
                ..Finding::new(format!("{} at {}: {what}", event.f, seconds(event.time_ns)))
            });
        }
    }
    (check.findings_total > 0).then_some(check)
}
