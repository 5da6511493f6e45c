//! Settings of the group: who this node is, whom it knows, and Raft's own timing.

use std::path::PathBuf;
use std::time::Duration;

use super::section::section;
use super::value::{Label, PEER_PORT, PeerAddress};

section! {
    /// Who this node is and whom it knows.
    pub struct ClusterConfig, file ClusterFile {
        /// Whether this node belongs to a group. Without it the node runs alone.
        enabled: bool = false, env "ENABLE_CLUSTERING", default "true when `cluster.peers` is set";
        /// Stable, unique name of this node (the pod name).
        node_id: String = String::new(), env "NODE_ID", default "the host name";
        /// Host name shown to people.
        node_hostname: String = String::new(), env "NODE_HOSTNAME", default "the host name";
        /// IP address or name under which clients and peers reach this node.
        node_ip: String = String::new(), env "NODE_IP", default "the host of its own entry in `cluster.peers`, else the host name";
        /// Static peers, this node included, the same list on every one. Nodes that join later name the same list.
        peers: Vec<PeerAddress> = Vec::new(), env "OVNCP_PEERS";
        /// Port of the peer listener; 0 takes a free one.
        peer_port: u16 = PEER_PORT, env "OVNCP_PEER_PORT", default "the port of its own entry in `cluster.peers`, else 7400";
        /// Unit in which a member's silence is counted: after three of them without an acknowledgement it is
        /// `suspect`. Raft's own heartbeat is `raft.heartbeat_interval`.
        heartbeat_interval: Duration = Duration::from_secs(5), env "CLUSTER_HEARTBEAT_INTERVAL";
        /// Silence after which a node is `inactive`.
        node_timeout: Duration = Duration::from_secs(30), env "CLUSTER_NODE_TIMEOUT";
        /// Voters that the group aims at: 1, 3, 5 or 7. Further nodes stay learners.
        voters_target: u8 = 0, env "OVNCP_VOTERS_TARGET", default "1 alone, 3 with up to four peers, else 5";
        /// How long a learner must be caught up and healthy before it may vote.
        promote_after: Duration = Duration::from_secs(10), env "OVNCP_PROMOTE_AFTER";
        /// How often one node of the cluster, whichever, writes a report about all of it into its log: members that
        /// do not answer, limits that are nearly reached. 0s for never: whoever reports holds an election, and a
        /// cluster that is idle otherwise then writes about an entry per second.
        report_interval: Duration = Duration::ZERO, env "OVNCP_REPORT_INTERVAL";
        /// Failure domain of this node.
        zone: Option<String> = None, env "OVNCP_ZONE";
        /// Free-form labels of this node.
        labels: Vec<Label> = Vec::new(), env "OVNCP_LABELS";
    }
}

section! {
    /// Raft's own timing and when snapshots are taken.
    pub struct RaftConfig, file RaftFile {
        /// How often the leader confirms its office.
        heartbeat_interval: Duration = Duration::from_millis(40), env "OVNCP_RAFT_HEARTBEAT_INTERVAL";
        /// Shortest wait of a follower before it campaigns.
        election_timeout_min: Duration = Duration::from_millis(110), env "OVNCP_RAFT_ELECTION_TIMEOUT_MIN";
        /// Longest wait of a follower before it campaigns; also the time for which it trusts a leader.
        election_timeout_max: Duration = Duration::from_millis(170), env "OVNCP_RAFT_ELECTION_TIMEOUT_MAX";
        /// Entries after which a snapshot is taken.
        snapshot_entries: u64 = 100_000, env "OVNCP_RAFT_SNAPSHOT_ENTRIES";
        /// Entries kept in the log behind a snapshot, for peers that lag a little.
        snapshot_keep_entries: u64 = 50_000, env "OVNCP_RAFT_SNAPSHOT_KEEP";
    }
}

section! {
    /// What survives a restart.
    pub struct StorageConfig, file StorageFile {
        /// Directory of the log, the snapshots and the identity of this node. One process per directory.
        data_dir: PathBuf = PathBuf::from("ovncp-data"), env "OVNCP_DATA_DIR";
    }
}

section! {
    /// WebSocket sessions.
    pub struct SessionConfig, file SessionFile {
        /// How long a session outlives its node or its socket.
        ttl: Duration = Duration::from_secs(30 * 60), env "SESSION_TTL";
        /// How long a stopping node lets WebSocket clients go elsewhere before it closes what is left. With
        /// `server.drain_delay` and `server.shutdown_timeout` it has to fit into the time that the orchestrator gives.
        drain_grace: Duration = Duration::from_secs(10), env "OVNCP_SESSION_DRAIN_GRACE";
    }
}
