//! What a group is started with, checked as a whole.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use ovncp_state::command::NodeInfo;
use ovncp_state::limits::{NODE_FIELD_BYTES_MAX, NODES_MAX};
use ovncp_state::{Command, Version};

use crate::error::StartError;

/// Entries that one append message carries at most.
const APPEND_ENTRIES_MAX: u64 = 1_024;
/// Entries appended to the local log as one batch at most.
const LOG_BATCH_ENTRIES_MAX: u64 = 4_096;
/// Messages waiting in front of the consensus core.
const CORE_QUEUE_MAX: u64 = 8_192;
/// Messages waiting in front of the apply task.
const APPLY_QUEUE_MAX: u64 = 1_024;
/// Log entries removed by one purge at least, unless snapshots are taken more often than that.
const PURGE_BATCH_ENTRIES: u64 = 1_024;
/// Time one snapshot transfer may take. (openraft's default of 200 ms looped for ever elsewhere.)
const SNAPSHOT_TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses before a peer that could not be reached is tried again.
const REDIAL_BACKOFF: &str = "20ms 40ms 80ms ...500ms";
/// More voters than this make every write slower for no gain in safety.
const VOTERS_TARGET_MAX: u8 = 7;

/// One entry of the static peer list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticPeer {
    /// Stable name of the node.
    pub name: String,
    /// `host:port` of its peer listener. For a listed name this wins over any address kept in the log, so
    /// that nodes restarted on new addresses under the same names find each other without help.
    pub addr: String,
}

/// Time constants. The defaults are those of docs/decisions on fail-over; tests shorten some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Raft heartbeat (`raft.heartbeat_interval`).
    pub raft_heartbeat: Duration,
    /// Shortest election time-out (`raft.election_timeout_min`).
    pub election_timeout_min: Duration,
    /// Longest election time-out, and the leader's lease (`raft.election_timeout_max`).
    pub election_timeout_max: Duration,
    /// `CLUSTER_HEARTBEAT_INTERVAL`: a member is suspect after missing three of them.
    pub heartbeat_interval: Duration,
    /// `CLUSTER_NODE_TIMEOUT`: a silent member becomes inactive.
    pub node_timeout: Duration,
    /// How long a learner must be caught up and healthy before it may vote.
    pub promotion_stable: Duration,
    /// How long a write waits for a leader before it is refused.
    pub no_leader_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            raft_heartbeat: Duration::from_millis(40),
            election_timeout_min: Duration::from_millis(110),
            election_timeout_max: Duration::from_millis(170),
            heartbeat_interval: Duration::from_secs(5),
            node_timeout: Duration::from_secs(30),
            promotion_stable: Duration::from_secs(10),
            no_leader_wait: Duration::from_millis(1_500),
        }
    }
}

/// When to take snapshots, and how much log to keep behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Entries since the last snapshot that make a new one due.
    pub every_entries: u64,
    /// Entries kept in the log although a snapshot covers them, for followers that lag a little.
    pub keep_entries: u64,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self { every_entries: 100_000, keep_entries: 50_000 }
    }
}

/// Everything a group is started with.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Stable name of this node (pod name).
    pub name: String,
    /// Addresses, version and labels of this node. `info.peer_addr` is what others dial.
    pub info: NodeInfo,
    /// The static peer list; this node may stand in it or not. Empty: a group of one.
    pub peers: Vec<StaticPeer>,
    /// Where the peer listener binds.
    pub listen: SocketAddr,
    /// The data directory, created when absent.
    pub data_dir: PathBuf,
    /// Number of voters that autopilot aims at; odd.
    pub voters_target: u8,
    /// Time constants.
    pub timing: Timing,
    /// Snapshot policy.
    pub snapshot: SnapshotSettings,
    /// Unix milliseconds at this start, so that people can be shown the date of cluster time 0. Nothing is
    /// decided by it.
    pub started_unix_ms: u64,
    /// Which version brought a command. For tests that need a kind newer than there is.
    #[doc(hidden)]
    pub since: fn(&Command) -> Version,
}

impl GroupConfig {
    /// A node called `name` alone, with defaults for everything else.
    pub fn new(name: impl Into<String>, listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            info: NodeInfo { peer_addr: listen.to_string(), ..NodeInfo::default() },
            peers: Vec::new(),
            listen,
            data_dir: data_dir.into(),
            voters_target: 3,
            timing: Timing::default(),
            snapshot: SnapshotSettings::default(),
            started_unix_ms: 0,
            since: Command::since,
        }
    }

    /// The static peer list with this node in it, by name and without duplicates: the initial members in
    /// rank order.
    pub(crate) fn members(&self) -> Vec<StaticPeer> {
        let mut members = self.peers.clone();
        if !members.iter().any(|peer| peer.name == self.name) {
            members.push(StaticPeer { name: self.name.clone(), addr: self.info.peer_addr.clone() });
        }
        members.sort();
        members
    }

    /// Refuses what cannot work, naming the setting.
    pub fn validate(&self) -> Result<(), StartError> {
        self.validate_names()?;
        self.validate_timing()?;
        if self.voters_target.is_multiple_of(2) || self.voters_target > VOTERS_TARGET_MAX {
            let problem = format!("{} is not odd and at most {VOTERS_TARGET_MAX}", self.voters_target);
            return Err(StartError::Settings { setting: "cluster.voters_target", problem });
        }
        if self.snapshot.every_entries == 0 {
            let problem = "must be at least 1 entry".to_owned();
            return Err(StartError::Settings { setting: "raft.snapshot_entries", problem });
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<(), StartError> {
        let refuse = |setting, problem| Err(StartError::Settings { setting, problem });
        if self.name.is_empty() || self.name.len() > NODE_FIELD_BYTES_MAX {
            return refuse("cluster.node_id", format!("must be 1 to {NODE_FIELD_BYTES_MAX} bytes"));
        }
        let members = self.members();
        if members.len() > NODES_MAX {
            return refuse("cluster.peers", format!("{} peers, at most {NODES_MAX}", members.len()));
        }
        for pair in members.windows(2) {
            if pair[0].name == pair[1].name {
                return refuse("cluster.peers", format!("{} is listed twice", pair[0].name));
            }
        }
        for peer in &members {
            let port = peer.addr.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() || peer.addr.len() > NODE_FIELD_BYTES_MAX {
                return refuse("cluster.peers", format!("{}: {:?} is not host:port", peer.name, peer.addr));
            }
        }
        Ok(())
    }

    fn validate_timing(&self) -> Result<(), StartError> {
        let timing = &self.timing;
        let relations = [
            (
                "raft.heartbeat_interval",
                !timing.raft_heartbeat.is_zero() && timing.raft_heartbeat * 2 < timing.election_timeout_min,
                "must be more than 0 and less than half of raft.election_timeout_min",
            ),
            (
                "raft.election_timeout_max",
                timing.election_timeout_min < timing.election_timeout_max,
                "must be more than raft.election_timeout_min",
            ),
            (
                "cluster.heartbeat_interval",
                timing.heartbeat_interval >= timing.raft_heartbeat,
                "must be at least raft.heartbeat_interval",
            ),
            (
                "cluster.node_timeout",
                timing.node_timeout > timing.heartbeat_interval * 3,
                "must be more than three times cluster.heartbeat_interval",
            ),
        ];
        match relations.iter().find(|(_, holds, _)| !holds) {
            Some((setting, _, problem)) => {
                Err(StartError::Settings { setting, problem: (*problem).to_owned() })
            }
            None => Ok(()),
        }
    }

    /// openraft's configuration. Each deviation from its defaults is a pitfall somebody paid for.
    pub(crate) fn raft_config(&self) -> Result<Arc<Config>, StartError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let timing = &self.timing;
        let config = Config {
            cluster_name: "ovncp".to_owned(),
            heartbeat_interval: millis(timing.raft_heartbeat),
            election_timeout_min: millis(timing.election_timeout_min),
            election_timeout_max: millis(timing.election_timeout_max),
            // A leader cut off from its quorum falls silent in every other slot, so that a node which still
            // hears it can be elected: a partial partition would otherwise last for ever.
            quorum_loss_probe_interval: Some(millis(timing.election_timeout_max) * 2),
            enable_pre_vote: Some(true),
            install_snapshot_timeout: millis(SNAPSHOT_TRANSFER_TIMEOUT),
            max_payload_entries: APPEND_ENTRIES_MAX,
            max_append_entries: Some(LOG_BATCH_ENTRIES_MAX),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot.every_entries),
            max_in_snapshot_log_to_keep: self.snapshot.keep_entries,
            replication_lag_threshold: self.snapshot.every_entries + self.snapshot.keep_entries,
            backoff: REDIAL_BACKOFF.to_owned(),
            purge_batch_size: PURGE_BATCH_ENTRIES.min(self.snapshot.every_entries),
            api_channel_size: Some(CORE_QUEUE_MAX),
            notification_channel_size: Some(CORE_QUEUE_MAX),
            state_machine_channel_size: Some(APPLY_QUEUE_MAX),
            // Both would let a log that lost acknowledged entries (a wiped or restored disk) pass for whole.
            allow_log_reversion: Some(false),
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config
            .validate()
            .map(Arc::new)
            .map_err(|error| StartError::Settings { setting: "raft", problem: error.to_string() })
    }
}
