//! What a node agreed to before its cluster exists, kept in the file `formation` of its data directory.
//!
//! The file is replaced as a whole and durable before the agreement is answered. It is private: it holds the
//! cluster key. After formation it stays as it is, and says who founded the cluster with whom.

use std::io;
use std::path::Path;

use ovncp_state::command::JoinNode;
use ovncp_state::{ClusterId, Incarnation, NodeId};
use ovncp_storage::disk::{Disk, File};
use serde::{Deserialize, Serialize};

use crate::network::message::FormationOffer;
use crate::shared::Membership;

const FILE: &str = "formation";
const FILE_NEW: &str = "formation.new";
const VERSION: u8 = 1;
/// Bytes of the file: 64 members with their labels fit many times over.
const FILE_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

/// An offer this node agreed to, or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreement {
    pub(crate) cluster_id: ClusterId,
    pub(crate) key: [u8; 32],
    pub(crate) roster: Vec<JoinNode>,
}

impl From<FormationOffer> for Agreement {
    fn from(offer: FormationOffer) -> Self {
        Self { cluster_id: offer.cluster_id, key: offer.key, roster: offer.roster }
    }
}

impl From<Agreement> for FormationOffer {
    fn from(agreement: Agreement) -> Self {
        Self { cluster_id: agreement.cluster_id, key: agreement.key, roster: agreement.roster }
    }
}

impl Agreement {
    /// The place this data directory has in it: its rank, from 1.
    pub(crate) fn place(&self, incarnation: Incarnation) -> Option<Membership> {
        let rank = self.roster.iter().position(|node| node.incarnation == incarnation)?;
        let node_id = NodeId(u64::try_from(rank).ok()? + 1);
        Some(Membership { cluster_id: self.cluster_id, node_id, key: self.key })
    }

    /// Members in rank order with their ids.
    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, &JoinNode)> {
        (1..).map(NodeId).zip(&self.roster)
    }

    /// Reads it back. A damaged file is an error: what was agreed must not be forgotten silently.
    pub(crate) fn load<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<Self>> {
        if !disk.read_dir(dir)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let path = dir.join(FILE);
        let damaged = |what: &str| {
            let message = format!("{} is damaged: {what}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let file = disk.open(&path)?;
        let len = file.len()?;
        if len > FILE_BYTES_MAX {
            return Err(damaged("it is too large"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        let (crc, body) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(damaged("its checksum does not match"));
        }
        match body.split_first() {
            Some((&VERSION, payload)) => {
                postcard::from_bytes(payload).map(Some).map_err(|error| damaged(&error.to_string()))
            }
            _ => Err(damaged("its version is not known")),
        }
    }

    /// Makes it durable.
    pub(crate) fn save<D: Disk>(&self, disk: &D, dir: &Path) -> io::Result<()> {
        let mut body = vec![VERSION];
        body.extend(postcard::to_stdvec(self).map_err(io::Error::other)?);
        let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
        bytes.extend(body);
        let beside = dir.join(FILE_NEW);
        let file = disk.create(&beside, true)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        disk.rename(&beside, &dir.join(FILE))?;
        disk.sync_dir(dir)
    }
}

#[cfg(test)]
mod tests {
    use ovncp_state::command::NodeInfo;
    use ovncp_storage::disk::RealDisk;

    use super::*;

    fn agreement() -> Agreement {
        let node = |name: &str, byte| JoinNode {
            name: name.to_owned(),
            incarnation: Incarnation([byte; 16]),
            info: NodeInfo::default(),
        };
        Agreement {
            cluster_id: ClusterId([7; 16]),
            key: [9; 32],
            roster: vec![node("a", 1), node("b", 2), node("c", 3)],
        }
    }

    #[test]
    fn it_survives_and_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Agreement::load(&RealDisk, dir.path()).unwrap(), None);
        let mut agreement = agreement();
        agreement.save(&RealDisk, dir.path()).unwrap();
        agreement.cluster_id = ClusterId([8; 16]);
        agreement.save(&RealDisk, dir.path()).unwrap();
        assert_eq!(Agreement::load(&RealDisk, dir.path()).unwrap(), Some(agreement));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        agreement().save(&RealDisk, dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[position] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            assert!(Agreement::load(&RealDisk, dir.path()).is_err(), "flip at {position}");
        }
        std::fs::write(&path, &whole[..3]).unwrap();
        assert!(Agreement::load(&RealDisk, dir.path()).is_err());
    }

    #[test]
    fn a_place_belongs_to_a_data_directory_and_not_to_a_name() {
        let agreement = agreement();
        let place = agreement.place(Incarnation([2; 16])).unwrap();
        assert_eq!((place.cluster_id, place.node_id), (ClusterId([7; 16]), NodeId(2)));
        assert_eq!(agreement.place(Incarnation([4; 16])), None);
    }
}
