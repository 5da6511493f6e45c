//! Opening the log: reads every segment, repairs what a crash left unfinished, refuses what is damaged.
//!
//! The one thing that may be cut off is the end of the last segment, and only where no later record vouches that
//! it was synced and missing sectors explain what is seen. Everything else is an error that names file and
//! offset; the node then neither votes nor serves.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ovncp_state::mutants::{self, Mutant};

use super::memory::{Memory, Place};
use super::record::{
    self, HEADER_BYTES, Head, Kind, Parsed, Record, SEGMENT_FORMAT, Stamp, is_blank, vouched_for,
};
use super::sector::{self, BLOCK_PIECE, Unframed, in_file, looks_torn};
use super::segment::{self, Files, Numbered};
use super::writer::HeadState;
use crate::codec::{LogId, Vote, WireLogId, WireVote, decode_entry};
use crate::disk::{Disk, File, read_all};
use crate::error::StorageError;

const DAMAGED: &str = "a sector has changed since it was written";

/// What the segments say.
pub(super) struct Recovered<D: Disk> {
    pub(super) memory: Memory,
    pub(super) head: HeadState,
    pub(super) files: Files<D::File>,
    pub(super) active: Active<D::File>,
    /// A segment prepared behind it.
    pub(super) spare: Option<Numbered<D>>,
    /// Segments that nothing needs.
    pub(super) leftover: Vec<u32>,
}

/// The segment to go on with.
pub(super) struct Active<F> {
    pub(super) number: u32,
    pub(super) file: Arc<F>,
    /// Where its records end (0: not even a head), and its stream from the last block boundary to there.
    pub(super) end: usize,
    pub(super) tail: Vec<u8>,
}

/// Reads the log of a directory that has one.
pub(super) fn recover<D: Disk>(
    place: &segment::Place<D>,
    salt: u32,
    cache_bytes_max: usize,
) -> Result<Recovered<D>, StorageError> {
    let mut numbers = numbers(place)?;
    let run = newest_run(&numbers);
    let leftover = numbers.drain(..numbers.len() - run).collect();
    let first = *numbers.first().ok_or_else(|| {
        StorageError::corrupt(&place.dir, 0, "the log is missing although the directory had one")
    })?;
    let mut replay = Replay {
        memory: Memory::new(cache_bytes_max),
        head: HeadState::default(),
        files: Files::default(),
        missing: None,
        salt,
        segment_bytes: place.segment_bytes,
        first,
    };
    let mut numbers = numbers.into_iter();
    let mut current = first;
    let active = loop {
        numbers.next();
        let file = open(place, current)?;
        let end = replay.segment(place, current, &file)?;
        replay.files.insert(current, file.clone());
        match end {
            End::Open { end, tail } => break Active { number: current, file, end, tail },
            End::Sealed => current += 1,
        }
        if numbers.len() == 0 {
            let what =
                format!("the segment is missing although {} goes on in it", segment::name(current - 1));
            return Err(StorageError::corrupt(&place.path(current), 0, what));
        }
    };
    let spare = spare(place, &replay, &active, numbers.next())?;
    replay.check(place)?;
    repair(place, &replay.files, salt, &active)?;
    Ok(Recovered { memory: replay.memory, head: replay.head, files: replay.files, active, spare, leftover })
}

struct Replay<D: Disk> {
    memory: Memory,
    head: HeadState,
    files: Files<D::File>,
    /// Last entry that lies in segments before the first one found.
    missing: Option<u64>,
    salt: u32,
    segment_bytes: u32,
    first: u32,
}

enum End {
    /// The log goes on in the next segment.
    Sealed,
    /// Its last record ends here.
    Open { end: usize, tail: Vec<u8> },
}

impl<D: Disk> Replay<D> {
    /// Replays one segment.
    fn segment(
        &mut self,
        place: &segment::Place<D>,
        number: u32,
        file: &D::File,
    ) -> Result<End, StorageError> {
        let path = place.path(number);
        let stamp = Stamp { segment: number, salt: self.salt };
        let mut read = read(place, &path, file, stamp)?;
        let bytes = Bytes::from(std::mem::take(&mut read.stream));
        let mut offset = 0;
        loop {
            let bad = match record::parse(&bytes[offset..], stamp) {
                Parsed::Record(record) => {
                    let end = offset + record.bytes();
                    if let Some(sector) = read.damage(offset, end)
                        && !mutants::is(Mutant::DamageTruncated)
                    {
                        return Err(StorageError::corrupt(&path, sector, DAMAGED));
                    }
                    if (record.kind == Kind::Head) != (offset == 0) || record.durable as usize > offset {
                        return Err(StorageError::corrupt(&path, in_file(offset), "record is out of place"));
                    }
                    if record.kind == Kind::Seal {
                        return Ok(End::Sealed);
                    }
                    self.record(&path, number, offset, &record, &bytes)?;
                    offset = end;
                    continue;
                }
                Parsed::Blank => None,
                Parsed::Bad { what, extent } => Some((what, extent)),
            };
            // Nobody can tell any more what stood in a damaged sector: it may have been acknowledged.
            if let Some(sector) = read.damage(offset, bytes.len())
                && !mutants::is(Mutant::DamageTruncated)
            {
                return Err(StorageError::corrupt(&path, sector, DAMAGED));
            }
            self.check_end(place, stamp, &bytes, offset, bad)?;
            let tail = bytes[offset / BLOCK_PIECE * BLOCK_PIECE..offset].to_vec();
            return Ok(End::Open { end: offset, tail });
        }
    }

    /// What follows the last good record must be nothing, or a write that a crash cut short.
    fn check_end(
        &self,
        place: &segment::Place<D>,
        stamp: Stamp,
        bytes: &[u8],
        offset: usize,
        bad: Option<(&'static str, usize)>,
    ) -> Result<(), StorageError> {
        let path = place.path(stamp.segment);
        let what = bad.map_or("a record is missing", |(what, _)| what);
        let damaged =
            |why: String| Err(StorageError::corrupt(&path, in_file(offset), format!("{what}, {why}")));
        if is_blank(&bytes[offset..]) && offset > 0 || mutants::is(Mutant::DamageTruncated) {
            return Ok(());
        }
        if let Some(witness) = vouched_for(bytes, offset, stamp) {
            let witness = in_file(witness);
            return damaged(format!("but a later write was recorded at offset {witness}"));
        }
        if let Some((_, extent)) = bad
            && !looks_torn(bytes, offset, extent)
        {
            return damaged("and no missing sector explains it".to_owned());
        }
        if offset == 0 && stamp.segment == self.first {
            return damaged("and no segment before it exists".to_owned());
        }
        Ok(())
    }

    fn record(
        &mut self,
        path: &Path,
        number: u32,
        offset: usize,
        record: &Record<'_>,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        let codec = |source| StorageError::Codec { file: path.to_path_buf(), source };
        let corrupt = |what: String| StorageError::corrupt(path, in_file(offset), what);
        match record.kind {
            Kind::Head => {
                let head: Head = record::payload(record).map_err(codec)?;
                self.take_head(number, &head, self.segment_bytes).map_err(corrupt)?;
            }
            Kind::Entry => {
                let entry = decode_entry(&bytes.slice_ref(record.payload)).map_err(codec)?;
                let id = entry.log_id;
                self.check_next(id).map_err(corrupt)?;
                self.head.last = Some(id);
                let place = Place {
                    term: id.leader_id.term,
                    segment: number,
                    offset: to_u32(offset + HEADER_BYTES),
                    len: to_u32(record.payload.len()),
                };
                self.memory.places.push(id.index, place);
            }
            Kind::Vote => {
                self.head.vote = Some(Vote::from(record::payload::<WireVote>(record).map_err(codec)?))
            }
            Kind::Committed => {
                self.head.committed = Some(record::payload::<WireLogId>(record).map_err(codec)?.into());
            }
            Kind::Truncate => {
                let after: Option<WireLogId> = record::payload(record).map_err(codec)?;
                self.head.last = after.map(LogId::from);
                self.missing =
                    self.missing.filter(|_| after.is_some()).map(|m| m.min(after.map_or(0, |id| id.index)));
                self.memory.places.truncate_after(self.head.last);
            }
            Kind::Purge => {
                let upto: LogId = record::payload::<WireLogId>(record).map_err(codec)?.into();
                self.head.purge(upto);
                self.memory.places.purge(upto);
            }
            Kind::Seal => {}
        }
        Ok(())
    }

    /// The head of the first segment is where we start; that of a later one must agree with what we read.
    fn take_head(&mut self, number: u32, head: &Head, segment_bytes: u32) -> Result<(), String> {
        if head.format != SEGMENT_FORMAT {
            return Err(format!("segment has format {}, this version reads {SEGMENT_FORMAT}", head.format));
        }
        if head.segment_bytes != u64::from(segment_bytes) {
            return Err(format!("segment has {segment_bytes} bytes, its head says {}", head.segment_bytes));
        }
        let state = HeadState {
            vote: head.vote.map(Vote::from),
            committed: head.committed.map(LogId::from),
            purged: head.purged.map(LogId::from),
            last: head.last.map(LogId::from),
        };
        if number == self.first {
            let purged = state.purged.map(|id| id.index);
            self.missing = state.last.map(|id| id.index).filter(|last| Some(*last) > purged);
        } else if (HeadState { committed: state.committed, ..self.head }) != state {
            return Err("head of the segment contradicts the segments before it".to_owned());
        }
        self.head = state;
        Ok(())
    }

    fn check_next(&self, id: LogId) -> Result<(), String> {
        match self.head.last {
            Some(last) if id.index != last.index + 1 || id.leader_id < last.leader_id => {
                Err(format!("entry {id} cannot follow entry {last}"))
            }
            _ => Ok(()),
        }
    }

    fn check(&mut self, place: &segment::Place<D>) -> Result<(), StorageError> {
        if let Some(missing) = self.missing
            && self.head.purged.is_none_or(|purged| purged.index < missing)
        {
            let what = format!("entries up to {missing} lie in earlier segments, which are missing");
            return Err(StorageError::corrupt(&place.path(self.first), 0, what));
        }
        self.memory.vote = self.head.vote;
        self.memory.committed = self.head.committed;
        self.memory.purged = self.head.purged;
        self.memory.last = self.head.last;
        Ok(())
    }
}

/// Numbers of all segment files, ascending. What was being made ready is begun again.
fn numbers<D: Disk>(place: &segment::Place<D>) -> Result<Vec<u32>, StorageError> {
    let names = place.disk.read_dir(&place.dir).map_err(StorageError::io("read directory", &place.dir))?;
    let mut numbers = Vec::new();
    for name in names {
        match segment::number(&name) {
            Some(number) => numbers.push(number),
            None if segment::is_unused(&name) => {
                // After a crash it may still be the same file as a retired segment, under both names, where
                // renaming is not atomic: it must not be overwritten under one of them.
                let path = place.dir.join(&name);
                place.disk.remove(&path).map_err(StorageError::io("remove", &path))?;
            }
            None => tracing::warn!(dir = %place.dir.display(), %name, "unknown file beside the log"),
        }
    }
    Ok(numbers)
}

/// Length of the contiguous run at the end. Segments below a gap were retired, but a crash kept their names.
fn newest_run(numbers: &[u32]) -> usize {
    let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
    numbers.len() - gap.map_or(0, |gap| gap + 1)
}

fn open<D: Disk>(place: &segment::Place<D>, number: u32) -> Result<Arc<D::File>, StorageError> {
    let path = place.path(number);
    place.disk.open_direct(&path).map(Arc::new).map_err(StorageError::io("open", &path))
}

fn read<D: Disk>(
    place: &segment::Place<D>,
    path: &Path,
    file: &D::File,
    stamp: Stamp,
) -> Result<Unframed, StorageError> {
    let len = file.len().map_err(StorageError::io("read", path))?;
    // Segments get their name at full length, durably.
    if len != u64::from(place.segment_bytes) {
        let what = format!("the segment has {len} bytes instead of {}", place.segment_bytes);
        return Err(StorageError::corrupt(path, len, what));
    }
    let bytes = read_all(&place.disk, path).map_err(StorageError::io("read", path))?;
    Ok(Unframed::new(&bytes, stamp))
}

/// Judges the segment behind the active one, if there is any.
fn spare<D: Disk>(
    place: &segment::Place<D>,
    replay: &Replay<D>,
    active: &Active<D::File>,
    next: Option<u32>,
) -> Result<Option<Numbered<D>>, StorageError> {
    let Some(number) = next.filter(|_| !mutants::is(Mutant::DamageTruncated)) else { return Ok(None) };
    let path = place.path(number);
    let file = open(place, number)?;
    let stamp = Stamp { segment: number, salt: replay.salt };
    let read = read(place, &path, &file, stamp)?;
    if let Some(sector) = read.damage(0, read.stream.len()) {
        return Err(StorageError::corrupt(&path, sector, DAMAGED));
    }
    if read.written_end() == 0 {
        return Ok(Some((number, file)));
    }
    // It was begun, so the active one must have been sealed: its end is damaged.
    let what = match record::parse(&read.stream, stamp) {
        Parsed::Record(_) => "the log ends here although the next segment goes on",
        _ => "the log ends here although the next segment was written",
    };
    Err(StorageError::corrupt(&place.path(active.number), in_file(active.end), what))
}

/// Makes durable what was read, and removes what a crash left behind the last record.
///
/// What was read may still be only in the page cache: written by a process that was killed before its sync, or
/// marked clean by a sync that failed. Writing it again and syncing is the one way to know that it is on disk.
/// Only the last write can be in that state, and it ends in the active segment, or in the sealed one before it
/// when the active one has no record yet.
fn repair<D: Disk>(
    place: &segment::Place<D>,
    files: &Files<D::File>,
    salt: u32,
    active: &Active<D::File>,
) -> Result<(), StorageError> {
    let Active { number, file, end, .. } = active;
    if *end == 0
        && let Some(sealed) = files.get(number - 1)
    {
        let stamp = Stamp { segment: number - 1, salt };
        write_again(place, stamp, &sealed, None)?;
    }
    write_again(place, Stamp { segment: *number, salt }, file, Some(*end))?;
    // The same holds for names: a segment prepared by a killed process must not vanish once it is written to.
    place.disk.sync_dir(&place.dir).map_err(StorageError::io("sync", &place.dir))
}

/// Writes and syncs what a segment holds, and zeroes over what was written behind `end`.
fn write_again<D: Disk>(
    place: &segment::Place<D>,
    stamp: Stamp,
    file: &D::File,
    end: Option<usize>,
) -> Result<(), StorageError> {
    let path = place.path(stamp.segment);
    let read = read(place, &path, file, stamp)?;
    let end = end.unwrap_or_else(|| read.written_stream().len());
    let mut framed = Vec::with_capacity(place.segment_bytes as usize);
    sector::frame(&mut framed, &read.stream[..end], 0, stamp);
    let torn = read.stream[end..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if torn > 0 {
        tracing::warn!(file = %path.display(), offset = in_file(end), bytes = torn, "removed a torn write");
    }
    framed.resize(framed.len().max(read.written_end()), 0);
    let write = || {
        file.write_at(&framed, 0)?;
        file.sync_data()
    };
    write().map_err(StorageError::io("repair", &path))
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("segments are smaller than 4 GiB")
}
