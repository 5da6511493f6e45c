//! Every workload on a real node that nobody harms: each of its operations succeeds, every answer is understood, and
//! nothing is found.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{harness, json, only_run, shown};

/// How long it may take on a busy machine until every operation has succeeded once.
const PATIENCE: Duration = Duration::from_secs(240);
/// Outcomes that are no fault of anybody where nothing is harmed but a machine is busy, or the run was interrupted.
const EXCUSED: [&str; 7] =
    ["timeout", "outcome_unknown", "no_leader", "lagging", "connect_timeout", "queue_full", "draining"];

/// Runs `workload` until each of `operations` has succeeded; nothing may fail but as `refusals` say.
fn runs(workload: &str, operations: &[&str], refusals: &[&str]) {
    let store = tempfile::tempdir().expect("a folder");
    let arguments = format!(
        "run --workload {workload} --nemesis none --net proxy --disk dir --clients 6 --seed 5 --nodes 1 --time 600"
    );
    let mut command = harness(store.path());
    let mut child = command
        .args(arguments.split(' '))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("a run");
    let start = Instant::now();
    let wanted: BTreeSet<_> = operations.iter().chain(&["leader"]).map(|name| (*name).to_owned()).collect();
    let mut succeeded = BTreeSet::new();
    while !succeeded.is_superset(&wanted) {
        let status = child.try_wait().expect("a child");
        assert!(status.is_none() && start.elapsed() < PATIENCE, "{workload}: {status:?}, only {succeeded:?}");
        std::thread::sleep(Duration::from_millis(50));
        let events = only_run(store.path()).map(|dir| events(&dir)).unwrap_or_default();
        succeeded =
            events.iter().filter(|event| event["type"] == "ok").map(|event| text(event, "f")).collect();
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("the harness runs");
    child.wait().expect("a child");

    let dir = only_run(store.path()).expect("a run");
    let judged = shown(&harness(store.path()).arg("check").arg(&dir).output().expect("the harness runs"));
    let results = json(&dir.join("results.json")).unwrap_or_else(|| panic!("no results: {judged}"));
    assert_ne!(results["verdict"], "fail", "{judged}{results:#}");
    let events = events(&dir);
    for event in events.iter().filter(|event| matches!(event["type"].as_str(), Some("fail" | "info"))) {
        let error = text(event, "error");
        let known = refusals.contains(&error.as_str()) || EXCUSED.contains(&error.as_str());
        assert!(known || event["process"] == "nemesis", "{workload} does not expect {event}");
    }
}

/// What was recorded so far; the last line may be half of one.
fn events(dir: &Path) -> Vec<Value> {
    let history = std::fs::read_to_string(dir.join("history.jsonl")).unwrap_or_default();
    history.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

fn text(event: &Value, field: &str) -> String {
    event[field].as_str().unwrap_or_default().to_owned()
}

#[test]
fn registers() {
    runs("register", &["read", "read-local", "write", "cas", "create"], &["revision_mismatch"]);
}

#[test]
fn locks() {
    let operations = ["acquire", "renew", "use", "release"];
    runs("lock", &operations, &["lock_held", "lock_timeout", "lock_lost", "not_holder", "fenced"]);
}

#[test]
fn locks_without_a_fence_keep_nobody_out() {
    let operations = ["acquire", "renew", "use", "release"];
    runs("lock-unfenced", &operations, &["lock_held", "lock_timeout", "lock_lost", "not_holder"]);
}

#[test]
fn queues() {
    runs("fifo", &["acquire", "queue", "release"], &["lock_timeout", "lock_lost", "not_holder"]);
}

#[test]
fn shared_locks() {
    let refusals = ["lock_held", "lock_timeout", "lock_lost", "not_holder", "fenced"];
    runs("shared", &["acquire", "renew", "release"], &refusals);
}

#[test]
fn several_locks() {
    let refusals = ["lock_held", "lock_timeout", "lock_lost", "not_holder", "fenced"];
    runs("multi", &["acquire", "renew", "release"], &refusals);
}

#[test]
fn elections() {
    let refusals = ["election_held", "election_timeout", "term_lost", "not_leader", "fenced"];
    runs("election", &["campaign", "renew", "observe", "resign"], &refusals);
}

#[test]
fn the_invalidation_log() {
    runs("invalidation", &["append", "cleared", "follow"], &[]);
}

#[test]
fn sessions() {
    let operations = ["connect", "receive", "publish", "subscribe", "register"];
    // There is nowhere to move to; sessions that have ended are published to; sockets are taken over on purpose, some
    // before their welcome or an answer has come.
    let refusals = [
        "invalid_target",
        "unknown_session",
        "session_moved",
        "session_ended",
        "connection_lost",
        "closed 4001",
        "busy",
    ];
    runs("session", &operations, &refusals);
}
