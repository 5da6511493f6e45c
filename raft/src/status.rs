//! What a node knows of its group, without asking anybody.

use ovncp_state::{LogIndex, NodeId, StateHash};

/// How far a start has come. Only ever moves forward, except `Serving` to `Stopped`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening the data directory, replaying the log.
    Recovering,
    /// No cluster yet: not every static peer answered.
    Forming {
        /// Names that have not answered (or disagree), and why.
        waiting_for: Vec<String>,
    },
    /// Known to a cluster, catching up.
    Joining,
    /// Caught up once.
    Serving,
    /// Does not vote, serve or acknowledge any more.
    Stopped {
        /// Why, with the file and offset or the error.
        reason: String,
    },
}

/// What the comparison of this node's state with the others' showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Integrity {
    /// Nothing was compared yet.
    #[default]
    Unchecked,
    /// A majority of the voters has the same state.
    Agrees {
        /// The last index at which it was compared.
        at: LogIndex,
    },
    /// States differ and none has a majority: this node takes no writes.
    Held {
        /// Who differs, and after which entry.
        reason: String,
    },
    /// A majority has another state: this node stopped for good.
    Quarantined {
        /// Who differs, and after which entry.
        reason: String,
    },
}

/// This node's view of its group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// This node's Raft id, once it has one.
    pub node_id: Option<NodeId>,
    /// How far the start has come.
    pub phase: Phase,
    /// Raft term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Milliseconds since a quorum last acknowledged the leader; on a follower, since it last heard from it.
    pub quorum_ack_age_ms: Option<u64>,
    /// Last entry in the log.
    pub last_log: LogIndex,
    /// Last entry known to be committed.
    pub committed: LogIndex,
    /// Last entry applied here.
    pub applied: LogIndex,
    /// Last entry in the current snapshot.
    pub snapshot: LogIndex,
    /// Voters by id, of the effective membership.
    pub voters: Vec<NodeId>,
    /// Learners by id.
    pub learners: Vec<NodeId>,
    /// On the leader: every other member.
    pub peers: Vec<PeerStatus>,
    /// Hash of the state at `applied`.
    pub state_hash: Option<StateHash>,
    /// Whether that is the state of the others too.
    pub integrity: Integrity,
}

/// A member as the leader sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its id.
    pub id: NodeId,
    /// Last entry known to be in its log.
    pub matched: Option<LogIndex>,
    /// Entries it is behind.
    pub lag: u64,
    /// Milliseconds since it last acknowledged anything.
    pub last_ack_age_ms: Option<u64>,
}
