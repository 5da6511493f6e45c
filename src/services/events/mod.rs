//! What happened, in the one order that every node has.
//!
//! Events live in a bounded ring of the replicated state. A [`Watcher`] pulls from it at its own pace; nobody
//! queues anything for it. So a slow watcher costs no memory, one that falls behind the ring is told so
//! ([`Step::Reset`]), and one that changes nodes goes on where it was. What many watchers want at once is
//! fetched and rendered once ([`Kept`], `recent`).
//!
//! CAVEAT. A node without a leader applies nothing, so its watchers hear nothing; they hear everything later.

mod recent;

use std::sync::Arc;
use std::time::Duration;

use ovncp_raft::status::Phase;
use ovncp_state::view::EventsReset;
use ovncp_state::{EventOffset, LogIndex, State};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::{Core, ServiceError};
pub use recent::Kept;
use recent::{Gap, Recent};

/// Watchers of one node, at most. Fewer when the listener takes few connections: see [`Events::new`].
pub const WATCHERS_MAX: usize = 10_000;
/// Each watcher lets the next look of any one of them come so much later: a thousand of them look 100 times per
/// second each, one of them at once.
const LOOK_SPACING_PER_WATCHER: Duration = Duration::from_micros(10);
/// Spacing below the resolution of the timer is none.
const LOOK_SPACING_MIN: Duration = Duration::from_millis(1);
/// Pause before this node asks again whether an offset that it does not know yet exists.
const AHEAD_PAUSE: Duration = Duration::from_millis(500);

/// Events of the group.
#[derive(Clone)]
pub struct Events {
    core: Core,
    recent: Arc<Recent>,
    places: Arc<Semaphore>,
    places_max: usize,
}

/// What a watcher learns next.
#[derive(Debug)]
pub enum Step {
    /// At least one event, in order, right after what was told before.
    Events(Vec<Arc<Kept>>),
    /// Some events are lost for this watcher; it goes on with `first`.
    Reset(EventsReset),
}

impl Events {
    /// Events of the group, for at most half as many watchers as there may be connections: requests need some.
    #[must_use]
    pub fn new(core: Core, connections_max: usize) -> Self {
        let places_max = WATCHERS_MAX.min(connections_max / 2).max(1);
        let places = Arc::new(Semaphore::new(places_max));
        Self { core, recent: Arc::default(), places, places_max }
    }

    /// Watches from `since` on, or from now on, together with one look at the state at that very position.
    pub fn watch<T>(
        &self,
        since: Option<EventOffset>,
        look: impl FnOnce(&State) -> T,
    ) -> Result<(Watcher, LogIndex, T), ServiceError> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| ServiceError::TooMany { limit: "event_watchers", max: self.places_max })?;
        let wake = self.core.group.events_watch();
        let (index, (next, seen)) = self.core.group.read(|state| (state.cluster().events.1, look(state)));
        let watcher = Watcher {
            events: self.clone(),
            position: since.unwrap_or(next),
            wake,
            looked: None,
            _place: place,
        };
        Ok((watcher, index, seen))
    }

    /// A look at the state.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.core.group.read(look).1
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// Whether this node will never tell anything again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.core.group.status_watch().borrow().phase, Phase::Stopped { .. })
    }

    fn spacing(&self) -> Duration {
        let watchers = u32::try_from(self.watchers()).unwrap_or(u32::MAX);
        let spacing = LOOK_SPACING_PER_WATCHER.saturating_mul(watchers);
        if spacing < LOOK_SPACING_MIN { Duration::ZERO } else { spacing }
    }

    fn page(&self, since: EventOffset) -> Result<Vec<Arc<Kept>>, Gap> {
        let fetch = |state: &State, limit| Ok((state.now(), state.events(since, limit)?));
        self.recent.page(since, |limit| self.core.group.read(|state| fetch(state, limit)).1)
    }
}

/// One who watches. Dropped, it frees its place.
pub struct Watcher {
    events: Events,
    position: EventOffset,
    wake: watch::Receiver<EventOffset>,
    looked: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// Offset of the event that comes next; everything before it was told.
    #[must_use]
    pub fn position(&self) -> EventOffset {
        self.position
    }

    /// What it belongs to.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Goes on with what happens from now on, together with one look at the state at that very position.
    pub fn skip<T>(&mut self, look: impl FnOnce(&State) -> T) -> T {
        let (next, seen) = self.events.look(|state| (state.cluster().events.1, look(state)));
        self.position = next;
        seen
    }

    /// Waits for what comes next. Cancel-safe: what was not returned comes again.
    pub async fn next(&mut self) -> Step {
        loop {
            // A long replay must not keep its thread from others.
            tokio::task::consume_budget().await;
            if let Some(looked) = self.looked {
                let due = looked + self.events.spacing();
                if due > Instant::now() {
                    tokio::time::sleep_until(due).await;
                }
            }
            // Before the look: what is applied after it wakes us again.
            self.wake.borrow_and_update();
            match self.events.page(self.position) {
                Ok(page) => {
                    if let Some(last) = page.last() {
                        self.looked = Some(Instant::now());
                        self.position = EventOffset(last.event.offset.0 + 1);
                        return Step::Events(page);
                    }
                    self.changed().await;
                }
                Err(Gap::Behind(reset)) => return self.reset(reset),
                Err(Gap::Ahead) => {
                    if let Some(reset) = self.nonexistent().await {
                        return self.reset(reset);
                    }
                }
            }
        }
    }

    fn reset(&mut self, reset: EventsReset) -> Step {
        self.position = reset.first;
        Step::Reset(reset)
    }

    /// This node has not applied so far: it lags behind the one that told the offset, or nobody ever gave it
    /// (another cluster did). Which of the two is known once this node has applied all that is committed.
    async fn nonexistent(&mut self) -> Option<EventsReset> {
        let group = &self.events.core.group;
        if group.read_barrier(self.events.core.patience.read).await.is_ok()
            && let (_, Err(reset)) = group.read(|state| state.events(self.position, 0))
        {
            return Some(reset);
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
}
