//! Entries on their way to records, and in the cache.
//!
//! Whoever appends encodes what stands before each envelope and computes the checksum, beside the writer's wait for the
//! disk. The envelopes themselves, which are most of it, stay where they are until the writer lays them out for the disk:
//! that is the only copy of them. Writer and cache share what was appended.

use std::sync::Arc;

use openraft::EntryPayload;

use super::record::payload_crc;
use crate::codec::entry::{encode_head_into, weight};
use crate::codec::{Entry, LogId, encode_entry};

/// A larger append is cut into pieces that weigh at least so much: what the cache forgets at once, and what the writer
/// may already write while the rest is encoded.
const PIECE_WEIGHT_MIN: usize = 256 * 1_024;
/// Pieces of one append at most.
const PIECES_MAX: usize = 64;
/// What stands before an envelope: format, kind, and up to five varints that are mostly short.
const HEAD_BYTES: usize = 24;

/// The entries of one append, or a piece of a large one.
#[derive(Debug)]
pub(super) struct Encoded {
    entries: Vec<Entry>,
    /// What stands before each envelope, one after the other.
    heads: Vec<u8>,
    parts: Vec<Part>,
    weight: usize,
}

#[derive(Debug)]
struct Part {
    /// Where the next entry's part of the heads begins.
    head_end: usize,
    /// Of the whole payload, as it stands in the record.
    crc: u32,
}

/// The payload of a record, in two parts.
pub(super) struct Payload<'a> {
    pub(super) log_id: LogId,
    pub(super) head: &'a [u8],
    pub(super) envelope: &'a [u8],
    pub(super) crc: u32,
}

impl Encoded {
    pub(super) fn new(entries: Vec<Entry>, salt: u32) -> Arc<Self> {
        let mut heads = Vec::with_capacity(entries.len() * HEAD_BYTES);
        let mut parts = Vec::with_capacity(entries.len());
        let mut weights = 0;
        for entry in &entries {
            let start = heads.len();
            let envelope = encode_head_into(entry, &mut heads);
            parts.push(Part { head_end: heads.len(), crc: payload_crc(salt, &heads[start..], envelope) });
            weights += weight(entry);
        }
        Arc::new(Self { entries, heads, parts, weight: weights })
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Roughly the bytes that it takes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// What the records of the entries say.
    pub(super) fn payloads(&self) -> impl Iterator<Item = Payload<'_>> {
        let mut start = 0;
        self.entries.iter().zip(&self.parts).map(move |(entry, part)| {
            let head = &self.heads[start..part.head_end];
            start = part.head_end;
            let envelope = match &entry.payload {
                EntryPayload::Normal(proposal) => &proposal.envelope[..],
                EntryPayload::Blank | EntryPayload::Membership(_) => &[],
            };
            Payload { log_id: entry.log_id, head, envelope, crc: part.crc }
        })
    }
}

/// Refuses entries of more than `bytes_max` encoded; what they weigh together.
pub(super) fn check(entries: &[Entry], bytes_max: usize) -> Result<usize, String> {
    let mut weights = 0;
    for entry in entries {
        // Only a membership may have more bytes than its weight, and none is larger than a few nodes.
        let light = weight(entry) <= bytes_max && !matches!(entry.payload, EntryPayload::Membership(_));
        if !light && encode_entry(entry).len() > bytes_max {
            return Err(format!("entry {} has more than {bytes_max} bytes", entry.log_id.index));
        }
        weights += weight(entry);
    }
    Ok(weights)
}

/// Cuts the entries of an append, which weigh `weights` together, into pieces; at least one, be it empty.
pub(super) fn pieces(mut entries: Vec<Entry>, weights: usize) -> Vec<Vec<Entry>> {
    let target = PIECE_WEIGHT_MIN.max(weights.div_ceil(PIECES_MAX - 1));
    if weights < 2 * target {
        return vec![entries];
    }
    let mut pieces = vec![Vec::new()];
    let mut sum = 0;
    for entry in entries.drain(..) {
        if sum >= target {
            pieces.push(Vec::new());
            sum = 0;
        }
        sum += weight(&entry);
        if let Some(piece) = pieces.last_mut() {
            piece.push(entry);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ovncp_state::{Millis, NodeId};

    use super::*;
    use crate::codec::entry::normal_entry;

    fn entry(index: u64, bytes: usize) -> Entry {
        normal_entry(1, index, Millis(0), NodeId(1), index, Bytes::from(vec![7; bytes]))
    }

    #[test]
    fn pieces_are_few_and_make_up_the_append() {
        let shapes: [(u64, usize); 7] =
            [(0, 0), (1, 1_000_000), (16, 256), (128, 256), (500_000, 1), (3, 1_000_000), (200, 9_000)];
        for (count, bytes) in shapes {
            let entries: Vec<Entry> = (0..count).map(|index| entry(index, bytes)).collect();
            let weights = check(&entries, usize::MAX).unwrap();
            let pieces = pieces(entries.clone(), weights);
            assert!((1..=PIECES_MAX).contains(&pieces.len()), "{count} of {bytes}: {}", pieces.len());
            assert_eq!(pieces.concat(), entries);
            let (_, but_last) = pieces.split_last().unwrap();
            let weigh = |piece: &[Entry]| check(piece, usize::MAX).unwrap();
            assert!(but_last.iter().all(|piece| weigh(piece) >= PIECE_WEIGHT_MIN));
        }
        let batch: Vec<Entry> = (0..128).map(|index| entry(index, 256)).collect();
        let weights = check(&batch, usize::MAX).unwrap();
        assert_eq!(pieces(batch, weights).len(), 1, "a usual append is not cut");
    }

    #[test]
    fn the_two_parts_of_each_payload_are_the_encoding_of_its_entry() {
        let blank = Entry { log_id: entry(1, 0).log_id, payload: EntryPayload::Blank };
        let entries = vec![blank, entry(2, 0), entry(3, 300), entry(u64::MAX, 7)];
        let encoded = Encoded::new(entries.clone(), 99);
        assert_eq!(encoded.payloads().count(), entries.len());
        for (payload, entry) in encoded.payloads().zip(&entries) {
            assert_eq!([payload.head, payload.envelope].concat(), encode_entry(entry));
            assert_eq!(payload.crc, payload_crc(99, &encode_entry(entry), &[]));
            assert_eq!(payload.log_id, entry.log_id);
        }
    }

    #[test]
    fn an_entry_is_refused_by_its_encoded_bytes_exactly() {
        let one = entry(9, 500);
        let bytes = encode_entry(&one).len();
        assert!(weight(&one) > bytes);
        assert!(check(std::slice::from_ref(&one), bytes).is_ok());
        assert!(check(&[one], bytes - 1).unwrap_err().contains("entry 9"));
    }
}
