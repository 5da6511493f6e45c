//! The one writer of the log: drains what is queued, writes it with one call, syncs once, then answers.
//!
//! In production it is a thread of its own, in a simulation a task. After a failed write or sync nothing that it
//! wrote is trusted any more: whatever is queued or comes later fails, until the node is started again and reads
//! what really is on the disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::IOFlushed;
use ovncp_state::mutants::{self, Mutant};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::encoded::Encoded;
use super::memory::Place;
use super::record::{HEADER_BYTES, Head, Kind, SEGMENT_FORMAT, Stamp, put, put_encoded};
use super::sector::{self, BLOCK_PIECE};
use super::segment::Helper;
use crate::codec::{LogId, Vote, WireLogId, WireVote};
use crate::disk::{Aligned, Disk, File};
use crate::error::{StorageError, StorageFailure};
use crate::types::TypeConfig;

/// Operations drained into one batch at most.
const BATCH_OPERATIONS_MAX: usize = 1_024;
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
    Append {
        entries: Encoded,
        submitted: u64,
        flushed: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Nothing but what every batch carries: the committed index.
    Committed,
    Truncate {
        after: Option<LogId>,
        submitted: u64,
        done: Done,
    },
    Purge {
        upto: LogId,
    },
}

enum Answer {
    Flushed(IOFlushed<TypeConfig>),
    Done(Done),
}

/// State of the writer. Lives on its thread or in its task.
pub(super) struct Writer<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) helper: Helper<D>,
    pub(super) file: Arc<D::File>,
    pub(super) stamp: Stamp,
    /// The stream of the segment from the last block boundary on, which is at `base`.
    pub(super) buffer: Vec<u8>,
    pub(super) base: usize,
    /// Up to where the stream is written, and synced.
    pub(super) written: usize,
    pub(super) durable: usize,
    /// As the records put so far say, none more: it goes into the head of the next segment, which recovery
    /// compares with the records before it.
    pub(super) head: HeadState,
    /// Kept for their capacity.
    pub(super) framed: Aligned,
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
        let begun = Instant::now();
        self.shared.stats.batch_begun(begun);
        let mut answers = Vec::new();
        let result = match self.shared.failure() {
            Some(failure) => {
                answers.extend(operations.drain(..).filter_map(Operation::into_answer));
                Err(failure)
            }
            None => self.write_all(operations, &mut answers).map_err(|error| self.shared.fail(&error)),
        };
        for answer in answers {
            match answer {
                Answer::Flushed(flushed) => {
                    flushed
                        .io_completed(result.clone().map_err(|failure| StorageError::Failed(failure).into()));
                }
                // Who does not wait any more needs no answer.
                Answer::Done(done) => drop(done.send(result.clone())),
            }
        }
        self.shared.memory().evict();
        self.shared.stats.batch_done(begun);
    }

    fn write_all(
        &mut self,
        operations: &mut Vec<Operation>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StorageError> {
        let mut batch = Batch { changes: std::mem::take(&mut self.changes), ..Batch::default() };
        let mut result = Ok(());
        for operation in operations.drain(..) {
            match result {
                Ok(()) => result = self.write_one(operation, &mut batch, answers),
                Err(_) => answers.extend(operation.into_answer()),
            }
        }
        result?;
        // It needs no sync of its own (see `save_committed`), and waits until the entry that it names stands before it.
        let committed = self.shared.memory().committed;
        if let Some(committed) = committed
            && self.head.committed < Some(committed)
            && Some(committed) <= self.head.last
        {
            self.put(Kind::Committed, &mut batch, |bytes| append_value(bytes, &WireLogId::from(committed)))?;
            self.head.committed = Some(committed);
        }
        self.flush(&mut batch)?;
        if batch.entries > 0 {
            self.shared.stats.appended(batch.entries, batch.entry_bytes);
        }
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
                answers.push(Answer::Flushed(flushed));
                self.put_entries(&entries, batch)?;
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
            Operation::Committed => {}
        }
        Ok(())
    }

    fn put_entries(&mut self, encoded: &Encoded, batch: &mut Batch) -> Result<(), StorageError> {
        batch.entries += encoded.entries().len() as u64;
        batch.entry_bytes += encoded.bytes() as u64;
        for entry in encoded.entries() {
            let (offset, len) = self.put_with(batch, |bytes, stamp, durable| {
                put_encoded(bytes, Kind::Entry, stamp, durable, (&entry.payload, entry.crc));
            })?;
            let log_id = entry.log_id;
            self.head.last = Some(log_id);
            let place = Place { term: log_id.leader_id.term, segment: self.stamp.segment, offset, len };
            batch.changes.push(Change::Place(log_id.index, place));
        }
        Ok(())
    }

    fn put(
        &mut self,
        kind: Kind,
        batch: &mut Batch,
        payload: impl Fn(&mut Vec<u8>),
    ) -> Result<(u32, u32), StorageError> {
        self.put_with(batch, |bytes, stamp, durable| put(bytes, kind, stamp, durable, &payload))
    }

    /// Puts a record into the buffer, going on to the next segment when it does not fit; where its payload lies.
    fn put_with(
        &mut self,
        batch: &mut Batch,
        record: impl Fn(&mut Vec<u8>, Stamp, u32),
    ) -> Result<(u32, u32), StorageError> {
        let capacity = sector::capacity(self.shared.place.segment_bytes);
        loop {
            let (start, at) = (self.buffer.len(), self.end());
            record(&mut self.buffer, self.stamp, to_u32(self.durable));
            if self.end() + SEAL_BYTES <= capacity {
                let place = (to_u32(at + HEADER_BYTES), to_u32(self.end() - at - HEADER_BYTES));
                if self.buffer.len() >= BATCH_BYTES_MAX {
                    batch.sync = true;
                    self.flush(batch)?;
                }
                return Ok(place);
            }
            // `LogStore::append` refuses what no segment can hold.
            assert!(at > HEAD_BYTES_MAX, "a record fits into an empty segment");
            self.buffer.truncate(start);
            self.roll(batch)?;
        }
    }

    /// Where the next record goes.
    fn end(&self) -> usize {
        self.base + self.buffer.len()
    }

    /// Writes the buffer and, when anything in it needs it, syncs; then makes its entries readable from disk.
    fn flush(&mut self, batch: &mut Batch) -> Result<(), StorageError> {
        if self.end() > self.written {
            self.framed.refill(sector::framed_bytes(self.buffer.len()), |framed| {
                sector::frame(framed, &self.buffer, self.base, self.stamp);
            });
            self.file
                .write_at(self.framed.bytes(), sector::in_file(self.base))
                .map_err(|error| StorageError::io("write", &self.path())(error))?;
            self.written = self.end();
            let whole = self.buffer.len() / BLOCK_PIECE * BLOCK_PIECE;
            self.buffer.drain(..whole);
            self.base += whole;
        }
        if batch.sync && !mutants::is(Mutant::NoFsync) {
            let begun = Instant::now();
            let synced =
                self.file.sync_data().or_else(|error| match mutants::is(Mutant::FsyncErrorIgnored) {
                    true => Ok(()),
                    false => Err(error),
                });
            synced.map_err(|error| StorageError::io("sync", &self.path())(error))?;
            self.shared.stats.synced(begun.elapsed());
            self.durable = self.written;
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
        let segments = self.shared.files.insert(next, self.file.clone());
        self.shared.stats.set_segments(segments);
        self.stamp.segment = next;
        self.buffer.clear();
        (self.base, self.written, self.durable) = (0, 0, 0);
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
        let (retired, kept) = self.shared.files.retire_below(keep.min(self.stamp.segment));
        self.shared.stats.set_segments(kept);
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
            Self::Append { flushed, .. } => Some(Answer::Flushed(flushed)),
            Self::Vote { done, .. } | Self::Truncate { done, .. } => Some(Answer::Done(done)),
            Self::Committed | Self::Purge { .. } => None,
        }
    }
}

/// What the buffer holds beyond its bytes.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Change>,
    written: u64,
    entries: u64,
    entry_bytes: u64,
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
