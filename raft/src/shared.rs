//! What the parts of one running group share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use ovncp_state::command::JoinNode;
use ovncp_state::mutants::{self, Mutant};
use ovncp_state::{ClusterId, EventOffset, Incarnation, Millis, NodeId};
use ovncp_storage::types::{Origin, Peer, Proposal};
use ovncp_storage::{Replica, StorageStats};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::callers::{Callers, Queued};
use crate::clock::LeaderClock;
use crate::consensus::{Consensus, Submitted};
use crate::counters::Counters;
use crate::network::types::AppendResult;
use crate::observer::Logs;
use crate::peers::Peers;
use crate::reads::ReadRequest;
use crate::renewals::{Flush, QueuedRenewal};
use crate::settings::GroupConfig;
use crate::status::{Integrity, Phase};
use crate::waiters::Waiters;

/// Proposals handed to the log of this leader and not resolved yet, of all nodes together.
pub(crate) const LEADER_PENDING_MAX: usize = 65_536;

/// Bytes of them.
pub(crate) const LEADER_PENDING_BYTES_MAX: usize = 128 * 1_024 * 1_024;

/// Where a proposal or a read has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// No leader is known, or this node leads and has not applied an entry of its own term yet.
    Nobody {
        /// Who led last.
        last_known: Option<NodeId>,
    },
    /// Another node leads.
    Remote {
        /// Which.
        leader: NodeId,
        /// Its term, as far as this node knows.
        term: u64,
    },
    /// This node leads, and its clock runs.
    Here {
        /// Its term.
        term: u64,
    },
}

impl Route {
    pub(crate) fn leader_hint(&self, own: Option<NodeId>) -> Option<NodeId> {
        match *self {
            Self::Nobody { last_known } => last_known,
            Self::Remote { leader, .. } => Some(leader),
            Self::Here { .. } => own,
        }
    }
}

/// This node's place in a cluster, durable before it is put here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) cluster_id: ClusterId,
    pub(crate) node_id: NodeId,
    pub(crate) key: [u8; 32],
}

/// The parts of one running group.
pub(crate) struct Shared {
    pub(crate) config: GroupConfig,
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: u64,
    pub(crate) replica: Replica,
    pub(crate) callers: Arc<Callers>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) counters: Counters,
    pub(crate) storage: Arc<StorageStats>,
    /// Term of the vote that stood on disk at the start: what this process did not vote.
    pub(crate) voted_before: u64,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) consensus: OnceLock<Arc<dyn Consensus>>,
    /// Whether `consensus` is there.
    pub(crate) seated: watch::Sender<bool>,
    pub(crate) membership: Mutex<Option<Membership>>,
    pub(crate) route: watch::Sender<Route>,
    /// Term of the last entry that was applied here, of any kind.
    pub(crate) applied_term: watch::Sender<u64>,
    /// Of the term in which this node led last.
    pub(crate) clock: Mutex<Option<LeaderClock>>,
    pub(crate) known_peers: Mutex<BTreeMap<NodeId, Peer>>,
    pub(crate) last_heard: Mutex<Option<Instant>>,
    pub(crate) phase: watch::Sender<Phase>,
    /// What the comparison of states showed.
    pub(crate) integrity: watch::Sender<Integrity>,
    pub(crate) events: watch::Sender<EventOffset>,
    pub(crate) logs: Logs,
    pub(crate) proposals: mpsc::Sender<Queued>,
    pub(crate) reads: mpsc::Sender<ReadRequest>,
    pub(crate) renewals: mpsc::Sender<QueuedRenewal>,
    /// Asks the collector to propose what it has, before a Tick.
    pub(crate) flush_renewals: mpsc::Sender<Flush>,
    /// Bounds what this leader took from all nodes.
    pub(crate) admission: Arc<Semaphore>,
    /// The same by bytes.
    pub(crate) admission_bytes: Arc<Semaphore>,
    /// When this node started.
    pub(crate) started: Instant,
    /// Set once, when this node stops for whatever reason.
    pub(crate) stopping: watch::Sender<Option<String>>,
}

impl Shared {
    pub(crate) fn membership(&self) -> Option<Membership> {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node_id(&self) -> Option<NodeId> {
        self.membership().map(|membership| membership.node_id)
    }

    pub(crate) fn route(&self) -> Route {
        *self.route.borrow()
    }

    /// Whether the committed membership that this node knows holds `id`.
    pub(crate) fn is_raft_member(&self, id: NodeId) -> bool {
        self.consensus.get().is_some_and(|consensus| {
            consensus.metrics().committed_membership_config.membership().get_node(&id.0).is_some()
        })
    }

    pub(crate) fn last_known_leader(&self) -> Option<NodeId> {
        self.route().leader_hint(self.node_id())
    }

    pub(crate) fn stopped(&self) -> Option<String> {
        self.stopping.borrow().clone()
    }

    /// Stops this node for good though nobody asked for it: somebody has to look at it, so the log says why.
    pub(crate) fn stop(&self, reason: String) {
        if self.end(reason.clone()) {
            tracing::error!(reason, "this node stops");
        }
    }

    /// Ends the work of this node: nobody is answered any more, and callers learn why. The first reason stays;
    /// `false` when there was one.
    pub(crate) fn end(&self, reason: String) -> bool {
        let first = self.stopping.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                // Before anybody hears of it: who does looks at the phase once, and never again.
                self.phase.send_replace(Phase::Stopped { reason: reason.clone() });
                *current = Some(reason.clone());
            }
            first
        });
        if first {
            self.callers.stop(&reason);
        }
        first
    }

    /// Resolves when this node stops.
    pub(crate) async fn until_stopped(&self) {
        // The sender lives in `self`, so the channel cannot close before.
        let _ = self.stopping.subscribe().wait_for(Option::is_some).await;
    }

    /// Consensus runs: this node has an id from now on.
    pub(crate) fn seat(&self, place: Membership, consensus: Arc<dyn Consensus>) {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        self.callers.set_node(place.node_id);
        if self.consensus.set(consensus).is_ok() {
            self.seated.send_replace(true);
        }
    }

    /// A leader's append or heartbeat was accepted here.
    pub(crate) fn heard(&self, result: &AppendResult) {
        if result.is_ok() {
            *self.last_heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// When a leader was last heard.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        *self.last_heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this node is listed.
    pub(crate) fn own_entry(&self) -> JoinNode {
        JoinNode {
            name: self.config.name.clone(),
            incarnation: self.incarnation,
            info: self.config.info.clone(),
        }
    }

    /// Where a node is dialed: the static list wins over what was stored, so that nodes restarted on new
    /// addresses under the same names find each other.
    pub(crate) fn addr_of(&self, name: &str, stored: &str) -> String {
        let listed = self.config.peers.iter().find(|peer| peer.name == name);
        listed.map_or_else(|| stored.to_owned(), |peer| peer.addr.clone())
    }

    /// The members to stay connected to.
    pub(crate) fn set_peers(&self, members: BTreeMap<NodeId, Peer>) {
        let mut known = self.known_peers.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != members {
            known.clone_from(&members);
            self.peers.set_peers(members);
        }
    }

    /// One more, until the membership says otherwise.
    pub(crate) fn add_peer(&self, id: NodeId, peer: Peer) {
        let mut known = self.known_peers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&id) != Some(&peer) {
            known.insert(id, peer);
            self.peers.set_peers(known.clone());
        }
    }

    /// Tells how far the start has come; a stopped node stays stopped.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let changes = *current != phase && !matches!(current, Phase::Stopped { .. });
            if changes {
                *current = phase;
            }
            changes
        });
    }

    /// Resolves when consensus runs here.
    pub(crate) async fn until_seated(&self) {
        let _ = self.seated.subscribe().wait_for(|seated| *seated).await;
    }

    /// The leader's clock in `term`, now.
    pub(crate) fn stamp(&self, term: u64) -> Option<Millis> {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = clock.as_ref().filter(|clock| clock.term() == term)?;
        Some(match mutants::is(Mutant::ExpiryByWallClock) {
            true => crate::clock::wall_clock(),
            false => clock.at(Instant::now()),
        })
    }

    /// A quorum acknowledged what this leader sent at `instant`.
    pub(crate) fn confirm(&self, instant: Instant) {
        if let Some(clock) = &mut *self.clock.lock().unwrap_or_else(PoisonError::into_inner) {
            // Read under the lock: no stamp is of a later moment.
            clock.confirm(instant, Instant::now());
        }
    }

    /// This leader's clock begins.
    pub(crate) fn set_clock(&self, clock: LeaderClock) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    }

    /// Stamps proposals with this leader's clock and appends them, if it still leads that term.
    pub(crate) async fn submit(&self, term: u64, items: Vec<(Origin, Bytes)>) -> Vec<Submitted> {
        let (Some(consensus), Some(at)) = (self.consensus.get(), self.stamp(term)) else {
            return vec![Submitted::Refused { leader: None }; items.len()];
        };
        let proposals =
            items.into_iter().map(|(origin, envelope)| Proposal { at, origin, envelope }).collect();
        consensus.submit(proposals, term).await
    }
}
