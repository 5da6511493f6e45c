//! Bodies of frames: our own structs in postcard, never openraft's serde forms, which change with its versions.
//! Entries travel as the bytes they have in the log. Golden bytes stand in `tests/network/golden.rs`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{StreamAppendError, TransferLeaderError};
use ovncp_storage::codec::{
    CodecError, WireLogId, WireStoredMembership, WireVote, decode_entry, encode_entry_into,
};
use ovncp_storage::types::Origin;
use serde::{Deserialize, Serialize};

use super::handler::SnapshotOffer;
use super::limits::FORWARD_ITEMS_MAX;
use super::message::{ForwardItem, RenewItem};
use super::types::{
    AppendRequest, AppendResult, Entry, LogId, SnapshotMeta, TransferRequest, TransferResponse, Vote,
    VoteRequest, VoteResponse,
};

/// A body that does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not what its kind says.
    #[error("{0}")]
    Postcard(#[from] postcard::Error),
    /// An entry or membership in it.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// Lengths that contradict each other.
    #[error("body is cut short or padded")]
    Length,
}

/// How an end broke the protocol: the last message before its connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// A kind this version does not know.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    /// A kind that does not belong on this lane, or not at this point.
    #[error("frame of kind {0} out of place")]
    Misplaced(u8),
    /// Longer than allowed.
    #[error("frame too long")]
    TooLong,
    /// Damaged.
    #[error("frame with a wrong checksum")]
    Checksum,
    /// A body that is not what its kind says.
    #[error("body of a frame of kind {0} does not decode")]
    Body(u8),
    /// More in flight than the protocol allows.
    #[error("too much in flight")]
    InFlight,
}

/// Appends a postcard value.
pub fn put<T: Serialize>(out: &mut BytesMut, value: &T) {
    // Invariant: our structs hold plain data, and a growing buffer takes all of it.
    postcard::to_io(value, out.writer()).map(|_| ()).expect("plain data serializes into a growing buffer");
}

/// A postcard value that fills the body.
pub fn take<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    let (value, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Length) }
}

fn log_id(id: Option<WireLogId>) -> Option<LogId> {
    id.map(LogId::from)
}

/// Head of an `Append` or `Heartbeat` body; the entries follow, each behind its length (4 bytes, little endian).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AppendHead {
    session: u64,
    vote: WireVote,
    prev: Option<WireLogId>,
    commit: Option<WireLogId>,
    entries: u32,
}

/// Appends entries `entries` of a request whose entries before them end at `prev`. A session is one
/// `stream_append` call of the leader: after an error the rest of it is void.
pub fn put_append(
    out: &mut BytesMut,
    session: u64,
    request: &AppendRequest,
    prev: Option<LogId>,
    entries: &[Entry],
) {
    let head = AppendHead {
        session,
        vote: request.vote.into(),
        prev: prev.map(WireLogId::from),
        commit: request.leader_commit.map(WireLogId::from),
        entries: u32::try_from(entries.len()).expect("openraft bounds the entries of a request"),
    };
    put(out, &head);
    for entry in entries {
        let at = out.len();
        out.put_u32_le(0);
        encode_entry_into(entry, out);
        let len = u32::try_from(out.len() - at - 4).expect("ENTRY_BYTES_MAX is far below 4 GiB");
        out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
}

/// Session and request of an `Append` or `Heartbeat` body. Envelopes share its memory.
pub fn take_append(body: &Bytes) -> Result<(u64, AppendRequest), WireError> {
    let (head, rest) = postcard::take_from_bytes::<AppendHead>(body)?;
    let mut rest = body.slice_ref(rest);
    // Memory follows what arrived, not what the head announces: an entry has at least its length.
    let mut entries = Vec::with_capacity((head.entries as usize).min(rest.len() / 4));
    for _ in 0..head.entries {
        let len = rest.try_get_u32_le().map_err(|_| WireError::Length)? as usize;
        if rest.len() < len {
            return Err(WireError::Length);
        }
        entries.push(decode_entry(&rest.split_to(len))?);
    }
    if !rest.is_empty() {
        return Err(WireError::Length);
    }
    let request = AppendRequest {
        vote: head.vote.into(),
        prev_log_id: log_id(head.prev),
        leader_commit: log_id(head.commit),
        entries,
    };
    Ok((head.session, request))
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WireAppendResult {
    Matching(Option<WireLogId>),
    Conflict(WireLogId),
    HigherVote(WireVote),
}

/// Appends an `AppendAnswer` or `HeartbeatAnswer`.
pub fn put_append_result(out: &mut BytesMut, session: u64, result: &AppendResult) {
    let result = match result {
        Ok(matching) => WireAppendResult::Matching(matching.map(WireLogId::from)),
        Err(StreamAppendError::Conflict(id)) => WireAppendResult::Conflict((*id).into()),
        Err(StreamAppendError::HigherVote(vote)) => WireAppendResult::HigherVote((*vote).into()),
    };
    put(out, &(session, result));
}

/// Session and result.
pub fn take_append_result(body: &[u8]) -> Result<(u64, AppendResult), WireError> {
    let (session, result) = take::<(u64, WireAppendResult)>(body)?;
    let result = match result {
        WireAppendResult::Matching(matching) => Ok(log_id(matching)),
        WireAppendResult::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
        WireAppendResult::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    };
    Ok((session, result))
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireVoteRequest {
    vote: WireVote,
    last: Option<WireLogId>,
    leadership_transfer: bool,
}

/// Appends a `Vote` or `PreVote`.
pub fn put_vote(out: &mut BytesMut, request: &VoteRequest) {
    let wire = WireVoteRequest {
        vote: request.vote.into(),
        last: request.last_log_id.map(WireLogId::from),
        leadership_transfer: request.leadership_transfer,
    };
    put(out, &wire);
}

/// The other way.
pub fn take_vote(body: &[u8]) -> Result<VoteRequest, WireError> {
    let wire = take::<WireVoteRequest>(body)?;
    let mut request = VoteRequest::new(wire.vote.into(), log_id(wire.last));
    request.leadership_transfer = wire.leadership_transfer;
    Ok(request)
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireVoteResponse {
    vote: WireVote,
    granted: bool,
    last: Option<WireLogId>,
}

/// Appends a `VoteAnswer` or `PreVoteAnswer`.
pub fn put_vote_response(out: &mut BytesMut, response: &VoteResponse) {
    let wire = WireVoteResponse {
        vote: response.vote.into(),
        granted: response.vote_granted,
        last: response.last_log_id.map(WireLogId::from),
    };
    put(out, &wire);
}

/// The other way.
pub fn take_vote_response(body: &[u8]) -> Result<VoteResponse, WireError> {
    let wire = take::<WireVoteResponse>(body)?;
    Ok(VoteResponse::new(Vote::from(wire.vote), log_id(wire.last), wire.granted))
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireTransfer {
    from_leader: WireVote,
    to: u64,
    last: Option<WireLogId>,
}

/// Appends a `Transfer`.
pub fn put_transfer(out: &mut BytesMut, request: &TransferRequest) {
    let wire = WireTransfer {
        from_leader: (*request.from_leader()).into(),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(WireLogId::from),
    };
    put(out, &wire);
}

/// The other way.
pub fn take_transfer(body: &[u8]) -> Result<TransferRequest, WireError> {
    let wire = take::<WireTransfer>(body)?;
    Ok(TransferRequest::new(wire.from_leader.into(), wire.to, log_id(wire.last)))
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WireTransferResponse {
    Done,
    VoteChanged { expected: WireVote, actual: WireVote },
    LogNotFlushed { expected: Option<WireLogId>, actual: Option<WireLogId> },
}

/// Appends a `TransferAnswer`.
pub fn put_transfer_response(out: &mut BytesMut, response: &TransferResponse) {
    let wire = match response {
        Ok(()) => WireTransferResponse::Done,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            WireTransferResponse::VoteChanged { expected: (*expected).into(), actual: (*actual).into() }
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => WireTransferResponse::LogNotFlushed {
            expected: expected.map(WireLogId::from),
            actual: actual.map(WireLogId::from),
        },
    };
    put(out, &wire);
}

/// The other way.
pub fn take_transfer_response(body: &[u8]) -> Result<TransferResponse, WireError> {
    Ok(match take::<WireTransferResponse>(body)? {
        WireTransferResponse::Done => Ok(()),
        WireTransferResponse::VoteChanged { expected, actual } => {
            Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() })
        }
        WireTransferResponse::LogNotFlushed { expected, actual } => {
            Err(TransferLeaderError::LogNotFlushed { expected: log_id(expected), actual: log_id(actual) })
        }
    })
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireSnapshotOffer {
    vote: WireVote,
    last: Option<WireLogId>,
    membership: WireStoredMembership,
    bytes: u64,
}

/// Appends a `SnapshotOffer`.
pub fn put_snapshot_offer(out: &mut BytesMut, offer: &SnapshotOffer) {
    let wire = WireSnapshotOffer {
        vote: offer.vote.into(),
        last: offer.meta.last_log_id.map(WireLogId::from),
        membership: (&offer.meta.last_membership).into(),
        bytes: offer.bytes,
    };
    put(out, &wire);
}

/// The other way.
pub fn take_snapshot_offer(body: &[u8]) -> Result<SnapshotOffer, WireError> {
    let wire = take::<WireSnapshotOffer>(body)?;
    let meta = SnapshotMeta { last_log_id: log_id(wire.last), last_membership: wire.membership.try_into()? };
    Ok(SnapshotOffer { vote: wire.vote.into(), meta, bytes: wire.bytes })
}

/// Appends a `SnapshotAnswer`.
pub fn put_vote_only(out: &mut BytesMut, vote: Vote) {
    put(out, &WireVote::from(vote));
}

/// The other way.
pub fn take_vote_only(body: &[u8]) -> Result<Vote, WireError> {
    Ok(take::<WireVote>(body)?.into())
}

/// Appends a `Forward`: their number, then for each its origin, its term and its envelope behind its length.
pub fn put_forward(out: &mut BytesMut, items: &[ForwardItem]) {
    put(out, &items.len());
    for item in items {
        put(out, &item.origin);
        put(out, &item.term);
        put(out, &item.envelope.len());
        out.put_slice(&item.envelope);
    }
}

/// The other way. Envelopes share the body's memory.
pub fn take_forward(body: &Bytes) -> Result<Vec<ForwardItem>, WireError> {
    let (count, rest) = postcard::take_from_bytes::<usize>(body)?;
    if count > FORWARD_ITEMS_MAX {
        return Err(WireError::Length);
    }
    let mut rest = body.slice_ref(rest);
    let mut items = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let ((origin, term, len), after) = postcard::take_from_bytes::<(Origin, u64, usize)>(&rest)?;
        let mut envelope = rest.slice_ref(after);
        if envelope.len() < len {
            return Err(WireError::Length);
        }
        rest = envelope.split_off(len);
        items.push(ForwardItem { origin, term, envelope });
    }
    if rest.is_empty() { Ok(items) } else { Err(WireError::Length) }
}

/// A `Renew`: at most [`FORWARD_ITEMS_MAX`].
pub fn take_renew(body: &[u8]) -> Result<Vec<RenewItem>, WireError> {
    // Memory follows what arrived: postcard's vectors grow as their items decode.
    let items = take::<Vec<RenewItem>>(body)?;
    if items.len() > FORWARD_ITEMS_MAX { Err(WireError::Length) } else { Ok(items) }
}
