use super::*;

const REGISTERS: &str = "linearizable registers";
const ACKNOWLEDGED: &str = "acknowledged writes";
const REVISIONS: &str = "revisions";
const LOCAL: &str = "local reads";

fn write(script: &mut Script, span: [u64; 2], value: i64, revision: u64) {
    let output = json!({"value": value, "revision": revision});
    script.ok(1, span, ("write", "r1"), json!({"value": value}), output);
}

fn last_read(script: &mut Script, process: u64, value: Value, revision: Value) {
    let output = json!({"value": value, "revision": revision});
    script.ok(process, [9_000, 9_001], ("final-read", "r1"), Value::Null, output);
}

#[test]
fn the_last_acknowledged_write_is_there_at_the_end_or_one_that_may_be_later() {
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    script.info(2, [20, 5_000], ("write", "r1"), json!({"value": 6}));
    last_read(&mut script, 3, json!(5), json!(11));
    script.passes(ACKNOWLEDGED);
    // It took effect between the two reads.
    last_read(&mut script, 4, json!(6), json!(19));
    [ACKNOWLEDGED, REGISTERS].iter().for_each(|check| script.passes(check));
}

#[test]
fn reads_at_the_end_have_a_place_in_the_order_too() {
    let read = |script: &mut Script, span, value: i64, revision: u64| {
        script.ok(7, span, ("read", "r1"), Value::Null, json!({"value": value, "revision": revision}));
    };
    // Nobody acknowledged 6, but somebody read it.
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 17);
    script.info(2, [20, 5_000], ("write", "r1"), json!({"value": 6}));
    read(&mut script, [30, 40], 6, 20);
    last_read(&mut script, 3, json!(5), json!(17));
    script.finding(REGISTERS);
    // The same with nothing acknowledged at all.
    let mut script = Script::default();
    script.info(2, [0, 5_000], ("write", "r1"), json!({"value": 5}));
    read(&mut script, [30, 40], 5, 17);
    last_read(&mut script, 3, Value::Null, Value::Null);
    script.finding(REGISTERS);
    // One write that came twice.
    let mut script = Script::default();
    write(&mut script, [0, 10], 6, 18);
    last_read(&mut script, 3, json!(6), json!(25));
    script.finding(REGISTERS);
}

#[test]
fn a_register_or_a_node_that_was_not_read_at_the_end_leaves_doubt() {
    let doubt = |script: &Script| {
        let results = script.results();
        let check = results.check(ACKNOWLEDGED).unwrap();
        assert_eq!(check.verdict, Verdict::Unknown, "{}", results.summary());
        check.findings[0].text.clone()
    };
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    last_read(&mut script, 3, json!(5), json!(11));
    script.passes(ACKNOWLEDGED);
    script.fail(4, [9_000, 9_005], ("final-read", "r1"), Value::Null, "refused");
    assert_eq!(doubt(&script), "1 registers, r1 first, were not read at the end on every node");

    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    script.ok(1, [20, 30], ("write", "r2"), json!({"value": 7}), json!({"value": 7, "revision": 12}));
    last_read(&mut script, 3, json!(5), json!(11));
    assert_eq!(doubt(&script), "1 registers, r2 first, were not read at the end on every node");
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    write(&mut script, [20, 30], 6, 12);
    last_read(&mut script, 3, json!(5), json!(11));
    let finding = script.finding(ACKNOWLEDGED);
    assert_eq!(finding.text, "r1: the acknowledged value 6 is lost");
    assert_eq!(finding.lines.len(), 2);

    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    last_read(&mut script, 3, Value::Null, Value::Null);
    assert_eq!(script.finding(ACKNOWLEDGED).text, "r1: the acknowledged value 5 is lost");
}

#[test]
fn a_failed_or_unheard_of_write_at_the_end_is_found() {
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    script.fail(2, [20, 30], ("write", "r1"), json!({"value": 6}), "no_leader");
    last_read(&mut script, 3, json!(6), json!(12));
    assert_eq!(script.finding(ACKNOWLEDGED).text, "r1: at the end it is 6, of a write that had failed");

    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    last_read(&mut script, 3, json!(99), json!(12));
    assert_eq!(script.finding(ACKNOWLEDGED).text, "r1: at the end it is 99, which nobody wrote");
}

#[test]
fn without_reads_at_the_end_nothing_is_known_of_it() {
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    assert_eq!(script.results().check(ACKNOWLEDGED).unwrap().verdict, Verdict::Unknown);
}

#[test]
fn revisions_that_repeat_or_go_back_are_found() {
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    write(&mut script, [20, 30], 6, 12);
    script.passes(REVISIONS);
    write(&mut script, [40, 50], 7, 12);
    assert_eq!(script.finding(REVISIONS).text, "r1: revision 12 stands for two values");

    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    write(&mut script, [20, 30], 6, 10);
    assert_eq!(script.finding(REVISIONS).text, "r1: revision 10 came after revision 11 was known");
}

/// A local read of a value, its revision and the index at which it was made, asked for from an index on.
fn local(script: &mut Script, span: [u64; 2], asked: Value, seen: [Value; 3]) {
    let [value, revision, index] = seen;
    let output = json!({"value": value, "revision": revision, "index": index});
    script.ok(2, span, ("read-local", "r1"), json!({"min_index": asked}), output);
}

#[test]
fn a_local_read_may_be_old_but_not_older_than_it_was_asked_for() {
    let written = || {
        let mut script = Script::default();
        write(&mut script, [0, 10], 5, 11);
        write(&mut script, [20, 30], 6, 14);
        script
    };
    let mut script = written();
    local(&mut script, [40, 41], Value::Null, [json!(5), json!(11), json!(13)]);
    local(&mut script, [42, 43], json!(12), [json!(5), json!(11), json!(12)]);
    local(&mut script, [44, 45], json!(10), [Value::Null, Value::Null, Value::Null]);
    local(&mut script, [46, 47], json!(14), [json!(6), json!(14), json!(20)]);
    local(&mut script, [48, 49], json!(13), [json!(6), json!(14), json!(13)]);
    script.passes(LOCAL);
    script.passes(REVISIONS);

    let found = |asked: Value, seen: [Value; 3], text: &str| {
        let mut script = written();
        local(&mut script, [60, 61], asked, seen);
        assert_eq!(script.finding(LOCAL).text, text);
    };
    let old = [json!(5), json!(11), json!(14)];
    found(json!(14), old, "r1: a local read at index 14 did not show revision 14");
    let nothing = [Value::Null, Value::Null, Value::Null];
    found(json!(12), nothing, "r1: a local read from index 12 did not show revision 11");
    let early = [json!(5), json!(11), json!(12)];
    found(json!(13), early, "r1: a local read from index 13 on was made at index 12");

    let mut script = Script::default();
    write(&mut script, [50, 60], 5, 11);
    local(&mut script, [40, 41], Value::Null, [json!(5), json!(11), json!(11)]);
    assert_eq!(script.finding(LOCAL).text, "r1: a local read showed 5, which nobody had written");
}

#[test]
fn what_a_local_read_shows_has_its_own_revision_and_is_committed() {
    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    write(&mut script, [20, 30], 6, 14);
    local(&mut script, [40, 41], Value::Null, [json!(5), json!(14), json!(14)]);
    assert_eq!(script.finding(REVISIONS).text, "r1: revision 14 stands for two values");

    let mut script = Script::default();
    write(&mut script, [0, 10], 5, 11);
    script.info(3, [20, 30], ("write", "r1"), json!({"value": 6}));
    local(&mut script, [40, 41], Value::Null, [json!(6), json!(14), json!(14)]);
    script.passes(REVISIONS);
    let output = json!({"value": 5, "revision": 11});
    script.ok(1, [50, 51], ("read", "r1"), Value::Null, output);
    assert_eq!(script.finding(REVISIONS).text, "r1: revision 11 came after revision 14 was known");
}
