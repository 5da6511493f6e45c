//! A local cache that the invalidation log clears: what is loaded once is served from memory until somebody says that
//! it is no longer true.
//!
//! ```
//! use ovncp::cache::{Cache, CacheOptions, Loaded};
//! # #[derive(Debug, thiserror::Error)] #[error("no database")] struct NoDatabase;
//! # async fn read_ports(_: &str) -> Result<Vec<String>, NoDatabase> { Ok(vec!["p1".to_owned()]) }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On a node: `invalidations.cache(...)`, which the log clears. By itself it is an ordinary cache.
//! let ports: Cache<String, Vec<String>> = Cache::new(CacheOptions::new("ports"));
//! let key = "switch:42:ports".to_owned();
//! let load = || async { Ok::<_, NoDatabase>(Loaded::new(read_ports("42").await?).tag("topology")) };
//! assert_eq!(ports.get_or_load(&key, load).await?, ["p1"]);
//! assert_eq!(ports.get(&key), Some(vec!["p1".to_owned()]));
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - **No stale value after a clear.** A call that begins after something was cleared here never gets what was read
//!   before that: not from the cache, not from a load that it joins, and not later, when a slow load would put the old
//!   value back. So: write to the database, *then* invalidate; with `wait=all` every call on every node that begins
//!   after the answer sees the write.
//! - **One load at a time** per key, whoever asks. A load belongs to the call that began it: when that call is dropped or
//!   panics, one of those who joined begins anew. A failed load fails for those who joined it; errors are not kept.
//! - **Bounded**: by entries and by bytes, least recently used first, and by time to live.
//! - **Bypassed rather than stale.** A node that has not heard of a majority for a while serves nothing that it read
//!   before the call ([`Registry::trust`]): the others may have counted it out of a barrier.
//!
//! # What it relies on
//!
//! Loads must read the primary database: a lagging replica would refill what was just cleared. Two keys of the same
//! name are one key. Values are cloned out: keep large ones in an `Arc`.
//!
//! # Map
//!
//! `pattern.rs` says which names a pattern means, `journal.rs` remembers clears for loads under way, `shelf.rs` keeps
//! values, `desk.rs` decides, `explore.rs` tries every order of its steps; here are time, tasks and the public type.

mod desk;
#[cfg(test)]
mod explore;
mod journal;
mod pattern;
mod registry;
mod shelf;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use desk::CacheCounters;
use desk::{Asked, Desk, Fill, Moment, Outcome, Ticket};
pub use journal::Clear;
pub use pattern::{PATTERN_BYTES_MAX, Pattern, PatternError};
pub use registry::Registry;
use shelf::Bounds;

/// Entries of one cache unless it is told otherwise.
pub const ENTRIES_MAX_DEFAULT: usize = 10_000;
/// Bytes of one cache unless it is told otherwise.
pub const BYTES_MAX_DEFAULT: usize = 64 * 1_024 * 1_024;
/// Time to live unless it is told otherwise. Bounds how long a value outlives a change that nobody invalidated.
pub const TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// What a value is kept under.
pub trait Key {
    /// Its name, which patterns are compared with.
    fn name(&self) -> Cow<'_, str>;
}

impl<T: AsRef<str> + ?Sized> Key for T {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.as_ref())
    }
}

/// How a cache is made.
#[derive(Clone)]
pub struct CacheOptions<V> {
    name: &'static str,
    entries_max: usize,
    bytes_max: usize,
    ttl: Duration,
    weigh: fn(&V) -> usize,
}

impl<V> CacheOptions<V> {
    /// A cache of this name (a label of its metrics) with the default bounds. Values count as large as they are
    /// themselves, without what they point to.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            entries_max: ENTRIES_MAX_DEFAULT,
            bytes_max: BYTES_MAX_DEFAULT,
            ttl: TTL_DEFAULT,
            weigh: |_| size_of::<V>(),
        }
    }

    /// At most so many entries.
    #[must_use]
    pub fn entries_max(mut self, entries: usize) -> Self {
        self.entries_max = entries;
        self
    }

    /// At most so many bytes: names, tags, values as `weigh` tells, and what keeps them.
    #[must_use]
    pub fn bytes_max(mut self, bytes: usize, weigh: fn(&V) -> usize) -> Self {
        (self.bytes_max, self.weigh) = (bytes, weigh);
        self
    }

    /// Nothing is kept for longer.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}

impl<V> fmt::Debug for CacheOptions<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheOptions")
            .field("name", &self.name)
            .field("entries_max", &self.entries_max)
            .field("bytes_max", &self.bytes_max)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// What a load brings.
#[derive(Clone, Debug)]
pub struct Loaded<V> {
    value: V,
    tags: Vec<Arc<str>>,
    ttl: Option<Duration>,
}

impl<V> Loaded<V> {
    /// A value without tags.
    #[must_use]
    pub fn new(value: V) -> Self {
        Self { value, tags: Vec::new(), ttl: None }
    }

    /// It goes when this tag is cleared.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
        self.tags.push(tag.as_ref().into());
        self
    }

    /// It is not kept for longer, nor for longer than anything in its cache.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// Why a value could not be loaded. Everybody who waited for it gets the same one.
#[derive(Clone, Debug)]
pub struct LoadError(Arc<dyn std::error::Error + Send + Sync>);

impl LoadError {
    /// From what the load said.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// What the load said.
    #[must_use]
    pub fn get(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Values by key. Clones share them.
pub struct Cache<K: ?Sized, V> {
    shared: Arc<Shared<V>>,
    key: PhantomData<fn(&K)>,
}

impl<K: ?Sized, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), key: PhantomData }
    }
}

impl<K: ?Sized, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.shared.options.name).finish_non_exhaustive()
    }
}

struct Shared<V> {
    options: CacheOptions<V>,
    desk: Mutex<Desk<V>>,
    fence: Option<Fence>,
}

/// Whether everything that is said so far is cleared. Asked at every call.
pub type Fence = Arc<dyn Fn() -> bool + Send + Sync>;

impl<V> Shared<V> {
    fn moment(&self) -> Moment {
        Moment { now: Instant::now(), current: self.fence.as_ref().is_none_or(|fence| fence()) }
    }

    fn desk(&self) -> MutexGuard<'_, Desk<V>> {
        // Valid between any two statements: a panic of somebody's `clone` or `weigh` does not spoil it.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key + ?Sized, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// A cache that nobody clears but its owner. Those of a node are made by [`Registry::cache`].
    #[must_use]
    pub fn new(options: CacheOptions<V>) -> Self {
        Self::make(options, None, None)
    }

    fn make(options: CacheOptions<V>, trusted_until: Option<Instant>, fence: Option<Fence>) -> Self {
        let bounds = Bounds { entries_max: options.entries_max, bytes_max: options.bytes_max };
        let desk = Mutex::new(Desk::new(bounds, trusted_until));
        Self { shared: Arc::new(Shared { options, desk, fence }), key: PhantomData }
    }

    /// The kept value.
    pub fn get(&self, key: &K) -> Option<V> {
        let moment = self.shared.moment();
        self.shared.desk().get(&key.name(), moment)
    }

    /// The kept value, or what `load` brings. `load` is called at most once, and not before the cache has noted that it
    /// begins; it runs within this call. Whoever asks for the same key meanwhile waits for it.
    pub async fn get_or_load<F, T, E>(&self, key: &K, load: F) -> Result<V, LoadError>
    where
        F: FnOnce() -> T,
        T: Future<Output = Result<Loaded<V>, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let name: Arc<str> = key.name().into();
        let (call, mut asked) = {
            let moment = self.shared.moment();
            let mut desk = self.shared.desk();
            let call = desk.call(moment);
            let asked = desk.ask(&name, moment);
            desk.count(&asked);
            (call, asked)
        };
        loop {
            let mut outcome = match asked {
                Asked::Hit(kept) => return Ok(kept),
                Asked::Load(ticket) => return self.load(ticket, load).await,
                Asked::Join(outcome) => outcome,
            };
            let told = outcome.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
            match told {
                Some(Outcome::Loaded { value, began, stale_since })
                    if self.shared.desk().accepts(call, began, stale_since) =>
                {
                    return Ok(value);
                }
                Some(Outcome::Failed(error)) => return Err(error),
                // It was read too early for this call, or whoever loaded it is gone.
                Some(Outcome::Loaded { .. }) | None => {}
            }
            let moment = self.shared.moment();
            asked = self.shared.desk().ask(&name, moment);
        }
    }

    async fn load<F, T, E>(&self, ticket: Ticket<V>, load: F) -> Result<V, LoadError>
    where
        F: FnOnce() -> T,
        T: Future<Output = Result<Loaded<V>, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let guard = Guard { shared: &self.shared, ticket: Some(ticket) };
        match load().await {
            Ok(loaded) => {
                let value = loaded.value.clone();
                let options = &self.shared.options;
                let fill = Fill {
                    bytes: (options.weigh)(&loaded.value),
                    value: loaded.value,
                    tags: loaded.tags.into(),
                    ends: Instant::now().checked_add(loaded.ttl.unwrap_or(options.ttl).min(options.ttl)),
                };
                guard.finish(Ok(fill));
                Ok(value)
            }
            Err(error) => {
                let error = LoadError::new(error);
                guard.finish(Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Takes out what is meant, and keeps nothing of it that is being loaded now.
    pub fn clear(&self, clear: &Arc<Clear>) {
        Clearable::clear(&*self.shared, clear);
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        self.shared.desk().counters()
    }
}

/// A load under way. Dropped before its end, it makes way for another one.
struct Guard<'a, V: Clone> {
    shared: &'a Shared<V>,
    ticket: Option<Ticket<V>>,
}

impl<V: Clone> Guard<'_, V> {
    fn finish(mut self, loaded: Result<Fill<V>, LoadError>) {
        if let Some(ticket) = self.ticket.take() {
            // What had to go is dropped when the desk is free again.
            let taken = self.shared.desk().finish(ticket, loaded);
            drop(taken);
        }
    }
}

impl<V: Clone> Drop for Guard<'_, V> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.desk().abandon(&ticket);
        }
    }
}

/// What the log does to a cache, whatever it keeps.
trait Clearable: Send + Sync {
    fn name(&self) -> &'static str;
    fn clear(&self, clear: &Arc<Clear>);
    fn trust(&self, until: Option<Instant>);
    fn counters(&self) -> CacheCounters;
}

impl<V: Clone + Send + Sync> Clearable for Shared<V> {
    fn name(&self) -> &'static str {
        self.options.name
    }

    fn clear(&self, clear: &Arc<Clear>) {
        let taken = self.desk().clear(clear);
        drop(taken);
    }

    fn trust(&self, until: Option<Instant>) {
        self.desk().trust(until);
    }

    fn counters(&self) -> CacheCounters {
        self.desk().counters()
    }
}
