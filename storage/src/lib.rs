//! What survives a restart: the Raft log and vote, snapshots, the data directory and its version.

pub mod runtime;
pub mod sink;
pub mod types;
