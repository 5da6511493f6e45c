//! The cluster, its nodes and its leader.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::locks::number;
use super::{Call, Client, Consistency, Error};

/// Taking a node out may take a hand-over and two changes of the group.
const REMOVE_TIME: Duration = Duration::from_secs(20);

const CLUSTER: [&str; 3] = ["api", "v1", "cluster"];

/// The cluster: [`Client::cluster`].
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) client: Client,
    consistency: Consistency,
}

/// Identity, leader and totals.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ClusterView {
    /// Identity, made once at formation; absent before.
    pub cluster_id: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Name of the leader, if one is known.
    pub leader_id: Option<String>,
    /// Name of the node that answered.
    pub node_id: String,
    /// Last entry applied to the state that this shows.
    #[serde(deserialize_with = "number")]
    pub applied_index: u64,
    /// Hash of the state at `applied_index`; equal on every node at an equal index.
    pub state_hash: String,
    /// Number of voters that the group aims at.
    pub voters_target: u8,
    /// What every member understands, as `major.minor`; empty when an older node answered.
    #[serde(default)]
    pub cluster_version: String,
    /// Nodes that vote.
    pub voters: usize,
    /// Nodes that only follow.
    pub learners: usize,
    /// Grants.
    pub locks_held: u64,
    /// Requests that wait for a lock.
    pub waiters: u64,
    /// Registers.
    pub kv_keys: u64,
}

/// Who leads, as the node that answered knows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LeaderView {
    /// Name of the node that answered.
    pub node_id: String,
    /// Whether that node leads.
    pub is_leader: bool,
    /// Name of the leader; absent when none is known.
    pub leader_id: Option<String>,
    /// Raft term.
    pub term: u64,
    /// On the leader: since a majority last acknowledged it. Elsewhere: since it was last heard.
    pub quorum_ack_age_ms: Option<u64>,
}

/// The members at one moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodesView {
    /// In the order of their Raft ids.
    pub nodes: Vec<NodeView>,
    /// Name of the node that answered: the leader alone knows the lag of the others.
    #[serde(rename = "self")]
    pub answered_by: String,
}

/// A member.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeView {
    /// Stable name.
    pub id: String,
    /// Raft id; another one after its disk was wiped.
    pub raft_id: String,
    /// Host name.
    pub hostname: String,
    /// Address under which clients reach it.
    pub ip: String,
    /// HTTP port.
    pub port: u16,
    /// `joining`, `active`, `suspect`, `inactive`, `draining` or `left`.
    pub status: String,
    /// When the status last changed, in UTC.
    pub status_since: String,
    /// `voter` or `learner`.
    pub role: String,
    /// Whether it leads, as far as the node that answered knows.
    pub is_leader: bool,
    /// When the leader last heard of it, in UTC; absent where the answering node does not know.
    pub last_heartbeat: Option<String>,
    /// Entries it is behind; absent where the answering node does not know.
    pub lag: Option<u64>,
    /// Version of its binary.
    pub version: String,
    /// Failure domain.
    pub zone: Option<String>,
    /// Labels.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Client {
    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster { client: self.clone(), consistency: Consistency::Linearizable }
    }
}

impl Cluster {
    /// Reads as fresh as this.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    pub(super) fn node_path<'a>(name: &'a str, verb: &'a str) -> impl Iterator<Item = &'a str> {
        CLUSTER.into_iter().chain(["nodes", name, verb])
    }

    fn get(&self, rest: &[&str]) -> Call {
        Call::get(CLUSTER.iter().chain(rest)).consistency(self.consistency)
    }

    /// Identity, leader and totals.
    pub async fn view(&self) -> Result<ClusterView, Error> {
        self.client.json(&self.get(&[])).await
    }

    /// The members.
    pub async fn nodes(&self) -> Result<NodesView, Error> {
        self.client.json(&self.get(&["nodes"])).await
    }

    /// One member by name; absent when there is none of it.
    pub async fn node(&self, name: &str) -> Result<Option<NodeView>, Error> {
        match self.client.json(&self.get(&["nodes", name])).await {
            Ok(node) => Ok(Some(node)),
            Err(Error::NotFound(problem)) if problem.code == "unknown_node" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who leads, as the asked node knows it; needs no leader.
    pub async fn leader(&self) -> Result<LeaderView, Error> {
        self.client.json(&self.get(&["leader"])).await
    }

    /// Hands leadership to `target`, or to the voter that is furthest; answers who leads then. For
    /// administrators.
    pub async fn transfer_leader(&self, target: Option<&str>) -> Result<String, Error> {
        let body = target.map_or_else(|| json!({}), |target| json!({"target": target}));
        let call = Call::post(CLUSTER.into_iter().chain(["leader", "transfer"])).json(&body);
        let answer: Value = self.client.json(&call).await?;
        let leader = answer["leader_id"].as_str().map(str::to_owned);
        leader.ok_or_else(|| Error::Protocol("the answer names no leader".to_owned()))
    }

    /// Takes a node out of the cluster for good. Refused when the rest would have no healthy majority. For
    /// administrators.
    pub async fn remove_node(&self, name: &str, reason: &str) -> Result<(), Error> {
        let call = Call::delete(CLUSTER.into_iter().chain(["nodes", name])).json(&json!({"reason": reason}));
        // The server itself may need longer than an ordinary try.
        self.client.call(&call.waits(REMOVE_TIME)).await.map(drop)
    }
}
