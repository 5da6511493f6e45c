//! A log that three nodes show, and what can be wrong with it.

use super::*;

const ENTRIES: &str = "identical entries";
const OFFSETS: &str = "offsets grow";
const GAPS: &str = "dense offsets";
const COMPLETE: &str = "acknowledged entries";
const BARRIERS: &str = "barriers";

/// The number in the entry is its offset and 100.
fn append(script: &mut Script, process: u64, span: [u64; 2], offset: u64) {
    let output = json!({"epoch": 0, "offset": offset, "applied_by": ["n1", "n2"], "missing": []});
    script.ok(process, span, ("append", ""), json!({"data": offset + 100, "wait": "all"}), output);
}

fn entry(offset: u64) -> Value {
    json!({"epoch": 0, "offset": offset, "data": offset + 100})
}

fn follow(script: &mut Script, process: u64, at: u64, since: u64, entries: Value) {
    let output = json!({"entries": entries, "reset": null});
    script.ok(process, [at, at + 1], ("follow", ""), json!({"since": {"epoch": 0, "offset": since}}), output);
}

/// The whole log, as node `n{process % 3 + 1}` shows it.
fn last(script: &mut Script, process: u64, entries: Value) {
    let output = json!({"entries": entries, "reset": null});
    script.ok(process, [90, 91], ("final-follow", ""), json!({"since": null}), output);
}

fn cleared(script: &mut Script, at: u64, offset: u64, next: [u64; 2]) {
    let at_offset = |offset: u64| json!({"epoch": 0, "offset": offset});
    let nodes = json!({"nodes": {"n1": at_offset(next[0]), "n2": at_offset(next[1])}});
    script.ok(5, [at, at + 1], ("cleared", ""), json!({"data": offset + 100}), nodes);
}

fn good() -> Script {
    let mut script = Script::default();
    append(&mut script, 1, [0, 5], 1);
    append(&mut script, 2, [2, 6], 2);
    cleared(&mut script, 7, 2, [3, 3]);
    append(&mut script, 1, [10, 15], 3);
    follow(&mut script, 7, 8, 1, json!([entry(1), entry(2)]));
    follow(&mut script, 7, 16, 3, json!([entry(3)]));
    for process in 30..33 {
        last(&mut script, process, json!([entry(1), entry(2), entry(3)]));
    }
    script
}

#[test]
fn a_log_that_everybody_sees_alike_passes_all_checks() {
    let script = good();
    for name in [ENTRIES, OFFSETS, GAPS, COMPLETE, BARRIERS] {
        script.passes(name);
    }
    let results = script.results();
    assert_eq!(results.check(ENTRIES).unwrap().counts["offsets"], 3);
    assert_eq!(results.check(COMPLETE).unwrap().counts["nodes"], 3);
    assert_eq!(results.check(BARRIERS).unwrap().counts["nodes looked at"], 2);
}

#[test]
fn entries_that_differ_between_nodes_are_found() {
    let mut script = good();
    script.info(9, [1, 3], ("append", ""), json!({"data": 900, "wait": "none"}));
    let other = json!([entry(1), {"epoch": 0, "offset": 2, "data": 900}]);
    follow(&mut script, 8, 20, 1, other);
    assert_eq!(script.finding(ENTRIES).text, "two entries at 0:2: 102 and 900");
}

#[test]
fn an_entry_at_two_places_is_found() {
    let mut script = good();
    follow(&mut script, 8, 20, 4, json!([{"epoch": 0, "offset": 4, "data": 101}]));
    assert_eq!(script.finding(ENTRIES).text, "one entry at two places, 0:1 and 0:4");
}

#[test]
fn entries_of_nobody_and_refused_ones_are_found() {
    let mut script = good();
    follow(&mut script, 8, 20, 4, json!([entry(4)]));
    assert_eq!(script.finding(ENTRIES).text, "entry 0:4 was asked for by nobody");
    script.fail(9, [1, 3], ("append", ""), json!({"data": 104, "wait": "none"}), "no_leader");
    assert_eq!(script.finding(ENTRIES).text, "entry 0:4 was refused when it was asked for");
    let mut script = good();
    script.info(9, [1, 3], ("append", ""), json!({"data": 104, "wait": "none"}));
    follow(&mut script, 8, 20, 4, json!([entry(4)]));
    script.passes(ENTRIES);
}

#[test]
fn an_offset_that_goes_back_is_found() {
    let mut script = good();
    // At once with the others: any place is right.
    append(&mut script, 3, [1, 40], 0);
    script.passes(OFFSETS);
    append(&mut script, 4, [50, 51], 2);
    assert_eq!(script.finding(OFFSETS).text, "0:2 was given after 0:3 had been");
}

#[test]
fn a_gap_is_found_and_a_reset_is_none() {
    let mut script = good();
    follow(&mut script, 8, 20, 1, json!([entry(1), entry(3)]));
    assert_eq!(script.finding(GAPS).text, "0:3 was shown where 0:2 was due");

    let mut script = good();
    follow(&mut script, 8, 20, 1, json!([entry(2), entry(3)]));
    assert_eq!(script.finding(GAPS).text, "0:2 was shown where 0:1 was due");

    let reset = |since: u64, first: u64| {
        let output = json!({"entries": [entry(first)], "reset": {"epoch": 0, "offset": first}});
        let mut script = good();
        script.ok(8, [20, 21], ("follow", ""), json!({"since": {"epoch": 0, "offset": since}}), output);
        script
    };
    reset(1, 3).passes(GAPS);
    assert_eq!(reset(2, 2).finding(GAPS).text, "a reset to 0:2 although 0:2 was asked for");
}

#[test]
fn an_acknowledged_entry_that_a_node_does_not_show_is_found() {
    let mut script = good();
    script.ok(
        40,
        [95, 96],
        ("append", ""),
        json!({"data": 104, "wait": "none"}),
        json!({"epoch": 0, "offset": 4}),
    );
    assert_eq!(script.finding(COMPLETE).text, "n1 does not show 0:4, which was acknowledged");

    let mut script = Script::default();
    append(&mut script, 1, [0, 5], 1);
    let results = script.results();
    assert_eq!(results.check(COMPLETE).unwrap().verdict, Verdict::Unknown);
    // What is no longer kept is not owed.
    let output = json!({"entries": [], "reset": {"epoch": 0, "offset": 2}});
    script.ok(30, [90, 91], ("final-follow", ""), json!({"since": {"epoch": 0, "offset": 0}}), output);
    script.passes(COMPLETE);
}

#[test]
fn a_barrier_that_answers_too_early_is_found() {
    let mut script = good();
    cleared(&mut script, 17, 3, [4, 3]);
    assert_eq!(script.finding(BARRIERS).text, "n2 was named as having cleared 0:3 and is at 0:3");
    let mut script = good();
    // Began before the answer: says nothing about it.
    cleared(&mut script, 14, 3, [3, 3]);
    script.passes(BARRIERS);
}
