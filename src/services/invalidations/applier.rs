//! Clears the local caches as the log says, reports how far it is, and says how long the caches may be trusted.
//!
//! Three loops in one task: one follows the log; one reports, at once where somebody waits and at most once per second
//! otherwise; one renews the trust. The first gives way to the others after each few entries, however far it is behind.
//!
//! # Order
//!
//! Who learned of something from this node, such as the grant of a lock, must not see what was invalidated before it. The
//! applier follows the log a little behind the state, so each call of a cache first looks whether it has come as far as
//! the state (`fence`); if not, the call is served nothing that was read before it.
//!
//! # Trust
//!
//! A barrier does not wait for ever for members that are inactive, so these must not serve what they keep. A node trusts
//! its caches until a third of the node time-out after the *beginning* of its last read barrier that succeeded and
//! after which its own state did not call it inactive: the entry that does was committed later than that. Whoever waits
//! for a barrier counts an inactive member until half of the node time-out after that entry was applied there
//! (`barrier.rs`). The difference is for clocks that run at different rates. The caches look at the clock at every call,
//! so a process that was stopped for a while, or whose machine was suspended (`awake.rs`), serves nothing stale either.
//!
//! A node that is back trusts its caches again once its own state calls it active and it has cleared all that this
//! state holds: a barrier that has not counted it saw it inactive, and hence stands before the entry that took it back.
//!
//! CAVEAT. A guest that its hypervisor pauses may not see the pause on any clock. It may then serve what was cleared
//! meanwhile, until it applies what it missed or its trust ends. A member that is *removed* while it is cut off is waited for no longer: remove only what has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ovncp_raft::group::Group;
use ovncp_state::command::{NodeStatus, ReportCleared};
use ovncp_state::{Command, InvalidationOffset, NodeId, Reply, State};
use tokio::sync::watch;
use tokio::time::Instant;

use super::awake::Awake;
use super::follow::{Found, find};
use super::{Invalidations, Position, Progress, end};
use crate::cache::{Clear, Fence};

/// Reports that nobody waits for are at least so far apart.
const REPORT_SPACING: Duration = Duration::from_secs(1);
/// Pause before a report that failed is tried again.
const REPORT_RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The caches are trusted for this share of the node time-out.
const TRUST_SHARE: u32 = 3;
/// The trust is renewed so many times within its length.
const TRUST_RENEWALS: u32 = 3;

/// Whether this machine was awake all along, and everything that the state of this node says is cleared. It looks at the
/// state only when that has moved on.
pub(super) fn fence(group: Group, progress: &watch::Sender<Progress>, awake: Arc<Awake>) -> Fence {
    let (progress, looked) = (progress.subscribe(), AtomicU64::new(0));
    Arc::new(move || {
        if !awake.holds() {
            return false;
        }
        if looked.load(Ordering::Acquire) >= group.applied().0 {
            return true;
        }
        let (index, end) = group.read(end);
        let current = progress.borrow().cleared >= end;
        if current {
            looked.fetch_max(index.0, Ordering::AcqRel);
        }
        current
    })
}

impl Invalidations {
    /// Works until `stop` becomes true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let work = async { tokio::join!(self.follow(), self.report(), self.keep_trust()) };
        tokio::select! {
            _ = work => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn follow(&self) {
        let mut wake = self.core.group.invalidations_watch();
        loop {
            // Before the look: what is applied after it wakes us again.
            wake.borrow_and_update();
            if !self.clear_next() && wake.changed().await.is_err() {
                return std::future::pending().await;
            }
            // A long replay must keep neither its thread nor its own reports and trust waiting.
            tokio::task::yield_now().await;
        }
    }

    /// Clears the next few entries; whether there were any.
    fn clear_next(&self) -> bool {
        let from = self.cleared();
        let (found, end) = self.core.group.read(|state| (find(state, from), end(state))).1;
        match found {
            Found::Entries(entries) => {
                for entry in &entries {
                    self.caches.clear(&Arc::new(Clear::new(&entry.patterns, &entry.tags)));
                    self.metrics.cleared();
                    let next = Position { offset: entry.offset, ..from }.next();
                    self.advance(next, entry.waited_for.then_some(next.offset));
                }
                !entries.is_empty()
            }
            // What was said meanwhile is not known here: it may have meant anything.
            Found::Lost { .. } | Found::Ahead => {
                tracing::info!(%from, to = %end, "invalidations were missed: all local caches are emptied");
                self.caches.clear(&Arc::new(Clear::Everything));
                self.metrics.reset();
                self.advance(end, Some(end.offset));
                true
            }
        }
    }

    fn advance(&self, cleared: Position, waited_for: Option<InvalidationOffset>) {
        self.metrics.cleared_to(cleared.offset);
        self.progress.send_modify(|progress| {
            *progress = Progress { cleared, waited_for: waited_for.unwrap_or(progress.waited_for) };
        });
    }

    async fn report(&self) {
        let mut progress = self.progress.subscribe();
        let mut due = Instant::now();
        loop {
            let now = *progress.borrow_and_update();
            let reported = self.core.node_id().map(|id| (id, self.reported(id)));
            let Ok((node, reported)) = reported else {
                // Not a member yet: nobody waits for it.
                tokio::time::sleep(REPORT_SPACING).await;
                continue;
            };
            if reported >= now.cleared.offset {
                if progress.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if now.waited_for <= reported && Instant::now() < due {
                let _ = tokio::time::timeout_at(due, progress.changed()).await;
                continue;
            }
            let command = Command::ReportCleared(ReportCleared { node, next: now.cleared.offset });
            due = Instant::now() + REPORT_SPACING;
            match self.core.propose(None, command).await {
                Ok(committed) if committed.reply == Reply::Done => {}
                other => {
                    tracing::debug!(?other, "report of cleared caches");
                    tokio::time::sleep(REPORT_RETRY_PAUSE).await;
                }
            }
        }
    }

    fn reported(&self, node: NodeId) -> InvalidationOffset {
        let own = |state: &State| state.cleared().into_iter().find(|(id, _)| *id == node);
        self.core.group.read(own).1.map(|(_, next)| next).unwrap_or_default()
    }

    async fn keep_trust(&self) {
        let length = self.node_timeout / TRUST_SHARE;
        loop {
            let (begun, awake_at) = (Instant::now(), self.awake.moment());
            if self.is_counted().await {
                self.awake.trusted(awake_at);
                self.caches.trust(Some(begun + length));
            }
            // Tries that fail at once must not follow each other at once.
            tokio::time::sleep_until(begun + length / TRUST_RENEWALS).await;
        }
    }

    /// Whether every barrier counts this node, from its own point of view, and it has cleared all that came before.
    async fn is_counted(&self) -> bool {
        let core = &self.core;
        let Ok(node) = core.node_id() else { return false };
        if core.group.read_barrier(core.patience.read).await.is_err() {
            return false;
        }
        let look = |state: &State| {
            self.absent.look(state, Instant::now());
            (state.node(node).map(|node| node.status), end(state))
        };
        let (status, end) = core.group.read(look).1;
        if status.is_none_or(|status| matches!(status, NodeStatus::Inactive | NodeStatus::Left)) {
            return false;
        }
        let mut progress = self.progress.subscribe();
        let cleared = progress.wait_for(|progress| progress.cleared >= end);
        tokio::time::timeout(core.patience.read, cleared).await.is_ok_and(|cleared| cleared.is_ok())
    }
}
