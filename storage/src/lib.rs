//! What survives a restart: the Raft log and vote, snapshots, the data directory and its version.

pub mod codec;
pub mod data_dir;
pub mod disk;
pub mod error;
pub mod runtime;
pub mod sink;
pub mod types;

pub use data_dir::DataDir;
pub use error::{FailureKind, StorageError, StorageFailure};
