//! `ovncp bench` on a cluster of its own: that it measures, checks and cleans up. How fast is no test.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::support::{ovncp, run};

/// One cluster at a time: together they would only show how busy the machine is.
static ALONE: Mutex<()> = Mutex::new(());
/// Nobody is elected because the machine is busy.
const PATIENT: [(&str, &str); 3] = [
    ("OVNCP_RAFT_HEARTBEAT_INTERVAL", "300ms"),
    ("OVNCP_RAFT_ELECTION_TIMEOUT_MIN", "5s"),
    ("OVNCP_RAFT_ELECTION_TIMEOUT_MAX", "8s"),
];

fn bench(args: &[&str]) -> Value {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let own = ["-o", "json", "--warmup", "0s", "--data-dir", dir.path().to_str().unwrap()];
    let mut command = ovncp(["bench"].into_iter().chain(args.iter().copied()).chain(own));
    command.envs(PATIENT);
    let done = run(command);
    assert_eq!(done.code, Some(0), "{done:?}");
    serde_json::from_str(&done.out).unwrap()
}

#[test]
fn rates_come_with_latencies_and_the_environment() {
    for scenario in ["lock", "read", "write"] {
        let report = bench(&[scenario, "--clients", "2", "--seconds", "3"]);
        let result = &report["results"][0];
        assert_eq!((&result["clients"], &result["errors"]), (&2.into(), &0.into()), "{report}");
        assert!(result["per_second"].as_f64().unwrap() > 0.0, "{report}");
        assert!(result["p50_ms"].as_f64() <= result["p99_ms"].as_f64(), "{report}");
        assert!(report["environment"]["fsync_p50_us"].as_u64().is_some(), "{report}");
    }
}

#[test]
fn contended_lock_goes_round() {
    let report = bench(&["contended", "--clients", "4", "--seconds", "5"]);
    let result = &report["results"][0];
    assert_eq!(result["errors"], 0, "{report}");
    assert!(result["handovers"].as_u64().unwrap() >= 4, "{report}");
    assert!(result["jain"].as_f64().unwrap() > 0.5, "{report}");
}

#[test]
fn failover_is_measured_and_needs_an_own_cluster() {
    let report = bench(&["failover", "--clients", "2", "--runs", "1"]);
    assert!(report["results"]["max_ms"].as_f64().unwrap() > 0.0, "{report}");
    let named = run(ovncp(["bench", "failover", "--endpoint", "http://127.0.0.1:1"]));
    assert_eq!(named.code, Some(2), "{named:?}");
}

#[test]
fn holders_renew_in_few_entries_and_held_locks_are_counted() {
    // Due every 10 s, so that a part of them is due while it is measured, and none is lost.
    let report = bench(&["renew", "--held", "200", "--ttl", "30s", "--seconds", "3", "--clients", "4"]);
    let result = &report["results"];
    assert_eq!((&result["holders"], &result["errors"]), (&200.into(), &0.into()), "{report}");
    assert!(result["renewals"].as_u64().unwrap() > 0, "{report}");
    let report = bench(&["write", "--held", "50", "--clients", "2", "--seconds", "3"]);
    assert_eq!((&report["held"], &report["results"][0]["errors"]), (&50.into(), &0.into()), "{report}");
}

#[test]
fn planned_hand_over_and_overload_are_measured() {
    let report = bench(&["handover", "--clients", "2", "--runs", "2"]);
    assert_eq!(report["results"]["outages_ms"].as_array().unwrap().len(), 2, "{report}");
    assert!(report["results"]["writes"].as_u64().unwrap() > 0, "{report}");
    // One at a time in each node: most of the others wait for longer than they may.
    let report = bench(&["overload", "--clients", "1024", "--seconds", "6", "--requests-max", "1"]);
    let step = &report["results"]["steps"][0];
    assert!(step["goodput_per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert!(step["refused_per_second"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn churn_comes_and_goes_and_every_node_is_looked_at() {
    let report = bench(&["churn", "--time", "6s", "--rate", "100", "--clients", "16"]);
    let result = &report["results"];
    let count = |name: &str| result["counts"][name].as_u64().unwrap();
    for name in ["lock_pairs", "leases_left_to_end", "registers", "watchers"] {
        assert!(count(name) > 0, "{name}: {report}");
    }
    assert!(count("waits_granted") + count("waits_timed_out") > 0, "{report}");
    let samples = result["samples"].as_array().unwrap();
    assert!(samples.len() >= 2, "{report}");
    for sample in samples {
        let nodes = sample["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 3, "{report}");
        assert!(nodes.iter().all(|node| node["memory_mb"].as_f64().unwrap() > 1.0), "{report}");
        assert!(nodes.iter().all(|node| node["log_mb"].as_f64().unwrap() > 0.0), "{report}");
    }
    assert_eq!(result["growth"].as_array().unwrap().len(), 3, "{report}");
}

#[test]
fn invalidations_come_to_a_subscriber_of_each_node() {
    let report = bench(&["invalidate", "--seconds", "2", "--clients", "2"]);
    let steps = report["results"].as_array().unwrap();
    assert_eq!(steps.len(), 4, "{report}");
    for step in steps {
        assert_eq!(
            (&step["nodes"], &step["missing"], &step["errors"]),
            (&3.into(), &0.into(), &0.into()),
            "{report}"
        );
        assert!(step["published"].as_u64().unwrap() > 0, "{report}");
        assert!(step["p50_ms"].as_f64() <= step["p99_ms"].as_f64(), "{report}");
    }
    assert!(steps[1]["lock_pairs_per_second"].as_f64().unwrap() > 0.0, "{report}");
}
