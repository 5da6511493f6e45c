//! Emptying a node of its sessions, for as long as an operator wants it empty.
//!
//! The state says that a node drains and how fast; the node itself moves its sessions. The record outlives restarts of
//! the node and whatever the failure detector sees: a draining node that was silent drains again when it is heard.

use serde::{Deserialize, Serialize};

use crate::command::{DrainNode, NodeStatus, ResumeNode};
use crate::limits::DRAIN_RATE_MAX;
use crate::sessions::view::DrainView;
use crate::state::Effects;
use crate::table::Object;
use crate::validate;
use crate::{Millis, NodeId, Refusal, Reply, State};

/// A node that is being emptied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainRecord {
    pub(crate) node: NodeId,
    pub(crate) since: Millis,
    /// Sockets there when it began.
    pub(crate) total: u64,
    pub(crate) rate_per_s: u32,
}

impl Object for DrainRecord {
    const TAG: u8 = 13;
    type Key = NodeId;

    fn key(&self) -> NodeId {
        self.node
    }
}

impl State {
    /// A node that an operator empties.
    pub fn drain(&self, node: NodeId) -> Option<DrainView> {
        let record = self.sessions.drains.get(&node)?;
        Some(DrainView {
            node,
            since: record.since,
            total: record.total,
            left: self.session_totals(node).attached,
            rate_per_s: record.rate_per_s,
        })
    }

    pub(crate) fn drain_node(&mut self, command: &DrainNode, out: &mut Effects) -> Result<Reply, Refusal> {
        if !(1..=DRAIN_RATE_MAX).contains(&command.rate_per_s) {
            return Err(validate::invalid("rate_per_s", "must be 1 to 10000"));
        }
        let status = self.live_node(command.id)?.status;
        let (id, rate_per_s) = (command.id, command.rate_per_s);
        if self.sessions.drains.update(&id, |drain| drain.rate_per_s = rate_per_s).is_some() {
            return Ok(Reply::Done);
        }
        if !matches!(status, NodeStatus::Active | NodeStatus::Suspect | NodeStatus::Draining) {
            return Err(validate::invalid("id", "is no active node"));
        }
        let total = self.session_totals(id).attached;
        self.sessions.drains.insert(DrainRecord { node: id, since: self.meta.now, total, rate_per_s });
        // A suspect stays one until it is heard.
        if status == NodeStatus::Active {
            self.change(id, out, |node| node.status = NodeStatus::Draining);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn resume_node(&mut self, command: &ResumeNode, out: &mut Effects) -> Result<Reply, Refusal> {
        let status = self.live_node(command.id)?.status;
        self.sessions.drains.remove(&command.id);
        if status == NodeStatus::Draining {
            self.change(command.id, out, |node| node.status = NodeStatus::Active);
        }
        Ok(Reply::Done)
    }

    /// The status of a node that answers: active, unless an operator empties it.
    pub(crate) fn answering(&self, node: NodeId) -> NodeStatus {
        match self.sessions.drains.get(&node) {
            Some(_) => NodeStatus::Draining,
            None => NodeStatus::Active,
        }
    }
}
