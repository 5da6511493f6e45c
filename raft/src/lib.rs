//! Agreement: the Raft group, its formation and membership, and the transport between peers.
//!
//! [`Group`] is all that the rest of the product sees: propose, read, wait, start, stop. Everything that
//! speaks to openraft lives in this crate, so that a change of engine stays behind this door.
//!
//! Map, along the way of a write: `group` takes it, `callers` gives it a ticket, `proposals` carries it to the
//! leader and retries what is certain to be lost, `clock` stamps it there, `consensus` is all that is asked of
//! openraft, and `observer` answers the caller from this node's own apply. Beside it: `reads`, `renewals` and
//! [`waiters`]. Who leads is `office`'s business; what a leader does is in `duties` (`ticker`, `failure`,
//! `membership`); `formation`, `agreement` and `seat` say how a cluster comes to be and who belongs to it;
//! `failover`, `transfer` and `lookout` what happens when leaders or members go; `counters` what is counted of it. [`network`] is the transport,
//! `engine` the one part that is generic over disk and network, `start` puts everything together.

mod agreement;
mod callers;
mod clock;
mod consensus;
mod counters;
mod duties;
mod engine;
pub mod error;
mod failover;
mod failure;
mod formation;
pub mod group;
mod integrity;
mod lookout;
mod membership;
pub mod network;
mod observer;
mod office;
mod peers;
mod proposals;
mod reads;
mod removal;
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

pub use counters::{GroupCounters, READ_OUTCOMES, WRITE_OUTCOMES};
pub use error::{MembershipError, ProposeError, ReadError, StartError};
pub use group::{Committed, Group, Identity};
pub use observer::Observer;
pub use settings::{GroupConfig, SnapshotSettings, StaticPeer, Timing};
pub use status::{GroupStatus, Integrity, PeerStatus, Phase};
pub use waiters::WaiterHandle;
