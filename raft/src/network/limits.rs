//! Every bound of the transport on memory and connections, by name.

/// Bytes of one frame's body. Larger than any log entry can be.
pub const FRAME_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// Bytes of a hand-shake message: read before anything is known of the peer.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1_024;
