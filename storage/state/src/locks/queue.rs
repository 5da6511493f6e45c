//! Who is next: leaving the queue, admission per key, waking.

use alloc::collections::BTreeSet;

use alloc::vec::Vec;
use core::mem;

use super::{GrantRecord, Holders, Locks, Place, WaiterRecord, Whereabouts};
use crate::clock::Lease;
use crate::command::{CancelWait, LockMode};
use crate::event::ReleaseCause;
use crate::mutants::{self, Mutant};
use crate::name::Name;
use crate::reply::Holder;
use crate::requests::Outcome;
use crate::state::Effects;
use crate::{LogIndex, NodeId, Notice, Refusal, Reply, State, WaiterId};

/// Keys whose queues may move.
pub(crate) type Touched = BTreeSet<Name>;

/// A waiter that left its queues, and the first of its keys that had not admitted it.
pub(crate) struct Departed {
    waiter: WaiterRecord,
    blocked_on: Option<Name>,
}

impl Locks {
    /// Takes a waiter out of every table but the deadlines.
    fn remove_waiter(&mut self, index: LogIndex) -> Option<Departed> {
        let waiter = self.waiters.remove(&index)?;
        let mut blocked_on = None;
        for key in &waiter.keys {
            self.queue.remove(&(key.clone(), index));
            let Some(state) = self.keys.get_mut(key) else { continue };
            state.waiting -= 1;
            state.waiting_exclusive -= usize::from(waiter.mode == LockMode::Exclusive);
            if index <= state.admitted_through {
                state.admitted -= 1;
                if mutants::is(Mutant::LifoWaiters) {
                    state.admitted_through = LogIndex(0);
                }
            } else if blocked_on.is_none() {
                blocked_on = Some(key.clone());
            }
        }
        self.by_waiter.remove(&waiter.waiter);
        self.by_node.remove(&(waiter.node, index));
        Some(Departed { waiter: alloc::sync::Arc::unwrap_or_clone(waiter), blocked_on })
    }

    /// Whether a waiter of this mode has nothing in its way on this key, when `earlier` waiters stand before
    /// it and all of them are admitted.
    fn admits(&self, key: &Name, holders: &Holders, mode: LockMode, earlier: usize) -> bool {
        if holders.conflict_with(mode) {
            return false;
        }
        match mode {
            LockMode::Exclusive => earlier == 0,
            // An admitted exclusive waiter stands alone at the front.
            LockMode::Shared => {
                earlier == 0
                    || self
                        .queue_of(key.as_str())
                        .next()
                        .is_some_and(|(_, front)| front.mode == LockMode::Shared)
            }
        }
    }

    /// Admits on `key` whoever can be, and collects waiters that every key has admitted. Frees an unused key.
    pub(crate) fn admit(&mut self, key: &Name, ready: &mut BTreeSet<LogIndex>) {
        loop {
            let Some(state) = self.keys.get(key) else { return };
            if state.is_unused() {
                self.keys.remove(key);
                return;
            }
            if state.admitted == state.waiting {
                return;
            }
            let Some((index, place)) = self.queue_after(key.as_str(), state.admitted_through).next() else {
                return;
            };
            if !self.admits(key, &state.holders, place.mode, state.admitted) {
                return;
            }
            if let Some(state) = self.keys.get_mut(key) {
                state.admitted += 1;
                state.admitted_through = index;
            }
            let blocked = self.waiters.update_derived(&index, |waiter| {
                waiter.blocked -= 1;
                waiter.blocked
            });
            if blocked == Some(0) {
                ready.insert(index);
            }
        }
    }
}

impl State {
    /// Lets everything move that the given keys allow: first ends what has ended on them (after a clean-up
    /// that could not finish), then grants, in order of the log, to each waiter that all its keys admit.
    pub(crate) fn wake(&mut self, mut touched: Touched, out: &mut Effects) {
        let leftovers = self.has_ended();
        let mut ready = BTreeSet::new();
        while let Some(key) = touched.pop_first() {
            if leftovers {
                self.end_ended_on(&key, &mut touched, out);
            }
            self.locks.admit(&key, &mut ready);
        }
        // Granting never admits or refuses another waiter, so the order matters for the tokens only.
        while let Some(index) = mutants::take_next(&mut ready) {
            if let Some(departed) = self.take_waiter(index) {
                let waiter = departed.waiter;
                let (id, node, scope) = (waiter.waiter, waiter.node, waiter.scope);
                let grant = self.grant(waiter, out);
                self.requests.settle(
                    scope,
                    Outcome::Granted(grant.token),
                    self.meta.applied_at(),
                    &self.limits,
                );
                out.notices.push(Notice { waiter: id, node, outcome: Ok(grant) });
            }
        }
    }

    /// Before a command is judged: rids its keys of what has ended there. Nothing to do unless the bounded
    /// clean-up of this apply left something over.
    pub(crate) fn settle<'a>(&mut self, keys: impl Iterator<Item = &'a Name>, out: &mut Effects) {
        if self.has_ended() {
            self.wake(keys.cloned().collect(), out);
        }
    }

    /// The same for a key that may be unknown.
    pub(crate) fn settle_key(&mut self, key: &str, out: &mut Effects) {
        if self.has_ended() {
            self.settle([Name::from(key)].iter(), out);
        }
    }

    fn end_ended_on(&mut self, key: &Name, touched: &mut Touched, out: &mut Effects) {
        let now = self.meta.now;
        let Some(state) = self.locks.keys.get(key) else { return };
        let has_ended = |grant: &GrantRecord| grant.deadline <= now || self.outlived(grant.waiter);
        let tokens: Vec<_> = state
            .holders
            .tokens()
            .filter(|token| self.locks.grants.get(token).is_some_and(|grant| has_ended(grant)))
            .collect();
        let waiters: Vec<_> = self
            .locks
            .queue_of(key.as_str())
            .filter(|(index, place): &(_, Place)| place.deadline <= now || self.is_bereaved(*index))
            .map(|(index, place)| (index, place.deadline))
            .collect();
        for token in tokens {
            let timed_out = self.live_lease(token).is_none();
            let cause = if timed_out { ReleaseCause::Expired } else { ReleaseCause::SessionEnded };
            self.end_grant(token, cause, "", touched, out);
        }
        let departed: Vec<_> = waiters
            .into_iter()
            .filter_map(|(index, deadline)| Some((self.depart(index, touched)?, deadline)))
            .collect();
        for (departed, deadline) in departed {
            if deadline <= now {
                self.refuse_timed_out(departed, out);
            } else {
                self.refuse(departed, Refusal::WaitCancelled, out);
            }
        }
    }

    /// Whether a waiter is bound to a session that is over.
    fn is_bereaved(&self, index: LogIndex) -> bool {
        self.locks.waiters.get(&index).is_some_and(|waiter| self.outlived(waiter.waiter))
    }

    /// Takes a waiter out of every table.
    fn take_waiter(&mut self, index: LogIndex) -> Option<Departed> {
        let departed = self.locks.remove_waiter(index)?;
        self.deadlines.remove(departed.waiter.deadline, Lease::Waiter(index));
        Some(departed)
    }

    /// Takes a waiter out; those behind it may move.
    pub(crate) fn depart(&mut self, index: LogIndex, touched: &mut Touched) -> Option<Departed> {
        let departed = self.take_waiter(index)?;
        touched.extend(departed.waiter.keys.iter().cloned());
        Some(departed)
    }

    /// Tells a departed waiter why it gets nothing: the one notice it ever gets.
    pub(crate) fn refuse(&mut self, departed: Departed, refusal: Refusal, out: &mut Effects) {
        let waiter = departed.waiter;
        self.sessions.bindings.remove(waiter.waiter);
        let outcome = Outcome::Reply(Reply::Refused(refusal.clone()));
        self.requests.settle(waiter.scope, outcome, self.meta.applied_at(), &self.limits);
        out.notices.push(Notice { waiter: waiter.waiter, node: waiter.node, outcome: Err(refusal) });
    }

    /// Its wait is over. The answer names what was in its way.
    pub(crate) fn refuse_timed_out(&mut self, departed: Departed, out: &mut Effects) {
        let first = departed.waiter.keys.first();
        let key = departed.blocked_on.as_ref().or(first).map(Name::to_text).unwrap_or_default();
        let holder = self.conflicting_holder(&key, departed.waiter.mode);
        let queue_length = self.waiting_on(&key);
        self.refuse(departed, Refusal::LockTimeout { key, holder, queue_length }, out);
    }

    /// The oldest live grant on the key that a request of this mode would conflict with.
    pub(crate) fn conflicting_holder(&self, key: &str, mode: LockMode) -> Option<Holder> {
        let state = self.locks.keys.get(key)?;
        if !state.holders.conflict_with(mode) {
            return None;
        }
        let grant = state.holders.tokens().find_map(|token| self.live_grant(token))?;
        Some(Holder {
            owner: grant.owner.to_text(),
            token: grant.token,
            ttl: grant.deadline.since(self.meta.now),
        })
    }

    /// Live waiters on a key.
    pub(crate) fn waiting_on(&self, key: &str) -> u64 {
        let now = self.meta.now;
        if self.has_ended() {
            return self.locks.queue_of(key).filter(|(_, place)| place.deadline > now).count() as u64;
        }
        self.locks.keys.get(key).map_or(0, |state| state.waiting as u64)
    }

    /// Every waiter of a node that is gone leaves.
    pub(crate) fn drop_waiters_of(&mut self, node: NodeId, out: &mut Effects) {
        let indexes: Vec<_> = self
            .locks
            .by_node
            .iter_from(|(other, _)| *other < node)
            .take_while(|((other, _), ())| *other == node)
            .map(|((_, index), ())| *index)
            .collect();
        let mut touched = Touched::new();
        for index in indexes {
            if let Some(departed) = self.depart(index, &mut touched) {
                self.refuse(departed, Refusal::WaitCancelled, out);
            }
        }
        self.wake(touched, out);
    }

    /// Ends a wait, or gives back the grant that came of it, unless a retry has taken it to another node.
    pub(crate) fn cancel_wait(&mut self, command: &CancelWait, out: &mut Effects) {
        let waiter = command.waiter;
        self.settle_waiter(waiter, out);
        if self.node_of(waiter) != Some(command.node) {
            return;
        }
        let mut touched = Touched::new();
        match self.locks.by_waiter.get(&waiter).copied() {
            Some(Whereabouts::Queued(index)) => {
                if let Some(departed) = self.depart(index, &mut touched) {
                    self.refuse(departed, Refusal::WaitCancelled, out);
                }
            }
            Some(Whereabouts::Granted(token)) => {
                self.end_grant(token, ReleaseCause::Cancelled, "", &mut touched, out);
            }
            None => {}
        }
        self.wake(touched, out);
    }

    fn node_of(&self, waiter: WaiterId) -> Option<NodeId> {
        match self.locks.by_waiter.get(&waiter)? {
            Whereabouts::Queued(index) => self.locks.waiters.get(index).map(|waiter| waiter.node),
            Whereabouts::Granted(token) => self.locks.grants.get(token).map(|grant| grant.node),
        }
    }

    /// A retry came on this node: from now on its client is the one that cares.
    pub(crate) fn attach(&mut self, waiter: WaiterId, node: NodeId) {
        match self.locks.by_waiter.get(&waiter).copied() {
            Some(Whereabouts::Queued(index)) if self.may_wait(node) => {
                let before = self.locks.waiters.update(&index, |waiter| mem::replace(&mut waiter.node, node));
                if let Some(before) = before {
                    self.locks.by_node.remove(&(before, index));
                    self.locks.by_node.insert((node, index), ());
                }
            }
            Some(Whereabouts::Granted(token)) => {
                let before = self.locks.grants.update(&token, |grant| mem::replace(&mut grant.node, node));
                if let Some(before) = before {
                    self.locks.discount(before);
                    *self.locks.held_by.entry(node).or_default() += 1;
                }
            }
            Some(Whereabouts::Queued(_)) | None => {}
        }
    }

    /// Like [`State::settle`], for whatever the waiter id stands for.
    pub(crate) fn settle_waiter(&mut self, waiter: WaiterId, out: &mut Effects) {
        let keys = match self.locks.by_waiter.get(&waiter) {
            Some(Whereabouts::Queued(index)) => {
                self.locks.waiters.get(index).map(|waiter| waiter.keys.clone())
            }
            Some(Whereabouts::Granted(token)) => self.locks.grants.get(token).map(|grant| grant.keys.clone()),
            None => None,
        };
        self.settle(keys.iter().flatten(), out);
    }
}
