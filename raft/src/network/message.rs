//! What travels on the forward and control lanes. Append-only: variants are never reordered or reused, and
//! golden bytes in the tests hold us to it.

use bytes::Bytes;
use ovncp_state::command::{JoinNode, RenewLock};
use ovncp_state::reply::Renewed;
use ovncp_state::{ClusterId, Incarnation, LogIndex, NodeId, Refusal as StateRefusal};
use ovncp_storage::types::Origin;
use serde::{Deserialize, Serialize};

/// A proposal on its way to the leader. Its reply does not travel back: the origin resolves its caller from its
/// own apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardItem {
    /// Whose caller it is.
    pub origin: Origin,
    /// The encoded request.
    pub envelope: Bytes,
}

/// What the asked node did with one proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardOutcome {
    /// Handed to its log: it may commit.
    Accepted,
    /// Not appended: the asked node does not lead.
    NotLeader {
        /// Who may.
        hint: Option<NodeId>,
    },
    /// Not appended: a bounded queue is full.
    Busy,
}

/// What became of one renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenewOutcome {
    /// Its batch was applied at this index.
    Applied {
        /// Where.
        index: LogIndex,
        /// The answer.
        result: Result<Renewed, StateRefusal>,
    },
    /// Not proposed: the asked node does not lead.
    NotLeader {
        /// Who may.
        hint: Option<NodeId>,
    },
    /// Not proposed: a bounded queue is full.
    Busy,
    /// Proposed, outcome not known: it may happen or have happened.
    Unknown,
}

/// One renewal on its way to the leader's collector.
pub type RenewItem = RenewLock;

/// Why a node names no read index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ReadIndexRefusal {
    /// The asked node does not lead.
    #[error("not the leader")]
    NotLeader {
        /// Who may.
        hint: Option<NodeId>,
    },
    /// It leads but could not confirm its office.
    #[error("leadership not confirmed")]
    NotConfirmed,
    /// A bounded queue is full.
    #[error("overloaded")]
    Busy,
}

/// Asked on the control lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// What do you belong to?
    Probe {
        /// Hash of the dialer's static peer list.
        peers_hash: [u8; 16],
    },
    /// Make me a member. Answered by the leader only.
    Join(JoinNode),
    /// The cluster's secret for derived lock secrets; given to members only.
    ClusterKey,
    /// The lowest name tells its pristine peers that it forms the cluster now, with these ids.
    Form {
        /// Hash of the static peer list that all of them answered with.
        peers_hash: [u8; 16],
        /// Initial members: id, name, data directory.
        members: Vec<(NodeId, String, Incarnation)>,
    },
}

/// Answer to a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlResponse {
    /// To `Probe`: no cluster, nothing on disk.
    Pristine {
        /// Hash of the static peer list.
        peers_hash: [u8; 16],
    },
    /// To `Probe`: a member.
    Member {
        /// Of which cluster; absent until the first entry is applied.
        cluster_id: Option<ClusterId>,
        /// Its id.
        id: Option<NodeId>,
        /// Raft term.
        term: u64,
        /// The leader it knows: id, name, address.
        leader: Option<(NodeId, String, String)>,
    },
    /// To `Join`.
    Joined {
        /// Cluster the node now belongs to.
        cluster_id: ClusterId,
        /// Its id.
        id: NodeId,
    },
    /// To `Join`, from a follower.
    NotLeader {
        /// The leader it knows: id, name, address.
        leader: Option<(NodeId, String, String)>,
    },
    /// To `ClusterKey`.
    ClusterKey([u8; 32]),
    /// To `Form`: agreed.
    Forming,
    /// Not now or not at all, and why.
    Refused {
        /// For the operator.
        reason: String,
        /// Whether asking again may help.
        retry: bool,
    },
}
