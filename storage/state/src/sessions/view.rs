//! What readers see of sessions and messages.

use alloc::string::String;
use alloc::vec::Vec;

use crate::command::Recipient;
use crate::{MessageOffset, Millis, NodeId, Salt, SessionId, SessionNumber};

/// One live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Which.
    pub number: SessionNumber,
    /// Secret: for its user and administrators.
    pub id: SessionId,
    /// Whose.
    pub user: String,
    /// Where its socket is, was last, or where it was placed.
    pub node: NodeId,
    /// Whether it has a socket there.
    pub attached: bool,
    /// Counts its sockets; 0 before the first one.
    pub epoch: u64,
    /// When it was registered.
    pub created_at: Millis,
    /// Last activity, as last reported (30 s accuracy while attached).
    pub last_activity: Millis,
    /// When it ends unless somebody comes back; none while attached.
    pub expires: Option<Millis>,
    /// Time to live without a socket.
    pub ttl: Millis,
    /// Everything before this offset was delivered, as last reported.
    pub position: MessageOffset,
    /// Channels it listens to, sorted.
    pub channels: Vec<String>,
    /// JSON text.
    pub metadata: Option<String>,
    /// A migration under way.
    pub migration: Option<MigrationView>,
}

/// Which sessions to list; without anything all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter<'a> {
    /// Those of this user.
    pub user: Option<&'a str>,
    /// Those whose socket is, was or should be on this node.
    pub node: Option<NodeId>,
}

/// Sessions of one node. What has ended is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTotals {
    /// Whose socket is, was last, or should be there.
    pub known: u64,
    /// With a socket there.
    pub attached: u64,
}

/// A migration under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationView {
    /// Where to.
    pub target: NodeId,
    /// From which the token is derived.
    pub salt: Salt,
    /// Until when the token works.
    pub deadline: Millis,
}

/// One kept message.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Dense position, the same on every node.
    pub offset: MessageOffset,
    /// Cluster time.
    pub at: Millis,
    /// For whom.
    pub to: Recipient,
    /// JSON text.
    pub data: String,
    /// Which session published it, if one did.
    pub from: Option<SessionNumber>,
}

/// A node that is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainView {
    /// Which.
    pub node: NodeId,
    /// When the drain began.
    pub since: Millis,
    /// Sessions with a socket there when it began.
    pub total: u64,
    /// Those that are left.
    pub left: u64,
    /// Sessions per second to move.
    pub rate_per_s: u32,
}

/// The asked positions of a log are no longer kept (or never were given): start again from a fresh read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReset<O> {
    /// First offset that is still kept.
    pub first: O,
    /// Offset that the next entry will get.
    pub next: O,
}
