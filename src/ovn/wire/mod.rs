//! The wire: JSON-RPC 1.0 as OVSDB speaks it, over TCP, TLS or a Unix socket.
//!
//! What is known here is bytes, messages and calls; what they mean is decided by the session above. Nothing in here
//! reconnects: a `Connection` lives once, and says of each call it leaves unanswered whether
//! the server can have seen it.
//!
//! - [`endpoint`] where a server listens, [`tls`] and [`transport`] how to get there;
//! - `framing` cuts the stream of bytes into JSON values, `message` into calls, answers and notifications;
//! - `connection` keeps calls apart, answers the server's probes and sends its own.

pub(crate) mod connection;
pub mod endpoint;
pub(crate) mod framing;
pub(crate) mod message;
pub mod tls;
pub mod transport;
