//! Log entries as they stand on disk and travel to peers: the same bytes in both places.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use ovncp_state::{Millis, NodeId};
use serde::Deserialize;

use super::{CodecError, WireLogId, WireMembership, decode, open};
use crate::types::{Origin, Proposal, TypeConfig};

/// An entry of the Raft log.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// Position and term of an entry.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;

const FORMAT: u8 = 1;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Longest encoding of a [`NormalHead`]: five varints of ten bytes each, behind format and kind.
const HEAD_BYTES_MAX: usize = 2 + 5 * 10;

/// What stands before the envelope of a normal entry.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct NormalHead {
    log_id: WireLogId,
    at: Millis,
    origin: Origin,
}

/// Encodes an entry.
pub fn encode_entry(entry: &Entry) -> Bytes {
    let mut bytes = BytesMut::new();
    encode_entry_into(entry, &mut bytes);
    bytes.freeze()
}

/// Appends the encoding of an entry to a buffer.
pub fn encode_entry_into<B: BufMut>(entry: &Entry, bytes: &mut B) {
    let envelope = encode_head_into(entry, bytes);
    bytes.put_slice(envelope);
}

/// Appends what stands before the envelope of an entry; the envelope, which completes the encoding.
pub(crate) fn encode_head_into<'a, B: BufMut>(entry: &'a Entry, bytes: &mut B) -> &'a [u8] {
    let log_id = WireLogId::from(entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => put(bytes, BLANK, [log_id.term, log_id.index]),
        EntryPayload::Normal(Proposal { at, origin, envelope }) => {
            // The fields of `NormalHead`.
            put(bytes, NORMAL, [log_id.term, log_id.index, at.0, origin.node.0, origin.ticket]);
            return envelope;
        }
        EntryPayload::Membership(membership) => {
            let payload = super::append(Vec::new(), &(log_id, WireMembership::from(membership)));
            bytes.put_slice(&[FORMAT, MEMBERSHIP]);
            bytes.put_slice(&payload);
        }
    }
    &[]
}

/// Decodes an entry. The envelope shares the memory of `bytes`.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, CodecError> {
    let (kind, payload) = open("entry", bytes, FORMAT, |kind| kind <= MEMBERSHIP)?;
    let (log_id, payload) = match kind {
        BLANK => (decode::<WireLogId>("blank entry", payload)?, EntryPayload::Blank),
        NORMAL => {
            let (head, envelope) = postcard::take_from_bytes::<NormalHead>(payload)
                .map_err(|source| CodecError::Payload { what: "normal entry", source })?;
            let envelope = bytes.slice_ref(envelope);
            (head.log_id, EntryPayload::Normal(Proposal { at: head.at, origin: head.origin, envelope }))
        }
        _ => {
            let (log_id, membership) = decode::<(WireLogId, WireMembership)>("membership entry", payload)?;
            (log_id, EntryPayload::Membership(membership.try_into()?))
        }
    };
    Ok(Entry { log_id: log_id.into(), payload })
}

/// Roughly the bytes that an entry takes in memory and on disk.
pub(crate) fn weight(entry: &Entry) -> usize {
    const FIXED: usize = 128;
    match &entry.payload {
        EntryPayload::Blank => FIXED,
        EntryPayload::Normal(proposal) => FIXED + proposal.envelope.len(),
        EntryPayload::Membership(membership) => FIXED + membership.nodes().count() * 256,
    }
}

/// An entry without a command; for tests and benches of other crates, too.
pub fn normal_entry(term: u64, index: u64, at: Millis, node: NodeId, ticket: u64, envelope: Bytes) -> Entry {
    let proposal = Proposal { at, origin: Origin { node, ticket }, envelope };
    Entry { log_id: WireLogId { term, index }.into(), payload: EntryPayload::Normal(proposal) }
}

/// Appends numbers as postcard encodes them, low seven bits first. By hand, because every entry passes here on its way
/// to the disk: 128 of them take 3 us less than by way of serde.
fn put<B: BufMut, const NUMBERS: usize>(bytes: &mut B, kind: u8, numbers: [u64; NUMBERS]) {
    let mut buffer = [0; HEAD_BYTES_MAX];
    buffer[..2].copy_from_slice(&[FORMAT, kind]);
    let mut len = 2;
    for mut number in numbers {
        while number >= 0x80 {
            buffer[len] = number as u8 | 0x80;
            number >>= 7;
            len += 1;
        }
        buffer[len] = number as u8;
        len += 1;
    }
    bytes.put_slice(&buffer[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_postcard_does() {
        let sevens = (0..64).step_by(7).map(|bits| 1_u64 << bits);
        let numbers: Vec<u64> =
            sevens.flat_map(|number| [number - 1, number, number + 1]).chain([u64::MAX]).collect();
        for (nth, number) in numbers.iter().enumerate() {
            let other = |by: usize| numbers[(nth + by) % numbers.len()];
            let (term, index, at, node, ticket) = (*number, other(1), other(4), other(9), other(16));
            let entry =
                normal_entry(term, index, Millis(at), NodeId(node), ticket, Bytes::from_static(b"abc"));
            let head = NormalHead {
                log_id: WireLogId { term, index },
                at: Millis(at),
                origin: Origin { node: NodeId(node), ticket },
            };
            let encoded = [&[FORMAT, NORMAL], &*postcard::to_stdvec(&head).unwrap(), b"abc"].concat();
            assert_eq!(encode_entry(&entry), encoded);
            assert_eq!(decode_entry(&encoded.into()).unwrap(), entry);
            let blank = Entry { log_id: WireLogId { term, index }.into(), payload: EntryPayload::Blank };
            let encoded = [&[FORMAT, BLANK], &*postcard::to_stdvec(&head.log_id).unwrap()].concat();
            assert_eq!(encode_entry(&blank), encoded);
        }
    }
}
