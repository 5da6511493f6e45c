//! Snapshots: the state as a file.
//!
//! A file is written beside the current one, synced, renamed and its directory synced; only then older ones go.
//! It is made of blocks, each with its length and a CRC that also covers its position; the first one says what
//! the snapshot is (log id, membership, state hash), the last one how many records there are. A file is taken
//! only when all of that, and the hash of the state built from it, agrees.
//!
//! Files travel to peers as they are: [`SnapshotFile`] is read in pieces of any size, [`SnapshotSink`] puts them
//! together again.

mod format;
mod store;

pub use format::SNAPSHOT_FORMAT;
pub use store::{SnapshotFile, SnapshotSink, SnapshotStore};

pub(crate) use format::{Header, Writer, load};

use openraft::alias::SnapshotMetaOf;

use crate::types::TypeConfig;

/// openraft's description of a snapshot.
pub type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
