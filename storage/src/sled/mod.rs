//! The log in sled 0.34, for comparison: behind the cargo feature `sled`, and never the log of a node.
//!
//! sled's own `flush` calls `sync_file_range`, which leaves the data in the disk's cache. So a thread flushes,
//! then syncs the files of the database itself, and only then answers; whatever gathers meanwhile shares the next
//! flush. docs/decisions/0017 says with figures why this is not the default.
//!
//! Keys of entries are their indexes in big-endian, so that sled's order is theirs; values are the bytes of our
//! own records. sled writes one log for all trees, in the order of the calls, so a crash leaves a prefix of them.

mod sync;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::thread::JoinHandle;

use ::sled::{Batch, Db, IVec, Tree};
use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::codec::{Entry, LogId, Vote, WireLogId, WireVote, append, decode, decode_entry, encode_entry};
use crate::data_dir::DataDir;
use crate::disk::RealDisk;
use crate::types::TypeConfig;
use sync::{Synced, Syncer};

/// Syncs that may wait for the thread; more wait in the call.
const QUEUE_SYNCS_MAX: usize = 1_024;
/// Entries removed with one batch when the log is purged.
const PURGE_ENTRIES_MAX: usize = 10_000;
/// Pages that sled keeps in memory.
const CACHE_BYTES: u64 = 64 * 1_024 * 1_024;
const DIRECTORY: &str = "sled";
const ENTRIES: &str = "entries";
const HARD_STATE: &str = "hard state";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// The Raft log and vote of one node in sled.
#[derive(Debug)]
pub struct SledLog {
    reader: SledReader,
    queue: Option<mpsc::Sender<Synced>>,
    thread: Option<JoinHandle<()>>,
}

/// Reads the log; clones are cheap.
#[derive(Clone, Debug)]
pub struct SledReader {
    entries: Tree,
    hard_state: Tree,
    /// Keeps the directory locked as long as anybody may write.
    _dir: Arc<DataDir<RealDisk>>,
}

impl SledLog {
    /// Opens the log of a data directory, creating it when there is none.
    pub fn open(dir: DataDir<RealDisk>) -> io::Result<Self> {
        let path = dir.path().join(DIRECTORY);
        let db: Db = ::sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            // Nothing behind our back: what is durable is decided by the thread alone.
            .flush_every_ms(None)
            .open()
            .map_err(failed)?;
        let (entries, hard_state) =
            (db.open_tree(ENTRIES).map_err(failed)?, db.open_tree(HARD_STATE).map_err(failed)?);
        let mut syncer = Syncer::open(db, &path)?;
        // The database and what a killed process left in the page cache.
        syncer.sync()?;
        let (queue, waiting) = mpsc::channel(QUEUE_SYNCS_MAX);
        let thread = std::thread::Builder::new().name("ovncp-sled".to_owned());
        let thread = thread.spawn(move || syncer.run(waiting))?;
        let reader = SledReader { entries, hard_state, _dir: Arc::new(dir) };
        Ok(Self { reader, queue: Some(queue), thread: Some(thread) })
    }

    /// Has everything called so far synced, then answers.
    async fn sync(&self, answer: Synced) -> io::Result<()> {
        let sent = match &self.queue {
            Some(queue) => queue.send(answer).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(stopped()) }
    }

    /// The same, and waits for it.
    async fn synced(&self) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.sync(Synced::Done(done)).await?;
        synced.await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl Drop for SledLog {
    /// Waits for the thread, so that the directory can be opened again at once.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl SledReader {
    fn hard_state<T: DeserializeOwned>(&self, what: &'static str) -> io::Result<Option<T>> {
        let value = self.hard_state.get(what).map_err(failed)?;
        value.map(|value| decode(what, &value).map_err(io::Error::other)).transpose()
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        Ok(self.hard_state::<WireLogId>(PURGED)?.map(LogId::from))
    }

    fn put<T: serde::Serialize>(&self, what: &'static str, value: &T) -> io::Result<()> {
        self.hard_state.insert(what, append(Vec::new(), value)).map(drop).map_err(failed)
    }

    fn remove(&self, keys: impl Iterator<Item = Result<IVec, ::sled::Error>>) -> io::Result<()> {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut batch = Batch::default();
            for key in keys.by_ref().take(PURGE_ENTRIES_MAX) {
                batch.remove(key.map_err(failed)?);
            }
            self.entries.apply_batch(batch).map_err(failed)?;
        }
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for SledReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let bound = |bound: Bound<&u64>| bound.map(|index| key(*index));
        let range = (bound(range.start_bound()), bound(range.end_bound()));
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        self.entries.range(range).values().map(to_entry).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.hard_state::<WireVote>(VOTE)?.map(Vote::from))
    }
}

impl RaftLogStorage<TypeConfig> for SledLog {
    type LogReader = SledReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let purged = self.reader.purged()?;
        let last = self.reader.entries.last().map_err(failed)?;
        let last = last.map(|(_, value)| to_entry(Ok(value))).transpose()?.map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.max(purged) })
    }

    async fn get_log_reader(&mut self) -> SledReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.reader.put(VOTE, &WireVote::from(*vote))?;
        self.synced().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // A lower bound: it becomes durable with whatever is synced next.
        committed.map_or(Ok(()), |committed| self.reader.put(COMMITTED, &WireLogId::from(committed)))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.reader.hard_state::<WireLogId>(COMMITTED)?.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        for entry in entries {
            batch.insert(&key(entry.log_id.index), encode_entry(&entry).as_ref());
        }
        self.reader.entries.apply_batch(batch).map_err(failed)?;
        self.sync(Synced::Flushed(callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let keep = last_log_id.map_or(0, |id| id.index + 1);
        self.reader.remove(self.reader.entries.range(key(keep)..).keys())?;
        self.synced().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // First the mark: a crash in between leaves entries that nobody asks for, never a hole.
        if self.reader.purged()? < Some(log_id) {
            self.reader.put(PURGED, &WireLogId::from(log_id))?;
        }
        self.reader.remove(self.reader.entries.range(..=key(log_id.index)).keys())
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// sled panics where a range ends before it begins.
fn is_empty((start, end): &(Bound<[u8; 8]>, Bound<[u8; 8]>)) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

fn to_entry(value: Result<IVec, ::sled::Error>) -> io::Result<Entry> {
    let value = value.map_err(failed)?;
    decode_entry(&Bytes::copy_from_slice(&value)).map_err(io::Error::other)
}

fn failed(error: ::sled::Error) -> io::Error {
    io::Error::other(error)
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log stopped after a failed sync")
}
