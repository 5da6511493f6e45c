//! What an operator should know of the cluster as a whole, said once: the first leader task of our own.
//!
//! Every node could say it, and each would. So the nodes hold an election, and whoever leads looks.

use std::time::Duration;

use ovncp_raft::group::Group;
use ovncp_state::command::{NodeRole, NodeStatus};
use ovncp_state::limits::{KV_BYTES_MAX, KV_KEYS_MAX, LOCKS_HELD_MAX, WAITERS_MAX};
use ovncp_state::view::{ClusterView, NodeView};

use super::leader_task::Office;

/// The election for it.
pub const ELECTION: &str = "ovncp.report";
/// Lease of a term.
pub const TTL: Duration = Duration::from_secs(30);
/// Share of a limit from which on it is mentioned, in percent.
const NEARLY_REACHED_PERCENT: u64 = 80;

/// Reports at once, and then in every interval until the term ends.
pub async fn run(group: Group, interval: Duration, mut office: Office) {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = office.ended() => return,
            _ = due.tick() => {}
        }
        let (index, (cluster, nodes)) = group.read(|state| (state.cluster(), state.nodes()));
        tracing::info!(
            %index,
            token = %office.token(),
            members = nodes.len(),
            active = nodes.iter().filter(|node| node.status == NodeStatus::Active).count(),
            locks_held = cluster.locks_held,
            waiters = cluster.waiters,
            kv_keys = cluster.kv_keys,
            "report of the cluster"
        );
        for finding in findings(&cluster, &nodes) {
            tracing::warn!("report of the cluster: {finding}");
        }
    }
}

/// What is not as it should be.
fn findings(cluster: &ClusterView, nodes: &[NodeView]) -> Vec<String> {
    let mut found = Vec::new();
    for node in nodes.iter().filter(|node| matches!(node.status, NodeStatus::Suspect | NodeStatus::Inactive))
    {
        found.push(format!("{} does not answer ({:?})", node.name, node.status));
    }
    let voters: Vec<_> = nodes.iter().filter(|node| node.role == NodeRole::Voter).collect();
    let answering = |node: &&&NodeView| matches!(node.status, NodeStatus::Active | NodeStatus::Draining);
    let healthy = voters.iter().filter(answering).count();
    if voters.len() > 1 && healthy == voters.len() / 2 + 1 && healthy < voters.len() {
        found.push(format!(
            "{healthy} of {} voters answer: the loss of one more stops all writes",
            voters.len()
        ));
    }
    for (what, used, max) in [
        ("locks_held", cluster.locks_held, LOCKS_HELD_MAX),
        ("waiters", cluster.waiters, WAITERS_MAX),
        ("kv_keys", cluster.kv_keys, KV_KEYS_MAX),
        ("kv_bytes", cluster.kv_bytes, KV_BYTES_MAX),
    ] {
        if used.saturating_mul(100) >= (max as u64).saturating_mul(NEARLY_REACHED_PERCENT) {
            found.push(format!("{what} is {used}; the limit is {max}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovncp_state::command::NodeInfo;
    use ovncp_state::{Incarnation, Millis, NodeId, State};

    fn node(id: u64, status: NodeStatus) -> NodeView {
        NodeView {
            id: NodeId(id),
            name: format!("node-{id}"),
            incarnation: Incarnation([0; 16]),
            boot: 1,
            info: NodeInfo::default(),
            status,
            role: NodeRole::Voter,
            generation: 1,
            status_since: Millis(0),
            joined_at: Millis(0),
        }
    }

    #[test]
    fn only_what_needs_somebody_is_mentioned() {
        let mut cluster = State::default().cluster();
        let all = |status| [node(1, NodeStatus::Active), node(2, NodeStatus::Active), node(3, status)];
        assert_eq!(findings(&cluster, &all(NodeStatus::Active)), [""; 0]);
        let found = findings(&cluster, &all(NodeStatus::Inactive));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("node-3") && found[1].contains("2 of 3 voters"), "{found:?}");
        cluster.waiters = WAITERS_MAX as u64 * 4 / 5;
        let found = findings(&cluster, &all(NodeStatus::Active));
        assert!(found.len() == 1 && found[0].contains("waiters is 160000"), "{found:?}");
    }
}
