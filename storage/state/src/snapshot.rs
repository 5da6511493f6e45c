//! The state as a sequence of records, and back.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::clock::Lease;
use crate::invalidations::{ClearedRecord, Invalidation};
use crate::kv::RegisterRecord;
use crate::locks::{GrantRecord, Touched, WaiterRecord, Whereabouts};
use crate::membership::NodeRecord;
use crate::mutants::{self, Mutant};
use crate::requests::{Outcome, RequestRecord};
use crate::ring::{Kept, Ring};
use crate::sessions::view::Message;
use crate::sessions::{BindingRecord, DrainRecord, LostRecord, SessionRecord};
use crate::state::{Meta, Offsets};
use crate::table::{Object, Table};
use crate::{Event, State, StateHash, Version};

/// One replicated object. Append-only, like commands: variants are never reordered, reused or changed.
///
/// The payloads are opaque outside this crate; they are only ever written and read back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// Identity, clock and counters. Exactly one, the first.
    Meta(Meta),
    /// A member, or one that left and is remembered.
    Node(NodeRecord),
    /// A held lock.
    Grant(GrantRecord),
    /// A queued lock request.
    Waiter(WaiterRecord),
    /// A register.
    Register(RegisterRecord),
    /// A kept event.
    Event(Event),
    /// A kept answer.
    Request(RequestRecord),
    /// The cluster's version, once it is later than the first one. At most one.
    Version(Version),
    /// The next offsets of the logs of messages and invalidations, once one was given. At most one.
    Offsets(Offsets),
    /// A session.
    Session(SessionRecord),
    /// A lock or a waiter that ends with a session.
    Binding(BindingRecord),
    /// Sockets that died together and are not taken from their sessions yet.
    Lost(LostRecord),
    /// A node that is being emptied.
    Drain(DrainRecord),
    /// A kept message.
    Message(Message),
    /// A kept entry of the invalidation log.
    Invalidation(Invalidation),
    /// How far a node has cleared its caches.
    Cleared(ClearedRecord),
}

/// Why a sequence of records is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The first record must be the one `Meta`, and objects must come in the order of
    /// [`State::records`], each once.
    #[error("record {position} is out of order")]
    OutOfOrder {
        /// Counted from 0.
        position: u64,
    },
    /// There was no record at all.
    #[error("no records")]
    Empty,
    /// A record cannot be part of any state, alone or beside those before it.
    #[error("record {position} is impossible: {problem}")]
    Impossible {
        /// Counted from 0.
        position: u64,
        /// What is wrong.
        problem: String,
    },
    /// The records are not those that were hashed.
    #[error("state hash {actual}, expected {expected}")]
    HashMismatch {
        /// Hash that was stored with them.
        expected: StateHash,
        /// Hash of what was read.
        actual: StateHash,
    },
}

impl State {
    /// Every replicated object, in a fixed order: what a snapshot holds. Works on a clone while the original
    /// goes on.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        core::iter::once(Record::Meta(self.meta.clone()))
            .chain(self.nodes.iter().map(|node| Record::Node((**node).clone())))
            .chain(self.locks.grants.iter().map(|grant| Record::Grant((**grant).clone())))
            .chain(self.locks.waiters.iter().map(|waiter| Record::Waiter((**waiter).clone())))
            .chain(self.registers.table.iter().map(|register| Record::Register((**register).clone())))
            .chain(self.events.table.iter().map(|event| Record::Event((**event).clone())))
            .chain(self.requests.table.iter().map(|request| Record::Request((**request).clone())))
            .chain((self.version > Version::BASE).then_some(Record::Version(self.version)))
            .chain(self.later_records())
    }

    /// Those that came with version 0.2.
    fn later_records(&self) -> impl Iterator<Item = Record> {
        let sessions = &self.sessions;
        let offsets = (self.offsets != Offsets::default()).then_some(Record::Offsets(self.offsets));
        offsets
            .into_iter()
            .chain(sessions.table.iter().map(|session| Record::Session((**session).clone())))
            .chain(sessions.bindings.table.iter().map(|binding| Record::Binding((**binding).clone())))
            .chain(sessions.lost.iter().map(|lost| Record::Lost((**lost).clone())))
            .chain(sessions.drains.iter().map(|drain| Record::Drain((**drain).clone())))
            .chain(self.messages.table.iter().map(|message| Record::Message((**message).clone())))
            .chain(self.invalidations.table.iter().map(|entry| Record::Invalidation((**entry).clone())))
            .chain(self.cleared.iter().map(|cleared| Record::Cleared((**cleared).clone())))
    }
}

/// Builds a [`State`] from its records, in their order.
#[derive(Default)]
pub struct StateBuilder {
    state: State,
    pushed: u64,
    /// Rank of the last record's variant.
    stage: u8,
}

impl StateBuilder {
    /// Without a record yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When it is not one that can follow.
    pub fn push(&mut self, record: Record) -> Result<(), RestoreError> {
        let stage = match &record {
            Record::Meta(_) => 0,
            Record::Node(_) => 1,
            Record::Grant(_) => 2,
            Record::Waiter(_) => 3,
            Record::Register(_) => 4,
            Record::Event(_) => 5,
            Record::Request(_) => 6,
            Record::Version(_) => 7,
            Record::Offsets(_) => 8,
            Record::Session(_) => 9,
            Record::Binding(_) => 10,
            Record::Lost(_) => 11,
            Record::Drain(_) => 12,
            Record::Message(_) => 13,
            Record::Invalidation(_) => 14,
            Record::Cleared(_) => 15,
        };
        let in_stage = if self.pushed == 0 { stage == 0 } else { stage > 0 && stage >= self.stage };
        let position = self.pushed;
        if let Err(problem) = self.state.accepts(&record) {
            return Err(RestoreError::Impossible { position, problem: String::from(problem) });
        }
        if !in_stage || !self.insert(record) {
            return Err(RestoreError::OutOfOrder { position });
        }
        self.stage = stage;
        self.pushed += 1;
        Ok(())
    }

    /// The state, if it is the one that was hashed. The hash vouches for the rest: the invariants, which take
    /// longer than the restore itself, are not checked again.
    ///
    /// # Errors
    /// When records are missing or changed.
    pub fn finish(mut self, expected: StateHash) -> Result<State, RestoreError> {
        if self.pushed == 0 {
            return Err(RestoreError::Empty);
        }
        let actual = self.state.hash();
        if actual != expected {
            return Err(RestoreError::HashMismatch { expected, actual });
        }
        // Where nobody waits, there is nobody to admit.
        let waited = self.state.locks.keys.iter().filter(|(_, state)| state.waiting > 0);
        let keys: Touched = waited.map(|(key, _)| key.clone()).collect();
        let mut ready = alloc::collections::BTreeSet::new();
        keys.iter().for_each(|key| self.state.locks.admit(key, &mut ready));
        if mutants::is(Mutant::TokenLostInSnapshot) {
            self.state.meta.grants = 0;
        }
        if mutants::is(Mutant::WaiterLostInSnapshot) {
            self.state.lose_waiters();
        }
        Ok(self.state)
    }

    /// Whether the record comes after the last one of its kind and was inserted.
    fn insert(&mut self, record: Record) -> bool {
        let state = &mut self.state;
        match record {
            Record::Meta(meta) => state.meta = meta,
            Record::Node(node) => {
                if state.nodes.last().is_some_and(|last| last.id >= node.id) {
                    return false;
                }
                state.nodes.insert(node);
            }
            Record::Grant(grant) => {
                let known = state.locks.by_waiter.contains(&grant.waiter);
                if known || state.locks.grants.last().is_some_and(|last| last.token >= grant.token) {
                    return false;
                }
                state.deadlines.add(grant.deadline, Lease::Grant(grant.token));
                state.locks.insert_grant(grant);
            }
            Record::Waiter(waiter) => {
                let known = state.locks.by_waiter.contains(&waiter.waiter);
                if known || state.locks.waiters.last().is_some_and(|last| last.index >= waiter.index) {
                    return false;
                }
                state.deadlines.add(waiter.deadline, Lease::Waiter(waiter.index));
                state.locks.insert_waiter(waiter);
            }
            Record::Register(register) => {
                if state.registers.table.last().is_some_and(|last| last.key >= register.key) {
                    return false;
                }
                if let Some(deadline) = register.deadline {
                    state.deadlines.add(deadline, Lease::Register(register.key.clone()));
                }
                state.registers.insert(register);
            }
            Record::Event(event) => {
                if state.events.table.last().is_some_and(|last| last.offset >= event.offset) {
                    return false;
                }
                state.events.restore(alloc::sync::Arc::new(event));
            }
            Record::Request(request) => return restore_request(state, request),
            // Once, and only where there is something to say.
            Record::Version(version) => {
                let first = state.version == Version::BASE && version > Version::BASE;
                state.version = version;
                return first;
            }
            later => return insert_later(state, later),
        }
        true
    }
}

/// The same for the records that came with version 0.2.
fn insert_later(state: &mut State, record: Record) -> bool {
    match record {
        Record::Offsets(offsets) => {
            let first = state.offsets == Offsets::default() && offsets != Offsets::default();
            state.offsets = offsets;
            first
        }
        Record::Session(session) => {
            let follows = state.sessions.table.last().is_none_or(|last| last.number < session.number);
            if follows {
                let lease = Lease::Session(session.number);
                session.deadline.into_iter().for_each(|at| state.deadlines.add(at, lease.clone()));
                state.sessions.insert(session);
            }
            follows
        }
        Record::Binding(binding) => {
            let bindings = &mut state.sessions.bindings;
            let follows = bindings.table.last().is_none_or(|last| last.key() < binding.key());
            if follows {
                bindings.insert(binding.session, binding.waiter);
            }
            follows
        }
        Record::Lost(lost) => push(&mut state.sessions.lost, lost),
        Record::Drain(drain) => push(&mut state.sessions.drains, drain),
        Record::Message(message) => restore_kept(&mut state.messages, message),
        Record::Invalidation(entry) => restore_kept(&mut state.invalidations, entry),
        Record::Cleared(cleared) => push(&mut state.cleared, cleared),
        _ => false,
    }
}

/// Whether an object comes after the last one of its table and was inserted.
fn push<T: Object>(table: &mut Table<T>, object: T) -> bool {
    let follows = table.last().is_none_or(|last| last.key() < object.key());
    if follows {
        table.insert(object);
    }
    follows
}

fn restore_kept<T: Kept>(ring: &mut Ring<T>, entry: T) -> bool {
    let follows = ring.table.last().is_none_or(|last| last.key() < entry.key());
    if follows {
        ring.restore(alloc::sync::Arc::new(entry));
    }
    follows
}

fn restore_request(state: &mut State, request: RequestRecord) -> bool {
    if state.requests.table.last().is_some_and(|last| last.scope >= request.scope) {
        return false;
    }
    match request.outcome {
        Outcome::Waiting(waiter) => {
            if !matches!(state.locks.by_waiter.get(&waiter), Some(Whereabouts::Queued(_))) {
                return false;
            }
        }
        Outcome::Reply(_) | Outcome::Granted(_) => {
            state.requests.by_age.insert((request.at.index, request.scope), ());
        }
    }
    state.requests.table.insert(request);
    true
}
