//! The leader's clock: what stamps every entry with cluster time.
//!
//! Cluster time is the replicated `now`, carried forward by the monotonic clock of whoever leads. A new leader
//! re-anchors once it has applied the first entry of its own term: every earlier stamp is applied by then, so
//! its clock starts where the last leader's entries ended and the time without a leader does not count. The
//! wall clock is never read, so stepping it changes nothing.

use ovncp_state::Millis;
use tokio::time::Instant;

/// A leader's clock during one term of office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaderClock {
    term: u64,
    anchor: Millis,
    anchored_at: Instant,
}

impl LeaderClock {
    /// Starts at `applied`, the state's `now` after an entry of `term` was applied here, read at `instant`.
    pub(crate) fn anchor(term: u64, applied: Millis, instant: Instant) -> Self {
        Self { term, anchor: applied, anchored_at: instant }
    }

    /// The term it is good for.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Cluster time at `instant`. Never before the anchor.
    pub(crate) fn at(&self, instant: Instant) -> Millis {
        let elapsed = instant.saturating_duration_since(self.anchored_at).as_millis();
        Millis(self.anchor.0.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)))
    }

    /// Cluster time now.
    pub(crate) fn now(&self) -> Millis {
        self.at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_continues_from_the_applied_time_with_the_monotonic_clock() {
        let start = Instant::now();
        let clock = LeaderClock::anchor(3, Millis(5_000), start);
        assert_eq!(clock.term(), 3);
        assert_eq!(clock.at(start), Millis(5_000));
        assert_eq!(clock.at(start + Duration::from_micros(1_999)), Millis(5_001));
        assert_eq!(clock.at(start + Duration::from_secs(3_600)), Millis(3_605_000));
    }

    #[test]
    fn it_never_runs_backwards_and_never_overflows() {
        let start = Instant::now() + Duration::from_secs(10);
        let clock = LeaderClock::anchor(1, Millis(u64::MAX - 1), start);
        assert_eq!(clock.at(start - Duration::from_secs(5)), Millis(u64::MAX - 1));
        assert_eq!(clock.at(start + Duration::from_secs(5)), Millis(u64::MAX));
    }

    #[test]
    fn a_new_anchor_leaves_out_the_time_without_a_leader() {
        let start = Instant::now();
        let first = LeaderClock::anchor(1, Millis(0), start);
        let last_stamp = first.at(start + Duration::from_secs(2));
        // 30 seconds pass before anybody leads again; the state's clock stood still meanwhile.
        let second = LeaderClock::anchor(2, last_stamp, start + Duration::from_secs(32));
        assert_eq!(second.at(start + Duration::from_secs(33)), Millis(3_000));
    }
}
