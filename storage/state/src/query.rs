//! Totals for readers.

use crate::clock::Lease;
use crate::view::ClusterView;
use crate::{NodeId, State};

impl State {
    /// Identity and totals.
    pub fn cluster(&self) -> ClusterView {
        let totals = self.live_totals();
        ClusterView {
            cluster_id: self.meta.cluster_id,
            epoch: self.meta.epoch,
            formed_at_unix_ms: self.meta.formed_at_unix_ms,
            voters_target: self.meta.voters_target,
            version: self.version,
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

    /// Live grants whose clients asked at `node`. Counted, not walked.
    pub fn locks_held_by(&self, node: NodeId) -> u64 {
        let counted = self.locks.held_by.get(&node).copied().unwrap_or(0);
        let ended = self.deadlines.ended(self.meta.now).filter(|lease| match lease {
            Lease::Grant(token) => self.locks.grants.get(token).is_some_and(|grant| grant.node == node),
            Lease::Waiter(_) | Lease::Register(_) | Lease::Session(_) => false,
        });
        counted.saturating_sub(ended.count() as u64)
    }
}
