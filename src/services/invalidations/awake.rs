//! Whether this machine was suspended since its caches were last trusted.
//!
//! Deadlines go by the monotonic clock, which stands still while a machine is suspended: by it, the trust of before would
//! hold after a night, though the others have counted this node out long ago. The clock since boot goes on; what it is
//! ahead is the time spent in suspend, and when that has grown, the trust is over.
//!
//! CAVEAT. A hypervisor that pauses its guest may stop both clocks: then nobody in the guest knows of the pause before
//! the others are heard again. See docs/decisions/0034.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// More suspended time than this ends the trust. Less may be the time between two looks at clocks.
const SUSPENDED_MAX: Duration = Duration::from_millis(100);

/// The two clocks of this machine, or of a test.
pub(super) trait Clocks: Send + Sync {
    /// Stands still while the machine is suspended.
    fn monotonic(&self) -> Duration;
    /// Does not.
    fn since_boot(&self) -> Duration;
}

/// Those of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine;

impl Clocks for Machine {
    fn monotonic(&self) -> Duration {
        now(ClockId::Monotonic)
    }

    fn since_boot(&self) -> Duration {
        now(ClockId::Boottime)
    }
}

fn now(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// What the machine had slept when its caches were last trusted.
#[derive(Debug, Default)]
pub(super) struct Awake<C = Machine> {
    clocks: C,
    slept_ns: AtomicU64,
}

/// A moment before which nothing counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(Duration);

impl<C: Clocks> Awake<C> {
    /// Now. Never too late: whoever is interrupted between the clocks takes the machine for less rested than it is.
    pub(super) fn moment(&self) -> Moment {
        let since_boot = self.clocks.since_boot();
        Moment(since_boot.saturating_sub(self.clocks.monotonic()))
    }

    /// The caches are trusted for what was found out after `begun`.
    pub(super) fn trusted(&self, begun: Moment) {
        self.slept_ns.store(nanoseconds(begun.0), Ordering::Release);
    }

    /// Whether the machine was awake since then. In doubt it was not.
    pub(super) fn holds(&self) -> bool {
        let slept = Duration::from_nanos(self.slept_ns.load(Ordering::Acquire));
        let monotonic = self.clocks.monotonic();
        let now = self.clocks.since_boot().saturating_sub(monotonic);
        now.saturating_sub(slept) <= SUSPENDED_MAX
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of the monotonic clock, and slept.
    #[derive(Default)]
    struct Fake(AtomicU64, AtomicU64);

    impl Fake {
        fn pass(&self, awake: u64, suspended: u64) {
            self.0.fetch_add(awake, Ordering::Relaxed);
            self.1.fetch_add(suspended, Ordering::Relaxed);
        }
    }

    impl Clocks for Fake {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }

        fn since_boot(&self) -> Duration {
            self.monotonic() + Duration::from_millis(self.1.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_suspend_ends_the_trust_until_it_is_given_anew() {
        let awake: Awake<Fake> = Awake::default();
        awake.clocks.pass(10_000, 60_000);
        assert!(!awake.holds(), "never trusted");
        awake.trusted(awake.moment());
        awake.clocks.pass(1_000_000, 0);
        assert!(awake.holds(), "time alone is the business of the deadline");
        let begun = awake.moment();
        awake.clocks.pass(0, 60_000);
        assert!(!awake.holds());
        // Found out before the suspend, said after it.
        awake.trusted(begun);
        assert!(!awake.holds());
        awake.trusted(awake.moment());
        assert!(awake.holds());
    }

    #[test]
    fn the_clocks_of_this_machine_agree_while_it_is_awake() {
        let awake = Awake::<Machine>::default();
        awake.trusted(awake.moment());
        // One look may be interrupted for long; not every one of so many.
        assert!((0..1_000).any(|_| awake.holds()));
        assert!(Machine.since_boot() >= Duration::from_nanos(1));
    }
}
