//! The state as a sequence of records, and back.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::clock::Lease;
use crate::kv::RegisterRecord;
use crate::locks::{GrantRecord, Touched, WaiterRecord, Whereabouts};
use crate::membership::NodeRecord;
use crate::mutants::{self, Mutant};
use crate::requests::{Outcome, RequestRecord};
use crate::state::Meta;
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
    /// The cluster's version, once it is later than the first one. At most one, the last.
    Version(Version),
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
        }
        true
    }
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
