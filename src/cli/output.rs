//! What commands print on stdout: a table for people, JSON or YAML for programs, from one value.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use super::failure::{Exit, Failure};

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document, as the API gave it.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Format {
    /// Prints `value`, or the table made from it.
    pub(crate) fn print(self, value: &Value, table: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        let text = match self {
            Format::Table => table(value),
            Format::Json => serde_json::to_string_pretty(value)
                .map_err(|e| Failure::new(Exit::Failure, format!("cannot write JSON: {e}")))?,
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|e| Failure::new(Exit::Failure, format!("cannot write YAML: {e}")))?,
        };
        print_line(text.trim_end());
        Ok(())
    }
}

/// Prints a line and ignores a reader that went away (`ovncp locks | head`).
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A table without lines, so that it can be pasted and cut.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Two columns: a name and its value.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

/// A field as people read it: strings bare, absent and null as `-`.
pub(crate) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => "-".to_owned(),
        Value::String(s) if s.is_empty() => "-".to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// `3.4 s`, `250 ms`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let ms = duration.as_secs_f64() * 1_000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms => format!("{:.0} min {:.0} s", (ms / 60_000.0).floor(), (ms % 60_000.0) / 1_000.0),
    }
}

/// An error and what it came from, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let words = deeper.to_string();
        // Some errors already say what they came from.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn table_has_no_lines_and_aligned_columns() {
        let out = table(&["ID", "ROLE"], [vec!["node-1".to_owned(), "voter".to_owned()]]);
        assert_eq!(out, "ID      ROLE\nnode-1  voter");
    }

    #[test]
    fn absent_and_empty_fields_are_a_dash() {
        let node = json!({"zone": "", "lag": 3, "id": "node-1"});
        assert_eq!(text(&node, "zone"), "-");
        assert_eq!(text(&node, "nothing"), "-");
        assert_eq!(text(&node, "lag"), "3");
        assert_eq!(text(&node, "id"), "node-1");
    }

    #[test]
    fn durations_read_naturally() {
        assert_eq!(duration(Duration::from_micros(3_400)), "3.4 ms");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_millis(3_410)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
    }
}
