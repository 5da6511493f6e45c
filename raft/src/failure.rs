//! The failure detector: which members acknowledge their leader.
//!
//! Only the leader looks, at acknowledgements it has anyway, and it proposes *changes* only: no entry per
//! heartbeat. A member is suspect after three silent heartbeat intervals and inactive after the node time-out;
//! it is active again with its next acknowledgement. A new leader counts silence from the beginning of its own
//! term, so a change of leader makes nobody suspect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ovncp_state::command::{ChangeNode, NodeStatus};
use ovncp_state::view::NodeView;
use ovncp_state::{Command, NodeId, Request};
use tokio::time::{Instant, interval};

use crate::consensus::{Consensus, Metrics};
use crate::proposals;
use crate::settings::Timing;
use crate::shared::Shared;

/// Missed heartbeat intervals that make a member suspect.
const MISSED_MAX: u32 = 3;
/// Entries that a joining member may lack to count as active.
pub(crate) const CAUGHT_UP_LAG: u64 = 250;
/// How often the acknowledgements are looked at, at most and at least.
const LOOK_PERIOD_MAX: Duration = Duration::from_secs(1);
const LOOK_PERIOD_MIN: Duration = Duration::from_millis(20);
/// A change that is not applied by then is looked at again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the leader sees of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Time since its last acknowledgement, or since this leader's term began.
    pub(crate) silence: Duration,
    /// Whether it acknowledged anything in this term.
    pub(crate) seen: bool,
    /// Entries it lacks.
    pub(crate) lag: u64,
}

/// All other members of the Raft membership, as the leader sees them.
pub(crate) fn sights(metrics: &Metrics, own: NodeId, since: Instant) -> BTreeMap<NodeId, Sight> {
    let last_log = metrics.last_log_index.unwrap_or(0);
    let in_office = since.elapsed();
    let others = metrics.membership_config.nodes().map(|(id, _)| *id).filter(|id| *id != own.0);
    others
        .map(|id| {
            let acked = metrics.heartbeat.as_ref().and_then(|acks| acks.get(&id).copied().flatten());
            let silence = acked.map(|sent| openraft::Instant::elapsed(&sent.into_inner()));
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).cloned().flatten());
            let lag = last_log.saturating_sub(matched.map_or(0, |log_id| log_id.index()));
            let sight =
                Sight { silence: silence.unwrap_or(in_office).min(in_office), seen: silence.is_some(), lag };
            (NodeId(id), sight)
        })
        .collect()
}

/// The status a member should have; `None` leaves it.
fn judge(status: NodeStatus, sight: Sight, timing: &Timing) -> Option<NodeStatus> {
    let verdict = if sight.silence > timing.node_timeout {
        NodeStatus::Inactive
    } else if sight.silence > timing.heartbeat_interval * MISSED_MAX {
        NodeStatus::Suspect
    } else {
        NodeStatus::Active
    };
    match (status, verdict) {
        (NodeStatus::Left, _) => None,
        // What an operator drains stays so while it answers.
        (NodeStatus::Draining, NodeStatus::Active) => None,
        // Silence alone does not revive: it must have been heard.
        (_, NodeStatus::Active) if !sight.seen => None,
        (NodeStatus::Joining, NodeStatus::Active) if sight.lag > CAUGHT_UP_LAG => None,
        // It never was active: nothing to suspect.
        (NodeStatus::Joining, NodeStatus::Suspect) => None,
        (NodeStatus::Inactive, NodeStatus::Suspect) => None,
        (status, verdict) => (status != verdict).then_some(verdict),
    }
}

fn change(node: &NodeView, status: NodeStatus) -> Request {
    let change = ChangeNode { id: node.id, generation: node.generation, status: Some(status), role: None };
    Request::from(Command::ChangeNode(change))
}

/// Watches while this node leads; dropped at the end of the term.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>, since: Instant) {
    let timing = shared.config.timing.clone();
    let own = shared.node_id().unwrap_or_default();
    let mut look = interval((timing.heartbeat_interval / 4).clamp(LOOK_PERIOD_MIN, LOOK_PERIOD_MAX));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let sights = sights(&consensus.metrics(), own, since);
        for node in shared.replica.read(ovncp_state::State::nodes) {
            let sight = match sights.get(&node.id) {
                Some(sight) => *sight,
                // The leader hears itself.
                None if node.id == own => Sight { silence: Duration::ZERO, seen: true, lag: 0 },
                // Not in the Raft membership (yet): nothing to be heard.
                None => continue,
            };
            if let Some(status) = judge(node.status, sight, &timing) {
                tracing::info!(node = %node.name, ?status, silence = ?sight.silence, "status changes");
                let request = change(&node, status);
                // A lost or outdated change is seen again at the next look.
                let _ = proposals::propose(&shared, &request, CHANGE_TIMEOUT).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing() -> Timing {
        Timing {
            heartbeat_interval: Duration::from_secs(5),
            node_timeout: Duration::from_secs(30),
            ..Timing::default()
        }
    }

    fn silent(seconds: u64) -> Sight {
        Sight { silence: Duration::from_secs(seconds), seen: true, lag: 0 }
    }

    #[test]
    fn three_missed_heartbeats_make_a_suspect_and_the_node_timeout_an_inactive_one() {
        let judge = |status, seconds| judge(status, silent(seconds), &timing());
        assert_eq!(judge(NodeStatus::Active, 15), None);
        assert_eq!(judge(NodeStatus::Active, 16), Some(NodeStatus::Suspect));
        assert_eq!(judge(NodeStatus::Suspect, 16), None);
        assert_eq!(judge(NodeStatus::Suspect, 31), Some(NodeStatus::Inactive));
        assert_eq!(judge(NodeStatus::Inactive, 31), None);
        assert_eq!(judge(NodeStatus::Inactive, 20), None);
    }

    #[test]
    fn an_acknowledgement_revives_but_silence_of_a_new_leader_does_not() {
        assert_eq!(judge(NodeStatus::Inactive, silent(0), &timing()), Some(NodeStatus::Active));
        assert_eq!(judge(NodeStatus::Suspect, silent(1), &timing()), Some(NodeStatus::Active));
        let unheard = Sight { silence: Duration::from_secs(1), seen: false, lag: 0 };
        assert_eq!(judge(NodeStatus::Inactive, unheard, &timing()), None);
    }

    #[test]
    fn a_joining_member_becomes_active_when_it_has_caught_up() {
        let lagging = Sight { lag: CAUGHT_UP_LAG + 1, ..silent(0) };
        assert_eq!(judge(NodeStatus::Joining, lagging, &timing()), None);
        assert_eq!(judge(NodeStatus::Joining, silent(0), &timing()), Some(NodeStatus::Active));
        assert_eq!(judge(NodeStatus::Joining, silent(20), &timing()), None);
        assert_eq!(judge(NodeStatus::Joining, silent(31), &timing()), Some(NodeStatus::Inactive));
    }

    #[test]
    fn a_drained_member_is_left_alone_while_it_answers() {
        assert_eq!(judge(NodeStatus::Draining, silent(0), &timing()), None);
        assert_eq!(judge(NodeStatus::Draining, silent(31), &timing()), Some(NodeStatus::Inactive));
        assert_eq!(judge(NodeStatus::Left, silent(31), &timing()), None);
    }
}
