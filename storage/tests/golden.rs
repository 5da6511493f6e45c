//! Golden bytes of every released kind. A failing test here means that nodes of different versions, or a node
//! and its own disk, do not understand each other any more: add a new kind instead of changing one.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EntryPayload, Membership};
use ovncp_state::command::{
    AcquireLock, AnnounceLeader, CancelWait, ChangeNode, ForceReleaseLock, FormCluster, JoinNode,
    KvCondition, KvExpect, KvOperation, LockMode, NodeInfo, NodeRole, NodeStatus, ReleaseLock, RemoveNode,
    RenewLock, UpdateNode, WriteKv,
};
use ovncp_state::{
    ClusterId, Command, FencingToken, Incarnation, Millis, NodeId, Request, RequestKey, Salt, SecretHash,
    WaiterId,
};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{
    CodecError, Entry, WireLogId, decode_entry, decode_request, encode_entry, encode_request,
};
use ovncp_storage::types::Peer;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn join() -> JoinNode {
    let info = NodeInfo { hostname: "h".into(), ip: "i".into(), http_port: 8080, ..NodeInfo::default() };
    JoinNode { name: "n".into(), incarnation: Incarnation([2; 16]), info }
}

/// Every command, in the order of the enum, with its bytes.
fn commands() -> Vec<(Command, &'static str)> {
    vec![
        (Command::Tick, "01010000"),
        (
            Command::FormCluster(FormCluster {
                cluster_id: ClusterId([1; 16]),
                formed_at_unix_ms: 300,
                voters_target: 3,
                nodes: vec![join()],
            }),
            "0101000101010101010101010101010101010101ac020301016e0202020202020202020202020202020201680169903f00000000",
        ),
        (Command::JoinNode(join()), "01010002016e0202020202020202020202020202020201680169903f00000000"),
        (
            Command::UpdateNode(UpdateNode {
                id: NodeId(1),
                incarnation: Incarnation([2; 16]),
                boot: 4,
                info: NodeInfo::default(),
            }),
            "0101000301020202020202020202020202020202020400000000000000",
        ),
        (
            Command::ChangeNode(ChangeNode {
                id: NodeId(1),
                generation: 2,
                status: Some(NodeStatus::Suspect),
                role: Some(NodeRole::Learner),
            }),
            "01010004010201020101",
        ),
        (Command::RemoveNode(RemoveNode { id: NodeId(1), reason: "r".into() }), "01010005010172"),
        (Command::AnnounceLeader(AnnounceLeader { id: NodeId(1), term: 2 }), "010100060102"),
        (
            Command::AcquireLock(AcquireLock {
                keys: vec!["k".into()],
                mode: LockMode::Shared,
                owner: "o".into(),
                secret: SecretHash([3; 32]),
                salt: Some(Salt([4; 16])),
                ttl: Millis(1_000),
                wait: Millis(0),
                hold_max: None,
                metadata: None,
                waiter: WaiterId([5; 16]),
                node: NodeId(1),
            }),
            "0101000701016b01016f03030303030303030303030303030303030303030303030303030303030303030104040404040404040404040404040404e8070000000505050505050505050505050505050501",
        ),
        (
            Command::RenewLocks(vec![RenewLock { key: "k".into(), secret: SecretHash([3; 32]), ttl: None }]),
            "0101000801016b030303030303030303030303030303030303030303030303030303030303030300",
        ),
        (
            Command::ReleaseLock(ReleaseLock { key: "k".into(), secret: SecretHash([3; 32]) }),
            "01010009016b0303030303030303030303030303030303030303030303030303030303030303",
        ),
        (
            Command::CancelWait(CancelWait { waiter: WaiterId([5; 16]), node: NodeId(1) }),
            "0101000a0505050505050505050505050505050501",
        ),
        (
            Command::ForceReleaseLock(ForceReleaseLock {
                key: "k".into(),
                reason: "r".into(),
                token: Some(FencingToken(7)),
            }),
            "0101000b016b01720107",
        ),
        (
            Command::WriteKv(WriteKv {
                conditions: vec![KvCondition { key: b"k".to_vec(), expect: KvExpect::Absent }],
                operations: vec![
                    KvOperation::Put {
                        key: b"k".to_vec(),
                        value: b"v".to_vec(),
                        content_type: None,
                        ttl: None,
                    },
                    KvOperation::Delete { key: b"l".to_vec() },
                ],
            }),
            "0101000c01016b010200016b0176000001016c",
        ),
    ]
}

#[test]
fn requests_have_their_golden_bytes() {
    for (command, golden) in commands() {
        let request = Request::from(command);
        let bytes = encode_request(&request);
        assert_eq!(hex(&bytes), golden, "{request:?}");
        assert_eq!(decode_request(&bytes).unwrap(), request);
    }
    let key = RequestKey { scope: [1; 16], body: [2; 16] };
    let request = Request { idempotency: Some(key), command: Command::Tick };
    let golden = "010101010101010101010101010101010101010202020202020202020202020202020200";
    assert_eq!(hex(&encode_request(&request)), golden);
}

#[test]
fn entries_have_their_golden_bytes() {
    let blank = Entry { log_id: WireLogId { term: 3, index: 300 }.into(), payload: EntryPayload::Blank };
    let normal = normal_entry(3, 301, Millis(5), NodeId(2), 9, Bytes::from_static(b"\x01\x01\x00\x00"));
    let peer = |name: &str| Peer { name: name.into(), addr: format!("{name}:7400") };
    let nodes = BTreeMap::from([(1, peer("a")), (2, peer("b")), (1_004, peer("c"))]);
    let membership = Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes).unwrap();
    let membership = Entry {
        log_id: WireLogId { term: 4, index: 302 }.into(),
        payload: EntryPayload::Membership(membership),
    };
    let golden = [
        (blank, "010003ac02"),
        (normal, "010103ad0205020901010000"),
        (
            membership,
            "010204ae02020201020101030101610661\
             3a37343030020162066\
             23a37343030ec0701630663\
             3a37343030",
        ),
    ];
    for (entry, golden) in golden {
        let bytes = encode_entry(&entry);
        assert_eq!(hex(&bytes), golden.replace(' ', ""), "{entry:?}");
        assert_eq!(decode_entry(&bytes).unwrap(), entry);
    }
}

#[test]
fn what_is_not_known_is_an_error() {
    let request = encode_request(&Request::from(Command::Tick));
    for (at, value) in [(0, 2), (1, 9)] {
        let mut bytes = request.to_vec();
        bytes[at] = value;
        assert!(matches!(decode_request(&bytes), Err(CodecError::Unknown { what: "request", .. })));
    }
    let unknown_command = [1, 1, 0, 200];
    assert!(matches!(decode_request(&unknown_command), Err(CodecError::Payload { .. })));
    let trailing = [request.as_ref(), &[0]].concat();
    assert!(matches!(decode_request(&trailing), Err(CodecError::Trailing { left: 1, .. })));
    assert!(matches!(decode_request(&[1]), Err(CodecError::Short { len: 1, .. })));
    for bytes in
        [&[1, 3, 0, 0][..], &[2, 0, 0, 0], &[1, 0, 0, 0, 0], &[1], &[1, 1, 0], &[1, 2, 0, 0, 0, 1, 1]]
    {
        decode_entry(&Bytes::copy_from_slice(bytes)).unwrap_err();
    }
}

#[test]
fn no_cut_encoding_decodes() {
    for (command, _) in commands() {
        let bytes = encode_request(&Request::from(command));
        for end in 0..bytes.len() {
            decode_request(&bytes[..end]).unwrap_err();
        }
    }
}
