//! How commands and entries become bytes.
//!
//! Every encoding opens with a format byte and a kind. What is not known is an error that stops the node: an
//! entry that one node skips and another applies is the end of replication. Golden bytes of every released kind
//! stand in `tests/golden.rs`.

pub mod entry;
mod wire;

use bytes::Bytes;
use ovncp_state::Request;

pub use entry::{Entry, LogId, Vote, decode_entry, encode_entry, encode_entry_into};
pub use wire::{WireLogId, WireMembership, WireStoredMembership, WireVote};

/// Bytes of an encoded request or entry that may enter the log. A proposer refuses what is larger.
pub const ENTRY_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Format of the request envelope.
const REQUEST_FORMAT: u8 = 1;
/// A [`Request`] in postcard.
const REQUEST_KIND: u8 = 1;

/// Bytes that this version does not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("{what} ends after {len} bytes")]
    Short {
        /// What was being decoded.
        what: &'static str,
        /// How long it is.
        len: usize,
    },
    /// Written by another version.
    #[error("{what} has format {format} and kind {kind}, which this version does not know")]
    Unknown {
        /// What was being decoded.
        what: &'static str,
        /// Its format byte.
        format: u8,
        /// Its kind byte.
        kind: u8,
    },
    /// The payload does not decode.
    #[error("{what} does not decode: {source}")]
    Payload {
        /// What was being decoded.
        what: &'static str,
        /// Why.
        source: postcard::Error,
    },
    /// Bytes are left over.
    #[error("{what} has {left} bytes too many")]
    Trailing {
        /// What was being decoded.
        what: &'static str,
        /// How many.
        left: usize,
    },
    /// The values contradict each other.
    #[error("{what}: {problem}")]
    Invalid {
        /// What was being decoded.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Encodes a request as it stands in the log.
pub fn encode_request(request: &Request) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&[REQUEST_FORMAT, REQUEST_KIND]);
    Bytes::from(append(bytes, request))
}

/// Decodes a request of the log.
pub fn decode_request(bytes: &[u8]) -> Result<Request, CodecError> {
    let payload = open("request", bytes, REQUEST_FORMAT, |kind| kind == REQUEST_KIND)?;
    decode("request", payload.1)
}

/// Splits format, kind and payload, refusing what is not known.
fn open<'a>(
    what: &'static str,
    bytes: &'a [u8],
    format: u8,
    known: impl Fn(u8) -> bool,
) -> Result<(u8, &'a [u8]), CodecError> {
    match bytes {
        [found, kind, payload @ ..] if *found == format && known(*kind) => Ok((*kind, payload)),
        [format, kind, ..] => Err(CodecError::Unknown { what, format: *format, kind: *kind }),
        _ => Err(CodecError::Short { what, len: bytes.len() }),
    }
}

/// Decodes a postcard value that fills `bytes` to the end.
pub(crate) fn decode<'a, T: serde::Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, CodecError> {
    let (value, rest) =
        postcard::take_from_bytes(bytes).map_err(|source| CodecError::Payload { what, source })?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing { what, left: rest.len() }) }
}

/// Appends a postcard value.
pub(crate) fn append<T: serde::Serialize + ?Sized>(bytes: Vec<u8>, value: &T) -> Vec<u8> {
    // Our wire types are plain data: no map of unknown length, no custom serializer. A growing vector takes all.
    postcard::to_extend(value, bytes).expect("plain data serializes into a vector")
}
