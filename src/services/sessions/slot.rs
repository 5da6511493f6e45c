//! One socket of this node: what waits for it, and what it has done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ovncp_state::sessions::view::Message;
use ovncp_state::{MessageOffset, SessionNumber};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Messages that may wait for one socket. A client that is further behind is closed and resumes from the log.
pub const QUEUE_MESSAGES_MAX: usize = 1_024;
/// Their bytes, roughly. The texts themselves are shared with the log and the other sockets.
pub const QUEUE_BYTES_MAX: usize = 1_024 * 1_024;
/// Of a message without its texts.
const MESSAGE_BYTES: usize = 128;

/// A message, and room for the text that the edge makes of it once for all its sockets.
#[derive(Debug)]
pub struct Kept {
    /// What was published.
    pub message: Arc<Message>,
    /// Its rendering by the edge.
    pub text: OnceLock<Bytes>,
}

impl Kept {
    /// Not rendered yet.
    #[must_use]
    pub fn new(message: Arc<Message>) -> Self {
        Self { message, text: OnceLock::new() }
    }

    fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.message.data.len()
    }
}

/// Why a socket has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Another socket has the session.
    Moved,
    /// The session is over.
    Ended,
    /// It does not take what it is sent.
    Slow,
    /// This node stops, is being emptied, or lost the others: the client goes on elsewhere.
    Restart,
}

/// What a socket is told beside messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Ask the client to go to another node.
    Migrate,
    /// Read the log itself for a while: the hub lost its place there.
    Read,
    /// Close it.
    End(End),
}

/// Shared by the hub and the task of the socket.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: SessionNumber,
    pub(super) epoch: u64,
    /// Something waits, or an order came.
    pub(super) wake: Notify,
    inbox: Mutex<Inbox>,
    /// Everything before this offset was sent.
    sent: AtomicU64,
    /// Everything before this offset arrived: the client has answered a ping that followed it.
    arrived: AtomicU64,
    opened: Instant,
    /// Milliseconds from `opened` to the last sign of the client.
    active: AtomicU64,
    /// The same, and the position, as they were last reported.
    pub(super) reported: Mutex<Option<(u64, MessageOffset)>>,
}

/// Nothing is allocated before something waits.
#[derive(Debug)]
struct Inbox {
    /// Whether the hub fills it. Until then, the socket reads the log itself.
    live: bool,
    /// What lies before it was read from the log.
    from: MessageOffset,
    messages: VecDeque<Arc<Kept>>,
    bytes: usize,
    /// One was taken and is not sent yet.
    sending: bool,
    migrate: bool,
    read: bool,
    end: Option<End>,
}

impl Slot {
    pub(super) fn new(number: SessionNumber, epoch: u64, position: MessageOffset) -> Self {
        let inbox = Inbox {
            live: false,
            from: position,
            messages: VecDeque::new(),
            bytes: 0,
            sending: false,
            migrate: false,
            read: false,
            end: None,
        };
        Self {
            number,
            epoch,
            wake: Notify::new(),
            inbox: Mutex::new(inbox),
            sent: AtomicU64::new(position.0),
            arrived: AtomicU64::new(position.0),
            opened: Instant::now(),
            active: AtomicU64::new(0),
            reported: Mutex::new(None),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Valid between any two statements, so a panic elsewhere does not spoil it.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message into the inbox, if the socket is that far.
    pub(super) fn push(&self, kept: &Arc<Kept>) {
        let mut inbox = self.inbox();
        if !inbox.live || kept.message.offset < inbox.from || inbox.end.is_some() {
            return;
        }
        inbox.messages.push_back(Arc::clone(kept));
        inbox.bytes += kept.bytes();
        if inbox.messages.len() > QUEUE_MESSAGES_MAX || inbox.bytes > QUEUE_BYTES_MAX {
            // What waits is in the log: the client gets it when it resumes.
            inbox.messages = VecDeque::new();
            inbox.bytes = 0;
            inbox.live = false;
            inbox.end = Some(End::Slow);
        }
        drop(inbox);
        self.wake.notify_one();
    }

    /// Gives an order. The first end stands; it makes everything else void.
    pub(super) fn order(&self, order: Order) {
        let mut inbox = self.inbox();
        match order {
            Order::Migrate => inbox.migrate = true,
            Order::Read => inbox.read = true,
            Order::End(end) => {
                inbox.end.get_or_insert(end);
            }
        }
        drop(inbox);
        self.wake.notify_one();
    }

    /// The end that was ordered, if one was.
    pub(super) fn end(&self) -> Option<End> {
        self.inbox().end
    }

    /// The next order, then the next message.
    pub(super) fn take(&self) -> Option<Result<Arc<Kept>, Order>> {
        let mut inbox = self.inbox();
        if let Some(end) = inbox.end {
            return Some(Err(Order::End(end)));
        }
        if std::mem::take(&mut inbox.migrate) {
            return Some(Err(Order::Migrate));
        }
        let Some(kept) = inbox.messages.pop_front() else {
            return std::mem::take(&mut inbox.read).then_some(Err(Order::Read));
        };
        inbox.bytes -= kept.bytes();
        inbox.sending = true;
        if inbox.messages.is_empty() && inbox.messages.capacity() > QUEUE_MESSAGES_MAX / 8 {
            inbox.messages = VecDeque::new();
        }
        Some(Ok(kept))
    }

    /// From now on the hub fills the inbox with what begins at `position`.
    pub(super) fn go_live(&self, position: MessageOffset) {
        let mut inbox = self.inbox();
        inbox.from = position;
        inbox.live = inbox.end.is_none();
        drop(inbox);
        self.reached(position);
    }

    /// The hub fills the inbox no more. What is in it lies before the returned offset, and everything else of this
    /// socket from there on.
    pub(super) fn pause(&self, hub_position: MessageOffset) -> MessageOffset {
        let mut inbox = self.inbox();
        if inbox.live {
            inbox.live = false;
            inbox.from = inbox.from.max(hub_position);
        }
        inbox.from
    }

    /// The hub has lost its place behind `hub_position`: the socket goes on by itself.
    pub(super) fn fall_back(&self, hub_position: MessageOffset) {
        if self.inbox().live {
            self.pause(hub_position);
            self.order(Order::Read);
        }
    }

    /// Everything before `position` is sent.
    pub(super) fn reached(&self, position: MessageOffset) {
        self.sent.store(position.0, Ordering::Relaxed);
    }

    /// What follows `position` is sent again, or for the first time.
    pub(super) fn go_back(&self, position: MessageOffset) {
        self.sent.fetch_min(position.0, Ordering::Relaxed);
        self.arrived.fetch_min(position.0, Ordering::Relaxed);
    }

    /// The message that was taken is sent.
    pub(super) fn sent(&self, offset: MessageOffset) {
        self.inbox().sending = false;
        self.sent.store(offset.0 + 1, Ordering::Relaxed);
    }

    /// What was sent, when the hub has handed out everything before `hub_position`.
    pub(super) fn position(&self, hub_position: MessageOffset) -> MessageOffset {
        let inbox = self.inbox();
        let idle = inbox.live && inbox.messages.is_empty() && !inbox.sending;
        let sent = MessageOffset(self.sent.load(Ordering::Relaxed));
        if idle { sent.max(hub_position) } else { sent }
    }

    /// The client has answered a ping that was sent when the position was `position`.
    pub(super) fn acknowledge(&self, position: MessageOffset, sent: MessageOffset) {
        // A client can echo anything; and what was sent before a step back says nothing about what follows it.
        self.arrived.fetch_max(position.min(sent).0, Ordering::Relaxed);
    }

    /// What arrived at the client for sure.
    pub(super) fn arrived(&self) -> MessageOffset {
        MessageOffset(self.arrived.load(Ordering::Relaxed))
    }

    /// The client gave a sign of life.
    pub(super) fn touch(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.store(since, Ordering::Relaxed);
    }

    /// When the client last gave a sign of life, counted from the opening in milliseconds.
    pub(super) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// How long the client has been silent.
    pub(super) fn idle(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.active()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovncp_state::Millis;
    use ovncp_state::command::Recipient;

    fn kept(offset: u64, bytes: usize) -> Arc<Kept> {
        let to = Recipient::User("u".to_owned());
        let data = "x".repeat(bytes);
        let (offset, at) = (MessageOffset(offset), Millis(0));
        Arc::new(Kept::new(Arc::new(Message { offset, at, to, data, from: None })))
    }

    fn offset_of(taken: Option<Result<Arc<Kept>, Order>>) -> Option<u64> {
        taken.map(|taken| taken.unwrap().message.offset.0)
    }

    #[test]
    fn only_what_follows_the_log_is_taken_in() {
        let slot = Slot::new(SessionNumber(1), 1, MessageOffset(3));
        slot.push(&kept(3, 1));
        assert!(slot.take().is_none(), "the socket still reads the log");
        slot.go_live(MessageOffset(5));
        (4..8).for_each(|offset| slot.push(&kept(offset, 1)));
        assert_eq!(offset_of(slot.take()), Some(5));
        assert_eq!(slot.position(MessageOffset(8)), MessageOffset(5), "taken is not sent");
        slot.sent(MessageOffset(5));
        assert_eq!(slot.pause(MessageOffset(8)), MessageOffset(8));
        slot.push(&kept(8, 1));
        assert_eq!(
            [offset_of(slot.take()), offset_of(slot.take()), offset_of(slot.take())],
            [Some(6), Some(7), None]
        );
        slot.sent(MessageOffset(7));
        assert_eq!(slot.position(MessageOffset(9)), MessageOffset(8), "paused: 8 was not delivered");
        slot.go_live(MessageOffset(9));
        assert_eq!(slot.position(MessageOffset(12)), MessageOffset(12), "nothing was for it");
    }

    #[test]
    fn a_queue_that_is_full_by_count_or_bytes_is_dropped_and_ends_the_socket() {
        for (bytes, most) in [(1, QUEUE_MESSAGES_MAX as u64 + 1), (QUEUE_BYTES_MAX / 4, 4)] {
            let slot = Slot::new(SessionNumber(1), 1, MessageOffset(0));
            slot.go_live(MessageOffset(0));
            for offset in 0..most {
                assert_eq!(slot.end(), None, "{offset}");
                slot.push(&kept(offset, bytes));
            }
            assert_eq!(slot.take().unwrap().unwrap_err(), Order::End(End::Slow));
            assert!(slot.inbox().messages.capacity() == 0 && slot.inbox().bytes == 0);
            assert_eq!(slot.position(MessageOffset(most)), MessageOffset(0));
            assert_eq!(slot.arrived(), MessageOffset(0), "all of it is due at the resume");
        }
    }

    #[test]
    fn what_arrived_is_what_a_ping_behind_it_proves() {
        let slot = Slot::new(SessionNumber(1), 1, MessageOffset(3));
        slot.go_live(MessageOffset(3));
        (3..6).for_each(|offset| slot.push(&kept(offset, 1)));
        for offset in 3..5 {
            assert_eq!(offset_of(slot.take()), Some(offset));
            slot.sent(MessageOffset(offset));
        }
        let sent = slot.position(MessageOffset(6));
        assert_eq!((sent, slot.arrived()), (MessageOffset(5), MessageOffset(3)), "sent is not arrived");
        slot.acknowledge(MessageOffset(99), sent);
        assert_eq!(slot.arrived(), MessageOffset(5), "more than was sent cannot have arrived");
        slot.acknowledge(MessageOffset(4), sent);
        assert_eq!(slot.arrived(), MessageOffset(5));
        slot.go_back(MessageOffset(1));
        slot.acknowledge(MessageOffset(5), slot.position(MessageOffset(6)));
        assert_eq!(slot.arrived(), MessageOffset(1), "the answer to a ping from before");
    }

    #[test]
    fn the_first_end_stands_and_goes_before_everything() {
        let slot = Slot::new(SessionNumber(1), 1, MessageOffset(0));
        slot.go_live(MessageOffset(0));
        slot.push(&kept(0, 1));
        slot.order(Order::Migrate);
        assert_eq!(slot.take().unwrap().unwrap_err(), Order::Migrate);
        slot.order(Order::End(End::Moved));
        slot.order(Order::End(End::Restart));
        assert_eq!(slot.take().unwrap().unwrap_err(), Order::End(End::Moved));
    }
}
