//! A lock that is kept, and that knows when it is not any more.
//!
//! One task renews. Whether the lock is held is decided by the clock alone: a lease is certain until its
//! [`Lease::lost_at`], counted from the *sending* of the last request that was acknowledged. Whoever looks
//! first after that moment settles it for everybody: from then on it is lost, even if an answer still comes.
//! So a renewal task that does not get to run cannot make a lost lock look held.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::lease::Lease;
use super::locks::{Lock, release_call};
use super::{Client, Error};

/// One try of a renewal takes at most this share of the TTL, so that several fit into what is left of it.
const TRY_SHARE: u32 = 6;
/// ... and at most this.
const TRY_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause between two tries of a renewal, as a share of the TTL. It overrules a server's `Retry-After`: time is
/// short, and renewals are the cheapest requests there are.
const PAUSE_SHARE: u32 = 20;
/// ... and at most this.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// After an answer that is neither a renewal nor a loss, such as a refused token.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// To give the lock back in the background; its TTL does it otherwise.
const DROP_RELEASE_TIME: Duration = Duration::from_secs(5);

/// A lock that is renewed in the background until it is released, dropped or lost.
///
/// Dropped, it gives the lock back in the background, as well as that goes while the runtime lives.
#[derive(Debug)]
pub struct Guard {
    client: Client,
    lock: Lock,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    runtime: Handle,
    released: bool,
}

/// Why a lock is not held with certainty any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// No renewal was acknowledged in time.
    Expired {
        /// What the last try met, if there was one.
        last_error: Option<String>,
    },
    /// The cluster says that it is not ours: released by force, expired there, or held as long as it may be.
    Taken {
        /// In its words.
        reason: String,
    },
    /// It was given back.
    Released,
}

/// Tells when a lock is lost; for tasks that work under it. Outlives the guard.
#[derive(Clone, Debug)]
pub struct LossSignal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts changes of the state, so that those who sleep until the lease ends look again.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    lease: Lease,
    lost: Option<Lost>,
    last_error: Option<String>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { last_error: None } => f.write_str("the lock could not be renewed in time"),
            Self::Expired { last_error: Some(error) } => {
                write!(f, "the lock could not be renewed in time: {error}")
            }
            Self::Taken { reason } => write!(f, "the lock is not ours any more: {reason}"),
            Self::Released => f.write_str("the lock was released"),
        }
    }
}

impl std::error::Error for Lost {}

impl State {
    /// Settles whether the lease is certain at `now`.
    fn settle(&mut self, now: Instant) -> Option<Lost> {
        if self.lost.is_none() && now >= self.lease.lost_at() {
            self.lost = Some(Lost::Expired { last_error: self.last_error.clone() });
        }
        self.lost.clone()
    }

    /// Takes an acknowledged renewal, unless the lock was lost before it came.
    fn renewed(&mut self, lease: Lease, now: Instant) {
        if self.settle(now).is_none() {
            // One task renews, so this one was sent last. It may be shorter than the one before (`max_hold`).
            self.lease = lease;
            self.last_error = None;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Valid between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
        result
    }

    fn settled(&self) -> Option<Lost> {
        self.lock().settle(Instant::now())
    }

    fn lease(&self) -> Lease {
        self.lock().lease
    }

    fn lose(&self, why: Lost) {
        self.update(|state| {
            state.settle(Instant::now());
            state.lost.get_or_insert(why);
        });
    }

    async fn lost(&self) -> Lost {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(lost) = self.settled() {
                return lost;
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.lease().lost_at().into()) => {}
                // The sender lives in `self`, so this ends by a change only.
                _ = changes.changed() => {}
            }
        }
    }
}

impl LossSignal {
    /// Whether it is lost, by the clock and by all that is known.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.settled().is_some()
    }

    /// Resolves when it is lost.
    pub async fn lost(&self) -> Lost {
        self.shared.lost().await
    }
}

impl Guard {
    /// Takes over a lock that was just granted. One that was waited for long proves little by the sending of its
    /// request, so it is renewed before anything may rely on it.
    pub(super) async fn begin(client: Client, lock: Lock, ttl: Duration) -> Result<Self, Error> {
        let state = State { lease: lock.lease, lost: None, last_error: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) });
        let runtime = Handle::current();
        let renewer =
            Renewer { client: client.clone(), lock: lock.clone(), ttl, shared: Arc::clone(&shared) };
        if Instant::now() >= lock.lease.renew_at() {
            // Nothing relies on the lock yet, so there is the whole TTL to find out.
            match renewer.renew(ttl, ttl).await {
                Ok(lease) => shared.update(|state| state.lease = lease),
                Err(error) => {
                    release_in_background(&runtime, client, lock);
                    return Err(error);
                }
            }
        }
        let task = runtime.spawn(renewer.run());
        Ok(Self { client, lock, shared, task, runtime, released: false })
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
        self.shared.lease()
    }

    /// Whether the lock is certainly held at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.shared.settled().is_none()
    }

    /// Resolves when the lock is not held with certainty any more, always before the lease ends.
    pub async fn lost(&self) -> Lost {
        self.shared.lost().await
    }

    /// For tasks that work under the lock.
    #[must_use]
    pub fn signal(&self) -> LossSignal {
        LossSignal { shared: Arc::clone(&self.shared) }
    }

    /// Does some work while the lock is held, and drops it when the lock is lost. A future is stopped at its
    /// next `await`: what blocks a thread must look at [`signal`](Self::signal) itself.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        tokio::select! {
            // In this order: work is not even begun under a lock that is lost.
            biased;
            lost = self.lost() => Err(lost),
            done = work => Ok(done),
        }
    }

    /// Stops renewing and gives the lock back. [`Error::NotHolder`] says that it was lost before, and
    /// [`Error::Unknown`] that nobody confirmed it: then it ends with its TTL at the latest.
    pub async fn release(mut self) -> Result<(), Error> {
        self.task.abort();
        // No renewal may follow the release.
        let _ = (&mut self.task).await;
        self.shared.lose(Lost::Released);
        let outcome = self.client.call(&release_call(&self.lock).fail_fast(false)).await;
        self.released = true;
        outcome.map(drop)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.lose(Lost::Released);
        if !self.released {
            release_in_background(&self.runtime, self.client.clone(), self.lock.clone());
        }
    }
}

/// As well as it goes: the TTL ends the lock otherwise.
fn release_in_background(runtime: &Handle, client: Client, lock: Lock) {
    let release = async move {
        let call = release_call(&lock).deadline(DROP_RELEASE_TIME).fail_fast(false);
        let _ = client.call(&call).await;
    };
    drop(runtime.spawn(release));
}

/// The one task that renews.
struct Renewer {
    client: Client,
    lock: Lock,
    /// What was asked for: the grant may have been given less of it (`max_hold`).
    ttl: Duration,
    shared: Arc<Shared>,
}

impl Renewer {
    async fn run(self) {
        loop {
            let lease = self.shared.lease();
            tokio::time::sleep_until(lease.renew_at().into()).await;
            if self.shared.settled().is_some() {
                return;
            }
            let time = lease.lost_at().saturating_duration_since(Instant::now());
            // The grant may have been given less than was asked for.
            let scale = lease.ttl().min(self.ttl);
            match self.renew(scale, time).await {
                Ok(lease) => self.shared.update(|state| state.renewed(lease, Instant::now())),
                Err(error) if error.is_loss() => {
                    return self.shared.lose(Lost::Taken { reason: error.to_string() });
                }
                // What time is left is for further tries.
                Err(error) => {
                    self.shared.update(|state| state.last_error = Some(error.to_string()));
                    tokio::time::sleep(REFUSED_PAUSE.min(scale / PAUSE_SHARE)).await;
                }
            }
        }
    }

    /// Tries for so long; `scale` is the TTL that the time of a single try goes by.
    async fn renew(&self, scale: Duration, time: Duration) -> Result<Lease, Error> {
        let renewed = self.client.renew_with(&self.lock, self.ttl, |call| {
            call.try_timeout((scale / TRY_SHARE).min(TRY_TIME_MAX))
                .deadline(time)
                .pause_max((scale / PAUSE_SHARE).min(PAUSE_MAX))
                .fail_fast(false)
        });
        Ok(renewed.await?.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sent: Instant, ttl_ms: u64) -> State {
        State { lease: Lease::new(sent, Duration::from_millis(ttl_ms)), lost: None, last_error: None }
    }

    #[test]
    fn a_lease_is_lost_by_the_clock_and_stays_lost() {
        let sent = Instant::now();
        let at = |ms| sent + Duration::from_millis(ms);
        let mut state = state(sent, 1_000);
        assert_eq!(state.settle(at(799)), None);
        // Sent early enough, answered too late: somebody may have looked in between.
        let late = Lease::new(at(700), Duration::from_millis(1_000));
        state.renewed(late, at(800));
        assert_eq!(state.settle(at(801)), Some(Lost::Expired { last_error: None }));
        state.renewed(late, at(802));
        assert_eq!(state.settle(at(803)), Some(Lost::Expired { last_error: None }));
    }

    #[test]
    fn a_renewal_counts_from_its_sending() {
        let sent = Instant::now();
        let at = |ms| sent + Duration::from_millis(ms);
        let mut state = state(sent, 1_000);
        state.renewed(Lease::new(at(300), Duration::from_millis(1_000)), at(700));
        assert_eq!(state.settle(at(1_099)), None);
        assert!(state.settle(at(1_100)).is_some());
    }

    #[test]
    fn a_smaller_grant_shortens_the_lease() {
        let sent = Instant::now();
        let at = |ms| sent + Duration::from_millis(ms);
        let mut state = state(sent, 1_000);
        // `max_hold` cut it.
        state.renewed(Lease::new(at(300), Duration::from_millis(200)), at(310));
        assert_eq!(state.lease.ends_at(), at(500));
        assert!(state.settle(at(499)).is_some(), "a margin is kept");
    }
}
