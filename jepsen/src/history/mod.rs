//! What clients and the nemesis did and saw, in the order in which the harness saw it.
//!
//! One operation is two events of the same process: its invocation and its completion. A completion is `ok` (it
//! happened), `fail` (it certainly did not) or `info` (nobody knows: a time-out, a lost connection, a 504). After
//! an `info` the process makes no further operation: whoever goes on does so under a new number, since the old
//! operation may happen at any later time. This is the model of Jepsen and of Knossos.

mod edn;
mod recorder;

pub use edn::write_edn;
pub use recorder::{Invocation, Recorder};

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client, one operation at a time.
    Client(u64),
    /// Whoever makes faults. Its events come in pairs too, of type `info`.
    Nemesis,
}

impl Serialize for Process {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Client(number) => serializer.serialize_u64(*number),
            Self::Nemesis => serializer.serialize_str("nemesis"),
        }
    }
}

impl<'de> Deserialize<'de> for Process {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) if number.is_u64() => Ok(Self::Client(number.as_u64().unwrap_or_default())),
            Value::String(name) if name == "nemesis" => Ok(Self::Nemesis),
            other => Err(serde::de::Error::custom(format!("process {other}: a number or \"nemesis\""))),
        }
    }
}

/// What an event says about its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It happened.
    Ok,
    /// It did not and will not happen.
    Fail,
    /// Unknown; of the nemesis: what it did.
    Info,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the history, from 0, dense.
    pub index: u64,
    /// Who.
    pub process: Process,
    /// Begin or outcome.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What: `read`, `write`, `cas`, `acquire`, ...; of the nemesis the fault's name.
    pub f: String,
    /// The object that it is about, where the workload has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Arguments or result, as the workload defines them.
    #[serde(default)]
    pub value: Value,
    /// Nanoseconds of the harness' monotonic clock since the run began.
    pub time_ns: u64,
    /// Node that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it failed or is unknown: the API's error code, or what happened to the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A whole history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Ordered by `index`.
    pub events: Vec<Event>,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A line is no event.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl History {
    /// Reads JSON lines. A last line without its end (the harness was killed) is left out.
    pub fn read_jsonl(mut input: impl BufRead) -> Result<Self, HistoryError> {
        let (mut events, mut text, mut line) = (Vec::new(), String::new(), 0);
        loop {
            text.clear();
            if input.read_line(&mut text)? == 0 || !text.ends_with('\n') {
                return Ok(Self { events });
            }
            line += 1;
            let event: Event = serde_json::from_str(&text)
                .map_err(|error| HistoryError::Line { line, problem: error.to_string() })?;
            if event.index != events.len() as u64 {
                let problem = format!("index {} where {} is due", event.index, events.len());
                return Err(HistoryError::Line { line, problem });
            }
            let before_ns = events.last().map_or(0, |before: &Event| before.time_ns);
            if event.time_ns < before_ns {
                let problem = format!("time {} after {before_ns}", event.time_ns);
                return Err(HistoryError::Line { line, problem });
            }
            events.push(event);
        }
    }

    /// Writes JSON lines.
    pub fn write_jsonl(&self, mut output: impl Write) -> Result<(), HistoryError> {
        for event in &self.events {
            serde_json::to_writer(&mut output, event).map_err(std::io::Error::from)?;
            output.write_all(b"\n")?;
        }
        Ok(output.flush()?)
    }
}

#[cfg(test)]
mod tests;
