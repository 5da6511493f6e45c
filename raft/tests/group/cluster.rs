//! Nodes of one process: start, stop, kill, and wait on conditions.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ovncp_raft::network::TcpNet;
use ovncp_raft::{Group, GroupConfig, GroupStatus, Phase, StartError, StaticPeer, Timing};
use ovncp_state::command::{KvOperation, WriteKv};
use ovncp_state::{Command, LogIndex, NodeId, Request, State};
use ovncp_storage::StoreOptions;
use ovncp_storage::disk::SimDisk;
use ovncp_storage::runtime::Process;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Generous: a busy machine must not fail a test.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn put(key: &str, value: &str) -> Request {
    let operations = vec![KvOperation::Put {
        key: key.as_bytes().to_vec(),
        value: value.as_bytes().to_vec(),
        content_type: None,
        ttl: None,
    }];
    Request::from(Command::WriteKv(WriteKv { conditions: Vec::new(), operations }))
}

/// A free port of this machine. Taken again at once by whoever asked for it.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) struct TestNode {
    pub(crate) config: GroupConfig,
    dir: TempDir,
    process: Process,
    group: Option<Group>,
    /// In place of the real one.
    pub(crate) disk: Option<SimDisk>,
}

impl TestNode {
    pub(crate) fn alone(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = GroupConfig::new(name, free_address(), dir.path().join("data"));
        config.timing = quick();
        Self { config, dir, process: Process::new(), group: None, disk: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn group(&self) -> &Group {
        self.group.as_ref().unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.group.is_some()
    }

    pub(crate) async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    pub(crate) async fn try_start(&mut self) -> Result<(), StartError> {
        assert!(self.group.is_none());
        self.process = Process::new();
        let (config, disk) = (self.config.clone(), self.disk.clone());
        let starting = self.process.own(async move {
            match disk {
                None => Group::start(config).await,
                Some(disk) => Group::start_with(config, disk, TcpNet, StoreOptions::simulation(), None).await,
            }
        });
        self.group = Some(tokio::spawn(starting).await.unwrap()?);
        Ok(())
    }

    /// As `kill -9` does: no task runs any further, connections break, nothing is handed over.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        self.group = None;
    }

    /// As `SIGSTOP` does.
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    /// As `SIGCONT` does.
    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(group) = self.group.take() {
            timeout(TIMEOUT, group.shutdown()).await.unwrap();
        }
    }

    /// Everything it had on disk is gone.
    pub(crate) fn wipe(&mut self) {
        assert!(self.group.is_none());
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// Copies everything on disk to a node that has nothing yet. Neither may run.
    pub(crate) fn copy_data_to(&self, other: &TestNode) {
        assert!(self.group.is_none() && other.group.is_none());
        copy(&self.dir.path().join("data"), &other.dir.path().join("data"));
    }

    pub(crate) async fn until(&self, what: &str, holds: impl FnMut(&GroupStatus) -> bool) -> GroupStatus {
        let mut status = self.group().status_watch();
        let mut holds = holds;
        let reached = timeout(TIMEOUT, status.wait_for(|status| holds(status))).await;
        match reached {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("{}: not in time: {what}; {:?}", self.name(), self.group().status()),
        }
    }

    pub(crate) async fn serving(&self) -> GroupStatus {
        self.until("serving", |status| status.phase == Phase::Serving).await
    }

    /// Waits until the state of this node says so; looked at after each entry.
    pub(crate) async fn until_state(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let group = self.group();
        let began = Instant::now();
        loop {
            let (applied, holds) = group.read(&holds);
            if holds {
                return;
            }
            let left = TIMEOUT.saturating_sub(began.elapsed());
            let next = group.wait_applied(LogIndex(applied.0 + 1), left).await;
            assert!(next.is_ok(), "{}: not in time: {what}; {:?}", self.name(), group.status());
        }
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let stored = self.group().read(|state| state.kv(key.as_bytes())).1;
        stored.map(|(_, value)| String::from_utf8(value).unwrap())
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

/// The same, but a node must be silent for seconds before another one campaigns: for tests that count terms.
pub(crate) fn patient() -> Timing {
    Timing {
        election_timeout_min: Duration::from_secs(5),
        election_timeout_max: Duration::from_secs(8),
        no_leader_wait: TIMEOUT,
        ..quick()
    }
}

/// Timing for tests: members are suspected and promoted within a second or two. Elections are slower than in
/// production, so that a busy machine does not make false ones.
pub(crate) fn quick() -> Timing {
    Timing {
        raft_heartbeat: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(500),
        election_timeout_max: Duration::from_millis(900),
        heartbeat_interval: Duration::from_millis(300),
        node_timeout: Duration::from_millis(1_500),
        promotion_stable: Duration::from_millis(500),
        ..Timing::default()
    }
}

/// Clusters at once: more would only slow each other down.
static CLUSTERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(2)));

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<String, TestNode>,
    _turn: OwnedSemaphorePermit,
}

impl Cluster {
    /// Nodes `n1..` that know each other, not started.
    pub(crate) async fn new(count: usize) -> Self {
        let turn = Arc::clone(&CLUSTERS).acquire_owned().await.unwrap();
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let mut nodes: BTreeMap<String, TestNode> =
            names.iter().map(|name| (name.clone(), TestNode::alone(name))).collect();
        let peers: Vec<StaticPeer> = nodes
            .values()
            .map(|node| StaticPeer { name: node.name().to_owned(), addr: node.config.listen.to_string() })
            .collect();
        for node in nodes.values_mut() {
            node.config.peers.clone_from(&peers);
        }
        Self { nodes, _turn: turn }
    }

    pub(crate) async fn formed(count: usize) -> Self {
        Self::new(count).await.started().await
    }

    /// The same with these time constants.
    pub(crate) async fn formed_with(count: usize, timing: Timing) -> Self {
        let mut cluster = Self::new(count).await;
        for node in cluster.nodes.values_mut() {
            node.config.timing = timing.clone();
        }
        cluster.started().await
    }

    async fn started(mut self) -> Self {
        for node in self.nodes.values_mut() {
            node.start().await;
        }
        for node in self.nodes.values() {
            node.serving().await;
        }
        self
    }

    pub(crate) fn node(&self, name: &str) -> &TestNode {
        &self.nodes[name]
    }

    pub(crate) fn node_mut(&mut self, name: &str) -> &mut TestNode {
        self.nodes.get_mut(name).unwrap()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &TestNode> {
        self.nodes.values().filter(|node| node.is_running())
    }

    /// The name of the leader that every running node agrees on.
    pub(crate) async fn leader(&self) -> String {
        let any = self.running().next().unwrap();
        let mut leader = None;
        let agreed = async {
            loop {
                let status = any.until("a leader is known", |status| status.leader.is_some()).await;
                let id = status.leader.unwrap();
                let same = |node: &TestNode| node.group().status().leader == Some(id);
                if self.running().all(same) && self.by_id(id).is_some() {
                    leader = Some(id);
                    return;
                }
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, agreed).await.expect("one leader");
        self.by_id(leader.unwrap()).unwrap().name().to_owned()
    }

    pub(crate) fn by_id(&self, id: NodeId) -> Option<&TestNode> {
        self.running().find(|node| node.group().identity().node_id == Some(id))
    }

    pub(crate) fn id(&self, name: &str) -> NodeId {
        self.node(name).group().identity().node_id.unwrap()
    }

    /// Some node that does not lead.
    pub(crate) async fn follower(&self) -> String {
        let leader = self.leader().await;
        self.running().find(|node| node.name() != leader).unwrap().name().to_owned()
    }

    /// Makes `name` lead. A busy machine may refuse it for a while.
    pub(crate) async fn make_leader(&self, name: &str) {
        let id = self.id(name);
        let began = Instant::now();
        while self.node(name).group().transfer_leader(Some(id), TIMEOUT).await != Ok(id) {
            assert!(began.elapsed() < TIMEOUT, "{name} cannot be made the leader");
        }
        self.node(name).until("leads", |status| status.is_leader).await;
    }

    pub(crate) async fn stop(&mut self) {
        for node in self.nodes.values_mut() {
            node.stop().await;
        }
    }
}
