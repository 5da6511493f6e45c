//! Restoring: what is read back is the state that was written, and anything else is refused, never a panic.

#![allow(clippy::unwrap_used, reason = "a test")]

use ovncp_state::command::{
    AcquireLock, AcquireLockInSession, AttachSession, CancelWait, DrainNode, FormCluster, Invalidate,
    JoinNode, KvOperation, LockMode, NewMessage, NodeInfo, PublishMessages, Recipient, RegisterSession,
    RemoveNode, ReportCleared, RotateSession, WriteKv,
};
use ovncp_state::{
    ClusterId, Command, Entry, Incarnation, InvalidationOffset, LogIndex, Millis, NodeId, Record, Request,
    RequestKey, RestoreError, SecretHash, SessionId, State, StateBuilder, StateHash, WaiterId,
};
use proptest::prelude::*;

mod support;

use support::{restored, snapshot};

fn acquire(key: String, by: u64, wait: u64) -> Command {
    let mut waiter = [0; 16];
    waiter[..8].copy_from_slice(&by.to_be_bytes());
    Command::AcquireLock(AcquireLock {
        keys: vec![key],
        mode: if by.is_multiple_of(3) { LockMode::Shared } else { LockMode::Exclusive },
        owner: format!("owner-{by}"),
        secret: SecretHash([u8::try_from(by % 250).unwrap(); 32]),
        salt: None,
        ttl: Millis(30_000),
        wait: Millis(wait),
        hold_max: None,
        metadata: None,
        waiter: WaiterId(waiter),
        node: NodeId(1),
    })
}

fn cancel(by: u64) -> CancelWait {
    let mut waiter = [0; 16];
    waiter[..8].copy_from_slice(&by.to_be_bytes());
    CancelWait { waiter: WaiterId(waiter), node: NodeId(1) }
}

/// A state with some of everything.
fn populated() -> State {
    let node = |name: &str| JoinNode {
        name: name.into(),
        incarnation: Incarnation([name.as_bytes()[0]; 16]),
        info: NodeInfo::default(),
    };
    let form = FormCluster {
        cluster_id: ClusterId([1; 16]),
        formed_at_unix_ms: 0,
        voters_target: 1,
        nodes: vec![node("a"), node("b")],
    };
    let mut commands = vec![Command::FormCluster(form)];
    for by in 0..300 {
        commands.push(acquire(format!("lock-{}", by % 120), by, if by < 120 { 0 } else { 20_000 }));
        let put = KvOperation::Put {
            key: format!("{}", by * 7919 % 300).into_bytes(),
            value: vec![1; 20],
            content_type: None,
            ttl: (by % 2 == 0).then_some(Millis(5_000)),
        };
        commands.push(Command::WriteKv(WriteKv { conditions: vec![], operations: vec![put] }));
    }
    commands.extend(later());
    let mut state = State::new();
    for (index, command) in (1..).zip(commands) {
        let key = RequestKey { scope: [u8::try_from(index % 256).unwrap(); 16], body: [0; 16] };
        let request = Request { idempotency: (index % 3 == 0).then_some(key), command };
        state.apply(Entry { index: LogIndex(index), at: Millis(index), request });
    }
    state
}

/// Sessions with and without sockets, bound locks, messages, invalidations, a drain and a report.
fn later() -> Vec<Command> {
    let id = |by: u8| SessionId([by; 16]);
    let register = |by: u8| RegisterSession {
        id: id(by),
        user: format!("user-{}", by % 3),
        socket: by.is_multiple_of(2).then_some(NodeId(1 + u64::from(by % 4) / 2)),
        ttl: Millis(30_000),
        metadata: Some("{}".into()),
    };
    let mut commands: Vec<_> = (0..20).map(|by| Command::RegisterSession(register(by))).collect();
    for by in 0..10 {
        let Command::AcquireLock(acquire) =
            acquire(format!("bound-{}", by % 4), 5_000 + u64::from(by), 20_000)
        else {
            unreachable!("it is one")
        };
        commands.push(Command::AcquireLockInSession(AcquireLockInSession { acquire, session: id(by) }));
        let message = NewMessage { to: Recipient::User("user-1".into()), data: "{}".into(), from: None };
        commands.push(Command::PublishMessages(PublishMessages { messages: vec![message] }));
        let patterns = vec![format!("switch:{by}:*")];
        let invalidate = Invalidate { patterns, tags: vec![], origin: NodeId(1), waited_for: false };
        commands.push(Command::Invalidate(invalidate));
        let rotate = RotateSession { id: id(by), next: id(100 + by), overlap: Millis(60_000) };
        commands.push(Command::RotateSession(rotate));
    }
    commands.push(Command::ReportCleared(ReportCleared { node: NodeId(2), next: InvalidationOffset(7) }));
    commands.push(Command::DrainNode(DrainNode { id: NodeId(2), rate_per_s: 50 }));
    commands
}

/// Every session ends or goes on, by what is asked of all of them.
fn go_on_with_sessions(state: &mut State, index: u64) {
    for (at, by) in (0..120).enumerate() {
        let attach =
            AttachSession { id: SessionId([by; 16]), node: NodeId(1), token: None, ttl: Millis(1_000) };
        let index = LogIndex(index + at as u64);
        let request = Request::from(Command::AttachSession(attach));
        state.apply(Entry { index, at: Millis(20_000), request });
    }
    for (at, step) in (120..).zip(1..4) {
        let remove = RemoveNode { id: NodeId(3 - step.min(2)), reason: "gone".into() };
        let index = LogIndex(index + at);
        let request = Request::from(Command::RemoveNode(remove));
        state.apply(Entry { index, at: Millis(20_000 + step * 50_000), request });
    }
}

fn build(records: impl IntoIterator<Item = Record>, hash: StateHash) -> Result<State, RestoreError> {
    let mut builder = StateBuilder::new();
    records.into_iter().try_for_each(|record| builder.push(record))?;
    builder.finish(hash)
}

#[test]
fn a_state_from_the_log_and_one_from_its_snapshot_have_one_hash_for_ever() {
    let mut from_log = populated();
    let mut from_snapshot = restored(&from_log);
    for index in 700..900 {
        let request = Request::from(acquire(format!("lock-{}", index % 90), index, 1_000));
        let entry = Entry { index: LogIndex(index), at: Millis(index * 100), request };
        assert_eq!(from_log.apply(entry.clone()), from_snapshot.apply(entry));
        assert_eq!(from_log.hash(), from_snapshot.hash());
    }
}

#[test]
fn the_hash_tells_states_apart() {
    let mut state = populated();
    let before = state.hash();
    let request = Request::from(Command::Tick);
    state.apply(Entry { index: LogIndex(5_000), at: Millis(0), request });
    assert_ne!(state.hash(), before, "the applied index is part of the hash");
}

#[test]
fn a_missing_record_is_noticed() {
    let state = populated();
    let total = state.records().count();
    for missing in (0..total).step_by(37) {
        let records = state.records().enumerate().filter(|(at, _)| *at != missing).map(|(_, record)| record);
        assert!(build(records, state.hash()).is_err(), "record {missing} was missing");
    }
}

#[test]
fn records_out_of_order_are_refused() {
    let state = populated();
    let records: Vec<_> = state.records().collect();
    assert_eq!(build([], state.hash()).err(), Some(RestoreError::Empty));
    let err = build(records[1..].iter().cloned(), state.hash()).err();
    assert_eq!(err, Some(RestoreError::OutOfOrder { position: 0 }), "Meta comes first");
    let doubled = records.iter().take(2).chain(&records[1..]).cloned();
    assert_eq!(build(doubled, state.hash()).err(), Some(RestoreError::OutOfOrder { position: 2 }));
    let two_metas = records.iter().take(1).chain(&records).cloned();
    assert_eq!(build(two_metas, state.hash()).err(), Some(RestoreError::OutOfOrder { position: 1 }));
    let mut swapped = records.clone();
    let last = records.iter().rposition(|record| matches!(record, Record::Request(_))).unwrap();
    swapped.swap(5, last);
    assert!(matches!(build(swapped, state.hash()).err(), Some(RestoreError::OutOfOrder { .. })));
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let mut state = populated();
    let apply = |state: &mut State, index: u64, command: Command| {
        state.apply(Entry { index: LogIndex(index), at: Millis(1_000_000), request: Request::from(command) })
    };
    let grant_of = |state: &State| {
        state.records().filter(|record| matches!(record, Record::Grant(_))).last().expect("a lock is held")
    };
    apply(&mut state, 1_000, acquire("door".into(), 1_001, 0));
    let first = grant_of(&state);
    apply(&mut state, 1_001, Command::CancelWait(cancel(1_001)));
    apply(&mut state, 1_002, acquire("door".into(), 1_003, 0));
    let second = grant_of(&state);
    let meta = state.records().next().expect("Meta is the first record");
    let both = [meta, first.clone(), second];
    let error = build(both, state.hash()).err();
    let problem = "one of its keys is held already".to_string();
    assert_eq!(error, Some(RestoreError::Impossible { position: 2, problem }));
    // A token above every one that was given would be given again.
    let young = State::new().records().next().expect("Meta is the first record");
    let problem = "its token was never given".to_string();
    let error = build([young, first], state.hash()).err();
    assert_eq!(error, Some(RestoreError::Impossible { position: 1, problem }));
}

#[test]
fn records_of_sessions_that_contradict_each_other_are_refused() {
    let state = populated();
    let records: Vec<_> = state.records().collect();
    // A message that nobody counted would be given its offset again; a binding without its session would outlive it.
    let without = |gone: fn(&Record) -> bool| {
        build(records.iter().filter(|record| !gone(record)).cloned(), state.hash()).err()
    };
    let refused = |error: Option<RestoreError>, problem: &str| match error {
        Some(RestoreError::Impossible { problem: found, .. }) => assert_eq!(found, problem),
        other => panic!("{other:?}"),
    };
    refused(without(|record| matches!(record, Record::Offsets(_))), "its offset was never given");
    let unbound = "it binds what is not there, or is bound already";
    refused(without(|record| matches!(record, Record::Session(_))), unbound);
    let locks = |record: &Record| matches!(record, Record::Grant(_) | Record::Waiter(_) | Record::Request(_));
    refused(without(locks), unbound);
    for kind in [
        |record: &Record| matches!(record, Record::Session(_)),
        |record: &Record| matches!(record, Record::Binding(_)),
    ] {
        let mut doubled = records.clone();
        let at = records.iter().position(kind).unwrap();
        doubled.insert(at, records[at].clone());
        assert!(build(doubled, state.hash()).is_err());
    }
}

#[test]
fn another_hash_is_refused() {
    let state = populated();
    let error = build(state.records(), StateHash([0; 16])).err();
    assert_eq!(
        error,
        Some(RestoreError::HashMismatch { expected: StateHash([0; 16]), actual: state.hash() })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// One flipped bit anywhere: refused by the decoder or by the hash, or, where the flip makes another
    /// valid state and the hash is taken along, refused by the invariants or accepted: never a panic, also
    /// not when it goes on.
    #[test]
    fn damage_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..8), 1..4)) {
        let state = populated();
        let mut records = snapshot(&state);
        for (record, byte, bit) in flips {
            let record = record.index(records.len());
            let byte = byte.index(records[record].len());
            records[record][byte] ^= 1 << bit;
        }
        let damaged = records != snapshot(&state);
        let decoded: Vec<Record> = records.iter().filter_map(|bytes| postcard::from_bytes(bytes).ok()).collect();
        let built = build(decoded.clone(), state.hash());
        prop_assert_eq!(built.is_err(), damaged, "damage passed the hash");
        let Err(RestoreError::HashMismatch { actual, .. }) = built else { return Ok(()) };
        if let Ok(mut state) = build(decoded, actual) {
            go_on_with_sessions(&mut state, 1_000);
            for index in 0..50 {
                let request = Request::from(acquire(format!("lock-{index}"), 10_000 + index, 1_000));
                state.apply(Entry { index: LogIndex(2_000 + index), at: Millis(index * 2_000), request });
            }
        }
    }
}
