//! Callers that may go away while they wait.
//!
//! A [`Presence`] lives as long as its request. Dropped before the outcome was delivered, it has the request
//! cancelled by a task of its own: the waiter leaves the queue, or the grant that nobody learned of is given
//! back. A request with an idempotency key is cancelled only after [`RETRY_WINDOW`], so that a retry can
//! attach to it; a retry on this node within that time calls the cancellation off, and one on another node moves
//! the request there, where a cancellation from here no longer reaches it.
//!
//! What no cancellation reaches (this node dies, no leader) ends by the waiter's deadline and the lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ovncp_state::command::CancelWait;
use ovncp_state::{Command, NodeId, WaiterId};
use tokio::sync::Semaphore;

use crate::services::Core;

/// How long a retry with the same idempotency key may take to come.
pub(super) const RETRY_WINDOW: Duration = Duration::from_secs(10);
/// Cancellations of each kind under way at once; beyond it a lease or a deadline has to end the request.
const CANCELLATIONS_MAX: u32 = 20_000;
/// Tries of one cancellation, each as long as a write may take.
const CANCEL_TRIES: usize = 5;

/// Pause between two tries of a cancellation.
const CANCEL_PAUSE: Duration = Duration::from_millis(200);

type Scope = [u8; 16];

/// The requests of this node that could leave something behind.
pub(super) struct Presences {
    /// Places of cancellations that are proposed at once.
    prompt: Arc<Semaphore>,
    /// Places of cancellations that leave a retry its time.
    delayed: Arc<Semaphore>,
    /// Retryable requests that are here or left within the window.
    retryable: Mutex<BTreeMap<Scope, Attendance>>,
}

impl Default for Presences {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(CANCELLATIONS_MAX as usize));
        Self { prompt: places(), delayed: places(), retryable: Mutex::default() }
    }
}

/// Who still cares about one idempotency key. Forgotten when nobody does.
#[derive(Default)]
struct Attendance {
    /// Requests that are here.
    here: usize,
    /// Cancellations that have not decided yet.
    leaving: usize,
    /// One of them took the outcome with it: nothing is left to cancel.
    settled: bool,
}

enum Stage {
    /// Nothing was proposed yet.
    Idle,
    /// The acquire is under way: it may be committed after its cancellation.
    Proposing,
    /// Committed and queued.
    Waiting,
    /// The outcome is known.
    Over,
}

/// One caller.
pub(super) struct Presence {
    presences: Arc<Presences>,
    core: Core,
    waiter: WaiterId,
    node: NodeId,
    scope: Option<Scope>,
    stage: Stage,
}

impl Presences {
    pub(super) fn enter(
        self: &Arc<Self>,
        core: &Core,
        waiter: WaiterId,
        node: NodeId,
        scope: Option<Scope>,
    ) -> Presence {
        if let Some(scope) = scope {
            self.lock().entry(scope).or_default().here += 1;
        }
        Presence { presences: Arc::clone(self), core: core.clone(), waiter, node, scope, stage: Stage::Idle }
    }

    /// Waits until no cancellation is on its way that does not wait for a retry itself.
    pub(super) async fn settled(&self) {
        // The semaphore is never closed; if it were, there would be nothing to wait for.
        let _ = self.prompt.acquire_many(CANCELLATIONS_MAX).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Scope, Attendance>> {
        // Valid between any two statements, so a panic elsewhere does not spoil it.
        self.retryable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<T>(&self, scope: Scope, change: impl FnOnce(&mut Attendance) -> T) -> T {
        let mut retryable = self.lock();
        let attendance = retryable.entry(scope).or_default();
        let result = change(attendance);
        if attendance.here == 0 && attendance.leaving == 0 {
            retryable.remove(&scope);
        }
        result
    }
}

impl Presence {
    pub(super) fn proposing(&mut self) {
        self.stage = Stage::Proposing;
    }

    /// Queued as `waiter`, which is an earlier try's when this is a retry.
    pub(super) fn waiting(&mut self, waiter: WaiterId) {
        self.waiter = waiter;
        self.stage = Stage::Waiting;
    }

    /// Nothing came of this try; an earlier one with the same key may still wait.
    pub(super) fn over(&mut self) {
        self.stage = Stage::Over;
    }

    /// The caller has the outcome: neither this try nor an earlier one leaves anything behind.
    pub(super) fn settled(&mut self) {
        self.stage = Stage::Over;
        if let Some(scope) = self.scope {
            self.presences.update(scope, |attendance| attendance.settled = true);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let cancels = matches!(self.stage, Stage::Proposing | Stage::Waiting);
        if let Some(scope) = self.scope {
            self.presences.update(scope, |attendance| {
                attendance.here -= 1;
                attendance.leaving += usize::from(cancels);
            });
        }
        if !cancels {
            return;
        }
        let cancellation = Cancellation {
            presences: Arc::clone(&self.presences),
            core: self.core.clone(),
            waiter: self.waiter,
            node: self.node,
            scope: self.scope,
            may_come_later: matches!(self.stage, Stage::Proposing),
        };
        let places = if self.scope.is_some() { &self.presences.delayed } else { &self.presences.prompt };
        let permit = Arc::clone(places).try_acquire_owned();
        // Outside a runtime (it is being shut down) nothing can be proposed any more.
        let (Ok(permit), Ok(runtime)) = (permit, tokio::runtime::Handle::try_current()) else {
            cancellation.called_off();
            return;
        };
        runtime.spawn(async move {
            cancellation.run().await;
            drop(permit);
        });
    }
}

struct Cancellation {
    presences: Arc<Presences>,
    core: Core,
    waiter: WaiterId,
    node: NodeId,
    scope: Option<Scope>,
    may_come_later: bool,
}

impl Cancellation {
    async fn run(self) {
        if self.scope.is_some() {
            tokio::time::sleep(RETRY_WINDOW).await;
        }
        if self.called_off() {
            return;
        }
        self.propose().await;
        if self.may_come_later {
            // The acquire may have been appended behind the first cancellation.
            tokio::time::sleep(self.core.patience.propose).await;
            self.propose().await;
        }
    }

    /// Ends the window; true when a retry is here or has taken the outcome.
    fn called_off(&self) -> bool {
        let Some(scope) = self.scope else { return false };
        self.presences.update(scope, |attendance| {
            attendance.leaving -= 1;
            attendance.here > 0 || attendance.settled
        })
    }

    async fn propose(&self) {
        for _ in 0..CANCEL_TRIES {
            let command = Command::CancelWait(CancelWait { waiter: self.waiter, node: self.node });
            match self.core.propose(None, command).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(waiter = %self.waiter, node = %self.node, %error, "cancellation not proposed yet");
                    tokio::time::sleep(CANCEL_PAUSE).await;
                }
            }
        }
    }
}
