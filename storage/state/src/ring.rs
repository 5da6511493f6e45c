//! What is kept of a log, so that a reader resumes where it was, on any node: events, messages, invalidations.

use crate::limits::Limits;
use crate::table::{Object, Table};
use crate::view::EventsReset;
use crate::{Event, EventOffset, Millis, State};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Entries of one ring forgotten for their age by one apply.
const FORGOTTEN_PER_APPLY_MAX: usize = 1_024;

impl Object for Event {
    const TAG: u8 = 6;
    type Key = EventOffset;

    fn key(&self) -> EventOffset {
        self.offset
    }
}

/// An entry of a log, in the order of its key.
pub(crate) trait Kept: Object {
    /// Cluster time at which it was appended.
    fn at(&self) -> Millis;
}

impl Kept for Event {
    fn at(&self) -> Millis {
        self.at
    }
}

/// The newest entries, by count and bytes.
pub(crate) struct Ring<T: Kept> {
    pub(crate) table: Table<T>,
    /// Encoded bytes of all of them.
    pub(crate) bytes: usize,
}

impl<T: Kept> Clone for Ring<T> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), bytes: self.bytes }
    }
}

impl<T: Kept> Default for Ring<T> {
    fn default() -> Self {
        Self { table: Table::default(), bytes: 0 }
    }
}

impl<T: Kept> Ring<T> {
    /// Adds an entry without dropping an old one.
    pub(crate) fn restore(&mut self, entry: Arc<T>) {
        self.bytes += self.table.insert_measured(entry).0;
    }

    /// Adds an entry, and drops old ones until no more than `count` and `bytes` are kept. The newest always is.
    pub(crate) fn push(&mut self, entry: Arc<T>, count: usize, bytes: usize) {
        self.restore(entry);
        while self.table.len() > count || (self.bytes > bytes && self.table.len() > 1) {
            if !self.drop_first() {
                return;
            }
        }
    }

    /// Drops what was appended longer ago than `age`, a bounded number of entries.
    pub(crate) fn forget_old(&mut self, now: Millis, age: Millis) {
        for _ in 0..FORGOTTEN_PER_APPLY_MAX {
            if self.table.first().is_none_or(|first| first.at().after(age) > now) || !self.drop_first() {
                return;
            }
        }
    }

    fn drop_first(&mut self) -> bool {
        let Some(first) = self.table.first().map(|entry| entry.key()) else { return false };
        if let Some((bytes, _)) = self.table.remove_measured(&first) {
            self.bytes -= bytes;
        }
        true
    }

    /// The first kept key, or `next` when nothing is kept.
    pub(crate) fn first_or(&self, next: T::Key) -> T::Key {
        self.table.first().map_or(next, |entry| entry.key())
    }

    /// At most `limit` entries from `since` on, shared with the ring.
    pub(crate) fn from(&self, since: &T::Key, limit: usize) -> Vec<Arc<T>> {
        self.table.iter_from(|key| key < since).take(limit).cloned().collect()
    }
}

impl Ring<Event> {
    pub(crate) fn push_event(&mut self, event: Arc<Event>, limits: &Limits) {
        self.push(event, limits.events_kept, limits.events_kept_bytes);
    }
}

impl State {
    /// At most `limit` events from offset `since` on. An error when some of them are no longer kept, or
    /// `since` lies beyond the next offset, which only another cluster can have given.
    pub fn events(&self, since: EventOffset, limit: usize) -> Result<Vec<Event>, EventsReset> {
        let (first, next) = self.kept_events();
        if since < first || since > next {
            return Err(EventsReset { first, next });
        }
        let events = self.events.table.iter_from(|offset| *offset < since);
        Ok(events.take(limit).map(|event| (**event).clone()).collect())
    }

    /// The first kept offset and the next one to be given.
    pub(crate) fn kept_events(&self) -> (EventOffset, EventOffset) {
        let next = EventOffset(self.meta.next_event);
        (self.events.first_or(next), next)
    }
}
