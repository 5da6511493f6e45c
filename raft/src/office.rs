//! Who leads, as this node may rely on it: watches openraft and keeps [`Route`], phase and peers up to date.
//!
//! A leader is used only after it applied an entry of its own term: then its state holds everything that was
//! ever committed, and its clock can be anchored. Until then, and whenever nobody is known to lead, proposals
//! wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::types::Peer;
use tokio::time::{Instant, interval};

use crate::clock::LeaderClock;
use crate::consensus::{Consensus, Metrics};
use crate::shared::{Route, Shared};
use crate::status::Phase;

/// Changes that openraft does not report (addresses in the state) are noticed at least this often.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// What of openraft's report decides here; compared before anything is cloned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Glance {
    term: u64,
    leads: bool,
    leader: Option<u64>,
    applied_term: u64,
    /// The term of the last vote of this node, if that was for itself.
    own_vote: Option<u64>,
    membership: Option<u64>,
    failed: bool,
}

impl Glance {
    fn of(metrics: &Metrics) -> Self {
        Self {
            term: metrics.current_term,
            leads: metrics.state.is_leader() && metrics.vote.is_committed(),
            leader: metrics.current_leader,
            own_vote: (metrics.vote.leader_id.voted_for == metrics.id).then_some(metrics.vote.leader_id.term),
            applied_term: metrics.last_applied.as_ref().map_or(0, |id| id.leader_id.term),
            membership: metrics.membership_config.log_id().as_ref().map(openraft::LogId::index),
            failed: metrics.running_state.is_err(),
        }
    }
}

/// Watches until this node stops.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>) {
    let mut reports = consensus.watch();
    let mut health = shared.replica.health();
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = Glance::default();
    let mut target = None;
    let mut progress = Progress::new(&shared);
    loop {
        let glance = Glance::of(&reports.borrow_watched());
        if glance != seen {
            count_elections(&shared, &seen, &glance);
            seen = glance;
            update_route(&shared, &glance);
            shared.applied_term.send_if_modified(|known| {
                std::mem::replace(known, glance.applied_term) != glance.applied_term
            });
            update_peers(&shared, &*consensus);
        }
        if let Some(failure) = health.borrow().clone() {
            shared.stop(failure.to_string());
        }
        if seen.failed {
            let reason = match &reports.borrow_watched().running_state {
                Err(fatal) => format!("consensus stopped: {fatal}"),
                Ok(()) => "consensus stopped".to_owned(),
            };
            shared.stop(reason);
        }
        if glance.leads {
            confirm_clock(&shared, &reports.borrow_watched());
        }
        advance_phase(&shared, &*consensus, &mut target);
        tokio::select! {
            changed = reports.changed() => {
                if changed.is_err() {
                    shared.stop("consensus ended".to_owned());
                }
            }
            _ = health.changed() => {}
            _ = look.tick() => {
                update_peers(&shared, &*consensus);
                abandon_hopeless(&shared, &*consensus, &mut progress);
            }
            () = shared.until_stopped() => return,
        }
    }
}

/// Elections of this node, as far as openraft reports them: one that another overtook between two reports is
/// missed. A vote kept from before the start is none.
fn count_elections(shared: &Shared, seen: &Glance, now: &Glance) {
    if now.own_vote.is_some() && now.own_vote > seen.own_vote && now.own_vote > Some(shared.voted_before) {
        shared.counters.elections_started.add(1);
    }
    if now.leads && (!seen.leads || seen.term < now.term) {
        shared.counters.elections_won.add(1);
    }
    let leader = |glance: &Glance| glance.leader.map(|leader| (glance.term, leader));
    if leader(now).is_some() && leader(now) != leader(seen) {
        shared.counters.leader_changes.add(1);
    }
}

fn update_route(shared: &Shared, glance: &Glance) {
    let current = shared.route();
    let own = shared.node_id();
    let next = if glance.leads {
        match current {
            Route::Here { term } if term == glance.term => current,
            _ if glance.applied_term == glance.term => {
                let (now, at) = (shared.replica.read(ovncp_state::State::now), Instant::now());
                let heartbeat = shared.config.timing.raft_heartbeat;
                shared.set_clock(LeaderClock::anchor(glance.term, now, at, heartbeat));
                Route::Here { term: glance.term }
            }
            _ => Route::Nobody { last_known: own },
        }
    } else {
        match glance.leader {
            Some(leader) if Some(NodeId(leader)) != own => {
                Route::Remote { leader: NodeId(leader), term: glance.term }
            }
            _ => Route::Nobody { last_known: current.leader_hint(own) },
        }
    };
    shared.route.send_if_modified(|route| {
        let changes = *route != next;
        *route = next;
        changes
    });
}

/// The clock of a leader runs with the acknowledgements of its quorum.
fn confirm_clock(shared: &Shared, metrics: &Metrics) {
    let now = Instant::now();
    if let Some(age) = quorum_ack_age(metrics)
        && let Some(acked) = now.checked_sub(age)
    {
        shared.confirm(acked);
    }
}

/// Time since a quorum last acknowledged this leader; a leader alone is its own quorum.
pub(crate) fn quorum_ack_age(metrics: &Metrics) -> Option<Duration> {
    if metrics.membership_config.voter_ids().eq([metrics.id]) {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.map(|acked| openraft::Instant::elapsed(&acked.into_inner()))
}

/// Keeps connections to every member, at the address where it is dialed.
pub(crate) fn update_peers(shared: &Shared, consensus: &dyn Consensus) {
    let metrics = consensus.metrics();
    let mut peers: BTreeMap<NodeId, Peer> = metrics
        .membership_config
        .nodes()
        .map(|(id, peer)| {
            // The state knows the address that the node itself reported last.
            let reported = shared.replica.read(|state| state.node(NodeId(*id)));
            let stored = reported.map_or_else(|| peer.addr.clone(), |node| node.info.peer_addr);
            let addr = shared.addr_of(&peer.name, &stored);
            (NodeId(*id), Peer { name: peer.name.clone(), addr })
        })
        .collect();
    if let Some(own) = shared.node_id() {
        peers.remove(&own);
    }
    shared.set_peers(peers);
}

/// When something last showed that a majority works.
struct Progress {
    /// The leader was heard, or its quorum acknowledged it.
    working_at: Instant,
    applied: LogIndex,
    /// Something was applied here.
    applied_at: Instant,
}

impl Progress {
    fn new(shared: &Shared) -> Self {
        let now = Instant::now();
        Self { working_at: now, applied: shared.replica.applied(), applied_at: now }
    }
}

/// Callers whose proposals were handed over do not hang until their own deadlines while no majority works. A
/// follower may well hear a leader that has none; but then nothing is applied, however long its callers wait.
fn abandon_hopeless(shared: &Shared, consensus: &dyn Consensus, progress: &mut Progress) {
    let limit = shared.config.timing.no_leader_wait;
    let route = shared.route();
    let silence = match route {
        Route::Nobody { .. } => None,
        Route::Remote { .. } => shared.last_heard().map(|heard| heard.elapsed()),
        Route::Here { .. } => quorum_ack_age(&consensus.metrics()),
    };
    let now = Instant::now();
    if let Some(last) = silence.and_then(|silence| now.checked_sub(silence)) {
        progress.working_at = last.max(progress.working_at);
    }
    let applied = shared.replica.applied();
    if applied != progress.applied {
        (progress.applied, progress.applied_at) = (applied, now);
    }
    if now.saturating_duration_since(progress.working_at) >= limit {
        shared.callers.abandon(Duration::ZERO);
    } else if matches!(route, Route::Remote { .. }) && now - progress.applied_at >= limit {
        shared.callers.abandon(limit);
    }
}

/// A node serves once it is a member and has applied what was committed when it first heard of a leader.
fn advance_phase(shared: &Shared, consensus: &dyn Consensus, target: &mut Option<u64>) {
    if matches!(*shared.phase.borrow(), Phase::Serving | Phase::Stopped { .. }) {
        return;
    }
    let known_leader = !matches!(shared.route(), Route::Nobody { .. });
    if !known_leader || !shared.replica.read(ovncp_state::State::is_formed) {
        return;
    }
    let metrics = consensus.metrics();
    let own = shared.node_id().map_or(0, |id| id.0);
    let committed = metrics.cluster_committed.as_ref().map(openraft::LogId::index);
    let Some(committed) = committed else { return };
    let target = *target.get_or_insert(committed);
    let member = metrics.membership_config.membership().get_node(&own).is_some();
    if member && shared.replica.applied().0 >= target {
        shared.set_phase(Phase::Serving);
    } else {
        shared.set_phase(Phase::Joining);
    }
}
