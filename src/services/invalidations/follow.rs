//! Followers of the log, each at its own pace.

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::invalidations::Invalidation;
use ovncp_state::{InvalidationOffset, State};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::{Invalidations, Position, end};

/// Entries of one step.
pub(super) const PAGE_ENTRIES_MAX: usize = 64;
/// Each subscriber lets the next look of any one of them come so much later: a thousand of them look 100 times per
/// second each, one of them at once.
const LOOK_SPACING_PER_SUBSCRIBER: Duration = Duration::from_micros(10);
/// Spacing below the resolution of the timer is none.
const LOOK_SPACING_MIN: Duration = Duration::from_millis(1);
/// Pause before this node asks again whether a position that it does not know yet exists.
const AHEAD_PAUSE: Duration = Duration::from_millis(500);

/// What a subscriber learns next.
#[derive(Clone, Debug)]
pub enum Step {
    /// At least one entry, in order, right after what was told before.
    Entries(Vec<Arc<Invalidation>>),
    /// Some entries are lost for this subscriber, so it must forget whatever it keeps; it goes on with `first`.
    Reset {
        /// The first kept one.
        first: Position,
        /// Where the next one goes.
        next: Position,
    },
}

/// One who follows the log. Dropped, it frees its place.
pub struct Subscription {
    invalidations: Invalidations,
    position: Position,
    wake: watch::Receiver<InvalidationOffset>,
    looked: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

/// What lies at a position.
pub(super) enum Found {
    /// Entries from there on; none yet at the end.
    Entries(Vec<Arc<Invalidation>>),
    /// They are no longer kept, or of another epoch.
    Lost { first: Position, next: Position },
    /// Not applied here yet, or given by nobody.
    Ahead,
}

pub(super) fn find(state: &State, position: Position) -> Found {
    let (first, next) = state.invalidations_kept();
    let at = |offset| Position { epoch: state.epoch(), offset };
    match state.invalidations(position.offset, PAGE_ENTRIES_MAX) {
        Ok(entries) if position.epoch == state.epoch() => Found::Entries(entries),
        _ if position > at(next) => Found::Ahead,
        _ => Found::Lost { first: at(first), next: at(next) },
    }
}

impl Subscription {
    pub(super) fn new(
        invalidations: Invalidations,
        position: Position,
        wake: watch::Receiver<InvalidationOffset>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { invalidations, position, wake, looked: None, _place: place }
    }

    /// Where the entry comes from that is told next; everything before it was told.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits for what comes next. Cancel-safe: what was not returned comes again.
    pub async fn next(&mut self) -> Step {
        loop {
            // A long replay must not keep its thread from others.
            tokio::task::consume_budget().await;
            if let Some(looked) = self.looked {
                let due = looked + self.spacing();
                if due > Instant::now() {
                    tokio::time::sleep_until(due).await;
                }
            }
            // Before the look: what is applied after it wakes us again.
            self.wake.borrow_and_update();
            let group = &self.invalidations.core.group;
            match group.read(|state| find(state, self.position)).1 {
                Found::Entries(entries) => match entries.last() {
                    Some(last) => {
                        self.looked = Some(Instant::now());
                        self.position = Position { offset: last.offset, ..self.position }.next();
                        return Step::Entries(entries);
                    }
                    None => self.changed().await,
                },
                Found::Lost { first, next } => return self.reset(first, next),
                Found::Ahead => {
                    if let Some((first, next)) = self.nonexistent().await {
                        return self.reset(first, next);
                    }
                }
            }
        }
    }

    fn reset(&mut self, first: Position, next: Position) -> Step {
        self.position = first;
        Step::Reset { first, next }
    }

    /// This node has not applied so far: it lags behind the one that told the position, or nobody ever gave it.
    /// Which of the two is known once this node has applied all that is committed.
    async fn nonexistent(&mut self) -> Option<(Position, Position)> {
        let core = &self.invalidations.core;
        if core.group.read_barrier(core.patience.read).await.is_ok()
            && let (_, (Found::Ahead, first, next)) = core.group.read(|state| {
                let first = Position { epoch: state.epoch(), offset: state.invalidations_kept().0 };
                (find(state, self.position), first, end(state))
            })
        {
            return Some((first, next));
        }
        let _ = tokio::time::timeout(AHEAD_PAUSE, self.changed()).await;
        None
    }

    async fn changed(&mut self) {
        if self.wake.changed().await.is_err() {
            // The group is gone, and with it everything that could be told.
            std::future::pending::<()>().await;
        }
    }

    fn spacing(&self) -> Duration {
        let subscribers = u32::try_from(self.invalidations.subscribers()).unwrap_or(u32::MAX);
        let spacing = LOOK_SPACING_PER_SUBSCRIBER.saturating_mul(subscribers);
        if spacing < LOOK_SPACING_MIN { Duration::ZERO } else { spacing }
    }
}
