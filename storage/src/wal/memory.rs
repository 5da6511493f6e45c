//! What the log knows without reading: the hard state, recent entries, and where older ones lie.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::encoded::EncodedEntry;
use crate::codec::{LogId, Vote};

/// What a cached entry takes beside its payload.
const CACHED_BYTES_FIXED: usize = 128;

/// Where an entry lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) term: u64,
    pub(super) segment: u32,
    /// Of the record's payload.
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// The log in memory.
///
/// Invariant: every entry in `(purged, last]` is in the cache or has a place; the cache is a contiguous run that
/// ends at `last`; an entry leaves the cache only after it was written.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// Number of the last operation given to the writer, and of the last one that it finished.
    submitted: u64,
    written: u64,
    pub(super) places: Places,
}

#[derive(Debug)]
struct Cached {
    log_id: LogId,
    payload: Bytes,
    submitted: u64,
}

impl Cached {
    /// Roughly what it takes.
    fn bytes(&self) -> usize {
        CACHED_BYTES_FIXED + self.payload.len()
    }
}

/// Places of a contiguous run of entries. Only the writer (and recovery) changes them, in the order of the
/// records on disk.
#[derive(Debug, Default)]
pub(super) struct Places {
    first: u64,
    run: VecDeque<Place>,
}

/// An entry found by [`Memory::find`].
#[derive(Debug)]
pub(super) enum Found {
    /// Encoded.
    Cached(Bytes),
    OnDisk(u64, Place),
}

impl Memory {
    pub(super) fn new(cache_bytes_max: usize) -> Self {
        Self { cache_bytes_max, ..Self::default() }
    }

    /// Takes new entries in; the number to give to [`Memory::written`] once they are on disk.
    pub(super) fn append(&mut self, entries: &[EncodedEntry]) -> Result<u64, String> {
        let mut last = self.last.map(|id| id.index);
        for entry in entries {
            let index = entry.log_id.index;
            if let Some(last) = last
                && index != last + 1
            {
                return Err(format!("entry {index} does not follow entry {last}"));
            }
            last = Some(index);
        }
        let submitted = self.submit();
        self.last = entries.last().map(|entry| entry.log_id).or(self.last);
        for entry in entries {
            let cached = Cached { log_id: entry.log_id, payload: entry.payload.clone(), submitted };
            self.cache_bytes += cached.bytes();
            self.cache.push_back(cached);
        }
        Ok(submitted)
    }

    /// Number of a new operation.
    pub(super) fn submit(&mut self) -> u64 {
        self.submitted += 1;
        self.submitted
    }

    /// Everything up to this operation is on disk and has its place.
    pub(super) fn written(&mut self, submitted: u64) {
        self.written = self.written.max(submitted);
    }

    /// Forgets entries after `after`.
    pub(super) fn truncate_after(&mut self, after: Option<LogId>) {
        let keep = after.map_or(0, |id| id.index + 1);
        while self.cache.back().is_some_and(|cached| cached.log_id.index >= keep) {
            if let Some(cached) = self.cache.pop_back() {
                self.cache_bytes -= cached.bytes();
            }
        }
        if self.last.is_some_and(|last| last.index >= keep) {
            self.last = after;
        }
    }

    /// Forgets entries up to and including `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        while self.cache.front().is_some_and(|cached| cached.log_id.index <= upto.index) {
            self.drop_oldest();
        }
        if self.purged < Some(upto) {
            self.purged = Some(upto);
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }

    /// The part of `range` that exists.
    pub(super) fn clip(&self, range: Range<u64>) -> Range<u64> {
        let first = self.purged.map_or(0, |id| id.index + 1);
        let end = self.last.map_or(0, |id| id.index + 1);
        let end = range.end.min(end);
        range.start.max(first.max(self.first_known())).min(end)..end
    }

    /// Entries of `range`, which must exist, up to about `bytes_max` (at least one).
    pub(super) fn find(&self, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        let mut found = Vec::with_capacity((range.end - range.start).min(1_024) as usize);
        let mut bytes = 0;
        for index in range {
            let (item, size) = match self.cached(index) {
                Some(cached) => (Found::Cached(cached.payload.clone()), cached.bytes()),
                None => match self.places.get(index) {
                    Some(place) => (Found::OnDisk(index, place), place.len as usize),
                    None => break,
                },
            };
            bytes += size;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(item);
        }
        found
    }

    /// openraft's suite starts logs at any index; ours know where they begin.
    fn first_known(&self) -> u64 {
        let cached = self.cache.front().map(|cached| cached.log_id.index);
        let placed = (!self.places.run.is_empty()).then_some(self.places.first);
        cached.into_iter().chain(placed).min().unwrap_or(0)
    }

    fn cached(&self, index: u64) -> Option<&Cached> {
        let first = self.cache.front()?.log_id.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Drops the oldest entries beyond the bound, as far as they are written.
    pub(super) fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|cached| cached.submitted <= self.written)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(cached) = self.cache.pop_front() {
            self.cache_bytes -= cached.bytes();
        }
    }
}

impl Places {
    pub(super) fn push(&mut self, index: u64, place: Place) {
        if index != self.first + self.run.len() as u64 {
            // A snapshot replaced everything before this entry.
            self.run.clear();
        }
        if self.run.is_empty() {
            self.first = index;
        }
        self.run.push_back(place);
    }

    pub(super) fn truncate_after(&mut self, after: Option<LogId>) {
        let end = after.map_or(0, |id| id.index + 1);
        self.run.truncate(usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX));
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        let count = (upto.index + 1).saturating_sub(self.first);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.run.len());
        self.run.drain(..count);
        self.first += count as u64;
        // Purging a long log must give its memory back.
        if self.run.capacity() > 1_024 && self.run.len() * 4 < self.run.capacity() {
            self.run.shrink_to(self.run.len() * 2);
        }
    }

    /// Oldest segment that still holds a live entry.
    pub(super) fn oldest_segment(&self) -> Option<u32> {
        self.run.front().map(|place| place.segment)
    }

    fn get(&self, index: u64) -> Option<Place> {
        self.run.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use ovncp_state::{Millis, NodeId};

    use super::super::encoded::Encoded;
    use super::*;
    use crate::codec::Entry;
    use crate::codec::entry::normal_entry;

    /// So that a cached entry takes 1,000 bytes.
    const PAYLOAD: usize = 1_000 - CACHED_BYTES_FIXED - 7;

    fn entries(range: Range<u64>) -> Vec<Entry> {
        range
            .map(|index| normal_entry(1, index, Millis(0), NodeId(1), index, Bytes::from(vec![0; PAYLOAD])))
            .collect()
    }

    fn append(memory: &mut Memory, range: Range<u64>) -> u64 {
        let encoded = Encoded::new(entries(range), 0, usize::MAX).unwrap();
        memory.append(encoded.entries()).unwrap()
    }

    #[test]
    fn the_cache_is_bounded_by_bytes_but_keeps_what_is_not_written() {
        let mut memory = Memory::new(10_000);
        let first = append(&mut memory, 1..21);
        assert_eq!(memory.cache_bytes, 20 * 1_000);
        memory.evict();
        assert_eq!(memory.cache_bytes, 20 * 1_000);
        memory.written(first);
        memory.evict();
        assert_eq!(memory.cache_bytes, 10 * 1_000);
        let second = append(&mut memory, 21..61);
        memory.evict();
        assert_eq!(memory.cache.front().unwrap().log_id.index, 21);
        memory.written(second);
        memory.evict();
        assert_eq!(memory.cache_bytes, 10 * 1_000);
    }

    #[test]
    fn truncated_entries_are_not_found_at_their_old_place() {
        let mut memory = Memory::new(0);
        let written = append(&mut memory, 1..4);
        for index in 1..4 {
            memory.places.push(index, Place { term: 1, segment: 1, offset: 0, len: 1 });
        }
        memory.written(written);
        memory.evict();
        memory.truncate_after(Some(entries(1..2)[0].log_id));
        append(&mut memory, 2..3);
        // The writer has not come to the truncation yet: its places still tell of the old entries.
        let found = memory.find(memory.clip(0..10), usize::MAX);
        assert!(matches!(found[..], [Found::OnDisk(1, _), Found::Cached(_)]));
    }
}
