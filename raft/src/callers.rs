//! Callers of this node that wait for their own entry to be applied here.
//!
//! Each has a ticket that travels with its proposal ([`Origin`]). Whoever leads, and however often that
//! changes, the entry comes back through this node's own apply and finds its caller by the ticket. A caller
//! that was not handed to any log yet can still be withdrawn for certain; one that was waits.
//!
//! # When a proposal is lost for certain
//!
//! A proposal is handed over for one term only: a leader appends it in that term or refuses it. Terms never
//! decrease along the log, and what is applied is committed. So once this node has applied an entry of a later
//! term, every committed entry of the earlier term has been applied here too, and a proposal of that term which
//! was not among them never will be. It may be proposed anew, and its caller never learns of the change of
//! leader. The one exception is a snapshot that was installed meanwhile: it may hold the entry without having
//! shown it, so whoever waited then is not proposed for again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ovncp_state::{NodeId, Reply};
use ovncp_storage::runtime::random_u64;
use ovncp_storage::types::Origin;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::ProposeError;
use crate::group::Committed;

/// Callers waiting on one node at once.
pub(crate) const CALLERS_MAX: usize = 65_536;
/// Bytes of their encoded requests together: an average of 1 KiB for as many as there may be.
pub(crate) const CALLERS_BYTES_MAX: usize = 64 * 1_024 * 1_024;
/// Within this time a leader that is gone or not the leader any more has said so.
const DELIVERY_TIME: Duration = Duration::from_millis(250);

type Answer = Result<Committed, ProposeError>;

/// An encoded request on its way to a leader.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) ticket: u64,
    pub(crate) envelope: Bytes,
    /// Not handed to anybody by then: refused.
    pub(crate) give_up: Instant,
    /// Shared by all who hold the envelope.
    _room: Arc<Room>,
}

/// The bytes of one envelope, taken until nobody holds it any more. A caller that gives up does not give them back: its
/// envelope stands in a queue, or is on its way to a leader, for as long as those take.
#[derive(Debug)]
struct Room {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// Room for so many bytes, if that many are left.
    fn take(used: &Arc<AtomicUsize>, bytes: usize) -> Option<Arc<Self>> {
        let fits = |before: usize| before.checked_add(bytes).filter(|after| *after <= CALLERS_BYTES_MAX);
        used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Arc::new(Self { used: Arc::clone(used), bytes }))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The waiting callers of this node.
pub(crate) struct Callers {
    node: AtomicU64,
    /// Bytes of all envelopes that are held anywhere on the way to a leader.
    bytes: Arc<AtomicUsize>,
    inner: Mutex<Inner>,
}

struct Inner {
    next_ticket: u64,
    waiting: BTreeMap<u64, Caller>,
}

struct Caller {
    answer: oneshot::Sender<Answer>,
    proposal: Queued,
    /// The term for which it was given to a leader's log, perhaps: its outcome is decided by apply alone.
    handed_over: Option<u64>,
    /// When it was handed over last.
    since: Instant,
    /// A snapshot was installed meanwhile.
    blind: bool,
}

impl Callers {
    pub(crate) fn new() -> Arc<Self> {
        let inner = Inner { next_ticket: random_u64(), waiting: BTreeMap::new() };
        Arc::new(Self { node: AtomicU64::new(0), bytes: Arc::default(), inner: Mutex::new(inner) })
    }

    /// This node's Raft id, once it has one. Proposals of other nodes are not ours.
    pub(crate) fn set_node(&self, id: NodeId) {
        self.node.store(id.0, Ordering::Release);
    }

    /// Takes a ticket for an encoded request. Not handed to anybody by `give_up`, it is refused.
    pub(crate) fn register(
        self: &Arc<Self>,
        envelope: Bytes,
        give_up: Instant,
    ) -> Result<(Ticket, Queued), ProposeError> {
        let (answer, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.waiting.len() >= CALLERS_MAX {
            return Err(ProposeError::Busy { queue: "proposals" });
        }
        let room =
            Room::take(&self.bytes, envelope.len()).ok_or(ProposeError::Busy { queue: "proposal bytes" })?;
        let number = inner.next_ticket;
        inner.next_ticket = inner.next_ticket.wrapping_add(1);
        let proposal = Queued { ticket: number, envelope, give_up, _room: room };
        let since = Instant::now();
        let caller = Caller { answer, proposal: proposal.clone(), handed_over: None, since, blind: false };
        inner.waiting.insert(number, caller);
        drop(inner);
        Ok((Ticket { number, callers: Arc::clone(self), receiver }, proposal))
    }

    /// The proposal's origin for a ticket of this node.
    pub(crate) fn origin(&self, ticket: u64) -> Origin {
        Origin { node: NodeId(self.node.load(Ordering::Acquire)), ticket }
    }

    /// About to give this proposal to the log of `term`. `false` when its caller is gone: then it must not be
    /// proposed.
    pub(crate) fn hand_over(&self, ticket: u64, term: u64) -> bool {
        match self.lock().waiting.get_mut(&ticket) {
            Some(caller) => {
                (caller.handed_over, caller.since) = (Some(term), Instant::now());
                true
            }
            None => false,
        }
    }

    /// It surely was not appended in `term` after all. `false` when it waits for another term or not at all.
    pub(crate) fn take_back(&self, ticket: u64, term: u64) -> bool {
        match self.lock().waiting.get_mut(&ticket) {
            Some(caller) if caller.handed_over == Some(term) => {
                (caller.handed_over, caller.blind) = (None, false);
                true
            }
            _ => false,
        }
    }

    /// An entry of `term` was applied: proposals of earlier terms that still wait are lost for certain, and
    /// returned to be proposed anew.
    pub(crate) fn lost_before(&self, term: u64) -> Vec<Queued> {
        let mut inner = self.lock();
        let lost = inner.waiting.values_mut().filter(|caller| {
            !caller.blind && caller.handed_over.is_some_and(|handed_over| handed_over < term)
        });
        lost.map(|caller| {
            caller.handed_over = None;
            caller.proposal.clone()
        })
        .collect()
    }

    /// A snapshot was installed: the entries it covers were not seen one by one.
    pub(crate) fn blind(&self) {
        for caller in self.lock().waiting.values_mut() {
            caller.blind |= caller.handed_over.is_some();
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

    /// Tells everybody whose proposal may be in a log for `age` that the outcome is not known: no majority works.
    /// One that was handed over a moment ago may yet be refused for certain (a dead leader's port refuses within
    /// milliseconds), so it is spared until [`DELIVERY_TIME`] has passed.
    pub(crate) fn abandon(&self, age: Duration) {
        let age = age.max(DELIVERY_TIME);
        let mut inner = self.lock();
        if inner.waiting.is_empty() {
            return;
        }
        let handed_over: Vec<_> = inner
            .waiting
            .extract_if(.., |_, caller| caller.handed_over.is_some() && caller.since.elapsed() >= age)
            .collect();
        for (_, caller) in handed_over {
            let _ = caller.answer.send(Err(ProposeError::Unknown));
        }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Ends everybody: those who were handed over do not know their outcome.
    pub(crate) fn stop(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for caller in waiting.into_values() {
            let error = if caller.handed_over.is_some() {
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
            Some(caller) => Err(caller.handed_over.is_some()),
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

    fn register(callers: &Arc<Callers>) -> Ticket {
        callers.register(Bytes::from_static(b"request"), Instant::now()).unwrap().0
    }

    #[tokio::test]
    async fn a_caller_is_answered_by_its_own_entry_only() {
        let callers = Callers::new();
        callers.set_node(NodeId(2));
        let mut ticket = register(&callers);
        assert!(callers.hand_over(ticket.number, 1));
        callers.applied(Origin { node: NodeId(1), ticket: ticket.number }, committed);
        callers.applied(Origin { node: NodeId(2), ticket: ticket.number.wrapping_add(1) }, committed);
        callers.applied(callers.origin(ticket.number), committed);
        assert_eq!(ticket.answer().await, Ok(committed()));
    }

    #[test]
    fn a_withdrawn_caller_knows_whether_its_proposal_may_exist() {
        let callers = Callers::new();
        callers.set_node(NodeId(1));
        assert_eq!(register(&callers).withdraw(), Err(false));

        let handed = register(&callers);
        assert!(callers.hand_over(handed.number, 1));
        assert_eq!(handed.withdraw(), Err(true));

        let returned = register(&callers);
        let number = returned.number;
        assert!(callers.hand_over(number, 1));
        assert!(callers.take_back(number, 1));
        assert_eq!(returned.withdraw(), Err(false));
        assert!(!callers.hand_over(number, 1), "a withdrawn proposal is never proposed");
    }

    #[test]
    fn a_later_term_shows_which_proposals_are_lost() {
        let callers = Callers::new();
        let tickets = [register(&callers), register(&callers), register(&callers), register(&callers)];
        callers.hand_over(tickets[0].number, 3);
        callers.hand_over(tickets[1].number, 4);
        callers.hand_over(tickets[2].number, 2);
        callers.blind();
        callers.take_back(tickets[1].number, 4);
        callers.hand_over(tickets[1].number, 3);
        // Handed over for 3 and 2 before a snapshot, for 3 after it, and not at all.
        let lost: Vec<u64> = callers.lost_before(4).iter().map(|queued| queued.ticket).collect();
        assert_eq!(lost, [tickets[1].number]);
        assert!(callers.lost_before(4).is_empty(), "returned once");
        // A refusal of the first attempt that arrives late must not propose it a third time.
        callers.hand_over(tickets[1].number, 4);
        assert!(!callers.take_back(tickets[1].number, 3));
        assert!(callers.take_back(tickets[1].number, 4));
    }

    #[test]
    fn a_proposal_of_the_present_term_is_not_lost() {
        let callers = Callers::new();
        let ticket = register(&callers);
        callers.hand_over(ticket.number, 4);
        assert!(callers.lost_before(4).is_empty());
        assert_eq!(callers.lost_before(5).len(), 1);
        assert_eq!(ticket.withdraw(), Err(false));
    }

    #[test]
    fn an_answer_that_came_before_the_withdrawal_wins() {
        let callers = Callers::new();
        callers.set_node(NodeId(1));
        let ticket = register(&callers);
        callers.applied(callers.origin(ticket.number), committed);
        assert_eq!(ticket.withdraw(), Ok(Ok(committed())));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_majority_only_those_who_were_handed_over_are_told() {
        let callers = Callers::new();
        let (queued, handed) = (register(&callers), register(&callers));
        callers.hand_over(handed.number, 1);
        tokio::time::advance(DELIVERY_TIME).await;
        callers.abandon(Duration::ZERO);
        assert_eq!(handed.withdraw(), Ok(Err(ProposeError::Unknown)));
        assert_eq!(queued.withdraw(), Err(false));
    }

    /// A survivor knocks at its dead leader every few milliseconds: that must not turn a certain refusal into
    /// an unknown outcome.
    #[tokio::test(start_paused = true)]
    async fn a_proposal_that_is_just_being_delivered_is_not_abandoned() {
        let callers = Callers::new();
        let knocking = register(&callers);
        for _ in 0..3 {
            assert!(callers.hand_over(knocking.number, 1));
            callers.abandon(Duration::ZERO);
            assert!(callers.take_back(knocking.number, 1), "abandoned while it was being delivered");
            tokio::time::advance(DELIVERY_TIME).await;
        }
        assert_eq!(knocking.withdraw(), Err(false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_young_are_spared_when_only_old_ones_are_hopeless() {
        let callers = Callers::new();
        let (old, young) = (register(&callers), register(&callers));
        callers.hand_over(old.number, 1);
        tokio::time::advance(DELIVERY_TIME * 4).await;
        callers.hand_over(young.number, 1);
        tokio::time::advance(DELIVERY_TIME * 2).await;
        callers.abandon(DELIVERY_TIME * 5);
        assert_eq!(old.withdraw(), Ok(Err(ProposeError::Unknown)));
        assert_eq!(young.withdraw(), Err(true));
    }

    #[test]
    fn waiting_requests_are_bounded_by_their_bytes_and_every_end_gives_them_back() {
        let callers = Callers::new();
        callers.set_node(NodeId(1));
        let large = Bytes::from(vec![0; CALLERS_BYTES_MAX / 4]);
        let take = || callers.register(large.clone(), Instant::now());
        let fill =
            || -> Vec<Ticket> { std::iter::from_fn(|| take().ok().map(|(ticket, _)| ticket)).collect() };
        type End = fn(&Callers, &Ticket);
        let ends: [End; 4] = [
            |_, _| {},
            |callers, ticket| callers.refuse(ticket.number, ProposeError::Unknown),
            |callers, ticket| callers.applied(callers.origin(ticket.number), committed),
            |callers, _| callers.stop("test"),
        ];
        for end in ends {
            let tickets = fill();
            assert_eq!(tickets.len(), 4);
            assert_eq!(take().err(), Some(ProposeError::Busy { queue: "proposal bytes" }));
            // A small one finds room only once a large one is gone.
            assert!(callers.register(Bytes::from_static(b"x"), Instant::now()).is_err());
            tickets.iter().for_each(|ticket| end(&callers, ticket));
            drop(tickets);
            assert_eq!(callers.bytes.load(Ordering::Acquire), 0);
        }
        let withdrawn = fill().pop().map(Ticket::withdraw);
        assert_eq!(withdrawn, Some(Err(false)));
        assert_eq!(callers.bytes.load(Ordering::Acquire), 0);
    }

    /// Callers that come and give up faster than the queue is drained must not fill it with more than the bound.
    #[test]
    fn envelopes_count_as_long_as_anybody_holds_them() {
        let callers = Callers::new();
        let large = Bytes::from(vec![0; CALLERS_BYTES_MAX / 4]);
        let mut queue = Vec::new();
        while let Ok((ticket, queued)) = callers.register(large.clone(), Instant::now()) {
            queue.push(queued);
            assert_eq!(ticket.withdraw(), Err(false), "nobody waits");
        }
        assert_eq!((queue.len(), callers.count()), (4, 0));
        let refused = callers.register(Bytes::from_static(b"x"), Instant::now()).err();
        assert_eq!(refused, Some(ProposeError::Busy { queue: "proposal bytes" }));
        // Taken out of the queue and on its way in a batch, and a caller that waits: both count once.
        let flying = queue.pop();
        assert!(callers.register(Bytes::from_static(b"x"), Instant::now()).is_err());
        drop(flying);
        let (ticket, queued) = callers.register(large, Instant::now()).unwrap();
        queue.clear();
        assert_eq!(callers.bytes.load(Ordering::Acquire), CALLERS_BYTES_MAX / 4);
        drop(queued);
        assert_eq!(
            callers.bytes.load(Ordering::Acquire),
            CALLERS_BYTES_MAX / 4,
            "its caller may propose it anew"
        );
        drop(ticket);
        assert_eq!(callers.bytes.load(Ordering::Acquire), 0);
    }

    #[test]
    fn stopping_tells_the_unknown_from_the_certain() {
        let callers = Callers::new();
        let (queued, handed) = (register(&callers), register(&callers));
        callers.hand_over(handed.number, 1);
        callers.stop("test");
        assert_eq!(queued.withdraw(), Ok(Err(ProposeError::Stopped { reason: "test".to_owned() })));
        assert_eq!(handed.withdraw(), Ok(Err(ProposeError::Unknown)));
    }
}
