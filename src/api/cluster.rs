//! The cluster, its nodes and its leader over HTTP.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use ovncp_state::Millis;
use ovncp_state::command::{NodeRole, NodeStatus};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{Admin, ConsistencyParam, Fresh, IdempotencyKey, OptionalJson, Query, Segment};
use super::{App, At, Shared};
use crate::services::ServiceError;
use crate::services::membership::NodeReport;
use crate::wall_clock;
use ovncp_raft::error::MembershipError;

/// Reason of a removal that names none.
const REASON_DEFAULT: &str = "removed by an administrator";

/// The cluster as the answering node sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cluster {
    /// Identity, made once at formation; null before.
    pub cluster_id: Option<String>,
    /// Restore epoch.
    pub epoch: u16,
    /// Raft term.
    pub term: u64,
    /// Name of the leader, if one is known.
    pub leader_id: Option<String>,
    /// Name of the node that answers.
    pub node_id: String,
    /// Last entry applied to the state that this answer shows.
    pub applied_index: String,
    /// Last entry known to be committed.
    pub committed_index: String,
    /// Hash of the state at `applied_index`; equal on every node at an equal index.
    pub state_hash: String,
    /// Number of voters that the group aims at.
    pub voters_target: u8,
    /// What every member understands, as `major.minor`; it rises when the last member was upgraded.
    pub cluster_version: String,
    /// Nodes that vote.
    pub voters: usize,
    /// Nodes that only follow.
    pub learners: usize,
    /// Live members.
    pub nodes: u64,
    /// Grants.
    pub locks_held: u64,
    /// Requests that wait for a lock.
    pub waiters: u64,
    /// Registers.
    pub kv_keys: u64,
    /// Bytes of their keys and values.
    pub kv_bytes: u64,
    /// Offset of the first event that is kept.
    pub events_first: String,
    /// Offset that the next event gets.
    pub events_next: String,
}

/// Query of a single read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Shows identity, leader and totals.
#[utoipa::path(get, path = "/api/v1/cluster", tag = "cluster", operation_id = "get_cluster", params(ReadQuery),
    responses((status = 200, body = Cluster, description = "The cluster.")))]
pub async fn cluster(
    State(app): State<Shared>,
    Query(query): Query<ReadQuery>,
    fresh: Fresh,
) -> Result<At<Cluster>, ApiError> {
    let (index, report) = app.membership.cluster(fresh.with(query.consistency)).await?;
    let (view, status) = (report.cluster, report.status);
    let cluster = Cluster {
        cluster_id: view.cluster_id.map(|id| id.to_string()),
        epoch: view.epoch,
        term: status.term,
        leader_id: report.leader,
        node_id: app.node_name.clone(),
        applied_index: index.to_string(),
        committed_index: status.committed.max(index).to_string(),
        state_hash: report.state_hash.to_string(),
        voters_target: view.voters_target,
        cluster_version: view.version.to_string(),
        voters: status.voters.len(),
        learners: status.learners.len(),
        nodes: view.nodes,
        locks_held: view.locks_held,
        waiters: view.waiters,
        kv_keys: view.kv_keys,
        kv_bytes: view.kv_bytes,
        events_first: view.events.0.to_string(),
        events_next: view.events.1.to_string(),
    };
    Ok(At(index, cluster))
}

/// Health of a member as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Known, not caught up yet.
    Joining,
    /// Acknowledges the leader.
    Active,
    /// Missed three heartbeats; keeps everything it holds.
    Suspect,
    /// Silent for the node time-out.
    Inactive,
    /// Being emptied.
    Draining,
    /// Removed or replaced.
    Left,
}

impl From<NodeStatus> for Status {
    fn from(status: NodeStatus) -> Self {
        match status {
            NodeStatus::Joining => Self::Joining,
            NodeStatus::Active => Self::Active,
            NodeStatus::Suspect => Self::Suspect,
            NodeStatus::Inactive => Self::Inactive,
            NodeStatus::Draining => Self::Draining,
            NodeStatus::Left => Self::Left,
        }
    }
}

/// Part of a member in agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Counts for the majority.
    Voter,
    /// Only follows.
    Learner,
}

impl From<NodeRole> for Role {
    fn from(role: NodeRole) -> Self {
        match role {
            NodeRole::Voter => Self::Voter,
            NodeRole::Learner => Self::Learner,
        }
    }
}

/// A member.
#[derive(Debug, Serialize, ToSchema)]
pub struct Node {
    /// Stable name.
    pub id: String,
    /// Raft id; another one after its disk was wiped.
    pub raft_id: String,
    /// Host name.
    pub hostname: String,
    /// Address under which clients reach it.
    pub ip: String,
    /// HTTP port.
    pub port: u16,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// Health.
    pub status: Status,
    /// When the status last changed.
    pub status_since: String,
    /// Part in agreement.
    pub role: Role,
    /// Whether it leads, as far as the answering node knows.
    pub is_leader: bool,
    /// When the leader last heard of it; null where the answering node does not know (ask the leader).
    pub last_heartbeat: Option<String>,
    /// Entries it is behind; null where the answering node does not know.
    pub lag: Option<u64>,
    /// Version of its binary.
    pub version: String,
    /// Failure domain.
    pub zone: Option<String>,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// Starts of its data directory.
    pub boot: String,
    /// Sessions that have a socket on it.
    pub sessions: u64,
}

impl Node {
    fn new(report: NodeReport, now: Millis) -> Self {
        let view = report.view;
        let last_heartbeat =
            report.last_ack_age_ms.map(|age| wall_clock::rfc3339(wall_clock::unix_ms().saturating_sub(age)));
        Self {
            id: view.name,
            raft_id: view.id.to_string(),
            hostname: view.info.hostname,
            ip: view.info.ip,
            port: view.info.http_port,
            peer_address: view.info.peer_addr,
            status: view.status.into(),
            status_since: wall_clock::utc(view.status_since, now),
            role: view.role.into(),
            is_leader: report.is_leader,
            last_heartbeat,
            lag: report.lag,
            version: view.info.version,
            zone: Some(view.info.zone).filter(|zone| !zone.is_empty()),
            metadata: view.info.metadata,
            boot: view.boot.to_string(),
            sessions: report.sessions,
        }
    }
}

/// Query of the members.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NodesQuery {
    /// Only nodes whose status is active.
    pub active: Option<bool>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Members.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeList {
    /// In the order of their Raft ids; there are never more than fit one page.
    pub nodes: Vec<Node>,
    /// How many.
    pub count: usize,
    /// Name of the node that answers.
    #[serde(rename = "self")]
    pub own: String,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// Lists the members.
#[utoipa::path(get, path = "/api/v1/cluster/nodes", tag = "cluster", operation_id = "list_nodes", params(NodesQuery),
    responses((status = 200, body = NodeList, description = "The members.")))]
pub async fn nodes(
    State(app): State<Shared>,
    Query(query): Query<NodesQuery>,
    fresh: Fresh,
) -> Result<At<NodeList>, ApiError> {
    let (index, found) = app.membership.nodes(fresh.with(query.consistency)).await?;
    let only_active = query.active.unwrap_or(false);
    let shown = found.nodes.into_iter().filter(|node| !only_active || node.view.status == NodeStatus::Active);
    let nodes: Vec<_> = shown.map(|node| Node::new(node, found.now)).collect();
    Ok(At(index, NodeList { count: nodes.len(), nodes, own: app.node_name.clone(), next_cursor: None }))
}

/// Shows one member.
#[utoipa::path(get, path = "/api/v1/cluster/nodes/{id}", tag = "cluster", operation_id = "get_node",
    params(("id" = String, Path, description = "Name of the node"), ReadQuery),
    responses((status = 200, body = Node, description = "The member."), (status = 404, description = "`unknown_node`")))]
pub async fn node(
    State(app): State<Shared>,
    Segment(name): Segment,
    Query(query): Query<ReadQuery>,
    fresh: Fresh,
) -> Result<At<Node>, ApiError> {
    let (index, found) = app.membership.node(&name, fresh.with(query.consistency)).await?;
    let (now, node) = found.ok_or_else(|| unknown(&name))?;
    Ok(At(index, Node::new(node, now)))
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(Code::UnknownNode, format!("no node is called {name}")).with("node_id", name)
}

/// Names the node when that is what is unknown.
fn about(error: ServiceError, name: &str) -> ApiError {
    match error {
        ServiceError::Membership(MembershipError::UnknownNode) => unknown(name),
        error => ApiError::from(error).with("node_id", name),
    }
}

/// Why a node is removed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// For the event that everybody sees.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Takes a node out of the cluster for good. For administrators.
#[utoipa::path(delete, path = "/api/v1/cluster/nodes/{id}", tag = "cluster", operation_id = "remove_node",
    params(("id" = String, Path, description = "Name of the node")),
    request_body(content = Option<RemoveRequest>), security(("admin" = [])),
    responses((status = 204, description = "Removed."), (status = 404, description = "`unknown_node`"),
        (status = 409, description = "`would_lose_quorum` or `membership_change_in_progress`")))]
pub async fn remove(
    _: Admin,
    State(app): State<Shared>,
    Segment(name): Segment,
    // A removal may be repeated as it is: the key is only checked.
    _: IdempotencyKey,
    body: OptionalJson<RemoveRequest>,
) -> Result<StatusCode, ApiError> {
    let reason = body.value.reason.unwrap_or_else(|| REASON_DEFAULT.to_owned());
    app.membership.remove(&name, reason).await.map_err(|error| about(error, &name))?;
    tracing::warn!(node = name, "an administrator removed a node");
    Ok(StatusCode::NO_CONTENT)
}

/// Who leads, as the answering node knows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leader {
    /// Name of the node that answers.
    pub node_id: String,
    /// Whether that node leads.
    pub is_leader: bool,
    /// Name of the leader; null when none is known.
    pub leader_id: Option<String>,
    /// Raft term.
    pub term: u64,
    /// On the leader: milliseconds since a majority last acknowledged it. Elsewhere: since it was last heard.
    pub quorum_ack_age_ms: Option<u64>,
}

/// Shows who leads, as the asked node knows it: the answer needs no leader and costs no message.
#[utoipa::path(get, path = "/api/v1/cluster/leader", tag = "cluster", operation_id = "get_leader", params(ReadQuery),
    responses((status = 200, body = Leader, description = "The leader, if one is known.")))]
pub async fn leader(State(app): State<Shared>, Query(query): Query<ReadQuery>) -> axum::Json<Leader> {
    // A view of this node is what it is; the parameter is taken for uniformity.
    let ReadQuery { consistency: _ } = query;
    axum::Json(leader_view(&app))
}

fn leader_view(app: &App) -> Leader {
    let (status, leader_id) = app.membership.leader();
    Leader {
        node_id: app.node_name.clone(),
        is_leader: status.is_leader,
        leader_id,
        term: status.term,
        quorum_ack_age_ms: status.quorum_ack_age_ms,
    }
}

/// Who shall lead.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Name of a voter; the one that is furthest when left out.
    #[serde(default)]
    pub target: Option<String>,
}

/// Who leads after a hand-over.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transferred {
    /// Name of the leader.
    pub leader_id: String,
}

/// Hands leadership over. For administrators.
#[utoipa::path(post, path = "/api/v1/cluster/leader/transfer", tag = "cluster", operation_id = "transfer_leader",
    request_body(content = Option<TransferRequest>), security(("admin" = [])),
    responses((status = 200, body = Transferred, description = "Handed over."), (status = 404, description = "`unknown_node`"),
        (status = 409, description = "`unfit_target` or `membership_change_in_progress`")))]
pub async fn transfer(
    _: Admin,
    State(app): State<Shared>,
    // A hand-over may be repeated as it is: the key is only checked.
    _: IdempotencyKey,
    body: OptionalJson<TransferRequest>,
) -> Result<axum::Json<Transferred>, ApiError> {
    let target = body.value.target;
    let transferred = app.membership.transfer(target.as_deref()).await;
    let leader_id = transferred.map_err(|error| match &target {
        Some(name) => about(error, name),
        None => error.into(),
    })?;
    Ok(axum::Json(Transferred { leader_id }))
}
