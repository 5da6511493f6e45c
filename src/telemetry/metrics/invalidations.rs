//! What the invalidation log does to the caches of this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ovncp_state::InvalidationOffset;
use prometheus::proto::MetricFamily;

use super::declared::{Declared, declare};
use super::summary::Summary;
use crate::cache::{CacheCounters, Registry};

declare! {
    /// The invalidation log and the local caches.
    CACHES:
    EVENTS = Counter "ovncp_cache_invalidation_events_total" {node_id} in "entries",
        "Entries of the invalidation log that this node has cleared from its caches; each entry counts on every node, so compare nodes and do not add them.",
        night "One node falls behind the others: look at ovncp_cache_invalidation_lag and ovncp_raft_applied_index there.";
    LATENCY = Summary "ovncp_cache_invalidation_latency_seconds" {} in "seconds",
        "Time from the proposal of an invalidation at this node until it was in the log and cleared here, by this node's clock; quantiles over the last one to two minutes.",
        night "Follows the disk and the network like every write: see ovncp_storage_sync_seconds. ovncp invalidate --wait shows which node is late.";
    LAG = Gauge "ovncp_cache_invalidation_lag" {node_id} in "entries",
        "Entries of the log that this node has applied and not yet cleared.",
        night "More than 0 for long: the caches are huge or the node has no CPU left.";
    RESETS = Counter "ovncp_cache_invalidation_resets_total" {node_id} in "resets",
        "Times that entries were missed (no longer kept, or a restore) and all caches of this node were emptied.",
        night "This node was behind by more than the log keeps (65,536 entries, an hour): look for pauses of it.";
    TRUSTED = Gauge "ovncp_cache_trusted" {node_id} in "1",
        "1 while the caches of this node serve what they keep; 0 while it has not been certain of a majority for a third of the node time-out.",
        night "0 for long: this node is cut off or inactive; its caches are bypassed, and the database gets every read.";
    HITS = Counter "ovncp_cache_hits_total" {cache} in "calls",
        "Calls that a kept value answered, per cache.",
        night "Compare with the misses: a rate that falls means too little room, too short a time to live, or too broad patterns.";
    MISSES = Counter "ovncp_cache_misses_total" {cache} in "calls",
        "Calls that had to load or to wait for somebody's load, per cache.",
        night "See the hits.";
    EVICTIONS = Counter "ovncp_cache_evictions_total" {cache} in "values",
        "Values given up for want of room, per cache.",
        night "A high rate beside many misses: the cache is too small for what is asked of it.";
    CLEARED = Counter "ovncp_cache_cleared_total" {cache} in "values",
        "Values that the log cleared, per cache.",
        night "Many per entry: somebody invalidates broader than needed. ovncp watch --types invalidation shows who.";
    INCONSISTENCIES = Counter "ovncp_cache_inconsistencies_total" {cache} in "values",
        "Loaded values that were not kept, since they were invalidated while they were being loaded, per cache.",
        night "Each one is a stale value that was kept out. Many: loads are slow compared with the rate of invalidations.";
    FAILURES = Counter "ovncp_cache_load_failures_total" {cache} in "loads",
        "Loads that failed, per cache.",
        night "Look at what the cache stands in front of.";
    ENTRIES = Gauge "ovncp_cache_entries" {cache} in "values",
        "Values that are kept, per cache.", night "Bounded by the cache.";
    BYTES = Gauge "ovncp_cache_bytes" {cache} in "bytes",
        "Bytes of the kept values, roughly, per cache.", night "Bounded by the cache.";
}

/// What the invalidation log counts on this node, and its caches.
pub struct InvalidationMetrics {
    caches: Arc<Registry>,
    cleared: AtomicU64,
    /// The first offset that is not cleared here.
    next: AtomicU64,
    resets: AtomicU64,
    latency: Summary,
}

impl InvalidationMetrics {
    /// Counts nothing yet.
    #[must_use]
    pub fn new(caches: Arc<Registry>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { caches, cleared: zero(), next: zero(), resets: zero(), latency: Summary::new() }
    }

    /// One more entry is cleared here.
    pub fn cleared(&self) {
        self.cleared.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything before this offset is cleared here.
    pub fn cleared_to(&self, next: InvalidationOffset) {
        self.next.store(next.0, Ordering::Relaxed);
    }

    /// Entries were missed.
    pub fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry that was asked for here is cleared here, this long after it was proposed.
    pub fn delivered(&self, took: Duration) {
        self.latency.observe(took);
    }

    /// `end` is where the next entry of the log goes.
    pub(crate) fn families(&self, node: &str, end: InvalidationOffset) -> Vec<MetricFamily> {
        let lag = end.0.saturating_sub(self.next.load(Ordering::Relaxed));
        let caches = self.caches.counters();
        let each = |declared: &Declared, read: fn(&CacheCounters) -> u64| {
            declared.each(caches.iter().map(|(name, counters)| (*name, read(counters) as f64)))
        };
        vec![
            EVENTS.each([(node, self.cleared.load(Ordering::Relaxed) as f64)]),
            self.latency.family(&LATENCY),
            LAG.each([(node, lag as f64)]),
            RESETS.each([(node, self.resets.load(Ordering::Relaxed) as f64)]),
            TRUSTED.each([(node, f64::from(u8::from(self.caches.is_trusted())))]),
            each(&HITS, |counters| counters.hits),
            each(&MISSES, |counters| counters.misses),
            each(&EVICTIONS, |counters| counters.evictions),
            each(&CLEARED, |counters| counters.cleared),
            each(&INCONSISTENCIES, |counters| counters.inconsistencies),
            each(&FAILURES, |counters| counters.failures),
            each(&ENTRIES, |counters| counters.entries),
            each(&BYTES, |counters| counters.bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use crate::cache::{Cache, CacheOptions, Loaded};

    #[tokio::test]
    async fn everything_declared_is_shown_once_there_is_a_cache() {
        let caches = Arc::new(Registry::default());
        let metrics = InvalidationMetrics::new(Arc::clone(&caches));
        let kept: Cache<str, u64> = caches.cache(CacheOptions::new("ports"));
        let load = || async { Ok::<_, std::io::Error>(Loaded::new(1)) };
        for _ in 0..3 {
            kept.get_or_load("a", load).await.unwrap();
        }
        metrics.cleared();
        metrics.cleared_to(InvalidationOffset(1));
        metrics.delivered(Duration::from_millis(2));
        let text = encode(metrics.families("node-1", InvalidationOffset(4))).unwrap();
        let text = String::from_utf8(text).unwrap();
        for metric in CACHES {
            assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
        for line in [
            "ovncp_cache_invalidation_events_total{node_id=\"node-1\"} 1",
            "ovncp_cache_invalidation_latency_seconds_count 1",
            "ovncp_cache_invalidation_lag{node_id=\"node-1\"} 3",
            "ovncp_cache_hits_total{cache=\"ports\"} 2",
            "ovncp_cache_misses_total{cache=\"ports\"} 1",
            "ovncp_cache_entries{cache=\"ports\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("ovncp_cache_invalidation_latency_seconds{quantile=\"0.99\"} 0.00"), "{text}");
    }
}
