//! What can be asked of the replicated state.
//!
//! Commands are append-only: a variant is never reordered, reused or given a new meaning. A change of meaning
//! is a new variant, proposed only once every member's version allows. Golden bytes in the tests hold us to it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use crate::invalidations::{Invalidate, ReportCleared};
pub use crate::sessions::command::{
    AcquireLockInSession, AttachSession, DescribeSession, DrainNode, EndSession, MigrateSession, NewMessage,
    PublishMessages, Recipient, RegisterSession, ResumeNode, RotateSession, SessionEnd, SessionUpdate,
    SubscribeSession, UpdateSessions,
};
use crate::{
    ClusterId, FencingToken, Incarnation, LogIndex, Millis, NodeId, Revision, Salt, SecretHash, Version,
    WaiterId,
};

/// One committed entry, as [`State::apply`](crate::State::apply) sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log; strictly increasing, with gaps (blank and membership entries of Raft).
    pub index: LogIndex,
    /// Cluster time at which the proposing leader stamped it. The state keeps `now = max(now, at)`.
    pub at: Millis,
    /// What to do.
    pub request: Request,
}

/// A command and, for a retryable write, the key under which its reply is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Present when the caller sent an `Idempotency-Key`.
    pub idempotency: Option<RequestKey>,
    /// What to do.
    pub command: Command,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Self { idempotency: None, command }
    }
}

/// Identity of a retryable request, hashed at the edge so that its size is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestKey {
    /// Hash of caller, route and `Idempotency-Key`.
    pub scope: [u8; 16],
    /// Hash of the body. The same scope with another body is refused.
    pub body: [u8; 16],
}

/// Everything that changes the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Moves the clock and cleans up what has ended. Proposed by the leader when
    /// [`State::next_deadline`](crate::State::next_deadline) is due.
    Tick,
    /// The first entry of a cluster: its identity and initial members. Refused later.
    FormCluster(FormCluster),
    /// A node asks to become a member. Answers [`Reply::Joined`](crate::Reply::Joined) with its new id, or the
    /// id it already has when the same incarnation asks again.
    JoinNode(JoinNode),
    /// A member reports its addresses and version after a start. Also makes it `active` again.
    UpdateNode(UpdateNode),
    /// The leader's failure detector or autopilot changes statuses or roles. Stale changes are ignored.
    ChangeNode(ChangeNode),
    /// Takes a node out of the membership for good. Its id is never used again.
    RemoveNode(RemoveNode),
    /// A new leader makes its term of office known.
    AnnounceLeader(AnnounceLeader),
    /// Asks for one or more locks, all or none.
    AcquireLock(AcquireLock),
    /// Extends leases; collected by the leader into one entry.
    RenewLocks(Vec<RenewLock>),
    /// Gives a grant back.
    ReleaseLock(ReleaseLock),
    /// Ends a waiting request whose client went away, or releases a grant that was never delivered.
    CancelWait(CancelWait),
    /// An administrator ends every grant on a key.
    ForceReleaseLock(ForceReleaseLock),
    /// Reads nothing, writes registers: all conditions hold and all operations happen, or nothing does.
    WriteKv(WriteKv),
    /// A client opens a session. Since 0.2, like all that follow.
    RegisterSession(RegisterSession),
    /// A socket takes a session over: its first one, a resume, or the end of a migration. Raises the epoch.
    AttachSession(AttachSession),
    /// A node reports activity, positions and lost sockets of its sessions.
    UpdateSessions(UpdateSessions),
    /// Ends a session and what is bound to it.
    EndSession(EndSession),
    /// Asks the node with the socket to send the client elsewhere.
    MigrateSession(MigrateSession),
    /// Gives a session another id.
    RotateSession(RotateSession),
    /// Replaces a session's metadata.
    DescribeSession(DescribeSession),
    /// Changes what a session listens to.
    SubscribeSession(SubscribeSession),
    /// Keeps messages for sessions, users and channels.
    PublishMessages(PublishMessages),
    /// Asks for locks that end with a session.
    AcquireLockInSession(AcquireLockInSession),
    /// An administrator empties a node of its sessions.
    DrainNode(DrainNode),
    /// An administrator takes that back.
    ResumeNode(ResumeNode),
    /// Appends to the invalidation log.
    Invalidate(Invalidate),
    /// A node reports how far it has cleared its caches.
    ReportCleared(ReportCleared),
}

impl Command {
    /// The version that brought this kind: it may enter the log once the cluster's version has reached it. A kind
    /// that is added gets the version that will be released with it, here and nowhere else.
    pub fn since(&self) -> Version {
        match self {
            Command::Tick
            | Command::FormCluster(_)
            | Command::JoinNode(_)
            | Command::UpdateNode(_)
            | Command::ChangeNode(_)
            | Command::RemoveNode(_)
            | Command::AnnounceLeader(_)
            | Command::AcquireLock(_)
            | Command::RenewLocks(_)
            | Command::ReleaseLock(_)
            | Command::CancelWait(_)
            | Command::ForceReleaseLock(_)
            | Command::WriteKv(_) => Version::BASE,
            Command::RegisterSession(_)
            | Command::AttachSession(_)
            | Command::UpdateSessions(_)
            | Command::EndSession(_)
            | Command::MigrateSession(_)
            | Command::RotateSession(_)
            | Command::DescribeSession(_)
            | Command::SubscribeSession(_)
            | Command::PublishMessages(_)
            | Command::AcquireLockInSession(_)
            | Command::DrainNode(_)
            | Command::ResumeNode(_)
            | Command::Invalidate(_)
            | Command::ReportCleared(_) => Version::new(0, 2),
        }
    }
}

/// See [`Command::FormCluster`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormCluster {
    /// Random identity of the cluster.
    pub cluster_id: ClusterId,
    /// Wall-clock time (Unix milliseconds) at cluster time 0, for people only.
    pub formed_at_unix_ms: u64,
    /// Number of voters that autopilot aims at; odd.
    pub voters_target: u8,
    /// The initial members in rank order: rank 1 has id 1.
    pub nodes: Vec<JoinNode>,
}

/// See [`Command::JoinNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinNode {
    /// Stable name (pod name), unique among live members.
    pub name: String,
    /// Which data directory asks. The same name with another incarnation is a wiped node: it gets a new id,
    /// and the id it had is due for replacement.
    pub incarnation: Incarnation,
    /// How to reach it.
    pub info: NodeInfo,
}

/// Where a node is and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Host name, for people.
    pub hostname: String,
    /// IP address or name under which clients reach it.
    pub ip: String,
    /// HTTP and WebSocket port.
    pub http_port: u16,
    /// `host:port` of the peer listener; a stable name, resolved at each dial.
    pub peer_addr: String,
    /// Version of the binary.
    pub version: String,
    /// Failure domain, empty when not configured.
    pub zone: String,
    /// Free-form labels.
    pub metadata: BTreeMap<String, String>,
}

/// See [`Command::UpdateNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateNode {
    /// Which member.
    pub id: NodeId,
    /// Must be the member's; another one is refused with `stale_incarnation`.
    pub incarnation: Incarnation,
    /// Starts of this data directory; a lower one than known is refused with `stale_incarnation`.
    pub boot: u64,
    /// What it now is.
    pub info: NodeInfo,
}

/// Health of a member as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Known, not caught up yet.
    Joining,
    /// Acknowledges the leader.
    Active,
    /// Three heartbeat intervals without an acknowledgement. Keeps everything it holds.
    Suspect,
    /// Silent for the node time-out. Its waiters are dropped; its leases end by their own TTL only.
    Inactive,
    /// Being emptied by an operator.
    Draining,
    /// Removed or replaced.
    Left,
}

/// Part of a member in agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Votes and counts for the quorum.
    Voter,
    /// Receives the log only.
    Learner,
}

/// See [`Command::ChangeNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeNode {
    /// Which member.
    pub id: NodeId,
    /// The change counts only while the member's generation (bumped by each change) is this one, so that
    /// nothing acts on a node that changed meanwhile.
    pub generation: u64,
    /// New status, if it changes.
    pub status: Option<NodeStatus>,
    /// New role, if it changes.
    pub role: Option<NodeRole>,
}

/// See [`Command::RemoveNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    /// Which member.
    pub id: NodeId,
    /// Why, for the event.
    pub reason: String,
}

/// See [`Command::AnnounceLeader`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceLeader {
    /// The leader.
    pub id: NodeId,
    /// Its Raft term.
    pub term: u64,
}

/// Whether a lock may have several holders at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// One holder.
    Exclusive,
    /// Any number of shared holders, no exclusive one.
    Shared,
}

/// See [`Command::AcquireLock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireLock {
    /// Sorted, without duplicates, at least one. One grant and one token cover all of them.
    pub keys: Vec<String>,
    /// For all keys.
    pub mode: LockMode,
    /// Who asks, for people.
    pub owner: String,
    /// Proof of holding.
    pub secret: SecretHash,
    /// Kept with the grant when the secret was derived from it.
    pub salt: Option<Salt>,
    /// Lease.
    pub ttl: Millis,
    /// How long to wait; 0 is try-lock.
    pub wait: Millis,
    /// Time that renewal cannot pass, counted from the grant.
    pub hold_max: Option<Millis>,
    /// JSON text, opaque here.
    pub metadata: Option<String>,
    /// Names this request while it waits.
    pub waiter: WaiterId,
    /// The node whose client waits. When it becomes inactive or leaves, the waiter leaves too. A retry with
    /// the same idempotency key takes a request that waits or is granted along to its own node.
    pub node: NodeId,
}

/// One renewal. Any key of a multi-key grant names the whole grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewLock {
    /// A key of the grant.
    pub key: String,
    /// Proof of holding.
    pub secret: SecretHash,
    /// New lease; absent: as at the grant.
    pub ttl: Option<Millis>,
}

/// See [`Command::ReleaseLock`]. Any key of a multi-key grant releases the whole grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseLock {
    /// A key of the grant.
    pub key: String,
    /// Proof of holding.
    pub secret: SecretHash,
}

/// See [`Command::CancelWait`]. Unknown waiters are no error: they may have ended meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelWait {
    /// Which request.
    pub waiter: WaiterId,
    /// The node whose client went away. Nothing happens when a retry has taken the request to another one.
    pub node: NodeId,
}

/// See [`Command::ForceReleaseLock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceReleaseLock {
    /// Which key; multi-key grants on it end whole.
    pub key: String,
    /// Why, for the event.
    pub reason: String,
    /// Ends only the grant with this token, when given.
    pub token: Option<FencingToken>,
}

/// See [`Command::WriteKv`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteKv {
    /// All must hold, judged before the first operation.
    pub conditions: Vec<KvCondition>,
    /// Done in order.
    pub operations: Vec<KvOperation>,
}

/// What must be true of a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvCondition {
    /// Which register.
    pub key: Vec<u8>,
    /// What must be true.
    pub expect: KvExpect,
}

/// Kinds of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvExpect {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It exists with this revision.
    Revision(Revision),
}

/// A write to one register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvOperation {
    /// Creates or replaces it.
    Put {
        /// Which register.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// Media type, kept and returned.
        content_type: Option<String>,
        /// The register goes by itself after this time.
        ttl: Option<Millis>,
    },
    /// Removes it; an absent one is no error.
    Delete {
        /// Which register.
        key: Vec<u8>,
    },
}

/// Where an entry was applied, for those who keep both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AppliedAt {
    /// Log index.
    pub index: LogIndex,
    /// Cluster time.
    pub now: Millis,
}
