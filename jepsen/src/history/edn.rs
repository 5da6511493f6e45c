//! The same history as Jepsen writes it, for its own tools (Knossos, Elle).

use std::io::Write;

use serde_json::Value;

use super::{History, Kind, Process};

/// Writes one EDN map per line.
pub fn write_edn(history: &History, mut output: impl Write) -> std::io::Result<()> {
    for event in &history.events {
        let kind = match event.kind {
            Kind::Invoke => ":invoke",
            Kind::Ok => ":ok",
            Kind::Fail => ":fail",
            Kind::Info => ":info",
        };
        write!(output, "{{:index {}, :time {}, :type {kind}", event.index, event.time_ns)?;
        match event.process {
            Process::Client(number) => write!(output, ", :process {number}")?,
            Process::Nemesis => write!(output, ", :process :nemesis")?,
        }
        write!(output, ", :f :{}", event.f)?;
        if let Some(key) = &event.key {
            write!(output, ", :key {}", text(key))?;
        }
        write!(output, ", :value ")?;
        write_value(&event.value, &mut output)?;
        if let Some(node) = &event.node {
            write!(output, ", :node {}", text(node))?;
        }
        if let Some(error) = &event.error {
            write!(output, ", :error {}", text(error))?;
        }
        output.write_all(b"}\n")?;
    }
    output.flush()
}

/// Strings of EDN are those of JSON, but for `\u` escapes of control characters, which Clojure reads too.
fn text(text: &str) -> Value {
    Value::from(text)
}

fn write_value(value: &Value, output: &mut impl Write) -> std::io::Result<()> {
    match value {
        Value::Null => output.write_all(b"nil"),
        Value::Array(items) => {
            output.write_all(b"[")?;
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    output.write_all(b" ")?;
                }
                write_value(item, output)?;
            }
            output.write_all(b"]")
        }
        Value::Object(fields) => {
            output.write_all(b"{")?;
            for (position, (name, item)) in fields.iter().enumerate() {
                if position > 0 {
                    output.write_all(b", ")?;
                }
                write!(output, ":{} ", name.replace('_', "-"))?;
                write_value(item, output)?;
            }
            output.write_all(b"}")
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => write!(output, "{value}"),
    }
}
