//! The openraft type configuration, and what a log entry carries.
//!
//! Raft and storage treat a command as opaque bytes (the envelope of [`codec`](crate::codec)): it is encoded
//! once by the proposing edge, written and replicated as it is, and decoded once per node at apply.

use std::fmt;

use bytes::Bytes;
use ovncp_state::{Millis, NodeId};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// openraft's view of our types. One leader per term (`leader_id_std`).
    pub TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = crate::runtime::Runtime,
);

/// What a normal log entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Cluster time, stamped by the leader that appended it.
    pub at: Millis,
    /// Who waits for it to be applied. Every node resolves its own callers from its own apply, so an answer
    /// survives the death of the leader that took the proposal.
    pub origin: Origin,
    /// The encoded request.
    pub envelope: Bytes,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of node {} ({} bytes, at {} ms)", self.origin.node, self.envelope.len(), self.at)
    }
}

/// The caller of a proposal: a node and a ticket that is unique among the live callers of its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Which node.
    pub node: NodeId,
    /// Random start per process, then counted.
    pub ticket: u64,
}

/// A member of the Raft group, as openraft's membership entries carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Stable name.
    pub name: String,
    /// `host:port` of its peer listener, resolved at each dial.
    pub addr: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.addr)
    }
}
