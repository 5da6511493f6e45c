//! Pairs of events made operations, and what the nemesis did made faults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::history::{Event, History, Kind, Process};

/// How an operation ended for whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It did not and will not happen.
    Fail,
    /// It may have happened, or happen at any later time, or never.
    Info,
}

impl Outcome {
    /// As histories write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }
}

/// One operation of a client.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'h> {
    /// Who.
    pub process: u64,
    /// How it ended. One without a completion is [`Outcome::Info`].
    pub outcome: Outcome,
    /// Its beginning.
    pub invoke: &'h Event,
    /// Its end, if it was recorded.
    pub complete: Option<&'h Event>,
}

impl<'h> Operation<'h> {
    /// What was done.
    pub fn f(&self) -> &'h str {
        &self.invoke.f
    }

    /// The object, `""` where the workload has only one.
    pub fn key(&self) -> &'h str {
        self.invoke.key.as_deref().unwrap_or("")
    }

    /// The arguments.
    pub fn input(&self) -> &'h Value {
        &self.invoke.value
    }

    /// The result; null where there is none.
    pub fn output(&self) -> &'h Value {
        self.complete.map_or(&Value::Null, |event| &event.value)
    }

    /// Why it failed or is unknown.
    pub fn error(&self) -> Option<&'h str> {
        self.complete.and_then(|event| event.error.as_deref())
    }

    /// A number of the result, or of the arguments where the result does not repeat it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.output().get(name).or_else(|| self.input().get(name)).and_then(Value::as_u64)
    }

    /// Whether it happened.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it ended before the other began. An unknown operation never surely ended.
    pub fn precedes(&self, other: &Operation<'_>) -> bool {
        self.outcome != Outcome::Info && self.complete.is_some_and(|end| end.index < other.invoke.index)
    }

    /// Indexes of its events.
    pub fn events(&self) -> impl Iterator<Item = u64> {
        [Some(self.invoke.index), self.complete.map(|event| event.index)].into_iter().flatten()
    }

    /// When it ended, if that is known.
    pub fn ended_ns(&self) -> Option<u64> {
        self.complete.map(|event| event.time_ns)
    }
}

/// What a client's events say, in the order of invocation.
#[derive(Debug, Default)]
pub struct Operations<'h> {
    /// All operations, probes of the harness among them.
    pub all: Vec<Operation<'h>>,
    /// Events that belong to no operation: the harness broke its own rules, and nothing can be concluded.
    pub problems: Vec<String>,
}

/// Pairs invocations with completions, process by process.
pub fn operations(history: &History) -> Operations<'_> {
    let mut found = Operations::default();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut retired: BTreeMap<u64, u64> = BTreeMap::new();
    for event in &history.events {
        let Process::Client(process) = event.process else { continue };
        if event.kind == Kind::Invoke {
            if let Some(info) = retired.get(&process) {
                found.problems.push(format!(
                    "event {}: process {process} goes on although its event {info} is of unknown outcome",
                    event.index
                ));
            }
            let operation = Operation { process, outcome: Outcome::Info, invoke: event, complete: None };
            if open.insert(process, found.all.len()).is_some() {
                found.problems.push(format!(
                    "event {}: process {process} begins an operation inside another",
                    event.index
                ));
            }
            found.all.push(operation);
            continue;
        }
        let Some(position) = open.remove(&process) else {
            found.problems.push(format!("event {}: process {process} ends what it never began", event.index));
            continue;
        };
        let operation = &mut found.all[position];
        operation.complete = Some(event);
        operation.outcome = match event.kind {
            Kind::Ok => Outcome::Ok,
            Kind::Fail => Outcome::Fail,
            Kind::Info | Kind::Invoke => Outcome::Info,
        };
        if operation.outcome == Outcome::Info {
            retired.insert(process, event.index);
        }
    }
    found
}

/// One fault, from its beginning to its healing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Its number within the run.
    pub id: u64,
    /// Its kind.
    pub name: String,
    /// Nodes it was aimed at.
    pub targets: Vec<String>,
    /// When the nemesis set out to make it.
    pub began_ns: u64,
    /// When it was over; none: the run ended with it.
    pub healed_ns: Option<u64>,
    /// Whether a measurement shows that it did something.
    pub effective: bool,
    /// The measurements.
    pub effect: Value,
}

/// The faults that began. What could not be made is not among them.
pub fn faults(history: &History) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut asked: BTreeMap<&str, &Event> = BTreeMap::new();
    for event in history.events.iter().filter(|event| event.process == Process::Nemesis) {
        if event.kind == Kind::Invoke {
            asked.insert(&event.f, event);
            continue;
        }
        let Some(id) = event.value.get("id").and_then(Value::as_u64) else { continue };
        let is = |name| event.value.get(name).and_then(Value::as_bool) == Some(true);
        if is("began") {
            let invoke = asked.get(event.f.as_str()).copied().unwrap_or(event);
            faults.push(Fault {
                id,
                name: event.f.clone(),
                targets: targets(&event.value).or_else(|| targets(&invoke.value)).unwrap_or_default(),
                began_ns: invoke.time_ns,
                healed_ns: None,
                effective: false,
                effect: Value::Null,
            });
        } else if is("healed")
            && let Some(fault) = faults.iter_mut().find(|fault| fault.id == id)
        {
            fault.healed_ns = Some(event.time_ns);
            fault.effective = is("effective");
            fault.effect = event.value.get("effect").cloned().unwrap_or(Value::Null);
        }
    }
    faults
}

fn targets(value: &Value) -> Option<Vec<String>> {
    let names = value.get("targets")?.as_array()?;
    Some(names.iter().map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned)).collect())
}
