//! Records: what the stream of a segment consists of, byte by byte.
//!
//! ```text
//! 0   4  CRC32 of bytes 4..24
//! 4   4  CRC32 of the payload
//! 8   4  bytes of payload
//! 12  4  durable: everything before this offset of the segment was synced when the record was written
//! 16  4  number of the segment
//! 20  1  kind
//! 21  3  zero
//! 24     payload
//! ```
//!
//! Both checksums start from a salt of the data directory, so that neither a segment of another directory nor a
//! client's value that imitates a record is taken for one of ours.
//!
//! The segment number makes records of an earlier use of the same blocks invalid. `durable` is what tells damage
//! from a torn tail: a record that lies before the `durable` of any later one had reached the disk whole, so if
//! it is bad now, bytes rotted; what no later record vouches for may be a write that a power loss cut short.

use ovncp_state::mutants::{self, Mutant};
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, WireLogId, WireVote, decode};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 24;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First record of a segment: everything that must survive the removal of the segments before it.
    Head = 1,
    /// A log entry.
    Entry = 2,
    /// The vote.
    Vote = 3,
    /// The committed log id.
    Committed = 4,
    /// Entries after this log id are gone.
    Truncate = 5,
    /// Entries up to this log id are not needed any more.
    Purge = 6,
    /// Last record of a segment: the log goes on in the next one, which therefore must exist.
    Seal = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Head,
            2 => Self::Entry,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::Seal,
            _ => return None,
        })
    }
}

/// Payload of [`Kind::Head`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Version of the segment format.
    pub(super) format: u32,
    /// Bytes of this segment.
    pub(super) segment_bytes: u64,
    /// As of all records before this segment.
    pub(super) vote: Option<WireVote>,
    /// Likewise.
    pub(super) committed: Option<WireLogId>,
    /// Likewise.
    pub(super) purged: Option<WireLogId>,
    /// Likewise.
    pub(super) last: Option<WireLogId>,
}

/// Version of the segment format.
pub(super) const SEGMENT_FORMAT: u32 = 2;

/// What every record of a segment has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Of the data directory.
    pub(super) salt: u32,
}

impl Stamp {
    pub(super) fn crc(self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.salt);
        crc.update(bytes);
        crc.finalize()
    }
}

/// Appends one record. `payload` writes its bytes behind the header.
pub(super) fn put(
    bytes: &mut Vec<u8>,
    kind: Kind,
    stamp: Stamp,
    durable: u32,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEADER_BYTES]);
    payload(bytes);
    let (header, payload) = bytes[start..].split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&header_of(
        kind,
        stamp,
        durable,
        payload.len(),
        payload_crc(stamp.salt, payload, &[]),
    ));
}

/// The checksum of a payload, which may come in two parts; it does not depend on where the record will stand.
pub(super) fn payload_crc(salt: u32, head: &[u8], rest: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(head);
    crc.update(rest);
    crc.finalize()
}

/// What stands before a payload with this length and checksum.
pub(super) fn header_of(kind: Kind, stamp: Stamp, durable: u32, len: usize, crc: u32) -> [u8; HEADER_BYTES] {
    let len = u32::try_from(len).expect("a record is shorter than its segment");
    let mut header = [0; HEADER_BYTES];
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..16].copy_from_slice(&durable.to_le_bytes());
    header[16..20].copy_from_slice(&stamp.segment.to_le_bytes());
    header[20] = kind as u8;
    let crc = stamp.crc(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    header
}

/// What stands at some place of a segment.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    /// A good record.
    Record(Record<'a>),
    /// Nothing was written here: zeroes, or the end of the segment.
    Blank,
    /// Something that is not a good record of this segment.
    Bad {
        /// Why.
        what: &'static str,
        /// How far it reaches, as far as can be told.
        extent: usize,
    },
}

/// A good record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) durable: u32,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes of header and payload.
    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Reads the record at the start of `bytes`, which reach to the end of the segment.
pub(super) fn parse(bytes: &[u8], stamp: Stamp) -> Parsed<'_> {
    let bad = |what, extent| Parsed::Bad { what, extent };
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return if is_blank(bytes) { Parsed::Blank } else { bad("record header is cut off", bytes.len()) };
    };
    if is_blank(header) {
        return Parsed::Blank;
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(0) != stamp.crc(&header[4..]) && !mutants::is(Mutant::CrcIgnored) {
        return bad("record header checksum does not match", HEADER_BYTES);
    }
    if word(16) != stamp.segment {
        return bad("record belongs to another segment", HEADER_BYTES);
    }
    let len = word(8) as usize;
    let Some(payload) = rest.get(..len) else {
        return bad("record is longer than its segment", HEADER_BYTES);
    };
    if word(4) != stamp.crc(payload) && !mutants::is(Mutant::CrcIgnored) {
        return bad("record checksum does not match", HEADER_BYTES + len);
    }
    match Kind::from_byte(header[20]) {
        Some(kind) => Parsed::Record(Record { kind, durable: word(12), payload }),
        None => bad("record is of an unknown kind", HEADER_BYTES + len),
    }
}

/// Decodes the payload of a record.
pub(super) fn payload<'a, T: Deserialize<'a>>(record: &Record<'a>) -> Result<T, CodecError> {
    decode("log record", record.payload)
}

/// Whether a good record after `offset` vouches that everything before it, and `offset` with it, was synced.
/// Looks at every byte, because the length of a bad record cannot be trusted.
pub(super) fn vouched_for(segment: &[u8], offset: usize, stamp: Stamp) -> Option<usize> {
    let needle = stamp.segment.to_le_bytes();
    let mut at = offset + 1;
    while at + HEADER_BYTES <= segment.len() {
        // The segment number at its place is a cheap first test.
        if segment[at + 16..at + 20] == needle
            && let Parsed::Record(record) = parse(&segment[at..], stamp)
        {
            if record.durable as usize > offset {
                return Some(at);
            }
            at += record.bytes();
            continue;
        }
        at += 1;
    }
    None
}

/// Whether there is nothing but zeroes.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { segment: 7, salt: 99 };

    fn segment(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Entry, STAMP, 0, |bytes| bytes.extend_from_slice(payload));
        bytes
    }

    #[test]
    fn a_record_is_read_back_and_every_flipped_bit_is_noticed() {
        let good = segment(b"some payload");
        match parse(&good, STAMP) {
            Parsed::Record(record) => {
                assert_eq!((record.kind, record.payload), (Kind::Entry, &b"some payload"[..]))
            }
            other => panic!("{other:?}"),
        }
        for other in [Stamp { segment: 8, ..STAMP }, Stamp { salt: 98, ..STAMP }] {
            assert!(matches!(parse(&good, other), Parsed::Bad { .. }));
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(parse(&bad, STAMP), Parsed::Bad { .. }), "bit {bit}");
        }
    }

    #[test]
    fn records_have_their_golden_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let kinds = [
            (Kind::Head, 1),
            (Kind::Entry, 2),
            (Kind::Vote, 3),
            (Kind::Committed, 4),
            (Kind::Truncate, 5),
            (Kind::Purge, 6),
            (Kind::Seal, 7),
        ];
        for (kind, byte) in kinds {
            let mut bytes = Vec::new();
            put(&mut bytes, kind, STAMP, 513, |bytes| bytes.extend_from_slice(b"abc"));
            assert_eq!(hex(&bytes[8..]), format!("030000000102000007000000{byte:02x}000000616263"));
            assert_eq!(Kind::from_byte(byte), Some(kind));
        }
        let id = |term, index| Some(WireLogId { term, index });
        let head = Head {
            format: SEGMENT_FORMAT,
            segment_bytes: 8 << 20,
            vote: Some(WireVote { term: 5, node: 2, committed: true }),
            committed: id(4, 300),
            purged: id(3, 200),
            last: id(5, 301),
        };
        assert_eq!(
            hex(&crate::codec::append(Vec::new(), &head)),
            "0280808004010502010104ac020103c8010105ad02"
        );
    }

    #[test]
    fn only_a_later_record_of_a_later_sync_vouches() {
        let mut bytes = segment(b"first");
        let second = bytes.len();
        put(&mut bytes, Kind::Entry, STAMP, 0, |bytes| bytes.extend_from_slice(b"same sync"));
        assert_eq!(vouched_for(&bytes, 0, STAMP), None);
        let third = bytes.len();
        put(&mut bytes, Kind::Vote, STAMP, third as u32, |bytes| bytes.extend_from_slice(b"next sync"));
        assert_eq!(vouched_for(&bytes, 0, STAMP), Some(third));
        assert_eq!(vouched_for(&bytes, second, STAMP), Some(third));
        assert_eq!(vouched_for(&bytes, third, STAMP), None);
    }
}
