//! The whole configuration: every part's settings, the sources in order, and the checks between parts.
//!
//! [`Config::load`] lays file, environment and flags over the defaults and reports *every* wrong value with
//! its place. A file written for the Redis-based original loads as it stands, with warnings. What only
//! matters when a node really starts (peers of a clustered node) is judged by [`Config::check_start`], so
//! that such a file can be checked and shown before it is completed.
//!
//! Map: `section` the declaration of settings, [`value`] their types, [`layers`] sources and provenance,
//! [`file`] the YAML file, `check` relations between settings, `render` `config show`, [`docs`] the page.

pub mod backends;
mod check;
pub mod cluster;
pub mod docs;
mod file;
pub mod layers;
mod legacy;
pub(crate) mod render;
pub(crate) mod section;
#[cfg(test)]
mod tests;
pub mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use backends::{DatabaseConfig, OvnConfig};
use cluster::{ClusterConfig, RaftConfig, SessionConfig, StorageConfig};
use layers::Layers;
pub use layers::{Origin, Override, Problem, Sources};

use crate::api::config::ServerConfig;
use crate::telemetry::config::LogConfig;

/// Effective settings of one node.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// HTTP edge.
    pub server: ServerConfig,
    /// Identity and peers.
    pub cluster: ClusterConfig,
    /// Raft's timing.
    pub raft: RaftConfig,
    /// Data directory.
    pub storage: StorageConfig,
    /// WebSocket sessions.
    pub session: SessionConfig,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// OVN.
    pub ovn: OvnConfig,
    /// Log output.
    pub log: LogConfig,
    origins: BTreeMap<String, Origin>,
}

/// A configuration and what its author should know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective settings.
    pub config: Config,
    /// Accepted without effect, or surely not meant so.
    pub warnings: Vec<Problem>,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rank, problem) in self.problems.iter().enumerate() {
            if rank > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Lays the sources over the defaults and checks the result.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut warnings = Vec::new();
        let path = Self::file_path(sources);
        let file = match &path {
            Some(path) => file::read(path, sources, &mut warnings)
                .map_err(|problem| ConfigError { problems: vec![problem] })?,
            None => file::File::default(),
        };
        let mut layers = Layers::new(sources, path.as_deref());
        let mut config = Self::default();
        config.overlay(file, &mut layers);
        let Layers { origins, mut problems, .. } = layers;
        check::unknown_overrides(&sources.overrides, &mut problems);
        config.origins = origins;
        legacy::check(&sources.environment, &mut warnings, &mut problems);
        check::unknown_variables(&sources.environment, &mut warnings);
        config.fill_computed_defaults();
        // Relations between wrong values would only repeat what is said already.
        if problems.is_empty() {
            check::relations(&config, &mut problems, &mut warnings);
        }
        if problems.is_empty() { Ok(Loaded { config, warnings }) } else { Err(ConfigError { problems }) }
    }

    fn file_path(sources: &Sources) -> Option<PathBuf> {
        sources.file.clone().or_else(|| {
            let named = sources.environment.get("OVNCP_CONFIG").filter(|path| !path.is_empty())?;
            Some(PathBuf::from(named))
        })
    }

    fn overlay(&mut self, file: file::File, layers: &mut Layers<'_>) {
        self.server.overlay("server", file.server, layers);
        self.cluster.overlay("cluster", file.cluster, layers);
        self.raft.overlay("raft", file.raft, layers);
        self.storage.overlay("storage", file.storage, layers);
        self.session.overlay("session", file.session, layers);
        self.database.overlay(file.database, layers);
        self.ovn.overlay(file.ovn, layers);
        self.log.overlay("log", file.log, layers);
    }

    /// Defaults that depend on the machine or on other settings.
    fn fill_computed_defaults(&mut self) {
        let set = |origins: &BTreeMap<String, Origin>, path: &str| origins.contains_key(path);
        if !set(&self.origins, "cluster.enabled") {
            self.cluster.enabled = !self.cluster.peers.is_empty();
        }
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if self.cluster.node_id.is_empty() {
            self.cluster.node_id.clone_from(&host_name);
        }
        if self.cluster.node_hostname.is_empty() {
            self.cluster.node_hostname.clone_from(&host_name);
        }
        let own = self.own_peer().cloned();
        if self.cluster.node_ip.is_empty() {
            self.cluster.node_ip = own.as_ref().map_or(host_name, |own| own.host.clone());
        }
        if let Some(own) = own.filter(|_| !set(&self.origins, "cluster.peer_port")) {
            self.cluster.peer_port = own.port;
        }
        if self.cluster.voters_target == 0 && !set(&self.origins, "cluster.voters_target") {
            self.cluster.voters_target = match self.cluster.peers.len() {
                _ if !self.cluster.enabled => 1,
                0..=4 => 3,
                _ => 5,
            };
        }
    }

    /// This node's own entry in `cluster.peers`. Absent on a node that joins later.
    #[must_use]
    pub fn own_peer(&self) -> Option<&value::PeerAddress> {
        self.cluster.peers.iter().find(|peer| peer.name == self.cluster.node_id)
    }

    /// What must also hold before a node starts.
    pub fn check_start(&self) -> Result<(), ConfigError> {
        if self.cluster.enabled && self.cluster.peers.is_empty() {
            return Err(ConfigError { problems: vec![check::clustering_without_peers(self)] });
        }
        Ok(())
    }

    /// Where the value of a setting came from.
    #[must_use]
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// The effective values as YAML, with the source of each as a comment and without secrets.
    #[must_use]
    pub fn to_yaml_redacted(&self) -> String {
        let mut lines = Vec::new();
        self.server.show("server", &mut lines);
        self.cluster.show("cluster", &mut lines);
        self.raft.show("raft", &mut lines);
        self.storage.show("storage", &mut lines);
        self.session.show("session", &mut lines);
        self.database.show(&mut lines);
        self.ovn.show(&mut lines);
        self.log.show("log", &mut lines);
        render::yaml(&lines, &self.origins)
    }
}
