//! Nodes and the leader, as operators see them.

use std::time::Duration;

use ovncp_raft::status::GroupStatus;
use ovncp_state::view::{ClusterView, NodeView};
use ovncp_state::{LogIndex, Millis, NodeId, State, StateHash};

use super::reads::Freshness;
use super::{Core, ServiceError};

/// A planned hand-over may take this long.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// Removing a node may take a hand-over and two changes of the group.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Nodes and the leader.
#[derive(Clone)]
pub struct Membership {
    core: Core,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct ClusterReport {
    /// Totals of the replicated state.
    pub cluster: ClusterView,
    /// Name of the leader, if one is known.
    pub leader: Option<String>,
    /// Hash of the state that the totals were read from.
    pub state_hash: StateHash,
    /// This node's view of the group.
    pub status: GroupStatus,
}

/// A member and what the answering node knows of its replication.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Replicated part.
    pub view: NodeView,
    /// Whether it leads, as far as this node knows.
    pub is_leader: bool,
    /// Entries behind; known on the leader, and for the answering node itself.
    pub lag: Option<u64>,
    /// Milliseconds since it was last heard from; known on the leader, and for the answering node itself.
    pub last_ack_age_ms: Option<u64>,
    /// Sessions that have a socket on it.
    pub sessions: u64,
}

/// Nodes at one index.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Cluster clock.
    pub now: Millis,
    /// In the order of their ids.
    pub nodes: Vec<NodeReport>,
}

impl Membership {
    /// Members of the group.
    #[must_use]
    pub fn new(core: Core) -> Self {
        Self { core }
    }

    /// Totals and identity.
    pub async fn cluster(&self, freshness: Freshness) -> Result<(LogIndex, ClusterReport), ServiceError> {
        let (index, (cluster, state_hash)) =
            self.core.read(freshness, |state| (state.cluster(), state.hash())).await?;
        let status = self.core.group.status();
        let leader = self.leader_name(&status);
        Ok((index, ClusterReport { cluster, leader, state_hash, status }))
    }

    /// Live members.
    pub async fn nodes(&self, freshness: Freshness) -> Result<(LogIndex, Nodes), ServiceError> {
        let look = |state: &State| {
            let totals = state.all_session_totals();
            let attached = |id| totals.get(&id).map_or(0, |totals| totals.attached);
            let views = state.nodes().into_iter().map(|view| (attached(view.id), view));
            (state.now(), views.collect::<Vec<_>>())
        };
        let (index, (now, views)) = self.core.read(freshness, look).await?;
        let status = self.core.group.status();
        let nodes = views.into_iter().map(|(sessions, view)| report(view, sessions, &status)).collect();
        Ok((index, Nodes { now, nodes }))
    }

    /// One member by name, also one that left recently.
    pub async fn node(
        &self,
        name: &str,
        freshness: Freshness,
    ) -> Result<(LogIndex, Option<(Millis, NodeReport)>), ServiceError> {
        let (index, found) = self
            .core
            .read(freshness, |state| {
                let view = state.node_by_name(name)?;
                Some((state.now(), state.session_totals(view.id).attached, view))
            })
            .await?;
        let status = self.core.group.status();
        Ok((index, found.map(|(now, sessions, view)| (now, report(view, sessions, &status)))))
    }

    /// This node's view of the group, and the leader's name.
    #[must_use]
    pub fn leader(&self) -> (GroupStatus, Option<String>) {
        let status = self.core.group.status();
        let leader = self.leader_name(&status);
        (status, leader)
    }

    /// Hands leadership over; answers who leads then.
    pub async fn transfer(&self, target: Option<&str>) -> Result<String, ServiceError> {
        let target = match target {
            Some(name) => Some(self.live_id(name).await?),
            None => None,
        };
        let leader = self.core.group.transfer_leader(target, TRANSFER_TIMEOUT).await?;
        // A voter is in the state of every node that could hand leadership over to it.
        Ok(self.name_of(leader).unwrap_or_else(|| leader.to_string()))
    }

    /// Takes a node out for good.
    pub async fn remove(&self, name: &str, reason: String) -> Result<(), ServiceError> {
        let id = match self.live_id(name).await {
            // Decided and not finished: wait for it.
            Err(error) => self.leaving_id(name).ok_or(error)?,
            Ok(id) => id,
        };
        Ok(self.core.group.remove_node(id, reason, REMOVE_TIMEOUT).await?)
    }

    /// A node that left the state and still receives the log.
    fn leaving_id(&self, name: &str) -> Option<NodeId> {
        let id = self.core.group.read(|state| state.node_by_name(name)).1?.id;
        let status = self.core.group.status();
        (status.voters.contains(&id) || status.learners.contains(&id)).then_some(id)
    }

    async fn live_id(&self, name: &str) -> Result<NodeId, ServiceError> {
        let (_, node) = self.node(name, Freshness::default()).await?;
        let live = node.filter(|(_, node)| node.view.status != ovncp_state::command::NodeStatus::Left);
        live.map(|(_, node)| node.view.id)
            .ok_or(ServiceError::Membership(ovncp_raft::error::MembershipError::UnknownNode))
    }

    /// None also while the leader is known by its number alone: a node hears of it before it has the state that
    /// says its name. Whoever compares names must never be given a number.
    fn leader_name(&self, status: &GroupStatus) -> Option<String> {
        status.leader.and_then(|id| self.name_of(id))
    }

    fn name_of(&self, id: NodeId) -> Option<String> {
        self.core.group.read(|state| state.node(id).map(|node| node.name)).1
    }
}

fn report(view: NodeView, sessions: u64, status: &GroupStatus) -> NodeReport {
    let own = status.node_id == Some(view.id);
    let peer = status.peers.iter().find(|peer| peer.id == view.id);
    let (lag, last_ack_age_ms) = match peer {
        Some(peer) => (Some(peer.lag), peer.last_ack_age_ms),
        None if own => (Some(status.committed.0.saturating_sub(status.applied.0)), Some(0)),
        None => (None, None),
    };
    NodeReport { is_leader: status.leader == Some(view.id), lag, last_ack_age_ms, sessions, view }
}
