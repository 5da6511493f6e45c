//! The dialing side: one [`PeerNetwork`] per node, cheap [`PeerClient`]s of it for openraft.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{ReplicationClosed, StreamingError, Timeout};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::AppendEntriesResponse;
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::types::{Peer, TypeConfig};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::append::{AppendLane, unreachable};
use super::dial::{Shared, lock};
use super::frame::Kind;
use super::handler::SnapshotSource;
use super::identity::{Directory, Identity, Lane, PeerIdentity, Refusal, Target};
use super::limits::{FORWARD_ITEMS_MAX, FRAME_BYTES_MAX};
use super::link::{Link, PeerEntry, answer_body};
use super::message::{
    ControlRequest, ControlResponse, ForwardItem, ForwardOutcome, ReadIndexRefusal, RenewItem, RenewOutcome,
};
use super::net::Net;
use super::snapshot;
use super::types::{
    AppendRequest, AppendResult, RpcError, SnapshotResponse, TransferRequest, TransferResponse, Vote,
    VoteRequest, VoteResponse,
};
use super::wire::{self, WireError};

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
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(1),
            redial_min: Duration::from_millis(20),
            redial_max: Duration::from_millis(400),
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
    /// When last a connection closed **and** a re-dial showed that its process is gone: the host refused the
    /// connection, the process said that it stops, or a later start of the same node answered. Stays set;
    /// compare it with the moment from which you know the peer's present role. A hint for fast fail-over, not a
    /// proof for safety.
    pub gone_at: Option<Instant>,
    /// Its present start, once seen.
    pub boot: Option<u64>,
    /// Why one end refused the other, while it does.
    pub refusal: Option<Refusal>,
}

/// All peers in sight, by id.
pub type Sights = BTreeMap<NodeId, PeerSight>;

/// The dialing side of this node. Cheap to clone; with the last clone every connection ends.
pub struct PeerNetwork<N: Net, S> {
    shared: Arc<Shared<N>>,
    // The tasks hold `shared` too: this tells when nobody else does.
    _owner: Arc<CloseOnDrop>,
    _snapshot: PhantomData<fn() -> S>,
}

struct CloseOnDrop(watch::Sender<bool>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl<N: Net, S> Clone for PeerNetwork<N, S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), _owner: Arc::clone(&self._owner), _snapshot: PhantomData }
    }
}

impl<N: Net, S> PeerNetwork<N, S> {
    /// Dials nobody yet.
    pub fn new(
        net: N,
        identity: Arc<Identity>,
        directory: Arc<dyn Directory>,
        options: NetworkOptions,
    ) -> Self {
        let closing = watch::Sender::new(false);
        let shared = Shared {
            net,
            identity,
            directory,
            options,
            admission: Default::default(),
            peers: Default::default(),
            sights: watch::Sender::new(Sights::new()),
            closing: closing.clone(),
            tasks: Default::default(),
        };
        Self { shared: Arc::new(shared), _owner: Arc::new(CloseOnDrop(closing)), _snapshot: PhantomData }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<N>> {
        &self.shared
    }

    /// This node, as presented to peers.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.shared.identity
    }

    /// The peers to keep a heartbeat connection to (this node itself is left out). Call it when the membership
    /// changes. Connections to all others end.
    pub fn set_peers(&self, mut peers: BTreeMap<NodeId, Peer>) {
        if let Some(own) = self.shared.identity.id() {
            peers.remove(&own);
        }
        // Before the links start: they report into it.
        self.shared.sights.send_if_modified(|sights| {
            let before = sights.len();
            sights.retain(|id, _| peers.contains_key(id));
            let mut news = sights.len() != before;
            for id in peers.keys() {
                news |= sights.insert_if_absent(*id);
            }
            news
        });
        let mut entries = lock(&self.shared.peers);
        entries.retain(|id, _| peers.contains_key(id));
        for (id, peer) in peers {
            self.entry(&mut entries, id, &peer, true);
        }
    }

    /// What is seen of each peer of [`set_peers`](Self::set_peers).
    pub fn sights(&self) -> watch::Receiver<Sights> {
        self.shared.sights.subscribe()
    }

    /// Hands proposals to the leader, in order and at most [`FORWARD_ITEMS_MAX`] of them; one outcome each. On
    /// [`CallError::Lost`] each of them may have been appended, as when this future is dropped. The caller
    /// bounds the time.
    pub async fn forward(&self, to: NodeId, items: &[ForwardItem]) -> Result<Vec<ForwardOutcome>, CallError> {
        if items.len() > FORWARD_ITEMS_MAX {
            return Err(CallError::Busy);
        }
        let body = body(|out| wire::put_forward(out, items));
        if body.len() > FRAME_BYTES_MAX {
            return Err(CallError::Declined(format!("a batch of {} bytes fits into no frame", body.len())));
        }
        let answer = self.forward_lane(to)?.call(Kind::Forward, body, Kind::ForwardAnswer).await?;
        outcomes(&answer, items.len())
    }

    /// Hands renewals to the leader's collector; one outcome each, after they were applied there.
    pub async fn renew(&self, to: NodeId, items: &[RenewItem]) -> Result<Vec<RenewOutcome>, CallError> {
        if items.len() > FORWARD_ITEMS_MAX {
            return Err(CallError::Busy);
        }
        let body = body(|out| wire::put(out, &items));
        let answer = self.forward_lane(to)?.call(Kind::Renew, body, Kind::RenewAnswer).await?;
        outcomes(&answer, items.len())
    }

    /// Asks the leader for a read index.
    pub async fn read_index(&self, to: NodeId) -> Result<Result<LogIndex, ReadIndexRefusal>, CallError> {
        let answer =
            self.forward_lane(to)?.call(Kind::ReadIndex, Bytes::new(), Kind::ReadIndexAnswer).await?;
        wire::take(&answer).map_err(|_| CallError::Lost)
    }

    /// One question on the control lane, to an address that need not be a member's; says who answered.
    pub async fn control(
        &self,
        addr: &str,
        target: Target,
        request: ControlRequest,
        patience: Duration,
    ) -> Result<(PeerIdentity, ControlResponse), CallError> {
        let started = Instant::now();
        let dialed = timeout(patience, self.shared.dial(addr, Lane::Control, target)).await;
        let mut conn =
            dialed.map_err(|_| CallError::NotSent(DialError::Timeout))?.map_err(CallError::NotSent)?;
        let exchange = async {
            conn.writer.push(Kind::Control, 1, |out| wire::put(out, &request));
            conn.writer.flush().await?;
            conn.reader.next().await
        };
        let frame = timeout(patience.saturating_sub(started.elapsed()), exchange)
            .await
            .map_err(|_| CallError::Lost)?
            .map_err(|_| CallError::Lost)?;
        let answer = answer_body(frame, Kind::ControlAnswer)?;
        let response = wire::take(&answer).map_err(|_| CallError::Lost)?;
        Ok((conn.peer, response))
    }

    /// Closes every connection, inbound ones too, without waiting for it.
    pub fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    /// Closes every connection, inbound ones too, and waits until the tasks of the outbound ones have ended
    /// ([`serve`](super::serve) waits for the inbound ones).
    pub async fn shutdown(&self) {
        self.close();
        lock(&self.shared.peers).clear();
        let tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        for task in tasks {
            // A task that panicked has ended, too.
            let _ = task.await;
        }
    }

    fn forward_lane(&self, to: NodeId) -> Result<Link, CallError> {
        let peers = lock(&self.shared.peers);
        let entry = peers
            .get(&to)
            .ok_or_else(|| CallError::NotSent(DialError::Io(format!("node {to} is no known peer"))))?;
        Ok(entry.forward.clone())
    }

    /// The entry of a peer, made or moved to its present address.
    fn entry<'a>(
        &self,
        entries: &'a mut BTreeMap<NodeId, PeerEntry>,
        id: NodeId,
        peer: &Peer,
        keep: bool,
    ) -> &'a PeerEntry {
        let entry =
            entries.entry(id).or_insert_with(|| PeerEntry::start(&self.shared, id, peer.clone(), keep));
        let kept = entry.keep.load(Ordering::Relaxed);
        let newly_kept = keep && !kept;
        if newly_kept {
            entry.keep.store(true, Ordering::Relaxed);
        }
        // A client made from an older membership does not move a peer of the present one.
        let moved = (keep || !kept) && *lock(&entry.peer) != *peer;
        if moved {
            *lock(&entry.peer) = peer.clone();
        }
        if newly_kept || moved {
            entry.redial_now();
        }
        entry
    }
}

trait InsertIfAbsent {
    fn insert_if_absent(&mut self, id: NodeId) -> bool;
}

impl InsertIfAbsent for Sights {
    fn insert_if_absent(&mut self, id: NodeId) -> bool {
        let before = self.len();
        self.entry(id).or_default();
        self.len() != before
    }
}

fn body(fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    fill(&mut out);
    out.freeze()
}

fn outcomes<T: serde::de::DeserializeOwned>(answer: &[u8], expected: usize) -> Result<Vec<T>, CallError> {
    // An answer that makes no sense leaves open what was done.
    wire::take::<Vec<T>>(answer).ok().filter(|outcomes| outcomes.len() == expected).ok_or(CallError::Lost)
}

/// What openraft asked the client for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Replication,
    Heartbeat,
}

/// openraft's way to one peer. Votes, pre-votes and hand-overs of every client share the heartbeat connection.
pub struct PeerClient<N: Net, S> {
    network: PeerNetwork<N, S>,
    target: NodeId,
    node: Peer,
    role: Role,
    append: AppendLane<N>,
}

impl<N: Net, S: SnapshotSource> RaftNetworkFactory<TypeConfig> for PeerNetwork<N, S> {
    type Network = PeerClient<N, S>;

    async fn new_client(&mut self, target: u64, node: &Peer) -> PeerClient<N, S> {
        PeerClient::new(self, NodeId(target), node, Role::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> PeerClient<N, S> {
        PeerClient::new(self, NodeId(target), node, Role::Heartbeat)
    }

    // A snapshot has a connection of its own with every client.
}

impl<N: Net, S> PeerClient<N, S> {
    fn new(network: &PeerNetwork<N, S>, target: NodeId, node: &Peer, role: Role) -> Self {
        let append = AppendLane::new(Arc::clone(&network.shared), target);
        Self { network: network.clone(), target, node: node.clone(), role, append }
    }

    /// Where the target is now: the membership may know better than the client was told.
    fn peer(&self) -> Peer {
        let mut entries = lock(&self.network.shared.peers);
        lock(&self.network.entry(&mut entries, self.target, &self.node, false).peer).clone()
    }

    fn heartbeat_lane(&self) -> Link {
        let mut entries = lock(&self.network.shared.peers);
        self.network.entry(&mut entries, self.target, &self.node, false).heartbeat.clone()
    }

    async fn call<T>(
        &self,
        (kind, expected): (Kind, Kind),
        (action, option): (RPCTypes, &RPCOption),
        put: impl FnOnce(&mut BytesMut),
        take: impl FnOnce(&[u8]) -> Result<T, WireError>,
    ) -> Result<T, RpcError> {
        let patience = option.soft_ttl();
        let link = self.heartbeat_lane();
        match timeout(patience, link.call(kind, body(put), expected)).await {
            Ok(Ok(answer)) => take(&answer).map_err(|error| unreachable(&error)),
            Ok(Err(error)) => Err(unreachable(&error)),
            Err(_) => {
                let id = self.network.identity().id().unwrap_or_default().0;
                Err(RpcError::Timeout(Timeout { action, id, target: self.target.0, timeout: patience }))
            }
        }
    }

    async fn heartbeat(&self, request: &AppendRequest, option: &RPCOption) -> Result<AppendResult, RpcError> {
        self.call(
            (Kind::Heartbeat, Kind::HeartbeatAnswer),
            (RPCTypes::AppendEntries, option),
            |out| wire::put_append(out, 0, request, request.prev_log_id, &request.entries),
            |answer| wire::take_append_result(answer).map(|(_, result)| result),
        )
        .await
    }
}

impl<N: Net, S: SnapshotSource> RaftNetworkV2<TypeConfig> for PeerClient<N, S> {
    type SnapshotData = S;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let input = stream::iter([request]);
        let mut answers = self.stream_append(input, option).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(unreachable(&CallError::Lost)),
        }
    }

    fn stream_append<'s, I>(
        &'s mut self,
        input: I,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        I: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        if self.role == Role::Replication {
            let peer = self.peer();
            let answers = self.append.stream(input, peer);
            return Box::pin(async move { Ok(answers as BoxStream<'s, _>) });
        }
        // Heartbeats come one at a time. Any error ends the stream.
        let start = Some((&*self, input, option));
        let answers = stream::unfold(start, |state| async move {
            let (client, mut input, option) = state?;
            let request = input.next().await?;
            let answer = client.heartbeat(&request, &option).await;
            let go_on = matches!(answer, Ok(Ok(_)));
            Some((answer, go_on.then_some((client, input, option))))
        });
        Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, _>) })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.call(
            (Kind::Vote, Kind::VoteAnswer),
            (RPCTypes::Vote, &option),
            |out| wire::put_vote(out, &request),
            wire::take_vote_response,
        )
        .await
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.call(
            (Kind::PreVote, Kind::PreVoteAnswer),
            (RPCTypes::Vote, &option),
            |out| wire::put_vote(out, &request),
            wire::take_vote_response,
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, S>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let peer = self.peer();
        let send =
            snapshot::send(self.network.shared(), self.target, &peer, vote, snapshot, option.soft_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferResponse, RpcError> {
        self.call(
            (Kind::Transfer, Kind::TransferAnswer),
            (RPCTypes::TransferLeader, &option),
            |out| wire::put_transfer(out, &request),
            wire::take_transfer_response,
        )
        .await
    }

    fn backoff(&self) -> Option<Backoff> {
        // The first retry is immediate: a connection that broke is often a peer that restarted.
        let shared = Arc::clone(self.network.shared());
        let pauses = (1..=u32::MAX).map(move |failures| shared.redial_pause(failures));
        Some(Backoff::new(std::iter::once(Duration::ZERO).chain(pauses)))
    }
}
