//! Operations in words.

use serde_json::Value;

use super::operation::{Operation, Outcome};

/// `1.2040 s .. 1.2090 s p7 n2 write r3 (value 6) -> ok (revision 18, value 6)`.
pub(super) fn operation(operation: &Operation<'_>) -> String {
    let from = seconds(operation.invoke.time_ns);
    let end = operation.ended_ns().map_or_else(|| "open".to_owned(), seconds);
    let mut words = vec![format!("{from} .. {end}"), format!("p{}", operation.process)];
    words.extend(operation.invoke.node.clone());
    words.push(operation.f().to_owned());
    words.extend(operation.invoke.key.clone());
    words.push(compact(operation.input()));
    words.push(match operation.outcome {
        Outcome::Ok => format!("-> ok {}", compact(operation.output())),
        Outcome::Fail => format!("-> fail: {}", operation.error().unwrap_or("no reason given")),
        Outcome::Info => format!("-> unknown: {}", operation.error().unwrap_or("no answer")),
    });
    words.retain(|word| !word.is_empty());
    words.join(" ").trim_end().to_owned()
}

/// Seconds since the run began, to the tenth of a millisecond.
pub fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:04} s", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000 / 100_000)
}

/// A value as short as people read it: `value 6, revision 18`.
pub fn compact(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(fields) => {
            let parts: Vec<String> =
                fields.iter().map(|(name, item)| format!("{name} {}", text(item))).collect();
            format!("({})", parts.join(", "))
        }
        other => text(other),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
