//! How agreement can fail, as callers must tell it apart.

use ovncp_state::{NodeId, Version};

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader was reachable within the deadline and the proposal was never handed to one: nothing happened.
    #[error("no leader: fewer than a majority of the voters can be reached")]
    NoLeader {
        /// The last known leader, as a hint.
        last_known: Option<NodeId>,
    },
    /// A bounded queue is full; nothing happened.
    #[error("overloaded: {queue} is full")]
    Busy {
        /// Which queue.
        queue: &'static str,
    },
    /// Handed to a leader, outcome not seen in time. **It may have happened or may still happen.**
    #[error("outcome unknown: it may have happened; retry with the same idempotency key")]
    Unknown,
    /// The encoded command is larger than an entry may be; nothing happened.
    #[error("command of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Not every member understands this kind of command yet; nothing happened.
    #[error("needs version {needs} on every node, {}", why_not_yet(*.needs, *.cluster, .oldest))]
    NotYet {
        /// The version that brought it.
        needs: Version,
        /// What every member understands.
        cluster: Version,
        /// Name of a member that is older, or that was removed and still receives what is written.
        oldest: Option<String>,
    },
    /// This node stops, its storage failed, or it takes no writes because it may have a wrong state; nothing
    /// happened.
    #[error("this node is stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

fn why_not_yet(needs: Version, cluster: Version, oldest: &Option<String>) -> String {
    if needs > cluster {
        let because = oldest.as_ref().map_or_else(String::new, |name| format!(" because of {name}"));
        return format!("the cluster is at {cluster}{because}");
    }
    let name = oldest.as_deref().unwrap_or("a removed node");
    format!("and {name} was removed but still belongs to those that vote or listen")
}

/// Why a read could not be made linearizable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed its office within the deadline.
    #[error("no leader: fewer than a majority of the voters can be reached")]
    NoLeader {
        /// The last known leader, as a hint.
        last_known: Option<NodeId>,
    },
    /// This node did not catch up to the index in time.
    #[error("this node lags behind the asked index")]
    Lagging,
    /// A bounded queue is full.
    #[error("overloaded: {queue} is full")]
    Busy {
        /// Which queue.
        queue: &'static str,
    },
    /// This node stops or its storage failed.
    #[error("this node is stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a change of members or of the leader was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// No such member.
    #[error("unknown node")]
    UnknownNode,
    /// It would leave fewer healthy voters than a majority.
    #[error("refused: {reason}")]
    WouldLoseQuorum {
        /// Which voters would be left, and their health.
        reason: String,
    },
    /// Another change of members is under way.
    #[error("another membership change is under way")]
    InProgress,
    /// The target cannot lead: a learner, unreachable or lagging.
    #[error("target cannot lead: {reason}")]
    Unfit {
        /// Why.
        reason: String,
    },
    /// As for a proposal.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting, alone or against another, is impossible.
    #[error("setting {setting}: {problem}")]
    Settings {
        /// Which one, as the configuration names it.
        setting: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The data directory cannot be used: held by another process, damaged, of a newer format, or the disk
    /// fails. The message names the file.
    #[error("data directory {path}: {source}")]
    Storage {
        /// The directory.
        path: String,
        /// What storage says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The data directory belongs to another member of the same peer list.
    #[error("data directory {path} belongs to node {found}, but this node is called {name}")]
    WrongName {
        /// The directory.
        path: String,
        /// Name found in it.
        found: String,
        /// Name in the configuration.
        name: String,
    },
    /// The state in the data directory differed from the others' and must not be served.
    #[error("data directory {path} is kept for analysis and not used: {reason}")]
    Quarantined {
        /// The directory.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The cluster in the data directory has moved on to a later version.
    #[error("data directory {path}: this node has version {own}, its cluster {cluster}: start a newer one")]
    Outdated {
        /// The directory.
        path: String,
        /// What this node understands.
        own: Version,
        /// What every member understood when this directory was written.
        cluster: Version,
    },
    /// The peer listener cannot be opened.
    #[error("listen for peers on {addr}: {source}")]
    Listen {
        /// The address.
        addr: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Consensus refused what it found on disk.
    #[error("start consensus: {reason}")]
    Raft {
        /// What it says.
        reason: String,
    },
}
