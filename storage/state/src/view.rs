//! What readers see: borrowed from no table, safe to serialise at an edge, never a secret.

use alloc::string::String;
use alloc::vec::Vec;

use crate::command::{LockMode, NodeInfo, NodeRole, NodeStatus};
use crate::{ClusterId, EventOffset, FencingToken, Incarnation, Millis, NodeId, Revision, Version, WaiterId};

/// Identity and totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Absent before formation.
    pub cluster_id: Option<ClusterId>,
    /// Restore epoch; 0 until a restore.
    pub epoch: u16,
    /// Unix milliseconds at cluster time 0.
    pub formed_at_unix_ms: u64,
    /// Number of voters that autopilot aims at.
    pub voters_target: u8,
    /// What every member understands: see [`State::cluster_version`](crate::State::cluster_version).
    pub version: Version,
    /// Cluster clock.
    pub now: Millis,
    /// The last announced leader and its term.
    pub leader: Option<(NodeId, u64)>,
    /// Live members.
    pub nodes: u64,
    /// Live grants.
    pub locks_held: u64,
    /// Live waiters.
    pub waiters: u64,
    /// Live registers.
    pub kv_keys: u64,
    /// Bytes of their keys and values.
    pub kv_bytes: u64,
    /// Kept events: first offset and the next one to be given.
    pub events: (EventOffset, EventOffset),
    /// Kept idempotency records.
    pub requests_kept: u64,
}

/// One member, also one that left recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Raft id.
    pub id: NodeId,
    /// Stable name.
    pub name: String,
    /// Data directory.
    pub incarnation: Incarnation,
    /// Starts of that data directory, as last reported.
    pub boot: u64,
    /// Addresses and version.
    pub info: NodeInfo,
    /// Health as the leader last reported it.
    pub status: NodeStatus,
    /// Part in agreement.
    pub role: NodeRole,
    /// Bumped by each change; what [`ChangeNode`](crate::command::ChangeNode) must present.
    pub generation: u64,
    /// When the status last changed.
    pub status_since: Millis,
    /// When it became a member.
    pub joined_at: Millis,
}

/// One key with its holders and its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockView {
    /// The key.
    pub key: String,
    /// Live grants on it: one exclusive, or any number of shared ones, in token order.
    pub holders: Vec<HolderView>,
    /// Live waiters in order; at most the asked number.
    pub queue: Vec<WaiterView>,
    /// Live waiters in all.
    pub queue_length: u64,
}

/// A live grant as seen from one of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderView {
    /// Its token.
    pub token: FencingToken,
    /// Exclusive or shared.
    pub mode: LockMode,
    /// Who holds it.
    pub owner: String,
    /// JSON text given at acquire.
    pub metadata: Option<String>,
    /// Every key of the grant.
    pub keys: Vec<String>,
    /// When it was granted.
    pub since: Millis,
    /// When its lease ends.
    pub expires: Millis,
    /// When renewal can no longer help.
    pub hold_deadline: Option<Millis>,
}

/// A live waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiterView {
    /// Its id.
    pub waiter: WaiterId,
    /// 0 is next.
    pub position: u64,
    /// Exclusive or shared.
    pub mode: LockMode,
    /// Who waits.
    pub owner: String,
    /// The node whose client waits.
    pub node: NodeId,
    /// When it began.
    pub since: Millis,
    /// When it gives up.
    pub deadline: Millis,
}

/// A register without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvMeta {
    /// Its key.
    pub key: Vec<u8>,
    /// Its revision.
    pub revision: Revision,
    /// Bytes of its value.
    pub size: u64,
    /// Media type, if given.
    pub content_type: Option<String>,
    /// When it goes by itself.
    pub expires: Option<Millis>,
}

/// What became of a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaiterStatus {
    /// Still in the queue.
    Waiting,
    /// Granted, and the grant is live.
    Granted(FencingToken),
    /// Neither.
    Gone,
}

/// The asked events are no longer kept (or not from this cluster): start again from a fresh read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsReset {
    /// First offset that is still kept.
    pub first: EventOffset,
    /// Offset the next event will get.
    pub next: EventOffset,
}
