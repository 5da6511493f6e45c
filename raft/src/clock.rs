//! The leader's clock: what stamps every entry with cluster time.
//!
//! Cluster time is the replicated `now`, carried forward by the monotonic clock of whoever leads. A new leader
//! re-anchors once it has applied the first entry of its own term: every earlier stamp is applied by then, so
//! its clock starts where the last leader's entries ended and the time without a leader does not count.
//!
//! A leader without its quorum is no better than none: nobody can renew a lease with it. So the clock runs at
//! most a grace of [`GRACE_MIN`] (or [`GRACE_HEARTBEATS`], where these take longer) beyond the last
//! acknowledgement of a quorum and then stands still until the next one arrives, also when the whole process (or
//! every process) stood still meanwhile. One that arrives when the clock stands still already lets it run on for as long
//! as it is newer than the one before, the grace at most: followers whose disks are slow acknowledge late, but they do,
//! and a report that is merely late adds nothing that was not acknowledged. The wall clock is never read, so stepping it
//! changes nothing.
//!
//! It never makes up for time in which it stood still, not even for the way of the acknowledgement that ends it:
//! an entry may have been stamped meanwhile, and a leap would end the leases that it granted before their time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ovncp_state::Millis;
use tokio::time::Instant;

/// How far the clock runs at least beyond the last known acknowledgement of a quorum.
const GRACE_MIN: Duration = Duration::from_millis(500);
/// The same in intervals of Raft's heartbeats: several, so that it never stands still under a leader that works,
/// however slow its heartbeats are.
const GRACE_HEARTBEATS: u32 = 5;

/// A leader's clock during one term of office.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderClock {
    term: u64,
    /// Cluster time at `anchored_at`.
    anchor: Millis,
    anchored_at: Instant,
    /// When that was sent which a quorum acknowledged last.
    confirmed: Instant,
    /// Here it stands still.
    runs_until: Instant,
    grace: Duration,
}

impl LeaderClock {
    /// Starts at `applied`, the state's `now` after an entry of `term` was applied here, read at `instant`, under
    /// a leader that sends `heartbeat`s so often.
    pub(crate) fn anchor(term: u64, applied: Millis, instant: Instant, heartbeat: Duration) -> Self {
        let grace = GRACE_MIN.max(heartbeat.saturating_mul(GRACE_HEARTBEATS));
        Self {
            term,
            anchor: applied,
            anchored_at: instant,
            confirmed: instant,
            runs_until: instant + grace,
            grace,
        }
    }

    /// The term it is good for.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// It is known `now` that a quorum acknowledged what this leader sent at `sent`.
    pub(crate) fn confirm(&mut self, sent: Instant, now: Instant) {
        if sent <= self.confirmed {
            return;
        }
        let gained = sent.duration_since(self.confirmed);
        self.confirmed = sent;
        if now > self.runs_until {
            // It stood still until now: the gap does not count.
            self.anchor = self.at(now);
            self.anchored_at = now;
            self.runs_until = now;
        }
        self.runs_until = (self.runs_until + gained).min(now + self.grace).max(sent + self.grace);
    }

    /// Cluster time at `instant`. Never before the anchor, never more than the grace beyond the last news of a quorum.
    pub(crate) fn at(&self, instant: Instant) -> Millis {
        let running = instant.min(self.runs_until);
        let elapsed = running.saturating_duration_since(self.anchored_at).as_millis();
        Millis(self.anchor.0.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)))
    }
}

/// What [`Mutant::ExpiryByWallClock`](ovncp_state::mutants::Mutant) takes for cluster time.
#[expect(clippy::disallowed_methods, reason = "a mutant, to show that tests would notice")]
pub(crate) fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(40);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_continues_from_the_applied_time_with_the_monotonic_clock() {
        let start = Instant::now();
        let mut clock = LeaderClock::anchor(3, Millis(5_000), start, BEAT);
        assert_eq!(clock.term(), 3);
        assert_eq!(clock.at(start), Millis(5_000));
        assert_eq!(clock.at(start + Duration::from_micros(1_999)), Millis(5_001));
        for passed in 1..=36_000 {
            let now = start + Duration::from_millis(100 * passed);
            clock.confirm(now, now);
        }
        assert_eq!(clock.at(start + seconds(3_600)), Millis(3_605_000));
    }

    #[test]
    fn it_never_runs_backwards_and_never_overflows() {
        let start = Instant::now() + seconds(10);
        let mut clock = LeaderClock::anchor(1, Millis(u64::MAX - 1), start, BEAT);
        assert_eq!(clock.at(start - seconds(5)), Millis(u64::MAX - 1));
        clock.confirm(start + Duration::from_millis(400), start + Duration::from_millis(400));
        clock.confirm(start, start + Duration::from_millis(401));
        assert_eq!(clock.at(start + Duration::from_millis(800)), Millis(u64::MAX));
    }

    #[test]
    fn a_new_anchor_leaves_out_the_time_without_a_leader() {
        let start = Instant::now();
        let mut first = LeaderClock::anchor(1, Millis(0), start, BEAT);
        first.confirm(start + Duration::from_millis(400), start + Duration::from_millis(400));
        let last_stamp = first.at(start + Duration::from_millis(450));
        // 30 seconds pass before anybody leads again; the state's clock stood still meanwhile.
        let second = LeaderClock::anchor(2, last_stamp, start + seconds(32), BEAT);
        assert_eq!(second.at(start + seconds(32) + Duration::from_millis(50)), Millis(500));
    }

    #[test]
    fn it_stands_still_without_a_quorum_and_goes_on_with_the_next_acknowledgement() {
        let start = Instant::now();
        let mut clock = LeaderClock::anchor(1, Millis(1_000), start, BEAT);
        clock.confirm(start + Duration::from_millis(300), start + Duration::from_millis(300));
        let still = Millis(1_000 + 300 + 500);
        assert_eq!(clock.at(start + seconds(5)), still);
        assert_eq!(clock.at(start + seconds(60)), still);
        clock.confirm(start + seconds(60), start + seconds(60));
        assert_eq!(clock.at(start + seconds(60)), still);
        assert_eq!(clock.at(start + seconds(60) + Duration::from_millis(40)), Millis(still.0 + 40));
    }

    /// Else a lease that was granted while it stood still would end before its time.
    #[test]
    fn an_acknowledgement_that_arrives_late_makes_it_go_on_but_not_leap() {
        let start = Instant::now();
        let millis = |millis| start + Duration::from_millis(millis);
        // Sent before it stood still (at 500), and after.
        for (sent, end) in [(450, 950), (600, 1_000)] {
            let mut clock = LeaderClock::anchor(1, Millis(0), start, BEAT);
            assert_eq!(clock.at(millis(900)), Millis(500));
            clock.confirm(millis(sent), millis(900));
            assert_eq!(clock.at(millis(900)), Millis(500), "sent at {sent}");
            assert_eq!(clock.at(millis(1_000)), Millis(600), "sent at {sent}");
            // The same acknowledgement again is no news.
            clock.confirm(millis(sent), millis(1_300));
            assert_eq!(clock.at(millis(5_000)), Millis(end), "sent at {sent}");
        }
    }

    /// The leader is busy, its followers are gone: what it hears late is not the time until it heard it.
    #[test]
    fn a_report_that_comes_late_adds_what_it_acknowledges_and_no_more() {
        let start = Instant::now();
        let millis = |millis| start + Duration::from_millis(millis);
        let mut clock = LeaderClock::anchor(1, Millis(0), start, BEAT);
        for beat in (40..=1_000).step_by(40) {
            clock.confirm(millis(beat), millis(beat));
        }
        clock.confirm(millis(1_040), millis(2_500));
        assert_eq!(clock.at(millis(60_000)), Millis(1_040 + 500));
    }

    /// Followers with slow disks: the cluster works, and so must its leases and deadlines.
    #[test]
    fn acknowledgements_that_are_always_older_than_the_grace_let_it_run_all_the_same() {
        let start = Instant::now();
        let millis = |millis| start + Duration::from_millis(millis);
        let mut clock = LeaderClock::anchor(1, Millis(0), start, BEAT);
        for arrives in (700..60_000).step_by(100) {
            clock.confirm(millis(arrives - 600), millis(arrives));
        }
        // It stood still from 500 to 700 and never again.
        assert_eq!(clock.at(millis(60_000)), Millis(59_800));
    }

    #[test]
    fn regular_acknowledgements_let_it_run_without_loss() {
        let start = Instant::now();
        let mut clock = LeaderClock::anchor(1, Millis(0), start, BEAT);
        let mut last = Millis(0);
        for beat in 0..1_000_u64 {
            let now = start + Duration::from_millis(40 * beat);
            // Acknowledged with the time at which it was sent: always a little old.
            clock.confirm(start + Duration::from_millis((40 * beat).saturating_sub(90)), now);
            assert_eq!(clock.at(now), Millis(40 * beat));
            assert!(clock.at(now) >= last);
            last = clock.at(now);
        }
    }

    #[test]
    fn slow_heartbeats_let_it_run_without_loss_too() {
        let (start, beat) = (Instant::now(), seconds(1));
        let mut clock = LeaderClock::anchor(1, Millis(0), start, beat);
        for second in 1..=100 {
            // Acknowledged a round trip later, with the time at which it was sent.
            clock.confirm(start + beat * second, start + beat * second + beat / 4);
            assert_eq!(clock.at(start + beat * second + beat / 2), Millis(1_000 * u64::from(second) + 500));
        }
    }
}
