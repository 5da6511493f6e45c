//! What is asked of one session, and how it ends.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Migration, size_of_channels};
use crate::clock::Lease;
use crate::command::{
    DescribeSession, EndSession, MigrateSession, NodeStatus, RotateSession, SessionEnd, SubscribeSession,
};
use crate::event::ReleaseCause;
use crate::limits::{
    CHANNEL_BYTES_MAX, METADATA_BYTES_MAX, SESSION_OVERLAP_MS_MAX, SUBSCRIPTIONS_PER_SESSION_MAX,
};
use crate::locks::{Departed, Touched, Whereabouts};
use crate::name::Name;
use crate::state::Effects;
use crate::validate;
use crate::{EventKind, Millis, NodeId, Refusal, Reply, SessionNumber, State};

/// Channels that every socket has, whose messages do not come from [`Recipient::Channel`](crate::command::Recipient).
const RESERVED_CHANNELS: [&str; 4] = ["events", "invalidations", "session", "user"];

/// Whether a channel may have this name.
pub(crate) fn check_channel(field: &str, name: &str) -> Result<(), Refusal> {
    validate::bytes(field, name.len(), 1, CHANNEL_BYTES_MAX)?;
    if name.chars().any(char::is_control) {
        return Err(validate::invalid(field, "must have no control characters"));
    }
    if RESERVED_CHANNELS.contains(&name) {
        return Err(validate::invalid(field, "names a channel that every session has"));
    }
    Ok(())
}

impl State {
    pub(crate) fn migrate_session(
        &mut self,
        command: &MigrateSession,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        validate::millis("valid", command.valid, Millis(1), SESSION_OVERLAP_MS_MAX)?;
        let record = self.session_in(command.number, command.epoch)?;
        let (id, node, epoch) = (record.id, record.node, record.epoch);
        let target = match command.target {
            Some(target) if target != node && self.is_active(target) => target,
            Some(_) => return Err(Refusal::InvalidTarget),
            None => self.place(&id.0, Some(node)).ok_or(Refusal::InvalidTarget)?,
        };
        let migration = Migration {
            target,
            token: command.token,
            salt: command.salt,
            deadline: self.meta.now.after(command.valid),
        };
        self.sessions.table.update(&command.number, |record| record.migration = Some(migration));
        let (node, to) = (self.node_ref(node), self.node_ref(target));
        self.emit(EventKind::SessionMigrating { number: command.number, node, epoch, target: to }, out);
        Ok(Reply::Migrating { target })
    }

    fn is_active(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.status == NodeStatus::Active)
    }

    pub(crate) fn rotate_session(&mut self, command: &RotateSession) -> Result<Reply, Refusal> {
        validate::millis("overlap", command.overlap, Millis(0), SESSION_OVERLAP_MS_MAX)?;
        let record = self.session_of(&command.id)?;
        // A retry whose first try was applied.
        if record.id == command.next {
            return Ok(Reply::Done);
        }
        if record.id != command.id {
            return Err(Refusal::SessionNotFound);
        }
        if self.sessions.by_id.contains(&command.next) {
            return Err(validate::invalid("next", "names another session; choose a new random id"));
        }
        let (number, until) = (record.number, self.meta.now.after(command.overlap));
        let older = self.sessions.table.update(&number, |record| {
            record.id = command.next;
            record.old_id.replace((command.id, until))
        });
        if let Some((older, _)) = older.flatten() {
            self.sessions.by_id.remove(&older);
        }
        self.sessions.by_id.insert(command.next, number);
        Ok(Reply::Done)
    }

    pub(crate) fn describe_session(&mut self, command: DescribeSession) -> Result<Reply, Refusal> {
        let bytes = command.metadata.as_ref().map_or(0, String::len);
        validate::bytes("metadata", bytes, 0, METADATA_BYTES_MAX)?;
        let before = self.known_session(command.number)?.metadata.as_ref().map_or(0, String::len);
        self.check_room_for_bytes(before, bytes)?;
        self.sessions.amend(command.number, |record| record.metadata = command.metadata);
        Ok(Reply::Done)
    }

    pub(crate) fn subscribe_session(&mut self, command: &SubscribeSession) -> Result<Reply, Refusal> {
        for (field, names) in [("add", &command.add), ("remove", &command.remove)] {
            validate::count(field, names.len(), 0, SUBSCRIPTIONS_PER_SESSION_MAX)?;
            names.iter().try_for_each(|name| check_channel(field, name))?;
        }
        let record = self.session_in(command.number, Some(command.epoch))?;
        let mut channels: BTreeSet<Name> = record.channels.iter().cloned().collect();
        for name in &command.remove {
            channels.remove(name.as_str());
        }
        channels.extend(command.add.iter().map(|name| Name::from(name.as_str())));
        if channels.len() > SUBSCRIPTIONS_PER_SESSION_MAX {
            validate::limit("subscriptions_per_session", channels.len(), SUBSCRIPTIONS_PER_SESSION_MAX)?;
        }
        let channels: Vec<Name> = channels.into_iter().collect();
        if channels != record.channels {
            self.check_room_for_bytes(size_of_channels(&record.channels), size_of_channels(&channels))?;
            self.sessions.amend(command.number, |record| record.channels = channels);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn end_session_by(
        &mut self,
        command: &EndSession,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.session_in(command.number, command.epoch)?;
        let (mut touched, mut departed) = (Touched::new(), Vec::new());
        self.end_session(command.number, command.cause, &mut touched, &mut departed, out);
        departed.into_iter().for_each(|departed| self.refuse(departed, Refusal::WaitCancelled, out));
        self.wake(touched, out);
        Ok(Reply::Done)
    }

    /// Takes a session out of every table, with what is bound to it: its locks are released, its requests leave their
    /// queues and are yet to be told. How many they were.
    pub(crate) fn end_session(
        &mut self,
        number: SessionNumber,
        cause: SessionEnd,
        touched: &mut Touched,
        departed: &mut Vec<Departed>,
        out: &mut Effects,
    ) -> usize {
        let Some(record) = self.sessions.remove(number) else { return 0 };
        if let Some(deadline) = record.deadline {
            self.deadlines.remove(deadline, Lease::Session(number));
        }
        let node = self.node_ref(record.node);
        self.emit(EventKind::SessionEnded { number, node, epoch: record.epoch, cause }, out);
        let bound: Vec<_> = self.sessions.bindings.of(number).collect();
        for waiter in &bound {
            match self.locks.by_waiter.get(waiter).copied() {
                Some(Whereabouts::Granted(token)) => {
                    self.end_grant(token, ReleaseCause::SessionEnded, "", touched, out);
                }
                Some(Whereabouts::Queued(index)) => departed.extend(self.depart(index, touched)),
                None => {}
            }
            // Also of a request that is not told yet.
            self.sessions.bindings.remove(*waiter);
        }
        bound.len()
    }
}
