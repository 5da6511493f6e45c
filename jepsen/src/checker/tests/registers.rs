use super::*;

const REGISTERS: &str = "linearizable registers";

fn write(script: &mut Script, process: u64, span: [u64; 2], value: i64, revision: u64) {
    script.ok(
        process,
        span,
        ("write", "r1"),
        json!({"value": value}),
        json!({"value": value, "revision": revision}),
    );
}

fn read(script: &mut Script, process: u64, span: [u64; 2], value: Option<i64>, revision: Option<u64>) {
    script.ok(process, span, ("read", "r1"), Value::Null, json!({"value": value, "revision": revision}));
}

#[test]
fn a_read_may_see_a_write_under_way_and_then_no_older_one() {
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    write(&mut script, 2, [20, 60], 6, 12);
    read(&mut script, 3, [25, 30], Some(6), Some(12));
    read(&mut script, 3, [35, 40], Some(6), Some(12));
    script.passes(REGISTERS);
    read(&mut script, 4, [42, 50], Some(5), Some(11));
    let finding = script.finding(REGISTERS);
    assert_eq!(
        finding.text,
        "r1: no order has a place for \"0.0420 s .. 0.0500 s p4 n2 read r1 -> ok (revision 11, value 5)\"; just before, \
         it was 6 (revision 12)"
    );
    assert_eq!(
        finding.lines,
        [
            "4 of 5 operations have no order already:",
            "  0.0000 s .. 0.0100 s p1 n2 write r1 (value 5) -> ok (revision 11, value 5)",
            "  0.0200 s .. 0.0600 s p2 n3 write r1 (value 6) -> ok (revision 12, value 6)",
            "  0.0350 s .. 0.0400 s p3 n1 read r1 -> ok (revision 12, value 6)",
            "* 0.0420 s .. 0.0500 s p4 n2 read r1 -> ok (revision 11, value 5)",
        ]
    );
    assert_eq!(finding.key.as_deref(), Some("r1"));
    assert_eq!(finding.window_ns, Some((20_000_000, 50_000_000)));
}

#[test]
fn a_stale_read_is_found() {
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    write(&mut script, 1, [20, 30], 6, 12);
    read(&mut script, 2, [40, 50], Some(5), Some(11));
    let finding = script.finding(REGISTERS);
    assert!(finding.text.contains("p2 n3 read r1 -> ok (revision 11, value 5)"), "{}", finding.text);
    assert_eq!(finding.lines.len(), 4);
}

#[test]
fn a_lost_write_is_found_even_where_the_register_goes_on() {
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    read(&mut script, 2, [20, 30], None, None);
    assert!(script.finding(REGISTERS).text.contains("just before, it was 5 (revision 11)"));
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    read(&mut script, 2, [20, 30], Some(0), None);
    script.finding(REGISTERS);
}

#[test]
fn an_unknown_write_may_happen_at_any_later_time_but_once() {
    let mut script = Script::default();
    script.info(1, [0, 5_000], ("write", "r1"), json!({"value": 5}));
    read(&mut script, 2, [10, 20], None, None);
    write(&mut script, 2, [30, 40], 6, 12);
    read(&mut script, 2, [6_000, 6_010], Some(6), Some(12));
    read(&mut script, 2, [7_000, 7_010], Some(5), Some(13));
    script.passes(REGISTERS);
    write(&mut script, 2, [8_000, 8_010], 7, 14);
    script.passes(REGISTERS);
    // A retry that was taken for a new write.
    read(&mut script, 2, [9_000, 9_010], Some(5), Some(15));
    script.finding(REGISTERS);
}

#[test]
fn a_failed_write_must_never_be_seen() {
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    script.fail(2, [20, 30], ("write", "r1"), json!({"value": 6}), "no_leader");
    read(&mut script, 1, [40, 50], Some(5), Some(11));
    script.passes(REGISTERS);
    read(&mut script, 1, [60, 70], Some(6), Some(12));
    let finding = script.finding(REGISTERS);
    assert_eq!(
        finding.lines[finding.lines.len() - 2..],
        [
            "whoever wanted to write that was told that it had failed:",
            "  0.0200 s .. 0.0300 s p2 n3 write r1 (value 6) -> fail: no_leader",
        ]
    );
}

#[test]
fn two_compare_and_sets_from_one_revision_cannot_both_happen() {
    let cas = |script: &mut Script, process, span, to: i64, revision: u64| {
        let input = json!({"from": 5, "to": to, "revision": 11});
        script.ok(process, span, ("cas", "r1"), input, json!({"from": 5, "to": to, "revision": revision}));
    };
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    cas(&mut script, 1, [20, 40], 6, 12);
    script.passes(REGISTERS);
    cas(&mut script, 2, [21, 41], 7, 13);
    assert!(script.finding(REGISTERS).text.contains("cas r1 (from 5, revision 11, to 7)"));
}

#[test]
fn a_refused_compare_and_set_needs_a_reason() {
    let input = || json!({"from": 5, "to": 6, "revision": 11});
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    script.info(2, [12, 5_000], ("write", "r1"), json!({"value": 9}));
    script.fail(3, [20, 30], ("cas", "r1"), input(), "revision_mismatch");
    script.passes(REGISTERS);
    // Without the write of unknown outcome nothing had changed.
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    script.fail(3, [20, 30], ("cas", "r1"), input(), "revision_mismatch");
    script.finding(REGISTERS);
    // What came before that revision does not matter, and is not shown.
    let mut script = Script::default();
    (0..9)
        .for_each(|round| write(&mut script, 1, [round * 10, round * 10 + 5], 90 + round as i64, round + 1));
    write(&mut script, 1, [100, 110], 5, 11);
    script.fail(3, [120, 130], ("cas", "r1"), input(), "revision_mismatch");
    assert_eq!(script.finding(REGISTERS).lines.len(), 3);
    // Refused by an edge that proposed nothing: says nothing.
    let mut script = Script::default();
    write(&mut script, 1, [0, 10], 5, 11);
    script.fail(3, [20, 30], ("cas", "r1"), input(), "no_leader");
    script.passes(REGISTERS);
}

#[test]
fn what_was_created_cannot_be_created_again() {
    let create = |script: &mut Script, span, to: i64, revision: u64| {
        script.ok(1, span, ("create", "r1"), json!({"to": to}), json!({"to": to, "revision": revision}));
    };
    let mut script = Script::default();
    create(&mut script, [0, 10], 1, 11);
    script.fail(2, [20, 30], ("create", "r1"), json!({"to": 2}), "revision_mismatch");
    script.passes(REGISTERS);
    create(&mut script, [40, 50], 3, 12);
    script.finding(REGISTERS);
}

#[test]
fn many_unknown_writes_do_not_make_the_search_explode() {
    let mut script = Script::default();
    for process in 0..80 {
        script.info(process, [process, 5_000 + process], ("write", "r1"), json!({"value": 1_000 + process}));
    }
    for round in 0..60 {
        let at = 10_000 + round * 10;
        write(&mut script, 500, [at, at + 3], round as i64 + 1, 100 + round);
        read(&mut script, 501, [at + 4, at + 6], Some(round as i64 + 1), Some(100 + round));
    }
    script.passes(REGISTERS);
    read(&mut script, 501, [20_000, 20_001], Some(3), Some(102));
    let finding = script.finding(REGISTERS);
    assert!(finding.lines.len() < 8, "not minimal: {:#?}", finding.lines);
}

#[test]
fn made_up_histories_of_good_registers_pass_and_a_stale_read_in_them_is_found() {
    for seed in 0..8 {
        let shape = synthetic::Shape { seed, operations: 1_500, unknown_per_1000: 20, ..Default::default() };
        let mut history = synthetic::play(&shape, &mut synthetic::Registers::new(shape.groups));
        let plan = PlanFacts { workload: "register".to_owned(), ..Default::default() };
        let results = check(&plan, &history);
        assert_eq!(results.verdict, Verdict::Pass, "seed {seed}: {}", results.summary());
        assert!(results.check(REGISTERS).unwrap().counts["of unknown outcome"] > 5);

        let last =
            history.events.iter().rposition(|event| event.f == "read" && event.kind == Kind::Ok).unwrap();
        let key = history.events[last].key.clone();
        let first = history
            .events
            .iter()
            .find(|event| event.f == "write" && event.kind == Kind::Ok && event.key == key);
        history.events[last].value = first.unwrap().value.clone();
        let results = check(&plan, &history);
        assert_eq!(results.check(REGISTERS).unwrap().verdict, Verdict::Fail, "seed {seed}");
    }
}

#[test]
fn a_search_without_time_says_unknown() {
    // Without revisions, twenty concurrent writes may come in any order.
    let calls: Vec<_> = (0..40)
        .map(|number| {
            let operation = if number < 20 {
                linearizable::Register::Write { value: number, revision: None }
            } else {
                linearizable::Register::Read { value: Some((number * 7) % 20), revision: None }
            };
            linearizable::Call { operation, invoked: 0, returned: Some(1) }
        })
        .chain([linearizable::Call {
            operation: linearizable::Register::Read { value: Some(99), revision: None },
            invoked: 2,
            returned: Some(3),
        }])
        .collect();
    let mut limits = linearizable::Limits {
        deadline: std::time::Instant::now(),
        configurations_max: usize::MAX,
        foresight: true,
    };
    assert_eq!(
        linearizable::search(&linearizable::RegisterModel, &calls, limits),
        linearizable::Found::Unknown("no time left")
    );
    limits = linearizable::Limits {
        deadline: std::time::Instant::now() + Duration::from_secs(600),
        configurations_max: 1_000,
        foresight: true,
    };
    assert_eq!(
        linearizable::search(&linearizable::RegisterModel, &calls, limits),
        linearizable::Found::Unknown("too many configurations")
    );
}
