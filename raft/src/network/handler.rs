//! What a node does with the requests of its peers. `Group` implements it; [`serve`](super::serve) calls it.

use std::future::Future;
use std::io;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use ovncp_state::LogIndex;

use super::identity::PeerIdentity;
use super::lanes::SnapshotChunks;
use super::message::{
    ControlRequest, ControlResponse, ForwardItem, ForwardOutcome, ReadIndexRefusal, RenewItem, RenewOutcome,
};
use super::types::{
    AppendRequest, AppendResult, SnapshotMeta, SnapshotResponse, TransferRequest, TransferResponse, Vote,
    VoteRequest, VoteResponse,
};

/// No Raft runs here (not yet, or not any more). The peer sees this node as unreachable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not serving: {reason}")]
pub struct NotServing {
    /// Why, for the peer's log.
    pub reason: String,
}

/// A snapshot that is being received.
#[derive(Clone, Debug)]
pub struct SnapshotOffer {
    /// Vote of the leader that sends it.
    pub vote: Vote,
    /// What it covers.
    pub meta: SnapshotMeta,
    /// How many bytes will follow.
    pub bytes: u64,
}

/// The requests of peers, by lane. Calls of one connection on the append and snapshot lanes come one after the
/// other; all others run side by side, a bounded number per connection. Futures may be dropped when the
/// connection breaks.
pub trait PeerHandler: Send + Sync + 'static {
    /// Appends in order, several in flight: hand the stream to `Raft::stream_append`. The answers are in
    /// request order; an `Err` of either kind is the last item.
    fn append(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, NotServing>>;

    /// A heartbeat: an append without entries, outside the stream.
    fn heartbeat(
        &self,
        request: AppendRequest,
    ) -> impl Future<Output = Result<AppendResult, NotServing>> + Send;

    /// A vote.
    fn vote(&self, request: VoteRequest) -> impl Future<Output = Result<VoteResponse, NotServing>> + Send;

    /// A pre-vote.
    fn pre_vote(&self, request: VoteRequest)
    -> impl Future<Output = Result<VoteResponse, NotServing>> + Send;

    /// Leadership comes to this node, or leaves the leader.
    fn transfer_leader(
        &self,
        request: TransferRequest,
    ) -> impl Future<Output = Result<TransferResponse, NotServing>> + Send;

    /// Receives a snapshot and installs it. Reading `chunks` slowly slows the sender down.
    fn snapshot(
        &self,
        offer: SnapshotOffer,
        chunks: SnapshotChunks,
    ) -> impl Future<Output = Result<SnapshotResponse, NotServing>> + Send;

    /// Proposals of a peer, in its order: one outcome each.
    fn forward(
        &self,
        from: &PeerIdentity,
        items: Vec<ForwardItem>,
    ) -> impl Future<Output = Vec<ForwardOutcome>> + Send;

    /// Renewals of a peer for this leader's collector: one outcome each.
    fn renew(
        &self,
        from: &PeerIdentity,
        items: Vec<RenewItem>,
    ) -> impl Future<Output = Vec<RenewOutcome>> + Send;

    /// A read index: everything up to it that was committed before this call is covered.
    fn read_index(
        &self,
        from: &PeerIdentity,
    ) -> impl Future<Output = Result<LogIndex, ReadIndexRefusal>> + Send;

    /// Formation and joining.
    fn control(
        &self,
        from: &PeerIdentity,
        request: ControlRequest,
    ) -> impl Future<Output = ControlResponse> + Send;
}

/// Where the bytes of an outgoing snapshot come from.
pub trait SnapshotSource: Send + 'static {
    /// All of them.
    fn size(&self) -> u64;
    /// At most `max` bytes from `offset` on; none at the end.
    fn read_at(&self, offset: u64, max: usize) -> io::Result<Bytes>;
}
