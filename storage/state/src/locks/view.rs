//! What readers see of locks. Ended leases are not shown, cleaned up or not.

use alloc::string::String;
use alloc::vec::Vec;

use super::{KeyState, Whereabouts};
use crate::name::Name;
use crate::reply::Grant;
use crate::view::{HolderView, LockView, WaiterStatus, WaiterView};
use crate::{State, WaiterId};

impl State {
    /// One lock with at most `queue_max` of its waiters; absent when it is neither held nor waited for.
    pub fn lock(&self, key: &str, queue_max: usize) -> Option<LockView> {
        self.lock_view(key, self.locks.keys.get(key)?, queue_max)
    }

    /// At most `limit` locks whose keys start with `prefix`, ascending, strictly after `after`.
    pub fn locks(&self, prefix: &str, after: Option<&str>, limit: usize, queue_max: usize) -> Vec<LockView> {
        let is_before =
            |name: &Name| name.as_str() < prefix || after.is_some_and(|after| name.as_str() <= after);
        self.locks
            .keys
            .iter_from(is_before)
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter_map(|(name, state)| self.lock_view(name.as_str(), state, queue_max))
            .take(limit)
            .collect()
    }

    /// What became of a waiting request.
    pub fn waiter(&self, waiter: WaiterId) -> WaiterStatus {
        match self.locks.by_waiter.get(&waiter) {
            Some(Whereabouts::Queued(index)) => {
                let live =
                    self.locks.waiters.get(index).is_some_and(|waiter| waiter.deadline > self.meta.now);
                if live { WaiterStatus::Waiting } else { WaiterStatus::Gone }
            }
            Some(Whereabouts::Granted(token)) => {
                self.live_grant(*token).map_or(WaiterStatus::Gone, |_| WaiterStatus::Granted(*token))
            }
            None => WaiterStatus::Gone,
        }
    }

    /// The live grant of a request that waited, for a caller that missed its notice.
    pub fn granted(&self, waiter: WaiterId) -> Option<Grant> {
        match self.locks.by_waiter.get(&waiter) {
            Some(Whereabouts::Granted(token)) => self.live_grant(*token).map(|grant| self.grant_reply(grant)),
            _ => None,
        }
    }

    fn lock_view(&self, key: &str, state: &KeyState, queue_max: usize) -> Option<LockView> {
        let holders: Vec<_> = state
            .holders
            .tokens()
            .filter_map(|token| self.live_grant(token))
            .map(|grant| holder(grant))
            .collect();
        let queue_length = self.waiting_on(key);
        if holders.is_empty() && queue_length == 0 {
            return None;
        }
        let live = self.locks.queue_of(key).filter(|(_, place)| place.deadline > self.meta.now);
        let waiters = live.take(queue_max).filter_map(|(index, _)| self.locks.waiters.get(&index));
        let queue = (0..).zip(waiters).map(|(position, waiter)| WaiterView {
            waiter: waiter.waiter,
            position,
            mode: waiter.mode,
            owner: waiter.owner.to_text(),
            node: waiter.node,
            since: waiter.since,
            deadline: waiter.deadline,
        });
        Some(LockView { key: String::from(key), holders, queue: queue.collect(), queue_length })
    }
}

fn holder(grant: &super::GrantRecord) -> HolderView {
    HolderView {
        token: grant.token,
        mode: grant.mode,
        owner: grant.owner.to_text(),
        metadata: grant.metadata.clone(),
        keys: grant.keys.iter().map(Name::to_text).collect(),
        since: grant.since,
        expires: grant.deadline,
        hold_deadline: grant.hold_deadline,
    }
}
