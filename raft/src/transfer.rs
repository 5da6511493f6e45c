//! Planned hand-over of leadership.
//!
//! The leader asks a voter that is caught up to take over; openraft closes the log for new proposals until it
//! has, so that nothing is lost and what was refused meanwhile is tried again at the new leader. If the target
//! does not take over, followers elect somebody after their time-out, perhaps the same node.

use std::time::Duration;

use ovncp_state::NodeId;
use tokio::time::{Instant, sleep, timeout_at};

use crate::consensus::Metrics;
use crate::engine::leader_hint;
use crate::error::{MembershipError, ProposeError};
use crate::formation::ask;
use crate::network::message::{ControlRequest, ControlResponse};
use crate::settings::StaticPeer;
use crate::shared::{Route, Shared};

/// Entries that a target may lack when the hand-over begins; it receives them before it campaigns.
const LAG_MAX: u64 = 250;
/// A target that has not acknowledged anything for so many heartbeats is not asked.
const SILENT_HEARTBEATS_MAX: u32 = 4;
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
    loop {
        let attempt = match shared.route() {
            Route::Here { .. } => Some(hand_over(shared, target, deadline).await),
            Route::Remote { leader, .. } if target == Some(leader) => Some(Ok(leader)),
            Route::Remote { .. } => ask_leader(shared, target, deadline).await,
            Route::Nobody { .. } => None,
        };
        if let Some(result) = attempt {
            return result;
        }
        if let Some(reason) = shared.stopped() {
            return Err(ProposeError::Stopped { reason }.into());
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
    match hand_over(shared, target, Instant::now() + HANDOVER_TIME_MAX).await {
        Ok(leader) => ControlResponse::Transferred { leader },
        Err(MembershipError::Propose(error)) => {
            ControlResponse::Refused { reason: error.to_string(), retry: true }
        }
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
    let silence = shared.config.timing.raft_heartbeat * SILENT_HEARTBEATS_MAX;
    let target = choose(&consensus.metrics(), own, target, silence)?;
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

/// The asked voter if it can lead, or the one that can and has most of the log.
fn choose(
    metrics: &Metrics,
    own: NodeId,
    target: Option<NodeId>,
    silence: Duration,
) -> Result<NodeId, MembershipError> {
    let membership = metrics.membership_config.membership();
    let fit = |id: u64| -> Result<u64, String> {
        if !membership.voter_ids().any(|voter| voter == id) {
            return Err("it is not a voter".to_owned());
        }
        let heartbeat = metrics.heartbeat.as_ref().and_then(|acks| acks.get(&id).copied().flatten());
        let silent = heartbeat.map(|sent| openraft::Instant::elapsed(&sent.into_inner()));
        if silent.is_none_or(|age| age > silence) {
            return Err("it does not answer".to_owned());
        }
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).cloned().flatten());
        let matched = matched.map_or(0, |log_id| log_id.index());
        let lag = metrics.last_log_index.unwrap_or(0).saturating_sub(matched);
        if lag > LAG_MAX { Err(format!("it lags {lag} entries behind")) } else { Ok(matched) }
    };
    match target {
        Some(id) if membership.get_node(&id.0).is_none() => Err(MembershipError::UnknownNode),
        Some(id) => fit(id.0).map(|_| id).map_err(|reason| MembershipError::Unfit { reason }),
        None => membership
            .voter_ids()
            .filter(|id| *id != own.0)
            .filter_map(|id| fit(id).ok().map(|matched| (matched, std::cmp::Reverse(id))))
            .max()
            .map(|(_, std::cmp::Reverse(id))| NodeId(id))
            .ok_or_else(|| MembershipError::Unfit { reason: "no other voter is caught up".to_owned() }),
    }
}
