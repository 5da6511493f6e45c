//! The newest events that somebody watched, fetched from the state once for all watchers of this node.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use ovncp_state::view::EventsReset;
use ovncp_state::{Event, EventKind, EventOffset, Millis};

/// Events of one page.
const PAGE_EVENTS_MAX: usize = 64;
/// Bytes of one page, roughly; it has one event at least.
const PAGE_BYTES_MAX: usize = 16 * 1_024;
/// Events kept for watchers that are nearly up to date.
const RECENT_EVENTS_MAX: usize = 1_024;
/// Their bytes, roughly.
const RECENT_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Of an event without its texts.
const EVENT_BYTES: usize = 200;

/// An event, and room for the text that an edge makes of it once for all its watchers.
#[derive(Debug)]
pub struct Kept {
    /// What happened.
    pub event: Event,
    /// Cluster time when it was fetched.
    pub now: Millis,
    /// Its rendering by the edge that shows every event.
    pub text: OnceLock<Bytes>,
}

/// Why there is no page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// No longer kept.
    Behind(EventsReset),
    /// Not applied here yet.
    Ahead,
}

/// A run of consecutive events. Empty while nobody watches.
#[derive(Default)]
pub(super) struct Recent(Mutex<Run>);

#[derive(Default)]
struct Run {
    kept: VecDeque<Arc<Kept>>,
    bytes: usize,
}

/// Size of an event in memory and on the wire, roughly.
fn size_of(event: &Event) -> usize {
    EVENT_BYTES
        + match &event.kind {
            EventKind::LockAcquired { keys, owner, .. } => texts(keys) + owner.len(),
            EventKind::LockReleased { keys, owner, reason, .. } => texts(keys) + owner.len() + reason.len(),
            EventKind::Invalidated { patterns, tags, .. } => texts(patterns) + texts(tags),
            _ => 0,
        }
}

fn texts(keys: &[String]) -> usize {
    keys.iter().map(String::len).sum()
}

/// As many as fit into a page.
fn first_page(events: impl IntoIterator<Item = Arc<Kept>>) -> Vec<Arc<Kept>> {
    let mut bytes = 0;
    let mut fits = move |kept: &Arc<Kept>| {
        let before = bytes;
        bytes += size_of(&kept.event);
        before == 0 || bytes <= PAGE_BYTES_MAX
    };
    events.into_iter().take(PAGE_EVENTS_MAX).take_while(|kept| fits(kept)).collect()
}

impl Recent {
    /// The page from `since` on, empty at the end. `fetch` asks the state for so many from there, and the time.
    pub(super) fn page(
        &self,
        since: EventOffset,
        fetch: impl FnOnce(usize) -> Result<(Millis, Vec<Event>), EventsReset>,
    ) -> Result<Vec<Arc<Kept>>, Gap> {
        // Valid between any two statements, so a panic elsewhere does not spoil it. Held during the fetch: the
        // others want the same.
        let mut run = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = run.position(since) {
            return Ok(first_page(run.kept.range(position..).cloned()));
        }
        let (now, events) = fetch(PAGE_EVENTS_MAX).map_err(|reset| match reset {
            EventsReset { next, .. } if since > next => Gap::Ahead,
            reset => Gap::Behind(reset),
        })?;
        let keep = |event| Arc::new(Kept { event, now, text: OnceLock::new() });
        let kept: Vec<_> = events.into_iter().map(keep).collect();
        run.extend(&kept);
        Ok(first_page(kept))
    }
}

impl Run {
    fn position(&self, since: EventOffset) -> Option<usize> {
        let first = self.kept.front()?.event.offset;
        let position = usize::try_from(since.0.checked_sub(first.0)?).ok()?;
        (position < self.kept.len()).then_some(position)
    }

    /// Goes on with newer events. Those of a watcher that is far behind do not matter to others.
    fn extend(&mut self, newer: &[Arc<Kept>]) {
        let Some(first) = newer.first() else { return };
        match self.kept.back().map(|last| last.event.offset.0 + 1) {
            Some(next) if first.event.offset.0 < next => return,
            Some(next) if first.event.offset.0 > next => *self = Self::default(),
            _ => {}
        }
        for kept in newer {
            self.bytes += size_of(&kept.event);
            self.kept.push_back(Arc::clone(kept));
        }
        while self.kept.len() > RECENT_EVENTS_MAX || (self.bytes > RECENT_BYTES_MAX && self.kept.len() > 1) {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= size_of(&oldest.event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovncp_state::NodeId;

    fn event(offset: u64, name_bytes: usize) -> Event {
        let kind = EventKind::LockAcquired {
            keys: vec!["k".repeat(name_bytes)],
            mode: ovncp_state::command::LockMode::Exclusive,
            owner: "o".to_owned(),
            token: ovncp_state::FencingToken(offset),
            waited: Millis(0),
        };
        Event { offset: EventOffset(offset), at: Millis(0), kind }
    }

    /// A ring of the offsets `kept`, which counts how often it is asked.
    fn ask(
        recent: &Recent,
        since: u64,
        kept: std::ops::Range<u64>,
        asked: &mut usize,
    ) -> Result<Vec<u64>, Gap> {
        let page = recent.page(EventOffset(since), |limit| {
            *asked += 1;
            if since < kept.start || since > kept.end {
                return Err(EventsReset { first: EventOffset(kept.start), next: EventOffset(kept.end) });
            }
            Ok((Millis(0), (since..kept.end).take(limit).map(|offset| event(offset, 1)).collect()))
        });
        page.map(|page| page.iter().map(|kept| kept.event.offset.0).collect())
    }

    #[test]
    fn pages_follow_each_other_and_are_fetched_once() {
        let (recent, mut asked) = (Recent::default(), 0);
        let mut seen: Vec<u64> = Vec::new();
        for watcher in 0..3 {
            let mut since = 0;
            loop {
                let page = ask(&recent, since, 0..200, &mut asked).unwrap();
                let Some(last) = page.last() else { break };
                if watcher == 0 {
                    seen.extend(&page);
                }
                since = last + 1;
            }
        }
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        // Four pages by the first watcher; then each only asks for what is not there yet.
        assert_eq!(asked, 4 + 3);
    }

    #[test]
    fn a_watcher_far_behind_does_not_spoil_the_run() {
        let (recent, mut asked) = (Recent::default(), 0);
        assert_eq!(ask(&recent, 5_000, 0..5_010, &mut asked).unwrap().len(), 10);
        assert_eq!(ask(&recent, 100, 0..5_010, &mut asked).unwrap()[0], 100);
        assert_eq!(ask(&recent, 5_001, 0..5_010, &mut asked).unwrap().len(), 9);
        assert_eq!(asked, 2, "the run was still there");
        // After a jump (nobody watched for a while) the run begins anew.
        assert_eq!(ask(&recent, 9_000, 0..9_001, &mut asked).unwrap(), [9_000]);
        assert_eq!(ask(&recent, 5_001, 0..9_001, &mut asked).unwrap()[0], 5_001);
        assert_eq!(asked, 4);
    }

    #[test]
    fn behind_and_ahead_are_told_apart() {
        let (recent, mut asked) = (Recent::default(), 0);
        let reset = EventsReset { first: EventOffset(10), next: EventOffset(20) };
        assert_eq!(ask(&recent, 9, 10..20, &mut asked), Err(Gap::Behind(reset)));
        assert_eq!(ask(&recent, 21, 10..20, &mut asked), Err(Gap::Ahead));
        assert_eq!(ask(&recent, 20, 10..20, &mut asked), Ok(vec![]));
    }

    #[test]
    fn a_page_is_bounded_by_bytes_and_has_one_event_at_least() {
        let recent = Recent::default();
        let big = |_| Ok((Millis(0), (0..8).map(|offset| event(offset, PAGE_BYTES_MAX * 2)).collect()));
        assert_eq!(recent.page(EventOffset(0), big).unwrap().len(), 1);
        let page = recent.page(EventOffset(1), |_| panic!("it is in the run")).unwrap();
        assert_eq!(page[0].event.offset, EventOffset(1));
        let run = recent.0.lock().unwrap();
        assert_eq!(run.bytes, run.kept.iter().map(|kept| size_of(&kept.event)).sum::<usize>());
    }

    #[test]
    fn the_run_is_bounded() {
        let mut run = Run::default();
        for offset in 0..3 * RECENT_EVENTS_MAX as u64 {
            let kept = Kept { event: event(offset, 10_000), now: Millis(0), text: OnceLock::new() };
            run.extend(&[Arc::new(kept)]);
        }
        assert!(run.kept.len() <= RECENT_EVENTS_MAX && run.bytes <= RECENT_BYTES_MAX);
        assert_eq!(run.kept.back().unwrap().event.offset.0 + 1, 3 * RECENT_EVENTS_MAX as u64);
        let node = EventKind::LeaderChange { id: NodeId(1), name: "n".to_owned(), term: 1 };
        assert_eq!(size_of(&Event { offset: EventOffset(0), at: Millis(0), kind: node }), EVENT_BYTES);
    }
}
