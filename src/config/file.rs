//! The YAML file: its shape, its `${VARS}` and its ignored sections.

use std::collections::HashMap;
use std::path::Path;

use super::backends::{DatabaseFile, OvnFile};
use super::cluster::{ClusterFile, RaftFile, SessionFile, StorageFile};
use super::layers::{Origin, Problem, Sources};
use crate::api::config::ServerFile;
use crate::telemetry::config::LogFile;

/// The whole file. A section that is absent or empty changes nothing.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) server: Option<ServerFile>,
    pub(crate) cluster: Option<ClusterFile>,
    pub(crate) raft: Option<RaftFile>,
    pub(crate) storage: Option<StorageFile>,
    pub(crate) session: Option<SessionFile>,
    pub(crate) database: Option<DatabaseFile>,
    pub(crate) ovn: Option<OvnFile>,
    pub(crate) log: Option<LogFile>,
    /// Blanked before parsing; here so that the names are known.
    redis: Option<serde::de::IgnoredAny>,
    cache: Option<serde::de::IgnoredAny>,
    batch_processor: Option<serde::de::IgnoredAny>,
}

/// Sections of the scaling guide that mean nothing without Redis, and what replaces them.
const IGNORED_SECTIONS: [(&str, &str); 3] = [
    ("redis", "the nodes coordinate through Raft themselves; list them in `cluster.peers` (OVNCP_PEERS)"),
    ("cache", "each node keeps its cache in its own memory and the invalidation log clears it"),
    ("batch_processor", "the log commits whatever is waiting as one batch; there is nothing to tune"),
];

/// Reads one file. Warnings name the ignored sections.
pub(crate) fn read(path: &Path, sources: &Sources, warnings: &mut Vec<Problem>) -> Result<File, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| Problem {
        origin: Origin::Default,
        path: String::new(),
        message: format!("read configuration file {}: {error}", path.display()),
    })?;
    let (text, ignored) = blank_ignored_sections(&text);
    for (section, line, replacement) in ignored {
        warnings.push(Problem {
            origin: Origin::File { path: path.to_owned(), line, column: 1 },
            path: section.to_owned(),
            message: format!("ignored: {replacement}"),
        });
    }
    // An empty variable stays empty here: `${NAME}` asks for the name, not for a text.
    let properties: HashMap<String, String> =
        sources.environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let options = serde_saphyr::options! { with_snippet: false }.with_properties(properties);
    serde_saphyr::from_str_with_options(&text, options).map_err(|error| problem(path, &error))
}

fn problem(path: &Path, error: &serde_saphyr::Error) -> Problem {
    let origin = match error.location() {
        Some(at) => Origin::File { path: path.to_owned(), line: at.line(), column: at.column() },
        None => Origin::File { path: path.to_owned(), line: 1, column: 1 },
    };
    let message = match error.without_snippet() {
        serde_saphyr::Error::UnresolvedProperty { name, .. } => {
            format!(
                "${{{name}}} is not set: set the environment variable {name}, or write ${{{name}:-default}}"
            )
        }
        // The position stands in front already.
        other => strip_position(&other.to_string()),
    };
    Problem { origin, path: String::new(), message }
}

fn strip_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message[..at].to_owned(),
        None => message.to_owned(),
    }
}

/// Replaces ignored top-level sections by empty lines, so that their `${VARS}` need not exist and every
/// other position stays what it was.
fn blank_ignored_sections(text: &str) -> (String, Vec<(&'static str, u64, &'static str)>) {
    let mut out = String::with_capacity(text.len());
    let mut found = Vec::new();
    let mut blanking = false;
    for (line, number) in text.split_inclusive('\n').zip(1u64..) {
        // Only a line that begins with a name starts another section: indented lines, list items, comments
        // and empty lines belong to the one before.
        let starts_section =
            line.starts_with(|first: char| !first.is_whitespace() && first != '#' && first != '-');
        if starts_section {
            let ignored = IGNORED_SECTIONS.iter().find(|(section, _)| {
                line.strip_prefix(section).is_some_and(|rest| rest.trim_start().starts_with(':'))
            });
            blanking = ignored.is_some();
            if let Some((section, replacement)) = ignored {
                found.push((*section, number, *replacement));
            }
        }
        if blanking {
            out.push('\n');
        } else {
            out.push_str(line);
        }
    }
    (out, found)
}
