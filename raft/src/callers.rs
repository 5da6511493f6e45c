//! Callers of this node that wait for their own entry to be applied here.
//!
//! Each has a ticket that travels with its proposal ([`Origin`]). Whoever leads, and however often that
//! changes, the entry comes back through this node's own apply and finds its caller by the ticket. A caller
//! that was not handed to any log yet can still be withdrawn for certain; one that was can only wait.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ovncp_state::{NodeId, Reply};
use ovncp_storage::runtime::random_u64;
use ovncp_storage::types::Origin;
use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::group::Committed;

/// Callers waiting on one node at once.
pub(crate) const CALLERS_MAX: usize = 65_536;

type Answer = Result<Committed, ProposeError>;

/// The waiting callers of this node.
pub(crate) struct Callers {
    node: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    next_ticket: u64,
    waiting: BTreeMap<u64, Caller>,
}

struct Caller {
    answer: oneshot::Sender<Answer>,
    /// Given to a leader's log, perhaps: from now on its outcome is decided by apply alone.
    handed_over: bool,
}

impl Callers {
    pub(crate) fn new() -> Arc<Self> {
        let inner = Inner { next_ticket: random_u64(), waiting: BTreeMap::new() };
        Arc::new(Self { node: AtomicU64::new(0), inner: Mutex::new(inner) })
    }

    /// This node's Raft id, once it has one. Proposals of other nodes are not ours.
    pub(crate) fn set_node(&self, id: NodeId) {
        self.node.store(id.0, Ordering::Release);
    }

    /// Takes a ticket.
    pub(crate) fn register(self: &Arc<Self>) -> Result<Ticket, ProposeError> {
        let (answer, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.waiting.len() >= CALLERS_MAX {
            return Err(ProposeError::Busy { queue: "proposals" });
        }
        let number = inner.next_ticket;
        inner.next_ticket = inner.next_ticket.wrapping_add(1);
        inner.waiting.insert(number, Caller { answer, handed_over: false });
        drop(inner);
        Ok(Ticket { number, callers: Arc::clone(self), receiver })
    }

    /// The proposal's origin for a ticket of this node.
    pub(crate) fn origin(&self, ticket: u64) -> Origin {
        Origin { node: NodeId(self.node.load(Ordering::Acquire)), ticket }
    }

    /// About to give this proposal to a log. `false` when its caller is gone: then it must not be proposed.
    pub(crate) fn hand_over(&self, ticket: u64) -> bool {
        match self.lock().waiting.get_mut(&ticket) {
            Some(caller) => {
                caller.handed_over = true;
                true
            }
            None => false,
        }
    }

    /// It surely was not appended after all.
    pub(crate) fn take_back(&self, ticket: u64) {
        if let Some(caller) = self.lock().waiting.get_mut(&ticket) {
            caller.handed_over = false;
        }
    }

    /// Answers a caller whose proposal surely was not appended.
    pub(crate) fn refuse(&self, ticket: u64, error: ProposeError) {
        let caller = self.lock().waiting.remove(&ticket);
        if let Some(caller) = caller {
            let _ = caller.answer.send(Err(error));
        }
    }

    /// Answers the caller of an applied entry, if it is one of ours.
    pub(crate) fn applied(&self, origin: Origin, committed: impl FnOnce() -> Committed) {
        if origin.node.0 != self.node.load(Ordering::Acquire) {
            return;
        }
        let caller = self.lock().waiting.remove(&origin.ticket);
        if let Some(caller) = caller {
            let _ = caller.answer.send(Ok(committed()));
        }
    }

    /// Tells everybody whose proposal may be in a log that the outcome is not known: no majority works.
    pub(crate) fn abandon(&self) {
        let mut inner = self.lock();
        if inner.waiting.is_empty() {
            return;
        }
        let handed_over = inner.waiting.extract_if(.., |_, caller| caller.handed_over);
        for (_, caller) in handed_over {
            let _ = caller.answer.send(Err(ProposeError::Unknown));
        }
    }

    /// Ends everybody: those who were handed over do not know their outcome.
    pub(crate) fn stop(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for caller in waiting.into_values() {
            let error = if caller.handed_over {
                ProposeError::Unknown
            } else {
                ProposeError::Stopped { reason: reason.to_owned() }
            };
            let _ = caller.answer.send(Err(error));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the map whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's place. Dropping it withdraws the caller: a proposal not handed over yet is never proposed.
pub(crate) struct Ticket {
    number: u64,
    callers: Arc<Callers>,
    receiver: oneshot::Receiver<Answer>,
}

impl Ticket {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        match (&mut self.receiver).await {
            Ok(answer) => answer,
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Gives up waiting. `Some` when the answer came meanwhile; else whether it was handed over.
    pub(crate) fn withdraw(mut self) -> Result<Answer, bool> {
        let caller = self.callers.lock().waiting.remove(&self.number);
        match caller {
            Some(caller) => Err(caller.handed_over),
            None => self.receiver.try_recv().map_err(|_| true),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.callers.lock().waiting.remove(&self.number);
    }
}

/// A reply that cannot belong to the command that was proposed would be a bug in the state; callers that match
/// on a reply use this to end in an error instead of a panic.
pub(crate) fn unexpected(reply: &Reply) -> ProposeError {
    tracing::error!(?reply, "a reply does not belong to its command");
    ProposeError::Unknown
}

#[cfg(test)]
mod tests {
    use ovncp_state::LogIndex;

    use super::*;

    fn committed() -> Committed {
        Committed { index: LogIndex(9), reply: Reply::Done }
    }

    #[tokio::test]
    async fn a_caller_is_answered_by_its_own_entry_only() {
        let callers = Callers::new();
        callers.set_node(NodeId(2));
        let mut ticket = callers.register().unwrap();
        assert!(callers.hand_over(ticket.number()));
        callers.applied(Origin { node: NodeId(1), ticket: ticket.number() }, committed);
        callers.applied(Origin { node: NodeId(2), ticket: ticket.number().wrapping_add(1) }, committed);
        callers.applied(callers.origin(ticket.number()), committed);
        assert_eq!(ticket.answer().await, Ok(committed()));
    }

    #[test]
    fn a_withdrawn_caller_knows_whether_its_proposal_may_exist() {
        let callers = Callers::new();
        callers.set_node(NodeId(1));
        let early = callers.register().unwrap();
        assert_eq!(early.withdraw(), Err(false));

        let handed = callers.register().unwrap();
        assert!(callers.hand_over(handed.number()));
        assert_eq!(handed.withdraw(), Err(true));

        let returned = callers.register().unwrap();
        let number = returned.number();
        assert!(callers.hand_over(number));
        callers.take_back(number);
        assert_eq!(returned.withdraw(), Err(false));
        assert!(!callers.hand_over(number), "a withdrawn proposal is never proposed");
    }

    #[test]
    fn an_answer_that_came_before_the_withdrawal_wins() {
        let callers = Callers::new();
        callers.set_node(NodeId(1));
        let ticket = callers.register().unwrap();
        callers.applied(callers.origin(ticket.number()), committed);
        assert_eq!(ticket.withdraw(), Ok(Ok(committed())));
    }

    #[test]
    fn without_a_majority_only_those_who_were_handed_over_are_told_at_once() {
        let callers = Callers::new();
        let queued = callers.register().unwrap();
        let handed = callers.register().unwrap();
        callers.hand_over(handed.number());
        callers.abandon();
        assert_eq!(handed.withdraw(), Ok(Err(ProposeError::Unknown)));
        assert_eq!(queued.withdraw(), Err(false));
    }

    #[test]
    fn stopping_tells_the_unknown_from_the_certain() {
        let callers = Callers::new();
        let queued = callers.register().unwrap();
        let handed = callers.register().unwrap();
        callers.hand_over(handed.number());
        callers.stop("test");
        assert_eq!(queued.withdraw(), Ok(Err(ProposeError::Stopped { reason: "test".to_owned() })));
        assert_eq!(handed.withdraw(), Ok(Err(ProposeError::Unknown)));
    }
}
