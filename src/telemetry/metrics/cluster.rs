//! Members, totals of the state, and this node's part in Raft: read from the group at each scrape.

use std::collections::BTreeMap;

use ovncp_raft::group::Group;
use ovncp_raft::status::{GroupStatus, Integrity, Phase};
use ovncp_raft::{GroupCounters, READ_OUTCOMES, WRITE_OUTCOMES};
use ovncp_state::State;
use ovncp_state::command::NodeStatus;
use ovncp_state::view::{ClusterView, NodeView};
use prometheus::proto::MetricFamily;

use super::Declared;
use super::declared::declare;
use super::locks::HELD;

declare! {
    /// The cluster, as this node applied it: every node shows the same, so take the maximum, not the sum.
    CLUSTER:
    NODES = Gauge "ovncp_cluster_nodes_total" {status} in "nodes",
        "Members by status (joining, active, suspect, inactive, draining).",
        night "Suspect or inactive members: ovncp members names them; look at their process, disk and network.";
    NODE_INFO = Gauge "ovncp_cluster_node_info" {node_id, hostname, ip} in "1",
        "One per member, always 1: names to join other metrics with.",
        night "A member that should not be there: DELETE /api/v1/cluster/nodes/{id}.";
    LEADER = Gauge "ovncp_cluster_leader" {node_id} in "1",
        "1 for the leader as this node knows it; absent while it knows none.",
        night "Absent everywhere, or ovncp_raft_quorum_ack_age_seconds growing on the leader: fewer than a majority of the voters can reach each other.";
    CLOCK = Gauge "ovncp_cluster_clock_seconds" {} in "seconds",
        "Cluster time that leases live by, as of the last applied entry; stands still without a leader and without leases.",
        night "Standing still while locks are held: there is no leader, or this node lags.";
    CLUSTER_LOCKS = Gauge "ovncp_cluster_locks_held" {} in "locks",
        "Locks held in the whole cluster.",
        night "Near the limit of 1,000,000 further acquires are refused with 429 limit_exceeded.";
    WAITERS = Gauge "ovncp_lock_waiters" {} in "requests",
        "Requests that wait for a lock in the whole cluster.",
        night "Growing: contention or a holder that hangs. ovncp locks shows queues and ages.";
    KV_KEYS = Gauge "ovncp_kv_keys" {} in "registers",
        "Registers.", night "Growing without end: a client writes keys without a ttl_ms.";
    KV_BYTES = Gauge "ovncp_kv_bytes" {} in "bytes",
        "Bytes of keys and values of all registers.",
        night "They are in the memory of every node and in every snapshot: delete or let them expire.";
    EVENTS = Gauge "ovncp_events_next_offset" {} in "events",
        "Offset the next event will get: the number of events so far.",
        night "Its rate is what watchers must keep up with.";
    REQUESTS = Gauge "ovncp_idempotency_records" {} in "records",
        "Outcomes kept for retries with an Idempotency-Key.",
        night "Bounded by count and age; at the bound the oldest are forgotten first.";
}

declare! {
    /// Raft, on this node.
    RAFT:
    STATE = Gauge "ovncp_raft_state" {state} in "1",
        "1 for what this node is: leader, follower, candidate (no leader known), learner, starting or stopped.",
        night "stopped: ovncp status and the log say why (disk, removed, damaged). candidate for long: no majority.";
    IS_LEADER = Gauge "ovncp_raft_is_leader" {} in "1",
        "1 when this node leads.", night "The sum over nodes is 1; 0 for more than seconds is an outage of writes. A leader whose ovncp_raft_quorum_ack_age_seconds grows has no majority: writes fail there too.";
    TERM = Gauge "ovncp_raft_term" {} in "term",
        "Raft term.", night "Climbing: elections. Look at disk latency, CPU starvation and the network between peers.";
    LAST_LOG = Gauge "ovncp_raft_last_log_index" {} in "entries",
        "Last entry in the log of this node.", night "Ahead of ovncp_raft_committed_index for long: no majority acknowledges.";
    COMMITTED = Gauge "ovncp_raft_committed_index" {} in "entries",
        "Last entry this node knows to be committed.", night "Standing still while clients write: no leader or no majority.";
    APPLIED = Gauge "ovncp_raft_applied_index" {} in "entries",
        "Last entry applied on this node.", night "Far behind the committed index: this node is short of CPU, or installs a snapshot.";
    SNAPSHOT = Gauge "ovncp_raft_snapshot_index" {} in "entries",
        "Last entry in the current snapshot.", night "Standing still while entries are written: snapshots fail; the log says why.";
    ACK_AGE = Gauge "ovncp_raft_quorum_ack_age_seconds" {} in "seconds",
        "Time since a quorum acknowledged this leader; on a follower since it heard the leader.",
        night "Above a second: this node is cut off, or the other side is overloaded.";
    INTEGRITY = Gauge "ovncp_raft_integrity" {integrity} in "1",
        "1 for what the comparison of states with the other voters found: unchecked, agrees, held or quarantined.",
        night "held or quarantined: a state differs. docs/operations.md; do not delete data directories before they are analysed.";
    MEMBERS = Gauge "ovncp_raft_members" {role} in "nodes",
        "Members of the Raft configuration by role (voter, learner).",
        night "Fewer voters than cluster.voters_target: ovncp members shows who is missing.";
    PEER_LAG = Gauge "ovncp_raft_peer_lag_entries" {node_id} in "entries",
        "Entries a member is behind; only the leader knows, so absent on the others.",
        night "One member only: its disk or network. All: this leader's network.";
    PEER_ACK_AGE = Gauge "ovncp_raft_peer_ack_age_seconds" {node_id} in "seconds",
        "Time since a member acknowledged anything; only the leader knows, so absent on the others.",
        night "Above a few seconds: the member is down or unreachable; it becomes suspect, then inactive.";
    ELECTIONS = Counter "ovncp_raft_elections_started_total" {} in "elections",
        "Elections this node called; campaigns that end in the pre-vote are not counted.",
        night "Repeated: leaders fail or cannot be heard. Compare over nodes: one that calls often has a bad network or no CPU.";
    WON = Counter "ovncp_raft_elections_won_total" {} in "elections",
        "Elections this node won.", night "Alternating between nodes: neither holds. See ovncp_storage_sync_seconds of each.";
    LEADER_CHANGES = Counter "ovncp_raft_leader_changes_total" {} in "changes",
        "Leaders this node has seen take office, the first one after its start included.",
        night "Each costs writes some 10 to 500 ms; more than a few a day without deployments need a reason.";
    PROPOSALS = Counter "ovncp_raft_proposals_total" {outcome} in "proposals",
        "Writes of clients of this node by outcome (applied, no_leader, busy, unknown, too_large, stopped, not_yet); a refusal by the state is applied.",
        night "no_leader: no majority. busy: overload. unknown: leaders died with writes under way; clients retry.";
    RENEWALS = Counter "ovncp_raft_renewals_total" {outcome} in "renewals",
        "Lease renewals of clients of this node by outcome, as for ovncp_raft_proposals_total.",
        night "Anything but applied endangers leases: holders have until their ttl_ms ends.";
    READS = Counter "ovncp_raft_reads_total" {outcome} in "reads",
        "Linearizable reads of clients of this node by outcome (confirmed, no_leader, lagging, busy, stopped).",
        night "lagging: this node applies too slowly. no_leader: reads with ?consistency=local still work.";
    READ_ROUNDS = Counter "ovncp_raft_read_index_rounds_total" {} in "rounds",
        "Questions to the leader for a read index; one covers all readers that asked before it left.",
        night "Nearly as many as reads: there is no load to share a round.";
    FORWARDED = Counter "ovncp_raft_proposals_forwarded_total" {} in "proposals",
        "Proposals this node sent on to the leader.", night "Rising against ovncp_raft_proposals_total: they are sent again; the forward connection breaks.";
    TAKEN = Counter "ovncp_raft_proposals_taken_total" {} in "proposals",
        "Proposals other nodes sent to this one.", night "Coming to a node that does not lead: routes are stale; harmless for seconds.";
    RETRIED = Counter "ovncp_raft_proposals_retried_total" {} in "proposals",
        "Proposals that surely were not appended and were tried again.", night "Expected around elections only.";
    PENDING = Gauge "ovncp_raft_proposals_pending" {} in "proposals",
        "Proposals of clients of this node without an outcome yet.", night "Near 65,536 new ones are refused as busy.";
    ADMITTED = Gauge "ovncp_raft_proposals_admitted" {} in "proposals",
        "Proposals of other nodes that this leader has taken and not resolved.", night "Near 65,536 the leader is overloaded.";
    WAITING = Gauge "ovncp_raft_lock_requests_waiting" {} in "requests",
        "Requests of clients of this node that wait for a lock.", night "Each holds a connection: compare with ovncp_http_connections_max.";
}

/// Statuses of a node as label values, so that each is always there.
const STATUSES: [(NodeStatus, &str); 5] = [
    (NodeStatus::Joining, "joining"),
    (NodeStatus::Active, "active"),
    (NodeStatus::Suspect, "suspect"),
    (NodeStatus::Inactive, "inactive"),
    (NodeStatus::Draining, "draining"),
];
/// What a node can be, as label values.
const STATES: [&str; 6] = ["leader", "follower", "candidate", "learner", "starting", "stopped"];

/// What a comparison of states can find, as label values.
const INTEGRITIES: [&str; 4] = ["unchecked", "agrees", "held", "quarantined"];

/// What a scrape takes out of the state, under its read lock: counts, and the few members. Nothing here walks
/// locks, waiters or registers, or a scrape would hold up every write of a large cluster.
struct Glance {
    cluster: ClusterView,
    nodes: Vec<NodeView>,
    held_here: u64,
}

impl Glance {
    fn of(state: &State, own: ovncp_state::NodeId) -> Self {
        Self { cluster: state.cluster(), nodes: state.nodes(), held_here: state.locks_held_by(own) }
    }
}

/// Every family of this file.
pub(crate) fn families(group: &Group, node: &str) -> Vec<MetricFamily> {
    let status = group.status();
    let own = status.node_id.unwrap_or_default();
    let (_, glance) = group.read(|state| Glance::of(state, own));
    let mut families = totals(&glance, node);
    families.extend(members(&glance.nodes, &status, node));
    families.extend(raft(&status));
    families.extend(counted(&group.counters()));
    families
}

fn totals(glance: &Glance, node: &str) -> Vec<MetricFamily> {
    let Glance { cluster, held_here, .. } = glance;
    let count = |declared: &Declared, count: u64| declared.value(count as f64);
    vec![
        HELD.each([(node, *held_here as f64)]),
        CLOCK.value(cluster.now.0 as f64 / 1e3),
        count(&CLUSTER_LOCKS, cluster.locks_held),
        count(&WAITERS, cluster.waiters),
        count(&KV_KEYS, cluster.kv_keys),
        count(&KV_BYTES, cluster.kv_bytes),
        count(&EVENTS, cluster.events.1.0),
        count(&REQUESTS, cluster.requests_kept),
    ]
}

fn members(nodes: &[NodeView], status: &GroupStatus, own: &str) -> Vec<MetricFamily> {
    let names: BTreeMap<u64, &str> = nodes.iter().map(|node| (node.id.0, node.name.as_str())).collect();
    let by_status = STATUSES
        .map(|(wanted, label)| (label, nodes.iter().filter(|node| node.status == wanted).count() as f64));
    let info = nodes
        .iter()
        .map(|node| NODE_INFO.labelled_value(&[&node.name, &node.info.hostname, &node.info.ip], 1.0));
    let leader = status.leader.and_then(|id| names.get(&id.0).copied());
    let leader = leader.or(status.is_leader.then_some(own));
    let peers = |value: fn(&ovncp_raft::PeerStatus) -> Option<f64>| {
        let known = status.peers.iter().filter_map(|peer| Some((*names.get(&peer.id.0)?, value(peer)?)));
        known.collect::<Vec<_>>()
    };
    vec![
        NODES.each(by_status),
        NODE_INFO.family(info.collect()),
        LEADER.each(leader.map(|leader| (leader, 1.0))),
        PEER_LAG.each(peers(|peer| Some(peer.lag as f64))),
        PEER_ACK_AGE.each(peers(|peer| Some(peer.last_ack_age_ms? as f64 / 1e3))),
    ]
}

fn raft(status: &GroupStatus) -> Vec<MetricFamily> {
    let state = state_of(status);
    let integrity = integrity_of(&status.integrity);
    let roles = [("voter", status.voters.len() as f64), ("learner", status.learners.len() as f64)];
    let mut families = vec![
        STATE.each(STATES.map(|name| (name, f64::from(u8::from(name == state))))),
        IS_LEADER.value(f64::from(u8::from(status.is_leader))),
        INTEGRITY.each(INTEGRITIES.map(|name| (name, f64::from(u8::from(name == integrity))))),
        TERM.value(status.term as f64),
        LAST_LOG.value(status.last_log.0 as f64),
        COMMITTED.value(status.committed.0 as f64),
        APPLIED.value(status.applied.0 as f64),
        SNAPSHOT.value(status.snapshot.0 as f64),
        MEMBERS.each(roles),
    ];
    families.extend(status.quorum_ack_age_ms.map(|age| ACK_AGE.value(age as f64 / 1e3)));
    families
}

/// One of [`INTEGRITIES`].
fn integrity_of(integrity: &Integrity) -> &'static str {
    match integrity {
        Integrity::Unchecked => "unchecked",
        Integrity::Agrees { .. } => "agrees",
        Integrity::Held { .. } => "held",
        Integrity::Quarantined { .. } => "quarantined",
    }
}

/// One of [`STATES`].
fn state_of(status: &GroupStatus) -> &'static str {
    match (&status.phase, status.node_id) {
        (Phase::Stopped { .. }, _) => "stopped",
        _ if status.is_leader => "leader",
        (_, Some(id)) if status.learners.contains(&id) => "learner",
        (_, Some(id)) if status.voters.contains(&id) => {
            if status.leader.is_some() {
                "follower"
            } else {
                "candidate"
            }
        }
        _ => "starting",
    }
}

fn counted(counters: &GroupCounters) -> Vec<MetricFamily> {
    let count = |declared: &Declared, count: u64| declared.value(count as f64);
    let by = |declared: &Declared, names: &[&'static str], counts: &[u64]| {
        declared.each(names.iter().copied().zip(counts.iter().map(|count| *count as f64)))
    };
    vec![
        count(&ELECTIONS, counters.elections_started),
        count(&WON, counters.elections_won),
        count(&LEADER_CHANGES, counters.leader_changes),
        by(&PROPOSALS, &WRITE_OUTCOMES, &counters.proposals),
        by(&RENEWALS, &WRITE_OUTCOMES, &counters.renewals),
        by(&READS, &READ_OUTCOMES, &counters.reads),
        count(&READ_ROUNDS, counters.read_rounds),
        count(&FORWARDED, counters.forwarded),
        count(&TAKEN, counters.taken),
        count(&RETRIED, counters.retried),
        count(&PENDING, counters.pending),
        count(&ADMITTED, counters.admitted),
        count(&WAITING, counters.waiters),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ovncp_state::command::{AcquireLock, FormCluster, JoinNode, LockMode, NodeInfo};
    use ovncp_state::{
        ClusterId, Command, Entry, Incarnation, LogIndex, Millis, NodeId, SecretHash, WaiterId,
    };

    use super::*;

    /// A cluster of one node with so many held locks.
    fn held(locks: u64) -> State {
        let node = JoinNode {
            name: "node-1".to_owned(),
            incarnation: Incarnation([1; 16]),
            info: NodeInfo::default(),
        };
        let form = FormCluster {
            cluster_id: ClusterId([1; 16]),
            formed_at_unix_ms: 0,
            voters_target: 1,
            nodes: vec![node],
        };
        let mut state = State::new();
        let mut apply = |index: u64, command: Command| {
            state.apply(Entry { index: LogIndex(index), at: Millis(0), request: command.into() });
        };
        apply(1, Command::FormCluster(form));
        for index in 2..locks + 2 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&index.to_le_bytes());
            let acquire = AcquireLock {
                keys: vec![format!("switch:{index}")],
                mode: LockMode::Exclusive,
                owner: "me".to_owned(),
                secret: SecretHash([0; 32]),
                salt: None,
                ttl: Millis(60_000),
                wait: Millis(0),
                hold_max: None,
                metadata: None,
                waiter: WaiterId(id),
                node: NodeId(1),
            };
            apply(index, Command::AcquireLock(acquire));
        }
        state
    }

    /// The shortest of several rounds of looks: what the work takes, whatever else the machine does.
    fn time_of_looks(state: &State) -> Duration {
        let round = || {
            let began = Instant::now();
            for _ in 0..100 {
                std::hint::black_box(Glance::of(state, NodeId(1)));
            }
            began.elapsed()
        };
        (0..10).map(|_| round()).min().unwrap_or_default()
    }

    #[test]
    fn a_scrape_counts_locks_without_walking_them() {
        const LOCKS: u64 = 50_000;
        let (few, many) = (held(10), held(LOCKS));
        assert_eq!(Glance::of(&many, NodeId(1)).held_here, LOCKS);
        assert_eq!(Glance::of(&many, NodeId(2)).held_here, 0);
        assert_eq!(Glance::of(&many, NodeId(1)).cluster.locks_held, LOCKS);
        let (few, many) = (time_of_looks(&few), time_of_looks(&many));
        // To walk them would take thousands of times as long.
        assert!(many < few * 100 + Duration::from_millis(20), "{few:?} for few, {many:?} for many");
    }
}
