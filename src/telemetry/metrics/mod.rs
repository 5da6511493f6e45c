//! Every metric of this node, each declared once, beside the code that fills it.
//!
//! Counters are kept where things happen; everything else is read when somebody scrapes, so that it costs nothing
//! between two scrapes. A scrape takes its own values and shares nothing with another one. No label has unbounded
//! values: no key, session or user ever is one. docs/metrics.md follows from the declarations ([`docs`]).

mod buckets;
mod classes;
mod cluster;
mod declared;
pub mod docs;
mod http;
mod invalidations;
mod locks;
mod ovn;
mod process;
mod sessions;
mod storage;
mod summary;

use std::sync::Arc;

use ovncp_raft::group::Group;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};

use crate::services::network::Network;
pub use declared::{Declared, Kind};
pub use http::{HttpMetrics, Route};
pub use invalidations::InvalidationMetrics;
pub use locks::{LockMetrics, LockObserver};
pub use sessions::SessionMetrics;

/// Every metric by area, in the order of docs/metrics.md.
pub static AREAS: [(&str, &[&Declared]); 9] = [
    ("Locks", locks::LOCKS),
    ("Caches", invalidations::CACHES),
    ("Sessions", sessions::SESSIONS),
    ("OVN", ovn::OVN),
    ("Cluster", cluster::CLUSTER),
    ("Raft", cluster::RAFT),
    ("Storage", storage::STORAGE),
    ("HTTP", http::HTTP),
    ("Process", process::PROCESS),
];

/// Names of the scaling guide that a linter would not choose; they stay, since dashboards read them.
pub const GUIDE_EXCEPTIONS: [&str; 2] = ["ovncp_cluster_nodes_total", "ovncp_sessions_total"];

/// All metrics of one node.
#[derive(Clone)]
pub struct Metrics {
    node: Arc<str>,
    group: Group,
    network: Network,
    /// For the lock service.
    pub locks: Arc<LockMetrics>,
    /// Of the invalidation log.
    pub invalidations: Arc<InvalidationMetrics>,
    /// For sessions and their sockets.
    pub sessions: Arc<SessionMetrics>,
    /// For the HTTP edge.
    pub http: Arc<HttpMetrics>,
}

impl Metrics {
    /// Metrics of the node of this name.
    #[must_use]
    pub fn new(
        node: &str,
        group: Group,
        network: Network,
        locks: Arc<LockMetrics>,
        invalidations: Arc<InvalidationMetrics>,
        sessions: Arc<SessionMetrics>,
        http: HttpMetrics,
    ) -> Self {
        Self { node: node.into(), group, network, locks, invalidations, sessions, http: Arc::new(http) }
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = self.locks.families(&self.node);
        let end = self.group.read(|state| state.invalidations_kept().1).1;
        families.extend(self.invalidations.families(&self.node, end));
        families.extend(self.sessions.families(&self.group, &self.node));
        families.extend(ovn::families(&self.network));
        families.extend(cluster::families(&self.group, &self.node));
        families.extend(storage::families(&self.group));
        families.extend(self.http.families());
        families.extend(process::families());
        encode(families)
    }
}

/// Families without a value are left out: the format knows no empty ones.
fn encode(mut families: Vec<MetricFamily>) -> Result<Vec<u8>, prometheus::Error> {
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_by(|left, right| left.name().cmp(right.name()));
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = &'static Declared> {
        AREAS.iter().flat_map(|(_, area)| area.iter().copied())
    }

    #[test]
    fn each_metric_is_declared_once_and_by_the_rules() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.starts_with("ovncp_") || name.starts_with("process_"), "{name}");
            assert!(metric.help.ends_with('.') && metric.night.ends_with('.'), "{name} lacks words");
            let counts = metric.kind == Kind::Counter;
            assert!(
                counts == name.ends_with("_total") || GUIDE_EXCEPTIONS.contains(&name),
                "{name}: counters, and nothing else, end in _total"
            );
            let timed = metric.unit == "seconds";
            assert_eq!(timed, name.trim_end_matches("_total").ends_with("_seconds"), "{name}");
            let bytes = metric.unit == "bytes";
            assert_eq!(bytes, name.trim_end_matches("_total").ends_with("_bytes"), "{name}");
        }
        for exception in GUIDE_EXCEPTIONS {
            assert!(names.contains(exception), "{exception} is no metric");
        }
    }
}
