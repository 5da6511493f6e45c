//! What is counted about one database. Plain numbers; who shows them gives them names.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }
}

/// Counters of one [`Database`](crate::database::Database), since it was opened.
#[derive(Debug, Default)]
pub struct DatabaseMetrics {
    /// Attempts to reach an endpoint.
    pub attempts: Counter,
    /// Sessions that came in sync.
    pub sessions: Counter,
    /// Sessions in sync that ended.
    pub sessions_lost: Counter,
    /// Times the whole contents were read and swapped, the first one included.
    pub resyncs_full: Counter,
    /// Times only what was missed was read.
    pub resyncs_fast: Counter,
    /// Microseconds from the request for the whole contents to the swap, in total.
    pub resync_micros: Counter,
    /// Notifications of changes.
    pub updates: Counter,
    /// Rows that they changed.
    pub rows_changed: Counter,
    /// Notifications that this client does not know.
    pub notifications_unknown: Counter,
    /// Bytes sent.
    pub bytes_sent: Counter,
    /// Bytes received.
    pub bytes_received: Counter,
    /// Transactions that were committed.
    pub transactions_committed: Counter,
    /// Transactions that the database refused.
    pub transactions_rejected: Counter,
    /// Transactions that were never sent.
    pub transactions_unavailable: Counter,
    /// Transactions whose answer was lost.
    pub transactions_unknown: Counter,
    /// Microseconds that committed and refused transactions took, waiting in this client included, in total.
    pub transaction_micros: Counter,
    /// Round trips of barriers; each serves all who waited for it.
    pub barriers: Counter,
}
