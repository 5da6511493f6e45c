//! Whether a voter may go: what the leader hears of the others now.
//!
//! The statuses of the state are slow on purpose: a voter that died a few seconds ago is still shown as active. So
//! the leader is asked, which hears every member several times per second.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use ovncp_state::NodeId;
use tokio::time::{Instant, sleep, timeout_at};

use crate::consensus::Metrics;
use crate::engine::leader_hint;
use crate::error::{MembershipError, ProposeError};
use crate::formation::ask;
use crate::membership;
use crate::network::message::{ControlRequest, ControlResponse};
use crate::settings::StaticPeer;
use crate::shared::{Route, Shared};

/// A leader that is new or busy may not have heard of everybody yet: it looks for so long before it refuses.
const HEALTH_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// Pause before another node is asked who leads.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Resolves once the leader says that the rest would have a healthy majority without `id`.
pub(crate) async fn until_possible(
    shared: &Shared,
    id: NodeId,
    deadline: Instant,
) -> Result<(), MembershipError> {
    loop {
        match shared.route() {
            Route::Here { .. } => return judge(shared, id, deadline).await,
            Route::Remote { .. } => {
                if let Some(answer) = ask_leader(shared, id, deadline).await {
                    return answer;
                }
            }
            Route::Nobody { .. } => {}
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
async fn ask_leader(shared: &Shared, id: NodeId, deadline: Instant) -> Option<Result<(), MembershipError>> {
    let leader = leader_hint(shared)?;
    let peer = StaticPeer { name: leader.name, addr: leader.addr };
    let time = deadline.saturating_duration_since(Instant::now());
    match ask(shared, &peer, ControlRequest::Removable { id }, time).await {
        Ok((_, ControlResponse::Removable)) => Some(Ok(())),
        Ok((_, ControlResponse::Refused { reason, retry: false })) => {
            Some(Err(MembershipError::WouldLoseQuorum { reason }))
        }
        _ => None,
    }
}

/// What this node answers to a peer that asks.
pub(crate) async fn answer_peer(shared: &Shared, id: NodeId) -> ControlResponse {
    if !matches!(shared.route(), Route::Here { .. }) {
        return ControlResponse::NotLeader { leader: leader_hint(shared) };
    }
    match judge(shared, id, Instant::now() + HEALTH_WAIT_MAX).await {
        Ok(()) => ControlResponse::Removable,
        Err(MembershipError::WouldLoseQuorum { reason }) => ControlResponse::Refused { reason, retry: false },
        Err(error) => ControlResponse::Refused { reason: error.to_string(), retry: true },
    }
}

/// The judgement of this leader.
async fn judge(shared: &Shared, id: NodeId, deadline: Instant) -> Result<(), MembershipError> {
    let no_leader = || ProposeError::NoLeader { last_known: shared.last_known_leader() };
    let Some(consensus) = shared.consensus.get() else { return Err(no_leader().into()) };
    let until = deadline.min(Instant::now() + HEALTH_WAIT_MAX);
    let mut reports = consensus.watch();
    loop {
        if !matches!(shared.route(), Route::Here { .. }) {
            return Err(no_leader().into());
        }
        let silent = {
            let metrics = reports.borrow_watched();
            let healthy = membership::healthy(shared, &metrics);
            silent_majority(&metrics, id, &healthy)
        };
        let Some(silent) = silent else { return Ok(()) };
        // Every acknowledgement is a report.
        if !matches!(timeout_at(until, reports.changed()).await, Ok(Ok(()))) {
            let silent: Vec<_> = silent.iter().map(|id| name_of(shared, *id)).collect();
            let reason = match silent.is_empty() {
                true => "it is the only voter".to_owned(),
                false => format!("of the voters {} do not answer the leader", silent.join(", ")),
            };
            return Err(MembershipError::WouldLoseQuorum { reason });
        }
    }
}

fn name_of(shared: &Shared, id: NodeId) -> String {
    shared.replica.read(|state| state.node(id)).map_or_else(|| id.to_string(), |node| node.name)
}

/// The voters that do not answer, if without `id` (or already with it) they leave no healthy majority.
fn silent_majority(metrics: &Metrics, id: NodeId, healthy: &BTreeSet<NodeId>) -> Option<Vec<NodeId>> {
    let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().map(NodeId).collect();
    if !voters.contains(&id) {
        return None;
    }
    let rest: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
    let quorate = |set: &BTreeSet<NodeId>| set.intersection(healthy).count() > set.len() / 2;
    (!quorate(&voters) || !quorate(&rest)).then(|| voters.difference(healthy).copied().collect())
}
