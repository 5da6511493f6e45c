//! Callers of this node that wait for a lock.
//!
//! A caller registers its [`WaiterId`] *before* it proposes the acquire, so that no notice can come too
//! early; every node applies every entry, so the notice is found wherever the caller is connected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ovncp_state::reply::Grant;
use ovncp_state::{Notice, Refusal, WaiterId};
use tokio::sync::oneshot;

type Outcome = Result<Grant, Refusal>;

/// The waiting callers of this node.
#[derive(Default)]
pub(crate) struct Waiters {
    senders: Mutex<BTreeMap<WaiterId, oneshot::Sender<Outcome>>>,
}

impl Waiters {
    /// Registers `id`; the last registration of an id wins.
    pub(crate) fn register(self: &Arc<Self>, id: WaiterId) -> WaiterHandle {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, sender);
        WaiterHandle { id, registry: Arc::clone(self), receiver }
    }

    /// Hands a notice to its caller, if it is one of ours.
    pub(crate) fn notify(&self, notice: Notice) {
        self.resolve(notice.waiter, notice.outcome);
    }

    /// Gives a caller its outcome, if it is one of ours.
    pub(crate) fn resolve(&self, id: WaiterId, outcome: Outcome) {
        let sender = self.lock().remove(&id);
        if let Some(sender) = sender {
            // A caller that went away meanwhile is no error.
            let _ = sender.send(outcome);
        }
    }

    /// How many are registered.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Every registered waiter, in order.
    pub(crate) fn ids(&self) -> Vec<WaiterId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WaiterId, oneshot::Sender<Outcome>>> {
        // The map is valid between any two statements, so a panic elsewhere does not spoil it.
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's place in the registry; dropping it deregisters.
pub struct WaiterHandle {
    id: WaiterId,
    registry: Arc<Waiters>,
    receiver: oneshot::Receiver<Outcome>,
}

impl WaiterHandle {
    /// The id it listens for.
    pub fn id(&self) -> WaiterId {
        self.id
    }

    /// Waits until the request is granted or ends. Never resolves when the acquire was never committed: the
    /// caller bounds it by its own deadline. Cancel-safe; call it once more after a lost race in `select!`.
    pub async fn outcome(&mut self) -> Result<Grant, Refusal> {
        match (&mut self.receiver).await {
            Ok(outcome) => outcome,
            // Another registration took this id over, or the outcome was taken already.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for WaiterHandle {
    fn drop(&mut self) {
        self.receiver.close();
        let mut senders = self.registry.lock();
        // Only our own registration: a later one of the same id stays.
        if senders.get(&self.id).is_some_and(oneshot::Sender::is_closed) {
            senders.remove(&self.id);
        }
    }
}
