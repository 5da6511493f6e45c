//! What the log knows without reading: the hard state, recent entries, and where older ones lie.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::encoded::Encoded;
use crate::codec::entry::weight;
use crate::codec::{Entry, LogId, Vote};

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
    /// Of all that the cache holds in memory.
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// Number of the last operation given to the writer, and of the last one that it finished.
    submitted: u64,
    written: u64,
    pub(super) places: Places,
}

/// What is left of the entries that were appended together. Their memory goes with the last of them.
///
/// Invariant: `live` is not empty.
#[derive(Debug)]
struct Cached {
    appended: Arc<Encoded>,
    live: Range<usize>,
    submitted: u64,
}

impl Cached {
    fn entries(&self) -> &[Entry] {
        &self.appended.entries()[self.live.clone()]
    }

    fn first(&self) -> u64 {
        self.appended.entries()[self.live.start].log_id.index
    }

    fn end(&self) -> u64 {
        self.first() + self.live.len() as u64
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
    Cached(Entry),
    OnDisk(u64, Place),
}

impl Memory {
    pub(super) fn new(cache_bytes_max: usize) -> Self {
        Self { cache_bytes_max, ..Self::default() }
    }

    /// Refuses entries that leave a hole in the log.
    pub(super) fn check_next(&self, entries: &[Entry]) -> Result<(), String> {
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
        Ok(())
    }

    /// Takes new entries in; the number to give to [`Memory::written`] once they are on disk.
    pub(super) fn append(&mut self, appended: &Arc<Encoded>) -> u64 {
        let submitted = self.submit();
        if let Some(last) = appended.entries().last() {
            self.last = Some(last.log_id);
            self.cache_bytes += appended.weight();
            let live = 0..appended.entries().len();
            self.cache.push_back(Cached { appended: appended.clone(), live, submitted });
        }
        submitted
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
        while let Some(cached) = self.cache.back_mut()
            && cached.end() > keep
        {
            if cached.first() < keep {
                cached.live.end -= to_usize(cached.end() - keep);
            } else if let Some(dropped) = self.cache.pop_back() {
                self.cache_bytes -= dropped.appended.weight();
            }
        }
        if self.last.is_some_and(|last| last.index >= keep) {
            self.last = after;
        }
    }

    /// Forgets entries up to and including `upto`. Freeing them is left to the caller, as by [`Memory::evict`].
    #[must_use]
    pub(super) fn purge(&mut self, upto: LogId) -> Vec<Arc<Encoded>> {
        let mut purged = Vec::new();
        while let Some(cached) = self.cache.front_mut()
            && cached.first() <= upto.index
        {
            if cached.end() > upto.index + 1 {
                cached.live.start += to_usize(upto.index + 1 - cached.first());
            } else {
                purged.extend(self.drop_oldest());
            }
        }
        if self.purged < Some(upto) {
            self.purged = Some(upto);
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
        purged
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
                Some(entry) => (Found::Cached(entry.clone()), weight(entry)),
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
        let cached = self.cache.front().map(Cached::first);
        let placed = (!self.places.run.is_empty()).then_some(self.places.first);
        cached.into_iter().chain(placed).min().unwrap_or(0)
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let cached = self.cache.get(self.cache.partition_point(|cached| cached.end() <= index))?;
        cached.entries().get(to_usize(index.checked_sub(cached.first())?))
    }

    /// Takes out the oldest entries beyond the bound, as far as they are written. Freeing them is left to the caller, who
    /// need not hold a lock for that.
    #[must_use]
    pub(super) fn evict(&mut self) -> Vec<Arc<Encoded>> {
        let mut evicted = Vec::new();
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|cached| cached.submitted <= self.written)
        {
            evicted.extend(self.drop_oldest());
        }
        evicted
    }

    fn drop_oldest(&mut self) -> Option<Arc<Encoded>> {
        let cached = self.cache.pop_front()?;
        self.cache_bytes -= cached.appended.weight();
        Some(cached.appended)
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

/// Counts of entries in memory.
fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ovncp_state::{Millis, NodeId};

    use super::*;
    use crate::codec::entry::normal_entry;

    /// So that an entry weighs 1,000 bytes.
    const PAYLOAD: usize = 1_000 - 128;

    fn entries(range: Range<u64>) -> Vec<Entry> {
        range
            .map(|index| normal_entry(1, index, Millis(0), NodeId(1), index, Bytes::from(vec![0; PAYLOAD])))
            .collect()
    }

    fn append(memory: &mut Memory, range: Range<u64>) -> u64 {
        let entries = entries(range);
        memory.check_next(&entries).unwrap();
        memory.append(&Encoded::new(entries, 0))
    }

    /// Indexes of what the cache holds, each as often as it is found.
    fn cached(memory: &Memory) -> Vec<u64> {
        (0..100).filter_map(|index| memory.cached(index).map(|entry| entry.log_id.index)).collect()
    }

    #[test]
    fn the_cache_is_bounded_by_bytes_but_keeps_what_is_not_written() {
        let mut memory = Memory::new(10_000);
        let first = append(&mut memory, 1..5);
        let second = append(&mut memory, 5..21);
        assert_eq!(memory.cache_bytes, 20 * 1_000);
        assert!(memory.evict().is_empty());
        memory.written(first);
        assert_eq!(memory.evict().len(), 1);
        assert_eq!((memory.cache_bytes, cached(&memory)), (16 * 1_000, (5..21).collect()));
        memory.written(second);
        let third = append(&mut memory, 21..31);
        memory.written(third);
        assert_eq!(memory.evict().len(), 1);
        assert_eq!((memory.cache_bytes, cached(&memory)), (10 * 1_000, (21..31).collect()));
    }

    #[test]
    fn what_was_appended_together_can_be_cut_at_both_ends() {
        let mut memory = Memory::new(usize::MAX);
        append(&mut memory, 1..11);
        append(&mut memory, 11..21);
        let id = |index: u64| entries(index..index + 1)[0].log_id;
        assert!(memory.purge(id(4)).is_empty());
        assert_eq!(cached(&memory), (5..21).collect::<Vec<_>>());
        memory.truncate_after(Some(id(13)));
        assert_eq!(cached(&memory), (5..14).collect::<Vec<_>>());
        assert_eq!(memory.last, Some(id(13)));
        append(&mut memory, 14..16);
        assert_eq!(cached(&memory), (5..16).collect::<Vec<_>>());
        assert_eq!(memory.cache_bytes, 22 * 1_000, "memory goes with the last entry of an append");
        assert_eq!(memory.purge(id(10)).len(), 1);
        assert_eq!((memory.cache_bytes, cached(&memory)), (12 * 1_000, (11..16).collect()));
        memory.truncate_after(Some(id(10)));
        assert_eq!((memory.cache_bytes, cached(&memory)), (0, vec![]));
        append(&mut memory, 11..13);
        assert_eq!(memory.purge(id(12)).len(), 1);
        assert_eq!((memory.cache_bytes, memory.clip(0..100)), (0, 13..13));
    }

    #[test]
    fn truncated_entries_are_not_found_at_their_old_place() {
        let mut memory = Memory::new(0);
        let written = append(&mut memory, 1..4);
        for index in 1..4 {
            memory.places.push(index, Place { term: 1, segment: 1, offset: 0, len: 1 });
        }
        memory.written(written);
        assert_eq!(memory.evict().len(), 1);
        memory.truncate_after(Some(entries(1..2)[0].log_id));
        append(&mut memory, 2..3);
        // The writer has not come to the truncation yet: its places still tell of the old entries.
        let found = memory.find(memory.clip(0..10), usize::MAX);
        assert!(matches!(found[..], [Found::OnDisk(1, _), Found::Cached(_)]));
    }
}
