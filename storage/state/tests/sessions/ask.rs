//! What is asked at random, as commands against the state as it is.

use ovncp_state::command::{
    AcquireLock, AcquireLockInSession, AttachSession, ChangeNode, DrainNode, EndSession, FormCluster,
    Invalidate, JoinNode, LockMode, MigrateSession, NewMessage, NodeInfo, NodeStatus, PublishMessages,
    Recipient, RegisterSession, ReleaseLock, ReportCleared, ResumeNode, RotateSession, SessionEnd,
    SessionUpdate, SubscribeSession, UpdateNode, UpdateSessions,
};
use ovncp_state::{
    ClusterId, Command, Incarnation, InvalidationOffset, MessageOffset, Millis, NodeId, Salt, SecretHash,
    SessionId, SessionNumber, State, WaiterId,
};
use proptest::prelude::*;

pub(crate) const IDS: u8 = 10;
pub(crate) const NODES: u64 = 3;
pub(crate) const KEYS: [&str; 3] = ["a", "b", "c"];
pub(crate) const CHANNELS: [&str; 2] = ["news", "sport"];

/// What is asked; sessions are named by an id, numbers and generations are looked up when the step is taken.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Tick,
    Register { id: u8, user: u8, socket: Option<u64>, ttl: u64 },
    Attach { id: u8, node: u64, token: Option<u8>, ttl: u64 },
    Report { id: u8, node: Option<u64>, stale: bool, idle: u64, position: u64, detach: bool },
    End { id: u8, stale: bool },
    Migrate { id: u8, target: Option<u64>, token: u8, valid: u64 },
    Rotate { id: u8, next: u8, overlap: u64 },
    Subscribe { id: u8, add: Option<usize>, remove: Option<usize> },
    Publish { to: u8 },
    Bind { id: u8, key: usize, waiter: u8, wait: bool },
    Release { key: usize },
    Change { node: u64, status: NodeStatus },
    Restart { node: u64 },
    Drain { node: u64, take_back: bool },
    Invalidate,
    Cleared { node: u64, behind: u64 },
}

pub(crate) fn ask() -> impl Strategy<Value = Ask> {
    let id = || 0..IDS;
    let node = || 1..=NODES;
    let ttl = || prop_oneof![Just(1_000u64), 1_000u64..6_000];
    let status = prop_oneof![2 => Just(NodeStatus::Active), 1 => Just(NodeStatus::Suspect), 2 => Just(NodeStatus::Inactive)];
    let some = |of: usize| proptest::option::of(0..of);
    prop_oneof![
        2 => Just(Ask::Tick),
        8 => (id(), 0u8..3, proptest::option::weighted(0.7, node()), ttl())
            .prop_map(|(id, user, socket, ttl)| Ask::Register { id, user, socket, ttl }),
        6 => (id(), node(), proptest::option::weighted(0.4, 0u8..3), ttl())
            .prop_map(|(id, node, token, ttl)| Ask::Attach { id, node, token, ttl }),
        5 => (id(), proptest::option::weighted(0.2, node()), proptest::bool::weighted(0.2), 0u64..3_000, 0u64..9,
            any::<bool>())
            .prop_map(|(id, node, stale, idle, position, detach)| Ask::Report {
                id, node, stale, idle, position, detach
            }),
        1 => (id(), any::<bool>()).prop_map(|(id, stale)| Ask::End { id, stale }),
        3 => (id(), proptest::option::of(node()), 0u8..3, 1u64..3_000)
            .prop_map(|(id, target, token, valid)| Ask::Migrate { id, target, token, valid }),
        3 => (id(), id(), prop_oneof![Just(0u64), 1u64..3_000])
            .prop_map(|(id, next, overlap)| Ask::Rotate { id, next, overlap }),
        2 => (id(), some(CHANNELS.len()), some(CHANNELS.len()))
            .prop_map(|(id, add, remove)| Ask::Subscribe { id, add, remove }),
        2 => id().prop_map(|to| Ask::Publish { to }),
        6 => (id(), 0..KEYS.len(), 0u8..30, any::<bool>())
            .prop_map(|(id, key, waiter, wait)| Ask::Bind { id, key, waiter, wait }),
        2 => (0..KEYS.len()).prop_map(|key| Ask::Release { key }),
        // The first node stays: waiters belong to it.
        4 => (2..=NODES, status).prop_map(|(node, status)| Ask::Change { node, status }),
        2 => node().prop_map(|node| Ask::Restart { node }),
        2 => (node(), any::<bool>()).prop_map(|(node, take_back)| Ask::Drain { node, take_back }),
        1 => Just(Ask::Invalidate),
        1 => (node(), 0u64..3).prop_map(|(node, behind)| Ask::Cleared { node, behind }),
    ]
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) pass: u64,
    pub(crate) ask: Ask,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let pass = prop_oneof![6 => 0u64..200, 3 => 200u64..2_000, 1 => Just(7_000)];
    (pass, ask()).prop_map(|(pass, ask)| Step { pass, ask })
}

pub(crate) fn session_id(id: u8) -> SessionId {
    SessionId([id; 16])
}

pub(crate) fn token(token: u8) -> SecretHash {
    SecretHash([token; 32])
}

pub(crate) fn join(node: u64) -> JoinNode {
    JoinNode {
        name: format!("n{node}"),
        incarnation: Incarnation([u8::try_from(node).unwrap(); 16]),
        info: NodeInfo::default(),
    }
}

pub(crate) fn form() -> Command {
    Command::FormCluster(FormCluster {
        cluster_id: ClusterId([9; 16]),
        formed_at_unix_ms: 1,
        voters_target: 1,
        nodes: (1..=NODES).map(join).collect(),
    })
}

/// The command of a step against the state as it is.
pub(crate) fn resolve(ask: &Ask, state: &State) -> Command {
    let view = |id: &u8| state.session_by_id(&session_id(*id));
    let number = |id: &u8| view(id).map_or(SessionNumber(1), |view| view.number);
    let epoch = |id: &u8, stale: bool| view(id).map_or(0, |view| view.epoch) + u64::from(stale);
    let name = |at: &Option<usize>| at.iter().map(|at| CHANNELS[*at].to_owned()).collect::<Vec<_>>();
    match ask {
        Ask::Tick => Command::Tick,
        Ask::Register { id, user, socket, ttl } => Command::RegisterSession(RegisterSession {
            id: session_id(*id),
            user: format!("user-{user}"),
            socket: socket.map(NodeId),
            ttl: Millis(*ttl),
            metadata: None,
        }),
        Ask::Attach { id, node, token, ttl } => Command::AttachSession(AttachSession {
            id: session_id(*id),
            node: NodeId(*node),
            token: token.map(self::token),
            ttl: Millis(*ttl),
        }),
        Ask::Report { id, node, stale, idle, position, detach } => {
            let home = view(id).map_or(NodeId(1), |view| view.node);
            let update = SessionUpdate {
                number: number(id),
                epoch: epoch(id, *stale),
                idle: Millis(*idle),
                position: MessageOffset(*position),
                detach: *detach,
            };
            let node = node.map_or(home, NodeId);
            Command::UpdateSessions(UpdateSessions { node, updates: vec![update] })
        }
        Ask::End { id, stale } => Command::EndSession(EndSession {
            number: number(id),
            epoch: Some(epoch(id, *stale)),
            cause: SessionEnd::Closed,
        }),
        Ask::Migrate { id, target, token, valid } => Command::MigrateSession(MigrateSession {
            number: number(id),
            epoch: None,
            target: target.map(NodeId),
            token: self::token(*token),
            salt: Salt([*token; 16]),
            valid: Millis(*valid),
        }),
        Ask::Rotate { id, next, overlap } => Command::RotateSession(RotateSession {
            id: session_id(*id),
            next: session_id(*next),
            overlap: Millis(*overlap),
        }),
        Ask::Subscribe { id, add, remove } => Command::SubscribeSession(SubscribeSession {
            number: number(id),
            epoch: epoch(id, false),
            add: name(add),
            remove: name(remove),
        }),
        Ask::Publish { to } => {
            let to = Recipient::Session(number(to));
            let message = NewMessage { to, data: "{}".into(), from: None };
            Command::PublishMessages(PublishMessages { messages: vec![message.clone(), message] })
        }
        Ask::Bind { id, key, waiter, wait } => Command::AcquireLockInSession(AcquireLockInSession {
            acquire: AcquireLock {
                keys: vec![KEYS[*key].to_owned()],
                mode: LockMode::Exclusive,
                owner: "owner".into(),
                secret: token(99),
                salt: None,
                // Nothing here lasts that long: what ends these locks is something else.
                ttl: Millis(24 * 3_600_000),
                wait: Millis(if *wait { 3_600_000 } else { 0 }),
                hold_max: None,
                metadata: None,
                waiter: WaiterId([*waiter; 16]),
                node: NodeId(1),
            },
            session: session_id(*id),
        }),
        Ask::Release { key } => {
            Command::ReleaseLock(ReleaseLock { key: KEYS[*key].to_owned(), secret: token(99) })
        }
        Ask::Change { node, status } => Command::ChangeNode(ChangeNode {
            id: NodeId(*node),
            generation: state.node(NodeId(*node)).unwrap().generation,
            status: Some(*status),
            role: None,
        }),
        Ask::Restart { node } => Command::UpdateNode(UpdateNode {
            id: NodeId(*node),
            incarnation: join(*node).incarnation,
            boot: state.node(NodeId(*node)).unwrap().boot + 1,
            info: NodeInfo::default(),
        }),
        Ask::Drain { node, take_back: false } => {
            Command::DrainNode(DrainNode { id: NodeId(*node), rate_per_s: 10 })
        }
        Ask::Drain { node, take_back: true } => Command::ResumeNode(ResumeNode { id: NodeId(*node) }),
        Ask::Invalidate => Command::Invalidate(Invalidate {
            patterns: vec!["switch:*".into()],
            tags: vec![],
            origin: NodeId(1),
            waited_for: false,
        }),
        Ask::Cleared { node, behind } => {
            let next = InvalidationOffset(state.invalidations_kept().1.0.saturating_sub(*behind));
            Command::ReportCleared(ReportCleared { node: NodeId(*node), next })
        }
    }
}
