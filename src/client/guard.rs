//! A lock that is kept, and that knows when it is not any more.

use std::future::Future;
use std::time::Duration;

use super::keeper::{Keeper, LossSignal, Lost};
use super::lease::Lease;
use super::locks::Lock;
use super::{Client, Error};

/// A lock that is renewed in the background until it is released, dropped or lost.
///
/// Dropped, it gives the lock back in the background, as well as that goes while the runtime lives.
#[derive(Debug)]
pub struct Guard {
    lock: Lock,
    keeper: Keeper,
}

impl Guard {
    /// Takes over a lock that was just granted.
    pub(super) async fn begin(client: Client, lock: Lock, ttl: Duration) -> Result<Self, Error> {
        let keeper = Keeper::begin(client, lock.tenure(ttl), lock.lease).await?;
        Ok(Self { lock, keeper })
    }

    /// The key; of several, the first in order.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.lock.key
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.lock.keys
    }

    /// Higher than that of every earlier holder: pass it to what the lock protects.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.lock.fencing_token
    }

    /// How long it was waited for.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.lock.waited
    }

    /// The lease as the last acknowledged renewal proves it.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.keeper.lease()
    }

    /// Whether the lock is certainly held at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.keeper.is_held()
    }

    /// Resolves when the lock is not held with certainty any more, always before the lease ends.
    pub async fn lost(&self) -> Lost {
        self.keeper.lost().await
    }

    /// For tasks that work under the lock.
    #[must_use]
    pub fn signal(&self) -> LossSignal {
        self.keeper.signal()
    }

    /// Does some work while the lock is held, and drops it when the lock is lost. A future is stopped at its
    /// next `await`: what blocks a thread must look at [`signal`](Self::signal) itself.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        self.keeper.run(work).await
    }

    /// Stops renewing and gives the lock back. [`Error::NotHolder`] says that it was lost before, and
    /// [`Error::Unknown`] that nobody confirmed it: then it ends with its TTL at the latest.
    pub async fn release(self) -> Result<(), Error> {
        self.keeper.give_back().await
    }
}
