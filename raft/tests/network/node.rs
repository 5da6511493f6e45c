//! A node that is nothing but its transport, with a handler that records what it is asked.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use openraft::raft::StreamAppendError;
use ovncp_raft::network::message::{
    ControlRequest, ControlResponse, ForwardItem, ForwardOutcome, ReadIndexRefusal, RenewItem, RenewOutcome,
};
use ovncp_raft::network::types::{
    AppendRequest, AppendResult, Entry, LogId, SnapshotResponse, TransferRequest, TransferResponse, Vote,
    VoteRequest, VoteResponse,
};
use ovncp_raft::network::{
    Directory, Identity, KnownMember, Net, NetworkOptions, NotServing, PeerHandler, PeerIdentity,
    PeerNetwork, Sights, SnapshotChunks, SnapshotOffer, SnapshotSource, Target, TcpNet, serve,
};
use ovncp_state::{ClusterId, Incarnation, LogIndex, Millis, NodeId};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{WireLogId, WireVote};
use ovncp_storage::types::Peer;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

pub const CLUSTER: ClusterId = ClusterId([7; 16]);

pub fn vote(term: u64) -> Vote {
    WireVote { term, node: 1, committed: true }.into()
}

pub fn log_id(index: u64) -> LogId {
    WireLogId { term: 1, index }.into()
}

pub fn entry(index: u64, bytes: usize) -> Entry {
    normal_entry(1, index, Millis(index), NodeId(1), index, Bytes::from(vec![index as u8; bytes]))
}

/// An append of `count` entries after `prev`.
pub fn append(prev: u64, count: u64, bytes: usize) -> AppendRequest {
    AppendRequest {
        vote: vote(1),
        prev_log_id: Some(log_id(prev)),
        entries: (prev + 1..=prev + count).map(|index| entry(index, bytes)).collect(),
        leader_commit: Some(log_id(prev)),
    }
}

/// What a node does with the requests of its peers.
pub struct Handler {
    /// Index of the last entry of each append, in the order of arrival.
    pub appended: Mutex<Vec<u64>>,
    /// One permit per append that may be answered.
    pub append_permits: Semaphore,
    /// An append that ends here is answered by a conflict.
    pub conflict_at: Mutex<Option<u64>>,
    pub forwarded: Mutex<Vec<(String, ForwardItem)>>,
    /// One permit per forwarded batch that may be answered.
    pub forward_permits: Semaphore,
    /// How a snapshot ended: its bytes, or the error.
    pub snapshots: watch::Sender<Vec<Result<Vec<u8>, String>>>,
    /// One permit per piece of a snapshot that may be taken.
    pub chunk_permits: Semaphore,
    pub serving: bool,
}

impl Default for Handler {
    fn default() -> Self {
        Self {
            appended: Mutex::default(),
            append_permits: Semaphore::new(Semaphore::MAX_PERMITS),
            conflict_at: Mutex::default(),
            forwarded: Mutex::default(),
            forward_permits: Semaphore::new(Semaphore::MAX_PERMITS),
            snapshots: watch::Sender::default(),
            chunk_permits: Semaphore::new(Semaphore::MAX_PERMITS),
            serving: true,
        }
    }
}

impl Handler {
    fn served<T>(&self, value: T) -> Result<T, NotServing> {
        if self.serving { Ok(value) } else { Err(NotServing { reason: "no raft".to_owned() }) }
    }

    async fn answer_append(&self, request: AppendRequest) -> Result<AppendResult, NotServing> {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let index = last.map_or(0, |id| id.index);
        self.appended.lock().unwrap().push(index);
        self.append_permits.acquire().await.unwrap().forget();
        let conflict = *self.conflict_at.lock().unwrap() == Some(index);
        self.served(if conflict {
            Err(StreamAppendError::Conflict(request.prev_log_id.unwrap()))
        } else {
            Ok(last)
        })
    }

    async fn receive(&self, offer: &SnapshotOffer, mut chunks: SnapshotChunks) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            self.chunk_permits.acquire().await.unwrap().forget();
            match chunks.next().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        assert_eq!(bytes.len() as u64, offer.bytes);
        Ok(bytes)
    }
}

/// The handler of a running node.
struct Shared(Arc<Handler>);

impl PeerHandler for Shared {
    fn append(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, NotServing>> {
        let handler = Arc::clone(&self.0);
        requests
            .then(move |request| {
                let handler = Arc::clone(&handler);
                async move { handler.answer_append(request).await }
            })
            .boxed()
    }

    async fn heartbeat(&self, request: AppendRequest) -> Result<AppendResult, NotServing> {
        self.0.served(Ok(request.prev_log_id))
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, NotServing> {
        self.0.served(VoteResponse::new(request.vote, request.last_log_id, true))
    }

    async fn pre_vote(&self, request: VoteRequest) -> Result<VoteResponse, NotServing> {
        self.0.served(VoteResponse::new(request.vote, request.last_log_id, false))
    }

    async fn transfer_leader(&self, request: TransferRequest) -> Result<TransferResponse, NotServing> {
        let expected = request.last_log_id().copied();
        self.0.served(Err(openraft::raft::TransferLeaderError::LogNotFlushed { expected, actual: None }))
    }

    async fn snapshot(
        &self,
        offer: SnapshotOffer,
        chunks: SnapshotChunks,
    ) -> Result<SnapshotResponse, NotServing> {
        self.0.served(())?;
        let received = self.0.receive(&offer, chunks).await;
        let answer = match &received {
            Ok(_) => Ok(SnapshotResponse::new(offer.vote)),
            Err(reason) => Err(NotServing { reason: reason.clone() }),
        };
        self.0.snapshots.send_modify(|all| all.push(received));
        answer
    }

    async fn forward(&self, from: &PeerIdentity, items: Vec<ForwardItem>) -> Vec<ForwardOutcome> {
        let outcomes = items.iter().map(|item| match item.origin.ticket % 3 {
            0 => ForwardOutcome::Accepted,
            1 => ForwardOutcome::NotLeader { hint: Some(NodeId(9)) },
            _ => ForwardOutcome::Busy,
        });
        let outcomes = outcomes.collect();
        let named = items.into_iter().map(|item| (from.name.clone(), item));
        self.0.forwarded.lock().unwrap().extend(named);
        self.0.forward_permits.acquire().await.unwrap().forget();
        outcomes
    }

    async fn renew(&self, _from: &PeerIdentity, items: Vec<RenewItem>) -> Vec<RenewOutcome> {
        items.iter().map(|_| RenewOutcome::NotLeader { hint: None }).collect()
    }

    async fn read_index(&self, _from: &PeerIdentity) -> Result<LogIndex, ReadIndexRefusal> {
        Ok(LogIndex(42))
    }

    async fn control(&self, from: &PeerIdentity, request: ControlRequest) -> ControlResponse {
        ControlResponse::Refused { reason: format!("{}: {request:?}", from.name), retry: false }
    }
}

/// Members by id, as a state would know them.
#[derive(Clone, Default)]
pub struct Members(pub Arc<Mutex<BTreeMap<NodeId, KnownMember>>>);

impl Directory for Members {
    fn member(&self, id: NodeId) -> Option<KnownMember> {
        self.0.lock().unwrap().get(&id).cloned()
    }
}

/// A snapshot in memory.
pub struct Memory {
    bytes: Bytes,
    /// How much of it was read.
    pub read: Arc<AtomicU64>,
}

impl Memory {
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, read: Arc::default() }
    }
}

impl SnapshotSource for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, max: usize) -> io::Result<Bytes> {
        let start = (offset as usize).min(self.bytes.len());
        let end = (start + max).min(self.bytes.len());
        self.read.fetch_add((end - start) as u64, Ordering::Relaxed);
        Ok(self.bytes.slice(start..end))
    }
}

/// How a node starts.
#[derive(Clone)]
pub struct Setup {
    pub id: u64,
    pub name: String,
    pub incarnation: u8,
    pub boot: u64,
    pub process: u64,
    pub cluster: Option<ClusterId>,
    pub has_id: bool,
    pub members: Members,
    pub options: NetworkOptions,
    pub bind: String,
}

impl Setup {
    /// Node `id` of the cluster, first start.
    pub fn new(id: u64) -> Self {
        let name = format!("node-{id}");
        Self {
            id,
            bind: "127.0.0.1:0".to_owned(),
            name,
            incarnation: id as u8,
            boot: 1,
            process: id * 1_000 + 1,
            cluster: Some(CLUSTER),
            has_id: true,
            members: Members::default(),
            options: NetworkOptions::default(),
        }
    }

    /// The same node, started once more.
    pub fn restarted(mut self) -> Self {
        self.boot += 1;
        self.process += 1;
        self
    }

    pub fn identity(&self) -> Identity {
        let incarnation = Incarnation([self.incarnation; 16]);
        let identity = Identity::new(self.name.clone(), incarnation, self.boot, self.process);
        identity.set_membership(self.cluster, self.has_id.then_some(NodeId(self.id)));
        identity
    }

    pub async fn start<N: Net>(&self, net: N) -> Node<N> {
        self.start_with(net, Handler::default()).await
    }

    pub async fn start_with<N: Net>(&self, net: N, handler: Handler) -> Node<N> {
        let listener = net.bind(&self.bind).await.unwrap();
        let addr = net.local_addr(&listener).unwrap();
        let directory = Arc::new(self.members.clone());
        let network = PeerNetwork::new(net, Arc::new(self.identity()), directory, self.options.clone());
        let handler = Arc::new(handler);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let served = Arc::new(Shared(Arc::clone(&handler)));
        let server = tokio::spawn(serve(network.clone(), listener, served, shutdown));
        let peer = Peer { name: self.name.clone(), addr };
        Node { id: NodeId(self.id), peer, network, handler, stop, server }
    }
}

pub struct Node<N: Net> {
    pub id: NodeId,
    pub peer: Peer,
    pub network: PeerNetwork<N, Memory>,
    pub handler: Arc<Handler>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl<N: Net> Node<N> {
    /// Knows these peers from now on.
    pub fn meet(&self, peers: &[(NodeId, Peer)]) {
        self.network.set_peers(peers.iter().cloned().collect());
    }

    pub fn place(&self) -> (NodeId, Peer) {
        (self.id, self.peer.clone())
    }

    pub fn target(&self) -> Target {
        Target { id: Some(self.id), name: Some(self.peer.name.clone()), incarnation: None }
    }

    /// Waits until what is seen of a peer satisfies the condition.
    pub async fn sees(
        &self,
        peer: u64,
        what: &str,
        condition: impl Fn(&ovncp_raft::network::PeerSight) -> bool,
    ) -> ovncp_raft::network::PeerSight {
        let mut sights = self.network.sights();
        let id = NodeId(peer);
        let seen = sights.wait_for(|sights: &Sights| sights.get(&id).is_some_and(&condition));
        let seen = tokio::time::timeout(std::time::Duration::from_secs(20), seen).await;
        let sights = seen.unwrap_or_else(|_| panic!("node {peer} is never seen {what}")).unwrap();
        sights[&id].clone()
    }

    /// Ends the node in good order, and shows that all its tasks end.
    pub async fn stop(self) {
        // The server may have ended by itself.
        let _ = self.stop.send(());
        self.server.await.unwrap();
        self.network.shutdown().await;
    }
}

/// TCP with names that can be pointed elsewhere, as DNS does.
#[derive(Clone, Default)]
pub struct NamedTcp(pub Arc<Mutex<BTreeMap<String, String>>>);

impl NamedTcp {
    pub fn point(&self, name: &str, addr: &str) {
        self.0.lock().unwrap().insert(name.to_owned(), addr.to_owned());
    }
}

impl Net for NamedTcp {
    type Stream = <TcpNet as Net>::Stream;
    type Listener = <TcpNet as Net>::Listener;

    async fn connect(&self, addr: &str) -> io::Result<Self::Stream> {
        let real = self.0.lock().unwrap().get(addr).cloned();
        TcpNet.connect(real.as_deref().unwrap_or(addr)).await
    }

    async fn bind(&self, addr: &str) -> io::Result<Self::Listener> {
        TcpNet.bind(addr).await
    }

    async fn accept(&self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, String)> {
        TcpNet.accept(listener).await
    }

    fn local_addr(&self, listener: &Self::Listener) -> io::Result<String> {
        TcpNet.local_addr(listener)
    }
}
