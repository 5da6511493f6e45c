//! `config show`: the effective values as YAML that loads again, secrets aside.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layers::Origin;
use super::value::Shown;

/// One setting and its value.
pub(crate) struct Line {
    pub(crate) path: String,
    pub(crate) value: Shown,
}

/// Nested YAML with the source of each value as a comment.
pub(crate) fn yaml(lines: &[Line], origins: &BTreeMap<String, Origin>) -> String {
    let mut out = String::new();
    let mut open: Vec<&str> = Vec::new();
    for line in lines {
        let (section, key) = line.path.rsplit_once('.').unwrap_or(("", &line.path));
        let parts: Vec<&str> = section.split('.').collect();
        let common = open.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        let mut first_of_item = false;
        for (depth, part) in parts.iter().enumerate().skip(common) {
            let indent = "  ".repeat(depth);
            match part.split_once('[') {
                // The elements of a list share one heading.
                Some((name, rank)) => {
                    if rank == "0]" {
                        let _ = writeln!(out, "{indent}{name}:");
                    }
                    first_of_item = true;
                }
                None => {
                    let _ = writeln!(out, "{indent}{part}:");
                }
            }
        }
        open = parts;
        let item_depth = usize::from(section.contains('['));
        let mut indent = "  ".repeat(open.len() + item_depth);
        if first_of_item {
            indent.replace_range(indent.len() - 2.., "- ");
        }
        let origin = origins.get(&line.path).unwrap_or(&Origin::Default);
        write_value(&mut out, &indent, key, &line.value, origin);
    }
    out
}

fn write_value(out: &mut String, indent: &str, key: &str, value: &Shown, origin: &Origin) {
    let _ = match value {
        Shown::Unset => writeln!(out, "{indent}{key}: null  # {origin}"),
        Shown::Scalar(text) => writeln!(out, "{indent}{key}: {}  # {origin}", quoted(text)),
        Shown::List(items) if items.is_empty() => writeln!(out, "{indent}{key}: []  # {origin}"),
        Shown::List(items) => {
            let _ = writeln!(out, "{indent}{key}:  # {origin}");
            let inner = " ".repeat(indent.len() + 2);
            items.iter().try_for_each(|item| writeln!(out, "{inner}- {}", quoted(item)))
        }
    };
}

/// Plain where YAML surely reads it back as the same text, else double-quoted as JSON does.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./= ".contains(c))
        && !text.ends_with(' ');
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
