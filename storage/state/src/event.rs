//! What changed, for watchers ([`Event`], kept in the state's ring) and for waiting callers ([`Notice`]).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::{LockMode, NodeRole, NodeStatus, SessionEnd};
use crate::reply::Grant;
use crate::{
    EventOffset, FencingToken, InvalidationOffset, MessageOffset, Millis, NodeId, Refusal, Reply,
    SessionNumber, WaiterId,
};

/// Everything one apply produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// For the proposer.
    pub reply: Reply,
    /// In order; already in the ring, and shared with it.
    pub events: Vec<Arc<Event>>,
    /// For callers that wait on some node. Not kept.
    pub notices: Vec<Notice>,
    /// Which logs grew.
    pub appended: Appended,
}

/// For those who follow the logs of messages and invalidations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// The next offset of the messages, when some were published.
    pub messages: Option<MessageOffset>,
    /// The next offset of the invalidations, when one was appended.
    pub invalidations: Option<InvalidationOffset>,
    /// Whether a barrier could look again: a node reported what it has cleared, or the members changed.
    pub cleared: bool,
}

/// The outcome of a waiting lock request. Exactly one per waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose.
    pub waiter: WaiterId,
    /// The node on whose behalf it waited.
    pub node: NodeId,
    /// Granted, or why not.
    pub outcome: Result<Grant, Refusal>,
}

/// One entry of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Dense position, the same on every node.
    pub offset: EventOffset,
    /// Cluster time.
    pub at: Millis,
    /// What happened.
    pub kind: EventKind,
}

/// Why a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseCause {
    /// Its holder released it.
    Released,
    /// Its lease ended.
    Expired,
    /// An administrator ended it.
    Forced,
    /// Its client went away before it learned of the grant.
    Cancelled,
    /// The session it was bound to ended.
    SessionEnded,
}

/// A node as it was called when something happened there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRef {
    /// Its Raft id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// What can happen. Append-only, like commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A node became a member.
    NodeJoin {
        /// Its id.
        id: NodeId,
        /// Its name.
        name: String,
        /// Its role at the start.
        role: NodeRole,
    },
    /// A member left for good.
    NodeLeave {
        /// Its id.
        id: NodeId,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A member's status, role, address or version changed.
    NodeUpdate {
        /// Its id.
        id: NodeId,
        /// Its name.
        name: String,
        /// Status after the change.
        status: NodeStatus,
        /// Role after the change.
        role: NodeRole,
    },
    /// A leader took office.
    LeaderChange {
        /// Its id.
        id: NodeId,
        /// Its name.
        name: String,
        /// Its term.
        term: u64,
    },
    /// A lock was granted.
    LockAcquired {
        /// Every key of the grant.
        keys: Vec<String>,
        /// Exclusive or shared.
        mode: LockMode,
        /// Who holds it.
        owner: String,
        /// Its token.
        token: FencingToken,
        /// How long it waited.
        waited: Millis,
    },
    /// A grant ended.
    LockReleased {
        /// Every key of the grant.
        keys: Vec<String>,
        /// Who held it.
        owner: String,
        /// Its token.
        token: FencingToken,
        /// How it ended.
        cause: ReleaseCause,
        /// How long it was held.
        held: Millis,
        /// Given by the administrator, else empty.
        reason: String,
    },
    /// A session was registered.
    SessionRegistered {
        /// Which.
        number: SessionNumber,
        /// Where its socket is, or where it was placed.
        node: NodeRef,
    },
    /// A socket took a session over.
    SessionAttached {
        /// Which.
        number: SessionNumber,
        /// Where it is now.
        node: NodeRef,
        /// Its new epoch.
        epoch: u64,
        /// Where it was before, if on another node.
        from: Option<NodeRef>,
    },
    /// A session lost its socket or its node; its time to live runs.
    SessionDetached {
        /// Which.
        number: SessionNumber,
        /// Where it was.
        node: NodeRef,
        /// The epoch that ended.
        epoch: u64,
    },
    /// The client of a session is asked to go elsewhere.
    SessionMigrating {
        /// Which.
        number: SessionNumber,
        /// Where it is.
        node: NodeRef,
        /// Its epoch there.
        epoch: u64,
        /// Where it shall go.
        target: NodeRef,
    },
    /// A session is over; its locks are released.
    SessionEnded {
        /// Which.
        number: SessionNumber,
        /// Where it was last.
        node: NodeRef,
        /// The epoch that ended.
        epoch: u64,
        /// How.
        cause: SessionEnd,
    },
    /// An entry was appended to the invalidation log.
    Invalidated {
        /// Its place there.
        offset: InvalidationOffset,
        /// As asked for.
        patterns: Vec<String>,
        /// As asked for.
        tags: Vec<String>,
        /// Where it was asked for.
        origin: NodeRef,
    },
}
