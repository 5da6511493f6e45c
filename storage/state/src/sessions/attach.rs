//! Sockets come and go.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::{LostRecord, SessionRecord};
use crate::clock::Lease;
use crate::command::{AttachSession, NodeStatus, RegisterSession, UpdateSessions};
use crate::event::NodeRef;
use crate::limits::{
    METADATA_BYTES_MAX, SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN, SESSION_UPDATES_PER_ENTRY_MAX, USER_BYTES_MAX,
};
use crate::mutants::{self, Mutant};
use crate::name::Name;
use crate::reply::SessionGrant;
use crate::state::Effects;
use crate::validate;
use crate::{
    Command, EventKind, LogIndex, MessageOffset, Millis, NodeId, Refusal, Reply, SessionNumber, State,
};

fn check(command: &RegisterSession) -> Result<(), Refusal> {
    validate::bytes("user", command.user.len(), 1, USER_BYTES_MAX)?;
    validate::millis("ttl", command.ttl, SESSION_TTL_MS_MIN, SESSION_TTL_MS_MAX)?;
    let metadata = command.metadata.as_ref().map_or(0, |text| text.len());
    validate::bytes("metadata", metadata, 0, METADATA_BYTES_MAX)
}

impl State {
    /// A node as events call it.
    pub(crate) fn node_ref(&self, id: NodeId) -> NodeRef {
        let name = self.nodes.get(&id).map(|node| node.name.clone()).unwrap_or_default();
        NodeRef { id, name }
    }

    /// Whether sockets may come to this node.
    fn check_open(&self, id: NodeId) -> Result<(), Refusal> {
        let node = self.live_nodes().find(|node| node.id == id).ok_or(Refusal::InvalidTarget)?;
        match node.status {
            NodeStatus::Active | NodeStatus::Suspect if self.sessions.drains.get(&id).is_none() => Ok(()),
            NodeStatus::Joining | NodeStatus::Left => Err(Refusal::InvalidTarget),
            _ => Err(Refusal::Draining),
        }
    }

    pub(crate) fn register_session(
        &mut self,
        command: RegisterSession,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        check(&command)?;
        if self.sessions.by_id.contains(&command.id) {
            return Err(validate::invalid("id", "names another session; choose a new random id"));
        }
        let user = Name::from(command.user.as_str());
        self.check_room_for_session(&user)?;
        let metadata = command.metadata.as_ref().map_or(0, |text| text.len());
        self.check_room_for_bytes(0, user.as_str().len() + metadata)?;
        let (now, index) = (self.meta.now, self.meta.applied);
        let node = match command.socket {
            Some(node) => {
                self.check_open(node)?;
                node
            }
            None => self.place(&command.id.0, None).ok_or(Refusal::InvalidTarget)?,
        };
        let socket = command.socket.map(|_| index);
        let record = SessionRecord {
            number: SessionNumber(index.0),
            id: command.id,
            old_id: None,
            user,
            node,
            socket,
            deadline: if socket.is_some() { None } else { Some(now.after(command.ttl)) },
            epoch: u64::from(socket.is_some()),
            created_at: now,
            last_activity: now,
            ttl: command.ttl,
            position: MessageOffset(self.offsets.messages),
            channels: Vec::new(),
            metadata: command.metadata,
            migration: None,
        };
        let number = record.number;
        let reply = Reply::Session(record.grant());
        record.deadline.into_iter().for_each(|at| self.deadlines.add(at, Lease::Session(number)));
        self.sessions.insert(record);
        self.emit(EventKind::SessionRegistered { number, node: self.node_ref(node) }, out);
        Ok(reply)
    }

    /// Whether a session that has `before` bytes may have `after`: always, if these are not more.
    pub(super) fn check_room_for_bytes(&self, before: usize, after: usize) -> Result<(), Refusal> {
        let (bytes, max) = (self.sessions.bytes + after - before, self.limits.sessions_bytes);
        if after <= before || bytes <= max {
            return Ok(());
        }
        let over: usize = self.over().map(SessionRecord::size).sum();
        if bytes - over <= max {
            return Ok(());
        }
        Err(Refusal::LimitExceeded { limit: "sessions_bytes".to_string(), max: max as u64 })
    }

    fn check_room_for_session(&self, user: &Name) -> Result<(), Refusal> {
        let limits = &self.limits;
        // Counting what has ended takes time, and only lowers the count: done at the limit alone.
        if self.sessions.table.len() >= limits.sessions {
            let live = self.sessions.table.len() - self.over().count();
            validate::limit("sessions", live, limits.sessions)?;
        }
        let of_user = self.sessions.users.get(user).copied().unwrap_or(0);
        if of_user < limits.sessions_per_user {
            return Ok(());
        }
        validate::limit("sessions_per_user", self.sessions_of(user), limits.sessions_per_user)
    }

    /// What a retry is answered whose first try was answered `kept`. The id of then may be worth nothing by now, and its
    /// node be another one. A socket gets the epoch of its own first try, or two could serve the session with one.
    pub(crate) fn session_again(&self, kept: SessionGrant, command: &Command) -> Result<Reply, Refusal> {
        let record = self.known_session(kept.number)?;
        let without_socket =
            matches!(command, Command::RegisterSession(register) if register.socket.is_none());
        Ok(Reply::Session(if without_socket { record.grant() } else { kept }))
    }

    pub(crate) fn attach_session(
        &mut self,
        command: &AttachSession,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        validate::millis("ttl", command.ttl, SESSION_TTL_MS_MIN, SESSION_TTL_MS_MAX)?;
        let now = self.meta.now;
        let record = self.session_of(&command.id)?;
        if let Some(token) = command.token {
            let asked = record.migration.filter(|migration| migration.deadline > now);
            if asked.is_none_or(|migration| migration.token != token) {
                return Err(Refusal::InvalidToken);
            }
        }
        let (number, before) = (record.number, record.node);
        self.check_open(command.node)?;
        let socket = Some(self.meta.applied);
        self.reseat(number, |record| {
            record.node = command.node;
            record.socket = socket;
            record.deadline = None;
            record.epoch += u64::from(!mutants::is(Mutant::SessionPlacedTwice));
            if mutants::is(Mutant::MessageDuplicated) {
                record.position.0 = record.position.0.saturating_sub(1);
            }
            record.ttl = command.ttl;
            record.last_activity = now;
            record.migration = None;
        });
        let record = self.known_session(number)?;
        let (reply, epoch) = (Reply::Session(record.grant()), record.epoch);
        let node = self.node_ref(command.node);
        let from = (before != command.node).then(|| self.node_ref(before));
        if !mutants::is(Mutant::SessionPlacedTwice) {
            self.emit(EventKind::SessionAttached { number, node, epoch, from }, out);
        }
        Ok(reply)
    }

    /// What a node tells of its sessions. What it has lost meanwhile is none of its business any more.
    pub(crate) fn update_sessions(
        &mut self,
        command: &UpdateSessions,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        validate::count("updates", command.updates.len(), 1, SESSION_UPDATES_PER_ENTRY_MAX)?;
        let (now, next) = (self.meta.now, MessageOffset(self.offsets.messages));
        for update in &command.updates {
            let serves = self.live_session(update.number).is_some_and(|record| {
                record.node == command.node && record.epoch == update.epoch && self.is_attached(record)
            });
            if !serves {
                continue;
            }
            self.sessions.table.update(&update.number, |record| {
                record.last_activity = record.last_activity.max(now.before(update.idle));
                record.position = record.position.max(update.position.min(next));
            });
            if update.detach {
                self.detach_session(update.number, now, out);
            }
        }
        Ok(Reply::Done)
    }

    /// A session lost its socket at `at`: its time to live runs from there.
    fn detach_session(&mut self, number: SessionNumber, at: Millis, out: &mut Effects) {
        let Some(record) = self.sessions.table.get(&number) else { return };
        let (node, epoch) = (record.node, record.epoch);
        self.reseat(number, |record| {
            record.socket = None;
            record.deadline = Some(at.after(record.ttl));
        });
        self.emit(EventKind::SessionDetached { number, node: self.node_ref(node), epoch }, out);
    }

    /// Every socket that a node has now is gone: it is inactive, left, or began anew.
    pub(crate) fn lose_sockets_of(&mut self, node: NodeId, out: &mut Effects) {
        if self.sessions.load(node).sockets == 0 {
            return;
        }
        let (through, at) = (self.meta.applied, self.meta.now);
        self.sessions.lost.insert(LostRecord { node, through, at });
        self.detach_lost(out);
    }

    /// Takes lost sockets from their sessions, a bounded number.
    pub(crate) fn detach_lost(&mut self, out: &mut Effects) {
        let mut left = self.limits.expiries_per_apply;
        while let Some((node, through, at)) =
            self.sessions.lost.first().map(|lost| (lost.node, lost.through, lost.at))
        {
            let from = (node, LogIndex(0));
            let first = self.sessions.sockets.iter_from(|key| *key < from).next();
            let first = first.filter(|((other, socket), _)| *other == node && *socket <= through);
            let Some(number) = first.map(|(_, number)| *number) else {
                self.sessions.lost.remove(&(node, through));
                continue;
            };
            if left == 0 {
                return;
            }
            left -= 1;
            self.detach_session(number, at, out);
        }
    }
}
