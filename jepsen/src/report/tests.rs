use serde_json::Value;

use super::*;
use crate::checker::synthetic::{Registers, Shape, play};
use crate::checker::{Verdict, check};
use crate::history::Kind;

fn facts() -> PlanFacts {
    PlanFacts { workload: "register".to_owned(), seed: 7, ..Default::default() }
}

fn written(history: &History) -> (String, Results, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let results = check(&facts(), history);
    let files = write(dir.path(), &facts(), history, &results).unwrap();
    assert_eq!(files.len(), 3);
    (std::fs::read_to_string(&files[0]).unwrap(), results, dir)
}

/// What the page's script reads.
fn data(page: &str) -> Value {
    let begin = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = begin + page[begin..].find("</script>").unwrap();
    serde_json::from_str(&page[begin..end]).unwrap()
}

#[test]
fn the_page_has_everything_and_needs_nothing_from_elsewhere() {
    let history = play(&Shape { operations: 600, faults: 3, ..Shape::default() }, &mut Registers::new(2));
    let (page, results, dir) = written(&history);
    assert_eq!(results.verdict, Verdict::Pass, "{}", results.summary());
    for part in [
        "badge pass",
        "ovncp-jepsen run --workload register",
        "partition-leader",
        "frames_dropped 17",
        "Latency",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    for outside in ["src=", "@import", "url(", "fetch(", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let data = data(&page);
    assert_eq!(data["rows"].as_array().unwrap().len(), data["total"].as_u64().unwrap() as usize);
    assert_eq!(data["faults"].as_array().unwrap().len(), 3);
    for plot in ["latency.svg", "rate.svg"] {
        let plot = std::fs::read_to_string(dir.path().join(plot)).unwrap();
        assert!(plot.starts_with("<svg xmlns") && plot.ends_with("</svg>"));
        assert_eq!(plot.matches("class=\"fault\"").count(), 3);
        assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
    }
}

#[test]
fn a_failing_run_shows_its_findings_first_and_marks_their_operations() {
    let mut history = play(&Shape { operations: 600, ..Shape::default() }, &mut Registers::new(2));
    let last = history.events.iter().rposition(|event| event.f == "read" && event.kind == Kind::Ok).unwrap();
    history.events[last].value = serde_json::json!({"value": 0, "revision": null});
    let (page, results, _dir) = written(&history);
    assert_eq!(results.verdict, Verdict::Fail);
    let findings = page.find("id=\"findings\"").unwrap();
    assert!(findings < page.find("id=\"timeline\"").unwrap());
    assert!(page.contains("id=\"finding-0\" open"));
    assert!(page.contains("class=\"culprit\">* "));
    let marked = data(&page)["rows"].as_array().unwrap().iter().filter(|row| row[11] == 1).count();
    assert!(marked > 0);
}

#[test]
fn what_clients_and_nodes_said_cannot_break_the_page() {
    let mut history = play(&Shape { operations: 100, ..Shape::default() }, &mut Registers::new(1));
    let evil = "</script><script>alert('x')</script>";
    for event in history.events.iter_mut().filter(|event| event.kind == Kind::Fail) {
        event.error = Some(evil.to_owned());
    }
    history
        .events
        .iter_mut()
        .for_each(|event| event.key = event.key.take().map(|key| format!("{key}{evil}")));
    let (page, ..) = written(&history);
    assert!(!page.contains("<script>alert"));
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(data(&page)["keys"][0].as_str().unwrap().contains("alert"));
}

#[test]
fn a_run_of_any_size_is_a_page_of_bounded_size() {
    let shape = Shape { operations: 3_000, clients: 16, groups: 4, unknown_per_1000: 20, ..Shape::default() };
    let history = play(&shape, &mut Registers::new(4));
    let results = check(&facts(), &history);
    let [(_, page), ..] = draw(&facts(), &history, &results, 1_500);
    let data = data(&page);
    assert_eq!(data["rows"].as_array().unwrap().len(), 1_500);
    let total = data["total"].as_u64().unwrap();
    assert!(total >= 3_000);
    assert!(page.contains(&format!("1500 of {total} operations are drawn")));
    // None of unknown outcome is left out.
    let unknown = data["rows"].as_array().unwrap().iter().filter(|row| row[4] == 2).count() as u64;
    assert_eq!(unknown, results.operations.values().map(|counts| counts.info).sum::<u64>());
    assert!(unknown > 20, "{unknown}");
}

#[test]
fn an_empty_history_has_a_page_too() {
    let (page, results, _dir) = written(&History::default());
    assert_eq!(results.verdict, Verdict::Unknown);
    assert!(page.contains("None were made."));
}

#[test]
fn a_run_that_was_not_checked_is_checked_for_its_report() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plan.json"), "{\"workload\": \"register\", \"nodes\": 3}").unwrap();
    let history = play(&Shape { operations: 200, ..Shape::default() }, &mut Registers::new(1));
    history.write_jsonl(std::fs::File::create(dir.path().join("history.jsonl")).unwrap()).unwrap();
    write_dir(dir.path()).unwrap();
    let results = checker::read_results(dir.path()).unwrap();
    assert_eq!(results.check("linearizable registers").unwrap().verdict, Verdict::Pass);
}
