//! Agreement: the Raft group, its formation and membership, and the transport between peers.
//!
//! [`Group`] is all that the rest of the product sees: propose, read, wait, start, stop. Everything that
//! speaks to openraft lives in this crate, so that a change of engine stays behind this door.

mod agreement;
mod callers;
mod clock;
mod consensus;
mod duties;
mod engine;
pub mod error;
mod failover;
mod failure;
mod formation;
pub mod group;
mod lookout;
mod membership;
pub mod network;
mod observer;
mod office;
mod peers;
mod proposals;
mod reads;
mod renewals;
mod report;
mod seat;
pub mod settings;
mod shared;
mod start;
pub mod status;
mod ticker;
mod transfer;
pub mod waiters;

pub use error::{MembershipError, ProposeError, ReadError, StartError};
pub use group::{Committed, Group, Identity};
pub use observer::Observer;
pub use settings::{GroupConfig, SnapshotSettings, StaticPeer, Timing};
pub use status::{GroupStatus, PeerStatus, Phase};
pub use waiters::WaiterHandle;
