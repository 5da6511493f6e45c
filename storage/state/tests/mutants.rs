//! Every mutant of the state is one: it answers otherwise than the state does.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use ovncp_state::command::{
    AcquireLock, AnnounceLeader, AttachSession, ChangeNode, FormCluster, Invalidate, JoinNode, KvOperation,
    LockMode, NewMessage, NodeInfo, NodeStatus, PublishMessages, Recipient, RegisterSession, ReleaseLock,
    SessionUpdate, UpdateSessions, WriteKv,
};
use ovncp_state::mutants::{Mutant, choose, is};
use ovncp_state::reply::SessionGrant;
use ovncp_state::{
    Applied, ClusterId, Command, Entry, FencingToken, Incarnation, LogIndex, MessageOffset, Millis, NodeId,
    Refusal, Reply, Request, RequestKey, SecretHash, SessionId, State, StateBuilder, WaiterId,
};

/// What the state does, and what it does as this mutant. A mutant belongs to its whole process: one test at a time.
fn both<T: Debug + PartialEq>(mutant: Mutant, scenario: impl Fn() -> T) -> (T, T) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let right = scenario();
    choose(Some(mutant));
    assert!(is(mutant));
    let wrong = scenario();
    choose(None);
    assert_eq!(right, scenario(), "the choice can be taken back");
    assert_ne!(right, wrong, "{} changes nothing", mutant.name());
    (right, wrong)
}

/// Some entries into the life of a cluster.
const BEGIN: u64 = 5_000;

fn apply(state: &mut State, index: u64, at: u64, request: impl Into<Request>) -> Applied {
    state.apply(Entry { index: LogIndex(index), at: Millis(at), request: request.into() })
}

fn join(name: &str, id: u8) -> JoinNode {
    JoinNode { name: name.to_owned(), incarnation: Incarnation([id; 16]), info: NodeInfo::default() }
}

fn formed() -> State {
    let node = join("a", 1);
    let form = FormCluster {
        cluster_id: ClusterId([1; 16]),
        formed_at_unix_ms: 0,
        voters_target: 1,
        nodes: vec![node],
    };
    let mut state = State::new();
    apply(&mut state, BEGIN, 0, Command::FormCluster(form));
    state
}

fn acquire(who: u8, mode: LockMode, wait: u64) -> Command {
    Command::AcquireLock(AcquireLock {
        keys: vec!["k".to_owned()],
        mode,
        owner: format!("owner-{who}"),
        secret: SecretHash([who; 32]),
        salt: None,
        ttl: Millis(60_000),
        wait: Millis(wait),
        hold_max: None,
        metadata: None,
        waiter: WaiterId([who; 16]),
        node: NodeId(1),
    })
}

fn release(who: u8) -> Command {
    Command::ReleaseLock(ReleaseLock { key: "k".to_owned(), secret: SecretHash([who; 32]) })
}

/// The state as it comes out of its own snapshot.
fn restored(state: &State) -> State {
    let mut builder = StateBuilder::new();
    state.records().for_each(|record| builder.push(record).unwrap());
    builder.finish(state.hash()).unwrap()
}

/// Whom an entry granted what it waited for, in order.
fn granted(applied: &Applied) -> Vec<(WaiterId, FencingToken)> {
    let notices = applied.notices.iter();
    notices.filter_map(|notice| Some((notice.waiter, notice.outcome.as_ref().ok()?.token))).collect()
}

fn token(applied: &Applied) -> Option<FencingToken> {
    if let Reply::Granted(grant) = &applied.reply { Some(grant.token) } else { None }
}

#[test]
fn names_are_unique_and_speak_for_themselves() {
    let names: std::collections::BTreeSet<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    assert_eq!(names.len(), Mutant::ALL.len());
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(names.iter().all(|name| plain(name)), "{names:?}");
    assert!(Mutant::ALL.iter().all(|mutant| mutant.what().ends_with('.')));
}

#[test]
fn double_grant_gives_what_is_held() {
    let (right, wrong) = both(Mutant::DoubleGrant, || {
        let mut state = formed();
        apply(&mut state, BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0));
        let index = (BEGIN + 2).next_multiple_of(16);
        token(&apply(&mut state, index, 0, acquire(2, LockMode::Exclusive, 0)))
    });
    assert_eq!((right, wrong), (None, Some(FencingToken(2))));
}

#[test]
fn release_without_secret_takes_the_lock_from_its_holder() {
    let (right, wrong) = both(Mutant::ReleaseWithoutSecret, || {
        let mut state = formed();
        apply(&mut state, BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0));
        apply(&mut state, BEGIN + 2, 0, release(2)).reply
    });
    assert_eq!(right, Reply::Refused(Refusal::NotHolder { key: "k".to_owned() }));
    assert_eq!(wrong, Reply::Released { token: FencingToken(1) });
}

#[test]
fn token_from_local_counter_depends_on_the_process() {
    let tokens = || {
        let one = || token(&apply(&mut formed(), BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0)));
        // Two nodes that apply the same entry.
        one() == one()
    };
    assert_eq!(both(Mutant::TokenFromLocalCounter, tokens), (true, false));
}

#[test]
fn token_lost_in_snapshot_is_given_again() {
    let (right, wrong) = both(Mutant::TokenLostInSnapshot, || {
        let mut state = formed();
        apply(&mut state, BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0));
        apply(&mut state, BEGIN + 2, 0, release(1));
        token(&apply(&mut restored(&state), BEGIN + 3, 0, acquire(2, LockMode::Exclusive, 0)))
    });
    assert_eq!((right, wrong), (Some(FencingToken(2)), Some(FencingToken(1))));
}

#[test]
fn waiter_granted_late_gets_the_lock_after_its_time() {
    let (right, wrong) = both(Mutant::WaiterGrantedLate, || {
        let mut state = formed();
        apply(&mut state, BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0));
        apply(&mut state, BEGIN + 2, 0, acquire(2, LockMode::Exclusive, 1_000));
        granted(&apply(&mut state, BEGIN + 3, 1_500, release(1))).len()
    });
    assert_eq!((right, wrong), (0, 1));
}

#[test]
fn lifo_waiters_get_the_lock_in_reverse() {
    let (right, wrong) = both(Mutant::LifoWaiters, || {
        let mut state = formed();
        for who in 1..=4 {
            apply(&mut state, BEGIN + u64::from(who), 0, acquire(who, LockMode::Exclusive, 30_000));
        }
        // One more comes after the first hand-over.
        let mut order = Vec::new();
        let mut holder = 1;
        for round in 0..4_u64 {
            let applied = apply(&mut state, BEGIN + 10 + 2 * round, 0, release(holder));
            holder = granted(&applied)[0].0.0[0];
            order.push(holder);
            if round == 0 {
                apply(&mut state, BEGIN + 11, 0, acquire(5, LockMode::Exclusive, 30_000));
            }
        }
        order
    });
    assert_eq!((right, wrong), (vec![2, 3, 4, 5], vec![4, 5, 3, 2]));
}

#[test]
fn waiter_lost_in_snapshot_is_never_granted() {
    let (right, wrong) = both(Mutant::WaiterLostInSnapshot, || {
        let mut state = formed();
        apply(&mut state, BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0));
        apply(&mut state, BEGIN + 2, 0, acquire(2, LockMode::Exclusive, 30_000));
        granted(&apply(&mut restored(&state), BEGIN + 3, 0, release(1))).len()
    });
    assert_eq!((right, wrong), (1, 0));
}

#[test]
fn retry_without_key_writes_a_second_time() {
    let (right, wrong) = both(Mutant::RetryWithoutKey, || {
        let mut state = formed();
        let operations = vec![KvOperation::Put {
            key: b"k".to_vec(),
            value: b"v".to_vec(),
            content_type: None,
            ttl: None,
        }];
        let command = Command::WriteKv(WriteKv { conditions: Vec::new(), operations });
        let idempotency = Some(RequestKey { scope: [7; 16], body: [8; 16] });
        let request = Request { idempotency, command };
        let first = apply(&mut state, BEGIN + 1, 0, request.clone()).reply;
        first == apply(&mut state, BEGIN + 2, 0, request).reply
    });
    assert_eq!((right, wrong), (true, false));
}

#[test]
fn hash_order_in_apply_makes_states_differ() {
    let (right, wrong) = both(Mutant::HashOrderInApply, || {
        let node = || {
            let mut state = formed();
            apply(&mut state, BEGIN + 1, 0, acquire(1, LockMode::Exclusive, 0));
            for who in 2..40 {
                apply(&mut state, BEGIN + u64::from(who), 0, acquire(who, LockMode::Shared, 30_000));
            }
            let woken = granted(&apply(&mut state, BEGIN + 100, 0, release(1)));
            assert_eq!(woken.len(), 38, "each is granted once");
            state.hash()
        };
        node() == node()
    });
    assert_eq!((right, wrong), (true, false));
}

/// Who sees whom: two nodes, one session, and what comes of it on the first one.
fn taken_over() -> (State, SessionGrant, Applied) {
    let mut state = formed();
    apply(&mut state, BEGIN + 1, 0, Command::JoinNode(join("b", 2)));
    let id = state.node_by_name("b").unwrap().id;
    let change = ChangeNode { id, generation: 1, status: Some(NodeStatus::Active), role: None };
    apply(&mut state, BEGIN + 2, 0, Command::ChangeNode(change));
    let ttl = Millis(60_000);
    let register = RegisterSession {
        id: SessionId([1; 16]),
        user: "alice".to_owned(),
        socket: Some(NodeId(1)),
        ttl,
        metadata: None,
    };
    let message = NewMessage { to: Recipient::User("alice".to_owned()), data: "{}".to_owned(), from: None };
    let registered = apply(&mut state, BEGIN + 3, 0, Command::RegisterSession(register)).reply;
    let Reply::Session(session) = registered else { panic!("{registered:?}") };
    apply(&mut state, BEGIN + 4, 0, Command::PublishMessages(PublishMessages { messages: vec![message] }));
    let update = SessionUpdate {
        number: session.number,
        epoch: 1,
        idle: Millis(0),
        position: MessageOffset(1),
        detach: false,
    };
    let report = UpdateSessions { node: NodeId(1), updates: vec![update] };
    apply(&mut state, BEGIN + 5, 0, Command::UpdateSessions(report));
    let attach = AttachSession { id: SessionId([1; 16]), node: id, token: None, ttl };
    let attached = apply(&mut state, BEGIN + 6, 0, Command::AttachSession(attach));
    let Reply::Session(grant) = attached.reply.clone() else { panic!("{:?}", attached.reply) };
    (state, grant, attached)
}

#[test]
fn session_placed_twice_is_not_told_to_the_node_that_had_it() {
    let (right, wrong) = both(Mutant::SessionPlacedTwice, || {
        let (_, grant, attached) = taken_over();
        (grant.epoch, attached.events.len())
    });
    assert_eq!((right, wrong), ((2, 1), (1, 0)));
}

#[test]
fn message_duplicated_is_before_the_position_of_a_resume() {
    let (right, wrong) = both(Mutant::MessageDuplicated, || taken_over().1.position);
    assert_eq!((right, wrong), (MessageOffset(1), MessageOffset(0)));
}

#[test]
fn invalidation_skipped_leaves_a_gap() {
    let (right, wrong) = both(Mutant::InvalidationSkipped, || {
        let mut state = formed();
        let mut invalidate = |index| {
            let patterns = vec!["a".to_owned()];
            let command = Invalidate { patterns, tags: vec![], origin: NodeId(1), waited_for: false };
            let reply = apply(&mut state, index, 0, Command::Invalidate(command)).reply;
            apply(
                &mut state,
                index + 1,
                0,
                Command::AnnounceLeader(AnnounceLeader { id: NodeId(1), term: index }),
            );
            let Reply::Invalidated { offset, .. } = reply else { panic!("{reply:?}") };
            offset.0
        };
        (invalidate(BEGIN + 1), invalidate(BEGIN + 3))
    });
    assert_eq!((right, wrong), ((0, 1), (0, 2)));
}
