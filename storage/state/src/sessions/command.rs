//! Commands on sessions and messages, and what they answer.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::AcquireLock;
use crate::{MessageOffset, Millis, NodeId, Salt, SecretHash, SessionId, SessionNumber};

/// See [`Command::RegisterSession`](crate::Command::RegisterSession). Answers [`Reply::Session`](crate::Reply::Session).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterSession {
    /// 128 random bits, chosen by the edge.
    pub id: SessionId,
    /// Whose. Limits and the channel `user` go by it.
    pub user: String,
    /// Where its socket is; absent for a session without a socket yet, which the state places.
    pub socket: Option<NodeId>,
    /// How long it outlives its socket or its node.
    pub ttl: Millis,
    /// JSON text, opaque here.
    pub metadata: Option<String>,
}

/// See [`Command::AttachSession`](crate::Command::AttachSession). Answers [`Reply::Session`](crate::Reply::Session).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSession {
    /// The session by its secret id, or by the one before the last rotation while that works.
    pub id: SessionId,
    /// Where the new socket is. Taking over from a live socket elsewhere or here is right: the newest one wins.
    pub node: NodeId,
    /// Hash of the one-use token of a migration, when the client brought one. A wrong, used or expired one is
    /// refused with `InvalidToken`; the session stays where it is.
    pub token: Option<SecretHash>,
    /// As at registration.
    pub ttl: Millis,
}

/// See [`Command::UpdateSessions`](crate::Command::UpdateSessions): what a node knows of the sessions whose sockets it has,
/// collected into one entry. Answers [`Reply::Done`](crate::Reply::Done); updates of another epoch are left out silently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateSessions {
    /// The node that reports.
    pub node: NodeId,
    /// In any order, each session at most once; at most [`SESSION_UPDATES_PER_ENTRY_MAX`](crate::limits::SESSION_UPDATES_PER_ENTRY_MAX).
    pub updates: Vec<SessionUpdate>,
}

/// News of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionUpdate {
    /// Which.
    pub number: SessionNumber,
    /// The epoch that the node serves. Another one: somebody took over, the update counts for nothing.
    pub epoch: u64,
    /// Cluster time since its last activity, as far as the node knows, counted back from this entry.
    pub idle: Millis,
    /// Everything before this offset was delivered.
    pub position: MessageOffset,
    /// The socket is gone: the session is detached and its time to live starts.
    pub detach: bool,
}

/// See [`Command::EndSession`](crate::Command::EndSession).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSession {
    /// Which; an unknown one is refused with `SessionNotFound`.
    pub number: SessionNumber,
    /// Only while this is its epoch, when given: a node that ends an idle session must not end one that moved.
    pub epoch: Option<u64>,
    /// Why, for the event.
    pub cause: SessionEnd,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// Its client closed it for good, or somebody deleted it.
    Closed,
    /// Nobody came back in time, or its node saw no activity for its time to live.
    Expired,
}

/// See [`Command::MigrateSession`](crate::Command::MigrateSession).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateSession {
    /// Which.
    pub number: SessionNumber,
    /// Only while this is its epoch, when given.
    pub epoch: Option<u64>,
    /// Where to: an active node (`InvalidTarget` otherwise). Absent: the state places it, anywhere but where it is.
    pub target: Option<NodeId>,
    /// Hash of the token with which the client may resume.
    pub token: SecretHash,
    /// From which the node with the socket derives the token again.
    pub salt: Salt,
    /// How long the token works.
    pub valid: Millis,
}

/// See [`Command::RotateSession`](crate::Command::RotateSession).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateSession {
    /// Its present id.
    pub id: SessionId,
    /// Its next one, chosen at random by the edge.
    pub next: SessionId,
    /// How long the present one goes on working.
    pub overlap: Millis,
}

/// See [`Command::DescribeSession`](crate::Command::DescribeSession).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeSession {
    /// Which.
    pub number: SessionNumber,
    /// JSON text that replaces what was there; absent: none.
    pub metadata: Option<String>,
}

/// See [`Command::SubscribeSession`](crate::Command::SubscribeSession). Subscriptions belong to the session, not to the socket: they
/// survive its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeSession {
    /// Which.
    pub number: SessionNumber,
    /// Only while this is its epoch (`SessionMoved` otherwise).
    pub epoch: u64,
    /// Names of channels to add; known ones are no error.
    pub add: Vec<String>,
    /// Names of channels to take away; unknown ones are no error.
    pub remove: Vec<String>,
}

/// See [`Command::PublishMessages`](crate::Command::PublishMessages). Answers [`Reply::Published`](crate::Reply::Published).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishMessages {
    /// All or none, in this order, at least one.
    pub messages: Vec<NewMessage>,
}

/// One message to keep and deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage {
    /// For whom.
    pub to: Recipient,
    /// JSON text, opaque here.
    pub data: String,
    /// Which session published it, if one did.
    pub from: Option<SessionNumber>,
}

/// For whom a message is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Recipient {
    /// One session.
    Session(SessionNumber),
    /// Every session of a user.
    User(String),
    /// Every session that subscribed to a channel.
    Channel(String),
}

/// See [`Command::AcquireLockInSession`](crate::Command::AcquireLockInSession).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireLockInSession {
    /// The request as without a session.
    pub acquire: AcquireLock,
    /// When this session ends, the request leaves the queue or the grant is released.
    pub session: SessionId,
}

/// See [`Command::DrainNode`](crate::Command::DrainNode).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNode {
    /// Which: an active or suspect member, or one that drains already (then the rate changes). It takes no new sessions, no placement
    /// chooses it, and it moves those that it has.
    pub id: NodeId,
    /// Sessions per second to move; 1 to [`DRAIN_RATE_MAX`](crate::limits::DRAIN_RATE_MAX).
    pub rate_per_s: u32,
}

/// See [`Command::ResumeNode`](crate::Command::ResumeNode).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeNode {
    /// A draining member; it is active again. One that does not drain is no error.
    pub id: NodeId,
}
