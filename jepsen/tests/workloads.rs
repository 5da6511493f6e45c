//! Every workload for a few seconds on real nodes that nobody harms: it must get its operations done, understand
//! every answer, and find nothing.

mod support;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use support::{harness, json, only_run, shown};

/// Outcomes that are no fault of anybody where nothing is harmed but a machine is busy.
const EXCUSED: [&str; 6] =
    ["timeout", "outcome_unknown", "no_leader", "lagging", "connect_timeout", "queue_full"];

/// Runs `workload` and checks that each of `operations` succeeded, and that nothing failed but as `refusals` say.
fn runs(workload: &str, operations: &[&str], refusals: &[&str]) {
    // One cluster at a time: several would starve each other on a small machine.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let store = tempfile::tempdir().expect("a folder");
    let arguments = format!(
        "run --workload {workload} --nemesis none --net proxy --disk dir --clients 6 --seed 5 --time 6 --rate 30"
    );
    let output = harness(store.path()).args(arguments.split(' ')).output().expect("the harness runs");
    let text = shown(&output);
    let dir = only_run(store.path()).expect("a run");
    let results = json(&dir.join("results.json")).unwrap_or_else(|| panic!("no results: {text}"));
    // Where too little succeeds on a machine that is very busy, the verdict is unknown.
    assert_ne!(results["verdict"], "fail", "{text}{results:#}");

    let history = std::fs::read_to_string(dir.join("history.jsonl")).expect("a history");
    let events: Vec<Value> =
        history.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let ok = events.iter().filter(|event| event["type"] == "ok").map(|event| text(event, "f"));
    let ok: BTreeSet<_> = ok.collect();
    for operation in operations.iter().chain(&["leader", "final-hash"]) {
        assert!(ok.contains(*operation), "no {operation} succeeded in {workload}: {ok:?}");
    }
    for event in events.iter().filter(|event| matches!(event["type"].as_str(), Some("fail" | "info"))) {
        let error = text(event, "error");
        let known = refusals.contains(&error.as_str()) || EXCUSED.contains(&error.as_str());
        assert!(known || event["process"] == "nemesis", "{workload} does not expect {event}");
    }
}

#[test]
fn registers() {
    let operations = ["read", "read-local", "write", "cas", "create", "final-read"];
    runs("register", &operations, &["revision_mismatch"]);
}

#[test]
fn locks() {
    let operations = ["acquire", "renew", "use", "release"];
    let refusals = ["lock_held", "lock_timeout", "lock_lost", "not_holder", "fenced"];
    runs("lock", &operations, &refusals);
    // Without a fence nothing is ever kept out.
    runs("lock-unfenced", &operations, &refusals[..4]);
}

#[test]
fn queues() {
    runs("fifo", &["acquire", "queue", "release"], &["lock_timeout", "lock_lost", "not_holder"]);
}

#[test]
fn shared_locks_and_several_locks() {
    let refusals = ["lock_held", "lock_timeout", "lock_lost", "not_holder", "fenced"];
    runs("shared", &["acquire", "renew", "release"], &refusals);
    runs("multi", &["acquire", "renew", "release"], &refusals);
}

#[test]
fn elections() {
    let refusals = ["election_held", "election_timeout", "term_lost", "not_leader", "fenced"];
    runs("election", &["campaign", "renew", "observe", "resign"], &refusals);
}
