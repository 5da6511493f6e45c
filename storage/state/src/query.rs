//! Totals for readers.

use crate::State;
use crate::view::ClusterView;

impl State {
    /// Identity and totals.
    pub fn cluster(&self) -> ClusterView {
        let totals = self.live_totals();
        ClusterView {
            cluster_id: self.meta.cluster_id,
            epoch: self.meta.epoch,
            formed_at_unix_ms: self.meta.formed_at_unix_ms,
            voters_target: self.meta.voters_target,
            now: self.meta.now,
            leader: self.meta.leader,
            nodes: self.live_nodes().count() as u64,
            locks_held: totals.grants as u64,
            waiters: totals.waiters as u64,
            kv_keys: totals.registers as u64,
            kv_bytes: totals.register_bytes as u64,
            events: self.kept_events(),
            requests_kept: self.requests.table.len() as u64,
        }
    }
}
