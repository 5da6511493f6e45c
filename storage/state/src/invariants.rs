//! What is true of every state between two entries. Checked by scripts, models and simulations.

mod sessions;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::clock::Lease;
use crate::command::LockMode;
use crate::locks::{GrantRecord, Holders, WaiterRecord, Whereabouts};
use crate::name::Name;
use crate::requests::Outcome;
use crate::state::{Meta, TOKEN_EPOCH_SHIFT};
use crate::{FencingToken, LogIndex, Record, State};

/// Far above what a cluster can count in its life, far below an overflow.
const COUNTER_MAX: u64 = 1 << 62;

/// The first broken invariant, in words.
///
/// # Errors
/// When the state contradicts itself: a defect, or records that were never a state.
pub fn check(state: &State) -> Result<(), String> {
    hashes(state)?;
    counters(state)?;
    members(state)?;
    grants(state)?;
    waiters(state)?;
    keys(state)?;
    deadlines(state)?;
    registers(state)?;
    events(state)?;
    requests(state)?;
    sessions::check(state)
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

/// The hashes kept at each edit are those of the content.
fn hashes(state: &State) -> Result<(), String> {
    let tables = [
        ("nodes", state.nodes.hash(), state.nodes.hash_recomputed()),
        ("grants", state.locks.grants.hash(), state.locks.grants.hash_recomputed()),
        ("waiters", state.locks.waiters.hash(), state.locks.waiters.hash_recomputed()),
        ("registers", state.registers.table.hash(), state.registers.table.hash_recomputed()),
        ("events", state.events.table.hash(), state.events.table.hash_recomputed()),
        ("requests", state.requests.table.hash(), state.requests.table.hash_recomputed()),
        ("sessions", state.sessions.table.hash(), state.sessions.table.hash_recomputed()),
        ("bindings", state.sessions.bindings.table.hash(), state.sessions.bindings.table.hash_recomputed()),
        ("lost sockets", state.sessions.lost.hash(), state.sessions.lost.hash_recomputed()),
        ("drains", state.sessions.drains.hash(), state.sessions.drains.hash_recomputed()),
        ("messages", state.messages.table.hash(), state.messages.table.hash_recomputed()),
        ("invalidations", state.invalidations.table.hash(), state.invalidations.table.hash_recomputed()),
        ("cleared", state.cleared.hash(), state.cleared.hash_recomputed()),
    ];
    for (table, kept, recomputed) in tables {
        ensure(kept == recomputed, || format!("the hash of table {table} is not that of its content"))?;
    }
    Ok(())
}

impl State {
    /// Whether a record can come next in a restore. Only what would make the indexes, which follow from the
    /// records, contradict themselves: that is what later entries rely on without looking.
    pub(crate) fn accepts(&self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Meta(meta) if !in_range(meta) => Err("a counter is out of range"),
            Record::Grant(grant) if !sorted(&grant.keys) => Err("its keys are not sorted"),
            Record::Grant(grant) if grant.token > self.meta.last_token() => Err("its token was never given"),
            Record::Grant(grant) => {
                let conflict = grant.keys.iter().any(|key| {
                    self.locks.keys.get(key).is_some_and(|at| at.holders.conflict_with(grant.mode))
                });
                if conflict { Err("one of its keys is held already") } else { Ok(()) }
            }
            Record::Offsets(_)
            | Record::Session(_)
            | Record::Binding(_)
            | Record::Lost(_)
            | Record::Drain(_)
            | Record::Message(_)
            | Record::Invalidation(_)
            | Record::Cleared(_) => sessions::accepts(self, record),
            Record::Waiter(waiter) if !sorted(&waiter.keys) => Err("its keys are not sorted"),
            Record::Waiter(waiter) if waiter.index > self.meta.applied => Err("its index was never applied"),
            _ => Ok(()),
        }
    }
}

fn in_range(meta: &Meta) -> bool {
    meta.grants < 1 << TOKEN_EPOCH_SHIFT && meta.next_event < COUNTER_MAX && meta.node_id_max.0 < COUNTER_MAX
}

/// Counters are far from their ends: no conversation reaches these, only records that were never a state.
fn counters(state: &State) -> Result<(), String> {
    ensure(in_range(&state.meta), || format!("a counter is out of range: {:?}", state.meta))
}

/// Ids are spent once, a data directory is one member, at most one member of a name answers.
fn members(state: &State) -> Result<(), String> {
    let mut incarnations = BTreeSet::new();
    for node in state.nodes.iter() {
        let id = node.id;
        ensure(id <= state.meta.node_id_max, || format!("node {id} has an id that was never given"))?;
        ensure(incarnations.insert(node.incarnation), || format!("node {id} shares its data directory"))?;
    }
    let live = state.live_nodes().count();
    ensure(live <= state.limits.nodes, || format!("{live} members"))?;
    ensure(state.is_formed() == (live > 0), || String::from("a formed cluster has members, another none"))
}

/// Every grant stands at all its keys, and its conflicts do not.
fn grants(state: &State) -> Result<(), String> {
    let locks = &state.locks;
    for grant in locks.grants.iter() {
        let token = grant.token;
        ensure(token <= state.meta.last_token(), || format!("grant {token} has a token from the future"))?;
        ensure(sorted(&grant.keys), || format!("the keys of grant {token} are not sorted"))?;
        ensure(grant.hold_deadline.is_none_or(|hold| grant.deadline <= hold), || {
            format!("grant {token} outlives its longest hold")
        })?;
        ensure(locks.by_waiter.get(&grant.waiter) == Some(&Whereabouts::Granted(token)), || {
            format!("grant {token} is not found by its waiter id")
        })?;
        for key in &grant.keys {
            let found =
                locks.keys.get(key).is_some_and(|state| state.holders.tokens().any(|held| held == token));
            ensure(found, || format!("grant {token} does not stand at its key {key:?}"))?;
        }
    }
    let mut held_by = BTreeMap::<_, u64>::new();
    for grant in locks.grants.iter() {
        *held_by.entry(grant.node).or_default() += 1;
    }
    ensure(held_by == locks.held_by, || format!("{held_by:?} counted as {:?}", locks.held_by))?;
    let known = locks.grants.len() + locks.waiters.len();
    ensure(locks.by_waiter.len() == known, || String::from("a waiter id leads nowhere"))?;
    ensure(known <= state.limits.locks_held, || format!("{known} grants and waiters"))
}

/// Every waiter stands in all its queues and has something in its way.
fn waiters(state: &State) -> Result<(), String> {
    let locks = &state.locks;
    let mut places = 0;
    for waiter in locks.waiters.iter() {
        let index = waiter.index;
        ensure(index <= state.meta.applied, || format!("waiter {index} comes from the future"))?;
        ensure(sorted(&waiter.keys), || format!("the keys of waiter {index} are not sorted"))?;
        ensure(locks.by_waiter.get(&waiter.waiter) == Some(&Whereabouts::Queued(index)), || {
            format!("waiter {index} is not found by its id")
        })?;
        ensure(locks.by_node.contains(&(waiter.node, index)), || {
            format!("waiter {index} is not at its node")
        })?;
        ensure(state.may_wait(waiter.node), || format!("waiter {index} belongs to a node that is gone"))?;
        for key in &waiter.keys {
            let place = locks.queue.get(&(key.clone(), index));
            let fits =
                place.is_some_and(|place| place.mode == waiter.mode && place.deadline == waiter.deadline);
            ensure(fits, || format!("waiter {index} does not stand in the queue of {key:?}"))?;
        }
        places += waiter.keys.len();
    }
    ensure(locks.queue.len() == places, || String::from("a queue holds somebody who does not wait"))?;
    ensure(locks.by_node.len() == locks.waiters.len(), || String::from("a node has a waiter that is gone"))?;
    ensure(locks.waiters.len() <= state.limits.waiters, || format!("{} waiters", locks.waiters.len()))
}

/// Counts and admissions of every key are what its holders and its queue say, computed naively.
fn keys(state: &State) -> Result<(), String> {
    let locks = &state.locks;
    let mut blocked: BTreeMap<LogIndex, usize> = BTreeMap::new();
    let mut held = 0;
    for (key, at) in locks.keys.iter() {
        let queue: Vec<_> = locks.queue_of(key.as_str()).collect();
        let tokens: Vec<FencingToken> = at.holders.tokens().collect();
        held += tokens.len();
        ensure(!tokens.is_empty() || !queue.is_empty(), || format!("unused key {key:?} takes memory"))?;
        ensure(at.holders.shared() <= state.limits.holders_per_key, || {
            format!("key {key:?} is held too often")
        })?;
        let modes_fit = tokens.iter().all(|token| {
            let mode = locks.grants.get(token).map(|grant: &alloc::sync::Arc<GrantRecord>| grant.mode);
            mode == Some(if matches!(at.holders, Holders::Shared(_)) {
                LockMode::Shared
            } else {
                LockMode::Exclusive
            })
        });
        ensure(modes_fit, || format!("key {key:?} has a holder of another mode or an unknown one"))?;
        ensure(tokens.is_sorted_by(|left, right| left < right), || {
            format!("holders of {key:?} are not in order")
        })?;
        let exclusive = queue.iter().filter(|(_, place)| place.mode == LockMode::Exclusive).count();
        ensure((at.waiting, at.waiting_exclusive) == (queue.len(), exclusive), || {
            format!("the counts of {key:?} are not those of its queue")
        })?;
        let mut admitted = 0;
        let mut behind_exclusive = false;
        for (position, (index, place)) in queue.iter().enumerate() {
            let queued_before = match place.mode {
                LockMode::Exclusive => position > 0,
                LockMode::Shared => behind_exclusive,
            };
            let is_admitted = !queued_before && !at.holders.conflict_with(place.mode);
            ensure(is_admitted == (*index <= at.admitted_through), || {
                format!("waiter {index} is admitted on {key:?}, or should be")
            })?;
            admitted += usize::from(is_admitted);
            *blocked.entry(*index).or_default() += usize::from(!is_admitted);
            behind_exclusive |= place.mode == LockMode::Exclusive;
        }
        ensure(admitted == at.admitted, || format!("the admissions of {key:?} are miscounted"))?;
    }
    let of_grants: usize = locks.grants.iter().map(|grant| grant.keys.len()).sum();
    ensure(held == of_grants, || String::from("a key has a holder whose grant has ended"))?;
    blocked_waiters(state, &blocked)
}

fn blocked_waiters(state: &State, blocked: &BTreeMap<LogIndex, usize>) -> Result<(), String> {
    state.locks.waiters.iter().try_for_each(|waiter: &alloc::sync::Arc<WaiterRecord>| {
        let expected = blocked.get(&waiter.index).copied().unwrap_or(0);
        ensure(waiter.blocked == expected, || format!("waiter {} miscounts its obstacles", waiter.index))?;
        ensure(expected > 0, || format!("waiter {} waits although nothing is in its way", waiter.index))
    })
}

/// Whatever ends has one entry in the list of deadlines, and nothing else has.
fn deadlines(state: &State) -> Result<(), String> {
    let list = &state.deadlines;
    let registers =
        state.registers.table.iter().filter_map(|register| register.deadline.map(|at| (at, register)));
    let mut expected = state.locks.grants.len() + state.locks.waiters.len();
    for session in state.sessions.table.iter() {
        let Some(deadline) = session.deadline else { continue };
        let found = list.contains(deadline, Lease::Session(session.number));
        ensure(found, || format!("session {} never ends", session.number))?;
        expected += 1;
    }
    for grant in state.locks.grants.iter() {
        let found = list.contains(grant.deadline, Lease::Grant(grant.token));
        ensure(found, || format!("grant {} never ends", grant.token))?;
    }
    for waiter in state.locks.waiters.iter() {
        let found = list.contains(waiter.deadline, Lease::Waiter(waiter.index));
        ensure(found, || format!("waiter {} waits for ever", waiter.index))?;
    }
    for (deadline, register) in registers {
        let found = list.contains(deadline, Lease::Register(register.key.clone()));
        ensure(found, || format!("register {:?} never ends", register.key))?;
        expected += 1;
    }
    ensure(list.len() == expected, || String::from("a deadline belongs to nothing"))
}

fn registers(state: &State) -> Result<(), String> {
    let registers = &state.registers;
    let bytes: usize = registers.table.iter().map(|register| register.size()).sum();
    ensure(bytes == registers.bytes, || String::from("the bytes of registers are miscounted"))?;
    ensure(registers.table.iter().all(|register| register.revision.0 <= state.meta.applied.0), || {
        String::from("a register has a revision from the future")
    })
}

/// Offsets are dense up to the next one.
fn events(state: &State) -> Result<(), String> {
    let (first, next) = state.kept_events();
    let kept = state.events.table.len();
    ensure(kept as u64 == next.0.saturating_sub(first.0), || {
        String::from("the offsets of events have gaps")
    })?;
    let last = state.events.table.last().map(|event| event.offset.0);
    ensure(last.is_none_or(|last| last < next.0), || String::from("an event has an offset from the future"))?;
    ensure(kept <= state.limits.events_kept, || format!("{kept} events kept"))
}

/// A record waits exactly as long as its waiter, and others are in the order of age once.
fn requests(state: &State) -> Result<(), String> {
    let requests = &state.requests;
    let mut finished = 0;
    for record in requests.table.iter() {
        if let Outcome::Waiting(waiter) = record.outcome {
            let place = state.locks.by_waiter.get(&waiter);
            let scope = match place {
                Some(Whereabouts::Queued(index)) => {
                    state.locks.waiters.get(index).and_then(|waiter| waiter.scope)
                }
                _ => None,
            };
            ensure(scope == Some(record.scope), || {
                format!("a kept request waits for {waiter}, which is gone")
            })?;
        } else {
            finished += 1;
            let found = requests.by_age.contains(&(record.at.index, record.scope));
            ensure(found, || String::from("a kept request is never forgotten"))?;
        }
    }
    ensure(requests.by_age.len() == finished, || String::from("a forgotten request is in the order of age"))?;
    ensure(finished <= state.limits.requests_kept, || format!("{finished} requests kept"))?;
    state.locks.waiters.iter().try_for_each(|waiter| {
        let waits = waiter.scope.is_none_or(|scope| {
            let record = requests.table.get(&scope);
            record.is_some_and(|record| record.outcome == Outcome::Waiting(waiter.waiter))
        });
        ensure(waits, || format!("waiter {} has lost its kept request", waiter.index))
    })
}

fn sorted(keys: &[Name]) -> bool {
    !keys.is_empty() && keys.is_sorted_by(|left, right| left < right)
}
