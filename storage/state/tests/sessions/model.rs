//! The naive state: lists that are looked through.

use std::collections::{BTreeMap, BTreeSet};

use ovncp_state::command::*;
use ovncp_state::reply::SessionGrant;
use ovncp_state::view::WaiterStatus;
use ovncp_state::*;

use crate::ask::KEYS;

/// A session in the plainest form.
#[derive(Clone, Debug)]
pub(crate) struct Naive {
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
pub(crate) struct Bound {
    key: String,
    waiter: WaiterId,
    session: SessionNumber,
}

#[derive(Default)]
pub(crate) struct Model {
    now: Millis,
    index: u64,
    sessions: Vec<Naive>,
    bound: Vec<Bound>,
    pub(crate) statuses: BTreeMap<NodeId, NodeStatus>,
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
    pub(crate) fn apply(&mut self, at: Millis, command: &Command, actual: &Reply) -> Reply {
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

    pub(crate) fn compare(&self, state: &State) {
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

pub(crate) fn taken_id(field: &str) -> Refusal {
    let problem = "names another session; choose a new random id".to_owned();
    Refusal::InvalidArgument { field: field.to_owned(), problem }
}
