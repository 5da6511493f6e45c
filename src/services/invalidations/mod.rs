//! The invalidation log: which cached values are no longer true, in the one order that every node has.
//!
//! An invalidation is an entry of the replicated log like any other, so it is lost with no node, and has its place
//! among grants of locks: "invalidate, then unlock" is seen in that order by the next holder. The newest entries are
//! kept in the state; whoever follows them ([`Subscription`]) pulls at its own pace, and nothing is queued for it.
//!
//! On each node the applier ([`applier`]) clears the local caches ([`Registry`]) entry by entry, and reports how far it
//! is. A barrier ([`Wait`]) waits for these reports: `barrier.rs`.
//!
//! # What a barrier promises
//!
//! When [`Wait::All`] is over with nobody missing, every call that begins anywhere in the cluster gets what was written
//! to the database before the invalidation. Members that have been inactive for a while are not waited for; they serve
//! nothing from their caches by then: see *Trust* at [`applier`].

pub mod applier;
mod awake;
mod barrier;
mod follow;
mod position;

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::command::Invalidate;
use ovncp_state::invalidations::Invalidation;
use ovncp_state::{Command, InvalidationOffset, LogIndex, Millis, NodeId, Reply, RequestKey, State};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::reads::Freshness;
use super::{Core, ServiceError};
use crate::cache::{Cache, CacheOptions, Clear, Key, Registry};
use crate::telemetry::metrics::InvalidationMetrics;
use awake::Awake;
use barrier::Absent;
pub use barrier::{Barrier, Wait};
pub use follow::{Step, Subscription};
pub use position::{NoPosition, Position};

/// Subscribers of one node, at most. Fewer when the listener takes few connections: see [`Invalidations::new`].
pub const SUBSCRIBERS_MAX: usize = 10_000;

/// The log, and what it clears on this node.
#[derive(Clone)]
pub struct Invalidations {
    core: Core,
    caches: Arc<Registry>,
    metrics: Arc<InvalidationMetrics>,
    progress: Arc<watch::Sender<Progress>>,
    places: Arc<Semaphore>,
    places_max: usize,
    absent: Arc<Absent>,
    awake: Arc<Awake>,
    node_timeout: Duration,
}

/// How far this node has cleared its caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// Everything before it is cleared.
    cleared: Position,
    /// Everything that somebody waits for lies before it.
    waited_for: InvalidationOffset,
}

/// What somebody no longer wants to see.
#[derive(Clone, Debug)]
pub struct Ask {
    /// As [`Pattern`](crate::cache::Pattern) reads them.
    pub patterns: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Who must have cleared it before the answer.
    pub wait: Wait,
    /// How long to wait for them at most.
    pub timeout: Duration,
    /// Identity of a retry.
    pub retry: Option<RequestKey>,
}

/// An entry that is in the log.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Index of the entry in the log of the group.
    pub index: LogIndex,
    /// Its place.
    pub position: Position,
    /// Who has cleared it.
    pub barrier: Barrier,
}

/// A look at the log.
#[derive(Clone, Debug)]
pub struct Page {
    /// First entry that is kept.
    pub first: Position,
    /// Where the next one goes.
    pub next: Position,
    /// Cluster clock.
    pub now: Millis,
    /// Those that were asked for, each with the name of the node where it was asked for; or they are no longer kept.
    pub entries: Option<Vec<(Arc<Invalidation>, String)>>,
    /// How far each member is.
    pub nodes: Vec<NodeProgress>,
}

/// How far one member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProgress {
    /// Its name.
    pub name: String,
    /// Everything before it is cleared there, as it last reported.
    pub cleared: InvalidationOffset,
    /// Entries behind.
    pub lag: u64,
}

impl Invalidations {
    /// The log of the group, for at most half as many subscribers as there may be connections. `node_timeout` is the
    /// time after which a silent member is inactive. Nothing is cleared before it [runs](Self::run), and no cache
    /// trusted.
    #[must_use]
    pub fn new(core: Core, connections_max: usize, node_timeout: Duration) -> Self {
        // Now, before any cache of this node can hold anything: what comes later is cleared.
        let cleared = core.group.read(end).1;
        let progress = Progress { cleared, waited_for: InvalidationOffset(0) };
        let places_max = SUBSCRIBERS_MAX.min(connections_max / 2).max(1);
        let progress = Arc::new(watch::Sender::new(progress));
        let awake = Arc::<Awake>::default();
        let fence = applier::fence(core.group.clone(), &progress, Arc::clone(&awake));
        let caches = Arc::new(Registry::untrusted(fence));
        let metrics = Arc::new(InvalidationMetrics::new(Arc::clone(&caches)));
        metrics.cleared_to(cleared.offset);
        Self {
            core,
            metrics,
            caches,
            progress,
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            absent: Arc::default(),
            awake,
            node_timeout,
        }
    }

    /// What it counts, with its caches.
    #[must_use]
    pub fn metrics(&self) -> &Arc<InvalidationMetrics> {
        &self.metrics
    }

    /// Whether the caches serve what they keep.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.caches.is_trusted()
    }

    /// Clears the caches of this node, and of no other: for what every node learns by itself.
    pub fn clear_here(&self, clear: &Arc<Clear>) {
        self.caches.clear(clear);
    }

    /// A new cache that the log clears.
    pub fn cache<K, V>(&self, options: CacheOptions<V>) -> Cache<K, V>
    where
        K: Key + ?Sized,
        V: Clone + Send + Sync + 'static,
    {
        self.caches.cache(options)
    }

    /// Appends an entry and waits for those who must have cleared it. This node has, unless it is far behind, when it
    /// returns. Everything counts from the beginning of the call: it takes no longer than the time-out of the barrier or
    /// the patience with proposals, whichever is longer.
    ///
    /// A time-out of the barrier is no error: the entry is in the log and will be cleared everywhere.
    pub async fn invalidate(&self, ask: Ask) -> Result<Appended, ServiceError> {
        let asked = Instant::now();
        let origin = self.core.node_id()?;
        let command = Command::Invalidate(Invalidate {
            patterns: ask.patterns,
            tags: ask.tags,
            origin,
            waited_for: ask.wait != Wait::None,
        });
        let committed = self.core.propose(ask.retry, command).await?;
        let position = match committed.reply {
            Reply::Invalidated { epoch, offset } => Position { epoch, offset },
            Reply::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(ServiceError::UnexpectedReply { command: "Invalidate" }),
        };
        let mut progress = self.progress.subscribe();
        let cleared = progress.wait_for(|progress| progress.cleared > position);
        if tokio::time::timeout_at(asked + self.core.patience.propose, cleared).await.is_ok() {
            self.metrics.delivered(asked.elapsed());
        }
        let barrier = self.barrier(position, ask.wait, asked + ask.timeout).await;
        Ok(Appended { index: committed.index, position, barrier })
    }

    /// At most `limit` entries from `since` on, or the oldest that are kept.
    pub async fn page(
        &self,
        since: Option<Position>,
        limit: usize,
        freshness: Freshness,
    ) -> Result<(LogIndex, Page), ServiceError> {
        self.core.read(freshness, |state| look(state, since, limit)).await
    }

    /// Follows the log from `since` on, or from now on.
    pub fn subscribe(&self, since: Option<Position>) -> Result<Subscription, ServiceError> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| ServiceError::TooMany { limit: "invalidation_subscribers", max: self.places_max })?;
        let wake = self.core.group.invalidations_watch();
        let position = since.unwrap_or_else(|| self.core.group.read(end).1);
        Ok(Subscription::new(self.clone(), position, wake, place))
    }

    /// How many follow it here.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// Everything before it is cleared on this node.
    #[must_use]
    pub fn cleared(&self) -> Position {
        self.progress.borrow().cleared
    }
}

/// Where the next entry goes.
fn end(state: &State) -> Position {
    Position { epoch: state.epoch(), offset: state.invalidations_kept().1 }
}

fn look(state: &State, since: Option<Position>, limit: usize) -> Page {
    let (first, next) = state.invalidations_kept();
    let at = |offset| Position { epoch: state.epoch(), offset };
    let since = since.unwrap_or(at(first));
    let entries = match since.epoch == state.epoch() {
        true => state.invalidations(since.offset, limit).ok(),
        false => None,
    };
    let named = |entry: Arc<Invalidation>| {
        let origin = name(state, entry.origin);
        (entry, origin)
    };
    let reports = state.cleared();
    let nodes = state.nodes().into_iter().map(|node| {
        let cleared =
            reports.iter().find(|(id, _)| *id == node.id).map(|(_, cleared)| *cleared).unwrap_or_default();
        NodeProgress { lag: next.0.saturating_sub(cleared.0), name: node.name, cleared }
    });
    Page {
        first: at(first),
        next: at(next),
        now: state.now(),
        entries: entries.map(|entries| entries.into_iter().map(named).collect()),
        nodes: nodes.collect(),
    }
}

/// As people call it; one that the state has forgotten keeps its number.
fn name(state: &State, id: NodeId) -> String {
    state.node(id).map_or_else(|| id.to_string(), |node| node.name)
}
