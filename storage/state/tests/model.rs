//! Random conversations, time jumps included, against a naive state ([`support::naive`]): replies, notices,
//! holders, queues and registers agree after every step, the invariants hold, and a twin restored from a
//! snapshot before the step has done the same.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::mem::{Discriminant, discriminant};

use ovncp_state::command::{
    AcquireLock, CancelWait, ChangeNode, ForceReleaseLock, FormCluster, JoinNode, KvCondition, KvExpect,
    KvOperation, LockMode, NodeInfo, NodeStatus, ReleaseLock, RenewLock, UpdateNode, WriteKv,
};
use ovncp_state::limits::Limits;
use ovncp_state::view::WaiterStatus;
use ovncp_state::{
    ClusterId, Command, FencingToken, Incarnation, Millis, NodeId, Reply, Request, RequestKey, Revision,
    Salt, SecretHash, State, WaiterId, invariants,
};
use proptest::collection::vec;
use proptest::prelude::*;

mod support;

use support::Checked;
use support::naive::Naive;

const KEYS: [&str; 4] = ["a", "ab", "b", "c"];
const WAITER_IDS: u8 = 40;

fn keys() -> impl Strategy<Value = Vec<String>> {
    let some = proptest::sample::subsequence(KEYS.as_slice(), 1..=3);
    // Mostly one key, so that queues form.
    prop_oneof![
        3 => (0..KEYS.len()).prop_map(|at| vec![KEYS[at].to_string()]),
        2 => some.prop_map(|keys| keys.into_iter().map(String::from).collect()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    (0..KEYS.len()).prop_map(|at| KEYS[at].to_string())
}

fn secret() -> impl Strategy<Value = SecretHash> {
    // The tail differs too, so that equal starts are told apart.
    (0u8..3, 0u8..2).prop_map(|(start, end)| {
        let mut secret = [start; 32];
        secret[31] = end;
        SecretHash(secret)
    })
}

fn waiter() -> impl Strategy<Value = WaiterId> {
    (0..WAITER_IDS).prop_map(|id| WaiterId([id; 16]))
}

fn acquire() -> impl Strategy<Value = Command> {
    let wait = prop_oneof![1 => Just(0), 3 => 1u64..4_000];
    let hold_max = proptest::option::weighted(0.3, (500u64..4_000).prop_map(Millis));
    let mode = prop_oneof![Just(LockMode::Exclusive), Just(LockMode::Shared)];
    (keys(), mode, secret(), 500u64..3_000, wait, hold_max, waiter(), 1u64..=2).prop_map(
        |(keys, mode, secret, ttl, wait, hold_max, waiter, node)| {
            Command::AcquireLock(AcquireLock {
                keys,
                mode,
                owner: format!("o{}", waiter.0[0]),
                secret,
                salt: (secret.0[0] == 0).then_some(Salt([7; 16])),
                ttl: Millis(ttl),
                wait: Millis(wait),
                hold_max,
                metadata: None,
                waiter,
                node: NodeId(node),
            })
        },
    )
}

fn write() -> impl Strategy<Value = Command> {
    let key = || prop_oneof![Just(vec![0u8]), Just(vec![0, 0]), Just(vec![0, 255]), Just(vec![1])];
    let expect = prop_oneof![
        Just(KvExpect::Exists),
        Just(KvExpect::Absent),
        (1u64..60).prop_map(|revision| KvExpect::Revision(Revision(revision))),
    ];
    let condition = (key(), expect).prop_map(|(key, expect)| KvCondition { key, expect });
    let ttl = proptest::option::of((1u64..3_000).prop_map(Millis));
    let put = (key(), vec(any::<u8>(), 0..4), ttl).prop_map(|(key, value, ttl)| KvOperation::Put {
        key,
        value,
        content_type: None,
        ttl,
    });
    let delete = key().prop_map(|key| KvOperation::Delete { key });
    let operation = prop_oneof![3 => put, 1 => delete];
    (vec(condition, 0..2), vec(operation, 1..4))
        .prop_map(|(conditions, operations)| Command::WriteKv(WriteKv { conditions, operations }))
}

fn command() -> impl Strategy<Value = Command> {
    let renewal = (key(), secret(), proptest::option::of((500u64..3_000).prop_map(Millis)));
    let renewals = vec(renewal.prop_map(|(key, secret, ttl)| RenewLock { key, secret, ttl }), 1..4);
    let token = proptest::option::of((1u64..20).prop_map(FencingToken));
    prop_oneof![
        12 => acquire(),
        3 => renewals.prop_map(Command::RenewLocks),
        6 => (key(), secret()).prop_map(|(key, secret)| Command::ReleaseLock(ReleaseLock { key, secret })),
        2 => (waiter(), 1u64..=2)
            .prop_map(|(waiter, node)| Command::CancelWait(CancelWait { waiter, node: NodeId(node) })),
        1 => (key(), token).prop_map(|(key, token)| {
            Command::ForceReleaseLock(ForceReleaseLock { key, reason: "why not".into(), token })
        }),
        4 => write(),
        2 => Just(Command::Tick),
        1 => Just(Command::ChangeNode(inactive())),
        1 => Just(Command::UpdateNode(active())),
    ]
}

/// The generation is filled in when the step is taken.
fn inactive() -> ChangeNode {
    ChangeNode { id: NodeId(2), generation: 0, status: Some(NodeStatus::Inactive), role: None }
}

fn active() -> UpdateNode {
    UpdateNode { id: NodeId(2), incarnation: Incarnation([2; 16]), boot: 0, info: NodeInfo::default() }
}

#[derive(Clone, Debug)]
struct Step {
    /// The clock of the leader; a new leader's may lag.
    pass: i64,
    request: Request,
}

fn step() -> impl Strategy<Value = Step> {
    let pass = prop_oneof![6 => 0i64..200, 2 => 200i64..2_000, 1 => -500i64..0, 1 => Just(700_000)];
    let key = proptest::option::weighted(0.3, (0u8..6, 0u8..4));
    let key =
        key.prop_map(|key| key.map(|(scope, body)| RequestKey { scope: [scope; 16], body: [body / 3; 16] }));
    (pass, key, command())
        .prop_map(|(pass, idempotency, command)| Step { pass, request: Request { idempotency, command } })
}

fn form() -> Request {
    let node = |name: &str, id: u8| JoinNode {
        name: name.into(),
        incarnation: Incarnation([id; 16]),
        info: NodeInfo::default(),
    };
    let nodes = vec![node("one", 1), node("two", 2)];
    let form = FormCluster { cluster_id: ClusterId([9; 16]), formed_at_unix_ms: 1, voters_target: 1, nodes };
    Command::FormCluster(form).into()
}

/// The stamp and the request of a step against the state as it is.
fn resolve(step: &Step, clock: &mut u64, state: &State) -> (Millis, Request) {
    *clock = clock.saturating_add_signed(step.pass);
    let mut request = step.request.clone();
    if let Command::ChangeNode(change) = &mut request.command {
        change.generation = state.node(change.id).unwrap().generation;
    }
    (Millis(*clock), request)
}

fn compare(state: &State, naive: &Naive) {
    let mut queued = 0;
    for key in KEYS.map(String::from) {
        let held: Vec<_> = naive.held.iter().filter(|held| held.ask.keys.contains(&key)).collect();
        let waiting: Vec<_> = naive.waiting.iter().filter(|waiter| waiter.ask.keys.contains(&key)).collect();
        queued += waiting.len();
        let Some(lock) = state.lock(&key, usize::MAX) else {
            assert!(held.is_empty() && waiting.is_empty(), "{key} is free only in the state");
            continue;
        };
        let expected: Vec<_> =
            held.iter().map(|held| (held.token, held.ask.mode, held.since, held.deadline)).collect();
        let actual: Vec<_> =
            lock.holders.iter().map(|held| (held.token, held.mode, held.since, held.expires)).collect();
        assert_eq!(actual, expected, "holders of {key}");
        let expected: Vec<_> = waiting.iter().map(|waiter| (waiter.ask.waiter, waiter.deadline)).collect();
        let actual: Vec<_> = lock.queue.iter().map(|waiter| (waiter.waiter, waiter.deadline)).collect();
        assert_eq!(actual, expected, "queue of {key}");
        assert_eq!(lock.queue_length, waiting.len() as u64);
    }
    for id in 0..WAITER_IDS {
        let id = WaiterId([id; 16]);
        let held = naive.held.iter().find(|held| held.ask.waiter == id);
        let waits = naive.waiting.iter().any(|waiter| waiter.ask.waiter == id);
        let expected = match held {
            Some(held) => WaiterStatus::Granted(held.token),
            None if waits => WaiterStatus::Waiting,
            None => WaiterStatus::Gone,
        };
        assert_eq!(state.waiter(id), expected);
        assert_eq!(state.granted(id), held.map(|held| naive.reply_of(held)));
    }
    let registers: Vec<_> = state.kv_scan(&[], None, usize::MAX).into_iter().map(|meta| meta.key).collect();
    assert!(registers.iter().eq(naive.registers.keys()), "other registers");
    for (key, register) in &naive.registers {
        let (meta, value) = state.kv(key).unwrap();
        assert_eq!(
            (meta.revision, meta.expires, &value),
            (register.revision, register.deadline, &register.value)
        );
    }
    let cluster = state.cluster();
    assert_eq!((cluster.locks_held, cluster.waiters), (naive.held.len() as u64, naive.waiting.len() as u64));
    assert!(queued >= naive.waiting.len());
    // Mutual exclusion in its plainest form.
    for (at, held) in naive.held.iter().enumerate() {
        for other in &naive.held[at + 1..] {
            let shared = held.ask.mode == LockMode::Shared && other.ask.mode == LockMode::Shared;
            assert!(shared || !held.ask.keys.iter().any(|key| other.ask.keys.contains(key)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_state(steps in vec((step(), any::<bool>()), 1..120)) {
        let mut checked = Checked::new(State::new(), true);
        let mut naive = Naive::default();
        let mut clock = 0;
        checked.apply(Millis(0), &form());
        naive.apply(Millis(0), &form());
        for (step, twin) in &steps {
            let (at, request) = resolve(step, &mut clock, &checked.state);
            // A snapshot at random points: it costs most of the time.
            checked.twins = *twin;
            let applied = checked.apply(at, &request);
            let (reply, notices) = naive.apply(at, &request);
            prop_assert_eq!(&applied.reply, &reply, "{:?}", request);
            prop_assert_eq!(&applied.notices, &notices, "{:?}", request);
            compare(&checked.state, &naive);
        }
    }

    /// With a clean-up of one lease per apply, and ticks at the same time until nothing is left over, the same
    /// requests hold, wait and are refused as with an unbounded one. Only the order of tokens may differ.
    /// Commands that end a grant or a wait come after the ticks: a grant that is only about to be made cannot
    /// be released yet.
    #[test]
    fn bounded_clean_up_ends_where_unbounded_does(steps in vec(step(), 1..120)) {
        let limits = Limits { expiries_per_apply: 1, ..Limits::default() };
        let mut bounded = Checked::new(State::with_limits(limits), false);
        let mut unbounded = Checked::new(State::new(), false);
        let mut clock = 0;
        bounded.apply(Millis(0), &form());
        unbounded.apply(Millis(0), &form());
        for step in &steps {
            let (at, mut request) = resolve(step, &mut clock, &bounded.state);
            // Replies tell tokens and indexes, which differ; the kept ones would carry them over.
            request.idempotency = None;
            if let Command::ForceReleaseLock(force) = &mut request.command {
                force.token = None;
            }
            if let Command::WriteKv(write) = &mut request.command {
                write.conditions.clear();
            }
            let at_once = matches!(
                request.command,
                Command::AcquireLock(_) | Command::WriteKv(_) | Command::Tick
            );
            let mut outcomes = Vec::new();
            let mut expected = Vec::new();
            if !at_once {
                outcomes.extend(drained(&mut bounded, at, &Command::Tick.into()).1);
                expected.extend(self::outcomes(unbounded.apply(at, &Command::Tick.into()).notices));
            }
            let (kind, more) = drained(&mut bounded, at, &request);
            outcomes.extend(more);
            let applied = unbounded.apply(at, &request);
            expected.extend(self::outcomes(applied.notices));
            // What a reply tells of tokens and holders may differ, its kind not.
            prop_assert_eq!(kind, discriminant(&applied.reply), "{:?}", request);
            outcomes.sort();
            expected.sort();
            prop_assert_eq!(outcomes, expected, "{:?}", request);
            prop_assert_eq!(locks(&bounded.state), locks(&unbounded.state), "{:?}", request);
            let keys = |state: &State| -> Vec<_> {
                state.kv_scan(&[], None, usize::MAX).into_iter().map(|meta| (meta.key, meta.expires)).collect()
            };
            prop_assert_eq!(keys(&bounded.state), keys(&unbounded.state));
        }
    }

    /// Whatever the leader's clock does, and whatever is asked of an unformed cluster, apply does not panic.
    #[test]
    fn extreme_stamps_do_no_harm(steps in vec((step(), any::<u64>()), 1..40), formed in any::<bool>()) {
        let mut checked = Checked::new(State::new(), true);
        if formed {
            checked.apply(Millis(0), &form());
        }
        for (step, at) in steps {
            let applied = checked.apply(Millis(at), &step.request);
            let effect = matches!(applied.reply, Reply::Granted(_) | Reply::Written { .. });
            prop_assert!(formed || !effect);
            invariants::check(&checked.state).unwrap();
        }
    }
}

/// Who was granted or refused.
fn outcomes(notices: Vec<ovncp_state::Notice>) -> Vec<(WaiterId, bool)> {
    notices.into_iter().map(|notice| (notice.waiter, notice.outcome.is_ok())).collect()
}

/// Applies a request and then ticks, all at the same time, until nothing is left to clean up.
fn drained(
    checked: &mut Checked,
    at: Millis,
    request: &Request,
) -> (Discriminant<Reply>, Vec<(WaiterId, bool)>) {
    let applied = checked.apply(at, request);
    let mut outcomes = outcomes(applied.notices);
    while checked.state.next_deadline().is_some_and(|deadline| deadline <= checked.state.now()) {
        outcomes.extend(self::outcomes(checked.apply(at, &Command::Tick.into()).notices));
    }
    (discriminant(&applied.reply), outcomes)
}

/// Owner, begin and end.
type Hold = (String, Millis, Millis);

/// Holders and queues without tokens.
fn locks(state: &State) -> Vec<(String, Vec<Hold>, Vec<WaiterId>)> {
    let locks = state.locks("", None, usize::MAX, usize::MAX);
    let locks = locks.into_iter().map(|lock| {
        let mut holders: Vec<_> =
            lock.holders.into_iter().map(|held| (held.owner, held.since, held.expires)).collect();
        holders.sort();
        (lock.key, holders, lock.queue.into_iter().map(|waiter| waiter.waiter).collect())
    });
    locks.collect()
}
