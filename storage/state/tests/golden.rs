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
    AcquireLock, AcquireLockInSession, AnnounceLeader, AttachSession, CancelWait, ChangeNode,
    DescribeSession, DrainNode, EndSession, ForceReleaseLock, FormCluster, Invalidate, JoinNode, KvCondition,
    KvExpect, KvOperation, LockMode, MigrateSession, NewMessage, NodeInfo, NodeRole, NodeStatus,
    PublishMessages, Recipient, RegisterSession, ReleaseLock, RemoveNode, RenewLock, ReportCleared,
    ResumeNode, RotateSession, SessionEnd, SessionUpdate, SubscribeSession, UpdateNode, UpdateSessions,
    WriteKv,
};
use ovncp_state::limits::EXPIRIES_PER_APPLY_MAX;
use ovncp_state::{
    ClusterId, Command, Entry, FencingToken, Incarnation, InvalidationOffset, LogIndex, MessageOffset,
    Millis, NodeId, Record, Request, RequestKey, Revision, Salt, SecretHash, SessionId, SessionNumber, State,
    StateBuilder, WaiterId, invariants,
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
        Command::RegisterSession(_) => 13,
        Command::AttachSession(_) => 14,
        Command::UpdateSessions(_) => 15,
        Command::EndSession(_) => 16,
        Command::MigrateSession(_) => 17,
        Command::RotateSession(_) => 18,
        Command::DescribeSession(_) => 19,
        Command::SubscribeSession(_) => 20,
        Command::PublishMessages(_) => 21,
        Command::AcquireLockInSession(_) => 22,
        Command::DrainNode(_) => 23,
        Command::ResumeNode(_) => 24,
        Command::Invalidate(_) => 25,
        Command::ReportCleared(_) => 26,
    }
}

const VARIANTS: usize = 27;

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

/// The commands of version 0.2. Applied behind those of 0.1 they leave the other kinds of record.
fn later_commands() -> Vec<(&'static str, Command)> {
    let register = |id: u8, socket| {
        Command::RegisterSession(RegisterSession {
            id: SessionId([id; 16]),
            user: "alice".into(),
            socket,
            ttl: Millis(3_600_000),
            metadata: Some("{\"tab\":1}".into()),
        })
    };
    // The index of the entry that registers the first one, and of the one that registers the second.
    let (first, second) = (SessionNumber(18 * 300), SessionNumber(19 * 300));
    let attach = AttachSession {
        id: SessionId([0x51; 16]),
        node: NodeId(1),
        token: Some(SecretHash([7; 32])),
        ttl: Millis(3_600_000),
    };
    let update = |number, detach| SessionUpdate {
        number,
        epoch: 1,
        idle: Millis(300),
        position: MessageOffset(300),
        detach,
    };
    let updates = vec![update(first, false), update(second, true)];
    let migrate = MigrateSession {
        number: first,
        epoch: Some(1),
        target: Some(NodeId(1_900)),
        token: SecretHash([7; 32]),
        salt: Salt([8; 16]),
        valid: Millis(30_000),
    };
    // The third member can take sessions.
    let activate =
        ChangeNode { id: NodeId(1_900), generation: 1, status: Some(NodeStatus::Active), role: None };
    let placed = MigrateSession { epoch: None, target: None, ..migrate.clone() };
    let rotate =
        RotateSession { id: SessionId([0x51; 16]), next: SessionId([0x52; 16]), overlap: Millis(60_000) };
    let subscribe = SubscribeSession {
        number: first,
        epoch: 1,
        add: vec!["news".into(), "sport".into()],
        remove: vec!["sport".into()],
    };
    let to = [Recipient::Session(first), Recipient::User("alice".into()), Recipient::Channel("news".into())];
    let from = [None, Some(first), Some(second)];
    let message = |(to, from)| NewMessage { to, data: "{\"n\":1}".into(), from };
    let publish = PublishMessages { messages: to.into_iter().zip(from).map(message).collect() };
    let bound = AcquireLockInSession { acquire: acquire(&["k7"], 7, 0), session: SessionId([0x51; 16]) };
    let invalidate = Invalidate {
        patterns: vec!["switch:*".into(), "a:?:b".into()],
        tags: vec!["network".into()],
        origin: NodeId(1),
        waited_for: true,
    };
    let end = |number, epoch, cause| Command::EndSession(EndSession { number, epoch, cause });
    let describe = |metadata| Command::DescribeSession(DescribeSession { number: first, metadata });
    vec![
        ("change_node_active", Command::ChangeNode(activate)),
        ("register_session", register(0x51, Some(NodeId(1)))),
        ("register_session_placed", register(0x61, None)),
        ("attach_session", Command::AttachSession(attach)),
        ("update_sessions", Command::UpdateSessions(UpdateSessions { node: NodeId(1), updates })),
        ("end_session", end(SessionNumber(9), Some(300), SessionEnd::Expired)),
        ("end_session_closed", end(SessionNumber(9), None, SessionEnd::Closed)),
        ("migrate_session", Command::MigrateSession(migrate)),
        ("migrate_session_placed", Command::MigrateSession(placed)),
        ("subscribe_session", Command::SubscribeSession(subscribe)),
        ("publish_messages", Command::PublishMessages(publish)),
        ("acquire_lock_in_session", Command::AcquireLockInSession(bound)),
        ("rotate_session", Command::RotateSession(rotate)),
        ("describe_session", describe(Some("{}".into()))),
        ("describe_session_not", describe(None)),
        ("drain_node", Command::DrainNode(DrainNode { id: NodeId(1), rate_per_s: 300 })),
        ("resume_node", Command::ResumeNode(ResumeNode { id: NodeId(300) })),
        ("invalidate", Command::Invalidate(invalidate)),
        (
            "report_cleared",
            Command::ReportCleared(ReportCleared { node: NodeId(1), next: InvalidationOffset(1) }),
        ),
    ]
}

fn requests() -> Vec<(&'static str, Request)> {
    let key = |at: usize| RequestKey { scope: [u8::try_from(at).unwrap(); 16], body: [0xb0; 16] };
    let keyed = (0..).zip(commands().into_iter().chain(later_commands()));
    // Every other one is retryable, so both forms stand in the file.
    keyed
        .map(|(at, (name, command))| (name, Request { idempotency: (at % 2 == 1).then(|| key(at)), command }))
        .collect()
}

/// After these first requests.
fn state(count: usize) -> State {
    let mut state = State::new();
    for (index, (_, request)) in (1..).zip(requests()).take(count) {
        state.apply(Entry { index: LogIndex(index * 300), at: Millis(index * 1_000), request });
        invariants::check(&state).unwrap();
    }
    state
}

#[test]
fn every_command_keeps_its_bytes() {
    let covered: BTreeSet<_> = requests().iter().map(|(_, request)| variant(&request.command)).collect();
    assert_eq!(covered, (0..VARIANTS).collect());
    let lines: Vec<_> = requests().iter().map(|(name, request)| encoded(name, request)).collect();
    let known = golden("requests.txt", &lines);
    for ((name, request), (of, bytes)) in requests().into_iter().zip(known) {
        assert_eq!((name, request), (of.as_str(), decoded::<Request>(&bytes)));
    }
}

/// The records of a state by kind and number, and a name for the file.
fn records(state: &State) -> (Vec<(String, String)>, BTreeSet<&'static str>) {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let lines = state.records().map(|record| {
        let kind = match record {
            Record::Meta(_) => "meta",
            Record::Node(_) => "node",
            Record::Grant(_) => "grant",
            Record::Waiter(_) => "waiter",
            Record::Register(_) => "register",
            Record::Event(_) => "event",
            Record::Request(_) => "request",
            Record::Version(_) => "version",
            Record::Offsets(_) => "offsets",
            Record::Session(_) => "session",
            Record::Binding(_) => "binding",
            Record::Lost(_) => "lost",
            Record::Drain(_) => "drain",
            Record::Message(_) => "message",
            Record::Invalidation(_) => "invalidation",
            Record::Cleared(_) => "cleared",
        };
        let count = counts.entry(kind).or_default();
        *count += 1;
        encoded(&format!("{kind} {count}"), &record)
    });
    (lines.collect(), counts.into_keys().collect())
}

/// A state is read back from the bytes in the file, not only from today's.
fn read_back(file: &str, lines: &[(String, String)], state: &State) {
    let mut builder = StateBuilder::new();
    for (_, bytes) in golden(file, lines) {
        builder.push(decoded(&bytes)).unwrap();
    }
    assert_eq!(builder.finish(state.hash()).unwrap().hash(), state.hash());
}

/// Nothing but what version 0.1 has: its records and its hash are those that it wrote.
#[test]
fn every_record_keeps_its_bytes() {
    let state = state(commands().len());
    let (lines, kinds) = records(&state);
    assert_eq!(kinds.len(), 7, "a kind of record is missing");
    read_back("records.txt", &lines, &state);
    golden("hash.txt", &[("hash".to_string(), state.hash().to_string())]);
}

#[test]
fn every_record_of_version_0_2_keeps_its_bytes() {
    let mut state = state(usize::MAX);
    let (mut lines, mut kinds) = records(&state);
    lines.push(("hash".to_string(), state.hash().to_string()));
    state = crowded();
    let (crowded, more) = records(&state);
    lines.extend(crowded.iter().filter(|(name, _)| name.starts_with("lost")).cloned());
    kinds.extend(more);
    assert_eq!(kinds.len(), 15, "a kind of record is missing: {kinds:?}");
    let known = golden("records_0_2.txt", &lines);
    let is_record = |(name, _): &&(String, String)| name != "hash" && !name.starts_with("lost");
    let mut builder = StateBuilder::new();
    for (_, bytes) in known.iter().filter(is_record) {
        builder.push(decoded(bytes)).unwrap();
    }
    let state = self::state(usize::MAX);
    assert_eq!(builder.finish(state.hash()).unwrap().hash(), state.hash());
    for (_, bytes) in known.iter().filter(|(name, _)| name.starts_with("lost")) {
        decoded::<Record>(bytes);
    }
}

/// More sockets on a node that leaves than one entry takes away.
fn crowded() -> State {
    let mut state = state(commands().len());
    let applied = state.applied().0;
    let mut apply = |command: Command| {
        let (index, at) = (LogIndex(state.applied().0 + 1), state.now());
        state.apply(Entry { index, at, request: command.into() });
    };
    for number in 0..=u64::try_from(EXPIRIES_PER_APPLY_MAX).unwrap() {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        apply(Command::RegisterSession(RegisterSession {
            id: SessionId(id),
            user: "bob".into(),
            socket: Some(NodeId(1)),
            ttl: Millis(60_000),
            metadata: None,
        }));
    }
    apply(Command::RemoveNode(RemoveNode { id: NodeId(1), reason: "gone".into() }));
    assert!(state.applied().0 > applied);
    state
}
