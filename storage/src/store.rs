//! Everything of one node together: opened as a whole, or not at all.

use std::sync::Arc;

use ovncp_state::LogIndex;
use tokio::sync::watch;

use crate::data_dir::DataDir;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::machine::{Machine, Replica};
use crate::sink::ApplySink;
use crate::snapshot::SnapshotStore;
use crate::stats::StorageStats;
use crate::wal::{LogStore, WriterMode};

/// Bytes of a log segment.
pub const SEGMENT_BYTES: u32 = 8 * 1_024 * 1_024;
/// Smallest segment that a simulation may ask for.
pub const SEGMENT_BYTES_MIN: u32 = 4 * 1_024;
/// Bytes of recent entries kept in memory for replication and apply.
pub const CACHE_BYTES: usize = 8 * 1_024 * 1_024;

/// How a store works.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Who runs the log writer and builds snapshots.
    pub writer: WriterMode,
    /// Bytes of a log segment; fixed for the life of a data directory.
    pub segment_bytes: u32,
    /// Bytes of recent entries kept in memory.
    pub cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { writer: WriterMode::default(), segment_bytes: SEGMENT_BYTES, cache_bytes: CACHE_BYTES }
    }
}

impl StoreOptions {
    /// For simulations: everything on the caller's thread, small files.
    pub fn simulation() -> Self {
        Self { writer: WriterMode::Task, segment_bytes: 64 * 1_024, cache_bytes: 64 * 1_024 }
    }
}

/// The opened storage of a node.
#[derive(Debug)]
pub struct Store<D: Disk> {
    /// Log and vote, for openraft.
    pub log: LogStore<D>,
    /// State machine, for openraft.
    pub machine: Machine<D>,
    /// The state, for readers.
    pub replica: Replica,
    /// Snapshot files, for the transport.
    pub snapshots: SnapshotStore<D>,
    /// What was done so far, for metrics.
    pub stats: Arc<StorageStats>,
}

impl<D: Disk> Store<D> {
    /// Whether nothing was ever stored: no vote, no entry, no snapshot. Together with
    /// [`DataDir::is_pristine`] it says that a node may take part in the formation of a cluster.
    pub fn is_pristine(&self) -> bool {
        self.log.is_pristine() && self.snapshots.current().is_none()
    }
}

/// Opens what is stored in a data directory and checks all of it. In [`WriterMode::Task`] it must be called
/// within the runtime.
///
/// Snapshot and log must fit together: a log that begins after the end of the snapshot has a hole.
pub fn open<D: Disk>(
    dir: DataDir<D>,
    options: StoreOptions,
    sink: Arc<dyn ApplySink>,
) -> Result<Store<D>, StorageError> {
    assert!(options.segment_bytes >= SEGMENT_BYTES_MIN, "a segment must hold its head and an entry");
    let health = watch::Sender::new(None);
    let (snapshots, state) = SnapshotStore::open(&dir)?;
    let stats = Arc::new(StorageStats::default());
    #[cfg_attr(not(feature = "mutants"), expect(unused_mut, reason = "a mutant changes it"))]
    let mut log = LogStore::open(&dir, &options, health.clone(), stats.clone())?;
    let covered = snapshots.current().and_then(|(meta, _)| meta.last_log_id);
    if let Some(purged) = log.purged()
        && covered.is_none_or(|covered| covered.index < purged.index)
    {
        let what = match covered {
            Some(covered) => format!("the newest snapshot ends at entry {covered}"),
            None => "there is no snapshot".to_owned(),
        };
        let what = format!("{what}, but the log begins after entry {purged}");
        return Err(StorageError::corrupt(&dir.snapshot_path(), 0, what));
    }
    let applied = LogIndex(covered.map_or(0, |id| id.index));
    let replica = Replica::new(state.unwrap_or_default(), applied, health);
    #[cfg(feature = "mutants")]
    if ovncp_state::mutants::is(ovncp_state::mutants::Mutant::AckBeforeCommit) {
        log.hasty = Some(Box::new(crate::hasty::Hasty::new(replica.clone(), sink.clone())));
    }
    let machine = Machine::new(replica.clone(), snapshots.clone(), sink, options.writer, stats.clone());
    Ok(Store { log, machine, replica, snapshots, stats })
}
