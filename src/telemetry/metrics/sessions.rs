//! What sessions and their sockets count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ovncp_raft::group::Group;
use prometheus::proto::MetricFamily;

use super::declared::declare;

declare! {
    /// Sessions of WebSocket clients, by the node that has them.
    SESSIONS:
    KNOWN = Gauge "ovncp_sessions_total" {node_id} in "sessions",
        "Sessions whose place is this node, with a socket or waiting for their client to come back.",
        night "Far above ovncp_sessions_active: clients do not come back, or open new sessions each time; each ends SESSION_TTL after its socket.";
    ACTIVE = Gauge "ovncp_sessions_active" {node_id} in "sessions",
        "Sessions that have a socket on this node.",
        night "0 on one node only: it drains (ovncp members), or the load balancer sends nobody there.";
    MIGRATIONS = Counter "ovncp_session_migrations_total" {from, to} in "sessions",
        "Sessions that a socket of this node took over from another node: planned moves, and resumes after its death.",
        night "Without a drain or a restart: clients are sent to and fro. Look at the balancer's affinity and at ovncp_websocket_closes_total.";
    CLOSES = Counter "ovncp_websocket_closes_total" {code} in "sockets",
        "Sockets that this node closed, by close code; 'lost' are those whose client went without a word.",
        night "1012: a node drains, stops or lost the majority. 4008: clients read too slowly. 4001: sessions moved. 'lost': look at the network and the proxies' time-outs.";
    FRAMES = Counter "ovncp_websocket_frames_total" {direction} in "frames",
        "Text frames that sockets of this node received from and sent to clients.",
        night "Sent stands still while messages are published: look at ovncp_sessions_active and at the node's log.";
}

/// Pairs of nodes that are told apart; further ones count as `other`. Names of nodes are few, but not bounded for ever.
const PAIRS_MAX: usize = 256;
/// Close codes as label values, in the order of the counters.
const CODES: [&str; 11] =
    ["1000", "1003", "1007", "1008", "1009", "1012", "4001", "4003", "4008", "4009", "lost"];

/// What sessions and their sockets count.
#[derive(Default)]
pub struct SessionMetrics {
    migrations: Mutex<BTreeMap<(String, String), u64>>,
    closes: [AtomicU64; CODES.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl SessionMetrics {
    /// A session came from one node to another.
    pub fn migrated(&self, from: &str, to: &str) {
        let mut migrations = self.migrations.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pair = (from.to_owned(), to.to_owned());
        if migrations.len() >= PAIRS_MAX && !migrations.contains_key(&pair) {
            pair = ("other".to_owned(), "other".to_owned());
        }
        *migrations.entry(pair).or_default() += 1;
    }

    /// A socket was closed with this code; with none when its client was gone.
    pub fn closed(&self, code: Option<u16>) {
        let name = code.map(|code| code.to_string());
        let name = name.as_deref().unwrap_or("lost");
        if let Some(position) = CODES.iter().position(|known| *known == name) {
            self.closes[position].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A text frame came.
    pub fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// A text frame went out.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn families(&self, group: &Group, node: &str) -> Vec<MetricFamily> {
        let own = group.identity().node_id;
        let totals = own.map(|own| group.read(|state| state.session_totals(own)).1).unwrap_or_default();
        let closes = CODES.iter().zip(&self.closes);
        let frames = [("received", &self.received), ("sent", &self.sent)];
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        vec![
            KNOWN.each([(node, totals.known as f64)]),
            ACTIVE.each([(node, totals.attached as f64)]),
            self.moves(&others(group, node), node),
            CLOSES.each(closes.map(|(code, closed)| (*code, count(closed)))),
            FRAMES.each(frames.map(|(direction, frames)| (direction, count(frames)))),
        ]
    }

    /// What happened, and a zero for every member from which nothing came yet: else a first move shows no increase.
    fn moves(&self, others: &[String], own: &str) -> MetricFamily {
        let mut moves = self.migrations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for other in others.iter().take(PAIRS_MAX) {
            moves.entry((other.clone(), own.to_owned())).or_default();
        }
        let moves = moves.iter();
        let value = |((from, to), count): ((&String, &String), u64)| {
            MIGRATIONS.labelled_value(&[from, to], count as f64)
        };
        MIGRATIONS.family(moves.map(|((from, to), count)| value(((from, to), *count))).collect())
    }
}

/// Names of the other members.
fn others(group: &Group, own: &str) -> Vec<String> {
    let nodes = group.read(|state| state.nodes()).1;
    nodes.into_iter().map(|node| node.name).filter(|name| name != own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_nodes_are_counted_and_bounded() {
        let metrics = SessionMetrics::default();
        metrics.migrated("a", "b");
        for number in 0..2 * PAIRS_MAX {
            metrics.migrated(&format!("node-{number}"), "b");
        }
        metrics.migrated("a", "b");
        let family = metrics.moves(&["a".to_owned(), "c".to_owned()], "b");
        let total: f64 = family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
        assert_eq!((family.get_metric().len(), total as usize), (PAIRS_MAX + 2, 2 * PAIRS_MAX + 2));
        assert!(family.get_metric().iter().any(|metric| metric.get_counter().get_value() == 0.0), "from c");
        let labels = |metric: &prometheus::proto::Metric| {
            metric
                .get_label()
                .iter()
                .map(|label| format!("{}={}", label.name(), label.value()))
                .collect::<Vec<_>>()
        };
        let first = &family.get_metric()[0];
        assert_eq!(labels(first), ["from=a", "to=b"]);
        assert!((first.get_counter().get_value() - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn every_close_is_counted_under_its_code() {
        let metrics = SessionMetrics::default();
        for code in CODES {
            metrics.closed(code.parse().ok());
        }
        metrics.closed(Some(4_999));
        assert!(metrics.closes.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}
