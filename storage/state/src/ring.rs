//! The kept events, so that a watcher resumes where it was, on any node.

use crate::limits::Limits;
use crate::table::{Object, Table};
use crate::view::EventsReset;
use crate::{Event, EventOffset, State};
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Object for Event {
    const TAG: u8 = 6;
    type Key = EventOffset;

    fn key(&self) -> EventOffset {
        self.offset
    }
}

/// The newest events, by count and bytes.
#[derive(Clone, Default)]
pub(crate) struct Ring {
    pub(crate) table: Table<Event>,
    /// Encoded bytes of all of them.
    pub(crate) bytes: usize,
}

impl Ring {
    /// Adds an event without dropping an old one.
    pub(crate) fn restore(&mut self, event: Arc<Event>) {
        self.bytes += self.table.insert_measured(event).0;
    }

    pub(crate) fn push(&mut self, event: Arc<Event>, limits: &Limits) {
        self.restore(event);
        while self.table.len() > limits.events_kept
            || (self.bytes > limits.events_kept_bytes && self.table.len() > 1)
        {
            let Some(first) = self.table.first().map(|event| event.offset) else { return };
            if let Some((bytes, _)) = self.table.remove_measured(&first) {
                self.bytes -= bytes;
            }
        }
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
        (self.events.table.first().map_or(next, |event| event.offset), next)
    }
}
