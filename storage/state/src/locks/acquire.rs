//! Asking for locks.

use alloc::vec::Vec;

use super::WaiterRecord;
use crate::clock::Lease;
use crate::command::{AcquireLock, LockMode};
use crate::limits::{
    LEASE_MS_MAX, LEASE_MS_MIN, LOCK_KEY_BYTES_MAX, LOCK_KEYS_PER_REQUEST_MAX, METADATA_BYTES_MAX,
    OWNER_BYTES_MAX, WAIT_MS_MAX,
};
use crate::mutants::{self, Mutant};
use crate::name::Name;
use crate::requests::Scope;
use crate::state::Effects;
use crate::validate;
use crate::{Millis, Refusal, Reply, State};

fn check(command: &AcquireLock) -> Result<(), Refusal> {
    validate::count("keys", command.keys.len(), 1, LOCK_KEYS_PER_REQUEST_MAX)?;
    for key in &command.keys {
        validate::bytes("keys", key.len(), 1, LOCK_KEY_BYTES_MAX)?;
    }
    if !command.keys.is_sorted_by(|left, right| left < right) {
        return Err(validate::invalid("keys", "must be sorted and without duplicates"));
    }
    validate::bytes("owner", command.owner.len(), 1, OWNER_BYTES_MAX)?;
    validate::bytes(
        "metadata",
        command.metadata.as_ref().map_or(0, |text| text.len()),
        0,
        METADATA_BYTES_MAX,
    )?;
    validate::millis("ttl", command.ttl, LEASE_MS_MIN, LEASE_MS_MAX)?;
    validate::millis("wait", command.wait, Millis(0), WAIT_MS_MAX)?;
    command.hold_max.map_or(Ok(()), |hold| validate::millis("hold_max", hold, LEASE_MS_MIN, LEASE_MS_MAX))
}

impl State {
    pub(crate) fn acquire(
        &mut self,
        command: AcquireLock,
        scope: Option<Scope>,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        check(&command)?;
        let keys: Vec<Name> = command.keys.iter().map(|key| self.shared_name(key)).collect();
        self.settle(keys.iter(), out);
        self.settle_waiter(command.waiter, out);
        if self.locks.by_waiter.contains(&command.waiter) {
            return Err(validate::invalid("waiter", "names another live request; choose a new random id"));
        }
        if command.mode == LockMode::Shared {
            keys.iter().try_for_each(|key| self.check_holders_of(key))?;
        }
        let now = self.meta.now;
        let (wait, mode) = (command.wait, command.mode);
        let mut request = WaiterRecord {
            index: self.meta.applied,
            waiter: command.waiter,
            node: command.node,
            keys,
            mode,
            owner: Name::from(command.owner.as_str()),
            secret: command.secret,
            salt: command.salt,
            ttl: command.ttl,
            hold_max: command.hold_max,
            metadata: command.metadata,
            since: now,
            deadline: now.after(wait),
            scope,
            blocked: 0,
        };
        if mutants::is(Mutant::LifoWaiters) {
            request.index = mutants::last_comes_first(request.index);
        }
        if mutants::is(Mutant::WaiterGrantedLate) {
            request.deadline = request.deadline.after(mutants::LATE);
        }
        let Some(key) = self.first_in_the_way(&request.keys, mode) else {
            self.check_locks_held()?;
            return Ok(Reply::Granted(self.grant(request, out)));
        };
        if wait == Millis(0) {
            return Err(Refusal::LockHeld {
                key: key.to_text(),
                holder: self.conflicting_holder(key.as_str(), mode),
                queue_length: self.waiting_on(key.as_str()),
            });
        }
        self.enqueue(request)
    }

    fn enqueue(&mut self, request: WaiterRecord) -> Result<Reply, Refusal> {
        if !self.may_wait(request.node) {
            // Nothing would ever take this waiter away when its client goes.
            return Err(Refusal::WaitCancelled);
        }
        self.check_locks_held()?;
        if self.locks.waiters.len() >= self.limits.waiters {
            validate::limit("waiters", self.live_totals().waiters, self.limits.waiters)?;
        }
        let position = request.keys.iter().map(|key| self.waiting_on(key.as_str())).max().unwrap_or(0);
        validate::limit("waiters_per_key", position as usize, self.limits.waiters_per_key)?;
        let (waiter, index) = (request.waiter, request.index);
        let keys = request.keys.clone();
        self.deadlines.add(request.deadline, Lease::Waiter(index));
        self.locks.insert_waiter(request);
        let mut ready = alloc::collections::BTreeSet::new();
        keys.iter().for_each(|key| self.locks.admit(key, &mut ready));
        debug_assert!(ready.is_empty(), "something was in its way");
        Ok(Reply::Waiting { waiter, position })
    }

    /// Every waiter may become a grant, so both count.
    fn check_locks_held(&self) -> Result<(), Refusal> {
        // Counting what is live looks at everything that ended and awaits clean-up, maybe a million leases. That
        // only lowers the count, so it is done at the limit alone.
        if self.locks.grants.len() + self.locks.waiters.len() < self.limits.locks_held {
            return Ok(());
        }
        let totals = self.live_totals();
        validate::limit("locks_held", totals.grants + totals.waiters, self.limits.locks_held)
    }

    /// Every shared waiter may become a holder beside the others, so both count.
    fn check_holders_of(&self, key: &Name) -> Result<(), Refusal> {
        let Some(state) = self.locks.keys.get(key) else { return Ok(()) };
        let used = state.holders.shared() + state.waiting - state.waiting_exclusive;
        validate::limit("holders_per_key", used, self.limits.holders_per_key)
    }

    /// The first key on which a live grant or waiter conflicts with a new request.
    fn first_in_the_way<'a>(&self, keys: &'a [Name], mode: LockMode) -> Option<&'a Name> {
        if mutants::is_granted_twice(self.meta.applied) {
            return None;
        }
        keys.iter().find(|key| {
            self.locks.keys.get(*key).is_some_and(|state| {
                let queued = match mode {
                    LockMode::Exclusive => state.waiting,
                    LockMode::Shared => state.waiting_exclusive,
                };
                queued > 0 || state.holders.conflict_with(mode)
            })
        })
    }

    /// The name as the tables already have it, if they do, so that its bytes stand in memory once.
    fn shared_name(&self, key: &str) -> Name {
        let known = self.locks.keys.get_key_value(key).map(|(name, _)| name.clone());
        known.unwrap_or_else(|| Name::from(key))
    }
}
