//! Short names for openraft's types over our configuration.

use openraft::alias::{LogIdOf, VoteOf};
use ovncp_storage::types::{Peer, TypeConfig};

/// Position of an entry with the term that wrote it.
pub type LogId = LogIdOf<TypeConfig>;
/// A vote: term, candidate, and whether a quorum granted it.
pub type Vote = VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// Entries to append, or none: a heartbeat.
pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
/// Answer to one append of a stream: the last matching log id.
pub type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
/// Ask for a vote, or whether it would be given.
pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
/// Answer to a [`VoteRequest`].
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
/// A leader hands over.
pub type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
/// Answer to a [`TransferRequest`].
pub type TransferResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<openraft::alias::CommittedLeaderIdOf<TypeConfig>, u64, Peer>;
/// Answer after a snapshot is installed.
pub type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
/// Why a call to a peer failed.
pub type RpcError = openraft::errors::RPCError<TypeConfig>;
