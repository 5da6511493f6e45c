//! The bytes of every command and record, so that the encoding cannot drift: what was written by an older
//! version is read by this one, and the same state has the same hash.
//!
//! `golden/*.txt` holds one `name: hex` line each; `UPDATE_GOLDENFILES=1` rewrites them. A changed or removed
//! line means that old logs or snapshots can no longer be read: only ever add lines.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use ovncp_state::command::{
    AcquireLock, AnnounceLeader, CancelWait, ChangeNode, ForceReleaseLock, FormCluster, JoinNode,
    KvCondition, KvExpect, KvOperation, LockMode, NodeInfo, NodeRole, NodeStatus, ReleaseLock, RemoveNode,
    RenewLock, UpdateNode, WriteKv,
};
use ovncp_state::{
    ClusterId, Command, Entry, FencingToken, Incarnation, LogIndex, Millis, NodeId, Record, Request,
    RequestKey, Revision, Salt, SecretHash, State, StateBuilder, WaiterId, invariants,
};
use serde::{Serialize, de::DeserializeOwned};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Compares `name: text` lines with the file, and returns the file's.
fn golden(file: &str, lines: &[(String, String)]) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        let text: String = lines.iter().map(|(name, text)| format!("{name}: {text}\n")).collect();
        fs::write(&path, text).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let known: Vec<_> = text
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .collect();
    let fresh: BTreeMap<_, _> = lines.iter().cloned().collect();
    for (name, text) in &known {
        assert_eq!(fresh.get(name), Some(text), "{name} in {file} has another encoding now");
    }
    assert_eq!(known.len(), lines.len(), "{file} lacks a line");
    known
}

fn encoded<T: Serialize>(name: &str, value: &T) -> (String, String) {
    (name.to_string(), hex(&postcard::to_allocvec(value).unwrap()))
}

/// The old bytes are read, and mean what they meant.
fn decoded<T: DeserializeOwned + Serialize + Debug>(bytes: &str) -> T {
    let value: T = postcard::from_bytes(&unhex(bytes)).unwrap();
    assert_eq!(hex(&postcard::to_allocvec(&value).unwrap()), bytes, "{value:?}");
    value
}

fn info(addr: &str) -> NodeInfo {
    NodeInfo {
        hostname: "host".into(),
        ip: "10.0.0.1".into(),
        http_port: 8080,
        peer_addr: addr.into(),
        version: "0.1.0".into(),
        zone: "z1".into(),
        metadata: [("rack".to_string(), "7".to_string())].into(),
    }
}

fn join(name: &str, incarnation: u8) -> JoinNode {
    JoinNode { name: name.into(), incarnation: Incarnation([incarnation; 16]), info: info("host:7400") }
}

fn acquire(keys: &[&str], by: u8, wait: u64) -> AcquireLock {
    AcquireLock {
        keys: keys.iter().map(|key| (*key).to_string()).collect(),
        mode: if by == 3 { LockMode::Shared } else { LockMode::Exclusive },
        owner: format!("owner {by}"),
        secret: SecretHash([by; 32]),
        salt: Some(Salt([by; 16])),
        ttl: Millis(30_000),
        wait: Millis(wait),
        hold_max: Some(Millis(3_600_000)),
        metadata: Some("{\"job\":1}".into()),
        waiter: WaiterId([by; 16]),
        node: NodeId(1),
    }
}

/// Position of the variant; a new one does not compile without a line here and a command below.
fn variant(command: &Command) -> usize {
    match command {
        Command::Tick => 0,
        Command::FormCluster(_) => 1,
        Command::JoinNode(_) => 2,
        Command::UpdateNode(_) => 3,
        Command::ChangeNode(_) => 4,
        Command::RemoveNode(_) => 5,
        Command::AnnounceLeader(_) => 6,
        Command::AcquireLock(_) => 7,
        Command::RenewLocks(_) => 8,
        Command::ReleaseLock(_) => 9,
        Command::CancelWait(_) => 10,
        Command::ForceReleaseLock(_) => 11,
        Command::WriteKv(_) => 12,
    }
}

const VARIANTS: usize = 13;

/// Every command; applied in this order they also leave one record of every kind.
fn commands() -> Vec<(&'static str, Command)> {
    let form = FormCluster {
        cluster_id: ClusterId([0xc1; 16]),
        formed_at_unix_ms: 1_764_000_000_000,
        voters_target: 3,
        nodes: vec![join("a", 1), join("b", 2)],
    };
    let update =
        UpdateNode { id: NodeId(1), incarnation: Incarnation([1; 16]), boot: 4, info: info("moved:7400") };
    let change = ChangeNode {
        id: NodeId(2),
        generation: 1,
        status: Some(NodeStatus::Suspect),
        role: Some(NodeRole::Learner),
    };
    let renew = RenewLock { key: "k1".into(), secret: SecretHash([1; 32]), ttl: Some(Millis(60_000)) };
    let plain = RenewLock { ttl: None, ..renew.clone() };
    let force = ForceReleaseLock { key: "k9".into(), reason: "stuck".into(), token: Some(FencingToken(300)) };
    let conditions = [
        (vec![0, 255], KvExpect::Absent),
        (vec![1], KvExpect::Exists),
        (vec![2], KvExpect::Revision(Revision(300))),
    ];
    let condition = |(key, expect)| KvCondition { key, expect };
    let put = |key: u8| KvOperation::Put {
        key: vec![key],
        value: vec![0, 1, 255],
        content_type: Some("text/plain".into()),
        ttl: Some(Millis(90_000)),
    };
    let write = WriteKv {
        conditions: conditions.into_iter().map(condition).collect(),
        operations: vec![put(3), KvOperation::Delete { key: vec![4] }],
    };
    vec![
        ("form_cluster", Command::FormCluster(form)),
        ("tick", Command::Tick),
        ("join_node", Command::JoinNode(join("c", 3))),
        ("update_node", Command::UpdateNode(update)),
        ("change_node", Command::ChangeNode(change)),
        ("announce_leader", Command::AnnounceLeader(AnnounceLeader { id: NodeId(1), term: 300 })),
        ("acquire_lock", Command::AcquireLock(acquire(&["k1", "k2"], 1, 0))),
        ("acquire_lock_waiting", Command::AcquireLock(acquire(&["k2"], 2, 40_000))),
        ("acquire_lock_shared", Command::AcquireLock(acquire(&["k3"], 3, 0))),
        ("renew_locks", Command::RenewLocks(vec![renew, plain])),
        ("release_lock", Command::ReleaseLock(ReleaseLock { key: "k3".into(), secret: SecretHash([3; 32]) })),
        ("cancel_wait", Command::CancelWait(CancelWait { waiter: WaiterId([9; 16]), node: NodeId(1) })),
        ("force_release_lock", Command::ForceReleaseLock(force)),
        ("write_kv", Command::WriteKv(write)),
        ("write_kv_put", Command::WriteKv(WriteKv { conditions: vec![], operations: vec![put(1)] })),
        ("remove_node", Command::RemoveNode(RemoveNode { id: NodeId(2), reason: "retired".into() })),
    ]
}

fn requests() -> Vec<(&'static str, Request)> {
    let key = |at: usize| RequestKey { scope: [u8::try_from(at).unwrap(); 16], body: [0xb0; 16] };
    let keyed = (0..).zip(commands());
    // Every other one is retryable, so both forms stand in the file.
    keyed
        .map(|(at, (name, command))| (name, Request { idempotency: (at % 2 == 1).then(|| key(at)), command }))
        .collect()
}

fn state() -> State {
    let mut state = State::new();
    for (index, (_, request)) in (1..).zip(requests()) {
        state.apply(Entry { index: LogIndex(index * 300), at: Millis(index * 1_000), request });
        invariants::check(&state).unwrap();
    }
    state
}

#[test]
fn every_command_keeps_its_bytes() {
    let covered: BTreeSet<_> = commands().iter().map(|(_, command)| variant(command)).collect();
    assert_eq!(covered, (0..VARIANTS).collect());
    let lines: Vec<_> = requests().iter().map(|(name, request)| encoded(name, request)).collect();
    let known = golden("requests.txt", &lines);
    for ((name, request), (of, bytes)) in requests().into_iter().zip(known) {
        assert_eq!((name, request), (of.as_str(), decoded::<Request>(&bytes)));
    }
}

#[test]
fn every_record_keeps_its_bytes() {
    let state = state();
    let mut counts = BTreeMap::new();
    let lines: Vec<_> = state
        .records()
        .map(|record| {
            let kind = match record {
                Record::Meta(_) => "meta",
                Record::Node(_) => "node",
                Record::Grant(_) => "grant",
                Record::Waiter(_) => "waiter",
                Record::Register(_) => "register",
                Record::Event(_) => "event",
                Record::Request(_) => "request",
                Record::Version(_) => "version",
            };
            let count = counts.entry(kind).or_insert(0);
            *count += 1;
            encoded(&format!("{kind} {count}"), &record)
        })
        .collect();
    assert_eq!(counts.len(), 7, "a kind of record is missing");
    // A state is read back from the bytes in the file, not only from today's.
    let mut builder = StateBuilder::new();
    for (_, bytes) in golden("records.txt", &lines) {
        builder.push(decoded(&bytes)).unwrap();
    }
    assert_eq!(builder.finish(state.hash()).unwrap().hash(), state.hash());
}

#[test]
fn the_hash_of_a_state_stays() {
    golden("hash.txt", &[("hash".to_string(), state().hash().to_string())]);
}
