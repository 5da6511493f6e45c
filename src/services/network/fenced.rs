//! Writes under a lock of ours: a holder that has lost it writes nothing any more.
//!
//! Two guards stand one behind the other. Before the transaction this node asks the group, linearizably, whether the token
//! is that of the present holder: that refuses forged tokens and holders whose lease is over. Inside the transaction the
//! fence row (see [`ovncp_ovn::fence`]) refuses whoever lost the lock after that question, as soon as the next holder has
//! claimed. So whoever takes a lock over claims before it reads what it builds on: its first write does, and
//! `POST /api/v1/ovn/fences/{key}/claim` does without a write.
//!
//! It protects the writers that use it: `ovn-nbctl` knows of no fences.

use ovncp_ovn::fence::{Claim, Guard};
use ovncp_state::FencingToken;
use ovncp_state::command::LockMode;

use super::{Inner, Network, NetworkError};
use crate::services::reads::{Consistency, Freshness};

/// The lock that a write is done under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedBy {
    /// Its key.
    pub lock: String,
    /// Token of the grant.
    pub token: FencingToken,
}

impl Network {
    /// Shuts out every earlier holder of the lock: none of their fenced writes is committed from now on. What is read
    /// after this call is not changed by them any more.
    pub async fn claim(&self, fenced: &FencedBy) -> Result<(), NetworkError> {
        self.inner()?.claim(fenced).await.map(|_| ())
    }
}

impl Inner {
    pub(super) async fn claim(&self, fenced: &FencedBy) -> Result<Guard, NetworkError> {
        self.check_holder(fenced).await?;
        match self.fence.claim(&fenced.lock, fenced.token.0).await? {
            Claim::Claimed(guard) => Ok(guard),
            Claim::Stale { current } => {
                Err(fenced.refused(format!("token {current} has been used since, by a later holder")))
            }
        }
    }

    /// Whether the group still knows this grant. The fence alone could not tell a forged token from a new one.
    async fn check_holder(&self, fenced: &FencedBy) -> Result<(), NetworkError> {
        let fresh = Freshness { consistency: Consistency::Linearizable, min_index: None };
        let (_, (_, lock)) = self.locks.get(&fenced.lock, 0, fresh).await?;
        let Some(lock) = lock else { return Err(fenced.refused("nobody holds the lock".to_owned())) };
        match lock.holders.iter().find(|holder| holder.token == fenced.token) {
            None => Err(fenced.refused("it is not that of the present holder".to_owned())),
            Some(holder) if holder.mode == LockMode::Shared => {
                Err(fenced.refused("it is shared with others, and only exclusive locks can fence".to_owned()))
            }
            Some(_) => Ok(()),
        }
    }
}

impl FencedBy {
    pub(super) fn refused(&self, why: String) -> NetworkError {
        NetworkError::Fenced { lock: self.lock.clone(), token: self.token.0, why }
    }
}
