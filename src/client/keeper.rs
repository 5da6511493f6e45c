//! What keeps a lock or a term of office, and knows when it is not held any more.
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
use super::tenure::Tenure;
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
/// To give it back in the background; its TTL does it otherwise.
const DROP_RELEASE_TIME: Duration = Duration::from_secs(5);

/// Renews in the background until what it keeps is given back, dropped or lost.
///
/// Dropped, it gives back in the background, as well as that goes while the runtime lives.
#[derive(Debug)]
pub(super) struct Keeper {
    client: Client,
    tenure: Tenure,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    runtime: Handle,
    given_back: bool,
}

/// Why a lock or a term is not held with certainty any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// No renewal was acknowledged in time.
    Expired {
        /// What the last try met, if there was one.
        last_error: Option<String>,
    },
    /// The cluster says that it is not ours: ended by force, expired there, or held as long as it may be.
    Taken {
        /// In its words.
        reason: String,
    },
    /// It was given back.
    Released,
}

/// Tells when a lock or a term is lost; for tasks that work under it. Outlives the guard.
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
            Self::Expired { last_error: None } => f.write_str("not renewed in time"),
            Self::Expired { last_error: Some(error) } => write!(f, "not renewed in time: {error}"),
            Self::Taken { reason } => write!(f, "not ours any more: {reason}"),
            Self::Released => f.write_str("given back"),
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

    /// Takes an acknowledged renewal, unless it was lost before it came.
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

impl Keeper {
    /// Takes over what was just granted with this lease. What was waited for long proves little by the sending of
    /// its request, so it is renewed before anything may rely on it.
    pub(super) async fn begin(client: Client, tenure: Tenure, lease: Lease) -> Result<Self, Error> {
        let state = State { lease, lost: None, last_error: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) });
        let runtime = Handle::current();
        let renewer = Renewer { client: client.clone(), tenure: tenure.clone(), shared: Arc::clone(&shared) };
        // From here on it is given back whatever happens, also when nobody waits for this any more.
        let mut keeper = Self { client, tenure, shared, task: None, runtime, given_back: false };
        if Instant::now() >= lease.renew_at() {
            // Nothing relies on it yet, so there is the whole TTL to find out.
            let ttl = keeper.tenure.ttl;
            let lease = renewer.renew(ttl, ttl).await?;
            keeper.shared.update(|state| state.lease = lease);
        }
        keeper.task = Some(keeper.runtime.spawn(renewer.run()));
        Ok(keeper)
    }

    /// The lease as the last acknowledged renewal proves it.
    pub(super) fn lease(&self) -> Lease {
        self.shared.lease()
    }

    /// Whether it is certainly held at this moment.
    pub(super) fn is_held(&self) -> bool {
        self.shared.settled().is_none()
    }

    /// Resolves when it is not held with certainty any more, always before the lease ends.
    pub(super) async fn lost(&self) -> Lost {
        self.shared.lost().await
    }

    pub(super) fn signal(&self) -> LossSignal {
        LossSignal { shared: Arc::clone(&self.shared) }
    }

    /// Does some work while it is held, and drops it when it is lost.
    pub(super) async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        tokio::select! {
            // In this order: work is not even begun under what is lost.
            biased;
            lost = self.lost() => Err(lost),
            done = work => Ok(done),
        }
    }

    /// Stops renewing and gives it back.
    pub(super) async fn give_back(mut self) -> Result<(), Error> {
        if let Some(task) = self.task.take() {
            task.abort();
            // No renewal may follow it.
            let _ = task.await;
        }
        self.shared.lose(Lost::Released);
        let outcome = self.client.call(&self.tenure.give_back_call().fail_fast(false)).await;
        self.given_back = true;
        outcome.map(drop)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.shared.lose(Lost::Released);
        if !self.given_back {
            give_back_in_background(&self.runtime, self.client.clone(), &self.tenure);
        }
    }
}

/// As well as it goes: the TTL ends it otherwise.
fn give_back_in_background(runtime: &Handle, client: Client, tenure: &Tenure) {
    let call = tenure.give_back_call().deadline(DROP_RELEASE_TIME).fail_fast(false);
    drop(runtime.spawn(async move { client.call(&call).await.map(drop) }));
}

/// The one task that renews.
struct Renewer {
    client: Client,
    tenure: Tenure,
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
            let scale = lease.ttl().min(self.tenure.ttl);
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
        let call = self.tenure.renew_call();
        let call = call
            .try_timeout((scale / TRY_SHARE).min(TRY_TIME_MAX))
            .deadline(time)
            .pause_max((scale / PAUSE_SHARE).min(PAUSE_MAX))
            .fail_fast(false);
        Ok(self.client.extend(&call).await?.lease)
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
