//! Who is at each end of a connection, and why an end refuses the other.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use ovncp_state::{ClusterId, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

/// A purpose of a connection. Each has its own, so that none delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Log entries from the leader, pipelined.
    Append,
    /// Heartbeats, votes, pre-votes and the transfer of leadership: small and urgent.
    Heartbeat,
    /// Snapshots: large and slow.
    Snapshot,
    /// Proposals, renewals and read-index requests to the leader.
    Forward,
    /// Formation and joining, also between nodes that know no cluster yet.
    Control,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Heartbeat => "heartbeat",
            Self::Snapshot => "snapshot",
            Self::Forward => "forward",
            Self::Control => "control",
        })
    }
}

/// How a node presents itself to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// Its cluster, once it knows one.
    pub cluster_id: Option<ClusterId>,
    /// Its Raft id, once it has one.
    pub id: Option<NodeId>,
    /// Stable name.
    pub name: String,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// Starts of that data directory.
    pub boot: u64,
    /// Random per process: tells two processes on copies of one directory apart.
    pub process: u64,
}

/// Whom a dialer means to reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The member it looks for.
    pub id: Option<NodeId>,
    /// Its stable name.
    pub name: Option<String>,
    /// The data directory the dialer knows for that id: a node with a wiped disk must not answer for its
    /// former self.
    pub incarnation: Option<Incarnation>,
}

/// Why one end refuses the other. Travels to the dialer and into its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No protocol version in common.
    #[error("speaks peer protocol {min} to {max}")]
    Version {
        /// Oldest version spoken.
        min: u16,
        /// Newest version spoken.
        max: u16,
    },
    /// It belongs to another cluster.
    #[error("belongs to cluster {theirs}, not {asked}")]
    WrongCluster {
        /// Cluster of the refusing node.
        theirs: ClusterId,
        /// Cluster of the dialer.
        asked: ClusterId,
    },
    /// It belongs to a cluster and the dialer to none (or the other way round): only the control lane is open.
    #[error("only the control lane is open: one of the two belongs to no cluster and is no known member")]
    NotMember,
    /// Another node listens at this address.
    #[error("is {name} (id {id:?}), not the node that was dialed")]
    WrongTarget {
        /// Name of the refusing node.
        name: String,
        /// Its id.
        id: Option<NodeId>,
    },
    /// The dialer reached itself.
    #[error("a node dialed itself")]
    SelfDial,
    /// Two nodes are configured with one name.
    #[error("has the same name: {name}")]
    SameName {
        /// The name.
        name: String,
    },
    /// The id is known with another data directory: a wiped node must join anew.
    #[error("node {id} is known with data directory {known}, not {presented}")]
    OtherIncarnation {
        /// The contested id.
        id: NodeId,
        /// The data directory known for it.
        known: Incarnation,
        /// The one presented.
        presented: Incarnation,
    },
    /// A later start of the same data directory was seen: the presenter is an old process or an old copy.
    #[error(
        "node {id} was seen with start {known}, not {presented}: an old process or a copied data directory"
    )]
    StaleBoot {
        /// The contested id.
        id: NodeId,
        /// Highest start seen.
        known: u64,
        /// The one presented.
        presented: u64,
    },
    /// Another process of the same id is alive: a copied data directory.
    #[error("another process of node {id} is alive: a copied data directory")]
    SecondProcess {
        /// The contested id.
        id: NodeId,
    },
    /// Too many connections.
    #[error("too many connections ({limit})")]
    TooManyConnections {
        /// Name of the bound.
        limit: String,
    },
    /// Not a hand-shake, or not a valid one.
    #[error("hand-shake not understood")]
    BadHandshake,
    /// It is stopping.
    #[error("is stopping")]
    Stopping,
}

/// What the replicated state knows of a member, to compare with what a peer presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMember {
    /// Stable name.
    pub name: String,
    /// Data directory.
    pub incarnation: Incarnation,
    /// Starts of it, as last reported.
    pub boot: u64,
}

/// Looks members up, for the hand-shake. Must be quick: it is called for each connection.
pub trait Directory: Send + Sync + 'static {
    /// The member with this id, if the state knows one.
    fn member(&self, id: NodeId) -> Option<KnownMember>;
}

/// Knows nobody; for tests and before a state exists.
impl Directory for () {
    fn member(&self, _id: NodeId) -> Option<KnownMember> {
        None
    }
}

/// This node, as it presents itself. Cluster and id become known while it runs.
#[derive(Debug)]
pub struct Identity {
    name: String,
    incarnation: Incarnation,
    boot: u64,
    process: u64,
    membership: RwLock<(Option<ClusterId>, Option<NodeId>)>,
}

impl Identity {
    /// `process` is random per process (from a seeded source in simulation).
    pub fn new(name: String, incarnation: Incarnation, boot: u64, process: u64) -> Self {
        Self { name, incarnation, boot, process, membership: RwLock::new((None, None)) }
    }

    /// Connections made from now on present these.
    pub fn set_membership(&self, cluster_id: Option<ClusterId>, id: Option<NodeId>) {
        *self.membership.write().unwrap_or_else(PoisonError::into_inner) = (cluster_id, id);
    }

    /// Stable name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Raft id, once known.
    pub fn id(&self) -> Option<NodeId> {
        self.membership.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// What is presented now.
    pub fn present(&self) -> PeerIdentity {
        let (cluster_id, id) = *self.membership.read().unwrap_or_else(PoisonError::into_inner);
        PeerIdentity {
            cluster_id,
            id,
            name: self.name.clone(),
            incarnation: self.incarnation,
            boot: self.boot,
            process: self.process,
        }
    }
}
