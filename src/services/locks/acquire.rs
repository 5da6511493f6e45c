//! Taking a lock: one proposal, and for a request that must wait, its outcome.

use std::time::Duration;

use ovncp_raft::error::ProposeError;
use ovncp_state::command::{AcquireLock, AcquireLockInSession};
use ovncp_state::reply::Grant;
use ovncp_state::view::WaiterStatus;
use ovncp_state::{Command, LogIndex, Millis, Reply, Salt, WaiterId};
use tokio::time::Instant;

use super::presence::Presence;
use super::{Ask, Held, Locks, WAIT_GRACE};
use crate::services::{ServiceError, elections, secret};

/// A retry that attached to a waiter which ended between its reply and its registration asks again so often.
const ATTACH_TRIES: usize = 3;

/// Where the secret of a request comes from.
enum SecretSource {
    /// The client's own, or random.
    Known(String),
    /// From the cluster key and the salt that the state answers.
    Derived { cluster_key: [u8; 32] },
}

impl Locks {
    /// Takes the lock, waiting up to `ask.wait` for it.
    ///
    /// Dropping the future is how a client goes away: the request leaves the queue, or the grant is given
    /// back, unless a retry with the same idempotency key takes over in time.
    pub async fn acquire(&self, mut ask: Ask) -> Result<Held, ServiceError> {
        let began = Instant::now();
        ask.keys.sort_unstable();
        ask.keys.dedup();
        let (source, command) = self.command(&ask)?;
        let scope = ask.retry.as_ref().map(|retry| retry.key.scope);
        let mut presence = self.presences.enter(&self.core, command.waiter, command.node, scope);
        let outcome = self.settle(&ask, command, began, &mut presence).await;
        match &outcome {
            // It may yet be granted, and nobody is there to take it: the presence stays armed.
            Err(ServiceError::Propose(ProposeError::Unknown) | ServiceError::WaitUnknown) => {}
            Ok(_) | Err(ServiceError::Refused(_)) => presence.settled(),
            Err(_) => presence.over(),
        }
        let (index, grant) = outcome?;
        // Candidates wait as long as a term lasts: that says nothing about locks.
        if !ask.keys.iter().any(|key| elections::name_of(key).is_some()) {
            self.metrics.acquired(&ask.keys, began.elapsed());
        }
        let secret = reveal(source, &ask, &grant)?;
        Ok(Held { grant, secret, index })
    }

    fn command(&self, ask: &Ask) -> Result<(SecretSource, AcquireLock), ServiceError> {
        let node = self.core.node_id()?;
        let (source, hash, salt) = match (&ask.secret, &ask.retry) {
            (Some(brought), _) => (SecretSource::Known(brought.clone()), secret::hash(brought), None),
            (None, None) => {
                let made = secret::random();
                let hash = secret::hash(&made);
                (SecretSource::Known(made), hash, None)
            }
            (None, Some(retry)) => {
                let cluster_key = self.core.group.cluster_key().ok_or(ServiceError::NotMember)?;
                let salt = Salt(rand::random());
                let made = secret::derived(&cluster_key, &ask.keys, &ask.owner, &retry.text, &salt);
                (SecretSource::Derived { cluster_key }, secret::hash(&made), Some(salt))
            }
        };
        let command = AcquireLock {
            keys: ask.keys.clone(),
            mode: ask.mode,
            owner: ask.owner.clone(),
            secret: hash,
            salt,
            ttl: ask.ttl,
            wait: ask.wait,
            hold_max: ask.hold_max,
            metadata: ask.metadata.clone(),
            waiter: WaiterId(rand::random()),
            node,
        };
        Ok((source, command))
    }

    async fn settle(
        &self,
        ask: &Ask,
        command: AcquireLock,
        began: Instant,
        presence: &mut Presence,
    ) -> Result<(LogIndex, Grant), ServiceError> {
        let group = &self.core.group;
        let deadline = began + Duration::from_millis(ask.wait.0) + WAIT_GRACE;
        // Registered first: on this node the outcome may follow the reply at once.
        let mut handle = (ask.wait > Millis(0)).then(|| group.await_waiter(command.waiter));
        let key = ask.retry.as_ref().map(|retry| retry.key);
        let own = command.waiter;
        for _ in 0..ATTACH_TRIES {
            presence.proposing();
            let acquire = command.clone();
            let command = match ask.session {
                Some(session) => Command::AcquireLockInSession(AcquireLockInSession { acquire, session }),
                None => Command::AcquireLock(acquire),
            };
            let committed = self.core.propose(key, command).await?;
            let waiter = match committed.reply {
                Reply::Granted(grant) => return Ok((committed.index, grant)),
                Reply::Refused(refusal) => return Err(refusal.into()),
                Reply::Waiting { waiter, .. } => waiter,
                _ => return Err(ServiceError::UnexpectedReply { command: "AcquireLock" }),
            };
            presence.waiting(waiter);
            if waiter != own {
                // A retry: the first try waits under its own id. Its outcome may have come before this line.
                handle = Some(group.await_waiter(waiter));
                if group.read(|state| state.waiter(waiter)).1 != WaiterStatus::Waiting {
                    continue;
                }
            }
            let Some(handle) = handle.as_mut() else {
                return Err(ServiceError::UnexpectedReply { command: "AcquireLock" });
            };
            return match tokio::time::timeout_at(deadline, handle.outcome()).await {
                Ok(Ok(grant)) => Ok((group.read(|_| ()).0, grant)),
                Ok(Err(refusal)) => Err(refusal.into()),
                Err(_) => Err(ServiceError::WaitUnknown),
            };
        }
        Err(ServiceError::WaitUnknown)
    }
}

fn reveal(source: SecretSource, ask: &Ask, grant: &Grant) -> Result<String, ServiceError> {
    match (source, &ask.retry, &grant.salt) {
        (SecretSource::Known(secret), ..) => Ok(secret),
        // The salt of the grant, not ours: this may be a replay of an earlier try.
        (SecretSource::Derived { cluster_key }, Some(retry), Some(salt)) => {
            Ok(secret::derived(&cluster_key, &ask.keys, &ask.owner, &retry.text, salt))
        }
        (SecretSource::Derived { .. }, ..) => Err(ServiceError::UnexpectedReply { command: "AcquireLock" }),
    }
}
