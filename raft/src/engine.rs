//! openraft with its storage and network: the generic heart of a node, and what it answers to its peers.
//!
//! Everything above talks to it through [`Seat`] and [`Consensus`], so the group itself is not generic over disk
//! and network.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use openraft::{Config, Raft, Snapshot};
use ovncp_state::command::NodeStatus;
use ovncp_state::{Command, Incarnation, LogIndex, NodeId, Refusal, Reply, Request};
use ovncp_storage::disk::Disk;
use ovncp_storage::snapshot::SnapshotFile;
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, Machine, SnapshotStore, Store};
use tokio::sync::{Mutex, OnceCell};

use crate::agreement::Agreement;
use crate::formation::{check_offer, list_hash};
use crate::network::message::{
    ControlRequest, ControlResponse, FormationOffer, ForwardItem, ForwardOutcome, LeaderHint,
    ReadIndexRefusal, RenewItem, RenewOutcome,
};
use crate::network::server::SnapshotChunks;
use crate::network::types::{
    AppendRequest, AppendResult, SnapshotResponse, TransferRequest, TransferResponse, VoteRequest,
    VoteResponse,
};
use crate::network::{
    Directory, KnownMember, Net, NotServing, PeerHandler, PeerIdentity, PeerNetwork, SnapshotOffer,
    SnapshotSource,
};
use crate::seat::{Seat, SeatError};
use crate::shared::{Membership, Route, Shared};
use crate::{integrity, proposals, reads, removal, renewals, transfer};

type Core<D> = Raft<TypeConfig, Machine<D>>;

impl<D: Disk> SnapshotSource for SnapshotFile<D> {
    fn size(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, offset: u64, max: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; max];
        let count = SnapshotFile::read_at(self, &mut bytes, offset)?;
        bytes.truncate(count);
        Ok(bytes.into())
    }
}

/// The members of the replicated state, for the hand-shake.
pub(crate) struct Members(pub(crate) ovncp_storage::Replica);

impl Directory for Members {
    fn member(&self, id: NodeId) -> Option<KnownMember> {
        let node = self.0.read(|state| state.node(id))?;
        Some(KnownMember { name: node.name, incarnation: node.incarnation, boot: node.boot })
    }
}

/// The generic heart of a node.
pub(crate) struct Engine<D: Disk, N: Net> {
    shared: Arc<Shared>,
    dir: DataDir<D>,
    config: Arc<Config>,
    network: PeerNetwork<N, SnapshotFile<D>>,
    snapshots: SnapshotStore<D>,
    /// Given to openraft when the seat is taken.
    parts: Mutex<Parts<D>>,
    core: OnceCell<Core<D>>,
}

struct Parts<D: Disk> {
    stores: Option<(LogStore<D>, Machine<D>)>,
    agreement: Option<Agreement>,
}

impl<D: Disk, N: Net> Engine<D, N> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dir: DataDir<D>,
        config: Arc<Config>,
        network: PeerNetwork<N, SnapshotFile<D>>,
        store: Store<D>,
        agreement: Option<Agreement>,
    ) -> Arc<Self> {
        let parts = Parts { stores: Some((store.log, store.machine)), agreement };
        let snapshots = store.snapshots;
        let core = OnceCell::new();
        Arc::new(Self { shared, dir, config, network, snapshots, parts: Mutex::new(parts), core })
    }

    /// Takes the seat with the parts locked, so that no agreement changes meanwhile.
    async fn take_with(&self, parts: &mut Parts<D>, place: Membership) -> Result<(), SeatError> {
        if self.core.initialized() {
            let same = self.shared.membership() == Some(place);
            return if same { Ok(()) } else { Err(SeatError::Taken) };
        }
        let failed = |error: &dyn std::fmt::Display| SeatError::Failed(format!("take a seat: {error}"));
        self.dir
            .set_membership(place.cluster_id, place.node_id, place.key)
            .map_err(|error| failed(&error))?;
        self.network.identity().set_membership(Some(place.cluster_id), Some(place.node_id));
        let (log, machine) = parts.stores.take().ok_or(SeatError::Taken)?;
        let id = place.node_id.0;
        let core = Raft::new(id, Arc::clone(&self.config), self.network.clone(), log, machine);
        let core = core.await.map_err(|error| failed(&error))?;
        self.shared.seat(place, Arc::new(core.clone()));
        // Cannot be set already: the parts were there.
        let _ = self.core.set(core);
        Ok(())
    }

    /// openraft, if this node has a seat or agreed to one: the message of a peer asks to take it.
    async fn core(&self) -> Result<&Core<D>, NotServing> {
        if let Some(reason) = self.shared.stopped() {
            return Err(NotServing { reason });
        }
        if let Some(core) = self.core.get() {
            return Ok(core);
        }
        match self.take_agreed().await {
            Ok(()) | Err(SeatError::Taken) => {}
            Err(SeatError::NotAgreed) => {
                return Err(NotServing { reason: SeatError::NotAgreed.to_string() });
            }
            Err(SeatError::Failed(reason)) => {
                self.shared.stop(reason.clone());
                return Err(NotServing { reason });
            }
        }
        self.core.get().ok_or_else(|| NotServing { reason: "no seat".to_owned() })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> NotServing {
        NotServing { reason: format!("consensus stopped: {error}") }
    }
}

impl<D: Disk, N: Net> Seat for Engine<D, N> {
    fn incarnation(&self) -> Incarnation {
        self.dir.incarnation()
    }

    fn agreement(&self) -> BoxFuture<'_, Option<Agreement>> {
        Box::pin(async move { self.parts.lock().await.agreement.clone() })
    }

    fn agree(&self, agreement: Agreement) -> BoxFuture<'_, Result<(), SeatError>> {
        Box::pin(async move {
            let mut parts = self.parts.lock().await;
            if self.core.initialized() {
                return Err(SeatError::Taken);
            }
            let place = agreement.place(self.incarnation()).ok_or(SeatError::NotAgreed)?;
            if parts.agreement.as_ref() != Some(&agreement) {
                agreement
                    .save(self.dir.disk(), self.dir.path())
                    .map_err(|error| SeatError::Failed(format!("write the agreement: {error}")))?;
                parts.agreement = Some(agreement);
            }
            // From now on the Raft lanes are open to members of that cluster.
            self.network.identity().set_membership(Some(place.cluster_id), Some(place.node_id));
            Ok(())
        })
    }

    fn take(&self, place: Membership) -> BoxFuture<'_, Result<(), SeatError>> {
        Box::pin(async move {
            let mut parts = self.parts.lock().await;
            self.take_with(&mut parts, place).await
        })
    }

    fn quarantine(&self, reason: String) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { integrity::save(self.dir.disk(), self.dir.path(), &reason) })
    }

    fn take_agreed(&self) -> BoxFuture<'_, Result<(), SeatError>> {
        Box::pin(async move {
            let mut parts = self.parts.lock().await;
            let agreement = parts.agreement.as_ref().ok_or(SeatError::NotAgreed)?;
            let place = agreement.place(self.incarnation()).ok_or(SeatError::NotAgreed)?;
            self.take_with(&mut parts, place).await
        })
    }
}

/// What peers ask of this node.
pub(crate) struct Handler<D: Disk, N: Net>(pub(crate) Arc<Engine<D, N>>);

impl<D: Disk, N: Net> PeerHandler for Handler<D, N> {
    fn append(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendResult, NotServing>> {
        let engine = Arc::clone(&self.0);
        let answers = async move {
            match engine.core().await.cloned() {
                Err(refusal) => stream::once(async move { Err(refusal) }).boxed(),
                Ok(core) => core
                    .stream_append(requests)
                    .map(move |answer| match answer {
                        Ok(result) => {
                            engine.shared.heard(&result);
                            Ok(result)
                        }
                        Err(fatal) => Err(engine.failed(&fatal)),
                    })
                    .boxed(),
            }
        };
        stream::once(answers).flatten().boxed()
    }

    async fn heartbeat(&self, request: AppendRequest) -> Result<AppendResult, NotServing> {
        let prev = request.prev_log_id;
        let answer = self.0.core().await?.append_entries(request).await;
        let answer = answer.map_err(|error| self.0.failed(&error))?;
        if answer.is_conflict() && prev.is_none() {
            return Err(self.0.failed(&"conflict with the beginning of the log"));
        }
        let result = answer.into_stream_result(prev, prev);
        self.0.shared.heard(&result);
        Ok(result)
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, NotServing> {
        self.0.core().await?.vote(request).await.map_err(|error| self.0.failed(&error))
    }

    async fn pre_vote(&self, request: VoteRequest) -> Result<VoteResponse, NotServing> {
        self.0.core().await?.pre_vote(request).await.map_err(|error| self.0.failed(&error))
    }

    async fn transfer_leader(&self, request: TransferRequest) -> Result<TransferResponse, NotServing> {
        self.0.core().await?.handle_transfer_leader(request).await.map_err(|error| self.0.failed(&error))
    }

    async fn snapshot(
        &self,
        offer: SnapshotOffer,
        mut chunks: SnapshotChunks,
    ) -> Result<SnapshotResponse, NotServing> {
        let core = self.0.core().await?;
        let broken = |error: io::Error| NotServing { reason: format!("receive a snapshot: {error}") };
        let mut sink = self.0.snapshots.receive().map_err(broken)?;
        while let Some(bytes) = chunks.next().await.map_err(broken)? {
            sink.append(&bytes).map_err(broken)?;
        }
        if sink.len() != offer.bytes {
            let reason = format!("received {} bytes of a snapshot of {}", sink.len(), offer.bytes);
            return Err(NotServing { reason });
        }
        let snapshot = Snapshot { meta: offer.meta, snapshot: sink.finish().map_err(broken)? };
        core.install_full_snapshot(offer.vote, snapshot).await.map_err(|error| self.0.failed(&error))
    }

    async fn forward(&self, from: &PeerIdentity, items: Vec<ForwardItem>) -> Vec<ForwardOutcome> {
        proposals::accept_forwarded(&self.0.shared, from, items).await
    }

    async fn renew(&self, _from: &PeerIdentity, items: Vec<RenewItem>) -> Vec<RenewOutcome> {
        renewals::answer_peer(&self.0.shared, items).await
    }

    async fn read_index(&self, _from: &PeerIdentity) -> Result<LogIndex, ReadIndexRefusal> {
        reads::answer_peer(&self.0.shared).await
    }

    async fn control(&self, from: &PeerIdentity, request: ControlRequest) -> ControlResponse {
        if let Some(reason) = self.0.shared.stopped() {
            return ControlResponse::Refused { reason, retry: true };
        }
        match request {
            ControlRequest::Probe { .. } => self.probed(from),
            ControlRequest::Agree(offer) => self.offered(from, offer).await,
            ControlRequest::Join(node) => self.asked_to_admit(node).await,
            ControlRequest::Removable { id } => removal::answer_peer(&self.0.shared, id).await,
            ControlRequest::Checkpoints => integrity::answer_peer(&self.0.shared, from),
            ControlRequest::Transfer { target } => transfer::answer_peer(&self.0.shared, target).await,
        }
    }
}

impl<D: Disk, N: Net> Handler<D, N> {
    fn probed(&self, from: &PeerIdentity) -> ControlResponse {
        let shared = &self.0.shared;
        match shared.membership() {
            None => ControlResponse::Blank {
                list: list_hash(&shared.config.members(), shared.config.voters_target),
                node: shared.own_entry(),
            },
            Some(place) => {
                let known = from.id.and_then(|id| shared.replica.read(|state| state.node(id)));
                let same_cluster = from.cluster_id == Some(place.cluster_id);
                // One that left the state still votes until the membership without it is committed.
                let removed = same_cluster
                    && known.is_some_and(|node| {
                        node.status == NodeStatus::Left
                            && node.incarnation == from.incarnation
                            && !shared.is_raft_member(node.id)
                    });
                ControlResponse::Member {
                    cluster_id: place.cluster_id,
                    id: place.node_id,
                    leader: leader_hint(shared),
                    removed,
                }
            }
        }
    }

    async fn offered(&self, from: &PeerIdentity, offer: FormationOffer) -> ControlResponse {
        let shared = &self.0.shared;
        if let Err(reason) = check_offer(&shared.own_entry(), &shared.config.members(), from, &offer.roster) {
            return ControlResponse::Refused { reason, retry: true };
        }
        match self.0.agree(offer.into()).await {
            Ok(()) => ControlResponse::Agreed,
            Err(error) => {
                if let SeatError::Failed(reason) = &error {
                    shared.stop(reason.clone());
                }
                ControlResponse::Refused { reason: error.to_string(), retry: true }
            }
        }
    }

    async fn asked_to_admit(&self, node: ovncp_state::command::JoinNode) -> ControlResponse {
        let shared = &self.0.shared;
        let Some(place) = shared.membership() else {
            return ControlResponse::NotLeader { leader: None };
        };
        let request = Request::from(Command::JoinNode(node));
        match proposals::propose(shared, &request, shared.config.timing.no_leader_wait).await {
            Err(error) => ControlResponse::Refused { reason: error.to_string(), retry: true },
            Ok(committed) => match committed.reply {
                Reply::Joined { cluster_id, id } => {
                    ControlResponse::Joined { cluster_id, id, key: place.key }
                }
                Reply::Refused(refusal) => {
                    // Its data directory was removed from this cluster or copied, or its binary is too old:
                    // asking again cannot help.
                    let hopeless = matches!(
                        refusal,
                        Refusal::StaleIncarnation
                            | Refusal::InvalidArgument { .. }
                            | Refusal::Outdated { .. }
                    );
                    let retry = !hopeless;
                    ControlResponse::Refused { reason: refusal.to_string(), retry }
                }
                other => ControlResponse::Refused { reason: format!("answered {other:?}"), retry: true },
            },
        }
    }
}

/// Who leads, as far as this node knows, and where it is found.
pub(crate) fn leader_hint(shared: &Shared) -> Option<LeaderHint> {
    let id = match shared.route() {
        Route::Nobody { .. } => return None,
        Route::Remote { leader, .. } => leader,
        Route::Here { .. } => shared.node_id()?,
    };
    let node = shared.replica.read(|state| state.node(id))?;
    let addr = shared.addr_of(&node.name, &node.info.peer_addr);
    Some(LeaderHint { id, name: node.name, addr })
}
