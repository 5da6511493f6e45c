//! Members: who they are, how they are, and that an id is never used twice.
//!
//! A node is known by its name, and each data directory by its incarnation. The same pair that asks again gets
//! the id it has. A known name with another incarnation is either a node that lost its disk or a second machine
//! with a copied name; while the known one is `active` or `draining` (it acknowledges the leader) it must be the
//! latter, and the newcomer is refused with `NameTaken`. A wiped node that comes back faster than the failure
//! detector notices is refused the same way and retries until its old self is `suspect`, a few heartbeats
//! later. It then gets a new id; the old record stays until autopilot swaps the two and removes it.
//!
//! A removed data directory does not come back (`StaleIncarnation`) as long as its record is kept: the node has
//! to be wiped first. A data directory that shows up under a second name is a copy and refused likewise.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::{
    AnnounceLeader, ChangeNode, FormCluster, JoinNode, NodeInfo, NodeRole, NodeStatus, RemoveNode, UpdateNode,
};
use crate::limits::{METADATA_BYTES_MAX, NODE_FIELD_BYTES_MAX, NODES_MAX, REASON_BYTES_MAX};
use crate::mutants::{self, Mutant};
use crate::state::Effects;
use crate::table::Object;
use crate::validate;
use crate::view::NodeView;
use crate::{EventKind, Incarnation, Millis, NodeId, Refusal, Reply, State};

/// Joiners get this plus the index of their entry; initial members stay below.
const JOINER_ID_BASE: u64 = 1_000;

/// One member, or one that left and is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: u64,
    pub(crate) info: NodeInfo,
    pub(crate) status: NodeStatus,
    pub(crate) role: NodeRole,
    pub(crate) generation: u64,
    pub(crate) status_since: Millis,
    pub(crate) joined_at: Millis,
}

impl Object for NodeRecord {
    const TAG: u8 = 2;
    type Key = NodeId;

    fn key(&self) -> NodeId {
        self.id
    }
}

impl NodeRecord {
    fn new(id: NodeId, join: JoinNode, status: NodeStatus, role: NodeRole, now: Millis) -> Self {
        Self {
            id,
            name: join.name,
            incarnation: join.incarnation,
            boot: 0,
            info: join.info,
            status,
            role,
            generation: 1,
            status_since: now,
            joined_at: now,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.status != NodeStatus::Left
    }

    fn joined(&self) -> EventKind {
        EventKind::NodeJoin { id: self.id, name: self.name.clone(), role: self.role }
    }

    fn updated(&self) -> EventKind {
        EventKind::NodeUpdate { id: self.id, name: self.name.clone(), status: self.status, role: self.role }
    }

    fn view(&self) -> NodeView {
        NodeView {
            id: self.id,
            name: self.name.clone(),
            incarnation: self.incarnation,
            boot: self.boot,
            info: self.info.clone(),
            status: self.status,
            role: self.role,
            generation: self.generation,
            status_since: self.status_since,
            joined_at: self.joined_at,
        }
    }
}

fn check_info(info: &NodeInfo) -> Result<(), Refusal> {
    let fields = [
        ("hostname", &info.hostname),
        ("ip", &info.ip),
        ("peer_addr", &info.peer_addr),
        ("version", &info.version),
        ("zone", &info.zone),
    ];
    for (field, text) in fields {
        validate::bytes(field, text.len(), 0, NODE_FIELD_BYTES_MAX)?;
    }
    let metadata = info.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    validate::bytes("metadata", metadata, 0, METADATA_BYTES_MAX)
}

fn check_join(join: &JoinNode) -> Result<(), Refusal> {
    validate::bytes("name", join.name.len(), 1, NODE_FIELD_BYTES_MAX)?;
    check_info(&join.info)
}

impl State {
    /// Live members in the order of their ids.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.live_nodes().map(NodeRecord::view).collect()
    }

    /// A member, also one that left recently.
    pub fn node(&self, id: NodeId) -> Option<NodeView> {
        self.nodes.get(&id).map(|node| node.view())
    }

    /// The member of this name: a live one before one that left, and the newest before older ones.
    pub fn node_by_name(&self, name: &str) -> Option<NodeView> {
        let named = self.nodes.iter().filter(|node| node.name == name);
        named.max_by_key(|node| (node.is_live(), node.id)).map(|node| node.view())
    }

    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.iter().map(|node| &**node).filter(|node| node.is_live())
    }

    pub(crate) fn live_node(&self, id: NodeId) -> Result<&NodeRecord, Refusal> {
        self.nodes.get(&id).map(|node| &**node).filter(|node| node.is_live()).ok_or(Refusal::NotFound)
    }

    /// Whether a client of this node may queue: only then its waiter is dropped with the node.
    pub(crate) fn may_wait(&self, id: NodeId) -> bool {
        self.live_node(id).is_ok_and(|node| node.status != NodeStatus::Inactive)
    }

    pub(crate) fn form_cluster(&mut self, form: FormCluster, out: &mut Effects) -> Result<Reply, Refusal> {
        if let Some(known) = self.meta.cluster_id {
            return if known == form.cluster_id { Ok(Reply::Done) } else { Err(Refusal::AlreadyFormed) };
        }
        self.check_form(&form)?;
        self.meta.cluster_id = Some(form.cluster_id);
        self.meta.formed_at_unix_ms = form.formed_at_unix_ms;
        self.meta.voters_target = form.voters_target;
        for (id, join) in (1..).map(NodeId).zip(form.nodes) {
            self.meta.node_id_max = id;
            let node = NodeRecord::new(id, join, NodeStatus::Active, NodeRole::Voter, self.meta.now);
            let event = node.joined();
            self.nodes.insert(node);
            self.emit(event, out);
        }
        self.raise_version();
        if let Some((id, term)) = self.meta.leader {
            self.emit_leader(id, term, out);
        }
        Ok(Reply::Done)
    }

    fn check_form(&self, form: &FormCluster) -> Result<(), Refusal> {
        validate::count("nodes", form.nodes.len(), 1, self.limits.nodes)?;
        form.nodes.iter().try_for_each(check_join)?;
        if !form.nodes.is_sorted_by(|left, right| left.name < right.name) {
            return Err(validate::invalid("nodes", "must be sorted by name and without duplicates"));
        }
        let mut incarnations: Vec<_> = form.nodes.iter().map(|node| node.incarnation).collect();
        incarnations.sort_unstable();
        if !incarnations.is_sorted_by(|left, right| left < right) {
            return Err(validate::invalid("nodes", "two nodes have copies of one data directory"));
        }
        if form.voters_target.is_multiple_of(2) || usize::from(form.voters_target) > NODES_MAX {
            return Err(validate::invalid("voters_target", "must be odd and at most 63"));
        }
        Ok(())
    }

    pub(crate) fn join_node(&mut self, join: JoinNode, out: &mut Effects) -> Result<Reply, Refusal> {
        let Some(cluster_id) = self.meta.cluster_id else { return Err(Refusal::NotFormed) };
        check_join(&join)?;
        if let Some(known) = self.nodes.iter().find(|node| node.incarnation == join.incarnation) {
            if known.name != join.name || !known.is_live() {
                return Err(Refusal::StaleIncarnation);
            }
            return Ok(Reply::Joined { cluster_id, id: known.id });
        }
        self.check_version(&join.info.version)?;
        let answers = |node: &NodeRecord| matches!(node.status, NodeStatus::Active | NodeStatus::Draining);
        if self.live_nodes().any(|node| node.name == join.name && answers(node)) {
            return Err(Refusal::NameTaken { name: join.name });
        }
        validate::limit("nodes", self.live_nodes().count(), self.limits.nodes)?;
        // Above every id given so far, since log indexes increase; `max` keeps that true whatever the index.
        let id = NodeId(
            JOINER_ID_BASE.saturating_add(self.meta.applied.0).max(self.meta.node_id_max.0.saturating_add(1)),
        );
        self.meta.node_id_max = id;
        let node = NodeRecord::new(id, join, NodeStatus::Joining, NodeRole::Learner, self.meta.now);
        let event = node.joined();
        self.nodes.insert(node);
        self.emit(event, out);
        Ok(Reply::Joined { cluster_id, id })
    }

    pub(crate) fn update_node(&mut self, update: UpdateNode, out: &mut Effects) -> Result<Reply, Refusal> {
        check_info(&update.info)?;
        let node = self.live_node(update.id)?;
        if node.incarnation != update.incarnation || update.boot < node.boot {
            return Err(Refusal::StaleIncarnation);
        }
        self.check_version(&update.info.version)?;
        let status = match node.status {
            NodeStatus::Suspect | NodeStatus::Inactive => self.answering(update.id),
            other => other,
        };
        let restarted = update.boot > node.boot;
        if node.boot == update.boot && node.info == update.info && node.status == status {
            return Ok(Reply::Done);
        }
        self.change(update.id, out, |node| {
            node.boot = update.boot;
            node.info = update.info;
            node.status = status;
        });
        self.raise_version();
        if restarted {
            self.lose_sockets_of(update.id, out);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn change_node(&mut self, change: &ChangeNode, out: &mut Effects) -> Result<Reply, Refusal> {
        let node = self.live_node(change.id)?;
        if node.generation != change.generation {
            return Err(Refusal::StaleGeneration);
        }
        let status = match change.status {
            // Who says so knows that it answers, not what an operator wants of it.
            Some(NodeStatus::Active) => self.answering(change.id),
            status => status.unwrap_or(node.status),
        };
        let role = change.role.unwrap_or(node.role);
        if status != node.status && matches!(status, NodeStatus::Left | NodeStatus::Joining) {
            return Err(validate::invalid("status", "must be active, suspect, inactive or draining"));
        }
        if status == node.status && role == node.role {
            return Ok(Reply::Done);
        }
        // Watchers always see a suspect before it becomes inactive.
        if status == NodeStatus::Inactive
            && !matches!(node.status, NodeStatus::Suspect | NodeStatus::Inactive)
        {
            self.change(change.id, out, |node| node.status = NodeStatus::Suspect);
        }
        self.change(change.id, out, |node| (node.status, node.role) = (status, role));
        if status == NodeStatus::Inactive {
            self.drop_waiters_of(change.id, out);
            self.lose_sockets_of(change.id, out);
        }
        Ok(Reply::Done)
    }

    /// Changes a member, with the bookkeeping and the event that every change has.
    pub(crate) fn change(&mut self, id: NodeId, out: &mut Effects, change: impl FnOnce(&mut NodeRecord)) {
        let now = self.meta.now;
        let event = self.nodes.update(&id, |node| {
            let status = node.status;
            change(node);
            node.generation += 1;
            if node.status != status {
                node.status_since = now;
            }
            node.updated()
        });
        if let Some(event) = event {
            self.emit(event, out);
        }
    }

    pub(crate) fn remove_node(&mut self, remove: &RemoveNode, out: &mut Effects) -> Result<Reply, Refusal> {
        validate::bytes("reason", remove.reason.len(), 0, REASON_BYTES_MAX)?;
        if self.nodes.get(&remove.id).is_some_and(|node| !node.is_live()) {
            return Ok(Reply::Done);
        }
        self.live_node(remove.id)?;
        if self.live_nodes().count() == 1 {
            return Err(validate::invalid("id", "is the last member"));
        }
        let now = self.meta.now;
        let name = self.nodes.update(&remove.id, |node| {
            node.status = NodeStatus::Left;
            node.status_since = now;
            node.generation += 1;
            node.name.clone()
        });
        let (name, reason) = (name.unwrap_or_default(), remove.reason.to_string());
        self.emit(EventKind::NodeLeave { id: remove.id, name, reason }, out);
        if self.meta.leader.is_some_and(|(leader, _)| leader == remove.id) {
            self.meta.leader = None;
        }
        self.forget_left();
        self.raise_version();
        self.sessions.drains.remove(&remove.id);
        self.cleared.remove(&remove.id);
        self.drop_waiters_of(remove.id, out);
        self.lose_sockets_of(remove.id, out);
        Ok(Reply::Done)
    }

    /// Keeps the newest of those that left.
    fn forget_left(&mut self) {
        let left = || self.nodes.iter().filter(|node| !node.is_live());
        if left().count() <= self.limits.nodes {
            return;
        }
        if let Some(id) = left().min_by_key(|node| (node.status_since, node.id)).map(|node| node.id) {
            self.nodes.remove(&id);
        }
    }

    pub(crate) fn announce_leader(
        &mut self,
        announce: &AnnounceLeader,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        if self.is_formed() {
            self.live_node(announce.id)?;
        }
        if self.meta.leader.is_some_and(|(_, term)| term >= announce.term) {
            return Ok(Reply::Done);
        }
        self.meta.leader = Some((announce.id, announce.term));
        if mutants::is(Mutant::InvalidationSkipped) && self.offsets.invalidations > 0 {
            self.offsets.invalidations += 1;
        }
        self.emit_leader(announce.id, announce.term, out);
        Ok(Reply::Done)
    }

    /// Says who leads, once it has a name.
    fn emit_leader(&mut self, id: NodeId, term: u64, out: &mut Effects) {
        if let Ok(name) = self.live_node(id).map(|node| node.name.clone()) {
            self.emit(EventKind::LeaderChange { id, name, term }, out);
        }
    }
}
