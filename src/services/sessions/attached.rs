//! A session with a socket of this node: what comes next for it, in order and each thing once.
//!
//! A socket begins in the log: it reads there what the client has not seen, and when it has caught up with the hub, the
//! hub goes on filling its inbox. A subscription to the past takes the same way once more, for the new channels only.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ovncp_state::MessageOffset;
use ovncp_state::command::Recipient;
use ovncp_state::reply::SessionGrant;
use ovncp_state::sessions::view::{LogReset, Message};

use super::slot::{End, Kept, Order, Slot};
use super::{MigrationTarget, Sessions};
use crate::services::ServiceError;

/// Messages of the log looked at in one go.
const READ_MESSAGES_MAX: usize = 256;

/// What a socket does next.
#[derive(Debug)]
pub enum Step {
    /// Send this message, then say so with [`Attached::sent`].
    Message(Arc<Kept>),
    /// Tell that messages up to `first` are lost: of these channels, or of everything that the session listens to.
    Reset(LogReset<MessageOffset>, Option<Vec<String>>),
    /// Nothing to tell: it no longer [is behind](Attached::is_behind).
    CaughtUp,
    /// Ask the client to go elsewhere.
    Migrate(MigrationTarget),
    /// Close.
    End(End),
}

/// A session and its socket. Dropped, the session is reported as detached.
pub struct Attached {
    sessions: Sessions,
    slot: Arc<Slot>,
    grant: SessionGrant,
    channels: BTreeSet<String>,
    backlog: Option<Backlog>,
    /// New channels whose turn in the log comes after the present one.
    pending: Option<Subscription>,
    /// The session is over, or another socket has it: there is nothing to report.
    over: bool,
}

/// Reading of the log.
struct Backlog {
    /// What comes next.
    position: MessageOffset,
    /// From here on everything of the session counts, before it only the new channels.
    floor: MessageOffset,
    /// New channels, and where they begin.
    fresh: Vec<String>,
    fresh_from: MessageOffset,
    /// Looked up and not told yet.
    page: VecDeque<Arc<Message>>,
}

impl Attached {
    pub(super) fn new(sessions: Sessions, grant: SessionGrant, since: Option<MessageOffset>) -> Self {
        let position = since.unwrap_or(grant.position);
        let slot = sessions.hub.enter(&grant, position);
        let channels = grant.channels.iter().cloned().collect();
        let backlog = Backlog {
            position,
            floor: position,
            fresh: Vec::new(),
            fresh_from: position,
            page: VecDeque::new(),
        };
        let attached =
            Self { sessions, slot, grant, channels, backlog: Some(backlog), pending: None, over: false };
        // Whatever happened between the grant and the line above was seen by nobody.
        attached.sessions.check(&attached.slot);
        attached
    }

    /// The session as it stood when the socket took it over.
    #[must_use]
    pub fn grant(&self) -> &SessionGrant {
        &self.grant
    }

    /// Everything before it was sent.
    #[must_use]
    pub fn position(&self) -> MessageOffset {
        self.sessions.hub.position_of(&self.slot)
    }

    /// What it listens to now.
    #[must_use]
    pub fn channels(&self) -> &BTreeSet<String> {
        &self.channels
    }

    /// The client gave a sign of life.
    pub fn touch(&self) {
        self.slot.touch();
    }

    /// The client has answered a ping that was sent at this [`position`](Self::position): all before it has arrived.
    pub fn acknowledged(&self, position: MessageOffset) {
        self.slot.acknowledge(position, self.position());
    }

    /// How long the client has been silent.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.slot.idle()
    }

    /// The message of the last step is sent.
    pub fn sent(&self, kept: &Kept) {
        self.slot.sent(kept.message.offset);
    }

    /// Waits for what comes next. Cancel-safe: what was not returned comes again.
    pub async fn next(&mut self) -> Step {
        loop {
            // A long replay must not keep its thread from others.
            tokio::task::consume_budget().await;
            match self.slot.take() {
                Some(Ok(kept)) => return Step::Message(kept),
                Some(Err(Order::End(end))) => return Step::End(end),
                Some(Err(Order::Migrate)) => {
                    if let Some(target) = self.sessions.migration_of(&self.slot) {
                        return Step::Migrate(target);
                    }
                    continue;
                }
                Some(Err(Order::Read)) => {
                    if self.backlog.is_none() {
                        let position = self.sessions.hub.pause(&self.slot);
                        self.read_from(position, Vec::new());
                    }
                    continue;
                }
                None => {}
            }
            if self.backlog.is_some() {
                if let Some(step) = self.read() {
                    return step;
                }
                if !self.is_behind() {
                    return Step::CaughtUp;
                }
                continue;
            }
            if let Some(subscription) = self.pending.take() {
                self.listen(subscription);
                continue;
            }
            self.slot.wake.notified().await;
        }
    }

    /// Reads the log once more: all of it from where the hub is, and these channels from `fresh_from`.
    fn read_from(&mut self, fresh_from: MessageOffset, fresh: Vec<String>) {
        let floor = self.sessions.hub.pause(&self.slot);
        let position = fresh_from.min(floor);
        // Until the past is told, a resume without `since` begins with it.
        self.slot.go_back(position);
        self.backlog = Some(Backlog { position, floor, fresh, fresh_from, page: VecDeque::new() });
    }

    /// One step through the log; none when there is nothing to tell yet or the hub takes over.
    fn read(&mut self) -> Option<Step> {
        let backlog = self.backlog.as_mut()?;
        if let Some(message) = backlog.page.pop_front() {
            return self.show(message);
        }
        let since = backlog.position;
        match self.sessions.core.group.read(|state| state.messages(since, READ_MESSAGES_MAX)).1 {
            Ok(page) if page.is_empty() => {
                self.slot.reached(since);
                if self.sessions.hub.resume(&self.slot, since) {
                    self.backlog = None;
                }
                None
            }
            Ok(page) => {
                self.slot.reached(since);
                backlog.page = page.into();
                None
            }
            Err(reset) => {
                let news_only = !backlog.fresh.is_empty() && reset.first <= backlog.floor;
                let channels = news_only.then(|| backlog.fresh.clone());
                let floor = if backlog.fresh.is_empty() { reset.first } else { backlog.floor };
                backlog.floor = floor.max(reset.first);
                backlog.position = reset.first;
                self.slot.reached(reset.first);
                Some(Step::Reset(reset, channels))
            }
        }
    }

    fn show(&mut self, message: Arc<Message>) -> Option<Step> {
        let backlog = self.backlog.as_mut()?;
        backlog.position = MessageOffset(message.offset.0 + 1);
        let live = message.offset >= backlog.floor;
        let concerned = match &message.to {
            Recipient::Session(number) => live && *number == self.grant.number,
            Recipient::User(user) => live && *user == self.grant.user,
            // Its own turn in the log comes.
            Recipient::Channel(channel)
                if self.pending.as_ref().is_some_and(|pending| pending.add.contains(channel)) =>
            {
                false
            }
            Recipient::Channel(channel) if backlog.fresh.contains(channel) => {
                message.offset >= backlog.fresh_from && self.channels.contains(channel)
            }
            Recipient::Channel(channel) => live && self.channels.contains(channel),
        };
        concerned.then(|| Step::Message(Arc::new(Kept::new(message))))
    }

    /// Changes what the session listens to. New channels begin at `since`, or with what is published from now on.
    pub fn subscribe(
        &self,
        add: Vec<String>,
        remove: Vec<String>,
        since: Option<MessageOffset>,
    ) -> impl Future<Output = Result<Subscription, ServiceError>> + Send + use<> {
        let (sessions, number, epoch) = (self.sessions.clone(), self.grant.number, self.grant.epoch);
        async move {
            // Before the proposal: nothing that comes after it may be missed.
            let from = sessions.core.group.read(|state| state.messages_kept().1).1;
            if !add.is_empty() || !remove.is_empty() {
                sessions.subscribe(number, epoch, add.clone(), remove.clone()).await?;
            }
            let (first, next) = sessions.core.group.read(|state| state.messages_kept()).1;
            let nonexistent = since.is_some_and(|since| since > next);
            Ok(Subscription {
                add,
                remove,
                from: since.filter(|_| !nonexistent).unwrap_or(from),
                nonexistent: nonexistent.then_some(LogReset { first, next }),
            })
        }
    }

    /// Follows a change that the state has taken.
    pub fn subscribed(&mut self, mut subscription: Subscription) {
        self.sessions.hub.listen(&self.slot, &[], &subscription.remove);
        for channel in &subscription.remove {
            self.channels.remove(channel);
        }
        subscription.add.retain(|channel| !self.channels.contains(channel));
        if subscription.add.is_empty() {
            return;
        }
        // Its channels are listened to from here on, whenever their turn comes.
        self.channels.extend(subscription.add.iter().cloned());
        if self.backlog.is_none() {
            self.listen(subscription);
        } else {
            self.pending = Some(subscription);
        }
    }

    fn listen(&mut self, subscription: Subscription) {
        // In this order: the hub hands out nothing of a new channel that the log will tell.
        self.read_from(subscription.from, subscription.add.clone());
        self.sessions.hub.listen(&self.slot, &subscription.add, &[]);
    }

    /// Whether it still reads the log. Until it does not, no further change may be asked for.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.backlog.is_some() || self.pending.is_some()
    }

    /// Publishes in the name of the session.
    pub fn publish(
        &self,
        to: Recipient,
        data: String,
    ) -> impl Future<Output = Result<MessageOffset, ServiceError>> + Send + use<> {
        let (sessions, from) = (self.sessions.clone(), Some(self.grant.number));
        async move { Ok(sessions.publish(to, data, from, None).await?.1) }
    }

    /// The client closes the session for good.
    pub fn end(&self) -> impl Future<Output = Result<(), ServiceError>> + Send + use<> {
        let (sessions, number, epoch) = (self.sessions.clone(), self.grant.number, self.grant.epoch);
        async move { sessions.end(number, Some(epoch), None).await.map(drop) }
    }

    /// Another socket has the session, or there is none any more.
    pub fn settle(&mut self) {
        self.over = true;
    }

    /// Its client was silent for so long that nobody waits for it any more, if that is longer than it may be.
    pub fn expire(&self) -> Option<impl Future<Output = Result<(), ServiceError>> + Send + use<>> {
        let (sessions, number, epoch) = (self.sessions.clone(), self.grant.number, self.grant.epoch);
        let over = self.idle() >= Duration::from_millis(sessions.settings.ttl.0);
        over.then_some(async move { sessions.expire(number, epoch).await.map(drop) })
    }
}

/// A change of what a session listens to.
#[derive(Debug)]
pub struct Subscription {
    add: Vec<String>,
    remove: Vec<String>,
    from: MessageOffset,
    /// The offset that was asked for was never given: the channels begin with what is published now.
    pub nonexistent: Option<LogReset<MessageOffset>>,
}

impl Subscription {
    /// Channels that were asked for.
    #[must_use]
    pub fn added(&self) -> &[String] {
        &self.add
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.sessions.hub.leave(&self.slot);
        if !self.over {
            self.sessions.reports.gone(&self.slot);
        }
    }
}
