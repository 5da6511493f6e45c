//! Deterministic answers: the same on every node, free of HTTP and prose.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::LockMode;
use crate::{
    ClusterId, FencingToken, InvalidationOffset, MessageOffset, Millis, NodeId, Revision, Salt, SessionId,
    SessionNumber, Version, WaiterId,
};

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, or nothing to do.
    Done,
    /// Not done, and why.
    Refused(Refusal),
    /// [`Command::JoinNode`](crate::Command::JoinNode): the id of the node.
    Joined {
        /// Cluster it belongs to.
        cluster_id: ClusterId,
        /// Its Raft id.
        id: NodeId,
    },
    /// [`Command::AcquireLock`](crate::Command::AcquireLock): granted at once, or a replay of a held grant.
    Granted(Grant),
    /// [`Command::AcquireLock`](crate::Command::AcquireLock): queued. The outcome follows as a
    /// [`Notice`](crate::Notice) for this waiter (not necessarily the one in the command: a retry attaches).
    Waiting {
        /// Whom to listen for.
        waiter: WaiterId,
        /// Live waiters before it on its most crowded key.
        position: u64,
    },
    /// [`Command::RenewLocks`](crate::Command::RenewLocks): one result per renewal, in order.
    Renewed(Vec<Result<Renewed, Refusal>>),
    /// [`Command::ReleaseLock`](crate::Command::ReleaseLock): the grant that ended.
    Released {
        /// Its token.
        token: FencingToken,
    },
    /// [`Command::ForceReleaseLock`](crate::Command::ForceReleaseLock): the grants that ended.
    ForceReleased {
        /// Their tokens.
        tokens: Vec<FencingToken>,
    },
    /// [`Command::WriteKv`](crate::Command::WriteKv): all operations done.
    Written {
        /// Revision that every `Put` of the command got.
        revision: Revision,
        /// How many registers `Delete` operations removed.
        deleted: u64,
    },
    /// [`Command::RegisterSession`](crate::Command::RegisterSession) and
    /// [`Command::AttachSession`](crate::Command::AttachSession): the session as it stands now.
    Session(SessionGrant),
    /// [`Command::MigrateSession`](crate::Command::MigrateSession): where it is asked to go.
    Migrating {
        /// The node that shall take it.
        target: NodeId,
    },
    /// [`Command::PublishMessages`](crate::Command::PublishMessages): kept.
    Published {
        /// Offset of the first one; the others follow it.
        first: MessageOffset,
    },
    /// [`Command::Invalidate`](crate::Command::Invalidate): in the log.
    Invalidated {
        /// Restore epoch.
        epoch: u16,
        /// Its place.
        offset: InvalidationOffset,
    },
}

/// A session that a socket may serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionGrant {
    /// Which.
    pub number: SessionNumber,
    /// Present id: the one that was asked with, or its successor after a rotation.
    pub id: SessionId,
    /// Counts its sockets. Whoever serves a lower one than the state's has lost the session.
    pub epoch: u64,
    /// Whose.
    pub user: String,
    /// The node that has it, or where it was placed.
    pub node: NodeId,
    /// Everything before this offset was delivered, as far as the last report says.
    pub position: MessageOffset,
    /// Channels it listens to, sorted.
    pub channels: Vec<String>,
}

/// A lock that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Every key it covers, sorted.
    pub keys: Vec<String>,
    /// Exclusive or shared.
    pub mode: LockMode,
    /// Who holds it.
    pub owner: String,
    /// Higher than that of any earlier grant in this cluster.
    pub token: FencingToken,
    /// What remains of the lease now.
    pub ttl: Millis,
    /// Time between request and grant.
    pub waited: Millis,
    /// From which the edge derives the secret again, when it was derived.
    pub salt: Option<Salt>,
}

/// A lease that was extended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Token of the grant, unchanged.
    pub token: FencingToken,
    /// What the lease now has, cut by `hold_max`.
    pub ttl: Millis,
}

/// Who is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Owner name of the holder.
    pub owner: String,
    /// Its token.
    pub token: FencingToken,
    /// What remains of its lease.
    pub ttl: Millis,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A field has a value that can never be right.
    #[error("{field}: {problem}")]
    InvalidArgument {
        /// Which field of the command.
        field: String,
        /// What is wrong with it and what is allowed.
        problem: String,
    },
    /// A named bound of [`limits`](crate::limits) would be passed.
    #[error("limit {limit} of {max} reached")]
    LimitExceeded {
        /// Name of the bound in snake case.
        limit: String,
        /// Its value.
        max: u64,
    },
    /// Try-lock found the lock held or waited for.
    #[error("lock {key} is held")]
    LockHeld {
        /// The first key in the way.
        key: String,
        /// Its holder; absent when only earlier waiters are in the way.
        holder: Option<Holder>,
        /// Live waiters on that key.
        queue_length: u64,
    },
    /// The wait ended before the lock was free.
    #[error("lock {key} was not free in time")]
    LockTimeout {
        /// The first key in the way.
        key: String,
        /// Its holder at the end of the wait.
        holder: Option<Holder>,
        /// Live waiters on that key.
        queue_length: u64,
    },
    /// The wait was cancelled: its client, its node or an administrator ended it.
    #[error("the wait was cancelled")]
    WaitCancelled,
    /// No live grant on this key has this secret.
    #[error("not the holder of {key}")]
    NotHolder {
        /// The key.
        key: String,
    },
    /// A replayed acquire whose grant has ended since.
    #[error("the lock was granted and has been lost since")]
    LockLost {
        /// Token of the ended grant.
        token: FencingToken,
    },
    /// The same `Idempotency-Key` came with another body.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// A condition of a register write does not hold.
    #[error("the register has another revision")]
    RevisionMismatch {
        /// Which register.
        key: Vec<u8>,
        /// Its revision; absent when it does not exist.
        current: Option<Revision>,
    },
    /// No such lock, node or register.
    #[error("not found")]
    NotFound,
    /// The cluster was formed already.
    #[error("the cluster is formed already")]
    AlreadyFormed,
    /// Nothing but [`Command::FormCluster`](crate::Command::FormCluster) is possible before it.
    #[error("the cluster is not formed yet")]
    NotFormed,
    /// A live member has this name with another data directory.
    #[error("a live node has the name {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The node presents an older incarnation or boot counter than the cluster knows: a copied or restored
    /// data directory.
    #[error("a newer start of this node is known")]
    StaleIncarnation,
    /// The member changed since the leader looked.
    #[error("the node changed meanwhile")]
    StaleGeneration,
    /// The node is older than the cluster's version: it could not apply what the log may hold.
    #[error("version {node} is older than the cluster's, {cluster}: start a newer one")]
    Outdated {
        /// What the node understands.
        node: Version,
        /// What every member understands.
        cluster: Version,
    },
    /// No live session has this id or number.
    #[error("no such session")]
    SessionNotFound,
    /// Another socket took the session over, here or on another node.
    #[error("the session has moved")]
    SessionMoved {
        /// Where it is now, when it has a socket.
        node: Option<NodeId>,
        /// Its epoch there.
        epoch: u64,
    },
    /// The token of a migration is none of this session, was used, or came too late.
    #[error("the token is not valid")]
    InvalidToken,
    /// A session cannot go to this node: it is unknown or not active, or has the session already.
    #[error("the target node cannot take the session")]
    InvalidTarget,
    /// This node takes no sessions: it is being emptied, or counted as inactive. Another one does.
    #[error("the node takes no sessions: it is being emptied, or was not heard of for too long")]
    Draining,
}
