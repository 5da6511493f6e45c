//! One cache without time and tasks: who asks gets a value, joins a load or begins one.
//!
//! Two rules keep stale values out, and a test explores every order in which their parts can happen (`explore.rs`):
//!
//! - A loaded value is *kept* unless a clear that means it came after the load began.
//! - A loaded value is *given* to a call that joined its load unless a clear that means it came before that call: who
//!   calls after a clear never sees what was read before it. A load that began after the call is always good enough.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::LoadError;
use super::journal::{Clear, Journal, Stamp};
use super::shelf::{Bounds, ENTRY_BYTES, Entry, Shelf, Taken};

/// What caches count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Calls that were answered by a kept value.
    pub hits: u64,
    /// Calls that were not.
    pub misses: u64,
    /// Values that were given up for want of room.
    pub evictions: u64,
    /// Values that were cleared.
    pub cleared: u64,
    /// Loaded values that were not kept, since something that means them was cleared after the load began.
    pub inconsistencies: u64,
    /// Loads that failed.
    pub failures: u64,
    /// Values that are kept now.
    pub entries: u64,
    /// Their bytes, roughly.
    pub bytes: u64,
}

/// When something is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// Everything that is said so far is cleared.
    pub(super) current: bool,
}

/// A call on its way to a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Calls are counted.
    number: u64,
    /// Clears before it must be seen.
    since: Stamp,
    /// Whether what was read before it is good enough at all.
    trusting: bool,
}

pub(super) enum Asked<V> {
    Hit(V),
    /// Somebody else loads it.
    Join(watch::Receiver<Option<Outcome<V>>>),
    /// The caller loads it.
    Load(Ticket<V>),
}

/// The right and duty to load: to be finished or abandoned.
pub(super) struct Ticket<V> {
    name: Arc<str>,
    stamp: Stamp,
    began: u64,
    tell: watch::Sender<Option<Outcome<V>>>,
}

/// How a load ended, for those who joined it.
#[derive(Clone)]
pub(super) enum Outcome<V> {
    Loaded { value: V, began: u64, stale_since: Option<Stamp> },
    Failed(LoadError),
}

/// A loaded value on its way to the shelf.
pub(super) struct Fill<V> {
    pub(super) value: V,
    pub(super) tags: Box<[Arc<str>]>,
    pub(super) bytes: usize,
    pub(super) ends: Option<Instant>,
}

pub(super) struct Desk<V> {
    shelf: Shelf<V>,
    journal: Journal,
    loading: BTreeMap<Arc<str>, watch::Receiver<Option<Outcome<V>>>>,
    calls: u64,
    /// Until when what was read before a call may be served; none: for ever.
    trusted_until: Option<Instant>,
    counters: CacheCounters,
    /// A rule left out, to show that it is needed.
    #[cfg(test)]
    pub(super) mutant: Option<Mutant>,
}

#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// Loads are stamped when they end.
    StampAtEnd,
    /// Whoever joins a load takes what comes.
    JoinAnything,
    /// A cache that is not trusted any more goes on as ever.
    TrustsForEver,
}

impl<V: Clone> Desk<V> {
    pub(super) fn new(bounds: Bounds, trusted_until: Option<Instant>) -> Self {
        Self {
            shelf: Shelf::new(bounds),
            journal: Journal::default(),
            loading: BTreeMap::new(),
            calls: 0,
            trusted_until,
            counters: CacheCounters::default(),
            #[cfg(test)]
            mutant: None,
        }
    }

    /// A call begins.
    pub(super) fn call(&mut self, moment: Moment) -> Call {
        self.calls += 1;
        Call { number: self.calls, since: self.journal.now(), trusting: self.trusts(moment) }
    }

    /// The kept value, if it may be served. Counted.
    pub(super) fn get(&mut self, name: &str, moment: Moment) -> Option<V> {
        let found = self.kept(name, moment);
        let counter = if found.is_some() { &mut self.counters.hits } else { &mut self.counters.misses };
        *counter += 1;
        found
    }

    /// What a call does for a value. Not counted: it may have to ask again.
    pub(super) fn ask(&mut self, name: &Arc<str>, moment: Moment) -> Asked<V> {
        if let Some(kept) = self.kept(name, moment) {
            return Asked::Hit(kept);
        }
        if let Some(outcome) = self.loading.get(name) {
            return Asked::Join(outcome.clone());
        }
        let (tell, outcome) = watch::channel(None);
        self.loading.insert(Arc::clone(name), outcome);
        Asked::Load(Ticket { name: Arc::clone(name), stamp: self.journal.begin(), began: self.calls, tell })
    }

    /// Counts a call by the first thing that it was told.
    pub(super) fn count(&mut self, asked: &Asked<V>) {
        match asked {
            Asked::Hit(_) => self.counters.hits += 1,
            Asked::Join(_) | Asked::Load(_) => self.counters.misses += 1,
        }
    }

    fn kept(&mut self, name: &str, moment: Moment) -> Option<V> {
        if self.trusts(moment) { self.shelf.get(name, moment.now).cloned() } else { None }
    }

    /// Whether a call may take what a load that it joined has brought. If not, it asks again, once: the next load
    /// begins after it.
    pub(super) fn accepts(&self, call: Call, began: u64, stale_since: Option<Stamp>) -> bool {
        #[cfg(test)]
        if self.mutant == Some(Mutant::JoinAnything) {
            return true;
        }
        began >= call.number || (call.trusting && stale_since.is_none_or(|stale| stale >= call.since))
    }

    /// A load is done: keeps what it brought, if nothing speaks against it, and tells those who joined.
    pub(super) fn finish(&mut self, ticket: Ticket<V>, loaded: Result<Fill<V>, LoadError>) -> Taken<V> {
        #[cfg(test)]
        let stamp = if self.mutant == Some(Mutant::StampAtEnd) { self.journal.now() } else { ticket.stamp };
        #[cfg(not(test))]
        let stamp = ticket.stamp;
        let stale_since = match &loaded {
            Ok(fill) => self.journal.first_since(stamp, &ticket.name, &fill.tags),
            Err(_) => None,
        };
        // Before any code that is not ours, which may panic: nobody may wait for what will not come.
        self.over(&ticket);
        let (outcome, taken) = match loaded {
            Ok(fill) => {
                let value = fill.value.clone();
                let outcome = Outcome::Loaded { value, began: ticket.began, stale_since };
                if stale_since.is_some() {
                    self.counters.inconsistencies += 1;
                    (outcome, Vec::new())
                } else {
                    (outcome, self.keep(&ticket.name, fill))
                }
            }
            Err(error) => {
                self.counters.failures += 1;
                (Outcome::Failed(error), Vec::new())
            }
        };
        ticket.tell.send_replace(Some(outcome));
        taken
    }

    /// A load ends without an outcome. Those who joined hear of it and ask again.
    pub(super) fn abandon(&mut self, ticket: &Ticket<V>) {
        self.over(ticket);
    }

    fn over(&mut self, ticket: &Ticket<V>) {
        self.loading.remove(&ticket.name);
        self.journal.end(ticket.stamp);
    }

    fn keep(&mut self, name: &Arc<str>, fill: Fill<V>) -> Taken<V> {
        let tags: usize = fill.tags.iter().map(|tag| tag.len() + size_of::<Arc<str>>()).sum();
        let bytes = fill.bytes.saturating_add(name.len() + tags + ENTRY_BYTES);
        let entry = Entry::new(fill.value, fill.tags, bytes, fill.ends);
        let evicted = self.shelf.insert(Arc::clone(name), entry);
        self.counters.evictions += evicted.len() as u64;
        evicted
    }

    /// Takes out what `clear` means, and refuses what is being loaded of it.
    pub(super) fn clear(&mut self, clear: &Arc<Clear>) -> Taken<V> {
        self.journal.push(clear);
        let taken = self.shelf.clear(clear);
        self.counters.cleared += taken.len() as u64;
        taken
    }

    /// Serves what was read before a call only until then: later, what was cleared elsewhere may not have come here.
    pub(super) fn trust(&mut self, until: Option<Instant>) {
        self.trusted_until = until;
    }

    pub(super) fn counters(&self) -> CacheCounters {
        CacheCounters { entries: self.shelf.len() as u64, bytes: self.shelf.bytes() as u64, ..self.counters }
    }

    fn trusts(&self, moment: Moment) -> bool {
        #[cfg(test)]
        if self.mutant == Some(Mutant::TrustsForEver) {
            return true;
        }
        moment.current && self.trusted_until.is_none_or(|until| moment.now < until)
    }
}
