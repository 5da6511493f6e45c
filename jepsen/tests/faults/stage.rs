//! Three nodes on proxies, a client that keeps writing, and what it was told is durable.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ovncp_jepsen::cluster::{Cluster, Pids, Settings};
use ovncp_jepsen::disk::{DiskKind, Disks};
use ovncp_jepsen::nemesis::clock::Clocks;
use ovncp_jepsen::nemesis::{Effect, Env, NemesisKind};
use ovncp_jepsen::net::{NetKind, Network};
use ovncp_jepsen::store::Leftovers;
use ovncp_jepsen::workload::Endpoint;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a condition may take on a busy machine before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Snapshots early and often, dead members noticed soon.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("OVNCP_RAFT_SNAPSHOT_ENTRIES", "60"),
    ("OVNCP_RAFT_SNAPSHOT_KEEP", "20"),
    ("CLUSTER_HEARTBEAT_INTERVAL", "500ms"),
    ("CLUSTER_NODE_TIMEOUT", "3s"),
    ("OVNCP_PROMOTE_AFTER", "1s"),
];

/// A running cluster that can be harmed.
pub(crate) struct Stage {
    pub(crate) env: Env,
    writer: Writer,
    // Goes last: the nodes and the disks are in it.
    _folder: TempDir,
}

/// Says why a test shows nothing on this machine.
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// The nodes' binary: named, or of the same build. Built only where it is missing: other tests may be running it.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("OVNCP_BINARY") {
        return PathBuf::from(named);
    }
    let tests = std::env::current_exe().expect("the tests are a file");
    let path = tests.ancestors().nth(2).expect("it lies in target/debug/deps").join("ovncp");
    if !path.exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let built = Command::new(env!("CARGO")).args(["build", "--bin", "ovncp"]).current_dir(root).status();
        assert!(built.expect("cargo runs").success() && path.exists(), "no {}", path.display());
    }
    path
}

impl Stage {
    /// Three ready nodes and a client; `None` where the machine has no such disks or clocks.
    pub(crate) async fn set(disk: DiskKind, with_clocks: bool) -> Option<Self> {
        let binary = binary();
        let folder = tempfile::Builder::new().prefix("ovj-faults-").tempdir().expect("temporary folder");
        let names: Vec<String> = (1..=3).map(|number| format!("n{number}")).collect();
        let disks = Disks::prepare(disk, &folder.path().join("disks"), &names).expect("disks");
        if disks.kind() != disk {
            skipped(disks.notice().unwrap_or_default());
            return None;
        }
        let clocks = match with_clocks.then(|| Clocks::prepare(&folder.path().join("clocks"))).transpose() {
            Ok(clocks) => clocks,
            Err(why) => {
                skipped(&why);
                return None;
            }
        };
        let leftovers = Leftovers::begin(folder.path()).expect("state file");
        let pids = Pids::default();
        let network =
            Network::prepare(NetKind::Proxy, 1, pids.clone(), leftovers.clone()).await.expect("proxies");
        let settings = Settings {
            binary,
            logs: folder.path().to_path_buf(),
            peers: network.peers(&names),
            admin_token: "for tests".to_owned(),
            environment: ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        let cluster = Cluster::new(settings, pids, leftovers);
        let mut env = Env::new(cluster, network, disks, clocks);
        for name in &names {
            env.add(name).await.expect("a host");
            env.start(name).expect("the node starts");
        }
        let endpoints = env.cluster.endpoints().borrow().clone();
        let stage = Self { env, writer: Writer::start(endpoints), _folder: folder };
        stage.all_ready().await;
        Some(stage)
    }

    pub(crate) async fn all_ready(&self) {
        for name in self.env.cluster.names() {
            if self.env.cluster.ready(&name, PATIENCE).await.is_err() {
                panic!("{name} is not ready: {}", self.log(&name));
            }
        }
    }

    pub(crate) fn log(&self, name: &str) -> String {
        let log = self.env.cluster.node(name).expect("a node").log();
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// Waits until the client has got so many further writes acknowledged.
    pub(crate) async fn progress(&self, writes: u64) {
        let goal = self.writer.acknowledged() + writes;
        let start = Instant::now();
        while self.writer.acknowledged() < goal {
            let logs: Vec<String> = self.env.cluster.names().iter().map(|name| self.log(name)).collect();
            assert!(start.elapsed() < PATIENCE, "no progress:\n{}", logs.join("\n---\n"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes a fault, lets the client work on if it can, and heals it.
    pub(crate) async fn harm(&mut self, kind: NemesisKind, seed: u64, writes: u64) -> (Value, Effect) {
        kind.possible(&self.env).expect("possible here");
        let mut rng = StdRng::seed_from_u64(seed);
        let begun = kind.start(&mut self.env, &mut rng).await.expect("the fault begins");
        self.progress(writes).await;
        let effect = begun.state.heal(&mut self.env).await.expect("the fault is healed");
        eprintln!("{} {} {}", kind.name(), begun.detail, effect.measured);
        assert!(effect.measured["findings"].as_array().is_none_or(Vec::is_empty), "{effect:?}");
        (begun.detail, effect)
    }

    /// A node has a write that was acknowledged; a busy machine may answer it late.
    async fn expect(&self, endpoint: &Endpoint, number: u64, consistency: &str) {
        let url = format!("{}/api/v1/cluster/kv/{}?consistency={consistency}", endpoint.url, key(number));
        let start = Instant::now();
        loop {
            match self.writer.client.get(&url).send().await {
                Ok(answer) if !answer.status().is_server_error() => {
                    let (status, value) = (answer.status(), answer.text().await.unwrap_or_default());
                    assert!(
                        status.is_success(),
                        "{}: acknowledged write {number}: {status} {value}",
                        endpoint.name
                    );
                    return assert_eq!(value, number.to_string(), "on {}", endpoint.name);
                }
                outcome => assert!(start.elapsed() < PATIENCE, "{}: {outcome:?}", endpoint.name),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Every write that was acknowledged is on every node.
    pub(crate) async fn finish(mut self) {
        self.all_ready().await;
        self.progress(10).await;
        let written = self.writer.stop().await;
        let endpoints = self.env.cluster.endpoints().borrow().clone();
        for endpoint in &endpoints {
            // The last one as the cluster has it: the node then knows of all before it.
            self.expect(endpoint, written - 1, "linearizable").await;
            for number in 0..written {
                self.expect(endpoint, number, "local").await;
            }
        }
        for name in self.env.cluster.names() {
            self.env.cluster.kill(&name).await.expect("the node ends");
        }
        self.env.disks.release().expect("disks are unmounted");
    }
}

fn key(number: u64) -> String {
    format!("test-{number}")
}

/// Writes one key after the other, each until it is acknowledged.
struct Writer {
    client: reqwest::Client,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    fn start(endpoints: Vec<Endpoint>) -> Self {
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().expect("client");
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = {
            let (client, acknowledged, stop) = (client.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                for endpoint in endpoints.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = acknowledged.load(Ordering::Relaxed);
                    let url = format!("{}/api/v1/cluster/kv/{}", endpoint.url, key(number));
                    match client.put(url).body(number.to_string()).send().await {
                        Ok(answer) if answer.status().is_success() => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => tokio::time::sleep(LOOK_EVERY).await,
                    }
                }
            })
        };
        Self { client, acknowledged, stop, task: Mutex::new(Some(task)) }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn stop(&self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let task = self.task.lock().expect("not poisoned").take();
        task.expect("stopped once").await.expect("the writer ends");
        self.acknowledged()
    }
}
