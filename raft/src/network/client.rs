//! The dialing side: one [`PeerNetwork`] per node, cheap [`PeerClient`]s of it for openraft.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use openraft::network::{Backoff, RPCOption};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::types::{Peer, TypeConfig};
use tokio::sync::watch;
use tokio::time::Instant;

use super::handler::SnapshotSource;
use super::identity::{Directory, Identity, PeerIdentity, Refusal, Target};
use super::message::{
    ControlRequest, ControlResponse, ForwardItem, ForwardOutcome, ReadIndexRefusal, RenewItem, RenewOutcome,
};
use super::net::Net;
use super::types::{
    AppendRequest, RpcError, SnapshotMeta, SnapshotResponse, TransferRequest, TransferResponse, Vote,
    VoteRequest, VoteResponse,
};

/// Times of the transport. Bounds on memory are constants, see [`limits`](super::limits).
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// A dial that takes longer has failed.
    pub connect_timeout: Duration,
    /// As does a hand-shake, on either side.
    pub handshake_timeout: Duration,
    /// A connection with unanswered requests and no byte received for this long is closed and dialed again.
    pub stall_timeout: Duration,
    /// First pause after the immediate retry failed; doubles, with jitter.
    pub redial_min: Duration,
    /// Longest pause.
    pub redial_max: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(1),
            redial_min: Duration::from_millis(20),
            redial_max: Duration::from_millis(400),
            seed: 0,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Its host answered that nobody listens there.
    #[error("connection refused")]
    ConnectionRefused,
    /// Any other failure to connect, to resolve the name, or a broken connection during the hand-shake.
    #[error("{0}")]
    Io(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// One of the two ends refused the other.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// This node stops.
    #[error("stopping")]
    Stopped,
}

/// Why a call has no answer. What matters to the caller is whether the peer may have acted on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It surely was not delivered: no connection.
    #[error("not sent: {0}")]
    NotSent(DialError),
    /// It surely was not delivered: the bounded queue is full.
    #[error("not sent: queue full")]
    Busy,
    /// **The peer may have acted on it**: the connection broke before the answer.
    #[error("connection lost before the answer")]
    Lost,
    /// The peer answered that it cannot: it runs no Raft, or does not know the request. It did not act.
    #[error("declined: {0}")]
    Declined(String),
}

/// What this node sees of a peer through its heartbeat connection to it, which is kept open to every peer of
/// [`PeerNetwork::set_peers`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSight {
    /// The connection stands.
    pub connected: bool,
    /// When the connection closed **and** a re-dial proved that the process is gone: the host refused the
    /// connection, or a later start of the same node answered. Cleared by the next connection that stands for
    /// the process seen. A hint for fast fail-over, not a proof for safety.
    pub gone_at: Option<Instant>,
    /// Its present start, once seen.
    pub boot: Option<u64>,
    /// Why one end refused the other, while it does.
    pub refusal: Option<Refusal>,
}

/// All peers in sight, by id.
pub type Sights = BTreeMap<NodeId, PeerSight>;

/// The dialing side of this node. Cheap to clone.
pub struct PeerNetwork<N: Net, S> {
    net: N,
    identity: Arc<Identity>,
    sights: watch::Sender<Sights>,
    _snapshot: PhantomData<fn() -> S>,
}

impl<N: Net, S: SnapshotSource> PeerNetwork<N, S> {
    /// Dials nobody yet.
    pub fn new(
        net: N,
        identity: Arc<Identity>,
        _directory: Arc<dyn Directory>,
        _options: NetworkOptions,
    ) -> Self {
        Self { net, identity, sights: watch::Sender::new(Sights::new()), _snapshot: PhantomData }
    }

    /// This node, as presented to peers.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The peers to keep a heartbeat connection to (this node itself is left out). Call it when the membership
    /// changes; it also teaches addresses for [`forward`](Self::forward) and the like.
    pub fn set_peers(&self, _peers: BTreeMap<NodeId, Peer>) {}

    /// What is seen of each peer of [`set_peers`](Self::set_peers).
    pub fn sights(&self) -> watch::Receiver<Sights> {
        self.sights.subscribe()
    }

    /// Hands proposals to the leader, in order; one outcome each. On [`CallError::Lost`] each of them may have
    /// been appended. The caller bounds the time.
    pub async fn forward(
        &self,
        _to: NodeId,
        _items: &[ForwardItem],
    ) -> Result<Vec<ForwardOutcome>, CallError> {
        Err(CallError::NotSent(DialError::Stopped))
    }

    /// Hands renewals to the leader's collector; one outcome each, after they were applied there.
    pub async fn renew(&self, _to: NodeId, _items: &[RenewItem]) -> Result<Vec<RenewOutcome>, CallError> {
        Err(CallError::NotSent(DialError::Stopped))
    }

    /// Asks the leader for a read index.
    pub async fn read_index(&self, _to: NodeId) -> Result<Result<LogIndex, ReadIndexRefusal>, CallError> {
        Err(CallError::NotSent(DialError::Stopped))
    }

    /// One question on the control lane, to an address that need not be a member's; says who answered.
    pub async fn control(
        &self,
        _addr: &str,
        _target: Target,
        _request: ControlRequest,
        _timeout: Duration,
    ) -> Result<(PeerIdentity, ControlResponse), CallError> {
        Err(CallError::NotSent(DialError::Stopped))
    }

    /// Closes every connection, inbound ones too, and waits until the tasks have ended.
    pub async fn shutdown(&self) {}
}

impl<N: Net, S> Clone for PeerNetwork<N, S> {
    fn clone(&self) -> Self {
        Self {
            net: self.net.clone(),
            identity: Arc::clone(&self.identity),
            sights: self.sights.clone(),
            _snapshot: PhantomData,
        }
    }
}

/// openraft's way to one peer.
pub struct PeerClient<N: Net, S> {
    #[expect(dead_code)]
    network: PeerNetwork<N, S>,
}

impl<N: Net, S: SnapshotSource> RaftNetworkFactory<TypeConfig> for PeerNetwork<N, S> {
    type Network = PeerClient<N, S>;

    async fn new_client(&mut self, _target: u64, _node: &Peer) -> PeerClient<N, S> {
        PeerClient { network: self.clone() }
    }
}

fn nobody() -> RpcError {
    RpcError::Unreachable(openraft::errors::Unreachable::from_string("no connection"))
}

impl<N: Net, S: SnapshotSource> RaftNetworkV2<TypeConfig> for PeerClient<N, S> {
    type SnapshotData = S;

    async fn append_entries(
        &mut self,
        _request: AppendRequest,
        _option: RPCOption,
    ) -> Result<openraft::raft::AppendEntriesResponse<TypeConfig>, RpcError> {
        Err(nobody())
    }

    async fn vote(&mut self, _request: VoteRequest, _option: RPCOption) -> Result<VoteResponse, RpcError> {
        Err(nobody())
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest,
        _option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        Err(nobody())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::alias::SnapshotOf<TypeConfig, S>,
        _cancel: impl Future<Output = openraft::errors::ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, openraft::errors::StreamingError<TypeConfig>> {
        Err(nobody().into())
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferRequest,
        _option: RPCOption,
    ) -> Result<TransferResponse, RpcError> {
        Err(nobody())
    }

    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

#[expect(dead_code)]
fn meta_is_named(_: SnapshotMeta) {}
