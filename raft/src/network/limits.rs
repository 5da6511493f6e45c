//! Every bound of the transport on memory and connections, by name.

use ovncp_storage::codec::ENTRY_BYTES_MAX;

use super::identity::Lane;

/// Bytes of one frame's body, on the lanes that carry entries and snapshots.
pub const FRAME_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// The same on the control lane, which is open to nodes that are no members.
pub const CONTROL_FRAME_BYTES_MAX: usize = 1_024 * 1_024;
/// The same on the heartbeat lane, which carries no entries.
pub const HEARTBEAT_FRAME_BYTES_MAX: usize = 64 * 1_024;
/// Bytes of a hand-shake message: read before anything is known of the peer.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1_024;
/// Size of a block of the read buffer. A frame's memory grows with what arrives, not with what its header
/// announces.
pub const READ_BYTES: usize = 64 * 1_024;
/// A read that has less room than this takes a new block.
pub const READ_BYTES_MIN: usize = 4 * 1_024;
/// A connection takes no further message while this much waits to be written.
pub const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1_024;
/// An empty write buffer larger than this is given back.
pub const IDLE_BUFFER_BYTES_MAX: usize = 1_024 * 1_024;

/// Entries of one append are split over several frames beyond this size.
pub const APPEND_FRAME_BYTES: usize = 1_024 * 1_024;
/// Append frames in flight on one connection. Part of the protocol: a peer that sends more is cut off.
pub const APPENDS_IN_FLIGHT_MAX: usize = 128;
/// Bytes of append frames in flight on one connection, before the last one.
pub const APPEND_BYTES_IN_FLIGHT_MAX: usize = 8 * 1_024 * 1_024;

/// Calls in flight on one heartbeat or forward connection. Part of the protocol, as above.
pub const CALLS_IN_FLIGHT_MAX: usize = 256;
/// Calls that wait for such a connection.
pub const CALLS_QUEUED_MAX: usize = 256;
/// Proposals or renewals in one forwarded batch.
pub const FORWARD_ITEMS_MAX: usize = 4_096;

/// Bytes of one piece of a snapshot.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1_024;
/// Pieces received and not yet taken by the state machine.
pub const SNAPSHOT_CHUNKS_QUEUED_MAX: usize = 4;

/// Inbound connections in all.
pub const CONNECTIONS_MAX: usize = 512;
/// Inbound connections that have not finished their hand-shake.
pub const HANDSHAKES_MAX: usize = 64;
/// Inbound connections of one member on one lane. A further one closes the oldest: behind a broken network that
/// one may be dead without anybody having been told.
pub const CONNECTIONS_PER_LANE_MAX: usize = 4;
/// Inbound control connections of everybody.
pub const CONTROL_CONNECTIONS_MAX: usize = 64;
/// Members whose starts are remembered.
pub const MEMBERS_SEEN_MAX: usize = 1_024;

/// Bytes of one frame's body on a lane.
pub const fn frame_bytes_max(lane: Lane) -> usize {
    match lane {
        Lane::Append | Lane::Snapshot | Lane::Forward => FRAME_BYTES_MAX,
        Lane::Heartbeat => HEARTBEAT_FRAME_BYTES_MAX,
        Lane::Control => CONTROL_FRAME_BYTES_MAX,
    }
}

const _: () = {
    // An entry fits into a frame, whatever else the frame carries.
    assert!(ENTRY_BYTES_MAX + 64 * 1_024 <= FRAME_BYTES_MAX);
    assert!(APPEND_FRAME_BYTES <= APPEND_BYTES_IN_FLIGHT_MAX);
    assert!(SNAPSHOT_CHUNK_BYTES <= FRAME_BYTES_MAX);
    assert!(HANDSHAKES_MAX < CONNECTIONS_MAX);
};
