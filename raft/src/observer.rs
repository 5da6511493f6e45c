//! What is applied on this node, on its way to callers and watchers.

use std::sync::{Arc, Weak};

use ovncp_state::{Appended, EventOffset, InvalidationOffset, LogIndex, MessageOffset, State};
use ovncp_storage::runtime;
use ovncp_storage::sink::{AppliedEntry, ApplySink};
use tokio::sync::{Notify, watch};

use crate::callers::Callers;
use crate::group::Committed;
use crate::shared::Shared;
use crate::waiters::Waiters;

/// Sees what this node applies, before any caller is answered. For simulations and metrics; must not block.
pub trait Observer: Send + Sync + 'static {
    /// These entries were applied, in order.
    fn applied(&self, entries: &[AppliedEntry]);
    /// A snapshot replaced the state; entries up to `index` will not be seen one by one.
    fn installed(&self, index: LogIndex);
}

/// For those who follow the logs of messages and invalidations on this node.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) messages: watch::Sender<MessageOffset>,
    pub(crate) invalidations: watch::Sender<InvalidationOffset>,
    pub(crate) cleared: watch::Sender<LogIndex>,
}

impl Logs {
    pub(crate) fn new() -> Self {
        Self {
            messages: watch::Sender::new(MessageOffset(0)),
            invalidations: watch::Sender::new(InvalidationOffset(0)),
            cleared: watch::Sender::new(LogIndex(0)),
        }
    }

    fn tell(&self, appended: Appended, at: LogIndex) {
        appended.messages.into_iter().for_each(|next| raise(&self.messages, next));
        appended.invalidations.into_iter().for_each(|next| raise(&self.invalidations, next));
        if appended.cleared {
            raise(&self.cleared, at);
        }
    }

    /// What the state says, after it was read from a snapshot.
    pub(crate) fn catch_up(&self, state: &State) {
        raise(&self.messages, state.messages_kept().1);
        raise(&self.invalidations, state.invalidations_kept().1);
        raise(&self.cleared, state.applied());
    }
}

/// Never back: what was read from the state may be told after what came later.
fn raise<T: PartialOrd>(log: &watch::Sender<T>, next: T) {
    log.send_if_modified(|known| {
        let newer = *known < next;
        if newer {
            *known = next;
        }
        newer
    });
}

/// Answers callers and waiters of this node, and tells watchers of events.
pub(crate) struct Sink {
    pub(crate) callers: Arc<Callers>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) events: watch::Sender<EventOffset>,
    pub(crate) logs: Logs,
    pub(crate) installed: Arc<Notify>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl ApplySink for Sink {
    fn applied(&self, batch: Vec<AppliedEntry>) {
        if let Some(observer) = &self.observer {
            observer.applied(&batch);
        }
        let mut next_event = None;
        let mut appended = Appended::default();
        let mut last = None;
        for entry in batch {
            let news = entry.applied.appended;
            appended.messages = news.messages.or(appended.messages);
            appended.invalidations = news.invalidations.or(appended.invalidations);
            appended.cleared |= news.cleared;
            last = Some(entry.index);
            if let Some(event) = entry.applied.events.last() {
                next_event = Some(EventOffset(event.offset.0 + 1));
            }
            // Before the reply: whoever is told that it waits finds its outcome already there.
            for notice in entry.applied.notices {
                self.waiters.notify(notice);
            }
            let (index, reply) = (entry.index, entry.applied.reply);
            self.callers.applied(entry.origin, || Committed { index, reply });
        }
        if let Some(next) = next_event {
            self.events.send_replace(next);
        }
        if let Some(last) = last {
            self.logs.tell(appended, last);
        }
    }

    fn installed(&self, index: LogIndex) {
        if let Some(observer) = &self.observer {
            observer.installed(index);
        }
        self.callers.blind();
        self.installed.notify_one();
    }
}

/// After a snapshot replaced the state: grants and events that were skipped are looked up in it.
pub(crate) fn spawn_recheck(shared: &Arc<Shared>, installed: Arc<Notify>) {
    let mut stopping = shared.stopping.subscribe();
    let shared: Weak<Shared> = Arc::downgrade(shared);
    runtime::spawn(async move {
        loop {
            tokio::select! {
                () = installed.notified() => {}
                _ = stopping.wait_for(Option::is_some) => return,
            }
            let Some(shared) = shared.upgrade() else { return };
            let next = shared.replica.read(|state| state.cluster().events.1);
            shared.events.send_replace(next);
            shared.replica.read(|state| shared.logs.catch_up(state));
            for id in shared.waiters.ids() {
                if let Some(grant) = shared.replica.read(|state| state.granted(id)) {
                    shared.waiters.resolve(id, Ok(grant));
                }
            }
        }
    });
}
