//! The caches of one node, which the log clears together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::{Cache, CacheCounters, CacheOptions, Clear, Clearable, Fence, Key};

/// Caches that are cleared together. Those that are dropped leave by themselves.
#[derive(Default)]
pub struct Registry(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    caches: Vec<Weak<dyn Clearable>>,
    trusted_until: Option<Instant>,
    fence: Option<Fence>,
}

impl Registry {
    /// Caches that are not trusted before [`trust`](Self::trust) says so, nor while `fence` does not hold.
    #[must_use]
    pub fn untrusted(fence: Fence) -> Self {
        let trusted_until = Some(Instant::now());
        Self(Mutex::new(Inner { caches: Vec::new(), trusted_until, fence: Some(fence) }))
    }

    /// A new cache, empty and registered before anybody can use it.
    pub fn cache<K, V>(&self, options: CacheOptions<V>) -> Cache<K, V>
    where
        K: Key + ?Sized,
        V: Clone + Send + Sync + 'static,
    {
        let mut inner = self.lock();
        let cache = Cache::make(options, inner.trusted_until, inner.fence.clone());
        let shared: Arc<dyn Clearable> = cache.shared.clone();
        inner.caches.push(Arc::downgrade(&shared));
        cache
    }

    /// Clears all of them. When it returns, no call on this node that begins then sees what was meant.
    pub fn clear(&self, clear: &Arc<Clear>) {
        // Not under the lock: a large cache takes its time. One that is made meanwhile has loaded nothing yet.
        self.live().iter().for_each(|cache| cache.clear(clear));
    }

    /// Until then, what was read before a call may be served; later every call loads anew. None: for ever.
    pub fn trust(&self, until: Option<Instant>) {
        let mut inner = self.lock();
        inner.trusted_until = until;
        inner.caches.iter().filter_map(Weak::upgrade).for_each(|cache| cache.trust(until));
    }

    /// Whether they serve what they keep.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.lock().trusted_until.is_none_or(|until| Instant::now() < until)
    }

    /// What they counted, by name. Caches of one name count as one.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, CacheCounters> {
        let mut all = BTreeMap::<_, CacheCounters>::new();
        for cache in self.live() {
            let counters = cache.counters();
            let sum = all.entry(cache.name()).or_default();
            sum.hits += counters.hits;
            sum.misses += counters.misses;
            sum.evictions += counters.evictions;
            sum.cleared += counters.cleared;
            sum.inconsistencies += counters.inconsistencies;
            sum.failures += counters.failures;
            sum.entries += counters.entries;
            sum.bytes += counters.bytes;
        }
        all
    }

    fn live(&self) -> Vec<Arc<dyn Clearable>> {
        let mut inner = self.lock();
        inner.caches.retain(|cache| cache.strong_count() > 0);
        inner.caches.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
