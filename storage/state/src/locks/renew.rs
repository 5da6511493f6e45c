//! Extending leases.

use alloc::vec::Vec;

use crate::clock::Lease;
use crate::command::RenewLock;
use crate::limits::{LEASE_MS_MAX, LEASE_MS_MIN, LOCK_KEY_BYTES_MAX, RENEWALS_PER_ENTRY_MAX};
use crate::reply::Renewed;
use crate::state::Effects;
use crate::validate;
use crate::{Millis, Refusal, Reply, State};

impl State {
    pub(crate) fn renew_all(&mut self, renewals: &[RenewLock], out: &mut Effects) -> Result<Reply, Refusal> {
        validate::count("renewals", renewals.len(), 0, RENEWALS_PER_ENTRY_MAX)?;
        Ok(Reply::Renewed(renewals.iter().map(|renewal| self.renew(renewal, out)).collect::<Vec<_>>()))
    }

    fn renew(&mut self, renewal: &RenewLock, out: &mut Effects) -> Result<Renewed, Refusal> {
        validate::bytes("key", renewal.key.len(), 1, LOCK_KEY_BYTES_MAX)?;
        if let Some(ttl) = renewal.ttl {
            validate::millis("ttl", ttl, LEASE_MS_MIN, LEASE_MS_MAX)?;
        }
        self.settle_key(&renewal.key, out);
        let Some(grant) = self.grant_of(&renewal.key, &renewal.secret) else {
            return Err(Refusal::NotHolder { key: renewal.key.clone() });
        };
        let (token, old) = (grant.token, grant.deadline);
        let wanted = self.meta.now.after(renewal.ttl.unwrap_or(grant.ttl));
        let deadline = wanted.min(grant.hold_deadline.unwrap_or(Millis(u64::MAX)));
        self.deadlines.remove(old, Lease::Grant(token));
        self.deadlines.add(deadline, Lease::Grant(token));
        self.locks.grants.update(&token, |grant| grant.deadline = deadline);
        Ok(Renewed { token, ttl: deadline.since(self.meta.now) })
    }
}
