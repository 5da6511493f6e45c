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
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Shared;
use super::encoded::{Encoded, Payload};
use super::memory::Place;
use super::record::{HEADER_BYTES, Head, Kind, SEGMENT_FORMAT, Stamp, header_of, payload_crc};
use super::sector;
use super::segment::Helper;
use super::tail::Tail;
use crate::codec::{LogId, Vote, WireLogId, WireVote};
use crate::disk::{Disk, File};
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
        entries: Arc<Encoded>,
        /// For the bytes that wait; given back once the writer has taken them.
        room: Option<OwnedSemaphorePermit>,
        submitted: u64,
        /// `None`: a piece of an append that ends with a later one, which has it.
        flushed: Option<IOFlushed<TypeConfig>>,
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
    /// The records put so far.
    pub(super) tail: Tail,
    /// Up to where they are written, and synced.
    pub(super) written: usize,
    pub(super) durable: usize,
    /// As the records put so far say, none more: it goes into the head of the next segment, which recovery
    /// compares with the records before it.
    pub(super) head: HeadState,
    pub(super) batch: Batch,
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
        let mut result = self.shared.failure().map_or(Ok(()), Err);
        for operation in operations.drain(..) {
            match result {
                Ok(()) => result = self.take(operation).map_err(|error| self.shared.fail(&error)),
                Err(_) => self.batch.answers.extend(operation.into_answer()),
            }
        }
        let result = result.and_then(|()| self.write_out().map_err(|error| self.shared.fail(&error)));
        self.answer(&result);
        // Nobody waits for what follows: until it is done, what was written is read from the cache.
        if result.is_ok()
            && let Err(error) = self.settle()
        {
            self.shared.fail(&error);
        }
        let evicted = self.shared.memory().evict();
        drop(evicted);
        self.batch.clear();
        self.shared.stats.batch_done(begun);
    }

    fn answer(&mut self, result: &Result<(), StorageFailure>) {
        for answer in self.batch.answers.drain(..) {
            match answer {
                Answer::Flushed(flushed) => {
                    flushed
                        .io_completed(result.clone().map_err(|failure| StorageError::Failed(failure).into()));
                }
                // Who does not wait any more needs no answer.
                Answer::Done(done) => drop(done.send(result.clone())),
            }
        }
    }

    fn write_out(&mut self) -> Result<(), StorageError> {
        // It needs no sync of its own (see `save_committed`), and waits until the entry that it names stands before it.
        let committed = self.shared.memory().committed;
        if let Some(committed) = committed
            && self.head.committed < Some(committed)
            && Some(committed) <= self.head.last
        {
            self.put_value(Kind::Committed, &WireLogId::from(committed))?;
            self.head.committed = Some(committed);
        }
        self.flush()?;
        if self.batch.entries > 0 {
            self.shared.stats.appended(self.batch.entries, self.batch.entry_bytes);
        }
        Ok(())
    }

    /// Makes the entries of the batch readable from disk, and gives back what it made superfluous.
    fn settle(&mut self) -> Result<(), StorageError> {
        self.tail.advance();
        if !self.batch.changes.is_empty() || self.batch.written > 0 {
            let mut memory = self.shared.memory();
            for change in self.batch.changes.drain(..) {
                match change {
                    Change::Place(index, place) => memory.places.push(index, place),
                    Change::Truncate(after) => memory.places.truncate_after(after),
                    Change::Purge(upto) => memory.places.purge(upto),
                }
            }
            memory.written(self.batch.written);
        }
        if self.batch.purged { self.retire() } else { Ok(()) }
    }

    /// Puts the records of an operation.
    fn take(&mut self, operation: Operation) -> Result<(), StorageError> {
        match operation {
            Operation::Append { entries, room, submitted, flushed } => {
                self.batch.answers.extend(flushed.map(Answer::Flushed));
                self.put_entries(&entries)?;
                drop(room);
                self.batch.written = submitted;
                self.batch.sync = true;
            }
            Operation::Vote { vote, done } => {
                self.batch.answers.push(Answer::Done(done));
                self.put_value(Kind::Vote, &WireVote::from(vote))?;
                self.head.vote = Some(vote);
                self.batch.sync = true;
            }
            Operation::Truncate { after, submitted, done } => {
                self.batch.answers.push(Answer::Done(done));
                self.put_value(Kind::Truncate, &after.map(WireLogId::from))?;
                self.head.last = after;
                self.batch.changes.push(Change::Truncate(after));
                self.batch.written = submitted;
                self.batch.sync = true;
            }
            Operation::Purge { upto } => {
                self.put_value(Kind::Purge, &WireLogId::from(upto))?;
                self.head.purge(upto);
                self.batch.changes.push(Change::Purge(upto));
                self.batch.purged = true;
                self.batch.sync = true;
            }
            Operation::Committed => {}
        }
        Ok(())
    }

    fn put_entries(&mut self, encoded: &Encoded) -> Result<(), StorageError> {
        for Payload { log_id, head, envelope, crc } in encoded.payloads() {
            let (offset, len) = self.put(Kind::Entry, [head, envelope], crc)?;
            self.head.last = Some(log_id);
            let place =
                Place { term: log_id.leader_id.term, segment: self.tail.stamp().segment, offset, len };
            self.batch.changes.push(Change::Place(log_id.index, place));
            self.batch.entries += 1;
            self.batch.entry_bytes += u64::from(len);
        }
        Ok(())
    }

    fn put_value<T: serde::Serialize>(&mut self, kind: Kind, value: &T) -> Result<(), StorageError> {
        let payload = crate::codec::append(Vec::new(), value);
        let crc = payload_crc(self.tail.stamp().salt, &payload, &[]);
        self.put(kind, [&payload, &[]], crc).map(|_| ())
    }

    /// Puts a record behind the others, going on to the next segment when it does not fit; where its payload lies.
    fn put(&mut self, kind: Kind, payload: [&[u8]; 2], crc: u32) -> Result<(u32, u32), StorageError> {
        let len = payload[0].len() + payload[1].len();
        let bytes = HEADER_BYTES + len;
        let capacity = sector::capacity(self.shared.place.segment_bytes);
        if self.tail.end() + bytes + SEAL_BYTES > capacity {
            self.roll()?;
            // `LogStore::append` refuses what no segment can hold.
            assert!(self.tail.end() + bytes + SEAL_BYTES <= capacity, "a record fits into an empty segment");
        }
        let at = self.tail.end() + HEADER_BYTES;
        self.put_unbounded(kind, payload, crc);
        if self.tail.len() >= BATCH_BYTES_MAX {
            self.batch.sync = true;
            self.flush()?;
            self.tail.advance();
        }
        Ok((to_u32(at), to_u32(len)))
    }

    fn put_unbounded(&mut self, kind: Kind, payload: [&[u8]; 2], crc: u32) {
        let len = payload[0].len() + payload[1].len();
        let header = header_of(kind, self.tail.stamp(), to_u32(self.durable), len, crc);
        self.tail.put([&header, payload[0], payload[1]]);
    }

    /// Writes the records put so far and, when any of them needs it, syncs.
    fn flush(&mut self) -> Result<(), StorageError> {
        if self.tail.end() > self.written {
            let (blocks, at) = self.tail.blocks();
            let written = self.file.write_at(blocks, at);
            written.map_err(|error| StorageError::io("write", &self.path())(error))?;
            self.written = self.tail.end();
        }
        if self.batch.sync && !mutants::is(Mutant::NoFsync) {
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
        self.batch.sync = false;
        Ok(())
    }

    /// Seals this segment and opens the next one.
    fn roll(&mut self) -> Result<(), StorageError> {
        let Stamp { segment, salt } = self.tail.stamp();
        let next = segment + 1;
        let file = self.helper.take(next)?;
        // The seal is synced before the next segment is written: whoever finds a sealed segment without a
        // successor knows that one was lost, and whoever finds records in a successor trusts all before them.
        self.put_unbounded(Kind::Seal, [&[], &[]], payload_crc(salt, &[], &[]));
        self.batch.sync = true;
        self.flush()?;
        self.file = file;
        let segments = self.shared.files.insert(next, self.file.clone());
        self.shared.stats.set_segments(segments);
        self.tail.restart(Stamp { segment: next, salt });
        (self.written, self.durable) = (0, 0);
        self.put_head();
        self.batch.sync = true;
        self.helper.ask(next + 1);
        Ok(())
    }

    /// Puts the head of a new segment.
    fn put_head(&mut self) {
        let head = self.head.to_record(self.shared.place.segment_bytes);
        let payload = crate::codec::append(Vec::new(), &head);
        let crc = payload_crc(self.tail.stamp().salt, &payload, &[]);
        self.put_unbounded(Kind::Head, [&payload, &[]], crc);
    }

    /// Begins a segment that has no record yet.
    pub(super) fn begin(&mut self) -> Result<(), StorageError> {
        self.put_head();
        self.batch.sync = true;
        self.flush()?;
        self.tail.advance();
        Ok(())
    }

    /// Gives back segments without live entries. Their hard state stands in the head of the first one kept.
    pub(super) fn retire(&mut self) -> Result<(), StorageError> {
        let keep = self.shared.memory().places.oldest_segment().unwrap_or(self.tail.stamp().segment);
        let (retired, kept) = self.shared.files.retire_below(keep.min(self.tail.stamp().segment));
        self.shared.stats.set_segments(kept);
        if retired.is_empty() { Ok(()) } else { self.helper.retire(retired) }
    }

    fn path(&self) -> PathBuf {
        self.shared.place.path(self.tail.stamp().segment)
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
            Self::Append { flushed, .. } => flushed.map(Answer::Flushed),
            Self::Vote { done, .. } | Self::Truncate { done, .. } => Some(Answer::Done(done)),
            Self::Committed | Self::Purge { .. } => None,
        }
    }
}

/// What is put since the last answers, beyond its bytes.
#[derive(Default)]
pub(super) struct Batch {
    answers: Vec<Answer>,
    changes: Vec<Change>,
    written: u64,
    entries: u64,
    entry_bytes: u64,
    sync: bool,
    purged: bool,
}

impl Batch {
    /// Begins a new one; what has grown is kept for its capacity.
    fn clear(&mut self) {
        let (mut answers, mut changes) =
            (std::mem::take(&mut self.answers), std::mem::take(&mut self.changes));
        answers.clear();
        changes.clear();
        *self = Self { answers, changes, ..Self::default() };
    }
}

/// A change of the places of entries.
#[derive(Debug)]
enum Change {
    Place(u64, Place),
    Truncate(Option<LogId>),
    Purge(LogId),
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("segments are smaller than 4 GiB")
}
