use super::*;

const ORDER: &str = "first come, first served";
const DEADLINES: &str = "deadlines of waiters";

fn input(owner: &str, wait_ms: u64) -> Value {
    json!({"keys": ["q"], "mode": "exclusive", "owner": owner, "ttl_ms": 1_000, "wait_ms": wait_ms})
}

fn granted(script: &mut Script, process: u64, span: [u64; 2], owner: &str, token: u64) {
    let output = json!({"token": token, "waited_ms": span[1] - span[0] - 2, "ttl_ms": 1_000});
    script.ok(process, span, ("acquire", "q"), input(owner, 20_000), output);
    script.ok(process, [span[1] + 1, span[1] + 3], ("release", "q"), json!({"token": token}), Value::Null);
}

fn queue(script: &mut Script, span: [u64; 2], holder: u64, queue: &[&str]) {
    let output = json!({"holder_tokens": [holder], "queue": queue});
    script.ok(90, span, ("queue", "q"), Value::Null, output);
}

#[test]
fn those_in_the_queue_go_in_its_order() {
    let mut script = Script::default();
    granted(&mut script, 1, [0, 50], "a", 1);
    granted(&mut script, 2, [5, 60], "b", 2);
    granted(&mut script, 3, [6, 70], "c", 3);
    queue(&mut script, [20, 30], 1, &["b", "c"]);
    granted(&mut script, 4, [40, 80], "d", 4);
    script.passes(ORDER);
    assert_eq!(script.results().check(ORDER).unwrap().counts["places seen"], 2);
}

#[test]
fn who_stands_behind_and_goes_first_is_found() {
    let mut script = Script::default();
    granted(&mut script, 1, [0, 50], "a", 1);
    granted(&mut script, 2, [5, 60], "b", 3);
    granted(&mut script, 3, [6, 70], "c", 2);
    queue(&mut script, [20, 30], 1, &["b", "c"]);
    let finding = script.finding(ORDER);
    assert_eq!(finding.text, "q: c stood behind b in the queue and was granted token 2, before token 3");
    assert_eq!(finding.lines.len(), 3);
}

#[test]
fn who_comes_after_another_was_seen_waiting_and_goes_first_is_found() {
    let mut script = Script::default();
    granted(&mut script, 1, [0, 50], "a", 1);
    granted(&mut script, 2, [5, 80], "b", 3);
    queue(&mut script, [20, 30], 1, &["b"]);
    granted(&mut script, 3, [40, 60], "c", 2);
    assert_eq!(
        script.finding(ORDER).text,
        "q: c stood behind b in the queue and was granted token 2, before token 3"
    );
}

#[test]
fn who_starves_while_others_pass_is_found() {
    let mut script = Script::default();
    granted(&mut script, 1, [0, 50], "a", 1);
    script.fail(2, [5, 2_010], ("acquire", "q"), input("b", 2_000), "lock_timeout");
    queue(&mut script, [20, 30], 1, &["b"]);
    granted(&mut script, 3, [40, 2_004], "c", 2);
    // Granted after the other's deadline, as far as one can tell.
    script.passes(ORDER);
    granted(&mut script, 4, [41, 1_900], "d", 3);
    assert_eq!(
        script.finding(ORDER).text,
        "q: d stood behind b in the queue and was granted token 3, while the other waited until it timed out"
    );
}

#[test]
fn readers_may_pass_readers_but_no_writer() {
    let shared = |script: &mut Script, process: u64, span: [u64; 2], owner: &str, token: u64| {
        let mut input = input(owner, 20_000);
        input["mode"] = "shared".into();
        script.ok(
            process,
            span,
            ("acquire", "q"),
            input,
            json!({"token": token, "waited_ms": 5, "ttl_ms": 1_000}),
        );
    };
    let mut script = Script::default();
    shared(&mut script, 1, [0, 50], "r1", 3);
    queue(&mut script, [20, 30], 1, &["r1"]);
    shared(&mut script, 2, [40, 45], "r2", 2);
    script.passes(ORDER);
    granted(&mut script, 3, [21, 90], "w", 9);
    queue(&mut script, [60, 61], 3, &["w"]);
    shared(&mut script, 4, [70, 80], "r3", 8);
    assert!(script.finding(ORDER).text.contains("r3 stood behind w"));
}

#[test]
fn a_grant_after_its_deadline_and_a_refusal_before_it_are_found() {
    let late = |waited_ms: u64| {
        let mut script = Script::default();
        let output = json!({"token": 1, "waited_ms": waited_ms, "ttl_ms": 1_000});
        // The answer may take its time: the grant says how long it waited.
        script.ok(1, [0, 4_000], ("acquire", "q"), input("a", 1_000), output);
        script
    };
    late(1_000).passes(DEADLINES);
    assert_eq!(late(1_001).finding(DEADLINES).text, "q: granted after 1001 ms, for a wait of 1000 ms");

    let refused = |at_ms: u64| {
        let mut script = Script::default();
        script.fail(1, [0, at_ms], ("acquire", "q"), input("a", 1_000), "lock_timeout");
        script
    };
    refused(998).passes(DEADLINES);
    assert_eq!(refused(990).finding(DEADLINES).text, "q: sent away after 990 ms, for a wait of 1000 ms");
}
