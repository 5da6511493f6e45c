//! Sessions: who is connected where, what they missed, and where they go when a node is emptied or dies.
//!
//! A session has a public number, its log index, and a secret id that can be exchanged. It lives on one node. While it
//! has a socket there it has no deadline: its node ends it when it is idle, and reports activity in batches. Without a
//! socket its time to live runs, on the cluster clock like every lease. Each new socket raises its epoch; whoever serves
//! a lower one has lost the session.
//!
//! **Sockets that die together.** A node that becomes inactive, leaves or starts again has lost all of its sockets at
//! one index. They are written down as one [`LostRecord`] and taken from the sessions over as many entries as it needs;
//! readers see them as lost at once, and the time to live of each runs from that index.
//!
//! **Bound locks.** A lock request may end with a session (`bound.rs`). Nothing in the records of locks says so; a table
//! of its own does.
//!
//! Map: `attach.rs` sockets come and go, `change.rs` everything else that is asked of one session and its end,
//! `place.rs` where one should go, `drain.rs` emptying nodes, `bound.rs` locks, `messages.rs` what is kept for them,
//! `query.rs` what readers see.

mod attach;
mod bound;
mod change;
pub mod command;
mod drain;
mod messages;
mod place;
mod query;
pub mod view;

pub(crate) use bound::{BindingRecord, Bindings};
pub(crate) use drain::DrainRecord;
pub use view::{SessionFilter, SessionTotals};

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::clock::Lease;
use crate::cow_map::CowMap;
use crate::limits::CHANNEL_OVERHEAD_BYTES;
use crate::name::Name;
use crate::reply::SessionGrant;
use crate::table::{Object, Table};
use crate::{
    LogIndex, MessageOffset, Millis, NodeId, Refusal, Salt, SecretHash, SessionId, SessionNumber, State,
};

/// One session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    pub(crate) number: SessionNumber,
    pub(crate) id: SessionId,
    /// The id before the last rotation, and until when it works.
    pub(crate) old_id: Option<(SessionId, Millis)>,
    pub(crate) user: Name,
    /// Where its socket is or was, or where it was placed.
    pub(crate) node: NodeId,
    /// Index of the entry that gave it its socket; absent without one.
    pub(crate) socket: Option<LogIndex>,
    /// Invariant: present exactly without a socket.
    pub(crate) deadline: Option<Millis>,
    pub(crate) epoch: u64,
    pub(crate) created_at: Millis,
    pub(crate) last_activity: Millis,
    pub(crate) ttl: Millis,
    pub(crate) position: MessageOffset,
    /// Sorted, without duplicates.
    pub(crate) channels: Vec<Name>,
    pub(crate) metadata: Option<String>,
    pub(crate) migration: Option<Migration>,
}

/// A client that was asked to go elsewhere, perhaps some time ago.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Migration {
    pub(crate) target: NodeId,
    pub(crate) token: SecretHash,
    pub(crate) salt: Salt,
    /// From here on the token is worth nothing.
    pub(crate) deadline: Millis,
}

/// Sockets of a node that died together and are not taken from their sessions yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LostRecord {
    pub(crate) node: NodeId,
    /// Sockets that came with this entry or before.
    pub(crate) through: LogIndex,
    /// When they were lost.
    pub(crate) at: Millis,
}

impl Object for SessionRecord {
    const TAG: u8 = 10;
    type Key = SessionNumber;

    fn key(&self) -> SessionNumber {
        self.number
    }
}

impl Object for LostRecord {
    const TAG: u8 = 12;
    type Key = (NodeId, LogIndex);

    fn key(&self) -> (NodeId, LogIndex) {
        (self.node, self.through)
    }
}

/// Sessions of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) known: u64,
    pub(crate) sockets: u64,
}

/// Every session, and what follows from them.
#[derive(Clone, Default)]
pub(crate) struct Sessions {
    pub(crate) table: Table<SessionRecord>,
    /// By the present id and the one before it, even when that works no more.
    pub(crate) by_id: CowMap<SessionId, SessionNumber>,
    pub(crate) by_user: CowMap<(Name, SessionNumber), ()>,
    pub(crate) by_node: CowMap<(NodeId, SessionNumber), ()>,
    /// Sockets of each node in the order in which they came.
    pub(crate) sockets: CowMap<(NodeId, LogIndex), SessionNumber>,
    /// Sessions of each user, none of 0.
    pub(crate) users: CowMap<Name, usize>,
    /// Sessions of each node, none of 0.
    pub(crate) loads: BTreeMap<NodeId, Load>,
    pub(crate) lost: Table<LostRecord>,
    pub(crate) drains: Table<DrainRecord>,
    pub(crate) bindings: Bindings,
    /// Sum of [`SessionRecord::size`].
    pub(crate) bytes: usize,
}

/// What the indexes of nodes and deadlines know of a session.
#[derive(Clone, Copy)]
struct Seat {
    number: SessionNumber,
    node: NodeId,
    socket: Option<LogIndex>,
    deadline: Option<Millis>,
}

impl SessionRecord {
    /// Bytes of what its client said: user, channels and metadata.
    pub(crate) fn size(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, String::len);
        self.user.as_str().len() + size_of_channels(&self.channels) + metadata
    }

    fn seat(&self) -> Seat {
        Seat { number: self.number, node: self.node, socket: self.socket, deadline: self.deadline }
    }

    /// What a socket that may serve it is told.
    fn grant(&self) -> SessionGrant {
        SessionGrant {
            number: self.number,
            id: self.id,
            epoch: self.epoch,
            user: self.user.to_text(),
            node: self.node,
            position: self.position,
            channels: self.channels.iter().map(Name::to_text).collect(),
        }
    }
}

/// Bytes that so many channels count.
fn size_of_channels(channels: &[Name]) -> usize {
    channels.iter().map(|channel| channel.as_str().len() + CHANNEL_OVERHEAD_BYTES).sum()
}

impl Sessions {
    /// Changes what its client says of a session.
    fn amend(&mut self, number: SessionNumber, change: impl FnOnce(&mut SessionRecord)) {
        let sizes = self.table.update(&number, |record| {
            let before = record.size();
            change(record);
            (before, record.size())
        });
        if let Some((before, after)) = sizes {
            self.bytes = self.bytes - before + after;
        }
    }

    fn seat(&mut self, seat: Seat) {
        self.by_node.insert((seat.node, seat.number), ());
        let load = self.loads.entry(seat.node).or_default();
        load.known += 1;
        if let Some(socket) = seat.socket {
            load.sockets += 1;
            self.sockets.insert((seat.node, socket), seat.number);
        }
    }

    fn unseat(&mut self, seat: Seat) {
        self.by_node.remove(&(seat.node, seat.number));
        if let Some(socket) = seat.socket {
            self.sockets.remove(&(seat.node, socket));
        }
        if let Some(load) = self.loads.get_mut(&seat.node) {
            load.known -= 1;
            load.sockets -= u64::from(seat.socket.is_some());
            if load.known == 0 {
                self.loads.remove(&seat.node);
            }
        }
    }

    /// Puts a session into the table and its indexes. The caller adds its deadline.
    pub(crate) fn insert(&mut self, record: SessionRecord) {
        self.by_id.insert(record.id, record.number);
        if let Some((old, _)) = record.old_id {
            self.by_id.insert(old, record.number);
        }
        self.by_user.insert((record.user.clone(), record.number), ());
        *self.users.get_or_insert_with(&record.user, || 0) += 1;
        self.seat(record.seat());
        self.bytes += record.size();
        self.table.insert(record);
    }

    fn remove(&mut self, number: SessionNumber) -> Option<SessionRecord> {
        let record = alloc::sync::Arc::unwrap_or_clone(self.table.remove(&number)?);
        self.by_id.remove(&record.id);
        if let Some((old, _)) = record.old_id {
            self.by_id.remove(&old);
        }
        self.by_user.remove(&(record.user.clone(), number));
        let left = self.users.get_mut(&record.user).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            self.users.remove(&record.user);
        }
        self.unseat(record.seat());
        self.bytes -= record.size();
        Some(record)
    }

    pub(crate) fn load(&self, node: NodeId) -> Load {
        self.loads.get(&node).copied().unwrap_or_default()
    }
}

impl State {
    /// Changes where a session is or when it ends, and whatever follows from it.
    fn reseat(&mut self, number: SessionNumber, change: impl FnOnce(&mut SessionRecord)) {
        let Some(before) = self.sessions.table.get(&number).map(|record| record.seat()) else { return };
        let after = self.sessions.table.update(&number, |record| {
            change(record);
            record.seat()
        });
        let lease = Lease::Session(number);
        self.sessions.unseat(before);
        if let Some(deadline) = before.deadline {
            self.deadlines.remove(deadline, lease.clone());
        }
        if let Some(after) = after {
            self.sessions.seat(after);
            after.deadline.into_iter().for_each(|deadline| self.deadlines.add(deadline, lease.clone()));
        }
    }

    /// When the node of this session lost its socket, if that is written down and not done yet.
    fn lost_at(&self, record: &SessionRecord) -> Option<Millis> {
        let socket = record.socket?;
        let from = (record.node, socket);
        let next = self.sessions.lost.iter_from(|key| *key < from).next()?;
        (next.node == record.node).then_some(next.at)
    }

    /// Whether it has a socket.
    fn is_attached(&self, record: &SessionRecord) -> bool {
        record.socket.is_some() && self.lost_at(record).is_none()
    }

    /// When it ends unless somebody comes.
    fn ends_at(&self, record: &SessionRecord) -> Option<Millis> {
        record.deadline.or_else(|| self.lost_at(record).map(|at| at.after(record.ttl)))
    }

    /// A session whose time is not over.
    pub(crate) fn live_session(&self, number: SessionNumber) -> Option<&SessionRecord> {
        let record = self.sessions.table.get(&number)?;
        self.ends_at(record).is_none_or(|deadline| deadline > self.meta.now).then_some(&**record)
    }

    fn known_session(&self, number: SessionNumber) -> Result<&SessionRecord, Refusal> {
        self.live_session(number).ok_or(Refusal::SessionNotFound)
    }

    /// The live session with this id, also by the one before a rotation while that works.
    fn session_of(&self, id: &SessionId) -> Result<&SessionRecord, Refusal> {
        let number = self.sessions.by_id.get(id).ok_or(Refusal::SessionNotFound)?;
        let works = |record: &&SessionRecord| {
            record.id == *id || record.old_id.is_some_and(|(old, until)| old == *id && until > self.meta.now)
        };
        self.live_session(*number).filter(works).ok_or(Refusal::SessionNotFound)
    }

    /// The session, if `epoch`, where one is given, is still its own.
    fn session_in(&self, number: SessionNumber, epoch: Option<u64>) -> Result<&SessionRecord, Refusal> {
        let record = self.known_session(number)?;
        if epoch.is_some_and(|epoch| epoch != record.epoch) {
            let node = self.is_attached(record).then_some(record.node);
            return Err(Refusal::SessionMoved { node, epoch: record.epoch });
        }
        Ok(record)
    }
}
