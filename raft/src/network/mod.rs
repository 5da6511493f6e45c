//! Everything between peers: one byte stream per peer and purpose ([`Lane`]), length-prefixed frames with a
//! checksum, a hand-shake that refuses what does not belong together, and openraft's network traits on top.

pub mod client;
pub mod handler;
pub mod identity;
pub mod limits;
pub mod message;
pub mod net;
pub mod server;
pub mod types;

pub use client::{CallError, DialError, NetworkOptions, PeerClient, PeerNetwork, PeerSight, Sights};
pub use handler::{NotServing, PeerHandler, SnapshotOffer, SnapshotSource};
pub use identity::{Directory, Identity, KnownMember, Lane, PeerIdentity, Refusal, Target};
pub use net::{Net, TcpNet};
pub use server::{SnapshotChunks, serve};
