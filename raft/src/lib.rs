//! Agreement: the Raft group, its formation and membership, and the transport between peers.
//!
//! [`Group`] is all that the rest of the product sees: propose, read, wait, start, stop. Everything that
//! speaks to openraft lives in this crate, so that a change of engine stays behind this door.

pub mod error;
pub mod group;
pub mod network;
pub mod settings;
mod solo;
pub mod status;
pub mod waiters;

pub use error::{MembershipError, ProposeError, ReadError, StartError};
pub use group::{Committed, Group, Identity};
pub use settings::{GroupConfig, SnapshotSettings, StaticPeer, Timing};
pub use status::{GroupStatus, PeerStatus, Phase};
pub use waiters::WaiterHandle;
