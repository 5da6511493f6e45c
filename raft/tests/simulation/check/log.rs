//! The one log that all nodes must agree on: who led, what stands at each index, and what state follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ovncp_raft::Observer;
use ovncp_state::{ClusterId, EventKind, LogIndex, NodeId, Reply, StateHash};
use ovncp_storage::sink::AppliedEntry;
use ovncp_storage::types::Origin;

use crate::check::locks::{Granted, Released};
use crate::trace::{Digest, Trace};

/// Everything nodes ever claimed. The first claim counts; whoever differs later is wrong.
pub struct Ledger {
    trace: Trace,
    claims: Mutex<Claims>,
}

/// What was claimed so far.
#[derive(Default)]
pub struct Claims {
    /// By index: term and effects, as a digest, and who said so first.
    entries: BTreeMap<u64, (u64, u64, String)>,
    leaders: BTreeMap<u64, (NodeId, String)>,
    states: BTreeMap<u64, (StateHash, String)>,
    /// Where the proposal of each caller stands: once, however often it was handed on.
    origins: BTreeMap<Origin, u64>,
    clusters: BTreeMap<ClusterId, String>,
    /// Grants by token.
    pub granted: BTreeMap<u64, Granted>,
    /// How they ended.
    pub released: BTreeMap<u64, Released>,
    /// Tokens whose lease was renewed.
    pub renewed: BTreeSet<u64>,
    /// Revisions that register writes got.
    pub written: BTreeMap<u64, u64>,
    /// Snapshots that replaced a state.
    pub installs: u64,
}

impl Ledger {
    pub fn new(trace: Trace) -> Arc<Self> {
        Arc::new(Self { trace, claims: Mutex::default() })
    }

    /// Looks at what was claimed.
    pub fn look<T>(&self, look: impl FnOnce(&Claims) -> T) -> T {
        look(&self.lock())
    }

    /// Highest index that any node applied.
    pub fn last_applied(&self) -> u64 {
        self.look(|claims| claims.entries.keys().next_back().copied().unwrap_or(0))
    }

    /// Terms with a leader.
    pub fn terms(&self) -> usize {
        self.look(|claims| claims.leaders.len())
    }

    /// `who` says that `leader` leads `term`.
    pub fn leads(&self, who: &str, term: u64, leader: NodeId) {
        let mut claims = self.lock();
        let (first, by) = claims.leaders.entry(term).or_insert_with(|| {
            self.trace.note(format_args!("{who}: node {leader} leads term {term}"));
            (leader, who.to_owned())
        });
        if *first != leader {
            self.trace.violation(format!(
                "two leaders in term {term}: {first} as {by} says, {leader} as {who} says"
            ));
        }
    }

    /// `who` belongs to this cluster.
    pub fn belongs(&self, who: &str, cluster: ClusterId) {
        let mut claims = self.lock();
        claims.clusters.entry(cluster).or_insert_with(|| {
            self.trace.note(format_args!("{who}: belongs to cluster {cluster}"));
            who.to_owned()
        });
        if claims.clusters.len() > 1 {
            self.trace.violation(format!("more than one cluster: {:?}", claims.clusters));
        }
    }

    /// The state of `who` after `applied` has this hash.
    pub fn state(&self, who: &str, applied: LogIndex, hash: StateHash) {
        let mut claims = self.lock();
        let (first, by) = claims.states.entry(applied.0).or_insert_with(|| (hash, who.to_owned()));
        if *first != hash {
            self.trace.violation(format!("{who} and {by} differ in their states after entry {applied}"));
        }
    }

    /// `who` applied an entry with these effects.
    pub fn entry(&self, who: &str, entry: &AppliedEntry) {
        let digest = Digest::of(&(entry.origin, &entry.applied));
        self.trace.mark(digest ^ entry.index.0);
        let mut claims = self.lock();
        let index = entry.index.0;
        if let Some((term, first, by)) = claims.entries.get(&index) {
            if (*term, *first) != (entry.term, digest) {
                self.trace.violation(format!(
                    "{who} and {by} applied different entries at {index}: {entry:?}, not of term {term}"
                ));
            }
            return;
        }
        claims.entries.insert(index, (entry.term, digest, who.to_owned()));
        if entry.origin.ticket != 0
            && let Some(other) = claims.origins.insert(entry.origin, index)
        {
            self.trace
                .violation(format!("one proposal, two entries: {:?} at {other} and {index}", entry.origin));
        }
        if let Reply::Written { revision, .. } = entry.applied.reply {
            claims.written.insert(revision.0, index);
        }
        if let Reply::Renewed(renewals) = &entry.applied.reply {
            claims.renewed.extend(renewals.iter().flatten().map(|renewed| renewed.token.0));
        }
        for event in &entry.applied.events {
            if let EventKind::LockAcquired { keys, mode, token, waited, .. } = &event.kind {
                let granted = Granted {
                    keys: keys.clone(),
                    mode: *mode,
                    asked: event.at.0.saturating_sub(waited.0),
                    term: entry.term,
                };
                claims.granted.insert(token.0, granted);
            }
            if let EventKind::LockReleased { token, cause, held, .. } = &event.kind {
                let released = Released { cause: *cause, held: held.0, term: entry.term };
                claims.released.insert(token.0, released);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one run of one node applies.
pub struct NodeLog {
    who: String,
    ledger: Arc<Ledger>,
    last: Mutex<u64>,
}

impl NodeLog {
    pub fn new(who: &str, ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { who: who.to_owned(), ledger: ledger.clone(), last: Mutex::new(0) })
    }

    /// Highest index that this run applied.
    fn advance(&self, index: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if index <= *last {
            let what = format!("{} went back from entry {last} to {index}", self.who);
            self.ledger.trace.violation(what);
        }
        *last = index;
    }
}

impl Observer for NodeLog {
    fn applied(&self, entries: &[AppliedEntry]) {
        for entry in entries {
            self.advance(entry.index.0);
            self.ledger.entry(&self.who, entry);
        }
    }

    fn installed(&self, index: LogIndex) {
        self.ledger.trace.note(format_args!("{}: installed a snapshot up to {index}", self.who));
        self.ledger.lock().installs += 1;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = index.0;
    }
}
