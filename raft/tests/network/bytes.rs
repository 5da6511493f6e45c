//! Frames and bodies: what goes in comes out, and anything else is an error, never a panic or a large buffer.

use bytes::{BufMut, Bytes, BytesMut};
use ovncp_raft::network::frame::{self, Frame, FrameError, HEADER_BYTES, Kind};
use ovncp_raft::network::handshake;
use ovncp_raft::network::limits::FRAME_BYTES_MAX;
use ovncp_raft::network::message::{
    ControlRequest, ControlResponse, ForwardItem, ForwardOutcome, RenewOutcome,
};
use ovncp_raft::network::wire;
use ovncp_state::NodeId;
use ovncp_storage::types::Origin;
use proptest::prelude::*;

use crate::node::append;

const KINDS: [Kind; 6] =
    [Kind::Hello, Kind::Append, Kind::AppendAnswer, Kind::SnapshotChunk, Kind::Forward, Kind::Control];

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let frame = (0..KINDS.len(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..300));
    let frame = frame.prop_map(|(kind, id, body)| Frame { kind: KINDS[kind], id, body: body.into() });
    proptest::collection::vec(frame, 0..8)
}

fn encode(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    for frame in frames {
        frame::encode(&mut out, frame.kind, frame.id, |out| out.put_slice(&frame.body));
    }
    out
}

/// Feeds bytes in pieces of the given sizes (repeated) and collects frames until the first error.
fn decode(bytes: &[u8], pieces: &[usize], max: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut input, mut frames) = (BytesMut::new(), Vec::new());
    let mut rest = bytes;
    let mut sizes = pieces.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        input.extend_from_slice(piece);
        rest = after;
        loop {
            match frame::decode(&mut input, max) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

proptest! {
    #[test]
    fn frames_survive_any_division_of_the_stream(
        frames in frames(),
        pieces in proptest::collection::vec(1_usize..400, 1..6),
    ) {
        let bytes = encode(&frames);
        prop_assert_eq!(decode(&bytes, &pieces, FRAME_BYTES_MAX), (frames, None));
    }

    #[test]
    fn a_truncated_stream_yields_only_whole_frames(frames in frames(), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&frames);
        let kept = &bytes[..cut.index(bytes.len() + 1)];
        let (decoded, error) = decode(kept, &[7], FRAME_BYTES_MAX);
        prop_assert_eq!(error, None);
        prop_assert_eq!(&decoded[..], &frames[..decoded.len()]);
    }

    #[test]
    fn no_frame_comes_out_of_a_damaged_one(
        frames in frames(),
        place in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        prop_assume!(!frames.is_empty());
        let mut bytes = encode(&frames);
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        let (decoded, _) = decode(&bytes, &[1_000], FRAME_BYTES_MAX);
        // Every frame before the damage is whole, the damaged one never appears. A longer length swallows what
        // follows, which then fails the checksum or never completes.
        prop_assert!(decoded.len() < frames.len());
        prop_assert_eq!(&decoded[..], &frames[..decoded.len()]);
    }

    #[test]
    fn random_bytes_never_panic_the_decoders(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(&bytes, &[13], 4_096);
        let body = Bytes::from(bytes);
        let _ = wire::take_append(&body);
        let _ = wire::take_append_result(&body);
        let _ = wire::take_vote(&body);
        let _ = wire::take_vote_response(&body);
        let _ = wire::take_transfer(&body);
        let _ = wire::take_transfer_response(&body);
        let _ = wire::take_snapshot_offer(&body);
        let _ = wire::take_vote_only(&body);
        let _ = wire::take_forward(&body);
        let _ = wire::take_renew(&body);
        let _ = wire::take::<ControlRequest>(&body);
        let _ = wire::take::<ControlResponse>(&body);
        let _ = wire::take::<Vec<ForwardOutcome>>(&body);
        let _ = wire::take::<Vec<RenewOutcome>>(&body);
        let _ = handshake::take_hello(&body);
    }

    #[test]
    fn damaged_bodies_never_panic(place in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut out = BytesMut::new();
        let request = append(5, 4, 30);
        wire::put_append(&mut out, 3, &request, request.prev_log_id, &request.entries);
        let place = place.index(out.len());
        out[place] = value;
        out.truncate(cut.index(out.len() + 1));
        let _ = wire::take_append(&out.freeze());
    }

    #[test]
    fn forwarded_items_survive(sizes in proptest::collection::vec(0_usize..500, 0..20)) {
        let items: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| ForwardItem {
                origin: Origin { node: NodeId(i as u64), ticket: *size as u64 },
                term: 3 * i as u64,
                envelope: vec![i as u8; *size].into(),
            })
            .collect();
        let mut out = BytesMut::new();
        wire::put_forward(&mut out, &items);
        prop_assert_eq!(wire::take_forward(&out.freeze()).unwrap(), items);
    }
}

#[test]
fn a_header_that_announces_too_much_is_an_error_before_the_body_comes() {
    let mut input = BytesMut::new();
    input.put_u32_le(FRAME_BYTES_MAX as u32 + 1);
    input.put_bytes(0, HEADER_BYTES - 4);
    let error = frame::decode(&mut input, FRAME_BYTES_MAX).unwrap_err();
    assert_eq!(error, FrameError::TooLong { len: FRAME_BYTES_MAX + 1, max: FRAME_BYTES_MAX });
}

#[test]
fn a_count_that_announces_too_much_allocates_nothing() {
    // An append head that claims four billion entries, and a forwarded batch that claims as many items.
    let mut out = BytesMut::new();
    let request = append(5, 0, 0);
    wire::put_append(&mut out, 3, &request, request.prev_log_id, &[]);
    out.truncate(out.len() - 1);
    out.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(wire::take_append(&out.freeze()).is_err());
    assert!(wire::take_forward(&Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f])).is_err());
    assert!(wire::take_renew(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}
