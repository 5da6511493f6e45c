//! Locks, in domain words.
//!
//! One acquire is one proposal. A request that has to wait listens for its outcome under a random waiter id,
//! registered before the proposal, so that no outcome can come too early. The caller may go away at any
//! moment: `presence` then takes its request out of the queue again, or gives an undelivered grant back.

mod acquire;
mod presence;

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::command::{ForceReleaseLock, LockMode, ReleaseLock, RenewLock};
use ovncp_state::reply::{Grant, Renewed};
use ovncp_state::view::LockView;
use ovncp_state::{Command, FencingToken, LogIndex, Millis, Reply, RequestKey, SessionId};

use super::idempotency::Retryable;
use super::reads::Freshness;
use super::{Core, ServiceError, secret};
use crate::telemetry::metrics::LockMetrics;
use presence::Presences;

/// Longest wait that one request may ask for: proxies in front cut a silent request at 50 s.
pub const WAIT_MS_MAX: u64 = 40_000;
/// How long after its deadline a waiting request still listens. The state ends a wait at most 100 ms late while
/// there is a leader; this covers a fail-over.
pub const WAIT_GRACE: Duration = Duration::from_secs(5);

/// Locks of the group.
#[derive(Clone)]
pub struct Locks {
    core: Core,
    presences: Arc<Presences>,
    metrics: Arc<LockMetrics>,
}

/// What one acquire asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// All or none; in any order.
    pub keys: Vec<String>,
    /// For all keys.
    pub mode: LockMode,
    /// Who asks, for people.
    pub owner: String,
    /// Brought by the client, or made here.
    pub secret: Option<String>,
    /// Lease.
    pub ttl: Millis,
    /// 0 is try-lock.
    pub wait: Millis,
    /// Time that renewal cannot pass.
    pub hold_max: Option<Millis>,
    /// JSON text.
    pub metadata: Option<String>,
    /// The session that the request and the grant end with.
    pub session: Option<SessionId>,
    /// Identity of a request that may be tried again.
    pub retry: Option<Retryable>,
}

/// A lock that is held now, and how its holder proves it.
#[derive(Clone, Debug)]
pub struct Held {
    /// What the state granted.
    pub grant: Grant,
    /// Proof of holding; known to nobody else.
    pub secret: String,
    /// Index at which this node saw it.
    pub index: LogIndex,
}

impl Locks {
    /// Locks of the group.
    #[must_use]
    pub fn new(core: Core, metrics: Arc<LockMetrics>) -> Self {
        Self { core, presences: Arc::default(), metrics }
    }

    /// Extends a lease.
    pub async fn renew(
        &self,
        key: String,
        proof: &str,
        ttl: Option<Millis>,
    ) -> Result<Renewed, ServiceError> {
        let renewal = RenewLock { key, secret: secret::hash(proof), ttl };
        Ok(self.core.group.renew(renewal, self.core.patience.propose).await??)
    }

    /// Gives a lock back.
    pub async fn release(
        &self,
        key: String,
        proof: &str,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, FencingToken), ServiceError> {
        let command = Command::ReleaseLock(ReleaseLock { key, secret: secret::hash(proof) });
        let committed = self.core.propose(retry, command).await?;
        match committed.reply {
            Reply::Released { token } => Ok((committed.index, token)),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(ServiceError::UnexpectedReply { command: "ReleaseLock" }),
        }
    }

    /// Ends every grant on a key, or only the one with `token`.
    pub async fn force_release(
        &self,
        key: String,
        reason: String,
        token: Option<FencingToken>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, Vec<FencingToken>), ServiceError> {
        let command = Command::ForceReleaseLock(ForceReleaseLock { key, reason, token });
        let committed = self.core.propose(retry, command).await?;
        match committed.reply {
            Reply::ForceReleased { tokens } => Ok((committed.index, tokens)),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(ServiceError::UnexpectedReply { command: "ForceReleaseLock" }),
        }
    }

    /// One lock with the cluster time of the look; absent when it is free.
    pub async fn get(
        &self,
        key: &str,
        queue_max: usize,
        freshness: Freshness,
    ) -> Result<(LogIndex, (Millis, Option<LockView>)), ServiceError> {
        self.core.read(freshness, |state| (state.now(), state.lock(key, queue_max))).await
    }

    /// Locks whose keys start with `prefix`, ascending, after `after`.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        queue_max: usize,
        freshness: Freshness,
    ) -> Result<(LogIndex, (Millis, Vec<LockView>)), ServiceError> {
        self.core.read(freshness, |state| (state.now(), state.locks(prefix, after, limit, queue_max))).await
    }

    /// Waits, at most so long, until the requests of clients that went away have left their queues. A node that
    /// stops does this before it leaves the group, or others would wait behind them.
    pub async fn settled(&self, timeout: Duration) {
        if tokio::time::timeout(timeout, self.presences.settled()).await.is_err() {
            tracing::warn!("some cancelled requests are left to their deadlines");
        }
    }

    /// Name of a node, for queues.
    #[must_use]
    pub fn node_name(&self, id: ovncp_state::NodeId) -> Option<String> {
        self.core.group.read(|state| state.node(id).map(|node| node.name)).1
    }
}
