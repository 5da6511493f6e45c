use super::*;

const SAFETY: &str = "lock safety";
const LOCKS: &str = "linearizable locks";
const TOKENS: &str = "fencing tokens";
const LEASES: &str = "full leases";
const VIEWS: &str = "views of locks";
const FENCE: &str = "fenced resource";

fn ask(owner: &str, mode: &str, ttl_ms: u64, wait_ms: u64) -> Value {
    json!({"keys": ["k1"], "mode": mode, "owner": owner, "ttl_ms": ttl_ms, "wait_ms": wait_ms})
}

fn acquire(script: &mut Script, process: u64, span: [u64; 2], token: u64, ttl_ms: u64) {
    let output = json!({"token": token, "waited_ms": 0, "ttl_ms": ttl_ms});
    script.ok(process, span, ("acquire", "k1"), ask(&format!("c{process}"), "exclusive", ttl_ms, 0), output);
}

fn renew(script: &mut Script, process: u64, span: [u64; 2], token: u64, ttl_ms: u64) {
    let input = json!({"token": token, "ttl_ms": ttl_ms});
    script.ok(process, span, ("renew", "k1"), input.clone(), input);
}

fn release(script: &mut Script, process: u64, span: [u64; 2], token: u64) {
    script.ok(process, span, ("release", "k1"), json!({"token": token}), Value::Null);
}

#[test]
fn a_lock_passes_from_hand_to_hand_by_release_and_by_the_end_of_its_lease() {
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    renew(&mut script, 1, [500, 510], 1, 1_000);
    release(&mut script, 1, [900, 910], 1);
    acquire(&mut script, 2, [905, 920], 2, 1_000);
    acquire(&mut script, 3, [1_904, 1_910], 3, 1_000);
    script.fail(2, [1_950, 1_960], ("renew", "k1"), json!({"token": 2, "ttl_ms": 1_000}), "not_holder");
    [SAFETY, LOCKS, TOKENS, LEASES].iter().for_each(|check| script.passes(check));
}

#[test]
fn a_grant_inside_a_lease_is_found() {
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    renew(&mut script, 1, [500, 510], 1, 1_000);
    acquire(&mut script, 2, [1_100, 1_110], 2, 1_000);
    let finding = script.finding(SAFETY);
    assert_eq!(
        finding.text,
        "k1: tokens 1 (process 1) and 2 (process 2) were both held from 1.1100 s to 1.5000 s"
    );
    assert_eq!(finding.lines.len(), 3, "{:#?}", finding.lines);
    let finding = script.finding(LOCKS);
    assert!(finding.text.contains("p2 n3 acquire k1"), "{}", finding.text);
    assert!(finding.text.ends_with("just before, it was held with token 1"), "{}", finding.text);
    script.passes(TOKENS);
}

#[test]
fn a_renewal_counts_from_its_invocation_and_an_unknown_one_does_not_extend() {
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    // Answered late: the lease may have ended 1,000 ms after it was asked for.
    renew(&mut script, 1, [500, 1_400], 1, 1_000);
    acquire(&mut script, 2, [1_490, 1_505], 2, 1_000);
    script.info(2, [2_000, 7_000], ("renew", "k1"), json!({"token": 2, "ttl_ms": 10_000}));
    acquire(&mut script, 3, [2_485, 2_500], 3, 1_000);
    [SAFETY, LOCKS, LEASES].iter().for_each(|check| script.passes(check));
}

#[test]
fn a_renewal_of_what_another_has_got_is_found() {
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    acquire(&mut script, 2, [1_010, 1_020], 2, 1_000);
    script.passes(LOCKS);
    renew(&mut script, 1, [1_100, 1_110], 1, 1_000);
    let finding = script.finding(SAFETY);
    assert!(finding.lines.iter().any(|line| line.contains("p1 n2 renew k1")), "{:#?}", finding.lines);
    // Without that renewal it had been free.
    let finding = script.finding(LOCKS);
    assert!(finding.text.contains("p2 n3 acquire k1"), "{}", finding.text);
}

#[test]
fn the_longest_hold_bounds_what_renewals_give() {
    let mut script = Script::default();
    let mut input = ask("c1", "exclusive", 1_000, 0);
    input["max_hold_ms"] = 1_200.into();
    script.ok(1, [0, 10], ("acquire", "k1"), input, json!({"token": 1, "waited_ms": 0, "ttl_ms": 1_000}));
    renew(&mut script, 1, [900, 910], 1, 1_000);
    acquire(&mut script, 2, [1_195, 1_205], 2, 1_000);
    [SAFETY, LOCKS, LEASES].iter().for_each(|check| script.passes(check));
}

#[test]
fn readers_share_and_a_writer_excludes() {
    let shared = |script: &mut Script, process: u64, span, token: u64| {
        let output = json!({"token": token, "waited_ms": 0, "ttl_ms": 1_000});
        script.ok(process, span, ("acquire", "k1"), ask(&format!("c{process}"), "shared", 1_000, 0), output);
    };
    let mut script = Script::default();
    shared(&mut script, 1, [0, 10], 1);
    shared(&mut script, 2, [5, 15], 2);
    script.passes(SAFETY);
    acquire(&mut script, 3, [500, 510], 3, 1_000);
    assert!(script.finding(SAFETY).text.contains("tokens 1 (process 1) and 3 (process 3)"));
    assert!(script.results().check(LOCKS).is_none(), "not a lock of one holder");
}

#[test]
fn locks_on_several_keys_conflict_on_any() {
    let group = |script: &mut Script, process: u64, span, keys: [&str; 2], token: u64| {
        let input = json!({"keys": keys, "mode": "exclusive", "owner": format!("c{process}"), "ttl_ms": 1_000, "wait_ms": 0});
        script.ok(
            process,
            span,
            ("acquire", keys[0]),
            input,
            json!({"token": token, "waited_ms": 0, "ttl_ms": 1_000}),
        );
    };
    let mut script = Script::default();
    group(&mut script, 1, [0, 10], ["a", "b"], 1);
    group(&mut script, 2, [5, 15], ["c", "d"], 2);
    script.passes(SAFETY);
    group(&mut script, 3, [20, 30], ["b", "e"], 3);
    let finding = script.finding(SAFETY);
    assert!(finding.text.starts_with("b: tokens 1 (process 1) and 3 (process 3)"), "{}", finding.text);
}

#[test]
fn an_office_has_one_holder() {
    let campaign = |script: &mut Script, process: u64, span, token: u64| {
        let input = json!({"owner": format!("c{process}"), "ttl_ms": 1_000, "wait_ms": 0});
        script.ok(
            process,
            span,
            ("campaign", "e1"),
            input,
            json!({"token": token, "waited_ms": 0, "ttl_ms": 1_000}),
        );
    };
    let mut script = Script::default();
    campaign(&mut script, 1, [0, 10], 1);
    script.ok(1, [500, 510], ("resign", "e1"), json!({"token": 1}), Value::Null);
    campaign(&mut script, 2, [505, 520], 2);
    [SAFETY, LOCKS].iter().for_each(|check| script.passes(check));
    campaign(&mut script, 3, [600, 610], 3);
    [SAFETY, LOCKS].iter().for_each(|check| drop(script.finding(check)));
}

#[test]
fn tokens_given_twice_or_out_of_order_are_found() {
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 7, 1_000);
    release(&mut script, 1, [20, 30], 7);
    acquire(&mut script, 2, [40, 50], 7, 1_000);
    assert_eq!(script.finding(TOKENS).text, "token 7 was given twice");

    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 7, 1_000);
    release(&mut script, 1, [20, 30], 7);
    acquire(&mut script, 2, [40, 50], 6, 1_000);
    assert_eq!(script.finding(TOKENS).text, "k1: token 6 was asked for and given after token 7 was known");
    script.finding(LOCKS);

    // At the same time either may be first.
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 7, 1_000);
    release(&mut script, 1, [12, 30], 7);
    acquire(&mut script, 2, [5, 50], 8, 1_000);
    script.passes(TOKENS);
}

#[test]
fn a_lease_that_ends_early_is_found() {
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    renew(&mut script, 1, [500, 510], 1, 1_000);
    script.fail(1, [1_480, 1_490], ("renew", "k1"), json!({"token": 1, "ttl_ms": 1_000}), "not_holder");
    let finding = script.finding(LEASES);
    assert_eq!(
        finding.text,
        "k1: token 1 was lost by 1.4900 s, although its lease could not end before 1.5000 s"
    );
    // Whoever may have released it cannot complain.
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    script.info(1, [100, 200], ("release", "k1"), json!({"token": 1}));
    script.fail(4, [300, 310], ("release", "k1"), json!({"token": 1}), "not_holder");
    script.passes(LEASES);
}

#[test]
fn a_holder_that_had_gone_is_not_seen() {
    let view = |script: &mut Script, span, tokens: Value| {
        script.ok(9, span, ("queue", "k1"), Value::Null, json!({"holder_tokens": tokens, "queue": []}));
    };
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    view(&mut script, [12, 14], json!([1]));
    release(&mut script, 1, [20, 30], 1);
    view(&mut script, [25, 26], json!([1]));
    script.passes(VIEWS);
    view(&mut script, [31, 33], json!([1]));
    assert_eq!(script.finding(VIEWS).text, "k1: token 1 was seen as the holder's after it had gone");

    // Its lease had ended: another holds it.
    let observe = |script: &mut Script, span, token: u64| {
        script.ok(
            9,
            span,
            ("observe", "k1"),
            Value::Null,
            json!({"token": token, "candidate": "c", "queue": []}),
        );
    };
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    acquire(&mut script, 2, [1_005, 1_010], 2, 1_000);
    observe(&mut script, [1_020, 1_030], 2);
    script.passes(VIEWS);
    observe(&mut script, [1_040, 1_050], 1);
    script.finding(VIEWS);
}

#[test]
fn a_holder_is_not_hidden() {
    let view = |script: &mut Script, span, tokens: Value| {
        script.ok(9, span, ("queue", "k1"), Value::Null, json!({"holder_tokens": tokens, "queue": []}));
    };
    let mut script = Script::default();
    acquire(&mut script, 1, [0, 10], 1, 1_000);
    view(&mut script, [5, 20], json!([])); // Before it was granted.
    view(&mut script, [900, 999], json!([])); // It may have ended.
    script.passes(VIEWS);
    view(&mut script, [100, 110], json!([]));
    assert_eq!(script.finding(VIEWS).text, "k1: token 1 was held, and not seen");
}

#[test]
fn what_was_given_back_is_gone_for_shared_locks_too() {
    let mut script = Script::default();
    let output = json!({"token": 1, "waited_ms": 0, "ttl_ms": 1_000});
    script.ok(1, [0, 10], ("acquire", "k1"), ask("c1", "shared", 1_000, 0), output);
    release(&mut script, 1, [20, 30], 1);
    script.fail(1, [40, 50], ("release", "k1"), json!({"token": 1}), "not_holder");
    script.passes("given back");
    release(&mut script, 1, [60, 70], 1);
    assert_eq!(script.finding("given back").text, "k1: release of token 1 after it had been released");
}

#[test]
fn numbers_of_any_size_are_judged_and_not_added_up_in_vain() {
    let mut script = Script::default();
    let most = u64::MAX;
    let input = json!({"keys": ["k1"], "owner": "c1", "ttl_ms": most, "wait_ms": most, "max_hold_ms": most});
    script.ok(
        1,
        [0, 10],
        ("acquire", "k1"),
        input,
        json!({"token": most, "waited_ms": most, "ttl_ms": most}),
    );
    renew(&mut script, 1, [20, 30], most, most);
    release(&mut script, 1, [40, 50], most);
    [SAFETY, TOKENS, LEASES].iter().for_each(|check| script.passes(check));
}

#[test]
fn a_fence_lets_no_older_token_through() {
    let used = |script: &mut Script, process, span, token: u64, previous: Value| {
        script.ok(
            process,
            span,
            ("use", "k1"),
            json!({"token": token}),
            json!({"token": token, "previous": previous}),
        );
    };
    let mut script = Script::default();
    used(&mut script, 1, [0, 1], 1, Value::Null);
    used(&mut script, 2, [10, 11], 2, json!(1));
    script.fail(1, [12, 13], ("use", "k1"), json!({"token": 1}), "fenced");
    script.passes(FENCE);
    used(&mut script, 1, [20, 21], 1, json!(2));
    assert_eq!(script.finding(FENCE).text, "k1: token 1 was accepted after the newer token 2");
    // Without a fence this is what happens, and why there are fences.
    let plan = PlanFacts { workload: "lock-unfenced".to_owned(), ..Default::default() };
    let results = check(&plan, &script.history());
    let shown = results.check(FENCE).unwrap();
    assert_eq!((shown.verdict, shown.counts["accepted out of order"]), (Verdict::Pass, 1));
    assert_eq!(shown.findings.len(), 1);

    let mut script = Script::default();
    used(&mut script, 1, [0, 1], 1, Value::Null);
    script.fail(1, [12, 13], ("use", "k1"), json!({"token": 1}), "fenced");
    assert_eq!(
        script.finding(FENCE).text,
        "k1: token 1 was refused, although no newer one had been accepted"
    );
}

#[test]
fn made_up_histories_of_good_locks_pass_and_a_stolen_lock_in_them_is_found() {
    for seed in 0..8 {
        let shape = synthetic::Shape { seed, operations: 2_500, unknown_per_1000: 20, ..Default::default() };
        let mut history = synthetic::play(&shape, &mut synthetic::Locks::new(3));
        let plan = PlanFacts { workload: "fifo".to_owned(), ..Default::default() };
        let results = check(&plan, &history);
        assert_eq!(results.verdict, Verdict::Pass, "seed {seed}: {}", results.summary());
        for name in
            [SAFETY, LOCKS, TOKENS, LEASES, VIEWS, FENCE, "first come, first served", "deadlines of waiters"]
        {
            assert!(results.check(name).is_some(), "seed {seed}: no {name}");
        }
        // Somebody who was told that it is held is told that it is his.
        let refused =
            history.events.iter().rposition(|event| event.error.as_deref() == Some("lock_held")).unwrap();
        let event = &mut history.events[refused];
        (event.kind, event.error) = (Kind::Ok, None);
        event.value = json!({"token": 1_000_000, "waited_ms": 0, "ttl_ms": 800});
        let results = check(&plan, &history);
        for name in [SAFETY, LOCKS] {
            assert_eq!(results.check(name).unwrap().verdict, Verdict::Fail, "seed {seed}: {name}");
        }
    }
}
