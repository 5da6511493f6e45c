//! What this process knows for certain of its own lease, on its own clock.

use std::time::{Duration, Instant};

/// A lease as proven by its last acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// When the acknowledged request was sent: the cluster counts the TTL from later than that.
    proven: Instant,
    ttl: Duration,
}

impl Lease {
    pub(super) fn new(sent: Instant, ttl: Duration) -> Lease {
        Lease { proven: sent, ttl }
    }

    pub(super) fn ttl(self) -> Duration {
        self.ttl
    }

    /// Not held with certainty from here on.
    pub(super) fn ends_at(self) -> Instant {
        self.proven + self.ttl
    }

    /// The next renewal.
    pub(super) fn renew_at(self) -> Instant {
        self.proven + self.ttl / 3
    }

    /// SIGTERM to what runs under it, when no renewal came.
    pub(super) fn end_at(self) -> Instant {
        self.ends_at() - (self.ttl / 5).min(Duration::from_secs(5))
    }

    /// SIGKILL to what is left, with time for it to take effect before the lease ends.
    pub(super) fn kill_at(self) -> Instant {
        self.ends_at() - (self.ttl / 10).min(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_twice_over_before_the_command_is_ended_and_killed_before_the_end() {
        let now = Instant::now();
        for ttl_ms in [500, 1_000, 30_000, 86_400_000] {
            let lease = Lease::new(now, Duration::from_millis(ttl_ms));
            assert!(lease.renew_at() + lease.ttl() / 3 < lease.end_at(), "{ttl_ms}: room for a second try");
            assert!(lease.end_at() < lease.kill_at(), "{ttl_ms}");
            assert!(lease.kill_at() < lease.ends_at(), "{ttl_ms}");
            assert_eq!(lease.ends_at(), now + Duration::from_millis(ttl_ms));
        }
    }
}
