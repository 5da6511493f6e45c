//! The log: votes, entries and the committed index in one stream of checksummed records.
//!
//! Segments of fixed size are used again as they are; new ones are written with zeroes ahead of their use, so that
//! an fdatasync moves nothing but data. One writer drains what is queued, writes it with one call and syncs
//! once. What [`RaftLogStorage`] promises to openraft is kept like this:
//!
//! - **durable means synced.** `save_vote` and `truncate_after` return, and append callbacks fire, after the
//!   fdatasync of their batch. A truncation waits too, because openraft may persist a snapshot that contradicts
//!   the removed entries right after it.
//! - **order.** Everything goes through one queue to one writer.
//! - **readable at once.** Appended entries stand in memory before `append` returns; recent ones stay there
//!   (bounded by bytes), older ones are read from disk by index.
//! - **a vote survives its segment.** The first record of each segment carries the hard state.
//! - **a failure is final.** After a failed write or sync nothing is accepted until a restart.
//!
//! Map: `record` the bytes, `sector` how they lie in the file, `tail` the end that grows, `segment` the files, `writer`
//! the loop, `recovery` how it is opened again, `encoded` and `memory` what is known without reading.
//!
//! Caveat: damage of the very last write that leaves one of its sectors all zero, or as it was before the write,
//! looks like a torn write, and is cut off. No log can tell the two apart without a second copy.

mod encoded;
mod memory;
mod record;
mod recovery;
mod sector;
mod segment;
mod tail;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use openraft_rt::AsyncRuntime;
use ovncp_state::mutants::{self, Mutant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::codec::{ENTRY_BYTES_MAX, Entry, LogId, Vote, decode_entry};
use crate::data_dir::DataDir;
use crate::disk::{Disk, File};
use crate::error::{StorageError, StorageFailure};
use crate::runtime::Runtime;
use crate::stats::StorageStats;
use crate::store::StoreOptions;
use crate::types::TypeConfig;
use encoded::Encoded;
use memory::{Found, Memory, Place};
use record::Stamp;
use recovery::Active;
use segment::{Files, Helper};
use tail::Tail;
use writer::{Batch, HEAD_BYTES_MAX, HeadState, Operation, Writer};

/// Operations that may wait for the writer; more wait in `append`, and with them the proposers.
const QUEUE_OPERATIONS_MAX: usize = 1_024;
/// Bytes of entries that may wait for the writer; a larger append waits until nothing else does.
const QUEUE_BYTES_MAX: usize = 32 * 1_024 * 1_024;
/// Bytes of entries that one bounded read returns, at least one entry.
pub const READ_BYTES_MAX: usize = 1_024 * 1_024;
/// Adjacent entries are read from disk with one call of at most this size.
const READ_AHEAD_BYTES_MAX: usize = 1_024 * 1_024;
/// A committed index is written with the next append, or by itself once none came for so long.
const COMMITTED_DELAY: Duration = Duration::from_millis(50);
/// First segment of a new log.
const SEGMENT_FIRST: u32 = 1;

/// Who runs the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterMode {
    /// A thread of its own, and another one that prepares segments and snapshots.
    #[default]
    Thread,
    /// A task of the runtime, which then waits for the disk: for simulations on one thread.
    Task,
}

/// The Raft log and vote of one node.
#[derive(Debug)]
pub struct LogStore<D: Disk> {
    reader: LogReader<D>,
    queue: Option<mpsc::Sender<Operation>>,
    /// One permit for each byte that may still wait.
    room: Arc<Semaphore>,
    /// Somebody will remind the writer of the committed index.
    committed_due: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
    #[cfg(feature = "mutants")]
    pub(crate) hasty: Option<Box<crate::hasty::Hasty>>,
}

/// Reads the log; clones are cheap.
#[derive(Debug)]
pub struct LogReader<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// What the log, its readers and its writer share.
#[derive(Debug)]
struct Shared<D: Disk> {
    memory: Mutex<Memory>,
    files: Files<D::File>,
    place: segment::Place<D>,
    salt: u32,
    health: watch::Sender<Option<StorageFailure>>,
    stats: Arc<StorageStats>,
    /// Keeps the directory locked as long as anybody writes.
    _dir: DataDir<D>,
}

impl<D: Disk> Shared<D> {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<StorageFailure> {
        self.health.borrow().clone()
    }

    /// Stops the log for good. The first failure is the one that counts.
    fn fail(&self, error: &StorageError) -> StorageFailure {
        let failure = error.failure();
        tracing::error!(%error, "the log stopped");
        self.health.send_if_modified(|health| {
            let first = health.is_none();
            health.get_or_insert_with(|| failure.clone());
            first
        });
        self.failure().unwrap_or(failure)
    }
}

impl<D: Disk> LogStore<D> {
    /// Opens the log of a data directory, creating it in a new one.
    pub(crate) fn open(
        dir: &DataDir<D>,
        options: &StoreOptions,
        health: watch::Sender<Option<StorageFailure>>,
        stats: Arc<StorageStats>,
    ) -> Result<Self, StorageError> {
        let place = segment::Place {
            disk: dir.disk().clone(),
            dir: dir.log_path(),
            segment_bytes: options.segment_bytes,
        };
        if !dir.log_created() {
            // The segment stands whole before the directory says that there is one.
            place.prepare(SEGMENT_FIRST)?;
            create(&place, dir)?;
        }
        let salt = u32::from_le_bytes(*dir.incarnation().0.first_chunk().unwrap_or(&[0; 4]));
        let recovered = recovery::recover(&place, salt, options.cache_bytes)?;
        let shared = Arc::new(Shared {
            memory: Mutex::new(recovered.memory),
            files: recovered.files,
            place: place.clone(),
            salt,
            health,
            stats,
            _dir: dir.clone(),
        });
        let on_failure = (options.writer == WriterMode::Thread).then(|| {
            let shared = shared.clone();
            Box::new(move |error: &StorageError| drop(shared.fail(error))) as segment::OnFailure
        });
        let mut helper = Helper::new(place, on_failure)?;
        if !recovered.leftover.is_empty() {
            helper.retire(recovered.leftover)?;
        }
        let Active { number, file, tail, end } = recovered.active;
        if let Some((number, file)) = recovered.spare {
            helper.has_ready(number, file);
        }
        let stamp = Stamp { segment: number, salt };
        let mut writer = Writer {
            shared: shared.clone(),
            helper,
            file,
            tail: Tail::new(stamp, end - tail.len(), &tail),
            written: end,
            durable: end,
            head: recovered.head,
            batch: Batch::default(),
        };
        if end == 0 {
            writer.begin()?;
        }
        writer.retire()?;
        writer.helper.ask(number + 1);
        Self::start(shared, writer, options.writer)
    }

    fn start(shared: Arc<Shared<D>>, writer: Writer<D>, mode: WriterMode) -> Result<Self, StorageError> {
        let (sender, queue) = mpsc::channel(QUEUE_OPERATIONS_MAX);
        let dir = shared.place.dir.clone();
        let handle = match mode {
            WriterMode::Thread => {
                let thread = std::thread::Builder::new().name("ovncp-log".to_owned());
                let handle = thread.spawn(move || writer::run_thread(writer, queue));
                Some(handle.map_err(StorageError::io("start a thread for", &dir))?)
            }
            WriterMode::Task => {
                drop(Runtime::spawn(writer::run_task(writer, queue)));
                None
            }
        };
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        Ok(Self {
            reader: LogReader { shared },
            queue: Some(sender),
            room,
            committed_due: Arc::default(),
            writer: handle,
            #[cfg(feature = "mutants")]
            hasty: None,
        })
    }

    /// Opens a log without the snapshots that belong to it; for tests and benches of the log alone.
    pub fn open_alone(dir: &DataDir<D>, options: &StoreOptions) -> Result<Self, StorageError> {
        Self::open(dir, options, watch::Sender::new(None), Arc::default())
    }

    /// What was done so far, for metrics.
    pub fn stats(&self) -> &Arc<StorageStats> {
        &self.reader.shared.stats
    }

    /// Why the log stopped, once it did.
    pub fn failure(&self) -> Option<StorageFailure> {
        self.reader.shared.failure()
    }

    /// Whether it never held a vote or an entry.
    pub fn is_pristine(&self) -> bool {
        let memory = self.reader.shared.memory();
        memory.vote.is_none() && memory.last.is_none() && memory.purged.is_none()
    }

    /// Last entry that is not kept any more.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.reader.shared.memory().purged
    }

    /// A reader beside openraft's own.
    pub fn reader(&self) -> LogReader<D> {
        self.reader.clone()
    }

    fn check(&self) -> io::Result<()> {
        self.reader.shared.failure().map_or(Ok(()), |failure| Err(StorageError::Failed(failure).into()))
    }

    /// Hands an operation to the writer.
    async fn submit(&self, operation: Operation) -> io::Result<()> {
        let sent = match &self.queue {
            Some(queue) => queue.send(operation).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.stopped()) }
    }

    /// Waits until the writer has taken enough of what waits before an append.
    async fn wait_for_room(&self, weights: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(weights.min(QUEUE_BYTES_MAX)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        Arc::clone(&self.room).acquire_many_owned(permits).await.ok()
    }

    /// Sees to it that the committed index is written although nothing else may be.
    fn remind_of_committed(&self) {
        let Some(queue) = &self.queue else { return };
        if self.committed_due.swap(true, Ordering::Relaxed) {
            return;
        }
        let (queue, due) = (queue.downgrade(), Arc::clone(&self.committed_due));
        drop(Runtime::spawn(async move {
            Runtime::sleep(COMMITTED_DELAY).await;
            due.store(false, Ordering::Relaxed);
            // Gone with the log, which has written it; or full, and whatever is written carries it.
            let _ = queue.upgrade().map(|queue| queue.try_send(Operation::Committed));
        }));
    }

    async fn finish(&self, done: oneshot::Receiver<Result<(), StorageFailure>>) -> io::Result<()> {
        match done.await {
            Ok(result) => result.map_err(|failure| StorageError::Failed(failure).into()),
            Err(_) => Err(self.stopped()),
        }
    }

    fn stopped(&self) -> io::Error {
        match self.reader.shared.failure() {
            Some(failure) => StorageError::Failed(failure).into(),
            None => io::Error::new(io::ErrorKind::BrokenPipe, "the log writer has stopped"),
        }
    }

    /// Largest entry that every segment can hold.
    fn entry_bytes_max(&self) -> usize {
        let capacity = sector::capacity(self.reader.shared.place.segment_bytes);
        ENTRY_BYTES_MAX.min(capacity.saturating_sub(HEAD_BYTES_MAX + 2 * record::HEADER_BYTES))
    }
}

/// Writes the first head and says that from now on there is a log.
fn create<D: Disk>(place: &segment::Place<D>, dir: &DataDir<D>) -> Result<(), StorageError> {
    let salt = u32::from_le_bytes(*dir.incarnation().0.first_chunk().unwrap_or(&[0; 4]));
    let stamp = Stamp { segment: SEGMENT_FIRST, salt };
    let path = place.path(SEGMENT_FIRST);
    let mut bytes = Vec::new();
    let head = HeadState::default().to_record(place.segment_bytes);
    record::put(&mut bytes, record::Kind::Head, stamp, 0, |bytes| {
        *bytes = crate::codec::append(std::mem::take(bytes), &head);
    });
    let mut framed = Vec::new();
    sector::frame(&mut framed, &bytes, 0, stamp);
    let write = || {
        let file = place.disk.open(&path)?;
        file.write_at(&framed, 0)?;
        file.sync_data()
    };
    write().map_err(StorageError::io("write", &path))?;
    dir.set_log_created()
}

impl<D: Disk> Drop for LogStore<D> {
    /// Waits until the writer has written what was queued, so that the directory can be opened again at once.
    fn drop(&mut self) {
        let _ = self.queue.take().map(|queue| queue.try_send(Operation::Committed));
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl<D: Disk> LogReader<D> {
    /// Entries of `range` as far as they exist, up to about `bytes_max` but at least one.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (found, purged) = {
                let memory = self.shared.memory();
                (memory.find(memory.clip(range.clone()), bytes_max), memory.purged)
            };
            match self.load(found) {
                // A segment may be retired while it is read: then its entries do not exist any more.
                Err(_) if self.shared.memory().purged != purged => {}
                other => return other.map_err(|error| self.failed(error)),
            }
        }
    }

    fn failed(&self, error: StorageError) -> io::Error {
        self.shared.fail(&error);
        error.into()
    }

    fn load(&self, found: Vec<Found>) -> Result<Vec<Entry>, StorageError> {
        let mut entries = Vec::with_capacity(found.len());
        let mut places: Vec<(u64, Place)> = Vec::new();
        for item in found {
            match item {
                Found::OnDisk(index, place) => {
                    let adjacent = places.first().is_none_or(|(_, first)| {
                        first.segment == place.segment
                            && ((place.offset + place.len - first.offset) as usize) <= READ_AHEAD_BYTES_MAX
                    });
                    if !adjacent {
                        self.load_places(&places, &mut entries)?;
                        places.clear();
                    }
                    places.push((index, place));
                }
                Found::Cached(entry) => {
                    self.load_places(&places, &mut entries)?;
                    places.clear();
                    entries.push(entry);
                }
            }
        }
        self.load_places(&places, &mut entries)?;
        Ok(entries)
    }

    /// Reads entries of one segment, in the order of their places, with one call.
    fn load_places(&self, places: &[(u64, Place)], entries: &mut Vec<Entry>) -> Result<(), StorageError> {
        let (Some((_, first)), Some((_, last))) = (places.first(), places.last()) else { return Ok(()) };
        let path = self.shared.place.path(first.segment);
        let gone = || StorageError::corrupt(&path, u64::from(first.offset), "the segment is not open");
        let file = self.shared.files.get(first.segment).ok_or_else(gone)?;
        let (start, end) = (first.offset as usize - record::HEADER_BYTES, (last.offset + last.len) as usize);
        let (at, len) = sector::sectors(start, end);
        let mut sectors = vec![0; len];
        file.read_exact_at(&mut sectors, at).map_err(StorageError::io("read", &path))?;
        let bytes = Bytes::from(sector::strip(&sectors, start, end));
        let stamp = Stamp { segment: first.segment, salt: self.shared.salt };
        for (index, place) in places {
            let at = place.offset as usize - record::HEADER_BYTES;
            let corrupt = |what: &str| StorageError::corrupt(&path, sector::in_file(at), what);
            let end = (place.offset + place.len) as usize - start;
            let payload = match record::parse(&bytes[at - start..end], stamp) {
                record::Parsed::Record(record) if record.kind == record::Kind::Entry => record.payload,
                record::Parsed::Bad { what, .. } => return Err(corrupt(what)),
                _ => return Err(corrupt("not an entry")),
            };
            let entry = decode_entry(&bytes.slice_ref(payload))
                .map_err(|source| StorageError::Codec { file: path.clone(), source })?;
            if entry.log_id.index != *index {
                return Err(corrupt("another entry than expected"));
            }
            entries.push(entry);
        }
        Ok(())
    }
}

fn to_range(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl<D: Disk> RaftLogReader<TypeConfig> for LogReader<D> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(to_range(&range), usize::MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In bounded pieces: after a restart the range to apply may be the whole log.
        let reader = self.clone();
        let pieces = stream::unfold(to_range(&range), move |range| {
            let read =
                if range.is_empty() { Ok(Vec::new()) } else { reader.read(range.clone(), READ_BYTES_MAX) };
            async move {
                match read {
                    Ok(entries) => {
                        let next = entries.last()?.log_id.index + 1;
                        let piece: Vec<_> = entries.into_iter().map(Ok).collect();
                        Some((stream::iter(piece), next..range.end.max(next)))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), range.end..range.end)),
                }
            }
        });
        futures_util::StreamExt::flatten(pieces)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.memory().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start..end, READ_BYTES_MAX)?;
        match entries.first() {
            Some(first) if first.log_id.index == start => Ok(entries),
            None if start >= end => Ok(entries),
            // An empty answer, or one with a hole, would send the replication astray.
            _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("entry {start} is not in the log"))),
        }
    }
}

impl<D: Disk> RaftLogStorage<TypeConfig> for LogStore<D> {
    type LogReader = LogReader<D>;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.reader.shared.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> LogReader<D> {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.check()?;
        if mutants::is(Mutant::VoteNotPersisted) {
            self.reader.shared.memory().vote = Some(*vote);
            return Ok(());
        }
        let (done, saved) = oneshot::channel();
        self.submit(Operation::Vote { vote: *vote, done }).await?;
        self.finish(saved).await?;
        self.reader.shared.memory().vote = Some(*vote);
        Ok(())
    }

    /// Written with the next append, behind the entries it names, or by itself within `COMMITTED_DELAY`; never
    /// with a sync of its own. That is safe: the committed index is a lower bound that a restart may start from, and
    /// an older bound only means that the entries after it are applied once the leader confirms them again. A
    /// process that is killed before loses it, and a power loss may lose all since the last sync.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.check()?;
        let Some(committed) = committed else { return Ok(()) };
        self.reader.shared.memory().committed = Some(committed);
        self.remind_of_committed();
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.reader.shared.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.check()?;
        let bytes_max = self.entry_bytes_max();
        let refused = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let entries: Vec<Entry> = entries.into_iter().collect();
        #[cfg(feature = "mutants")]
        self.hasty.iter().for_each(|hasty| hasty.appended(&entries));
        let weights = encoded::check(&entries, bytes_max).map_err(refused)?;
        let mut room = self.wait_for_room(weights).await;
        self.reader.shared.memory().check_next(&entries).map_err(refused)?;
        let pieces = encoded::pieces(entries, weights);
        let queue = self.queue.as_ref().ok_or_else(|| self.stopped())?;
        let slots = queue.reserve_many(pieces.len()).await.map_err(|_| self.stopped())?;
        // From here on nothing waits: a caller that goes away leaves all of the append behind, or nothing.
        let (mut callback, last) = (Some(callback), pieces.len() - 1);
        for (nth, (piece, slot)) in pieces.into_iter().zip(slots).enumerate() {
            let entries = Encoded::new(piece, self.reader.shared.salt);
            let submitted = self.reader.shared.memory().append(&entries);
            let flushed = callback.take_if(|_| nth == last);
            let room = room.take_if(|_| nth == last);
            slot.send(Operation::Append { entries, room, submitted, flushed });
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.check()?;
        let (done, truncated) = oneshot::channel();
        let submitted = {
            let mut memory = self.reader.shared.memory();
            memory.truncate_after(last_log_id);
            memory.submit()
        };
        self.submit(Operation::Truncate { after: last_log_id, submitted, done }).await?;
        self.finish(truncated).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.check()?;
        let purged = self.reader.shared.memory().purge(log_id);
        drop(purged);
        self.submit(Operation::Purge { upto: log_id }).await
    }
}
