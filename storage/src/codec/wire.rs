//! Our own forms of openraft's values. Its serde types change with its versions; these do not.

use std::collections::{BTreeMap, BTreeSet};

use openraft::Membership;
use openraft::alias::{CommittedLeaderIdOf, StoredMembershipOf};
use openraft::impls::leader_id_std::LeaderId;
use ovncp_state::mutants::{self, Mutant};
use serde::{Deserialize, Serialize};

use super::CodecError;
use super::entry::{LogId, Vote};
use crate::types::{Peer, TypeConfig};

/// A log id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireLogId {
    /// Term of the leader that appended the entry.
    pub term: u64,
    /// Position.
    pub index: u64,
}

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        LogId { leader_id: CommittedLeaderIdOf::<TypeConfig>::new(id.term), index: id.index }
    }
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireVote {
    /// Term.
    pub term: u64,
    /// For whom.
    pub node: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Vote { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed }
    }
}

/// A membership of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireMembership {
    /// One set of voters, or two while a change is under way.
    pub configs: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    pub nodes: BTreeMap<u64, Peer>,
}

impl From<&Membership<u64, Peer>> for WireMembership {
    fn from(membership: &Membership<u64, Peer>) -> Self {
        Self {
            configs: match mutants::is(Mutant::SingleStepMembership) {
                true => membership.get_joint_config().last().cloned().into_iter().collect(),
                false => membership.get_joint_config().clone(),
            },
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        }
    }
}

impl TryFrom<WireMembership> for Membership<u64, Peer> {
    type Error = CodecError;

    fn try_from(wire: WireMembership) -> Result<Self, CodecError> {
        if wire.configs.is_empty() && wire.nodes.is_empty() {
            return Ok(Self::default());
        }
        Self::new(wire.configs, wire.nodes)
            .map_err(|error| CodecError::Invalid { what: "membership", problem: error.to_string() })
    }
}

/// A membership and the entry that it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireStoredMembership {
    /// Absent before the first one.
    pub log_id: Option<WireLogId>,
    /// The membership.
    pub membership: WireMembership,
}

type Stored = StoredMembershipOf<TypeConfig>;

impl From<&Stored> for WireStoredMembership {
    fn from(stored: &Stored) -> Self {
        Self { log_id: stored.log_id().map(WireLogId::from), membership: stored.membership().into() }
    }
}

impl TryFrom<WireStoredMembership> for Stored {
    type Error = CodecError;

    fn try_from(wire: WireStoredMembership) -> Result<Self, CodecError> {
        Ok(Self::new(wire.log_id.map(LogId::from), wire.membership.try_into()?))
    }
}
