use super::*;

fn plan() -> PlanFacts {
    PlanFacts { workload: "register".to_owned(), nemeses: vec!["kill-one".to_owned()], ..Default::default() }
}

/// Thirty writes and reads, a fault in between.
fn good(effective: bool, healed_ms: u64) -> Script {
    let mut script = Script::default();
    for round in 0..30 {
        let at = round * 10;
        let value = json!({"value": round + 1, "revision": 100 + round});
        script.ok(1, [at, at + 4], ("write", "r1"), json!({"value": round + 1}), value.clone());
        script.ok(2, [at + 5, at + 9], ("read", "r1"), Value::Null, value);
    }
    script.ok(3, [300, 301], ("final-read", "r1"), Value::Null, json!({"value": 30, "revision": 129}));
    script.fault(1, "kill-one", [50, healed_ms], effective);
    script
}

fn doubt(script: &Script, plan: &PlanFacts) -> Vec<String> {
    let results = check(plan, &script.history());
    assert_eq!(results.verdict, Verdict::Unknown, "{}", results.summary());
    let validity = results.check("validity").unwrap();
    assert_eq!(validity.verdict, Verdict::Unknown);
    validity.findings.iter().map(|finding| finding.text.clone()).collect()
}

#[test]
fn a_run_with_enough_successes_and_an_effective_fault_passes() {
    let results = check(&plan(), &good(true, 100).history());
    assert_eq!(results.verdict, Verdict::Pass, "{}", results.summary());
    assert_eq!(results.faults.len(), 1);
    assert_eq!((results.faults[0].began_ns, results.faults[0].healed_ns), (50_000_000, Some(100_000_000)));
    assert_eq!(results.faults[0].targets, ["n2"]);
    assert_eq!(results.operations["read"].ok, 30);
}

#[test]
fn a_fault_without_measured_effect_proves_nothing() {
    let texts = doubt(&good(false, 100), &plan());
    assert_eq!(texts, [r#"fault 1 (kill-one on n2) had no measured effect: {"frames_dropped":0}"#]);
}

#[test]
fn a_planned_fault_that_was_never_made_proves_nothing() {
    let plan = PlanFacts { nemeses: vec!["kill-one".to_owned(), "loss".to_owned()], ..plan() };
    assert_eq!(doubt(&good(true, 100), &plan), ["no fault of the kind loss was made"]);
}

#[test]
fn too_few_successes_prove_nothing() {
    let plan = PlanFacts { time: Duration::from_secs(300), ..plan() };
    assert_eq!(doubt(&good(true, 100), &plan), ["only 60 operations succeeded; 300 are needed"]);
}

#[test]
fn a_run_that_never_recovers_proves_nothing() {
    let texts = doubt(&good(true, 400), &plan());
    assert_eq!(texts, ["nothing succeeded after the last fault was healed at 0.4000 s"]);
}

#[test]
fn reads_of_the_harness_count_only_where_clients_had_stopped() {
    // They still asked and got nothing: that the harness reads something is no proof that clients can.
    let mut script = good(true, 296);
    script.fail(1, [297, 298], ("write", "r1"), json!({"value": 31}), "no_leader");
    let texts = doubt(&script, &plan());
    assert_eq!(texts, ["nothing succeeded after the last fault was healed at 0.2960 s"]);
    let results = check(&plan(), &good(true, 299).history());
    let validity = results.check("validity").unwrap();
    assert_eq!(validity.verdict, Verdict::Pass, "{}", results.summary());
    assert_eq!(validity.counts["final reads after healing, when clients had stopped"], 1);
}

#[test]
fn an_unknown_workload_proves_nothing() {
    let plan = PlanFacts { workload: "registre".to_owned(), ..plan() };
    assert_eq!(doubt(&good(true, 100), &plan), ["there is no workload \"registre\" to judge"]);
}

#[test]
fn what_was_not_looked_at_was_not_judged() {
    let plan = PlanFacts { nodes: 2, ..plan() };
    let mut script = good(true, 100);
    let seen = |script: &Script| {
        let results = check(&plan, &script.history());
        results.check("looked at").unwrap().findings.iter().map(|one| one.text.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        seen(&script),
        [
            "n1 never said who leads",
            "n2 never said who leads",
            "no node said what state it ended in",
            "nobody waited for the nodes to become ready at the end",
        ]
    );
    for (process, node) in [(30, "n1"), (31, "n2")] {
        let leader = json!({"term": 1, "leader_id": "n1", "is_leader": node == "n1", "node_id": node});
        script.ok(process, [10, 11], ("leader", ""), Value::Null, leader);
    }
    let state = json!({"applied_index": 9, "state_hash": "aa", "members": []});
    script.ok(32, [310, 311], ("final-hash", ""), Value::Null, state);
    let done = json!({"took_ms": 3, "not_ready": []});
    script.event(Process::Nemesis, Kind::Info, ("recovery", ""), done, 305);
    assert_eq!(seen(&script), [""; 0]);
    assert_eq!(check(&plan, &script.history()).verdict, Verdict::Pass);
}

#[test]
fn a_workload_without_its_operations_proves_nothing() {
    let plan = PlanFacts { workload: "fifo".to_owned(), ..plan() };
    let texts = doubt(&good(true, 100), &plan);
    assert_eq!(texts[0], "no acquire ever succeeded, which the workload fifo is about");
}

#[test]
fn a_history_that_breaks_its_own_rules_proves_nothing() {
    let mut script = good(true, 100);
    script.info(7, [200, 210], ("write", "r9"), json!({"value": 3}));
    script.ok(7, [220, 230], ("read", "r9"), Value::Null, json!({"value": null, "revision": null}));
    let texts = doubt(&script, &plan());
    assert!(texts[0].contains("process 7 goes on although its event"), "{texts:?}");
}

#[test]
fn a_directory_is_checked_and_a_bad_one_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = check_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("plan.json: No such file"), "{error}");
    let facts = r#"{"workload": "register", "nemeses": [], "nodes": 3, "time": {"secs": 1, "nanos": 0}, "seed": 7, "other": 1}"#;
    std::fs::write(dir.path().join("plan.json"), facts.replace("3", "0")).unwrap();
    let error = check_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("plan.json: nodes: there is at least one"), "{error}");
    std::fs::write(dir.path().join("plan.json"), facts).unwrap();
    std::fs::write(dir.path().join("history.jsonl"), "{}\n").unwrap();
    let error = check_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("history.jsonl: line 1: missing field"), "{error}");
    let file = std::fs::File::create(dir.path().join("history.jsonl")).unwrap();
    good(true, 100).history().write_jsonl(file).unwrap();
    let results = check_dir(dir.path()).unwrap();
    assert_eq!(results.check("validity").unwrap().verdict, Verdict::Pass, "{}", results.summary());
    assert_eq!(read_results(dir.path()).unwrap(), results);
    assert_eq!(
        read_facts(dir.path()).unwrap().command(),
        "ovncp-jepsen run --workload register --time 1 --seed 7 --nodes 3"
    );
}
