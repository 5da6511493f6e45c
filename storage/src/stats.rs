//! What the storage of a node did since it was opened, for metrics: counters that cost an atomic addition each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Upper bounds of the durations of an fdatasync that are told apart.
pub const SYNC_BOUNDS: [Duration; 15] = [
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(400),
    Duration::from_micros(800),
    Duration::from_micros(1_600),
    Duration::from_micros(3_200),
    Duration::from_micros(6_400),
    Duration::from_micros(12_800),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(16),
];

/// Counters, shared by all parts of one [`Store`](crate::Store).
#[derive(Debug)]
pub struct StorageStats {
    since: Instant,
    /// Nanoseconds from `since` to when the batch under way was begun, plus one; zero without one.
    batch_begun_ns: AtomicU64,
    append_batches: AtomicU64,
    append_entries: AtomicU64,
    append_bytes: AtomicU64,
    writer_busy_ns: AtomicU64,
    sync_counts: [AtomicU64; SYNC_BOUNDS.len() + 1],
    sync_ns: AtomicU64,
    segments: AtomicU64,
    snapshot: Mutex<Option<SnapshotFigures>>,
}

/// What [`StorageStats`] said at one moment. Counts grow from zero when the store is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorageFigures {
    /// Batches that the log wrote with entries in them.
    pub append_batches: u64,
    /// Entries in them.
    pub append_entries: u64,
    /// Encoded bytes of these entries.
    pub append_bytes: u64,
    /// Time that the writer of the log was at work, waiting for the disk included.
    pub writer_busy: Duration,
    /// How long the batch has been under way that the writer is at now. It grows while the disk hangs.
    pub batch_age: Option<Duration>,
    /// How long each fdatasync of the log took.
    pub syncs: SyncHistogram,
    /// Segments of the log that hold something.
    pub segments: u64,
    /// The last snapshot built by this process.
    pub snapshot: Option<SnapshotFigures>,
}

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncHistogram {
    /// Upper bounds, ascending.
    pub bounds: &'static [Duration],
    /// How many were at most as long as each bound and longer than the one before; the last: longer than all.
    pub counts: Vec<u64>,
    /// All durations together.
    pub sum: Duration,
}

/// A snapshot that this process built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SnapshotFigures {
    /// Bytes of the file.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// When it was done.
    pub built: Instant,
}

impl Default for StorageStats {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            batch_begun_ns: AtomicU64::default(),
            append_batches: AtomicU64::default(),
            append_entries: AtomicU64::default(),
            append_bytes: AtomicU64::default(),
            writer_busy_ns: AtomicU64::default(),
            sync_counts: Default::default(),
            sync_ns: AtomicU64::default(),
            segments: AtomicU64::default(),
            snapshot: Mutex::default(),
        }
    }
}

impl StorageStats {
    /// All figures now. They are read one after the other, so they may be one operation apart.
    pub fn read(&self) -> StorageFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageFigures {
            append_batches: get(&self.append_batches),
            append_entries: get(&self.append_entries),
            append_bytes: get(&self.append_bytes),
            writer_busy: Duration::from_nanos(get(&self.writer_busy_ns)),
            batch_age: self.batch_age(),
            syncs: SyncHistogram {
                bounds: &SYNC_BOUNDS,
                counts: self.sync_counts.iter().map(get).collect(),
                sum: Duration::from_nanos(get(&self.sync_ns)),
            },
            segments: get(&self.segments),
            snapshot: *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(crate) fn appended(&self, entries: u64, bytes: u64) {
        self.append_batches.fetch_add(1, Ordering::Relaxed);
        self.append_entries.fetch_add(entries, Ordering::Relaxed);
        self.append_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn batch_age(&self) -> Option<Duration> {
        let begun = self.batch_begun_ns.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.since.elapsed().saturating_sub(Duration::from_nanos(begun)))
    }

    pub(crate) fn batch_begun(&self, at: Instant) {
        self.batch_begun_ns.store(nanos(at.saturating_duration_since(self.since)) + 1, Ordering::Relaxed);
    }

    pub(crate) fn batch_done(&self, begun: Instant) {
        self.batch_begun_ns.store(0, Ordering::Relaxed);
        self.writer_busy_ns.fetch_add(nanos(begun.elapsed()), Ordering::Relaxed);
    }

    pub(crate) fn synced(&self, took: Duration) {
        let bucket = SYNC_BOUNDS.partition_point(|bound| *bound < took);
        self.sync_counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sync_ns.fetch_add(nanos(took), Ordering::Relaxed);
    }

    pub(crate) fn set_segments(&self, segments: usize) {
        self.segments.store(segments as u64, Ordering::Relaxed);
    }

    pub(crate) fn snapshot_built(&self, bytes: u64, took: Duration) {
        let figures = SnapshotFigures { bytes, took, built: Instant::now() };
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ages_while_it_is_under_way() {
        let stats = StorageStats::default();
        assert_eq!(stats.read().batch_age, None);
        let begun = stats.since;
        stats.batch_begun(begun);
        let (first, second) = (stats.read().batch_age, stats.read().batch_age);
        assert!(first.is_some() && first <= second);
        stats.batch_done(begun);
        assert_eq!(stats.read().batch_age, None);
        assert!(stats.read().writer_busy >= second.unwrap());
    }

    #[test]
    fn durations_are_counted_between_their_bounds() {
        let stats = StorageStats::default();
        for micros in [0, 100, 101, 200, 20_000_000] {
            stats.synced(Duration::from_micros(micros));
        }
        let syncs = stats.read().syncs;
        assert_eq!((syncs.counts[0], syncs.counts[1], syncs.counts[2]), (2, 2, 0));
        assert_eq!((syncs.counts.len(), *syncs.counts.last().unwrap()), (syncs.bounds.len() + 1, 1));
        assert_eq!(syncs.sum, Duration::from_micros(20_000_401));
    }
}
