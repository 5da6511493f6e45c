//! The state machine: decodes committed entries, applies them, tells whoever waits.
//!
//! Applying is deterministic and cannot fail for a reason that lies in the command: such answers are
//! [`Refusal`](ovncp_state::Refusal)s, part of the reply. What can fail is decoding, and then this node stops,
//! because going on would make its state differ from the others'.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use ovncp_state::{Entry, LogIndex, Request, State, StateHash};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::codec::{CodecError, LogId, decode_request};
use crate::disk::Disk;
use crate::error::{FailureKind, StorageError, StorageFailure};
use crate::sink::{AppliedEntry, ApplySink};
use crate::snapshot::{Header, SnapshotFile, SnapshotMeta, SnapshotStore, Writer};
use crate::stats::StorageStats;
use crate::types::{Proposal, TypeConfig};
use crate::wal::WriterMode;

/// Entries applied under one write lock: readers wait for at most so many.
const APPLY_ENTRIES_MAX: usize = 64;

/// The state's hash is remembered each time the applied index passes a multiple of this. Part of what nodes compare:
/// all of them remember the same indexes.
pub const CHECKPOINT_ENTRIES: u64 = 256;
/// So many hashes are remembered; a node that lags further behind cannot be compared until it caught up.
pub const CHECKPOINTS_MAX: usize = 256;

type Snapshot<D> = SnapshotOf<TypeConfig, SnapshotFile<D>>;
type StoredMembership = StoredMembershipOf<TypeConfig>;

/// The state at one index, as nodes compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last entry of a command that is applied; what follows it in the log changed nothing.
    pub index: LogIndex,
    /// Hash of every replicated object.
    pub hash: StateHash,
}

impl Checkpoint {
    fn of(state: &State) -> Self {
        Self { index: state.applied(), hash: state.hash() }
    }
}

/// This node's copy of the state, for readers.
#[derive(Clone, Debug)]
pub struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    state: RwLock<State>,
    /// Oldest first.
    checkpoints: Mutex<VecDeque<Checkpoint>>,
    applied: watch::Sender<LogIndex>,
    health: watch::Sender<Option<StorageFailure>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("applied", &*self.applied.borrow()).finish_non_exhaustive()
    }
}

impl Replica {
    pub(crate) fn new(
        state: State,
        applied: LogIndex,
        health: watch::Sender<Option<StorageFailure>>,
    ) -> Self {
        let applied = watch::Sender::new(applied);
        let checkpoints = Mutex::default();
        Self { shared: Arc::new(Shared { state: RwLock::new(state), checkpoints, applied, health }) }
    }

    /// Hashes of the state at the indexes that all nodes remember, and at the present one: oldest first, at most
    /// one more than [`CHECKPOINTS_MAX`].
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        // First the past: what is applied in between is in neither, which does no harm.
        let mut checkpoints: Vec<Checkpoint> = self.remembered().iter().copied().collect();
        let present = self.read(Checkpoint::of);
        if checkpoints.last().is_none_or(|last| last.index < present.index) {
            checkpoints.push(present);
        }
        checkpoints
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<Checkpoint>> {
        self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, checkpoint: Checkpoint) {
        let mut checkpoints = self.remembered();
        if checkpoints.back().is_none_or(|last| last.index < checkpoint.index) {
            checkpoints.push_back(checkpoint);
        }
        if checkpoints.len() > CHECKPOINTS_MAX {
            checkpoints.pop_front();
        }
    }

    /// Looks at the state. Appliers wait meanwhile: take out what is needed and return.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    /// Last entry that is applied here, blank and membership entries included.
    pub fn applied(&self) -> LogIndex {
        *self.shared.applied.borrow()
    }

    /// Follows [`Replica::applied`]. A value is seen only after readers can see its effect.
    pub fn applied_watch(&self) -> watch::Receiver<LogIndex> {
        self.shared.applied.subscribe()
    }

    /// Why the storage of this node stopped, once it did. It does not come back without a restart.
    pub fn health(&self) -> watch::Receiver<Option<StorageFailure>> {
        self.shared.health.subscribe()
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: &StorageError) {
        tracing::error!(%error, "the state machine stopped");
        self.shared.health.send_if_modified(|health| {
            let first = health.is_none();
            health.get_or_insert_with(|| error.failure());
            first
        });
    }
}

/// Applies committed entries to the state, in order.
pub struct Machine<D: Disk> {
    replica: Replica,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore<D>,
    sink: Arc<dyn ApplySink>,
    mode: WriterMode,
    stats: Arc<StorageStats>,
    gaps_allowed: bool,
}

impl<D: Disk> std::fmt::Debug for Machine<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("last_applied", &self.last_applied).finish_non_exhaustive()
    }
}

impl<D: Disk> Machine<D> {
    pub(crate) fn new(
        replica: Replica,
        snapshots: SnapshotStore<D>,
        sink: Arc<dyn ApplySink>,
        mode: WriterMode,
        stats: Arc<StorageStats>,
    ) -> Self {
        let meta = snapshots.current().map(|(meta, _)| meta).unwrap_or_default();
        let (last_applied, membership) = (meta.last_log_id, meta.last_membership);
        Self { replica, last_applied, membership, snapshots, sink, mode, stats, gaps_allowed: false }
    }

    /// From now on entries may be left out, for openraft's conformance suite, which applies only some.
    pub fn allow_gaps(&mut self) {
        self.gaps_allowed = true;
    }

    /// Applies a few entries, then tells readers, watchers and proposers, in this order.
    fn apply_some(&mut self, items: Vec<io::Result<EntryResponder<TypeConfig>>>) -> io::Result<()> {
        let replica = self.replica.clone();
        let _guard = StopOnPanic(&replica);
        let mut proposals = Vec::with_capacity(items.len());
        let mut responders = Vec::with_capacity(items.len());
        let (mut last_applied, mut membership) = (self.last_applied, None);
        for item in items {
            let (entry, responder) = item?;
            self.check_next(last_applied, entry.log_id)?;
            last_applied = Some(entry.log_id);
            responders.extend(responder);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    let request = decode_request(&proposal.envelope)
                        .map_err(|source| self.undecodable(entry.log_id, source))?;
                    proposals.push((entry.log_id, proposal, request));
                }
                EntryPayload::Membership(new) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), new));
                }
            }
        }
        let (applied, checkpoint) = apply_all(&mut self.replica.state_mut(), proposals);
        if let Some(checkpoint) = checkpoint {
            self.replica.remember(checkpoint);
        }
        self.last_applied = last_applied;
        if let Some(membership) = membership {
            self.membership = membership;
        }
        self.tell();
        if !applied.is_empty() {
            self.sink.applied(applied);
        }
        for responder in responders {
            responder.send(());
        }
        Ok(())
    }

    fn tell(&self) {
        let applied = LogIndex(self.last_applied.map_or(0, |id| id.index));
        self.replica.shared.applied.send_replace(applied);
    }

    /// An entry applied twice, or one left out, would make this node's state differ from the others' for good.
    fn check_next(&self, last: Option<LogId>, next: LogId) -> io::Result<()> {
        match last {
            Some(last) if next.index != last.index + 1 && !(self.gaps_allowed && next > last) => {
                let what = format!("it cannot be applied after entry {last}");
                let file = format!("log entry {next}");
                let error = StorageError::corrupt(Path::new(&file), 0, what);
                self.replica.fail(&error);
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    fn undecodable(&self, log_id: LogId, source: CodecError) -> io::Error {
        let file = format!("log entry {log_id}").into();
        let error = StorageError::Codec { file, source };
        self.replica.fail(&error);
        error.into()
    }
}

/// Stops the node when applying panics: the state may be half changed, and readers can still see it.
struct StopOnPanic<'a>(&'a Replica);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "applying an entry panicked: the state may be half changed".to_owned();
            let (kind, file) = (FailureKind::Damaged, Path::new("state").to_path_buf());
            self.0.fail(&StorageError::Failed(StorageFailure { kind, file, message }));
        }
    }
}

/// Applies them in order. A checkpoint belongs to the first entry that reaches or passes its multiple, which is the
/// same one on every node.
fn apply_all(
    state: &mut State,
    proposals: Vec<(LogId, Proposal, Request)>,
) -> (Vec<AppliedEntry>, Option<Checkpoint>) {
    let mut checkpoint = None;
    let apply = |(log_id, proposal, request): (LogId, Proposal, Request)| {
        let (index, before) = (LogIndex(log_id.index), state.applied());
        let applied = state.apply(Entry { index, at: proposal.at, request });
        if index.0 / CHECKPOINT_ENTRIES > before.0 / CHECKPOINT_ENTRIES {
            checkpoint = Some(Checkpoint::of(state));
        }
        AppliedEntry { index, term: log_id.leader_id.term, origin: proposal.origin, applied }
    };
    let applied = proposals.into_iter().map(apply).collect();
    (applied, checkpoint)
}

impl<D: Disk> RaftStateMachine<TypeConfig> for Machine<D> {
    type SnapshotData = SnapshotFile<D>;
    type SnapshotBuilder = SnapshotBuilder<D>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(items) = chunks.next().await {
            self.apply_some(items)?;
            // Catching up may take long; others on this thread must run meanwhile.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<D> {
        // A copy-on-write clone: apply goes on while it is written.
        let state = self.replica.state().clone();
        self.replica.remember(Checkpoint::of(&state));
        SnapshotBuilder {
            state,
            meta: SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() },
            snapshots: self.snapshots.clone(),
            replica: self.replica.clone(),
            mode: self.mode,
            stats: self.stats.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile<D>,
    ) -> Result<(), io::Error> {
        let snapshots = self.snapshots.clone();
        let expected = meta.clone();
        // Checked, then durable, then visible; openraft purges the log only after this returned.
        let install = move || -> Result<State, StorageError> {
            let path = Path::new("received snapshot");
            let file = snapshots.own(snapshot).map_err(StorageError::io("copy", path))?;
            let (meta, state) = snapshots.load(&file)?;
            if meta != expected {
                let what = format!("the snapshot is {meta}, expected {expected}");
                return Err(StorageError::corrupt(path, 0, what));
            }
            snapshots.persist(meta, file)?;
            Ok(state)
        };
        let installed = match self.mode {
            WriterMode::Task => install(),
            WriterMode::Thread => on_thread(install).await,
        };
        let state = installed.inspect_err(|error| self.replica.fail(error))?;
        // What was remembered belongs to the state that is replaced.
        self.replica.remembered().clear();
        self.replica.remember(Checkpoint::of(&state));
        let old = std::mem::replace(&mut *self.replica.state_mut(), state);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.tell();
        self.sink.installed(self.replica.applied());
        drop(old);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<D>>, io::Error> {
        Ok(self.snapshots.current().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes one snapshot.
pub struct SnapshotBuilder<D: Disk> {
    state: State,
    meta: SnapshotMeta,
    snapshots: SnapshotStore<D>,
    replica: Replica,
    mode: WriterMode,
    stats: Arc<StorageStats>,
}

impl<D: Disk> RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder<D> {
    type SnapshotData = SnapshotFile<D>;

    async fn build_snapshot(&mut self) -> Result<Snapshot<D>, io::Error> {
        let begun = Instant::now();
        let (state, meta, snapshots) = (self.state.clone(), self.meta.clone(), self.snapshots.clone());
        let built = match self.mode {
            WriterMode::Task => build_in_task(&state, meta, &snapshots).await,
            WriterMode::Thread => on_thread(move || build(&state, meta, &snapshots)).await,
        };
        let snapshot = built.inspect_err(|error| self.replica.fail(error))?;
        self.stats.snapshot_built(snapshot.len(), begun.elapsed());
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

const BUILDING: &str = "snapshot under construction";

fn build<D: Disk>(
    state: &State,
    meta: SnapshotMeta,
    snapshots: &SnapshotStore<D>,
) -> Result<SnapshotFile<D>, StorageError> {
    let sink = snapshots.receive().map_err(building())?;
    let mut writer = Writer::new(sink.file(), &Header::new(&meta, state.hash())).map_err(building())?;
    for record in state.records() {
        writer.push(&record).map_err(building())?;
    }
    writer.finish().map_err(building())?;
    let file = sink.finish().map_err(building())?;
    snapshots.persist(meta, file)
}

/// The same, letting other tasks run between blocks.
async fn build_in_task<D: Disk>(
    state: &State,
    meta: SnapshotMeta,
    snapshots: &SnapshotStore<D>,
) -> Result<SnapshotFile<D>, StorageError> {
    let sink = snapshots.receive().map_err(building())?;
    let mut writer = Writer::new(sink.file(), &Header::new(&meta, state.hash())).map_err(building())?;
    for record in state.records() {
        if writer.push(&record).map_err(building())? {
            tokio::task::yield_now().await;
        }
    }
    writer.finish().map_err(building())?;
    let file = sink.finish().map_err(building())?;
    snapshots.persist(meta, file)
}

fn building() -> impl FnOnce(io::Error) -> StorageError {
    StorageError::io("write", Path::new(BUILDING))
}

/// Runs long work on a thread of its own, which no other work waits behind.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("ovncp-snapshot".to_owned());
    let io = |error| StorageError::io("start a thread for", Path::new(BUILDING))(error);
    thread.spawn(move || drop(done.send(work()))).map_err(io)?;
    result.await.unwrap_or_else(|_| Err(io(io::Error::other("the snapshot thread panicked"))))
}
