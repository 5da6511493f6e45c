//! What locks count, and the observer that sees them end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ovncp_raft::Observer;
use ovncp_state::event::{EventKind, ReleaseCause};
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::sink::AppliedEntry;
use prometheus::proto::MetricFamily;

use super::buckets::Buckets;
use super::classes::Classes;
use super::declared::declare;
use super::summary::Summary;
use crate::services::elections;

declare! {
    /// Locks, as the clients of this node see them.
    LOCKS:
    ACQUIRED = Counter "ovncp_distributed_locks_acquired_total" {node_id} in "locks",
        "Locks granted to clients of this node.",
        night "A rate of 0 while clients ask: look at ovncp_http_problems_total for what they are told instead.";
    HELD = Gauge "ovncp_distributed_locks_held" {node_id} in "locks",
        "Locks and elections held by clients of this node; the sum over nodes is the cluster's, but for locks whose node was removed.",
        night "Growing without end: clients forget to release. ovncp locks --prefix shows owners and ages.";
    WAIT = Summary "ovncp_distributed_lock_wait_seconds" {} in "seconds",
        "Time from an acquire to its grant, of clients of this node; quantiles over the last one to two minutes.",
        night "Contention. ovncp_lock_wait_seconds tells the class, ovncp locks the holder and the queue.";
    CLASS_WAIT = Histogram "ovncp_lock_wait_seconds" {class} in "seconds",
        "The same per lock class (the key up to its first colon; 32 classes, then 'other'); several keys count once, by the first.",
        night "Compare with ovncp_lock_hold_seconds of the class: shorten what is done under the lock, or split the key.";
    CLASS_HOLD = Histogram "ovncp_lock_hold_seconds" {class} in "seconds",
        "Time a lock was held, per lock class; counted by the node whose entry ended it, so sum over nodes.",
        night "Holders are slow or hang: ovncp locks shows owner and age; a hanging one can be ended with a reason.";
    ENDED = Counter "ovncp_lock_ends_total" {cause} in "locks",
        "Locks that ended, by cause (released, expired, forced, cancelled); counted by the node whose entry ended it; terms of elections are none.",
        night "Many 'expired': clients die or cannot renew in time. Look at their logs and at ovncp_raft_renewals_total.";
}

/// Bounds of the histograms of locks, in seconds.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0];
/// Causes as label values, in the order of [`cause_position`].
const CAUSES: [&str; 5] = ["released", "expired", "forced", "cancelled", "session_ended"];

/// What locks count.
pub struct LockMetrics {
    acquired: AtomicU64,
    wait: Summary,
    class_wait: Classes<Buckets>,
    class_hold: Classes<Buckets>,
    ended: [AtomicU64; CAUSES.len()],
    /// This node's Raft id once it serves, 0 before: what a starting node replays it has counted before.
    counts_for: AtomicU64,
}

impl Default for LockMetrics {
    fn default() -> Self {
        let buckets = || Buckets::new(&BOUNDS);
        Self {
            acquired: AtomicU64::new(0),
            wait: Summary::new(),
            class_wait: Classes::new(buckets),
            class_hold: Classes::new(buckets),
            ended: Default::default(),
            counts_for: AtomicU64::new(0),
        }
    }
}

impl LockMetrics {
    /// A lock on these keys was granted to a caller of this node, this long after it asked.
    pub fn acquired(&self, keys: &[String], waited: Duration) {
        self.acquired.fetch_add(1, Ordering::Relaxed);
        self.wait.observe(waited);
        if let Some(key) = keys.first() {
            self.class_wait.of(key).observe(waited);
        }
    }

    /// From now on the entries of this node are counted.
    pub fn go_live(&self, node: NodeId) {
        self.counts_for.store(node.0, Ordering::Relaxed);
    }

    fn ended(&self, kind: &EventKind) {
        let EventKind::LockReleased { keys, cause, held, .. } = kind else { return };
        // A term of office is no critical section.
        if !keys.iter().any(|key| elections::name_of(key).is_some()) {
            self.ended[cause_position(*cause)].fetch_add(1, Ordering::Relaxed);
            if let Some(key) = keys.first() {
                self.class_hold.of(key).observe(Duration::from_millis(held.0));
            }
        }
    }

    pub(crate) fn families(&self, node: &str) -> Vec<MetricFamily> {
        let per_class = |classes: &Classes<Buckets>, declared: &super::Declared| {
            let metrics = classes.each().into_iter();
            declared.family(metrics.filter_map(|(class, kept)| kept.metric(declared, &[&class])).collect())
        };
        let ended = CAUSES.iter().zip(&self.ended);
        let acquired = self.acquired.load(Ordering::Relaxed) as f64;
        vec![
            ACQUIRED.each([(node, acquired)]),
            self.wait.family(&WAIT),
            per_class(&self.class_wait, &CLASS_WAIT),
            per_class(&self.class_hold, &CLASS_HOLD),
            ENDED.each(ended.map(|(cause, count)| (*cause, count.load(Ordering::Relaxed) as f64))),
        ]
    }
}

/// Counts what the entries of this node ended. Every node sees every end, so each is counted once in the cluster.
pub struct LockObserver(pub Arc<LockMetrics>);

impl Observer for LockObserver {
    fn applied(&self, entries: &[AppliedEntry]) {
        let metrics = &self.0;
        let own = metrics.counts_for.load(Ordering::Relaxed);
        if own == 0 {
            return;
        }
        for entry in entries.iter().filter(|entry| entry.origin.node.0 == own) {
            entry.applied.events.iter().for_each(|event| metrics.ended(&event.kind));
        }
    }

    fn installed(&self, _index: LogIndex) {}
}

/// The position in [`CAUSES`].
fn cause_position(cause: ReleaseCause) -> usize {
    match cause {
        ReleaseCause::Released => 0,
        ReleaseCause::Expired => 1,
        ReleaseCause::Forced => 2,
        ReleaseCause::Cancelled => 3,
        ReleaseCause::SessionEnded => 4,
    }
}

#[cfg(test)]
mod tests {
    use ovncp_state::{Applied, Event, EventOffset, FencingToken, Millis, Reply};
    use ovncp_storage::types::Origin;

    use super::*;

    fn released_by(node: u64, key: &str, held: u64) -> AppliedEntry {
        let kind = EventKind::LockReleased {
            keys: vec![key.to_owned()],
            owner: "me".to_owned(),
            token: FencingToken(1),
            cause: ReleaseCause::Released,
            held: Millis(held),
            reason: String::new(),
        };
        let event = Arc::new(Event { offset: EventOffset(0), at: Millis(0), kind });
        let applied = Applied {
            reply: Reply::Done,
            events: vec![event],
            notices: Vec::new(),
            appended: ovncp_state::Appended::default(),
        };
        AppliedEntry {
            index: LogIndex(1),
            term: 1,
            origin: Origin { node: NodeId(node), ticket: 0 },
            applied,
        }
    }

    #[test]
    fn an_end_is_counted_by_the_node_of_its_entry_and_not_when_replayed() {
        let metrics = Arc::new(LockMetrics::default());
        let observer = LockObserver(Arc::clone(&metrics));
        observer.applied(&[released_by(2, "switch:1", 5)]);
        metrics.go_live(NodeId(2));
        observer.applied(&[released_by(1, "switch:1", 5), released_by(2, "switch:1", 20)]);
        assert_eq!(metrics.ended[0].load(Ordering::Relaxed), 1);
        let metric = metrics.class_hold.of("switch:9").metric(&CLASS_HOLD, &["switch"]).unwrap();
        assert!((metric.get_histogram().get_sample_sum() - 0.02).abs() < 1e-9);
    }
}
