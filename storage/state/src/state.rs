//! The state and its one way to change: [`State::apply`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::clock::{Deadlines, Lease};
use crate::command::{AppliedAt, SessionEnd};
use crate::event::{Appended, ReleaseCause};
use crate::invalidations::{ClearedRecord, Invalidation};
use crate::kv::Registers;
use crate::limits::{INVALIDATIONS_KEPT_MS, Limits, MESSAGES_KEPT_MS, SESSION_TTL_MS_MIN};
use crate::locks::Locks;
use crate::membership::NodeRecord;
use crate::mutants::{self, Mutant};
use crate::requests::Requests;
use crate::ring::Ring;
use crate::sessions::Sessions;
use crate::sessions::view::Message;
use crate::table::{Table, hash_of};
use crate::{
    Applied, ClusterId, Command, Entry, Event, EventKind, FencingToken, LogIndex, Millis, NodeId, Notice,
    Refusal, Reply, StateHash, Version,
};

/// The replicated state: a value that [`State::apply`] alone changes.
///
/// Cloning is cheap (one reference count per chunk of 64 objects), so a snapshot is a clone that is written
/// out while the original goes on.
#[derive(Clone, Default)]
pub struct State {
    pub(crate) meta: Meta,
    pub(crate) nodes: Table<NodeRecord>,
    pub(crate) locks: Locks,
    pub(crate) registers: Registers,
    pub(crate) events: Ring<Event>,
    pub(crate) requests: Requests,
    pub(crate) deadlines: Deadlines,
    pub(crate) limits: Limits,
    /// See [`State::cluster_version`]. Not a field of `Meta`: a record of its own says it, and none does at first.
    pub(crate) version: Version,
    pub(crate) sessions: Sessions,
    pub(crate) messages: Ring<Message>,
    pub(crate) invalidations: Ring<Invalidation>,
    pub(crate) cleared: Table<ClearedRecord>,
    pub(crate) offsets: Offsets,
}

/// The offsets that the next entries of the logs get. Not fields of `Meta`, whose bytes are fixed: a record of their own
/// says them, and there is none before the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    pub(crate) messages: u64,
    pub(crate) invalidations: u64,
}

impl Offsets {
    pub(crate) const TAG: u8 = 9;
}

/// Identity, clock and counters: everything that is not an object of a table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) epoch: u16,
    pub(crate) formed_at_unix_ms: u64,
    pub(crate) voters_target: u8,
    pub(crate) now: Millis,
    pub(crate) applied: LogIndex,
    pub(crate) leader: Option<(NodeId, u64)>,
    /// Grants so far in this epoch.
    pub(crate) grants: u64,
    /// The offset that the next event gets.
    pub(crate) next_event: u64,
    /// Ids of nodes are never given twice: all up to this one are spent.
    pub(crate) node_id_max: NodeId,
}

/// The restore epoch stands above this bit of a fencing token.
pub(crate) const TOKEN_EPOCH_SHIFT: u32 = 48;

impl Meta {
    pub(crate) const TAG: u8 = 1;

    pub(crate) fn applied_at(&self) -> AppliedAt {
        AppliedAt { index: self.applied, now: self.now }
    }

    pub(crate) fn next_token(&mut self) -> FencingToken {
        self.grants += 1;
        if mutants::is(Mutant::TokenFromLocalCounter) {
            self.grants = mutants::next_local_token();
        }
        self.last_token()
    }

    /// The highest token given so far.
    pub(crate) fn last_token(&self) -> FencingToken {
        FencingToken(u64::from(self.epoch) << TOKEN_EPOCH_SHIFT | self.grants)
    }
}

/// What an apply produces besides its reply.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) appended: Appended,
}

impl Effects {
    fn with(self, reply: Reply) -> Applied {
        Applied { reply, events: self.events, notices: self.notices, appended: self.appended }
    }
}

/// How many objects are live: ended ones that still await clean-up are not counted.
pub(crate) struct Totals {
    pub(crate) grants: usize,
    pub(crate) waiters: usize,
    pub(crate) registers: usize,
    pub(crate) register_bytes: usize,
}

impl State {
    /// The empty state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty state with other bounds, so that tests can reach them. Nodes with different limits diverge:
    /// nothing but tests may use it.
    #[doc(hidden)]
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Applies one committed entry.
    ///
    /// First the clock moves to the entry's stamp (never backwards), then what has ended is cleaned up in
    /// order of deadline, at most [`EXPIRIES_PER_APPLY_MAX`](crate::limits::EXPIRIES_PER_APPLY_MAX) of it, and
    /// only then the command is judged. Indexes must increase: an entry at or below [`State::applied`] is in
    /// the state already, changes nothing, and is answered [`Reply::Done`] without events or notices.
    pub fn apply(&mut self, entry: Entry) -> Applied {
        let mut out = Effects::default();
        if entry.index <= self.meta.applied {
            return out.with(Reply::Done);
        }
        self.meta.applied = entry.index;
        self.meta.now = self.meta.now.max(entry.at);
        self.clean_up(&mut out);
        let reply = self.answer(entry.request, &mut out);
        out.with(reply)
    }

    /// Every command, and who judges it.
    pub(crate) fn execute(
        &mut self,
        command: Command,
        scope: Option<crate::requests::Scope>,
        out: &mut Effects,
    ) -> Result<Reply, Refusal> {
        match command {
            Command::Tick => Ok(Reply::Done),
            Command::FormCluster(form) => self.form_cluster(form, out),
            Command::AnnounceLeader(announce) => self.announce_leader(&announce, out),
            _ if !self.is_formed() => Err(Refusal::NotFormed),
            Command::JoinNode(join) => self.join_node(join, out),
            Command::UpdateNode(update) => self.update_node(update, out),
            Command::ChangeNode(change) => self.change_node(&change, out),
            Command::RemoveNode(remove) => self.remove_node(&remove, out),
            Command::AcquireLock(acquire) => self.acquire(acquire, scope, out),
            Command::RenewLocks(renewals) => self.renew_all(&renewals, out),
            Command::ReleaseLock(release) => self.release(&release, out),
            Command::CancelWait(cancel) => {
                self.cancel_wait(&cancel, out);
                Ok(Reply::Done)
            }
            Command::ForceReleaseLock(force) => self.force_release(&force, out),
            Command::WriteKv(write) => self.write_kv(write),
            Command::RegisterSession(register) => self.register_session(register, out),
            Command::AttachSession(attach) => self.attach_session(&attach, out),
            Command::UpdateSessions(updates) => self.update_sessions(&updates, out),
            Command::EndSession(end) => self.end_session_by(&end, out),
            Command::MigrateSession(migrate) => self.migrate_session(&migrate, out),
            Command::RotateSession(rotate) => self.rotate_session(&rotate),
            Command::DescribeSession(describe) => self.describe_session(describe),
            Command::SubscribeSession(subscribe) => self.subscribe_session(&subscribe),
            Command::PublishMessages(publish) => self.publish(publish, out),
            Command::AcquireLockInSession(acquire) => self.acquire_in_session(acquire, scope, out),
            Command::DrainNode(drain) => self.drain_node(&drain, out),
            Command::ResumeNode(resume) => self.resume_node(&resume, out),
            Command::Invalidate(invalidate) => self.invalidate(invalidate, out),
            Command::ReportCleared(report) => self.report_cleared(&report, out),
        }
    }

    /// The cluster clock.
    pub fn now(&self) -> Millis {
        self.meta.now
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> LogIndex {
        self.meta.applied
    }

    /// When something ends next. In the past while a bounded clean-up left something over, so that the next
    /// [`Command::Tick`] is due at once.
    pub fn next_deadline(&self) -> Option<Millis> {
        let lost = self.sessions.lost.first().map(|lost| lost.at);
        self.deadlines.next().into_iter().chain(lost).min()
    }

    /// Version of what [`hash`](Self::hash) covers and how: hashes of different versions say nothing about each
    /// other. Raise it with every change of a record's fields.
    pub const HASH_VERSION: u16 = 1;

    /// Hash over every replicated object. Equal on all nodes that applied the same entries.
    pub fn hash(&self) -> StateHash {
        let hashes = [
            hash_of(Meta::TAG, &self.meta),
            self.nodes.hash(),
            self.locks.grants.hash(),
            self.locks.waiters.hash(),
            self.registers.table.hash(),
            self.events.table.hash(),
            self.requests.table.hash(),
        ];
        // What came later adds nothing as long as there is nothing of it.
        let version = if self.version > Version::BASE { hash_of(Version::TAG, &self.version) } else { 0 };
        let offsets =
            if self.offsets == Offsets::default() { 0 } else { hash_of(Offsets::TAG, &self.offsets) };
        let later = [
            version,
            offsets,
            self.sessions.table.hash(),
            self.sessions.bindings.table.hash(),
            self.sessions.lost.hash(),
            self.sessions.drains.hash(),
            self.messages.table.hash(),
            self.invalidations.table.hash(),
            self.cleared.hash(),
        ];
        StateHash(hashes.into_iter().chain(later).fold(0, u128::wrapping_add).to_be_bytes())
    }

    /// Whether the first entry of the cluster was applied.
    pub fn is_formed(&self) -> bool {
        self.meta.cluster_id.is_some()
    }

    pub(crate) fn emit(&mut self, kind: EventKind, out: &mut Effects) {
        let offset = crate::EventOffset(self.meta.next_event);
        let event = Arc::new(Event { offset, at: self.meta.now, kind });
        self.meta.next_event += 1;
        out.appended.cleared |= matches!(
            event.kind,
            EventKind::NodeJoin { .. } | EventKind::NodeLeave { .. } | EventKind::NodeUpdate { .. }
        );
        self.events.push_event(Arc::clone(&event), &self.limits);
        out.events.push(event);
    }

    /// Whether something may have ended that the bounded clean-up did not reach. Sockets that were lost just now are
    /// nothing of the kind: each session outlives its socket by [`SESSION_TTL_MS_MIN`] at least. While the sockets of a
    /// dead node are taken away, which takes some entries, this spares every lock command a look at all that holds and
    /// waits on its keys.
    pub(crate) fn has_ended(&self) -> bool {
        let now = self.meta.now;
        self.deadlines.first_ended(now).is_some()
            || self.sessions.lost.iter().any(|lost| lost.at.after(SESSION_TTL_MS_MIN) <= now)
    }

    /// Ends what has ended, in order of deadline and up to the bound. All of it is taken out before anything
    /// is granted, so a waiter whose time is over never gets what ended with it.
    fn clean_up(&mut self, out: &mut Effects) {
        self.detach_lost(out);
        let mut touched = crate::locks::Touched::new();
        let (mut departed, mut bereaved) = (Vec::new(), Vec::new());
        let mut left = self.limits.expiries_per_apply;
        while left > 0 {
            left -= 1;
            match self.deadlines.first_ended(self.meta.now).cloned() {
                None => break,
                Some(Lease::Grant(token)) => {
                    self.end_grant(token, ReleaseCause::Expired, "", &mut touched, out);
                }
                Some(Lease::Waiter(index)) => departed.extend(self.depart(index, &mut touched)),
                Some(Lease::Register(key)) => self.drop_register(&key),
                Some(Lease::Session(number)) => {
                    let cause = SessionEnd::Expired;
                    let bound = self.end_session(number, cause, &mut touched, &mut bereaved, out);
                    left = left.saturating_sub(bound);
                }
            }
        }
        bereaved.into_iter().for_each(|departed| self.refuse(departed, Refusal::WaitCancelled, out));
        departed.into_iter().for_each(|departed| self.refuse_timed_out(departed, out));
        self.wake(touched, out);
        self.requests.forget_old(self.meta.now);
        self.messages.forget_old(self.meta.now, MESSAGES_KEPT_MS);
        self.invalidations.forget_old(self.meta.now, INVALIDATIONS_KEPT_MS);
    }

    pub(crate) fn live_totals(&self) -> Totals {
        let mut totals = Totals {
            grants: self.locks.grants.len(),
            waiters: self.locks.waiters.len(),
            registers: self.registers.table.len(),
            register_bytes: self.registers.bytes,
        };
        for lease in self.deadlines.ended(self.meta.now) {
            match lease {
                Lease::Grant(_) => totals.grants -= 1,
                Lease::Waiter(_) => totals.waiters -= 1,
                Lease::Session(_) => {}
                Lease::Register(key) => {
                    totals.registers -= 1;
                    totals.register_bytes -= self.registers.table.get(key).map_or(0, |record| record.size());
                }
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;
    use crate::command::{
        AcquireLock, ChangeNode, FormCluster, JoinNode, LockMode, NodeInfo, NodeStatus, RegisterSession,
    };
    use crate::{Incarnation, SecretHash, SessionId, WaiterId};

    fn acquire(index: u64) -> Entry {
        let mut waiter = [0; 16];
        waiter[..8].copy_from_slice(&index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        let acquire = AcquireLock {
            keys: vec![format!("switch:{:016x}", index.wrapping_mul(0x9E37_79B9_7F4A_7C15))],
            mode: LockMode::Exclusive,
            owner: "worker".to_string(),
            secret: SecretHash([1; 32]),
            salt: None,
            ttl: Millis(60_000 + index % 1_000),
            wait: Millis(0),
            hold_max: None,
            metadata: None,
            waiter: WaiterId(waiter),
            node: NodeId(1),
        };
        Entry {
            index: LogIndex(index),
            at: Millis(index / 10),
            request: Command::AcquireLock(acquire).into(),
        }
    }

    fn held(locks: u64) -> State {
        let info = NodeInfo::default();
        let node = JoinNode { name: "a".to_string(), incarnation: Incarnation([1; 16]), info };
        let form = FormCluster {
            cluster_id: ClusterId([1; 16]),
            formed_at_unix_ms: 0,
            voters_target: 1,
            nodes: vec![node],
        };
        let mut state = State::new();
        state.apply(Entry { index: LogIndex(1), at: Millis(0), request: Command::FormCluster(form).into() });
        for index in 2..locks + 2 {
            assert!(matches!(state.apply(acquire(index)).reply, Reply::Granted(_)));
        }
        state
    }

    /// Chunks of every table that has one object or more per lock, and how many of them `other` shares.
    fn chunks(state: &State, other: &State) -> (usize, usize) {
        let (locks, others) = (&state.locks, &other.locks);
        let all = [
            (locks.grants.map().chunks(), locks.grants.map().chunks_shared_with(others.grants.map())),
            (locks.keys.chunks(), locks.keys.chunks_shared_with(&others.keys)),
            (locks.by_waiter.chunks(), locks.by_waiter.chunks_shared_with(&others.by_waiter)),
            (state.deadlines.map().chunks(), state.deadlines.map().chunks_shared_with(other.deadlines.map())),
            (
                state.events.table.map().chunks(),
                state.events.table.map().chunks_shared_with(other.events.table.map()),
            ),
        ];
        all.into_iter().fold((0, 0), |(all, shared), (chunks, same)| (all + chunks, shared + same))
    }

    #[test]
    fn snapshot_of_100_000_held_locks_copies_what_changes_after_it() {
        const LOCKS: u64 = 100_000;
        let mut state = held(LOCKS);
        let snapshot = state.clone();
        let (all, shared) = chunks(&state, &snapshot);
        assert_eq!(all, shared, "a clone copies nothing");
        assert!(all < 16_000, "{all} reference counts are not cheap");
        let hash = snapshot.hash();
        for index in LOCKS + 2..LOCKS + 102 {
            state.apply(acquire(index));
        }
        let (all, shared) = chunks(&state, &snapshot);
        // At most two chunks of each of five tables per entry (a split, or an old event that goes).
        assert!(all - shared <= 100 * 10, "{} of {all} chunks copied by 100 entries", all - shared);
        assert_eq!(snapshot.hash(), hash);
        assert_eq!(snapshot.cluster().locks_held, LOCKS);
    }

    #[test]
    fn sockets_lost_just_now_have_not_ended_anything() {
        let mut state = held(1);
        state.limits.expiries_per_apply = 1;
        for number in 3..7 {
            let register = RegisterSession {
                id: SessionId([u8::try_from(number).unwrap(); 16]),
                user: "alice".to_string(),
                ttl: SESSION_TTL_MS_MIN,
                metadata: None,
                socket: Some(NodeId(1)),
            };
            let request = Command::RegisterSession(register).into();
            let applied = state.apply(Entry { index: LogIndex(number), at: Millis(0), request });
            assert!(matches!(applied.reply, Reply::Session(_)), "{:?}", applied.reply);
        }
        let now = state.now();
        let generation = state.node(NodeId(1)).unwrap().generation;
        let status = Some(NodeStatus::Inactive);
        let change = ChangeNode { id: NodeId(1), generation, status, role: None };
        let change = Entry { index: LogIndex(7), at: now, request: Command::ChangeNode(change).into() };
        assert_eq!(state.apply(change).reply, Reply::Done);
        assert!(state.sessions.lost.first().is_some(), "one socket of four is taken away");
        assert!(!state.has_ended());

        state.meta.now = now.after(SESSION_TTL_MS_MIN).before(Millis(1));
        assert!(!state.has_ended());
        state.meta.now = now.after(SESSION_TTL_MS_MIN);
        assert!(state.has_ended(), "those that are not taken away are over too");
    }

    #[test]
    fn memory_of_released_locks_is_freed() {
        let mut state = held(1_000);
        let tick = Entry { index: LogIndex(5_000), at: Millis(10_000_000), request: Command::Tick.into() };
        state.apply(tick);
        let locks = &state.locks;
        assert_eq!(locks.grants.len() + locks.keys.len() + locks.by_waiter.len() + state.deadlines.len(), 0);
        assert_eq!(locks.keys.chunks() + locks.by_waiter.chunks() + state.deadlines.map().chunks(), 0);
    }
}
