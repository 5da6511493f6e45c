//! What survives a restart: the Raft log and vote, snapshots, the data directory and its version.
//!
//! [`open`] gives a [`Store`]: the log and the state machine in openraft's traits, and the [`Replica`] that
//! readers look at. This crate relies on [`disk`] alone for all I/O and decides nothing about what commands
//! mean (`ovncp-state`) or who leads (`ovncp-raft`).
//!
//! Whatever goes wrong with the disk stops the node and names the file; see [`error`]. Nothing damaged is cut
//! off, skipped or replaced by an empty value.
//!
//! Map: [`data_dir`] whose directory it is, [`wal`] log and vote, [`machine`] decode and apply, [`snapshot`]
//! the state as a file, [`codec`] how commands and entries become bytes, [`disk`] real and simulated disks,
//! [`runtime`] and [`types`] openraft's configuration, [`sink`] where applied entries go, [`stats`] for metrics.

pub mod codec;
pub mod data_dir;
pub mod disk;
pub mod error;
#[cfg(feature = "mutants")]
mod hasty;
pub mod machine;
pub mod runtime;
pub mod sink;
#[cfg(feature = "sled")]
pub mod sled;
pub mod snapshot;
pub mod stats;
pub mod store;
pub mod types;
pub mod wal;

pub use data_dir::DataDir;
pub use error::{FailureKind, StorageError, StorageFailure};
pub use machine::{Checkpoint, Machine, Replica};
pub use snapshot::{SnapshotFile, SnapshotSink, SnapshotStore};
pub use stats::StorageStats;
pub use store::{Store, StoreOptions, open};
pub use wal::{LogReader, LogStore, WriterMode};
