//! Whom to ask next, and when.

use std::time::{Duration, Instant};

/// Pause after the first failure of an endpoint; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause that nobody asked for.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest pause that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Failures after which pauses no longer grow, so that the shift below stays small.
const DOUBLINGS_MAX: u32 = 8;

/// The endpoints as one call has met them.
#[derive(Debug)]
pub(super) struct Rotation {
    /// Where the turn begins: at the endpoint that answered last.
    first: usize,
    turns: Vec<Turn>,
    pause_max: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    not_before: Instant,
    failures: u32,
}

impl Rotation {
    pub(super) fn new(endpoints: usize, first: usize, pause_max: Option<Duration>, now: Instant) -> Self {
        Self {
            first: first % endpoints.max(1),
            turns: vec![Turn { not_before: now, failures: 0 }; endpoints],
            pause_max: pause_max.unwrap_or(Duration::MAX),
        }
    }

    /// The endpoint that may be asked soonest; among equals the next one from the first.
    pub(super) fn next(&self, now: Instant) -> (usize, Instant) {
        let count = self.turns.len();
        let soonest = (0..count)
            .map(|step| (self.first + step) % count)
            .map(|position| (position, self.turns[position].not_before.max(now)))
            .min_by_key(|(_, at)| *at);
        soonest.unwrap_or((0, now))
    }

    /// Not asked again before a pause; `jitter` is random, 0 to 1.
    pub(super) fn failed(
        &mut self,
        position: usize,
        retry_after: Option<Duration>,
        jitter: f64,
        now: Instant,
    ) {
        let turn = &mut self.turns[position];
        let doubled = PAUSE_MIN * (1 << turn.failures.min(DOUBLINGS_MAX));
        turn.failures = turn.failures.saturating_add(1);
        // Between a half and the whole, so that many clients do not come back together.
        let own = doubled.min(PAUSE_MAX).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        // Never earlier than asked; a little later, for the same reason.
        let asked = asked.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0);
        turn.not_before = now + own.max(asked).min(self.pause_max);
    }

    /// Whether every endpoint has failed at least once.
    pub(super) fn all_failed(&self) -> bool {
        self.turns.iter().all(|turn| turn.failures > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_asked_at_once_and_the_same_one_after_a_growing_pause() {
        let now = Instant::now();
        let mut rotation = Rotation::new(3, 1, None, now);
        assert_eq!(rotation.next(now), (1, now));
        rotation.failed(1, None, 1.0, now);
        assert_eq!(rotation.next(now), (2, now));
        rotation.failed(2, None, 1.0, now);
        assert_eq!(rotation.next(now), (0, now));
        assert!(!rotation.all_failed());
        rotation.failed(0, None, 1.0, now);
        assert!(rotation.all_failed());
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let (position, at) = rotation.next(now);
            assert!(at - now >= last && at - now <= PAUSE_MAX);
            last = at - now;
            rotation.failed(position, None, 1.0, now);
        }
        assert_eq!(rotation.next(now).1 - now, PAUSE_MAX);
    }

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        let now = Instant::now();
        let asked = |seconds, jitter| {
            let mut rotation = Rotation::new(1, 0, None, now);
            rotation.failed(0, Some(Duration::from_secs(seconds)), jitter, now);
            rotation.next(now).1 - now
        };
        assert_eq!(asked(1, 0.0), Duration::from_secs(1));
        assert!(asked(1, 1.0) > Duration::from_secs(1) && asked(1, 1.0) <= Duration::from_millis(1_250));
        assert!(asked(1_000_000, 1.0) <= RETRY_AFTER_MAX * 2);
    }

    #[test]
    fn where_time_is_short_pauses_are_too() {
        let now = Instant::now();
        let mut rotation = Rotation::new(1, 0, Some(Duration::from_millis(20)), now);
        for _ in 0..5 {
            rotation.failed(0, Some(Duration::from_secs(1)), 1.0, now);
            assert_eq!(rotation.next(now).1 - now, Duration::from_millis(20));
        }
    }
}
