//! docs/configuration.md, made from the declarations of the settings.

use std::fmt::Write;

use super::backends::{DatabaseConfig, OvnConfig};
use super::cluster::{ClusterConfig, RaftConfig, SessionConfig, StorageConfig};
use crate::api::config::ServerConfig;
use crate::telemetry::config::LogConfig;

/// One setting as the documentation shows it.
pub(crate) struct Described {
    pub(crate) path: String,
    pub(crate) env: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) default: String,
    pub(crate) doc: &'static str,
}

const INTRODUCTION: &str = include_str!("introduction.md");

/// Every setting, in the order of the page.
pub(crate) fn all() -> Vec<Described> {
    let mut settings = Vec::new();
    for (_, describe) in SECTIONS {
        describe(&mut settings);
    }
    settings
}

type Describe = fn(&mut Vec<Described>);

const SECTIONS: [(&str, Describe); 8] = [
    ("server", |out| ServerConfig::describe("server", out)),
    ("cluster", |out| ClusterConfig::describe("cluster", out)),
    ("raft", |out| RaftConfig::describe("raft", out)),
    ("storage", |out| StorageConfig::describe("storage", out)),
    ("session", |out| SessionConfig::describe("session", out)),
    ("database", DatabaseConfig::describe),
    ("ovn", OvnConfig::describe),
    ("log", |out| LogConfig::describe("log", out)),
];

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (title, describe) in SECTIONS {
        let mut settings = Vec::new();
        describe(&mut settings);
        let _ = write!(
            page,
            "\n## {title}\n\n| key | variable | kind | default | meaning |\n| --- | --- | --- | --- | --- |\n"
        );
        for setting in &settings {
            let _ = writeln!(page, "{}", row(setting));
        }
    }
    page
}

fn row(setting: &Described) -> String {
    let variables: Vec<String> = setting.env.iter().map(|name| format!("`{name}`")).collect();
    let default = match setting.default.as_str() {
        "" => "not set".to_owned(),
        // Only a computed default is prose.
        text if text.contains(' ') && setting.kind != "duration" => text.to_owned(),
        text => format!("`{text}`"),
    };
    format!(
        "| `{}` | {} | {} | {default} | {} |",
        setting.path,
        variables.join(", "),
        setting.kind,
        setting.doc
    )
}

#[cfg(test)]
mod tests {
    /// `UPDATE_GOLDENFILES=1 cargo test` rewrites the page; the difference is the review.
    #[test]
    fn configuration_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = super::markdown();
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, &page).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == page, "docs/configuration.md is out of date: `make fix` rewrites it");
    }
}
