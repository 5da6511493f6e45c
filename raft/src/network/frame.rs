//! Frames: a header of 17 bytes and a body.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | length of the body, little endian |
//! | 4 | kind |
//! | 5..13 | id: ties an answer to its request |
//! | 13..17 | CRC-32 of the 13 bytes before and of the body |
//!
//! The decoder allocates as bytes arrive, never by what a header announces.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the body.
pub const HEADER_BYTES: usize = 17;
const CHECKED_BYTES: usize = 13;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a frame carries. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $value,)*
        }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// First message of the dialer.
    Hello = 1,
    /// The dialer is welcome.
    Welcome = 2,
    /// The dialer is refused.
    Refused = 3,
    /// Last message before a connection is closed for a violation of the protocol.
    Fault = 4,
    /// Are you there?
    Ping = 5,
    /// I am.
    Pong = 6,
    /// Answer to any call: not done, and why.
    Declined = 7,
    /// Answer to any call: it may or may not have been done.
    Unknown = 8,
    /// Entries to append.
    Append = 16,
    /// Answer to `Append`.
    AppendAnswer = 17,
    /// A heartbeat.
    Heartbeat = 32,
    /// Answer to `Heartbeat`.
    HeartbeatAnswer = 33,
    /// A vote is asked for.
    Vote = 34,
    /// Answer to `Vote`.
    VoteAnswer = 35,
    /// Would you vote for me?
    PreVote = 36,
    /// Answer to `PreVote`.
    PreVoteAnswer = 37,
    /// Leadership is handed over.
    Transfer = 38,
    /// Answer to `Transfer`.
    TransferAnswer = 39,
    /// A snapshot begins.
    SnapshotOffer = 48,
    /// A piece of it.
    SnapshotChunk = 49,
    /// It is complete.
    SnapshotEnd = 50,
    /// It was installed, or not.
    SnapshotAnswer = 51,
    /// Proposals for the leader.
    Forward = 64,
    /// Answer to `Forward`.
    ForwardAnswer = 65,
    /// Renewals for the leader.
    Renew = 66,
    /// Answer to `Renew`.
    RenewAnswer = 67,
    /// A read index is asked for.
    ReadIndex = 68,
    /// Answer to `ReadIndex`.
    ReadIndexAnswer = 69,
    /// A question of formation or joining.
    Control = 80,
    /// Answer to `Control`.
    ControlAnswer = 81,
}

/// One message. The body shares memory with the connection's read buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// Which request it is or answers.
    pub id: u64,
    /// The message.
    pub body: Bytes,
}

/// Bytes that are no frame. The connection cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed here.
    #[error("frame of {len} bytes, {max} are allowed")]
    TooLong {
        /// Announced length.
        len: usize,
        /// Bound.
        max: usize,
    },
    /// The checksum does not match.
    #[error("frame with a wrong checksum")]
    Checksum,
    /// From another version, perhaps.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
}

/// Appends a frame to `out`; `body` appends its body.
pub fn encode(out: &mut BytesMut, kind: Kind, id: u64, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    body(out);
    let frame = &mut out[start..];
    let len = u32::try_from(frame.len() - HEADER_BYTES).expect("bodies are bounded far below 4 GiB");
    frame[0..4].copy_from_slice(&len.to_le_bytes());
    frame[4] = kind as u8;
    frame[5..13].copy_from_slice(&id.to_le_bytes());
    let crc = checksum(frame);
    frame[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the next frame off the front of `input`, if all of it is there. Bodies are at most `max` bytes.
pub fn decode(input: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let mut fields = &header[..];
    let len = fields.get_u32_le() as usize;
    let kind = fields.get_u8();
    let id = fields.get_u64_le();
    let crc = fields.get_u32_le();
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    if input.len() < HEADER_BYTES + len {
        return Ok(None);
    }
    if checksum(&input[..HEADER_BYTES + len]) != crc {
        return Err(FrameError::Checksum);
    }
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
    let mut body = input.split_to(HEADER_BYTES + len).freeze();
    body.advance(HEADER_BYTES);
    Ok(Some(Frame { kind, id, body }))
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CHECKED_BYTES]);
    hasher.update(&frame[HEADER_BYTES..]);
    hasher.finalize()
}
