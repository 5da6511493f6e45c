//! Every metric of this node, each name once.
//!
//! Counters are kept where things happen; gauges are read from the group when somebody looks, so that they
//! cost nothing between two scrapes. No label has unbounded values: no key, session or user ever is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ovncp_raft::group::Group;
use ovncp_raft::status::GroupStatus;
use ovncp_state::command::NodeStatus;
use ovncp_state::view::{ClusterView, NodeView};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use super::summary::{Shared, Summary};

/// Statuses of a node as label values, so that each is always there.
const STATUSES: [(NodeStatus, &str); 5] = [
    (NodeStatus::Joining, "joining"),
    (NodeStatus::Active, "active"),
    (NodeStatus::Suspect, "suspect"),
    (NodeStatus::Inactive, "inactive"),
    (NodeStatus::Draining, "draining"),
];
/// Bounds of the histogram of HTTP requests, in seconds.
const HTTP_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 45.0];

/// What locks count.
pub struct LockMetrics {
    acquired: IntCounter,
    wait: Arc<Summary>,
}

impl LockMetrics {
    /// A lock was granted to a caller of this node, this long after it asked.
    pub fn acquired(&self, waited: Duration) {
        self.acquired.inc();
        self.wait.observe(waited);
    }
}

/// What the HTTP edge counts.
pub struct HttpMetrics {
    /// By status class: `1xx` to `5xx`.
    classes: [IntCounter; 5],
    seconds: Histogram,
    /// Requests in progress.
    pub in_flight: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
}

impl HttpMetrics {
    /// For tests of the edge alone.
    #[cfg(test)]
    pub(crate) fn unregistered() -> Arc<Self> {
        Arc::new(http_metrics(&Registry::new()).unwrap())
    }

    /// A request was answered.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

/// All metrics of one node.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// For the lock service.
    pub locks: Arc<LockMetrics>,
    /// For the HTTP edge.
    pub http: Arc<HttpMetrics>,
}

/// Two metrics of one name: a defect of this file.
type Registered<T> = Result<T, prometheus::Error>;

impl Metrics {
    /// Registers everything for this node.
    pub fn new(node: &str, group: Group) -> Registered<Self> {
        let registry = Registry::new();
        let locks = Arc::new(lock_metrics(&registry, node)?);
        let http = Arc::new(http_metrics(&registry)?);
        registry.register(Box::new(GroupCollector::new(node, group)?))?;
        Ok(Self { registry, locks, http })
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> Registered<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn lock_metrics(registry: &Registry, node: &str) -> Registered<LockMetrics> {
    let acquired = IntCounter::with_opts(
        Opts::new("ovncp_distributed_locks_acquired_total", "Locks granted to callers of this node.")
            .const_label("node_id", node),
    )?;
    registry.register(Box::new(acquired.clone()))?;
    let wait = Arc::new(Summary::new(
        "ovncp_distributed_lock_wait_seconds",
        "Time from an acquire to its grant, of callers of this node, over the last one to two minutes.",
    ));
    registry.register(Box::new(Shared(Arc::clone(&wait))))?;
    Ok(LockMetrics { acquired, wait })
}

fn http_metrics(registry: &Registry) -> Registered<HttpMetrics> {
    let requests = IntCounterVec::new(
        Opts::new("ovncp_http_requests_total", "HTTP requests answered, by class of status."),
        &["class"],
    )?;
    let seconds = Histogram::with_opts(
        HistogramOpts::new("ovncp_http_request_seconds", "Time to answer an HTTP request, waits included.")
            .buckets(HTTP_BUCKETS.to_vec()),
    )?;
    let in_flight = IntGauge::new("ovncp_http_requests_in_flight", "HTTP requests in progress.")?;
    let connections = IntGauge::new("ovncp_http_connections", "Open HTTP connections.")?;
    registry.register(Box::new(requests.clone()))?;
    registry.register(Box::new(seconds.clone()))?;
    registry.register(Box::new(in_flight.clone()))?;
    registry.register(Box::new(connections.clone()))?;
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| requests.with_label_values(&[class]));
    Ok(HttpMetrics { classes, seconds, in_flight, connections })
}

/// Gauges that are read from the group at each scrape.
struct GroupCollector {
    group: Group,
    node: String,
    nodes: GaugeVec,
    node_info: GaugeVec,
    leader: GaugeVec,
    locks_held: Gauge,
    lock_waiters: Gauge,
    kv_keys: Gauge,
    kv_bytes: Gauge,
    term: Gauge,
    last_log: Gauge,
    committed: Gauge,
    applied: Gauge,
    snapshot: Gauge,
    is_leader: Gauge,
    peer_lag: GaugeVec,
    build: GaugeVec,
}

impl GroupCollector {
    fn new(node: &str, group: Group) -> Registered<Self> {
        let gauge = |name: &str, help: &str| Gauge::new(name, help);
        let gauges = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let held = Opts::new(
            "ovncp_distributed_locks_held",
            "Locks held in the cluster, as this node applied them.",
        )
        .const_label("node_id", node);
        Ok(Self {
            group,
            node: node.to_owned(),
            nodes: gauges("ovncp_cluster_nodes_total", "Members by status.", &["status"])?,
            node_info: gauges(
                "ovncp_cluster_node_info",
                "One per member; always 1.",
                &["node_id", "hostname", "ip"],
            )?,
            leader: gauges("ovncp_cluster_leader", "1 for the leader as this node knows it.", &["node_id"])?,
            locks_held: Gauge::with_opts(held)?,
            lock_waiters: gauge("ovncp_lock_waiters", "Requests waiting for a lock in the cluster.")?,
            kv_keys: gauge("ovncp_kv_keys", "Registers in the cluster.")?,
            kv_bytes: gauge("ovncp_kv_bytes", "Bytes of keys and values of all registers.")?,
            term: gauge("ovncp_raft_term", "Raft term.")?,
            last_log: gauge("ovncp_raft_last_log_index", "Last entry in the log of this node.")?,
            committed: gauge("ovncp_raft_committed_index", "Last entry known to be committed.")?,
            applied: gauge("ovncp_raft_applied_index", "Last entry applied on this node.")?,
            snapshot: gauge("ovncp_raft_snapshot_index", "Last entry in the current snapshot.")?,
            is_leader: gauge("ovncp_raft_is_leader", "1 when this node leads.")?,
            peer_lag: gauges(
                "ovncp_raft_peer_lag_entries",
                "Entries a member is behind; on the leader.",
                &["node_id"],
            )?,
            build: gauges("ovncp_build_info", "Version of this binary; always 1.", &["version"])?,
        })
    }

    fn scalars(&self) -> [&Gauge; 10] {
        [
            &self.locks_held,
            &self.lock_waiters,
            &self.kv_keys,
            &self.kv_bytes,
            &self.term,
            &self.last_log,
            &self.committed,
            &self.applied,
            &self.snapshot,
            &self.is_leader,
        ]
    }

    fn families(&self) -> [&GaugeVec; 5] {
        [&self.nodes, &self.node_info, &self.leader, &self.peer_lag, &self.build]
    }

    fn refresh(&self) {
        let status = self.group.status();
        let (_, (cluster, nodes)) = self.group.read(|state| (state.cluster(), state.nodes()));
        self.refresh_totals(&cluster);
        self.refresh_raft(&status);
        self.refresh_nodes(&nodes, &status);
        self.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    }

    fn refresh_totals(&self, cluster: &ClusterView) {
        self.locks_held.set(cluster.locks_held as f64);
        self.lock_waiters.set(cluster.waiters as f64);
        self.kv_keys.set(cluster.kv_keys as f64);
        self.kv_bytes.set(cluster.kv_bytes as f64);
    }

    fn refresh_raft(&self, status: &GroupStatus) {
        self.term.set(status.term as f64);
        self.last_log.set(status.last_log.0 as f64);
        self.committed.set(status.committed.0 as f64);
        self.applied.set(status.applied.0 as f64);
        self.snapshot.set(status.snapshot.0 as f64);
        self.is_leader.set(f64::from(u8::from(status.is_leader)));
    }

    fn refresh_nodes(&self, nodes: &[NodeView], status: &GroupStatus) {
        // Members come and go: what is gone must not stay in the text.
        self.node_info.reset();
        self.leader.reset();
        self.peer_lag.reset();
        let names: BTreeMap<u64, &str> = nodes.iter().map(|node| (node.id.0, node.name.as_str())).collect();
        for (wanted, label) in STATUSES {
            let count = nodes.iter().filter(|node| node.status == wanted).count();
            self.nodes.with_label_values(&[label]).set(count as f64);
        }
        for node in nodes {
            let labels = [node.name.as_str(), node.info.hostname.as_str(), node.info.ip.as_str()];
            self.node_info.with_label_values(&labels).set(1.0);
        }
        let leader = status.leader.and_then(|id| names.get(&id.0).copied());
        if let Some(leader) = leader.or(status.is_leader.then_some(self.node.as_str())) {
            self.leader.with_label_values(&[leader]).set(1.0);
        }
        for peer in &status.peers {
            if let Some(name) = names.get(&peer.id.0) {
                self.peer_lag.with_label_values(&[*name]).set(peer.lag as f64);
            }
        }
    }
}

impl Collector for GroupCollector {
    fn desc(&self) -> Vec<&Desc> {
        let scalars = self.scalars().into_iter().flat_map(Collector::desc);
        scalars.chain(self.families().into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        let scalars = self.scalars().into_iter().flat_map(Collector::collect);
        scalars.chain(self.families().into_iter().flat_map(Collector::collect)).collect()
    }
}
