//! Signs of life: something that must keep happening, and how long ago it last did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Remembers when it was last felt. Clones share it.
#[derive(Clone, Debug)]
pub struct Pulse {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// Felt now.
    #[must_use]
    pub fn new() -> Self {
        Self { began: Instant::now(), last_ms: Arc::default() }
    }

    /// Felt again.
    pub fn beat(&self) {
        self.last_ms.store(self.since_began(), Ordering::Relaxed);
    }

    /// How long ago it was last felt.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.since_began().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    /// Feels it for ever: each time `probe` returns, and again a `period` later. One that does not return lets the
    /// pulse grow old.
    pub async fn feel(self, period: Duration, probe: impl AsyncFn()) {
        loop {
            probe().await;
            self.beat();
            tokio::time::sleep(period).await;
        }
    }

    fn since_began(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_lets_the_pulse_grow_old_until_it_returns() {
        let second = Duration::from_secs(1);
        let pulse = Pulse::new();
        // Three probes find a permit, at 0, 1 and 2 s; the fourth hangs.
        let gate = Arc::new(Semaphore::new(3));
        let probe = {
            let gate = Arc::clone(&gate);
            async move || gate.acquire().await.expect("open").forget()
        };
        let feeling = tokio::spawn(pulse.clone().feel(second, probe));
        tokio::time::sleep(10 * second).await;
        assert_eq!(gate.available_permits(), 0);
        assert!((7 * second..9 * second).contains(&pulse.age()), "{:?}", pulse.age());
        gate.add_permits(1);
        tokio::time::sleep(second / 2).await;
        assert!(pulse.age() <= second, "{:?}", pulse.age());
        feeling.abort();
    }
}
