//! What this process knows for certain of its own lease, on its own monotonic clock.

use std::time::{Duration, Instant};

/// Of the lease, so much is kept free at its end to stop what runs under the lock.
pub(super) const SAFETY_MARGIN_SHARE: u32 = 5;
/// ... but never more than this.
pub(super) const SAFETY_MARGIN_MAX: Duration = Duration::from_secs(5);
/// A lease is renewed after this share of it, which leaves time for further tries.
const RENEW_SHARE: u32 = 3;
/// A lease that ever less remains of (`max_hold`) is not renewed more often than this.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(50);
/// More than any lease has; what a wrong answer says beyond it is cut off.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A lease as its last acknowledgement proves it. The cluster counts the TTL from a moment after the
/// acknowledged request was *sent*, so the lease cannot have ended before sending + TTL, however long the
/// answer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    sent: Instant,
    ttl: Duration,
}

impl Lease {
    /// Proven by a request that was sent then and answered with this TTL.
    #[must_use]
    pub fn new(sent: Instant, ttl: Duration) -> Self {
        Self { sent, ttl: ttl.min(TTL_MAX) }
    }

    /// What was granted.
    #[must_use]
    pub fn ttl(self) -> Duration {
        self.ttl
    }

    /// When it may be another's. Not held with certainty from here on.
    #[must_use]
    pub fn ends_at(self) -> Instant {
        self.sent + self.ttl
    }

    /// When it counts as lost without a newer acknowledgement: [`ends_at`](Self::ends_at) less a safety margin,
    /// in which what runs under the lock is brought to an end. The margin is a fifth of the TTL, at most 5 s.
    #[must_use]
    pub fn lost_at(self) -> Instant {
        self.ends_at() - (self.ttl / SAFETY_MARGIN_SHARE).min(SAFETY_MARGIN_MAX)
    }

    /// When it is renewed next.
    #[must_use]
    pub fn renew_at(self) -> Instant {
        self.sent + (self.ttl / RENEW_SHARE).max(RENEW_PAUSE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_twice_over_before_it_counts_as_lost_and_lost_before_it_ends() {
        let sent = Instant::now();
        for ttl_ms in [500, 1_000, 30_000, 86_400_000] {
            let ttl = Duration::from_millis(ttl_ms);
            let lease = Lease::new(sent, ttl);
            assert!(lease.renew_at() + ttl / 3 < lease.lost_at(), "{ttl_ms}: room for a second try");
            assert!(
                lease.lost_at() + ttl / 10 <= lease.ends_at() || ttl > Duration::from_secs(50),
                "{ttl_ms}"
            );
            assert!(lease.ends_at() - lease.lost_at() <= SAFETY_MARGIN_MAX, "{ttl_ms}");
            assert_eq!(lease.ends_at(), sent + ttl);
        }
    }

    #[test]
    fn a_lease_that_nothing_remains_of_is_not_renewed_for_ever() {
        let sent = Instant::now();
        for ttl_ms in [0, 1, 10, 50] {
            let lease = Lease::new(sent, Duration::from_millis(ttl_ms));
            assert!(lease.lost_at() <= lease.renew_at(), "{ttl_ms}");
        }
    }
}
