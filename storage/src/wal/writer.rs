//! The one writer of the log: drains what is queued, writes it with one call, syncs once, then answers.
//!
//! In production it is a thread of its own, in a simulation a task. After a failed write or sync nothing that it
//! wrote is trusted any more: whatever is queued or comes later fails, until the node is started again and reads
//! what really is on the disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::memory::Place;
use super::record::{HEADER_BYTES, Head, Kind, SEGMENT_FORMAT, Stamp, put};
use super::segment::Helper;
use crate::codec::{Entry, LogId, Vote, WireLogId, WireVote, encode_entry_into};
use crate::disk::{Disk, File};
use crate::error::{StorageError, StorageFailure};
use crate::types::TypeConfig;

/// Operations drained into one batch at most.
pub(super) const BATCH_OPERATIONS_MAX: usize = 1_024;
/// Bytes written before a sync, even when more is queued.
const BATCH_BYTES_MAX: usize = 2 * 1_024 * 1_024;
/// Room that every segment keeps for its seal.
const SEAL_BYTES: usize = HEADER_BYTES;

/// Bytes of the head of a segment, at most: header, version, size, and four optional values of varints.
pub(super) const HEAD_BYTES_MAX: usize = HEADER_BYTES + 16 + 4 * 24;

/// Answers an operation that the caller waits for.
pub(super) type Done = oneshot::Sender<Result<(), StorageFailure>>;

/// What the writer is asked to do, in the order in which it must reach the disk.
pub(super) enum Operation {
    Append { entries: Vec<Entry>, submitted: u64, flushed: IOFlushed<TypeConfig> },
    Vote { vote: Vote, done: Done },
    Committed(LogId),
    Truncate { after: Option<LogId>, submitted: u64, done: Done },
    Purge { upto: LogId },
}

enum Answer {
    /// The entries are dropped after the answer: freeing them is nobody's wait.
    Flushed(IOFlushed<TypeConfig>, Vec<Entry>),
    Done(Done),
}

/// State of the writer. Lives on its thread or in its task.
pub(super) struct Writer<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) helper: Helper<D>,
    pub(super) file: Arc<D::File>,
    pub(super) stamp: Stamp,
    /// Where the next record goes, and up to where the segment is synced.
    pub(super) offset: usize,
    pub(super) durable: usize,
    /// As the records put so far say, none more: it goes into the head of the next segment, which recovery
    /// compares with the records before it.
    pub(super) head: HeadState,
    pub(super) buffer: Vec<u8>,
    /// Kept for its capacity.
    pub(super) changes: Vec<Change>,
}

/// Hard state as of the records written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct HeadState {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl HeadState {
    pub(super) fn to_record(self, segment_bytes: u32) -> Head {
        Head {
            format: SEGMENT_FORMAT,
            segment_bytes: u64::from(segment_bytes),
            vote: self.vote.map(WireVote::from),
            committed: self.committed.map(WireLogId::from),
            purged: self.purged.map(WireLogId::from),
            last: self.last.map(WireLogId::from),
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged < Some(upto) {
            self.purged = Some(upto);
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }
}

/// Drains operations on this thread until the log is dropped.
pub(super) fn run_thread<D: Disk>(mut writer: Writer<D>, mut queue: mpsc::Receiver<Operation>) {
    let mut operations = Vec::with_capacity(BATCH_OPERATIONS_MAX);
    while queue.blocking_recv_many(&mut operations, BATCH_OPERATIONS_MAX) > 0 {
        writer.process(&mut operations);
    }
}

/// Drains operations in this task until the log is dropped.
pub(super) async fn run_task<D: Disk>(mut writer: Writer<D>, mut queue: mpsc::Receiver<Operation>) {
    let mut operations = Vec::with_capacity(BATCH_OPERATIONS_MAX);
    while queue.recv_many(&mut operations, BATCH_OPERATIONS_MAX).await > 0 {
        let latency = writer.shared.place.disk.latency();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        writer.process(&mut operations);
    }
}

impl<D: Disk> Writer<D> {
    /// Writes a batch, makes it durable and answers everybody.
    fn process(&mut self, operations: &mut Vec<Operation>) {
        let mut answers = Vec::new();
        let result = match self.shared.failure() {
            Some(failure) => {
                answers.extend(operations.drain(..).filter_map(Operation::into_answer));
                Err(failure)
            }
            None => self.write_all(operations, &mut answers).map_err(|error| self.shared.fail(&error)),
        };
        let mut written = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer {
                Answer::Flushed(flushed, entries) => {
                    written.push(entries);
                    flushed
                        .io_completed(result.clone().map_err(|failure| StorageError::Failed(failure).into()));
                }
                // Who does not wait any more needs no answer.
                Answer::Done(done) => drop(done.send(result.clone())),
            }
        }
        self.shared.memory().evict();
    }

    fn write_all(
        &mut self,
        operations: &mut Vec<Operation>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StorageError> {
        let mut batch = Batch { changes: std::mem::take(&mut self.changes), ..Batch::default() };
        // Only the newest committed index matters, and it needs no sync of its own (see `save_committed`).
        let committed = operations.iter().rev().find_map(|operation| match operation {
            Operation::Committed(committed) => Some(*committed),
            _ => None,
        });
        let mut result = Ok(());
        for operation in operations.drain(..) {
            match result {
                Ok(()) => result = self.write_one(operation, &mut batch, answers),
                Err(_) => answers.extend(operation.into_answer()),
            }
        }
        result?;
        if let Some(committed) = committed {
            self.put(Kind::Committed, &mut batch, |bytes| append_value(bytes, &WireLogId::from(committed)))?;
            self.head.committed = Some(committed);
        }
        self.flush(&mut batch)?;
        self.changes = std::mem::take(&mut batch.changes);
        if batch.purged { self.retire() } else { Ok(()) }
    }

    fn write_one(
        &mut self,
        operation: Operation,
        batch: &mut Batch,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StorageError> {
        match operation {
            Operation::Append { entries, submitted, flushed } => {
                let put = entries.iter().try_for_each(|entry| self.put_entry(entry, batch));
                answers.push(Answer::Flushed(flushed, entries));
                put?;
                batch.written = submitted;
                batch.sync = true;
            }
            Operation::Vote { vote, done } => {
                answers.push(Answer::Done(done));
                self.put(Kind::Vote, batch, |bytes| append_value(bytes, &WireVote::from(vote)))?;
                self.head.vote = Some(vote);
                batch.sync = true;
            }
            Operation::Truncate { after, submitted, done } => {
                answers.push(Answer::Done(done));
                self.put(Kind::Truncate, batch, |bytes| append_value(bytes, &after.map(WireLogId::from)))?;
                self.head.last = after;
                batch.changes.push(Change::Truncate(after));
                batch.written = submitted;
                batch.sync = true;
            }
            Operation::Purge { upto } => {
                self.put(Kind::Purge, batch, |bytes| append_value(bytes, &WireLogId::from(upto)))?;
                self.head.purge(upto);
                batch.changes.push(Change::Purge(upto));
                batch.purged = true;
                batch.sync = true;
            }
            Operation::Committed(_) => {}
        }
        Ok(())
    }

    fn put_entry(&mut self, entry: &Entry, batch: &mut Batch) -> Result<(), StorageError> {
        let (offset, len) = self.put(Kind::Entry, batch, |bytes| encode_entry_into(entry, bytes))?;
        self.head.last = Some(entry.log_id);
        let place = Place { term: entry.log_id.leader_id.term, segment: self.stamp.segment, offset, len };
        batch.changes.push(Change::Place(entry.log_id.index, place));
        Ok(())
    }

    /// Puts a record into the buffer, going on to the next segment when it does not fit; where its payload lies.
    fn put(
        &mut self,
        kind: Kind,
        batch: &mut Batch,
        payload: impl Fn(&mut Vec<u8>),
    ) -> Result<(u32, u32), StorageError> {
        loop {
            let start = self.buffer.len();
            put(&mut self.buffer, kind, self.stamp, to_u32(self.durable), &payload);
            let end = self.offset + self.buffer.len();
            if end + SEAL_BYTES <= self.shared.place.segment_bytes as usize {
                let offset = self.offset + start + HEADER_BYTES;
                let place = (to_u32(offset), to_u32(end - offset));
                if self.buffer.len() >= BATCH_BYTES_MAX {
                    batch.sync = true;
                    self.flush(batch)?;
                }
                return Ok(place);
            }
            // `LogStore::append` refuses what no segment can hold.
            assert!(self.offset + start > HEAD_BYTES_MAX, "a record fits into an empty segment");
            self.buffer.truncate(start);
            self.roll(batch)?;
        }
    }

    /// Writes the buffer and, when anything in it needs it, syncs; then makes its entries readable from disk.
    fn flush(&mut self, batch: &mut Batch) -> Result<(), StorageError> {
        if !self.buffer.is_empty() {
            let path = || self.path();
            self.file
                .write_at(&self.buffer, self.offset as u64)
                .map_err(|error| StorageError::io("write", &path())(error))?;
            self.offset += self.buffer.len();
            self.buffer.clear();
        }
        if batch.sync {
            self.file.sync_data().map_err(|error| StorageError::io("sync", &self.path())(error))?;
            self.durable = self.offset;
        }
        if !batch.changes.is_empty() || batch.written > 0 {
            let mut memory = self.shared.memory();
            for change in batch.changes.drain(..) {
                match change {
                    Change::Place(index, place) => memory.places.push(index, place),
                    Change::Truncate(after) => memory.places.truncate_after(after),
                    Change::Purge(upto) => memory.places.purge(upto),
                }
            }
            memory.written(batch.written);
        }
        batch.written = 0;
        batch.sync = false;
        Ok(())
    }

    /// Seals this segment and opens the next one.
    fn roll(&mut self, batch: &mut Batch) -> Result<(), StorageError> {
        let next = self.stamp.segment + 1;
        let file = self.helper.take(next)?;
        // The seal is synced before the next segment is written: whoever finds a sealed segment without a
        // successor knows that one was lost, and whoever finds records in a successor trusts all before them.
        put(&mut self.buffer, Kind::Seal, self.stamp, to_u32(self.durable), |_| {});
        batch.sync = true;
        self.flush(batch)?;
        self.file = file;
        self.shared.files.insert(next, self.file.clone());
        self.stamp.segment = next;
        self.offset = 0;
        self.durable = 0;
        self.put_head();
        batch.sync = true;
        self.helper.ask(next + 1);
        Ok(())
    }

    /// Puts the head of a new segment into the buffer.
    pub(super) fn put_head(&mut self) {
        let head = self.head.to_record(self.shared.place.segment_bytes);
        put(&mut self.buffer, Kind::Head, self.stamp, 0, |bytes| append_value(bytes, &head));
    }

    /// Writes what [`Writer::put_head`] left in the buffer.
    pub(super) fn flush_head(&mut self) -> Result<(), StorageError> {
        self.flush(&mut Batch { sync: true, ..Batch::default() })
    }

    /// Gives back segments without live entries. Their hard state stands in the head of the first one kept.
    pub(super) fn retire(&mut self) -> Result<(), StorageError> {
        let keep = self.shared.memory().places.oldest_segment().unwrap_or(self.stamp.segment);
        let retired = self.shared.files.retire_below(keep.min(self.stamp.segment));
        if retired.is_empty() { Ok(()) } else { self.helper.retire(retired) }
    }

    fn path(&self) -> PathBuf {
        self.shared.place.path(self.stamp.segment)
    }
}

impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let stopped = io::Error::other("the log writer panicked");
            self.shared.fail(&StorageError::io("write", &self.path())(stopped));
        }
    }
}

impl Operation {
    fn into_answer(self) -> Option<Answer> {
        match self {
            Self::Append { flushed, entries, .. } => Some(Answer::Flushed(flushed, entries)),
            Self::Vote { done, .. } | Self::Truncate { done, .. } => Some(Answer::Done(done)),
            Self::Committed(_) | Self::Purge { .. } => None,
        }
    }
}

/// What the buffer holds beyond its bytes.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Change>,
    written: u64,
    sync: bool,
    purged: bool,
}

/// A change of the places of entries.
#[derive(Debug)]
pub(super) enum Change {
    Place(u64, Place),
    Truncate(Option<LogId>),
    Purge(LogId),
}

fn append_value<T: serde::Serialize>(bytes: &mut Vec<u8>, value: &T) {
    *bytes = crate::codec::append(std::mem::take(bytes), value);
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("segments are smaller than 4 GiB")
}
