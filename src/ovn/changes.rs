//! The stream of changes of a database, for as many subscribers as like.
//!
//! The session puts each set of changes into one bounded ring; subscribers pull from it at their own pace. Nothing is
//! queued for a subscriber: one that falls out of the ring, or asks for a position that is not in it, is told to start
//! over ([`Step::Reset`]) from what [`Database::read`](crate::database::Database::read) shows.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

use crate::contents::RowChange;

/// Most sets of changes that are kept.
pub const CHANGE_SETS_KEPT_MAX: usize = 16_384;
/// Most changed rows that are kept, over all sets. One set is kept however large it is.
pub const CHANGED_ROWS_KEPT_MAX: usize = 262_144;
/// Most sets of changes that one step hands out.
pub const CHANGE_SETS_PER_STEP_MAX: usize = 256;

/// A moment in the history of a database: the id of the last transaction that is in it.
///
/// Of a clustered database it is the cluster's own id, the same seen from every client and member. A standalone server
/// keeps no ids; positions in its history are made up here, and hold for this client until its session is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position(pub Uuid);

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for Position {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// What changed up to a position: one transaction, or several that the server told at once.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeSet {
    /// The moment after it.
    pub position: Position,
    /// Rows, each once.
    pub changes: Vec<RowChange>,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// What happened next, in the order in which it was committed.
    Changes(Vec<Arc<ChangeSet>>),
    /// What happened cannot be told: read everything; what follows comes after `position`, or was already in it.
    Reset {
        /// The moment from which on nothing is missed.
        position: Position,
    },
}

#[derive(Debug)]
struct Ring {
    sets: VecDeque<Arc<ChangeSet>>,
    /// Number of the first set. Invariant: grows past every number given out before, when the ring is emptied.
    first: u64,
    rows: usize,
    /// The moment before the first set.
    base: Position,
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.sets.len() as u64
    }

    /// The moment after the last set.
    fn position(&self) -> Position {
        self.sets.back().map_or(self.base, |set| set.position)
    }

    fn drop_first(&mut self) {
        if let Some(set) = self.sets.pop_front() {
            (self.first, self.base) = (self.first + 1, set.position);
            self.rows -= set.changes.len();
        }
    }
}

/// The writing end of the ring.
#[derive(Debug)]
pub(crate) struct History {
    ring: Arc<Mutex<Ring>>,
    /// Number of the next set.
    end: watch::Sender<u64>,
}

impl History {
    pub(crate) fn new() -> (Self, Subscribers) {
        let ring = Ring { sets: VecDeque::new(), first: 0, rows: 0, base: Position(Uuid::nil()) };
        let (ring, (end, seen)) = (Arc::new(Mutex::new(ring)), watch::channel(0));
        (Self { ring: Arc::clone(&ring), end }, Subscribers { ring, seen })
    }

    /// Puts what has been applied.
    pub(crate) fn push(&self, set: ChangeSet) {
        let end = {
            let mut ring = lock(&self.ring);
            ring.rows += set.changes.len();
            ring.sets.push_back(Arc::new(set));
            while ring.sets.len() > 1
                && (ring.rows > CHANGED_ROWS_KEPT_MAX || ring.sets.len() > CHANGE_SETS_KEPT_MAX)
            {
                ring.drop_first();
            }
            ring.end()
        };
        self.end.send_replace(end);
    }

    /// Tells everybody to start over.
    pub(crate) fn reset(&self, position: Position) {
        let end = {
            let mut ring = lock(&self.ring);
            ring.first = ring.end() + 1;
            (ring.rows, ring.base) = (0, position);
            ring.sets.clear();
            ring.end()
        };
        self.end.send_replace(end);
    }
}

fn lock(ring: &Mutex<Ring>) -> std::sync::MutexGuard<'_, Ring> {
    // Nothing panics while it is held.
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where subscribers come from.
#[derive(Clone, Debug)]
pub(crate) struct Subscribers {
    ring: Arc<Mutex<Ring>>,
    seen: watch::Receiver<u64>,
}

impl Subscribers {
    /// See [`Database::position`](crate::database::Database::position).
    pub(crate) fn position(&self) -> (u64, Position) {
        let ring = lock(&self.ring);
        (ring.end(), ring.position())
    }

    /// See [`Database::subscribe`](crate::database::Database::subscribe).
    pub(crate) fn subscribe(&self, since: Option<Position>) -> Changes {
        let next = {
            let ring = lock(&self.ring);
            match since {
                None => Some(ring.end()),
                Some(since) if since == ring.base => Some(ring.first),
                // From the end: those who come back were seldom away for long.
                Some(since) => {
                    let found = ring.sets.iter().rposition(|set| set.position == since);
                    found.map(|index| ring.first + index as u64 + 1)
                }
            }
        };
        Changes { ring: Arc::clone(&self.ring), seen: self.seen.clone(), next }
    }
}

/// One subscriber's place in the stream of changes.
#[derive(Debug)]
pub struct Changes {
    ring: Arc<Mutex<Ring>>,
    seen: watch::Receiver<u64>,
    /// Number of the next set; none when the subscriber has to start over.
    next: Option<u64>,
}

impl Changes {
    /// Waits for what comes next. None when the database was closed and everything was told. Cancel-safe.
    pub async fn next(&mut self) -> Option<Step> {
        loop {
            self.seen.mark_unchanged();
            if let Some(step) = self.step() {
                return Some(step);
            }
            self.seen.changed().await.ok()?;
        }
    }

    /// Number of the set that comes next, as [`Database::position`](crate::database::Database::position) counts them. None
    /// before a step that tells to start over.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.next
    }

    /// What is there already.
    fn step(&mut self) -> Option<Step> {
        let ring = lock(&self.ring);
        let Some(next) = self.next.filter(|next| *next >= ring.first) else {
            self.next = Some(ring.end());
            return Some(Step::Reset { position: ring.position() });
        };
        let skip = usize::try_from(next - ring.first).unwrap_or(usize::MAX);
        let sets: Vec<_> = ring.sets.iter().skip(skip).take(CHANGE_SETS_PER_STEP_MAX).cloned().collect();
        self.next = Some(next + sets.len() as u64);
        if sets.is_empty() { None } else { Some(Step::Changes(sets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(number: u128) -> Position {
        Position(Uuid::from_u128(number))
    }

    fn set(number: u128) -> ChangeSet {
        ChangeSet { position: position(number), changes: Vec::new() }
    }

    fn numbers(step: Option<Step>) -> Vec<u128> {
        match step {
            Some(Step::Changes(sets)) => sets.iter().map(|set| set.position.0.as_u128()).collect(),
            other => panic!("changes are told, not {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_subscriber_resumes_where_it_was() {
        let (history, subscribers) = History::new();
        history.reset(position(100));
        for number in 101..=103 {
            history.push(set(number));
        }
        assert_eq!(numbers(subscribers.subscribe(Some(position(100))).next().await), [101, 102, 103]);
        assert_eq!(numbers(subscribers.subscribe(Some(position(102))).next().await), [103]);
        let mut current = subscribers.subscribe(Some(position(103)));
        let mut fresh = subscribers.subscribe(None);
        history.push(set(104));
        assert_eq!(numbers(current.next().await), [104]);
        assert_eq!(numbers(fresh.next().await), [104]);
        let mut unknown = subscribers.subscribe(Some(position(5)));
        assert_eq!(unknown.next().await, Some(Step::Reset { position: position(104) }));
        history.push(set(105));
        assert_eq!(numbers(unknown.next().await), [105]);
        drop(history);
        assert_eq!(unknown.next().await, None, "a closed database ends the stream");
    }

    #[tokio::test]
    async fn who_falls_out_of_the_ring_starts_over() {
        let (history, subscribers) = History::new();
        let (mut slow, mut middle) = (subscribers.subscribe(None), subscribers.subscribe(None));
        for number in 0..=CHANGE_SETS_KEPT_MAX as u128 {
            history.push(set(number));
            if number == 0 {
                assert_eq!(numbers(middle.next().await), [0]);
            }
        }
        let last = position(CHANGE_SETS_KEPT_MAX as u128);
        assert_eq!(slow.next().await, Some(Step::Reset { position: last }));
        let step = numbers(middle.next().await);
        assert_eq!((step[0], step.len()), (1, CHANGE_SETS_PER_STEP_MAX), "a step is bounded");
        assert_eq!(numbers(middle.next().await)[0], 1 + CHANGE_SETS_PER_STEP_MAX as u128);
    }

    #[tokio::test]
    async fn a_reset_reaches_those_who_had_seen_everything() {
        let (history, subscribers) = History::new();
        history.reset(position(1));
        let mut idle = subscribers.subscribe(Some(position(1)));
        history.reset(position(1));
        assert_eq!(idle.next().await, Some(Step::Reset { position: position(1) }));
        history.push(set(2));
        assert_eq!(numbers(idle.next().await), [2]);
    }
}
