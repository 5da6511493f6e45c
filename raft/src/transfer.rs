//! Planned hand-over of leadership.
//!
//! The leader asks a voter that is caught up to take over; openraft closes the log for new proposals until it
//! has, so that nothing is lost and what was refused meanwhile is tried again at the new leader. If the target
//! does not take over, followers elect somebody after their time-out, perhaps the same node.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use ovncp_state::NodeId;
use tokio::time::{Instant, sleep, timeout_at};

use crate::consensus::{Consensus, Metrics};
use crate::engine::leader_hint;
use crate::error::{MembershipError, ProposeError};
use crate::formation::ask;
use crate::network::message::{ControlRequest, ControlResponse};
use crate::settings::StaticPeer;
use crate::shared::{Route, Shared};

/// Entries that a target may lack when the hand-over begins; it receives them before it campaigns.
const LAG_MAX: u64 = 250;
/// A target that has not acknowledged anything for so many heartbeats (and a second at least: a busy one is late,
/// and a dead one loses its connection) is not asked.
const SILENT_HEARTBEATS_MAX: u32 = 4;
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// A target that does not answer or lags has this long to mend that: it may have been started a moment ago. Then
/// it is refused with the reason.
const FITNESS_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// A hand-over that takes longer has failed.
const HANDOVER_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause before another node is asked who leads.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Hands leadership over, from any node.
pub(crate) async fn transfer(
    shared: &Shared,
    target: Option<NodeId>,
    time: Duration,
) -> Result<NodeId, MembershipError> {
    let deadline = Instant::now() + time;
    let mut asked = None;
    loop {
        let route = shared.route();
        // The target leads, or an earlier attempt came to something after all: to this node, perhaps.
        let done = |leader: NodeId| match target {
            Some(target) => target == leader,
            None => asked.is_some_and(|old| old != leader),
        };
        let attempt = match (route, route.leader_hint(shared.node_id())) {
            (Route::Nobody { .. }, _) => None,
            (_, Some(leader)) if done(leader) => Some(Ok(leader)),
            (Route::Here { .. }, _) => match hand_over(shared, target, deadline).await {
                // It did not take over, or somebody else leads by now: look again.
                Err(MembershipError::Propose(ProposeError::NoLeader { .. })) => None,
                result => Some(result),
            },
            (Route::Remote { .. }, _) => ask_leader(shared, target, deadline).await,
        };
        if let Some(result) = attempt {
            return result;
        }
        if let Some(reason) = shared.stopped() {
            return Err(ProposeError::Stopped { reason }.into());
        }
        if !matches!(route, Route::Nobody { .. }) {
            asked = asked.or(route.leader_hint(shared.node_id()));
        }
        if Instant::now() + RETRY_PAUSE >= deadline {
            return Err(ProposeError::NoLeader { last_known: shared.last_known_leader() }.into());
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// `None` when the asked node does not lead: ask again.
async fn ask_leader(
    shared: &Shared,
    target: Option<NodeId>,
    deadline: Instant,
) -> Option<Result<NodeId, MembershipError>> {
    let leader = leader_hint(shared)?;
    let peer = StaticPeer { name: leader.name, addr: leader.addr };
    let time = deadline.saturating_duration_since(Instant::now());
    match ask(shared, &peer, ControlRequest::Transfer { target }, time).await {
        Ok((_, ControlResponse::Transferred { leader })) => Some(Ok(leader)),
        Ok((_, ControlResponse::Refused { reason, retry: false })) => {
            Some(Err(MembershipError::Unfit { reason }))
        }
        _ => None,
    }
}

/// What this node answers to a peer that asks for a hand-over.
pub(crate) async fn answer_peer(shared: &Shared, target: Option<NodeId>) -> ControlResponse {
    if !matches!(shared.route(), Route::Here { .. }) {
        return ControlResponse::NotLeader { leader: leader_hint(shared) };
    }
    let deadline = Instant::now() + FITNESS_WAIT_MAX + HANDOVER_TIME_MAX;
    match hand_over(shared, target, deadline).await {
        Ok(leader) => ControlResponse::Transferred { leader },
        Err(MembershipError::Propose(error)) => {
            ControlResponse::Refused { reason: error.to_string(), retry: true }
        }
        Err(MembershipError::Unfit { reason }) => ControlResponse::Refused { reason, retry: false },
        Err(error) => ControlResponse::Refused { reason: error.to_string(), retry: false },
    }
}

/// Hands over from this leader and waits until somebody else leads.
pub(crate) async fn hand_over(
    shared: &Shared,
    target: Option<NodeId>,
    deadline: Instant,
) -> Result<NodeId, MembershipError> {
    let no_leader = || ProposeError::NoLeader { last_known: shared.last_known_leader() };
    let Some(consensus) = shared.consensus.get() else { return Err(no_leader().into()) };
    let own = shared.node_id().unwrap_or_default();
    if target == Some(own) {
        return Ok(own);
    }
    let target = find_fit(shared, &**consensus, own, target, deadline).await?;
    let mut route = shared.route.subscribe();
    tracing::info!(%target, "handing leadership over");
    consensus.transfer(target).await;
    let deadline = deadline.min(Instant::now() + HANDOVER_TIME_MAX);
    let taken = route.wait_for(|route| matches!(route, Route::Remote { .. }));
    match timeout_at(deadline, taken).await {
        Ok(Ok(route)) => Ok(route.leader_hint(None).unwrap_or(target)),
        _ => Err(no_leader().into()),
    }
}

/// Waits for a target that can lead, and names it.
async fn find_fit(
    shared: &Shared,
    consensus: &dyn Consensus,
    own: NodeId,
    target: Option<NodeId>,
    deadline: Instant,
) -> Result<NodeId, MembershipError> {
    let until = deadline.min(Instant::now() + FITNESS_WAIT_MAX);
    let silence = (shared.config.timing.raft_heartbeat * SILENT_HEARTBEATS_MAX).max(SILENCE_MIN);
    let mut reports = consensus.watch();
    loop {
        if !matches!(shared.route(), Route::Here { .. }) {
            return Err(ProposeError::NoLeader { last_known: shared.last_known_leader() }.into());
        }
        let connected = connected(shared);
        // An acknowledgement is a report too: every change that matters here wakes this loop.
        let unfit = match choose(&reports.borrow_watched(), own, target, &connected, silence) {
            Ok(id) => return Ok(id),
            Err(Unfit::Never(error)) => return Err(error),
            Err(Unfit::Now(reason)) => MembershipError::Unfit { reason },
        };
        // Who stops as the last of all has nobody to wait for.
        let hopeless = target.is_none() && connected.is_empty();
        if hopeless || !matches!(timeout_at(until, reports.changed()).await, Ok(Ok(()))) {
            return Err(unfit);
        }
    }
}

/// Peers with a standing connection. One whose process died is not among them, long before it is called silent.
pub(crate) fn connected(shared: &Shared) -> BTreeSet<NodeId> {
    let sights = shared.peers.sights();
    let sights = sights.borrow();
    sights.iter().filter(|(_, sight)| sight.connected).map(|(id, _)| *id).collect()
}

/// Why there is no target.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    /// Waiting may help.
    Now(String),
    /// It cannot.
    Never(MembershipError),
}

/// The asked voter if it can lead, or the one that can and has most of the log.
fn choose(
    metrics: &Metrics,
    own: NodeId,
    target: Option<NodeId>,
    connected: &BTreeSet<NodeId>,
    silence: Duration,
) -> Result<NodeId, Unfit> {
    let membership = metrics.membership_config.membership();
    let fit = |id: NodeId| -> Result<u64, String> {
        let heartbeat = metrics.heartbeat.as_ref().and_then(|acks| acks.get(&id.0).copied().flatten());
        let silent = heartbeat.map(|sent| openraft::Instant::elapsed(&sent.into_inner()));
        if !connected.contains(&id) || silent.is_none_or(|age| age > silence) {
            return Err("it does not answer".to_owned());
        }
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id.0).cloned().flatten());
        let matched = matched.map_or(0, |log_id| log_id.index());
        let lag = metrics.last_log_index.unwrap_or(0).saturating_sub(matched);
        if lag > LAG_MAX { Err(format!("it lags {lag} entries behind")) } else { Ok(matched) }
    };
    let mut voters = membership.voter_ids().map(NodeId);
    match target {
        Some(id) if membership.get_node(&id.0).is_none() => Err(Unfit::Never(MembershipError::UnknownNode)),
        Some(id) if !voters.any(|voter| voter == id) => {
            Err(Unfit::Never(MembershipError::Unfit { reason: "it is not a voter".to_owned() }))
        }
        Some(id) => fit(id).map(|_| id).map_err(Unfit::Now),
        None => voters
            .filter(|id| *id != own)
            .filter_map(|id| fit(id).ok().map(|matched| (matched, std::cmp::Reverse(id))))
            .max()
            .map(|(_, std::cmp::Reverse(id))| id)
            .ok_or_else(|| Unfit::Now("no other voter is caught up".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::alias::{InstantOf, StoredMembershipOf};
    use openraft::metrics::SerdeInstant;
    use openraft::{Instant as _, Membership, RaftMetrics};
    use ovncp_storage::codec::WireLogId;
    use ovncp_storage::types::{Peer, TypeConfig};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// Leader 1 with 1,000 entries, voters 2 and 3 that acknowledged these just now, and learner 1,004.
    fn leading(matched: [u64; 2]) -> Metrics {
        let log_id = |index| WireLogId { term: 1, index }.into();
        let nodes: BTreeMap<u64, Peer> = [1, 2, 3, 1_004].map(|id| (id, Peer::default())).into();
        let membership = Membership::new(vec![[1, 2, 3].into()], nodes).unwrap();
        let mut metrics: Metrics = RaftMetrics::new_initial(1);
        metrics.membership_config =
            std::sync::Arc::new(StoredMembershipOf::<TypeConfig>::new(None, membership));
        metrics.last_log_index = Some(1_000);
        let now = || SerdeInstant::new(InstantOf::<TypeConfig>::now());
        metrics.heartbeat = Some([(2, Some(now())), (3, Some(now())), (1_004, Some(now()))].into());
        metrics.replication = Some([(2, Some(log_id(matched[0]))), (3, Some(log_id(matched[1])))].into());
        metrics
    }

    fn chosen(metrics: &Metrics, target: Option<u64>, connected: &[u64]) -> Result<NodeId, Unfit> {
        let connected = connected.iter().copied().map(NodeId).collect();
        choose(metrics, NodeId(1), target.map(NodeId), &connected, PATIENCE)
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_up_to_date_voter_that_answers_is_chosen() {
        assert_eq!(chosen(&leading([990, 1_000]), None, &[2, 3, 1_004]), Ok(NodeId(3)));
        assert_eq!(chosen(&leading([1_000, 1_000]), None, &[2, 3, 1_004]), Ok(NodeId(2)));
        assert_eq!(chosen(&leading([990, 1_000]), None, &[2]), Ok(NodeId(2)));
        assert!(matches!(chosen(&leading([10, 20]), None, &[2, 3]), Err(Unfit::Now(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_lags_or_is_silent_may_mend_that_and_a_learner_cannot() {
        let all = &[2, 3, 1_004];
        assert_eq!(chosen(&leading([750, 0]), Some(2), all), Ok(NodeId(2)));
        let lags = Unfit::Now("it lags 251 entries behind".to_owned());
        assert_eq!(chosen(&leading([749, 0]), Some(2), all), Err(lags));
        let silent = || Err(Unfit::Now("it does not answer".to_owned()));
        assert_eq!(chosen(&leading([1_000, 0]), Some(2), &[3]), silent());
        let metrics = leading([1_000, 1_000]);
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(chosen(&metrics, Some(2), all), silent());
        let never = |target| matches!(chosen(&leading([0, 0]), target, all), Err(Unfit::Never(_)));
        assert!(never(Some(1_004)), "a learner");
        assert!(never(Some(77)), "a stranger");
    }
}
