//! Locks that end with a session.
//!
//! A binding is there as long as its request waits or its grant is held, whichever comes to an end first: the session
//! or what is bound to it.

use serde::{Deserialize, Serialize};

use crate::command::AcquireLockInSession;
use crate::cow_map::CowMap;
use crate::locks::Whereabouts;
use crate::requests::Scope;
use crate::state::Effects;
use crate::table::{Object, Table};
use crate::validate;
use crate::{Refusal, Reply, SessionNumber, State, WaiterId};

/// A lock request, waiting or granted, and the session that it ends with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BindingRecord {
    pub(crate) session: SessionNumber,
    pub(crate) waiter: WaiterId,
}

impl Object for BindingRecord {
    const TAG: u8 = 11;
    type Key = (SessionNumber, WaiterId);

    fn key(&self) -> (SessionNumber, WaiterId) {
        (self.session, self.waiter)
    }
}

/// Every binding.
#[derive(Clone, Default)]
pub(crate) struct Bindings {
    pub(crate) table: Table<BindingRecord>,
    pub(crate) by_waiter: CowMap<WaiterId, SessionNumber>,
}

impl Bindings {
    pub(crate) fn insert(&mut self, session: SessionNumber, waiter: WaiterId) {
        self.by_waiter.insert(waiter, session);
        self.table.insert(BindingRecord { session, waiter });
    }

    /// A request or a grant is over, bound or not.
    pub(crate) fn remove(&mut self, waiter: WaiterId) {
        if let Some(session) = self.by_waiter.remove(&waiter) {
            self.table.remove(&(session, waiter));
        }
    }

    /// What is bound to a session.
    pub(crate) fn of(&self, session: SessionNumber) -> impl Iterator<Item = WaiterId> {
        let from = self.table.iter_from(move |(other, _)| *other < session);
        from.take_while(move |binding| binding.session == session).map(|binding| binding.waiter)
    }
}

impl State {
    pub(crate) fn acquire_in_session(
        &mut self,
        command: AcquireLockInSession,
        scope: Option<Scope>,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let session = self.session_of(&command.session)?.number;
        let (bindings, max) = (&self.sessions.bindings, self.limits.locks_per_session);
        // What has ended and awaits its clean-up is told from the rest at the limit alone.
        if bindings.of(session).nth(max.saturating_sub(1)).is_some() {
            let live = bindings.of(session).filter(|waiter| self.is_live(*waiter)).count();
            validate::limit("locks_per_session", live, max)?;
        }
        let waiter = command.acquire.waiter;
        let reply = self.acquire(command.acquire, scope, out)?;
        if matches!(reply, Reply::Granted(_) | Reply::Waiting { .. }) {
            self.sessions.bindings.insert(session, waiter);
        }
        Ok(reply)
    }

    /// Whether a request still waits or its grant is held.
    fn is_live(&self, waiter: WaiterId) -> bool {
        match self.locks.by_waiter.get(&waiter) {
            Some(Whereabouts::Granted(token)) => self.live_grant(*token).is_some(),
            Some(Whereabouts::Queued(index)) => {
                let waiter = self.locks.waiters.get(index);
                waiter.is_some_and(|waiter| waiter.deadline > self.meta.now)
            }
            None => false,
        }
    }

    /// Whether a request or grant is bound to a session whose time is over, though clean-up has not reached it.
    pub(crate) fn outlived(&self, waiter: WaiterId) -> bool {
        let session = self.sessions.bindings.by_waiter.get(&waiter);
        session.is_some_and(|session| self.live_session(*session).is_none())
    }
}
