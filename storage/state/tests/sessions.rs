//! Random conversations about sessions against a naive state: replies, who has which socket, who holds and waits for
//! bound locks, what is kept, after every step. Beside it: whoever follows the events alone knows the same, a twin
//! restored from a snapshot does the same, and a bounded clean-up ends where an unbounded one does.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use ovncp_state::command::{
    AcquireLock, AcquireLockInSession, AttachSession, ChangeNode, DrainNode, EndSession, FormCluster,
    Invalidate, JoinNode, LockMode, MigrateSession, NewMessage, NodeInfo, NodeStatus, PublishMessages,
    Recipient, RegisterSession, ReleaseLock, ReportCleared, ResumeNode, RotateSession, SessionEnd,
    SessionUpdate, SubscribeSession, UpdateNode, UpdateSessions,
};
use ovncp_state::limits::Limits;
use ovncp_state::reply::SessionGrant;
use ovncp_state::view::WaiterStatus;
use ovncp_state::{
    Applied, ClusterId, Command, Event, EventKind, Incarnation, InvalidationOffset, MessageOffset, Millis,
    NodeId, Refusal, Reply, Salt, SecretHash, SessionFilter, SessionId, SessionNumber, State, WaiterId,
};
use proptest::prelude::*;

mod support;

use support::Checked;

const IDS: u8 = 10;
const NODES: u64 = 3;
const KEYS: [&str; 3] = ["a", "b", "c"];
const CHANNELS: [&str; 2] = ["news", "sport"];

/// What is asked; sessions are named by an id, numbers and generations are looked up when the step is taken.
#[derive(Clone, Debug)]
enum Ask {
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

fn ask() -> impl Strategy<Value = Ask> {
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
struct Step {
    pass: u64,
    ask: Ask,
}

fn step() -> impl Strategy<Value = Step> {
    let pass = prop_oneof![6 => 0u64..200, 3 => 200u64..2_000, 1 => Just(7_000)];
    (pass, ask()).prop_map(|(pass, ask)| Step { pass, ask })
}

fn session_id(id: u8) -> SessionId {
    SessionId([id; 16])
}

fn token(token: u8) -> SecretHash {
    SecretHash([token; 32])
}

fn join(node: u64) -> JoinNode {
    JoinNode {
        name: format!("n{node}"),
        incarnation: Incarnation([u8::try_from(node).unwrap(); 16]),
        info: NodeInfo::default(),
    }
}

fn form() -> Command {
    Command::FormCluster(FormCluster {
        cluster_id: ClusterId([9; 16]),
        formed_at_unix_ms: 1,
        voters_target: 1,
        nodes: (1..=NODES).map(join).collect(),
    })
}

/// The command of a step against the state as it is.
fn resolve(ask: &Ask, state: &State) -> Command {
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

/// A session in the plainest form.
#[derive(Clone, Debug)]
struct Naive {
    number: SessionNumber,
    id: SessionId,
    old: Option<(SessionId, Millis)>,
    user: String,
    node: NodeId,
    socket: bool,
    epoch: u64,
    ends: Option<Millis>,
    ttl: Millis,
    active: Millis,
    position: u64,
    channels: BTreeSet<String>,
    migration: Option<(NodeId, SecretHash, Millis)>,
}

/// A request for a key, bound to a session. The first one of its key is its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    key: String,
    waiter: WaiterId,
    session: SessionNumber,
}

#[derive(Default)]
struct Model {
    now: Millis,
    index: u64,
    sessions: Vec<Naive>,
    bound: Vec<Bound>,
    statuses: BTreeMap<NodeId, NodeStatus>,
    draining: BTreeSet<NodeId>,
    messages: u64,
    invalidations: u64,
    cleared: BTreeMap<NodeId, u64>,
}

impl Model {
    fn find(&mut self, id: SessionId) -> Result<&mut Naive, Refusal> {
        let now = self.now;
        let works =
            |old: &Option<(SessionId, Millis)>| old.is_some_and(|(old, until)| old == id && until > now);
        let found = self.sessions.iter_mut().find(|session| session.id == id || works(&session.old));
        found.ok_or(Refusal::SessionNotFound)
    }

    fn numbered(&mut self, number: SessionNumber, epoch: Option<u64>) -> Result<&mut Naive, Refusal> {
        let found = self.sessions.iter_mut().find(|session| session.number == number);
        let session = found.ok_or(Refusal::SessionNotFound)?;
        if epoch.is_some_and(|epoch| epoch != session.epoch) {
            let node = session.socket.then_some(session.node);
            return Err(Refusal::SessionMoved { node, epoch: session.epoch });
        }
        Ok(session)
    }

    fn id_is_known(&self, id: SessionId) -> bool {
        self.sessions.iter().any(|session| session.id == id || session.old.is_some_and(|(old, _)| old == id))
    }

    /// Whether sockets may come to a node.
    fn open(&self, node: NodeId) -> Result<(), Refusal> {
        match self.statuses[&node] {
            NodeStatus::Active | NodeStatus::Suspect if !self.draining.contains(&node) => Ok(()),
            _ => Err(Refusal::Draining),
        }
    }

    /// Whether a session may be placed here: active, not `without`, and at most 1.25 times the mean.
    fn fits(&self, node: NodeId, without: Option<NodeId>) -> bool {
        let open = |node: &NodeId| {
            self.statuses[node] == NodeStatus::Active
                && !self.draining.contains(node)
                && Some(*node) != without
        };
        let nodes: Vec<NodeId> = self.statuses.keys().copied().filter(open).collect();
        let load = |node: NodeId| self.sessions.iter().filter(|session| session.node == node).count();
        let all: usize = nodes.iter().map(|node| load(*node)).sum();
        nodes.contains(&node) && load(node) * nodes.len() * 4 < 5 * (all + 1)
    }

    fn some_node(&self, without: Option<NodeId>) -> bool {
        self.statuses.keys().any(|node| self.fits(*node, without))
    }

    fn remove(&mut self, gone: impl Fn(&Naive) -> bool) {
        let numbers: Vec<_> =
            self.sessions.iter().filter(|session| gone(session)).map(|it| it.number).collect();
        self.sessions.retain(|session| !numbers.contains(&session.number));
        self.bound.retain(|bound| !numbers.contains(&bound.session));
    }

    fn lose(&mut self, node: NodeId) {
        let now = self.now;
        for session in self.sessions.iter_mut().filter(|session| session.node == node && session.socket) {
            session.socket = false;
            session.ends = Some(now.after(session.ttl));
        }
    }

    fn answering(&self, node: NodeId) -> NodeStatus {
        if self.draining.contains(&node) { NodeStatus::Draining } else { NodeStatus::Active }
    }

    /// The reply that is right; `actual` says where something was placed, which is checked for itself.
    fn apply(&mut self, at: Millis, command: &Command, actual: &Reply) -> Reply {
        self.index += 1;
        self.now = self.now.max(at);
        let now = self.now;
        self.remove(|session| session.ends.is_some_and(|end| end <= now));
        match self.judge(command, actual) {
            Ok(reply) => reply,
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn judge(&mut self, command: &Command, actual: &Reply) -> Result<Reply, Refusal> {
        let now = self.now;
        match command {
            Command::RegisterSession(ask) => self.register(ask, actual),
            Command::AttachSession(ask) => self.attach(ask),
            Command::UpdateSessions(ask) => {
                let (update, messages) = (&ask.updates[0], self.messages);
                if let Ok(session) = self.numbered(update.number, Some(update.epoch))
                    && session.node == ask.node
                    && session.socket
                {
                    session.active = session.active.max(Millis(now.0.saturating_sub(update.idle.0)));
                    session.position = session.position.max(update.position.0.min(messages));
                    if update.detach {
                        session.socket = false;
                        session.ends = Some(now.after(session.ttl));
                    }
                }
                Ok(Reply::Done)
            }
            Command::EndSession(ask) => {
                let number = self.numbered(ask.number, ask.epoch)?.number;
                self.remove(|session| session.number == number);
                Ok(Reply::Done)
            }
            Command::MigrateSession(ask) => {
                let node = self.numbered(ask.number, None)?.node;
                let target = match (ask.target, actual) {
                    (Some(target), _) if target != node && self.statuses[&target] == NodeStatus::Active => {
                        target
                    }
                    (None, Reply::Migrating { target }) if self.fits(*target, Some(node)) => *target,
                    (None, _) => {
                        assert!(!self.some_node(Some(node)), "there is a node to go to");
                        return Err(Refusal::InvalidTarget);
                    }
                    (Some(_), _) => return Err(Refusal::InvalidTarget),
                };
                let session = self.numbered(ask.number, None)?;
                session.migration = Some((target, ask.token, now.after(ask.valid)));
                Ok(Reply::Migrating { target })
            }
            Command::RotateSession(ask) => {
                let taken = self.id_is_known(ask.next);
                let session = self.find(ask.id)?;
                if session.id == ask.next {
                    return Ok(Reply::Done);
                }
                if session.id != ask.id {
                    return Err(Refusal::SessionNotFound);
                }
                if taken {
                    return Err(taken_id("next"));
                }
                session.old = Some((ask.id, now.after(ask.overlap)));
                session.id = ask.next;
                Ok(Reply::Done)
            }
            Command::SubscribeSession(ask) => {
                let session = self.numbered(ask.number, Some(ask.epoch))?;
                session.channels.retain(|name| !ask.remove.contains(name));
                session.channels.extend(ask.add.iter().cloned());
                Ok(Reply::Done)
            }
            Command::PublishMessages(ask) => {
                let Recipient::Session(number) = ask.messages[0].to else { unreachable!() };
                self.numbered(number, None)?;
                let first = MessageOffset(self.messages);
                self.messages += 2;
                Ok(Reply::Published { first })
            }
            Command::AcquireLockInSession(ask) => self.bind(ask, actual),
            Command::ReleaseLock(ask) => {
                let held = self.bound.iter().position(|bound| bound.key == ask.key);
                self.bound.remove(held.ok_or(Refusal::NotHolder { key: ask.key.clone() })?);
                // Tokens are the business of the model of locks.
                Ok(actual.clone())
            }
            other => self.judge_node(other),
        }
    }

    fn register(&mut self, ask: &RegisterSession, actual: &Reply) -> Result<Reply, Refusal> {
        if self.id_is_known(ask.id) {
            return Err(taken_id("id"));
        }
        let node = match (ask.socket, actual) {
            (Some(node), _) => self.open(node).map(|()| node)?,
            (None, Reply::Session(grant)) if self.fits(grant.node, None) => grant.node,
            (None, _) => {
                assert!(!self.some_node(None), "there is a node to go to");
                return Err(Refusal::InvalidTarget);
            }
        };
        let session = Naive {
            number: SessionNumber(self.index),
            id: ask.id,
            old: None,
            user: ask.user.clone(),
            node,
            socket: ask.socket.is_some(),
            epoch: u64::from(ask.socket.is_some()),
            ends: if ask.socket.is_some() { None } else { Some(self.now.after(ask.ttl)) },
            ttl: ask.ttl,
            active: self.now,
            position: self.messages,
            channels: BTreeSet::new(),
            migration: None,
        };
        self.sessions.push(session.clone());
        Ok(Reply::Session(session.grant()))
    }

    fn attach(&mut self, ask: &AttachSession) -> Result<Reply, Refusal> {
        let (now, open) = (self.now, self.open(ask.node));
        let session = self.find(ask.id)?;
        if let Some(token) = ask.token {
            let asked = session.migration.filter(|(_, _, until)| *until > now);
            if asked.is_none_or(|(_, known, _)| known != token) {
                return Err(Refusal::InvalidToken);
            }
        }
        open?;
        session.node = ask.node;
        session.socket = true;
        session.epoch += 1;
        session.ends = None;
        session.ttl = ask.ttl;
        session.active = now;
        session.migration = None;
        Ok(Reply::Session(session.grant()))
    }

    fn bind(&mut self, ask: &AcquireLockInSession, actual: &Reply) -> Result<Reply, Refusal> {
        let session = self.find(ask.session)?.number;
        let (key, waiter) = (ask.acquire.keys[0].clone(), ask.acquire.waiter);
        if self.bound.iter().any(|bound| bound.waiter == waiter) {
            let problem = "names another live request; choose a new random id".to_owned();
            return Err(Refusal::InvalidArgument { field: "waiter".to_owned(), problem });
        }
        let before = self.bound.iter().filter(|bound| bound.key == key).count() as u64;
        let bound = Bound { key, waiter, session };
        if before == 0 {
            assert!(matches!(actual, Reply::Granted(_)), "{actual:?}");
            self.bound.push(bound);
            return Ok(actual.clone());
        }
        if ask.acquire.wait == Millis(0) {
            assert!(matches!(actual, Reply::Refused(Refusal::LockHeld { .. })), "{actual:?}");
            return Ok(actual.clone());
        }
        self.bound.push(bound);
        Ok(Reply::Waiting { waiter, position: before - 1 })
    }

    /// What concerns a node, and the invalidation log.
    fn judge_node(&mut self, command: &Command) -> Result<Reply, Refusal> {
        match command {
            Command::ChangeNode(ask) => {
                let status = match ask.status.unwrap() {
                    NodeStatus::Active => self.answering(ask.id),
                    status => status,
                };
                let before = self.statuses.insert(ask.id, status);
                if status == NodeStatus::Inactive && before != Some(status) {
                    self.lose(ask.id);
                }
            }
            Command::UpdateNode(ask) => {
                if matches!(self.statuses[&ask.id], NodeStatus::Suspect | NodeStatus::Inactive) {
                    self.statuses.insert(ask.id, self.answering(ask.id));
                }
                self.lose(ask.id);
            }
            Command::DrainNode(ask) => {
                let status = self.statuses[&ask.id];
                if status == NodeStatus::Inactive && !self.draining.contains(&ask.id) {
                    let problem = "is no active node".to_owned();
                    return Err(Refusal::InvalidArgument { field: "id".to_owned(), problem });
                }
                self.draining.insert(ask.id);
                if status == NodeStatus::Active {
                    self.statuses.insert(ask.id, NodeStatus::Draining);
                }
            }
            Command::ResumeNode(ask) => {
                self.draining.remove(&ask.id);
                if self.statuses[&ask.id] == NodeStatus::Draining {
                    self.statuses.insert(ask.id, NodeStatus::Active);
                }
            }
            Command::Invalidate(_) => {
                self.invalidations += 1;
                let offset = InvalidationOffset(self.invalidations - 1);
                return Ok(Reply::Invalidated { epoch: 0, offset });
            }
            Command::ReportCleared(ask) => {
                let known = self.cleared.entry(ask.node).or_default();
                *known = ask.next.0.max(*known);
            }
            Command::Tick | Command::FormCluster(_) => {}
            other => unreachable!("{other:?}"),
        }
        Ok(Reply::Done)
    }

    fn compare(&self, state: &State) {
        let views = state.sessions(None, usize::MAX, SessionFilter::default());
        assert_eq!(views.len(), self.sessions.len());
        assert_eq!(state.sessions_len(), self.sessions.len() as u64);
        for (view, naive) in views.iter().zip(&self.sessions) {
            let channels: Vec<_> = naive.channels.iter().cloned().collect();
            let now = self.now;
            let migration = naive.migration.filter(|(_, _, until)| *until > now);
            assert_eq!((view.number, view.id, &view.user), (naive.number, naive.id, &naive.user));
            assert_eq!((view.node, view.attached, view.epoch), (naive.node, naive.socket, naive.epoch));
            assert_eq!((view.expires, view.ttl), (naive.ends, naive.ttl));
            assert_eq!((view.last_activity, view.position.0), (naive.active, naive.position));
            assert_eq!(view.channels, channels);
            assert_eq!(
                view.migration.map(|found| (found.target, found.deadline)),
                migration.map(|(target, _, until)| (target, until))
            );
            assert_eq!(state.session(view.number).as_ref(), Some(view));
            assert_eq!(state.session_by_id(&view.id).as_ref(), Some(view));
        }
        for node in self.statuses.keys() {
            let here = || self.sessions.iter().filter(|session| session.node == *node);
            let totals = state.session_totals(*node);
            assert_eq!(totals.known, here().count() as u64);
            assert_eq!(totals.attached, here().filter(|session| session.socket).count() as u64);
            let listed = state.sessions(None, usize::MAX, SessionFilter { user: None, node: Some(*node) });
            assert!(listed.iter().map(|view| view.number).eq(here().map(|session| session.number)));
            assert_eq!(state.node(*node).unwrap().status, self.statuses[node]);
            assert_eq!(state.drain(*node).is_some(), self.draining.contains(node));
        }
        for key in KEYS {
            let mut queue = self.bound.iter().filter(|bound| bound.key == key);
            let (holder, lock) = (queue.next(), state.lock(key, usize::MAX));
            let Some(lock) = lock else {
                assert_eq!(holder, None, "{key}");
                continue;
            };
            let held = holder.map(|bound| bound.waiter);
            assert!(held.is_some_and(|held| matches!(state.waiter(held), WaiterStatus::Granted(_))), "{key}");
            assert!(
                lock.queue.iter().map(|waiter| waiter.waiter).eq(queue.map(|bound| bound.waiter)),
                "{key}"
            );
        }
        assert_eq!(state.messages_kept().1.0, self.messages);
        assert_eq!(state.invalidations_kept().1.0, self.invalidations);
        let reports = state.cleared().into_iter().map(|(node, next)| (node, next.0));
        assert!(
            reports
                .eq(self.statuses.keys().map(|node| (*node, self.cleared.get(node).copied().unwrap_or(0))))
        );
    }
}

impl Naive {
    fn grant(&self) -> SessionGrant {
        SessionGrant {
            number: self.number,
            id: self.id,
            epoch: self.epoch,
            user: self.user.clone(),
            node: self.node,
            position: MessageOffset(self.position),
            channels: self.channels.iter().cloned().collect(),
        }
    }
}

fn taken_id(field: &str) -> Refusal {
    let problem = "names another session; choose a new random id".to_owned();
    Refusal::InvalidArgument { field: field.to_owned(), problem }
}

/// Where each session is, and with which epoch, as told by the events alone. This is all that the nodes with the
/// sockets look at.
#[derive(Default)]
struct Follower(BTreeMap<SessionNumber, (NodeId, u64, bool)>);

impl Follower {
    fn follow(&mut self, event: &Event) {
        match &event.kind {
            EventKind::SessionRegistered { number, node } => {
                self.0.insert(*number, (node.id, 0, false));
            }
            EventKind::SessionAttached { number, node, epoch, from } => {
                let before = self.0.insert(*number, (node.id, *epoch, true)).unwrap();
                assert!(before.1 < *epoch, "an epoch that is not higher");
                assert_eq!(from.as_ref().map(|from| from.id), (before.0 != node.id).then_some(before.0));
            }
            EventKind::SessionDetached { number, node, epoch } => {
                let before = self.0.insert(*number, (node.id, *epoch, false)).unwrap();
                assert_eq!(before.0, node.id);
            }
            EventKind::SessionEnded { number, node, .. } => {
                assert_eq!(self.0.remove(number).unwrap().0, node.id);
            }
            _ => {}
        }
    }

    /// A registration does not say whether there is a socket: its node, which asked for it, knows.
    fn compare(&self, state: &State) {
        let views = state.sessions(None, usize::MAX, SessionFilter::default());
        assert!(self.0.keys().copied().eq(views.iter().map(|view| view.number)));
        for view in views {
            let (node, epoch, attached) = self.0[&view.number];
            assert_eq!(node, view.node);
            assert!((epoch, attached) == (view.epoch, view.attached) || (epoch == 0 && view.epoch == 1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn agrees_with_the_naive_state(steps in prop::collection::vec((step(), any::<bool>()), 1..100)) {
        let mut checked = Checked::new(State::new(), true);
        let mut model = Model::default();
        let mut follower = Follower::default();
        let mut clock = 0;
        checked.apply(Millis(0), &form().into());
        model.statuses = (1..=NODES).map(|node| (NodeId(node), NodeStatus::Active)).collect();
        model.apply(Millis(0), &form(), &Reply::Done);
        for (step, twin) in &steps {
            clock += step.pass;
            let command = resolve(&step.ask, &checked.state);
            checked.twins = *twin;
            let applied = checked.apply(Millis(clock), &command.clone().into());
            let reply = model.apply(Millis(clock), &command, &applied.reply);
            prop_assert_eq!(&applied.reply, &reply, "{:?}", command);
            model.compare(&checked.state);
            applied.events.iter().for_each(|event| follower.follow(event));
            follower.compare(&checked.state);
        }
    }

    /// With one end and one detached socket per entry, and ticks until nothing is left over, the same sessions live,
    /// on the same nodes, until the same time, and the same requests hold and wait.
    #[test]
    fn bounded_clean_up_ends_where_unbounded_does(steps in prop::collection::vec(step(), 1..100)) {
        let limits = Limits { expiries_per_apply: 1, ..Limits::default() };
        let mut bounded = Checked::new(State::with_limits(limits), false);
        let mut unbounded = Checked::new(State::new(), false);
        let mut clock = 0;
        bounded.apply(Millis(0), &form().into());
        unbounded.apply(Millis(0), &form().into());
        for step in &steps {
            clock += step.pass;
            let at = Millis(clock);
            let (mut told, mut expected) = (Vec::new(), Vec::new());
            // Half-way, readers see what will be.
            told.extend(outcomes(&bounded.apply(at, &Command::Tick.into())));
            expected.extend(outcomes(&unbounded.apply(at, &Command::Tick.into())));
            prop_assert_eq!(seen(&bounded.state), seen(&unbounded.state), "before {:?}", step.ask);
            told.extend(settle(&mut bounded, at));
            for (checked, told) in [(&mut bounded, &mut told), (&mut unbounded, &mut expected)] {
                let command = resolve(&step.ask, &checked.state);
                told.extend(outcomes(&checked.apply(at, &command.into())));
            }
            prop_assert_eq!(seen(&bounded.state), seen(&unbounded.state), "after {:?}", step.ask);
            told.extend(settle(&mut bounded, at));
            prop_assert_eq!(seen(&bounded.state), seen(&unbounded.state), "settled after {:?}", step.ask);
            prop_assert_eq!(held(&bounded.state), held(&unbounded.state), "after {:?}", step.ask);
            // Nobody was granted what his session did not live to get.
            told.sort();
            expected.sort();
            prop_assert_eq!(told, expected, "after {:?}", step.ask);
        }
    }
}

/// Who was granted or refused.
fn outcomes(applied: &Applied) -> Vec<(WaiterId, bool)> {
    applied.notices.iter().map(|notice| (notice.waiter, notice.outcome.is_ok())).collect()
}

/// Ticks until nothing is left over.
fn settle(checked: &mut Checked, at: Millis) -> Vec<(WaiterId, bool)> {
    let mut told = Vec::new();
    while checked.state.next_deadline().is_some_and(|deadline| deadline <= checked.state.now()) {
        told.extend(outcomes(&checked.apply(at, &Command::Tick.into())));
    }
    told
}

/// By id, since numbers are log indexes: place, epoch, socket and end.
fn seen(state: &State) -> BTreeMap<SessionId, (NodeId, u64, bool, Option<Millis>)> {
    let views = state.sessions(None, usize::MAX, SessionFilter::default());
    views.into_iter().map(|view| (view.id, (view.node, view.epoch, view.attached, view.expires))).collect()
}

/// Which requests wait, and which hold.
fn held(state: &State) -> Vec<(u8, bool)> {
    let of = |waiter: u8| match state.waiter(WaiterId([waiter; 16])) {
        WaiterStatus::Granted(_) => Some((waiter, true)),
        WaiterStatus::Waiting => Some((waiter, false)),
        WaiterStatus::Gone => None,
    };
    (0..30).filter_map(of).collect()
}
