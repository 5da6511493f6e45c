//! Agreement: the Raft group, its formation and membership, and the transport between peers.

pub mod error;
pub mod network;
pub mod status;
