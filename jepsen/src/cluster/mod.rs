//! The nodes: real processes of the release binary, started, harmed and stopped one by one.
//!
//! A [`Cluster`] knows nothing of faults. It starts a node where its [`Place`] on the network says, with the data
//! directory and the environment that it is given, and tells who runs. Nodes get a process group of their own, so
//! that Ctrl-C at a terminal reaches the harness alone, and die with the `Cluster`.

mod admin;
mod node;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use admin::{Admin, Standing};
pub use node::{Ended, Launch, Node, NodeError};

use crate::store::Leftovers;
use crate::workload::Endpoint;

/// Port of the HTTP interface; every node has an address of its own.
pub const HTTP_PORT: u16 = 8080;
/// Port of `/metrics`.
pub const METRICS_PORT: u16 = 9090;
/// Port between peers.
pub const PEER_PORT: u16 = 7400;
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long nodes may take to say who leads.
const LEADER_PATIENCE: Duration = Duration::from_millis(500);

/// Where a node stands on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address that it binds and at which clients reach it.
    pub listen: String,
    /// Address at which its peers are told to dial it.
    pub advertised: String,
    /// Program and arguments in front of the node's own command, to start it inside its host.
    pub wrapper: Vec<String>,
}

/// Process ids of the nodes that run, for those who look at them from outside (the proxy, the state file).
pub type Pids = Arc<Mutex<BTreeMap<String, u32>>>;

/// What all nodes have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The binary.
    pub binary: PathBuf,
    /// Folder of the logs.
    pub logs: PathBuf,
    /// Peer list that every node starts with.
    pub peers: String,
    /// Bearer token of administrators.
    pub admin_token: String,
    /// More environment of every node.
    pub environment: Vec<(String, String)>,
}

/// All nodes of a run, those that do not run included.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    nodes: BTreeMap<String, Node>,
    endpoints: watch::Sender<Vec<Endpoint>>,
    pids: Pids,
    leftovers: Leftovers,
    admin: Admin,
}

impl Cluster {
    /// No nodes yet.
    pub fn new(settings: Settings, pids: Pids, leftovers: Leftovers) -> Self {
        let admin = Admin::new(settings.admin_token.clone());
        let (nodes, endpoints) = (BTreeMap::new(), watch::channel(Vec::new()).0);
        Self { settings, nodes, endpoints, pids, leftovers, admin }
    }

    /// Makes a node known; does not start it.
    pub fn add(&mut self, name: &str, place: &Place, data_dir: &Path) {
        let launch = self.launch(name, place, data_dir);
        let log = self.settings.logs.join(format!("{name}.log"));
        let url = format!("http://{}:{HTTP_PORT}", place.listen);
        self.nodes.insert(name.to_owned(), Node::new(name, launch, log, url));
        self.publish();
    }

    fn launch(&self, name: &str, place: &Place, data_dir: &Path) -> Launch {
        let settings = &self.settings;
        let mut environment: BTreeMap<String, String> = settings.environment.iter().cloned().collect();
        let mut set = |key: &str, value: &str| environment.insert(key.to_owned(), value.to_owned());
        set("NODE_ID", name);
        set("NODE_HOSTNAME", name);
        set("NODE_IP", &place.advertised);
        set("NODE_PORT", &HTTP_PORT.to_string());
        set("OVNCP_METRICS_PORT", &METRICS_PORT.to_string());
        set("OVNCP_PEER_PORT", &PEER_PORT.to_string());
        set("OVNCP_LISTEN_ADDRESS", &place.listen);
        set("ENABLE_CLUSTERING", "true");
        set("OVNCP_PEERS", &settings.peers);
        set("OVNCP_DATA_DIR", &data_dir.to_string_lossy());
        set("OVNCP_ADMIN_TOKEN", &settings.admin_token);
        let mut command = place.wrapper.clone();
        command.push(settings.binary.to_string_lossy().into_owned());
        command.push("serve".to_owned());
        Launch { command, environment, data_dir: data_dir.to_path_buf() }
    }

    /// Forgets a node that does not run.
    pub async fn forget(&mut self, name: &str) -> Result<(), NodeError> {
        self.kill(name).await?;
        self.nodes.remove(name);
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let all =
            self.nodes.values().map(|node| Endpoint { name: node.name().into(), url: node.url().into() });
        self.endpoints.send_replace(all.collect());
    }

    /// Follows where clients reach the nodes, those that are down included.
    pub fn endpoints(&self) -> watch::Receiver<Vec<Endpoint>> {
        self.endpoints.subscribe()
    }

    /// All known nodes, in order.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&Node, NodeError> {
        self.nodes.get(name).ok_or_else(|| NodeError::NoSuchNode(name.to_owned()))
    }

    /// The node of that name, to be changed.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node, NodeError> {
        self.nodes.get_mut(name).ok_or_else(|| NodeError::NoSuchNode(name.to_owned()))
    }

    /// Starts a node that does not run, with more environment for this one start. Does not wait for it.
    pub fn start_with(&mut self, name: &str, environment: &[(String, String)]) -> Result<(), NodeError> {
        let pid = self.node_mut(name)?.start(environment)?;
        self.with_pids(|pids| pids.insert(name.to_owned(), pid));
        let written = self.leftovers.process(pid);
        written.map_err(|source| NodeError::Process {
            action: "write down the process of",
            node: name.into(),
            source,
        })
    }

    /// `kill -9`, and waits until the process is gone. Nothing happens to a node that does not run.
    pub async fn kill(&mut self, name: &str) -> Result<(), NodeError> {
        self.node_mut(name)?.kill().await?;
        self.with_pids(|pids| pids.remove(name));
        Ok(())
    }

    /// SIGTERM, then waits for the exit; after a grace the node is killed and that is an error.
    pub async fn terminate(&mut self, name: &str) -> Result<Ended, NodeError> {
        let ended = self.node_mut(name)?.terminate().await;
        self.with_pids(|pids| pids.remove(name));
        ended
    }

    /// Nodes that ended by themselves since the last call.
    pub fn reap(&mut self) -> Vec<Ended> {
        let ended: Vec<Ended> = self.nodes.values_mut().filter_map(Node::reap).collect();
        self.with_pids(|pids| pids.retain(|name, _| ended.iter().all(|ended| ended.node != *name)));
        ended
    }

    fn with_pids<T>(&self, change: impl FnOnce(&mut BTreeMap<String, u32>) -> T) -> T {
        change(&mut self.pids.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Process id of a node that runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.nodes.get(name)?.pid()
    }

    /// Whether its process exists (a paused one does).
    pub fn is_running(&self, name: &str) -> bool {
        self.pid(name).is_some()
    }

    /// Says that a fault may make this node end by itself; cleared at its next start.
    pub fn may_exit(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.may_exit();
        }
    }

    /// The interface for administrators.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Base address of a node's HTTP interface.
    pub fn url(&self, name: &str) -> Result<&str, NodeError> {
        Ok(self.node(name)?.url())
    }

    /// The node that says that it leads, preferring the highest term. All are asked at once: one that is stopped
    /// does not hold up the others.
    pub async fn leader(&self) -> Option<String> {
        let mut questions = tokio::task::JoinSet::new();
        for node in self.nodes.values().filter(|node| node.pid().is_some()) {
            let (admin, url) = (self.admin.clone(), node.url().to_owned());
            questions.spawn(async move { admin.standing(&url).await });
        }
        let deadline = tokio::time::Instant::now() + LEADER_PATIENCE;
        let mut leaders = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, questions.join_next()).await {
            leaders.extend(answer.ok().flatten().filter(|standing| standing.is_leader));
        }
        leaders.into_iter().max_by_key(|standing| standing.term).map(|standing| standing.node_id)
    }

    /// Waits until the node answers its readiness probe.
    pub async fn ready(&self, name: &str, patience: Duration) -> Result<(), NodeError> {
        let node = self.node(name)?;
        let waited = tokio::time::timeout(patience, async {
            while !self.admin.is_ready(node.url()).await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        waited.await.map_err(|_| NodeError::NotReady(name.to_owned(), patience))
    }
}

#[cfg(test)]
mod tests;
