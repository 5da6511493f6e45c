//! The bytes of every message of protocol version 1. A change here is a new protocol version.

use bytes::{Bytes, BytesMut};
use openraft::raft::{StreamAppendError, TransferLeaderError};
use openraft::{EntryPayload, Membership, SnapshotMeta, StoredMembership};
use ovncp_raft::network::frame::{self, Kind};
use ovncp_raft::network::handshake::{self, Hello, Welcome};
use ovncp_raft::network::message::{
    ControlRequest, ControlResponse, FormationOffer, ForwardItem, ForwardOutcome, LeaderHint,
    ReadIndexRefusal, RenewOutcome,
};
use ovncp_raft::network::types::{AppendRequest, Entry, TransferRequest, VoteRequest, VoteResponse};
use ovncp_raft::network::wire::{self, Fault};
use ovncp_raft::network::{Lane, PeerIdentity, Refusal, SnapshotOffer, Target};
use ovncp_state::command::{JoinNode, RenewLock};
use ovncp_state::reply::Renewed;
use ovncp_state::{ClusterId, FencingToken, Incarnation, LogIndex, Millis, NodeId, SecretHash, StateHash};
use ovncp_storage::Checkpoint;
use ovncp_storage::types::{Origin, Peer};

use crate::node::{entry, log_id, vote};

fn bytes(fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    fill(&mut out);
    out.freeze()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fails with all differences at once.
fn check(golden: &[(&str, Bytes, &str)]) {
    let wrong: Vec<String> = golden
        .iter()
        .filter(|(_, bytes, expected)| hex(bytes) != *expected)
        .map(|(what, bytes, _)| format!("{what}: {}", hex(bytes)))
        .collect();
    assert!(wrong.is_empty(), "other bytes than released:\n{}", wrong.join("\n"));
}

fn peer() -> PeerIdentity {
    PeerIdentity {
        cluster_id: Some(ClusterId([7; 16])),
        id: Some(NodeId(1)),
        name: "node-1".into(),
        incarnation: Incarnation([1; 16]),
        boot: 3,
        process: 0x1234_5678,
    }
}

fn membership() -> Membership<u64, Peer> {
    let peer = |id: u64| (id, Peer { name: format!("n{id}"), addr: format!("h{id}:7400") });
    let nodes: std::collections::BTreeMap<u64, Peer> = [peer(1), peer(2)].into();
    Membership::new(vec![[1].into(), [1, 2].into()], nodes).unwrap()
}

#[test]
fn frames_and_hand_shakes() {
    let hello = Hello {
        lane: Lane::Forward,
        from: peer(),
        target: Target {
            id: Some(NodeId(2)),
            name: Some("node-2".into()),
            incarnation: Some(Incarnation([2; 16])),
        },
    };
    let welcome = Welcome { version: 1, peer: PeerIdentity { cluster_id: None, id: None, ..peer() } };
    let id = NodeId(3);
    let (known, presented) = (Incarnation([1; 16]), Incarnation([2; 16]));
    let (theirs, asked) = (ClusterId([1; 16]), ClusterId([2; 16]));
    let refusals = [
        Refusal::Version { min: 1, max: 2 },
        Refusal::WrongCluster { theirs, asked },
        Refusal::NotMember,
        Refusal::WrongTarget { name: "n".into(), id: Some(id) },
        Refusal::SelfDial,
        Refusal::SameName { name: "n".into() },
        Refusal::OtherIncarnation { id, known, presented },
        Refusal::StaleBoot { id, known: 2, presented: 1 },
        Refusal::SecondProcess { id },
        Refusal::TooManyConnections { limit: "l".into() },
        Refusal::BadHandshake,
        Refusal::Stopping,
    ];
    let faults = [
        Fault::UnknownKind(200),
        Fault::Misplaced(1),
        Fault::TooLong,
        Fault::Checksum,
        Fault::Body(2),
        Fault::InFlight,
    ];
    check(&[
        (
            "frame",
            bytes(|out| frame::encode(out, Kind::Ping, 7, |_| ())),
            "00000000050700000000000000d40a264f",
        ),
        (
            "hello",
            bytes(|out| handshake::put_hello(out, &hello)),
            "6f766e63702d7072010001000301070707070707070707070707070707070101066e6f64652d3101\
             01010101010101010101010101010103f8acd19101010201066e6f64652d32010202020202020202\
             0202020202020202",
        ),
        (
            "welcome",
            bytes(|out| wire::put(out, &welcome)),
            "010000066e6f64652d310101010101010101010101010101010103f8acd19101",
        ),
        (
            "refusals",
            bytes(|out| refusals.iter().for_each(|refusal| wire::put(out, refusal))),
            "0001020101010101010101010101010101010101020202020202020202020202020202020203016e\
             01030405016e06030101010101010101010101010101010102020202020202020202020202020202\
             07030201080309016c0a0b",
        ),
        ("faults", bytes(|out| faults.iter().for_each(|fault| wire::put(out, fault))), "00c801010203040205"),
    ]);
    assert_eq!(handshake::take_hello(&bytes(|out| handshake::put_hello(out, &hello))), Ok((1, hello)));
}

#[test]
fn appends() {
    let entries = vec![
        Entry { log_id: log_id(5), payload: EntryPayload::Blank },
        entry(6, 3),
        Entry { log_id: log_id(7), payload: EntryPayload::Membership(membership()) },
    ];
    let request = AppendRequest {
        vote: vote(2),
        prev_log_id: Some(log_id(4)),
        entries: entries.clone(),
        leader_commit: Some(log_id(3)),
    };
    let append = bytes(|out| wire::put_append(out, 9, &request, request.prev_log_id, &entries));
    let answer = |result| bytes(|out| wire::put_append_result(out, 9, &result));
    let (good, conflict) = (answer(Ok(Some(log_id(7)))), answer(Err(StreamAppendError::Conflict(log_id(4)))));
    let higher = answer(Err(StreamAppendError::HigherVote(vote(8))));
    check(&[
        (
            "append",
            append.clone(),
            "090201010101040101030304000000010001050a0000000101010606010606060623000000010201\
             070201010201020201026e310768313a3734303002026e320768323a37343030",
        ),
        ("matching", good.clone(), "0900010107"),
        ("conflict", conflict.clone(), "09010104"),
        ("higher vote", higher.clone(), "0902080101"),
    ]);
    let (session, back) = wire::take_append(&append).unwrap();
    assert_eq!((session, back.vote, back.prev_log_id), (9, request.vote, request.prev_log_id));
    assert_eq!((back.leader_commit, back.entries), (request.leader_commit, entries));
    assert_eq!(wire::take_append_result(&good).unwrap(), (9, Ok(Some(log_id(7)))));
    let conflicting = Err(StreamAppendError::Conflict(log_id(4)));
    assert_eq!(wire::take_append_result(&conflict).unwrap(), (9, conflicting));
    assert_eq!(wire::take_append_result(&higher).unwrap(), (9, Err(StreamAppendError::HigherVote(vote(8)))));
}

#[test]
fn votes_and_transfers() {
    let mut request = VoteRequest::new(vote(4), Some(log_id(9)));
    request.leadership_transfer = true;
    let response = VoteResponse::new(vote(4), Some(log_id(9)), true);
    let transfer = TransferRequest::new(vote(4), 2, Some(log_id(9)));
    let changed = Err(TransferLeaderError::VoteChanged { expected: vote(4), actual: vote(5) });
    let unflushed = Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(9)), actual: None });
    let asked = bytes(|out| wire::put_vote(out, &request));
    let answered = bytes(|out| wire::put_vote_response(out, &response));
    let handed = bytes(|out| wire::put_transfer(out, &transfer));
    let [done, changed_bytes, unflushed_bytes] = [&Ok(()), &changed, &unflushed]
        .map(|response| bytes(|out| wire::put_transfer_response(out, response)));
    check(&[
        ("vote", asked.clone(), "04010101010901"),
        ("vote answer", answered.clone(), "04010101010109"),
        ("transfer", handed.clone(), "04010102010109"),
        ("transfer done", done.clone(), "00"),
        ("transfer changed", changed_bytes.clone(), "01040101050101"),
        ("transfer unflushed", unflushed_bytes.clone(), "0201010900"),
    ]);
    assert_eq!(wire::take_vote(&asked).unwrap(), request);
    assert_eq!(wire::take_vote_response(&answered).unwrap(), response);
    assert_eq!(wire::take_transfer(&handed).unwrap(), transfer);
    assert_eq!(wire::take_transfer_response(&done).unwrap(), Ok(()));
    assert_eq!(wire::take_transfer_response(&changed_bytes).unwrap(), changed);
    assert_eq!(wire::take_transfer_response(&unflushed_bytes).unwrap(), unflushed);
}

#[test]
fn snapshots() {
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        last_membership: StoredMembership::new(Some(log_id(7)), membership()),
    };
    let offer = SnapshotOffer { vote: vote(4), meta, bytes: 1_000 };
    let offered = bytes(|out| wire::put_snapshot_offer(out, &offer));
    let answered = bytes(|out| wire::put_vote_only(out, vote(4)));
    check(&[
        (
            "offer",
            offered.clone(),
            "0401010101090101070201010201020201026e310768313a3734303002026e320768323a37343030\
             e807",
        ),
        ("answer", answered.clone(), "040101"),
    ]);
    let back = wire::take_snapshot_offer(&offered).unwrap();
    assert_eq!((back.vote, back.meta, back.bytes), (offer.vote, offer.meta, offer.bytes));
    assert_eq!(wire::take_vote_only(&answered).unwrap(), vote(4));
}

#[test]
fn forwards() {
    let items = [
        ForwardItem {
            origin: Origin { node: NodeId(1), ticket: 300 },
            term: 6,
            envelope: Bytes::from_static(b"abc"),
        },
        ForwardItem { origin: Origin { node: NodeId(2), ticket: 1 }, term: 0, envelope: Bytes::new() },
    ];
    let outcomes = vec![
        ForwardOutcome::Accepted,
        ForwardOutcome::NotLeader { hint: Some(NodeId(2)) },
        ForwardOutcome::Busy,
    ];
    let renewals = vec![RenewLock { key: "a".into(), secret: SecretHash([5; 32]), ttl: Some(Millis(1_000)) }];
    let renewed = Renewed { token: FencingToken(7), ttl: Millis(1_000) };
    let renew_outcomes = vec![
        RenewOutcome::Applied { index: LogIndex(9), result: Ok(renewed) },
        RenewOutcome::Applied { index: LogIndex(9), result: Err(ovncp_state::Refusal::NotFound) },
        RenewOutcome::NotLeader { hint: None },
        RenewOutcome::Busy,
        RenewOutcome::Unknown,
    ];
    let indexes: [Result<LogIndex, ReadIndexRefusal>; 4] = [
        Ok(LogIndex(300)),
        Err(ReadIndexRefusal::NotLeader { hint: Some(NodeId(2)) }),
        Err(ReadIndexRefusal::NotConfirmed),
        Err(ReadIndexRefusal::Busy),
    ];
    let forward = bytes(|out| wire::put_forward(out, &items));
    check(&[
        ("forward", forward.clone(), "0201ac02060361626302010000"),
        ("outcomes", bytes(|out| wire::put(out, &outcomes)), "030001010202"),
        (
            "renew",
            bytes(|out| wire::put(out, &renewals)),
            "010161050505050505050505050505050505050505050505050505050505050505050501e807",
        ),
        ("renew outcomes", bytes(|out| wire::put(out, &renew_outcomes)), "0500090007e8070009010901000203"),
        (
            "indexes",
            bytes(|out| indexes.iter().for_each(|index| wire::put(out, index))),
            "00ac020100010201010102",
        ),
    ]);
    assert_eq!(wire::take_forward(&forward).unwrap(), items);
}

#[test]
fn control() {
    let node = JoinNode { name: "n".into(), incarnation: Incarnation([1; 16]), info: Default::default() };
    let (cluster_id, id) = (ClusterId([7; 16]), NodeId(2));
    let offer = FormationOffer { cluster_id, key: [5; 32], roster: vec![node.clone()] };
    let hint = LeaderHint { id: NodeId(1), name: "n".into(), addr: "h:1".into() };
    let requests = [
        ControlRequest::Probe { list: [3; 16] },
        ControlRequest::Join(node.clone()),
        ControlRequest::Agree(offer),
        ControlRequest::Transfer { target: Some(id) },
        ControlRequest::Checkpoints,
        ControlRequest::Removable { id },
    ];
    let responses = [
        ControlResponse::Blank { list: [3; 16], node },
        ControlResponse::Member { cluster_id, id, leader: Some(hint.clone()), removed: true },
        ControlResponse::Joined { cluster_id, id, key: [5; 32] },
        ControlResponse::NotLeader { leader: Some(hint) },
        ControlResponse::Agreed,
        ControlResponse::Refused { reason: "no".into(), retry: true },
        ControlResponse::Transferred { leader: id },
        ControlResponse::Checkpoints {
            version: 1,
            checkpoints: vec![Checkpoint { index: LogIndex(300), hash: StateHash([6; 16]) }],
        },
        ControlResponse::Removable,
    ];
    check(&[
        (
            "requests",
            bytes(|out| requests.iter().for_each(|request| wire::put(out, request))),
            "000303030303030303030303030303030301016e0101010101010101010101010101010100000000\
             00000002070707070707070707070707070707070505050505050505050505050505050505050505\
             05050505050505050505050501016e01010101010101010101010101010101000000000000000301\
             02040502",
        ),
        (
            "responses",
            bytes(|out| responses.iter().for_each(|response| wire::put(out, response))),
            "0003030303030303030303030303030303016e010101010101010101010101010101010000000000\
             00000107070707070707070707070707070707020101016e03683a31010207070707070707070707\
             07070707070702050505050505050505050505050505050505050505050505050505050505050503\
             0101016e03683a310405026e6f010602070101ac020606060606060606060606060606060608",
        ),
    ]);
}
