//! Everything between peers.
//!
//! One byte stream per peer and purpose ([`Lane`]), so that a snapshot never delays an append, nor an append a
//! heartbeat; length-prefixed frames with a checksum ([`frame`]); a hand-shake that refuses what does not belong
//! together ([`handshake`], [`identity`]); openraft's network traits on top ([`client`]) and, on the other side,
//! the calls of a [`PeerHandler`] ([`serve`]).
//!
//! It relies on the byte-stream seam ([`Net`]) and on tokio's clock alone: the simulation runs this very code.
//! It does not encrypt, and it takes a peer's word for its identity: the peer port belongs on a private network
//! until TLS is built.
//!
//! | file | what |
//! | --- | --- |
//! | net | TCP, and the seam under it |
//! | frame, wire, message | bytes |
//! | conn | frames over a stream |
//! | identity, handshake, admission | who may talk to whom |
//! | dial, link, append, snapshot, client | the dialing side |
//! | server, lanes, handler | the listening side |
//!
//! Memory is bounded by [`limits`]; a queue that is full answers "busy" and a slow reader slows its writer down.

mod admission;
mod append;
pub mod client;
mod conn;
mod dial;
pub mod frame;
pub mod handler;
pub mod handshake;
pub mod identity;
mod lanes;
pub mod limits;
mod link;
pub mod message;
pub mod net;
pub mod server;
mod snapshot;
pub mod types;
pub mod wire;

pub use client::{CallError, DialError, NetworkOptions, PeerClient, PeerNetwork, PeerSight, Sights};
pub use handler::{NotServing, PeerHandler, SnapshotOffer, SnapshotSource};
pub use identity::{Directory, Identity, KnownMember, Lane, PeerIdentity, Refusal, Target};
pub use net::{Net, TcpNet};
pub use server::{SnapshotChunks, serve};
