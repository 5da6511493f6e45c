//! Whole runs of the program, on real nodes: a few seconds in proxy mode, which needs no privileges.
//!
//! The nodes' binary is the one that `cargo test --workspace` has built beside this test; alone, the test builds it.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::{harness, json, only_run, shown};

/// How long a condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn run(store: &Path, arguments: &str) -> Command {
    let mut command = harness(store);
    // Disks are plain folders where nothing can be mounted.
    let common = "run --workload register --net proxy --disk loop --clients 4 --seed 11";
    command.args(common.split(' ')).args(arguments.split(' '));
    command
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// A run whose clients are at work, and the processes of its nodes.
fn at_work(store: &Path) -> (Child, PathBuf, Vec<u64>) {
    let mut child =
        run(store, "--nemesis none --time 600").stderr(Stdio::null()).spawn().expect("the harness starts");
    let dir = until("three nodes and a first answer", || {
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("the run ended with {status}");
        }
        let dir = only_run(store)?;
        let history = std::fs::read_to_string(dir.join("history.jsonl")).ok()?;
        history.contains(r#""type":"ok""#).then_some(dir)
    });
    let running = json(&dir.join("running.json")).expect("a run that goes on");
    let nodes: Vec<u64> = running["processes"]
        .as_array()
        .expect("processes")
        .iter()
        .filter_map(|one| one["pid"].as_u64())
        .collect();
    assert_eq!(nodes.len(), 3);
    (child, dir, nodes)
}

/// Whether something is mounted in the store.
fn is_mounted(store: &Path) -> bool {
    let store = store.canonicalize().expect("the store");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts of this process");
    mounts.contains(&*store.to_string_lossy())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the harness runs");
}

/// Whether it is a process that does something: one that nobody waited for is none.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_short_run_with_a_fault_finds_nothing_and_leaves_everything_to_judge_it() {
    let store = tempfile::tempdir().unwrap();
    let output = run(store.path(), "--nemesis kill-one --time 8").output().unwrap();
    let text = shown(&output);
    // On a machine that is busy with other tests too little may succeed; nothing false may ever be seen.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}");
    assert!(
        text.contains("again   ovncp-jepsen run --workload register --nemesis kill-one --time 8"),
        "{text}"
    );

    let dir = only_run(store.path()).unwrap();
    let results = json(&dir.join("results.json")).unwrap();
    assert_ne!(results["verdict"], "fail", "{results:#}");
    assert!(results["operations"]["read"]["ok"].as_u64().unwrap() > 0, "{results:#}");
    let faults = results["faults"].as_array().unwrap();
    assert!(!faults.is_empty() && faults.iter().all(|fault| fault["effective"] == true), "{results:#}");
    for file in ["plan.json", "history.jsonl", "history.edn", "logs/n1.log", "logs/n2.log", "logs/n3.log"] {
        assert!(std::fs::metadata(dir.join(file)).unwrap().len() > 0, "{file} is empty");
    }
    assert!(!dir.join("running.json").exists());

    let again = harness(store.path()).arg("check").arg(&dir).output().unwrap();
    assert_eq!(again.status.code(), output.status.code(), "{}", shown(&again));
    let list = shown(&harness(store.path()).arg("list").output().unwrap());
    assert!(list.contains("partition-one") && list.contains(&*dir.to_string_lossy()), "{list}");
}

#[test]
fn an_interrupted_run_takes_its_nodes_away() {
    let store = tempfile::tempdir().unwrap();
    let (mut child, dir, nodes) = at_work(store.path());
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(!nodes.iter().any(|pid| runs(*pid)));
    assert!(!dir.join("running.json").exists() && dir.join("history.edn").exists());
    assert!(!is_mounted(store.path()));
}

#[test]
fn what_a_killed_run_left_is_cleaned_on_request() {
    let store = tempfile::tempdir().unwrap();
    let (mut child, dir, nodes) = at_work(store.path());
    let alive = shown(&harness(store.path()).arg("clean").output().unwrap());
    assert!(alive.contains("still goes on") && nodes.iter().all(|pid| runs(*pid)), "{alive}");

    signal(&child, Signal::KILL);
    child.wait().unwrap();
    let cleaned = harness(store.path()).arg("clean").output().unwrap();
    assert!(cleaned.status.success(), "{}", shown(&cleaned));
    until("the nodes are gone", || (!nodes.iter().any(|pid| runs(*pid))).then_some(()));
    assert!(!dir.join("running.json").exists() && !is_mounted(store.path()));
    let nothing = harness(store.path()).arg("clean").output().unwrap();
    assert!(nothing.status.success() && nothing.stdout.is_empty(), "{}", shown(&nothing));
}

#[test]
fn a_wrong_name_is_a_usage_error() {
    let store = tempfile::tempdir().unwrap();
    let output = run(store.path(), "--nemesis meteorite").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(shown(&output).contains("partition-bridge"), "{}", shown(&output));
    assert!(only_run(store.path()).is_none());
}
