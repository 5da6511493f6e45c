//! What members understand, and what all of them do: the version of the cluster.
//!
//! A new kind of command comes with a new minor version ([`Command::since`](crate::Command::since)). A node proposes it
//! only when the cluster's version has reached that: every member reported as much, so every member can apply it. The
//! version of the cluster never falls. What has been allowed once may stand in logs and snapshots, so nodes that are
//! older are not admitted any more, and a member that comes back older is refused.
//!
//! Patch versions do not count: releases of one minor version read and write the same.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::membership::NodeRecord;
use crate::{NodeId, Refusal, State};

/// Major and minor part of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Before the first dot.
    pub major: u16,
    /// Behind it.
    pub minor: u16,
}

impl Version {
    /// The first one. Whatever cannot be read counts as this.
    pub const BASE: Version = Version::new(0, 1);
    pub(crate) const TAG: u8 = 8;

    /// A version by its parts.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// From the version of a binary, such as `0.2.1` or `1.0.0-rc.1`; [`Version::BASE`] when it cannot be read.
    pub fn of(binary: &str) -> Self {
        let mut parts = binary.split('.').map(|part| part.parse().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) => Self { major, minor }.max(Self::BASE),
            _ => Self::BASE,
        }
    }
}

impl Default for Version {
    fn default() -> Self {
        Self::BASE
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl NodeRecord {
    fn understands(&self) -> Version {
        Version::of(&self.info.version)
    }
}

impl State {
    /// The version that every member has reached: commands of later ones are not proposed yet.
    pub fn cluster_version(&self) -> Version {
        self.version
    }

    /// The member that keeps the cluster's version where it is: one of the oldest.
    pub fn oldest_member(&self) -> Option<NodeId> {
        self.live_nodes().min_by_key(|node| (node.understands(), node.id)).map(|node| node.id)
    }

    /// Whether `id` is a live member that understands what came with version `needs`. One that is not known, or has
    /// left, does not: nobody refuses it any more should its binary be older.
    pub fn understands(&self, id: NodeId, needs: Version) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_live() && node.understands() >= needs)
    }

    /// Raises the cluster's version to what all members understand, after any of them changed or left.
    pub(crate) fn raise_version(&mut self) {
        if let Some(lowest) = self.live_nodes().map(NodeRecord::understands).min() {
            self.version = self.version.max(lowest);
        }
    }

    /// Refuses a node that could not apply what the cluster may have in its log already.
    pub(crate) fn check_version(&self, binary: &str) -> Result<(), Refusal> {
        let (node, cluster) = (Version::of(binary), self.version);
        if node < cluster { Err(Refusal::Outdated { node, cluster }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_and_minor_count_and_what_cannot_be_read_is_the_oldest() {
        for (text, version) in [
            ("0.1.0", Version::BASE),
            ("0.1.9", Version::BASE),
            ("0.2.0-rc.1", Version::new(0, 2)),
            ("1.0.0", Version::new(1, 0)),
            ("0.10.3", Version::new(0, 10)),
            ("", Version::BASE),
            ("0.0.7", Version::BASE),
            ("main", Version::BASE),
            ("1", Version::BASE),
            ("99999999.1.0", Version::BASE),
        ] {
            assert_eq!(Version::of(text), version, "{text:?}");
        }
        assert!(Version::new(0, 10) > Version::new(0, 9) && Version::new(1, 0) > Version::new(0, 10));
    }
}
