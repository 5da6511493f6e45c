//! Golden histories: each check is shown one that keeps its promise and one that breaks it.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::history::{Event, Kind, Process};

mod cluster;
mod fairness;
mod invalidations;
mod locks;
mod queues;
mod refusals;
mod registers;
mod run;
mod sessions;
mod values;

/// Writes histories by hand: times are milliseconds.
#[derive(Default)]
struct Script {
    history: History,
}

impl Script {
    fn event(&mut self, process: Process, kind: Kind, what: (&str, &str), value: Value, at_ms: u64) {
        let node = match process {
            Process::Client(number) => Some(format!("n{}", number % 3 + 1)),
            Process::Nemesis => None,
        };
        let error = match kind {
            Kind::Fail => value.as_str().map(str::to_owned),
            Kind::Info if process != Process::Nemesis => Some("time_out".to_owned()),
            _ => None,
        };
        self.history.events.push(Event {
            index: 0,
            process,
            kind,
            f: what.0.to_owned(),
            key: (!what.1.is_empty()).then(|| what.1.to_owned()),
            value: if kind == Kind::Fail { Value::Null } else { value },
            time_ns: at_ms * 1_000_000,
            node,
            error,
        });
    }

    /// An operation that happened.
    fn ok(&mut self, process: u64, span: [u64; 2], what: (&str, &str), input: Value, output: Value) {
        self.event(Process::Client(process), Kind::Invoke, what, input, span[0]);
        self.event(Process::Client(process), Kind::Ok, what, output, span[1]);
    }

    /// An operation that did not happen.
    fn fail(&mut self, process: u64, span: [u64; 2], what: (&str, &str), input: Value, error: &str) {
        self.event(Process::Client(process), Kind::Invoke, what, input, span[0]);
        self.event(Process::Client(process), Kind::Fail, what, error.into(), span[1]);
    }

    /// An operation of which nobody knows.
    fn info(&mut self, process: u64, span: [u64; 2], what: (&str, &str), input: Value) {
        self.event(Process::Client(process), Kind::Invoke, what, input, span[0]);
        self.event(Process::Client(process), Kind::Info, what, Value::Null, span[1]);
    }

    /// A fault, begun and healed.
    fn fault(&mut self, id: u64, f: &str, span: [u64; 2], effective: bool) {
        let healed =
            json!({"id": id, "healed": true, "effect": {"frames_dropped": 0}, "effective": effective});
        let mut say = |kind, value, at_ms| self.event(Process::Nemesis, kind, (f, ""), value, at_ms);
        say(Kind::Invoke, json!({"fault": f, "targets": ["n2"]}), span[0]);
        say(Kind::Info, json!({"id": id, "began": true}), span[0]);
        say(Kind::Invoke, json!({"id": id}), span[1]);
        say(Kind::Info, healed, span[1]);
    }

    /// In the order of time.
    fn history(&self) -> History {
        let mut history = self.history.clone();
        history.events.sort_by_key(|event| event.time_ns);
        for (index, event) in history.events.iter_mut().enumerate() {
            event.index = index as u64;
        }
        history
    }

    fn results(&self) -> Results {
        check(&PlanFacts::default(), &self.history())
    }

    /// The first finding of a check that must have failed.
    fn finding(&self, name: &str) -> Finding {
        let results = self.results();
        let check = results.check(name).unwrap_or_else(|| panic!("no check {name}: {}", results.summary()));
        assert_eq!(check.verdict, Verdict::Fail, "{}", results.summary());
        assert_eq!(results.verdict, Verdict::Fail);
        check.findings[0].clone()
    }

    fn passes(&self, name: &str) {
        let results = self.results();
        let check = results.check(name).unwrap_or_else(|| panic!("no check {name}: {}", results.summary()));
        assert_eq!(check.verdict, Verdict::Pass, "{}", results.summary());
    }
}
