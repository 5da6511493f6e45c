//! Which endpoint is tried next, and after how long.

use std::time::Duration;

use rand::RngExt;

/// Wait after the first round in vain.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two rounds.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// A session that was in sync for so long counts as a success.
pub(super) const SUCCESS_AFTER: Duration = Duration::from_secs(1);

/// Goes around the endpoints: at once from one to the next, and with growing, jittered waits between rounds in vain.
#[derive(Debug)]
pub(super) struct Rotation {
    endpoints: usize,
    next: usize,
    failures: u32,
}

impl Rotation {
    pub(super) fn new(endpoints: usize, first: usize) -> Self {
        Self { endpoints, next: first % endpoints, failures: 0 }
    }

    /// The endpoint to try.
    pub(super) fn current(&self) -> usize {
        self.next
    }

    /// After a session: the next endpoint, and how long to wait before it is tried.
    pub(super) fn advance(&mut self, was_success: bool) -> Duration {
        self.next = (self.next + 1) % self.endpoints;
        if was_success {
            self.failures = 0;
            return Duration::ZERO;
        }
        self.failures = self.failures.saturating_add(1);
        let endpoints = u32::try_from(self.endpoints).unwrap_or(u32::MAX);
        if !self.failures.is_multiple_of(endpoints) {
            return Duration::ZERO;
        }
        let round = (self.failures / endpoints - 1).min(16);
        let wait = (WAIT_MIN * 2_u32.pow(round)).min(WAIT_MAX);
        // Clients that lost one server together do not come back together.
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_tried_at_once_and_rounds_come_apart() {
        let mut rotation = Rotation::new(3, 4);
        assert_eq!(rotation.current(), 1);
        let mut longest = Vec::new();
        for round in 0..20_u32 {
            assert_eq!(rotation.advance(false), Duration::ZERO);
            assert_eq!(rotation.advance(false), Duration::ZERO);
            let wait = rotation.advance(false);
            let full = (WAIT_MIN * 2_u32.pow(round.min(16))).min(WAIT_MAX);
            assert!(wait >= full / 2 && wait <= full, "round {round}: {wait:?}");
            longest.push(full);
        }
        assert_eq!((longest[0], longest[19]), (WAIT_MIN, WAIT_MAX));
        assert_eq!(rotation.current(), 1);
        assert_eq!(rotation.advance(true), Duration::ZERO, "what worked is left without a wait");
        assert_eq!(rotation.current(), 2);
        assert_eq!(rotation.advance(false), Duration::ZERO);
    }

    #[test]
    fn a_single_endpoint_is_not_tried_without_pause() {
        let mut rotation = Rotation::new(1, 0);
        assert_eq!(rotation.advance(true), Duration::ZERO);
        assert!(rotation.advance(false) >= WAIT_MIN / 2);
        assert!(rotation.advance(false) >= WAIT_MIN);
    }
}
