//! What travels on the forward and control lanes. Append-only: variants are never reordered or reused, and
//! golden bytes in the tests hold us to it.

use bytes::Bytes;
use ovncp_state::command::{JoinNode, RenewLock};
use ovncp_state::reply::Renewed;
use ovncp_state::{ClusterId, LogIndex, NodeId, Refusal as StateRefusal};
use ovncp_storage::Checkpoint;
use ovncp_storage::types::Origin;
use serde::{Deserialize, Serialize};

/// A proposal on its way to the leader. Its reply does not travel back: the origin resolves its caller from its
/// own apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardItem {
    /// Whose caller it is.
    pub origin: Origin,
    /// The term in which the asked node was known to lead. Another leader, or the same in another term, must
    /// refuse it: the origin may have proposed it anew. 0: whatever the term.
    pub term: u64,
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
        /// Hash of the asker's static peer list.
        list: [u8; 16],
    },
    /// Make me a member.
    Join(JoinNode),
    /// The lowest name asks a node without a cluster to agree to the one it is about to found.
    Agree(FormationOffer),
    /// Hand leadership over, to this node or to the fittest.
    Transfer {
        /// To whom.
        target: Option<NodeId>,
    },
    /// Which hashes has your state had?
    Checkpoints,
    /// Asked of the leader: would the rest have a healthy majority without this voter?
    Removable {
        /// Which.
        id: NodeId,
    },
}

/// A cluster that is about to be founded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormationOffer {
    /// Its identity.
    pub cluster_id: ClusterId,
    /// The secret of its members.
    pub key: [u8; 32],
    /// Its initial members by name: the first has id 1.
    pub roster: Vec<JoinNode>,
}

/// Answer to a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlResponse {
    /// To `Probe`: part of no cluster. It may have agreed to one that is not founded yet.
    Blank {
        /// Hash of its static peer list.
        list: [u8; 16],
        /// How it would be listed.
        node: JoinNode,
    },
    /// To `Probe`: a member.
    Member {
        /// Of which cluster.
        cluster_id: ClusterId,
        /// Its id.
        id: NodeId,
        /// The leader it knows.
        leader: Option<LeaderHint>,
        /// The asker was a member and is none any more.
        removed: bool,
    },
    /// To `Join`.
    Joined {
        /// Cluster the node now belongs to.
        cluster_id: ClusterId,
        /// Its id.
        id: NodeId,
        /// The secret of the members.
        key: [u8; 32],
    },
    /// To `Join` and `Transfer`, from a node that does not lead.
    NotLeader {
        /// The leader it knows.
        leader: Option<LeaderHint>,
    },
    /// To `Agree`: agreed, and durable.
    Agreed,
    /// Not now or not at all, and why.
    Refused {
        /// For the operator.
        reason: String,
        /// Whether asking again may help.
        retry: bool,
    },
    /// To `Transfer`: this node leads now.
    Transferred {
        /// Who leads.
        leader: NodeId,
    },
    /// To `Checkpoints`.
    Checkpoints {
        /// Hashes of other versions cannot be compared.
        version: u16,
        /// Oldest first.
        checkpoints: Vec<Checkpoint>,
    },
    /// To `Removable`: it would.
    Removable,
}

/// Who leads and where it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Address of its peer listener.
    pub addr: String,
}
