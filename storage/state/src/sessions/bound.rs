//! Locks that end with a session.
//!
//! A binding is there as long as its request waits or its grant is held, whichever comes to an end first: the session
//! or what is bound to it.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::AcquireLockInSession;
use crate::cow_map::CowMap;
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
    pub(crate) fn of(&self, session: SessionNumber) -> Vec<WaiterId> {
        let from = self.table.iter_from(|(other, _)| *other < session);
        from.take_while(|binding| binding.session == session).map(|binding| binding.waiter).collect()
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
        let bound = self.sessions.bindings.of(session).len();
        validate::limit("locks_per_session", bound, self.limits.locks_per_session)?;
        let waiter = command.acquire.waiter;
        let reply = self.acquire(command.acquire, scope, out)?;
        if matches!(reply, Reply::Granted(_) | Reply::Waiting { .. }) {
            self.sessions.bindings.insert(session, waiter);
        }
        Ok(reply)
    }

    /// Whether a request or grant is bound to a session whose time is over, though clean-up has not reached it.
    pub(crate) fn outlived(&self, waiter: WaiterId) -> bool {
        let session = self.sessions.bindings.by_waiter.get(&waiter);
        session.is_some_and(|session| self.live_session(*session).is_none())
    }
}
