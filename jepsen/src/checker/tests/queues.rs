use super::*;

const QUEUES: &str = "views of queues";

fn look(script: &mut Script, process: u64, span: [u64; 2], queue: &[&str]) {
    let output = json!({"holder_tokens": [1], "queue": queue});
    script.ok(process, span, ("queue", "q"), Value::Null, output);
}

#[test]
fn looks_at_a_queue_that_moves_on_agree() {
    let mut script = Script::default();
    look(&mut script, 1, [0, 10], &["a", "b", "c"]);
    // Somebody in the middle gave up, and others came.
    look(&mut script, 2, [20, 30], &["a", "c", "d"]);
    look(&mut script, 1, [20, 40], &["c", "d", "e"]);
    look(&mut script, 3, [50, 60], &["d", "e"]);
    look(&mut script, 2, [70, 80], &[]);
    script.passes(QUEUES);
    assert_eq!(script.results().check(QUEUES).unwrap().counts["places"], 11);
}

#[test]
fn looks_at_once_may_see_one_before_and_one_after_a_change() {
    let mut script = Script::default();
    look(&mut script, 1, [0, 100], &["b", "c"]);
    look(&mut script, 2, [10, 90], &["a", "b"]);
    look(&mut script, 3, [20, 80], &["a", "b", "c"]);
    script.passes(QUEUES);
}

#[test]
fn two_orders_of_one_queue_are_found() {
    let mut script = Script::default();
    look(&mut script, 1, [0, 10], &["a", "b", "c"]);
    look(&mut script, 2, [5, 15], &["a", "c", "b"]);
    let finding = script.finding(QUEUES);
    assert_eq!(finding.text, "q: c and b were seen in the queue in both orders");
    assert_eq!(finding.lines.len(), 2);
}

#[test]
fn who_comes_later_and_stands_ahead_is_found() {
    let mut script = Script::default();
    look(&mut script, 1, [0, 10], &["a", "b"]);
    look(&mut script, 2, [20, 30], &["a", "c", "b"]);
    assert_eq!(script.finding(QUEUES).text, "q: c came after b was in the queue, and stood ahead");
    // Had the two looks been at once, c might have left between them.
    let mut script = Script::default();
    look(&mut script, 1, [0, 25], &["a", "b"]);
    look(&mut script, 2, [20, 30], &["a", "c", "b"]);
    script.passes(QUEUES);
}

#[test]
fn who_left_and_is_back_is_found() {
    let mut script = Script::default();
    look(&mut script, 1, [0, 10], &["a", "b"]);
    look(&mut script, 2, [20, 30], &["b"]);
    script.passes(QUEUES);
    look(&mut script, 3, [40, 50], &["a", "b"]);
    let finding = script.finding(QUEUES);
    assert!(["a came after b", "a was in the queue"].iter().any(|text| finding.text.contains(text)));
    let results = script.results();
    let findings = &results.check(QUEUES).unwrap().findings;
    assert!(findings.iter().any(|one| one.text == "q: a was in the queue, was not, and was again"));
}
