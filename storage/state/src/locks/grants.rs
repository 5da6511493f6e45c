//! Giving a lock, and every way in which it ends.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::queue::Touched;
use super::{GrantRecord, Holders, WaiterRecord, secret_tag};
use crate::clock::Lease;
use crate::command::{ForceReleaseLock, ReleaseLock};
use crate::event::{EventKind, ReleaseCause};
use crate::limits::{LOCK_KEY_BYTES_MAX, REASON_BYTES_MAX};
use crate::mutants::{self, Mutant};
use crate::name::Name;
use crate::reply::Grant;
use crate::state::Effects;
use crate::validate;
use crate::{FencingToken, Refusal, Reply, SecretHash, State};

impl State {
    /// Makes a request the holder of its keys. The caller has made sure that nothing conflicts.
    pub(crate) fn grant(&mut self, request: WaiterRecord, out: &mut Effects) -> Grant {
        let now = self.meta.now;
        let hold_deadline = request.hold_max.map(|hold_max| now.after(hold_max));
        let deadline = now.after(request.ttl).min(hold_deadline.unwrap_or(crate::Millis(u64::MAX)));
        let grant = GrantRecord {
            token: self.meta.next_token(),
            keys: request.keys,
            mode: request.mode,
            owner: request.owner,
            secret: request.secret,
            salt: request.salt,
            ttl: request.ttl,
            metadata: request.metadata,
            waiter: request.waiter,
            node: request.node,
            since: now,
            waited: now.since(request.since),
            deadline,
            hold_deadline,
        };
        self.emit(
            EventKind::LockAcquired {
                keys: grant.keys.iter().map(Name::to_text).collect(),
                mode: grant.mode,
                owner: grant.owner.to_text(),
                token: grant.token,
                waited: grant.waited,
            },
            out,
        );
        let answer = self.grant_reply(&grant);
        self.deadlines.add(deadline, Lease::Grant(grant.token));
        self.locks.insert_grant(grant);
        answer
    }

    /// What a caller learns of a grant now.
    pub(crate) fn grant_reply(&self, grant: &GrantRecord) -> Grant {
        Grant {
            keys: grant.keys.iter().map(Name::to_text).collect(),
            mode: grant.mode,
            owner: grant.owner.to_text(),
            token: grant.token,
            ttl: grant.deadline.since(self.meta.now),
            waited: grant.waited,
            salt: grant.salt,
        }
    }

    /// Takes a grant out of every table. Those who wait on its keys may move.
    pub(crate) fn end_grant(
        &mut self,
        token: FencingToken,
        cause: ReleaseCause,
        reason: &str,
        touched: &mut Touched,
        out: &mut Effects,
    ) {
        let Some(grant) = self.locks.grants.remove(&token) else { return };
        let grant = Arc::unwrap_or_clone(grant);
        self.locks.discount(grant.node);
        self.deadlines.remove(grant.deadline, Lease::Grant(token));
        self.locks.by_waiter.remove(&grant.waiter);
        self.sessions.bindings.remove(grant.waiter);
        for key in &grant.keys {
            if let Some(state) = self.locks.keys.get_mut(key) {
                state.holders.remove(token);
            }
        }
        self.emit(
            EventKind::LockReleased {
                keys: grant.keys.iter().map(Name::to_text).collect(),
                owner: grant.owner.to_text(),
                token,
                cause,
                held: self.meta.now.since(grant.since),
                reason: reason.to_string(),
            },
            out,
        );
        touched.extend(grant.keys);
    }

    /// A grant whose lease has not ended, and no session that it is bound to.
    pub(crate) fn live_grant(&self, token: FencingToken) -> Option<&Arc<GrantRecord>> {
        self.live_lease(token).filter(|grant| !self.outlived(grant.waiter))
    }

    /// A grant whose lease has not ended.
    pub(crate) fn live_lease(&self, token: FencingToken) -> Option<&Arc<GrantRecord>> {
        self.locks.grants.get(&token).filter(|grant| grant.deadline > self.meta.now)
    }

    /// The oldest live grant on `key` with this secret.
    pub(crate) fn grant_of(&self, key: &str, secret: &SecretHash) -> Option<&Arc<GrantRecord>> {
        let is_its = |grant: &&Arc<GrantRecord>| grant.secret == *secret;
        match &self.locks.keys.get(key)?.holders {
            Holders::Free => None,
            Holders::Exclusive(token) => self.live_grant(*token).filter(is_its),
            Holders::Shared(holders) => {
                let tag = secret_tag(secret);
                let candidates = holders.iter().filter(|holder| holder.secret_tag == tag);
                candidates.filter_map(|holder| self.live_grant(holder.token)).find(is_its)
            }
        }
    }

    pub(crate) fn release(&mut self, command: &ReleaseLock, out: &mut Effects) -> Result<Reply, Refusal> {
        // The refusal repeats the key and may be kept for a retry: it must have a bound.
        validate::bytes("key", command.key.len(), 1, LOCK_KEY_BYTES_MAX)?;
        self.settle_key(&command.key, out);
        let mut released = self.grant_of(&command.key, &command.secret).map(|grant| grant.token);
        if mutants::is(Mutant::ReleaseWithoutSecret) {
            let held = self.locks.keys.get(command.key.as_str());
            released = held.and_then(|state| state.holders.tokens().next());
        }
        let Some(token) = released else {
            return Err(Refusal::NotHolder { key: command.key.clone() });
        };
        let mut touched = Touched::new();
        self.end_grant(token, ReleaseCause::Released, "", &mut touched, out);
        self.wake(touched, out);
        Ok(Reply::Released { token })
    }

    pub(crate) fn force_release(
        &mut self,
        command: &ForceReleaseLock,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        validate::bytes("key", command.key.len(), 1, LOCK_KEY_BYTES_MAX)?;
        validate::bytes("reason", command.reason.len(), 1, REASON_BYTES_MAX)?;
        self.settle_key(&command.key, out);
        let held = self.locks.keys.get(command.key.as_str());
        let tokens: Vec<_> = held
            .into_iter()
            .flat_map(|state| state.holders.tokens())
            .filter(|token| command.token.is_none_or(|wanted| wanted == *token))
            .filter(|token| self.live_grant(*token).is_some())
            .collect();
        if tokens.is_empty() {
            return Err(Refusal::NotFound);
        }
        let mut touched = Touched::new();
        for token in &tokens {
            self.end_grant(*token, ReleaseCause::Forced, &command.reason, &mut touched, out);
        }
        self.wake(touched, out);
        Ok(Reply::ForceReleased { tokens })
    }
}
