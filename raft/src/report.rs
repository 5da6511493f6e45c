//! What this node knows of its group, put together from openraft's report and the local state.

use std::sync::Arc;
use std::time::Duration;

use openraft::LogId;
use ovncp_state::{LogIndex, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::consensus::Metrics;
use crate::failure;
use crate::office::quorum_ack_age as quorum_ack_age_of;
use crate::shared::{Route, Shared};
use crate::status::{GroupStatus, PeerStatus};

/// Followers of the status see indexes and ages this fresh; leader, phase and members at once.
const REFRESH_PERIOD: Duration = Duration::from_millis(250);

/// The present status.
pub(crate) fn status(shared: &Shared) -> GroupStatus {
    let (applied, state_hash) = shared.replica.read(|state| (shared.replica.applied(), state.hash()));
    let route = shared.route();
    let mut status = GroupStatus {
        node_id: shared.node_id(),
        phase: shared.phase.borrow().clone(),
        term: 0,
        leader: match route {
            Route::Nobody { .. } => None,
            Route::Remote { leader, .. } => Some(leader),
            Route::Here { .. } => shared.node_id(),
        },
        is_leader: matches!(route, Route::Here { .. }),
        quorum_ack_age_ms: None,
        last_log: LogIndex(0),
        committed: LogIndex(0),
        applied,
        snapshot: LogIndex(0),
        voters: Vec::new(),
        learners: Vec::new(),
        peers: Vec::new(),
        state_hash: Some(state_hash),
        integrity: shared.integrity.borrow().clone(),
    };
    if let Some(consensus) = shared.consensus.get() {
        add_metrics(shared, &consensus.metrics(), route, &mut status);
    }
    status
}

fn add_metrics(shared: &Shared, metrics: &Metrics, route: Route, status: &mut GroupStatus) {
    let index = |id: Option<u64>| LogIndex(id.unwrap_or(0));
    // Leader and term belong together: openraft may have seen a newer term whose leader is not known yet.
    status.term = match route {
        Route::Here { term } => term,
        Route::Remote { term, .. } => term,
        Route::Nobody { .. } => metrics.current_term,
    };
    status.last_log = index(metrics.last_log_index);
    status.committed = index(metrics.cluster_committed.as_ref().map(LogId::index));
    status.snapshot = index(metrics.snapshot.as_ref().map(LogId::index));
    let membership = metrics.membership_config.membership();
    status.voters = membership.voter_ids().map(NodeId).collect();
    status.voters.sort_unstable();
    status.voters.dedup();
    status.learners = membership.learner_ids().map(NodeId).collect();
    status.quorum_ack_age_ms = quorum_ack_age(shared, metrics, status).map(millis);
    if status.is_leader {
        status.peers = peers(metrics, status.node_id.unwrap_or_default());
    }
}

fn quorum_ack_age(shared: &Shared, metrics: &Metrics, status: &GroupStatus) -> Option<Duration> {
    if !status.is_leader {
        return shared.last_heard().map(|heard| heard.elapsed());
    }
    quorum_ack_age_of(metrics)
}

fn peers(metrics: &Metrics, own: NodeId) -> Vec<PeerStatus> {
    let matched = |id: NodeId| {
        let all = metrics.replication.as_ref()?;
        all.get(&id.0).cloned().flatten().map(|log_id| LogIndex(log_id.index()))
    };
    failure::sights(metrics, own, Instant::now() - Duration::from_secs(24 * 60 * 60))
        .into_iter()
        .map(|(id, sight)| PeerStatus {
            id,
            matched: matched(id),
            lag: sight.lag,
            last_ack_age_ms: sight.seen.then(|| millis(sight.silence)),
        })
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps followers of the status up to date until this node stops, and once more then.
pub(crate) async fn run(shared: Arc<Shared>, sender: watch::Sender<GroupStatus>) {
    let mut route = shared.route.subscribe();
    let mut phase = shared.phase.subscribe();
    let mut integrity = shared.integrity.subscribe();
    loop {
        sender.send_replace(status(&shared));
        tokio::select! {
            _ = route.changed() => {}
            _ = phase.changed() => {}
            _ = integrity.changed() => {}
            () = sleep(REFRESH_PERIOD) => {}
            () = shared.until_stopped() => break,
        }
    }
    sender.send_replace(status(&shared));
}
