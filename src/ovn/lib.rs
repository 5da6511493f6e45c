//! OVN's databases.
//!
//! This crate speaks OVSDB ([RFC 7047](https://www.rfc-editor.org/rfc/rfc7047) and the extensions of ovsdb-server(7))
//! and knows what OVN makes of it. It knows nothing of ovncp: no Raft, no HTTP, no configuration.
//!
//! # Map
//!
//! - Pure: [`value`] what a column holds, [`schema`] what it may hold, [`contents`] the replica of a database,
//!   [`operation`] what a transaction does, [`error`] why it did not, [`topology`] what is connected
//!   to what, [`backup`] a database as a document and back.
//! - [`database`]: the handle. Behind it `session` keeps one connection up, over [`wire`], `updates` reads what it brings; [`changes`] is the stream of
//!   what happened, [`metrics`] what is counted.
//! - [`writer`] sends the requests of many callers as few transactions; [`fence`] keeps out whose lock is gone,
//!   [`marker`] what has happened before; [`barrier`] waits until a write has come far enough.
//! - [`resource`]: tables as resources of an API, from requests to transactions and from rows to JSON.
//! - Programs: [`unixctl`] asks a running one, [`trace`] what would become of a packet, [`lab`] runs a private OVN for
//!   development and tests.

pub mod backup;
pub mod barrier;
pub mod changes;
pub mod contents;
pub mod database;
pub mod error;
pub mod fence;
pub mod lab;
pub mod marker;
pub mod metrics;
pub mod operation;
pub mod resource;
pub mod schema;
mod session;
pub mod topology;
pub mod trace;
pub mod unixctl;
mod updates;
pub mod value;
pub mod wire;
pub mod writer;

pub use session::selection::TableSelection;
pub use uuid::Uuid;
