use serde_json::json;

use super::*;

fn recorded() -> History {
    let recorder = Recorder::new(None).unwrap();
    let write = Invocation {
        process: recorder.new_process(),
        f: "write".to_owned(),
        key: Some("r\"1".to_owned()),
        node: Some("n1".to_owned()),
    };
    recorder.invoke(&write, json!({"value": 3}));
    let cut = Invocation { process: Process::Nemesis, f: "cut".to_owned(), key: None, node: None };
    recorder.invoke(&cut, json!({"nodes": ["n1", "n2"]}));
    recorder.complete(&cut, Kind::Info, json!({"dropped_frames": 17}), None);
    recorder.complete(&write, Kind::Info, json!(null), Some("timed out".to_owned()));
    recorder.history().unwrap()
}

#[test]
fn json_lines_come_back_as_they_were_and_times_grow() {
    let history = recorded();
    let mut lines = Vec::new();
    history.write_jsonl(&mut lines).unwrap();
    assert_eq!(History::read_jsonl(lines.as_slice()).unwrap(), history);
    assert!(history.events.is_sorted_by_key(|event| event.time_ns));
    // A harness that was killed leaves a line without its end.
    lines.truncate(lines.len() - 3);
    assert_eq!(History::read_jsonl(lines.as_slice()).unwrap().events, history.events[..3]);
}

#[test]
fn a_broken_or_missing_line_is_named() {
    let mut lines = Vec::new();
    recorded().write_jsonl(&mut lines).unwrap();
    let text = String::from_utf8(lines).unwrap();
    let missing = text.lines().skip(1).fold(String::new(), |all, line| all + line + "\n");
    let error = History::read_jsonl(missing.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "line 1: index 1 where 0 is due");
    let error = History::read_jsonl(text.replace("nemesis", "villain").as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("line 2: process \"villain\""), "{error}");
    let mut backwards = recorded();
    let times = [1_000, 9_000, 8_000, 9_500];
    backwards.events.iter_mut().zip(times).for_each(|(event, time_ns)| event.time_ns = time_ns);
    let mut lines = Vec::new();
    backwards.write_jsonl(&mut lines).unwrap();
    assert_eq!(
        History::read_jsonl(lines.as_slice()).unwrap_err().to_string(),
        "line 3: time 8000 after 9000"
    );
}

#[test]
fn edn_has_keywords_where_jepsen_has_them() {
    let mut text = Vec::new();
    write_edn(&recorded(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0]
            .contains(r#":type :invoke, :process 0, :f :write, :key "r\"1", :value {:value 3}, :node "n1"}"#)
    );
    assert!(lines[2].contains(":process :nemesis, :f :cut, :value {:dropped-frames 17}}"), "{}", lines[2]);
    assert!(lines[3].contains(r#":value nil, :node "n1", :error "timed out"}"#), "{}", lines[3]);
}
