//! The Raft group as the rest of the product sees it.

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::command::{NodeRole, NodeStatus, RemoveNode, RenewLock};
use ovncp_state::reply::Renewed;
use ovncp_state::view::NodeView;
use ovncp_state::{
    ClusterId, Command, EventOffset, Incarnation, InvalidationOffset, LogIndex, MessageOffset, NodeId,
    Refusal, Reply, Request, State, WaiterId,
};
use ovncp_storage::StoreOptions;
use ovncp_storage::disk::{Disk, RealDisk};
use ovncp_storage::stats::StorageFigures;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::counters::GroupCounters;
use crate::error::{MembershipError, ProposeError, ReadError, StartError};
use crate::network::{Net, TcpNet};
use crate::observer::Observer;
use crate::settings::GroupConfig;
use crate::shared::{LEADER_PENDING_MAX, Route, Shared};
use crate::status::GroupStatus;
use crate::waiters::WaiterHandle;
use crate::{callers, proposals, reads, removal, renewals, report, start, transfer};

/// A leader that stops gives its successor this long to take over.
const HANDOVER_TIME_MAX: Duration = Duration::from_secs(2);
/// How often a removal is looked after.
const REMOVAL_LOOK_PERIOD: Duration = Duration::from_millis(20);

/// A proposal that was committed and applied on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands in the log; a read on this node at or after it sees its effect.
    pub index: LogIndex,
    /// What the state answered.
    pub reply: Reply,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Stable name.
    pub name: String,
    /// Raft id, once it is a member.
    pub node_id: Option<NodeId>,
    /// Cluster, once it belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// Starts of that data directory.
    pub boot: u64,
}

/// A handle to this node's part in the group. Clones share it.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
    running: Arc<start::Running>,
}

impl Group {
    /// Opens the data directory, binds the peer listener and goes on in the background: forms, joins or
    /// recovers, as [`GroupStatus::phase`] tells.
    pub async fn start(config: GroupConfig) -> Result<Self, StartError> {
        Self::start_with(config, RealDisk, TcpNet, StoreOptions::default(), None).await
    }

    /// The same, with somebody who sees what is applied here.
    pub async fn start_observed(
        config: GroupConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, RealDisk, TcpNet, StoreOptions::default(), Some(observer)).await
    }

    /// The same over any disk and network, with somebody who sees what is applied. For simulations.
    #[doc(hidden)]
    pub async fn start_with<D: Disk, N: Net>(
        config: GroupConfig,
        disk: D,
        net: N,
        options: StoreOptions,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, StartError> {
        let (shared, running) = start::start(config, disk, net, options, observer).await?;
        Ok(Self { shared, running })
    }

    /// Proposes `request` and waits until *this* node applied it.
    ///
    /// Any node takes any request and forwards it to the leader. `NoLeader`, `Busy`, `TooLarge` and `Stopped`
    /// mean that nothing happened and nothing will; `Unknown` means that it may have happened or may still: at
    /// the timeout, or earlier when no majority has worked for `no_leader_wait`.
    /// Dropping the future withdraws the proposal if it was handed to no log yet.
    pub async fn propose(&self, request: Request, timeout: Duration) -> Result<Committed, ProposeError> {
        let proposed = self.propose_formed(&request, timeout).await;
        self.shared.counters.proposed(&proposed);
        proposed
    }

    async fn propose_formed(&self, request: &Request, timeout: Duration) -> Result<Committed, ProposeError> {
        let deadline = Instant::now() + timeout;
        self.until_formed(timeout).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        proposals::propose(&self.shared, request, left).await
    }

    /// Before the first entry of the cluster is applied here nothing else could be answered sensibly.
    async fn until_formed(&self, timeout: Duration) -> Result<(), ProposeError> {
        let shared = &self.shared;
        if shared.replica.read(State::is_formed) {
            return Ok(());
        }
        let mut applied = shared.replica.applied_watch();
        let formed = applied.wait_for(|_| shared.replica.read(State::is_formed));
        let wait = timeout.min(shared.config.timing.no_leader_wait);
        tokio::select! {
            formed = tokio::time::timeout(wait, formed) => match formed {
                Ok(Ok(_)) => Ok(()),
                _ => Err(ProposeError::NoLeader { last_known: shared.last_known_leader() }),
            },
            () = shared.until_stopped() => {
                Err(ProposeError::Stopped { reason: shared.stopped().unwrap_or_default() })
            }
        }
    }

    /// Extends one lease. The leader collects renewals for at most 50 ms into one entry.
    pub async fn renew(
        &self,
        renewal: RenewLock,
        timeout: Duration,
    ) -> Result<Result<Renewed, Refusal>, ProposeError> {
        let renewed = self.renew_formed(renewal, timeout).await;
        self.shared.counters.renewed(&renewed);
        renewed
    }

    async fn renew_formed(
        &self,
        renewal: RenewLock,
        timeout: Duration,
    ) -> Result<Result<Renewed, Refusal>, ProposeError> {
        let deadline = Instant::now() + timeout;
        self.until_formed(timeout).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        renewals::renew(&self.shared, renewal, left).await
    }

    /// Listens for the outcome of a waiting acquire. Register *before* proposing it.
    pub fn await_waiter(&self, waiter: WaiterId) -> WaiterHandle {
        self.shared.waiters.register(waiter)
    }

    /// After it returns, a local [`read`](Self::read) is linearizable: it sees every write that was answered
    /// anywhere before this call. Works on any member, learners too.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<LogIndex, ReadError> {
        let confirmed = reads::barrier(&self.shared, timeout).await;
        self.shared.counters.read(&confirmed);
        confirmed
    }

    /// Waits until this node applied `index`.
    pub async fn wait_applied(&self, index: LogIndex, timeout: Duration) -> Result<(), ReadError> {
        reads::wait_applied(&self.shared, index, Instant::now() + timeout).await
    }

    /// Last entry that this node applied: [`read`](Self::read) sees it.
    pub fn applied(&self) -> LogIndex {
        self.shared.replica.applied()
    }

    /// Looks at the local state, as of the returned index. Keep it short: apply waits meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> (LogIndex, T) {
        // Before the look: the state may be newer than the index says, never older.
        let applied = self.shared.replica.applied();
        (applied, self.shared.replica.read(look))
    }

    /// Tells the next event offset whenever it grows; pull the events themselves from the state.
    pub fn events_watch(&self) -> watch::Receiver<EventOffset> {
        self.shared.events.subscribe()
    }

    /// Tells the next offset of the messages whenever it grows, also by a snapshot.
    pub fn messages_watch(&self) -> watch::Receiver<MessageOffset> {
        self.shared.logs.messages.subscribe()
    }

    /// Tells the next offset of the invalidation log whenever it grows, also by a snapshot.
    pub fn invalidations_watch(&self) -> watch::Receiver<InvalidationOffset> {
        self.shared.logs.invalidations.subscribe()
    }

    /// Changes with each entry after which [`State::cleared`](ovncp_state::State::cleared) may say something else: a
    /// node reported, or the members changed, or a snapshot came.
    pub fn cleared_watch(&self) -> watch::Receiver<LogIndex> {
        self.shared.logs.cleared.subscribe()
    }

    /// What this node knows of its group.
    pub fn status(&self) -> GroupStatus {
        report::status(&self.shared)
    }

    /// Follows [`status`](Self::status): leader and phase at once, the rest a few times per second.
    pub fn status_watch(&self) -> watch::Receiver<GroupStatus> {
        self.running.status.subscribe()
    }

    /// What this node counted since its process started, and what it has in hand.
    pub fn counters(&self) -> GroupCounters {
        let shared = &self.shared;
        let admitted = LEADER_PENDING_MAX.saturating_sub(shared.admission.available_permits());
        GroupCounters {
            pending: shared.callers.count() as u64,
            admitted: admitted as u64,
            waiters: shared.waiters.count() as u64,
            ..shared.counters.snapshot()
        }
    }

    /// What the log and the snapshots of this node did since they were opened.
    pub fn storage(&self) -> StorageFigures {
        self.shared.storage.read()
    }

    /// Whether a write or sync of this node has failed: then it acknowledges nothing until it is started again.
    pub fn storage_failed(&self) -> bool {
        self.shared.replica.health().borrow().is_some()
    }

    /// Resolves when the consensus core has taken up what was sent to it before: it makes progress. At once
    /// while there is no core yet, or none any more; [`GroupStatus::phase`] tells these.
    pub async fn probe(&self) {
        // One that has stopped is not knocked at: openraft would log each knock as an error.
        if let Some(consensus) = self.shared.consensus.get().filter(|_| self.shared.stopped().is_none()) {
            consensus.probe().await;
        }
    }

    /// Where peers reach this node: the bound address of its listener.
    pub fn peer_address(&self) -> &str {
        &self.running.peer_address
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        let membership = self.shared.membership();
        Identity {
            name: self.shared.config.name.clone(),
            node_id: membership.map(|place| place.node_id),
            cluster_id: membership.map(|place| place.cluster_id),
            incarnation: self.shared.incarnation,
            boot: self.shared.boot,
        }
    }

    /// Secret shared by all members, once this node is one; lock secrets of retryable acquires derive from it.
    pub fn cluster_key(&self) -> Option<[u8; 32]> {
        self.shared.membership().map(|place| place.key)
    }

    /// Hands leadership to `target`, or to the most up-to-date voter; answers who leads then.
    pub async fn transfer_leader(
        &self,
        target: Option<NodeId>,
        timeout: Duration,
    ) -> Result<NodeId, MembershipError> {
        transfer::transfer(&self.shared, target, timeout).await
    }

    /// Takes a member out of the group for good. Refused when the rest would have no healthy majority.
    ///
    /// The state forgets it at once; then the leader takes it out of Raft's membership, which is waited for.
    /// [`ProposeError::Unknown`] says that this takes longer; it goes on by itself, and asking again waits for it.
    pub async fn remove_node(
        &self,
        id: NodeId,
        reason: String,
        timeout: Duration,
    ) -> Result<(), MembershipError> {
        let deadline = Instant::now() + timeout;
        reads::barrier(&self.shared, timeout).await.map_err(refused_read)?;
        if !self.has_left(id) {
            self.decide_removal(id, reason, deadline).await?;
        }
        while self.is_raft_member(id) {
            if Instant::now() >= deadline {
                return Err(ProposeError::Unknown.into());
            }
            sleep(REMOVAL_LOOK_PERIOD).await;
        }
        Ok(())
    }

    async fn decide_removal(
        &self,
        id: NodeId,
        reason: String,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        check_removal(&self.shared.replica.read(State::nodes), id)?;
        removal::until_possible(&self.shared, id, deadline).await?;
        let request = Request::from(Command::RemoveNode(RemoveNode { id, reason }));
        let time = deadline.saturating_duration_since(Instant::now());
        match proposals::propose(&self.shared, &request, time).await?.reply {
            Reply::Done => Ok(()),
            // Somebody else did it meanwhile.
            Reply::Refused(Refusal::NotFound) if self.has_left(id) => Ok(()),
            Reply::Refused(Refusal::NotFound) => Err(MembershipError::UnknownNode),
            Reply::Refused(refusal) => Err(MembershipError::WouldLoseQuorum { reason: refusal.to_string() }),
            other => Err(callers::unexpected(&other).into()),
        }
    }

    /// Whether the state says that it was removed.
    fn has_left(&self, id: NodeId) -> bool {
        let node = self.shared.replica.read(|state| state.node(id));
        node.is_some_and(|node| node.status == NodeStatus::Left)
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn is_raft_member(&self, id: NodeId) -> bool {
        // A stopped node hears of no change: it is the removed one.
        self.shared.stopped().is_none() && self.shared.is_raft_member(id)
    }

    /// Stops this node: hands leadership over first when it leads, never changes the membership. Returns when
    /// everything is closed and the data directory is free.
    pub async fn shutdown(&self) {
        if matches!(self.shared.route(), Route::Here { .. }) && self.shared.stopped().is_none() {
            let handed = transfer::hand_over(&self.shared, None, Instant::now() + HANDOVER_TIME_MAX);
            match timeout(HANDOVER_TIME_MAX, handed).await {
                Ok(Ok(successor)) => tracing::info!(%successor, "leadership handed over"),
                Ok(Err(error)) => tracing::info!(%error, "stopping without a hand-over"),
                Err(_elapsed) => tracing::warn!("stopping in the middle of a hand-over"),
            }
        }
        self.shared.end("shut down".to_owned());
        self.running.join(&self.shared).await;
    }
}

fn refused_read(error: ReadError) -> MembershipError {
    MembershipError::Propose(match error {
        ReadError::NoLeader { last_known } => ProposeError::NoLeader { last_known },
        ReadError::Lagging => ProposeError::NoLeader { last_known: None },
        ReadError::Busy { queue } => ProposeError::Busy { queue },
        ReadError::Stopped { reason } => ProposeError::Stopped { reason },
    })
}

/// Whether the rest would have a healthy majority, and the present voters have one to decide it.
fn check_removal(nodes: &[NodeView], id: NodeId) -> Result<(), MembershipError> {
    let node = nodes.iter().find(|node| node.id == id).ok_or(MembershipError::UnknownNode)?;
    if node.role != NodeRole::Voter {
        return Ok(());
    }
    let healthy = |node: &&&NodeView| matches!(node.status, NodeStatus::Active | NodeStatus::Draining);
    let voters: Vec<_> = nodes.iter().filter(|node| node.role == NodeRole::Voter).collect();
    let rest: Vec<_> = voters.iter().filter(|node| node.id != id).collect();
    let healthy_now = voters.iter().filter(healthy).count();
    let healthy_rest = rest.iter().copied().filter(healthy).count();
    if healthy_rest > rest.len() / 2 && healthy_now > voters.len() / 2 {
        return Ok(());
    }
    let names: Vec<_> = rest.iter().map(|node| format!("{} is {:?}", node.name, node.status)).collect();
    let reason = match names.is_empty() {
        true => "it is the only voter".to_owned(),
        false => format!("of the other voters {}", names.join(", ").to_lowercase()),
    };
    Err(MembershipError::WouldLoseQuorum { reason })
}
