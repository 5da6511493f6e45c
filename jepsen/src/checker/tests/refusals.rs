use super::*;

const REFUSED: &str = "refused locks";

fn input(keys: &[&str], wait_ms: u64) -> Value {
    json!({"keys": keys, "mode": "exclusive", "owner": "o", "ttl_ms": 1_000, "wait_ms": wait_ms})
}

fn held(script: &mut Script, process: u64, span: [u64; 2], keys: &[&str], token: u64) {
    let output = json!({"token": token, "waited_ms": 0, "ttl_ms": 1_000});
    script.ok(process, span, ("acquire", keys[0]), input(keys, 0), output);
}

fn released(script: &mut Script, process: u64, span: [u64; 2], key: &str, token: u64) {
    script.ok(process, span, ("release", key), json!({"token": token}), Value::Null);
}

fn refused(script: &mut Script, span: [u64; 2], keys: &[&str], wait_ms: u64) {
    let error = if wait_ms == 0 { "lock_held" } else { "lock_timeout" };
    script.fail(9, span, ("acquire", keys[0]), input(keys, wait_ms), error);
}

#[test]
fn whoever_holds_a_lock_is_a_reason_to_refuse_it() {
    let mut script = Script::default();
    held(&mut script, 1, [0, 10], &["k"], 1);
    refused(&mut script, [20, 30], &["k"], 0);
    refused(&mut script, [40, 550], &["k"], 500);
    // It may have been refused before the release took effect.
    released(&mut script, 1, [600, 620], "k", 1);
    refused(&mut script, [615, 640], &["k"], 0);
    held(&mut script, 2, [645, 660], &["k"], 2);
    // A lease ends by the cluster's clock, which may stand still.
    refused(&mut script, [9_000, 9_010], &["k"], 0);
    script.passes(REFUSED);
    assert_eq!(script.results().check(REFUSED).unwrap().counts["refusals"], 4);
}

#[test]
fn a_lock_that_was_given_back_and_does_not_come_free_is_found() {
    let mut script = Script::default();
    held(&mut script, 1, [0, 10], &["k"], 1);
    released(&mut script, 1, [20, 30], "k", 1);
    refused(&mut script, [31, 40], &["k"], 0);
    let finding = script.finding(REFUSED);
    assert_eq!(finding.text, "k: refused with lock_held, although nobody can have held it for 9.0 ms");
    assert_eq!(finding.lines.len(), 3, "{:#?}", finding.lines);
}

#[test]
fn a_lock_whose_holder_was_told_that_it_had_lost_it_and_that_does_not_come_free_is_found() {
    let mut script = Script::default();
    held(&mut script, 1, [0, 10], &["k"], 1);
    script.fail(1, [1_100, 1_110], ("renew", "k"), json!({"token": 1, "ttl_ms": 1_000}), "not_holder");
    refused(&mut script, [1_105, 1_120], &["k"], 0);
    script.passes(REFUSED);
    refused(&mut script, [1_130, 1_140], &["k"], 0);
    script.finding(REFUSED);
}

#[test]
fn a_lease_that_never_ends_is_found() {
    let mut script = Script::default();
    held(&mut script, 1, [0, 10], &["k"], 1);
    refused(&mut script, [60_900, 60_910], &["k"], 0);
    script.passes(REFUSED);
    refused(&mut script, [61_100, 61_110], &["k"], 0);
    script.finding(REFUSED);
}

#[test]
fn who_waits_in_vain_while_nobody_holds_it_is_found() {
    let waited = |release: [u64; 2], next: u64| {
        let mut script = Script::default();
        held(&mut script, 1, [0, 10], &["k"], 1);
        refused(&mut script, [20, 1_030], &["k"], 1_000);
        released(&mut script, 1, release, "k", 1);
        held(&mut script, 2, [next, next + 5], &["k"], 2);
        script
    };
    // It was in the queue from 32 ms on at the latest, and until 1,018 ms at least.
    waited([500, 510], 509).passes(REFUSED);
    waited([1_015, 1_025], 2_000).passes(REFUSED);
    assert_eq!(
        waited([500, 510], 515).finding(REFUSED).text,
        "k: refused with lock_timeout, although nobody can have held it for 5.0 ms"
    );
    waited([500, 510], 3_000).finding(REFUSED);
}

#[test]
fn a_request_of_unknown_outcome_may_hold_what_another_is_refused() {
    let mut script = Script::default();
    script.info(1, [0, 5_000], ("acquire", "k"), input(&["k"], 0));
    refused(&mut script, [6_000, 6_010], &["k"], 0);
    script.passes(REFUSED);
    refused(&mut script, [62_000, 62_010], &["k"], 0);
    script.finding(REFUSED);
}

#[test]
fn locks_that_are_asked_for_together_count_as_one() {
    let mut script = Script::default();
    held(&mut script, 1, [0, 10], &["b"], 1);
    // It waits for b, and so the next one for it.
    refused(&mut script, [20, 530], &["a", "b"], 500);
    refused(&mut script, [30, 40], &["a"], 0);
    script.passes(REFUSED);
    let mut apart = Script::default();
    held(&mut apart, 1, [0, 10], &["b"], 1);
    refused(&mut apart, [30, 40], &["a"], 0);
    apart.finding(REFUSED);
}

#[test]
fn other_refusals_say_nothing_of_the_lock() {
    let mut script = Script::default();
    script.fail(1, [0, 10], ("acquire", "k"), input(&["k"], 0), "no_leader");
    assert!(script.results().check(REFUSED).is_none());
}
