//! Which sessions have their sockets here, and who is concerned by what.
//!
//! One task follows the ring of messages and hands each message to the sockets that it is for (`Hub::hand_out`);
//! no other socket is woken. What happens to sessions is seen where it is applied ([`SessionObserver`]).
//!
//! LOCKS. The observer runs while an entry is applied, so nobody may look at the state while holding the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ovncp_raft::Observer;
use ovncp_state::command::Recipient;
use ovncp_state::reply::SessionGrant;
use ovncp_state::sessions::view::{Message, SessionView};
use ovncp_state::{EventKind, LogIndex, MessageOffset, NodeId, SessionNumber};
use ovncp_storage::sink::AppliedEntry;
use tokio::sync::Notify;

use super::slot::{End, Kept, Order, Slot};
use crate::telemetry::metrics::SessionMetrics;

/// The sockets of this node.
#[derive(Default)]
pub struct Hub {
    sockets: Mutex<Sockets>,
    /// This node's Raft id once it serves, 0 before.
    own: AtomicU64,
    /// A snapshot replaced the state: what happened meanwhile was not seen.
    pub(super) recheck: Notify,
}

#[derive(Default)]
struct Sockets {
    seats: BTreeMap<SessionNumber, Seat>,
    users: BTreeMap<String, BTreeSet<SessionNumber>>,
    channels: BTreeMap<String, BTreeSet<SessionNumber>>,
    /// Everything before it was handed out.
    position: MessageOffset,
}

struct Seat {
    slot: Arc<Slot>,
    user: String,
    channels: BTreeSet<String>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Sockets> {
        // Valid between any two statements, so a panic elsewhere does not spoil it.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on moves to this node are counted.
    pub fn go_live(&self, node: NodeId) {
        self.own.store(node.0, Ordering::Relaxed);
    }

    /// How many sockets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().seats.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a socket in. Of two with one session the one with the higher epoch stays.
    pub(super) fn enter(&self, grant: &SessionGrant, position: MessageOffset) -> Arc<Slot> {
        let slot = Arc::new(Slot::new(grant.number, grant.epoch, position));
        let mut sockets = self.lock();
        if let Some(present) = sockets.seats.get(&grant.number) {
            if present.slot.epoch > grant.epoch {
                slot.order(Order::End(End::Moved));
                return slot;
            }
            present.slot.order(Order::End(End::Moved));
            sockets.remove(grant.number);
        }
        sockets.users.entry(grant.user.clone()).or_default().insert(grant.number);
        for channel in &grant.channels {
            sockets.channels.entry(channel.clone()).or_default().insert(grant.number);
        }
        let channels = grant.channels.iter().cloned().collect();
        sockets
            .seats
            .insert(grant.number, Seat { slot: Arc::clone(&slot), user: grant.user.clone(), channels });
        slot
    }

    /// Lets a socket go, unless another one has its place.
    pub(super) fn leave(&self, slot: &Arc<Slot>) {
        let mut sockets = self.lock();
        if sockets.seats.get(&slot.number).is_some_and(|seat| Arc::ptr_eq(&seat.slot, slot)) {
            sockets.remove(slot.number);
        }
    }

    /// Follows a change of what a session listens to.
    pub(super) fn listen(&self, slot: &Arc<Slot>, add: &[String], remove: &[String]) {
        let mut sockets = self.lock();
        let Sockets { seats, channels, .. } = &mut *sockets;
        let Some(seat) = seats.get_mut(&slot.number).filter(|seat| Arc::ptr_eq(&seat.slot, slot)) else {
            return;
        };
        for channel in add {
            if seat.channels.insert(channel.clone()) {
                channels.entry(channel.clone()).or_default().insert(slot.number);
            }
        }
        for channel in remove {
            if seat.channels.remove(channel) {
                forget(channels, channel, slot.number);
            }
        }
    }

    /// The hub fills the socket's inbox no more; answers from where on the socket has to read the log.
    pub(super) fn pause(&self, slot: &Slot) -> MessageOffset {
        let sockets = self.lock();
        slot.pause(sockets.position)
    }

    /// The hub fills the inbox of a socket that has read the log up to `position`. False when the hub is further: the
    /// socket has to go on reading.
    pub(super) fn resume(&self, slot: &Slot, position: MessageOffset) -> bool {
        let sockets = self.lock();
        let caught_up = sockets.position <= position;
        if caught_up {
            slot.go_live(position);
        }
        caught_up
    }

    /// What of a session was delivered.
    pub(super) fn position_of(&self, slot: &Slot) -> MessageOffset {
        let sockets = self.lock();
        slot.position(sockets.position)
    }

    /// Where the hub has come to.
    pub(super) fn position(&self) -> MessageOffset {
        self.lock().position
    }

    /// Goes on at `position` without handing anything out, if nobody is there to get it. Sockets that come later read
    /// the log up to here themselves.
    pub(super) fn skip(&self, position: MessageOffset) -> bool {
        let mut sockets = self.lock();
        let idle = sockets.seats.is_empty();
        if idle {
            sockets.position = sockets.position.max(position);
        }
        idle
    }

    /// Messages up to `next` are gone before they were handed out: every socket reads the log itself, and learns there
    /// what it lost.
    pub(super) fn lost(&self, next: MessageOffset) {
        let mut sockets = self.lock();
        let position = sockets.position;
        for seat in sockets.seats.values() {
            seat.slot.fall_back(position);
        }
        sockets.position = next;
    }

    /// Hands one message to the sockets that it is for.
    pub(super) fn hand_out(&self, message: &Arc<Message>) {
        let mut sockets = self.lock();
        if message.offset < sockets.position {
            return;
        }
        sockets.position = MessageOffset(message.offset.0 + 1);
        let several = match &message.to {
            Recipient::Session(number) => {
                if let Some(seat) = sockets.seats.get(number) {
                    seat.slot.push(&Arc::new(Kept::new(Arc::clone(message))));
                }
                return;
            }
            Recipient::User(user) => sockets.users.get(user),
            Recipient::Channel(channel) => sockets.channels.get(channel),
        };
        let Some(several) = several else { return };
        let kept = Arc::new(Kept::new(Arc::clone(message)));
        for seat in several.iter().filter_map(|number| sockets.seats.get(number)) {
            seat.slot.push(&kept);
        }
    }

    /// Sockets in the order of their sessions, after `after`.
    pub(super) fn page(&self, after: Option<SessionNumber>, limit: usize) -> Vec<Arc<Slot>> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sockets = self.lock();
        let seats = sockets.seats.range((from, Bound::Unbounded)).take(limit);
        seats.map(|(_, seat)| Arc::clone(&seat.slot)).collect()
    }

    /// The epoch of the socket of a session, if it has one here.
    pub(super) fn epoch_of(&self, number: SessionNumber) -> Option<u64> {
        self.lock().seats.get(&number).map(|seat| seat.slot.epoch)
    }

    /// Gives every socket the same order.
    pub(super) fn order_all(&self, order: Order) {
        let sockets = self.lock();
        sockets.seats.values().for_each(|seat| seat.slot.order(order));
    }

    /// Gives one socket an order, if it still has this epoch.
    pub(super) fn order_one(&self, number: SessionNumber, epoch: u64, order: Order) {
        self.with(number, |slot| {
            if slot.epoch == epoch {
                slot.order(order);
            }
        });
    }

    fn with(&self, number: SessionNumber, act: impl FnOnce(&Slot)) {
        if let Some(seat) = self.lock().seats.get(&number) {
            act(&seat.slot);
        }
    }

    fn happened(&self, kind: &EventKind) {
        match kind {
            EventKind::SessionAttached { number, epoch, .. } => self.with(*number, |slot| {
                if slot.epoch < *epoch {
                    slot.order(Order::End(End::Moved));
                }
            }),
            // By somebody else than the socket, which is gone when it reports that itself.
            EventKind::SessionDetached { number, epoch, .. } => self.with(*number, |slot| {
                if slot.epoch == *epoch {
                    slot.order(Order::End(End::Restart));
                }
            }),
            EventKind::SessionMigrating { number, epoch, .. } => self.with(*number, |slot| {
                if slot.epoch == *epoch {
                    slot.order(Order::Migrate);
                }
            }),
            EventKind::SessionEnded { number, .. } => {
                self.with(*number, |slot| slot.order(Order::End(End::Ended)));
            }
            _ => {}
        }
    }
}

impl Sockets {
    fn remove(&mut self, number: SessionNumber) {
        let Some(seat) = self.seats.remove(&number) else { return };
        forget(&mut self.users, &seat.user, number);
        for channel in &seat.channels {
            forget(&mut self.channels, channel, number);
        }
    }
}

fn forget(index: &mut BTreeMap<String, BTreeSet<SessionNumber>>, name: &str, number: SessionNumber) {
    if let Some(numbers) = index.get_mut(name) {
        numbers.remove(&number);
        if numbers.is_empty() {
            index.remove(name);
        }
    }
}

/// What the state says about the socket of a session.
pub(super) fn verdict(slot: &Slot, own: NodeId, session: Option<&SessionView>) -> Option<Order> {
    let Some(session) = session else { return Some(Order::End(End::Ended)) };
    if session.epoch != slot.epoch || session.node != own {
        return Some(Order::End(End::Moved));
    }
    if !session.attached {
        return Some(Order::End(End::Restart));
    }
    session.migration.map(|_| Order::Migrate)
}

/// Sees what is applied: tells the sockets of this node, and counts moves where they end.
pub struct SessionObserver {
    /// Whom to tell.
    pub hub: Arc<Hub>,
    /// Where to count.
    pub metrics: Arc<SessionMetrics>,
}

impl Observer for SessionObserver {
    fn applied(&self, entries: &[AppliedEntry]) {
        let own = self.hub.own.load(Ordering::Relaxed);
        for entry in entries {
            for event in &entry.applied.events {
                self.hub.happened(&event.kind);
                // Each move once in the cluster: where it ends, and not again when the log is replayed.
                if let EventKind::SessionAttached { node, from: Some(from), .. } = &event.kind
                    && node.id.0 == own
                {
                    self.metrics.migrated(&from.name, &node.name);
                }
            }
        }
    }

    fn installed(&self, _index: LogIndex) {
        self.hub.recheck.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovncp_state::event::NodeRef;
    use ovncp_state::{Millis, SessionId};

    fn grant(number: u64, epoch: u64, user: &str, channels: &[&str]) -> SessionGrant {
        SessionGrant {
            number: SessionNumber(number),
            id: SessionId([0; 16]),
            epoch,
            user: user.to_owned(),
            node: NodeId(1),
            position: MessageOffset(0),
            channels: channels.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn message(offset: u64, to: Recipient) -> Arc<Message> {
        let (offset, at) = (MessageOffset(offset), Millis(0));
        Arc::new(Message { offset, at, to, data: "1".to_owned(), from: None })
    }

    fn live(hub: &Hub, grant: &SessionGrant) -> Arc<Slot> {
        let slot = hub.enter(grant, MessageOffset(0));
        assert!(hub.resume(&slot, hub.position()));
        slot
    }

    fn offsets(slot: &Slot) -> Vec<u64> {
        std::iter::from_fn(|| slot.take()).map(|taken| taken.unwrap().message.offset.0).collect()
    }

    #[test]
    fn only_those_concerned_get_a_message() {
        let hub = Hub::default();
        let (a, b) = (live(&hub, &grant(1, 1, "u", &["c"])), live(&hub, &grant(2, 1, "v", &["c", "d"])));
        let to = [
            Recipient::Session(SessionNumber(1)),
            Recipient::User("v".to_owned()),
            Recipient::Channel("c".to_owned()),
            Recipient::Channel("d".to_owned()),
            Recipient::Channel("nobody".to_owned()),
            Recipient::Session(SessionNumber(9)),
        ];
        for (offset, to) in to.into_iter().enumerate() {
            hub.hand_out(&message(offset as u64, to));
        }
        assert_eq!((offsets(&a), offsets(&b)), (vec![0, 2], vec![1, 2, 3]));
        // A page that comes twice, as after a snapshot, is handed out once.
        hub.hand_out(&message(2, Recipient::Channel("c".to_owned())));
        assert!(offsets(&a).is_empty());
        hub.listen(&a, &["d".to_owned()], &["c".to_owned()]);
        hub.hand_out(&message(6, Recipient::Channel("c".to_owned())));
        hub.hand_out(&message(7, Recipient::Channel("d".to_owned())));
        assert_eq!(offsets(&a), [7]);
        hub.leave(&a);
        hub.leave(&b);
        let sockets = hub.lock();
        assert!(sockets.seats.is_empty() && sockets.users.is_empty() && sockets.channels.is_empty());
    }

    #[test]
    fn of_two_sockets_the_newest_stays_whichever_comes_first() {
        for epochs in [[1, 2], [2, 1]] {
            let hub = Hub::default();
            let slots = epochs.map(|epoch| hub.enter(&grant(1, epoch, "u", &["c"]), MessageOffset(0)));
            for slot in &slots {
                assert_eq!(slot.end(), (slot.epoch == 1).then_some(End::Moved), "{epochs:?}");
            }
            assert_eq!(hub.epoch_of(SessionNumber(1)), Some(2));
            slots.iter().filter(|slot| slot.epoch == 1).for_each(|slot| hub.leave(slot));
            assert_eq!(hub.len(), 1, "the older one takes nothing with it");
        }
    }

    #[test]
    fn a_socket_learns_what_happens_to_its_epoch_only() {
        let node = NodeRef { id: NodeId(2), name: "node-2".to_owned() };
        let number = SessionNumber(1);
        let attached = |epoch| EventKind::SessionAttached { number, node: node.clone(), epoch, from: None };
        let detached = |epoch| EventKind::SessionDetached { number, node: node.clone(), epoch };
        let hub = Hub::default();
        let slot = live(&hub, &grant(1, 2, "u", &[]));
        hub.happened(&attached(2));
        hub.happened(&detached(1));
        assert_eq!(slot.end(), None);
        hub.happened(&attached(3));
        assert_eq!(slot.end(), Some(End::Moved));
        let slot = live(&hub, &grant(1, 4, "u", &[]));
        hub.happened(&detached(4));
        assert_eq!(slot.end(), Some(End::Restart));
    }

    #[test]
    fn a_socket_reads_the_log_until_it_meets_the_hub() {
        let hub = Hub::default();
        let present = live(&hub, &grant(1, 1, "u", &[]));
        hub.hand_out(&message(0, Recipient::User("u".to_owned())));
        let late = hub.enter(&grant(2, 1, "u", &[]), MessageOffset(0));
        assert!(!hub.resume(&late, MessageOffset(0)), "the hub is at 1");
        assert!(hub.resume(&late, MessageOffset(1)));
        hub.hand_out(&message(1, Recipient::User("u".to_owned())));
        assert_eq!((offsets(&present), offsets(&late)), (vec![0, 1], vec![1]));
        assert_eq!(hub.pause(&late), MessageOffset(2));
        hub.lost(MessageOffset(9));
        assert_eq!(hub.pause(&late), MessageOffset(2), "what was lost is told by the log");
        assert_eq!(hub.pause(&present), MessageOffset(2), "the hub had handed out 0 and 1");
    }
}
