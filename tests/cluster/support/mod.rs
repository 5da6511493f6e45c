//! Clusters of the real binary on loopback, for tests that kill, pause, wipe and damage them.
//!
//! Every cluster has a `127.x.y.0/24` of its own, so that fixed ports never collide with another test. Waiting is
//! always for a condition, with [`PATIENCE`] as the bound after which the test fails and prints the nodes' logs.

mod http;
mod node;
pub(crate) mod socket;

use std::fmt::Debug;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

pub(crate) use http::{Answer, Lock};
pub(crate) use node::{HTTP_PORT, METRICS_PORT, Node, NodeOptions};

/// How long a condition may take on a busy machine before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Running nodes and the folder that holds their data.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) folder: TempDir,
}

impl Cluster {
    /// Starts `count` nodes that know each other and waits until all of them are ready.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    /// As [`Cluster::start`], with options changed by `adjust`.
    pub(crate) async fn start_with(count: usize, adjust: impl Fn(&mut NodeOptions)) -> Self {
        let mut cluster = Self::prepare(count, adjust);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.all_ready().await;
        cluster
    }

    /// Nodes that know each other, not started.
    pub(crate) fn prepare(count: usize, adjust: impl Fn(&mut NodeOptions)) -> Self {
        let folder = tempfile::Builder::new().prefix("ovncp-test-").tempdir().expect("temporary folder");
        let subnet = subnet();
        let peers = peers(&subnet, count);
        let nodes = (1..=count)
            .map(|number| {
                let mut options = NodeOptions::new(
                    format!("node-{number}"),
                    format!("{subnet}.{number}"),
                    peers.clone(),
                    folder.path().join(format!("node-{number}")),
                );
                adjust(&mut options);
                Node::new(options)
            })
            .collect();
        Self { nodes, folder }
    }

    /// Waits until every node answers its readiness probe.
    pub(crate) async fn all_ready(&self) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            self.until(&format!("{} is ready", node.name()), || async {
                node.is_ready().await.then_some(())
            })
            .await;
        }
    }

    /// Position of the node that the running nodes agree to be the leader.
    pub(crate) async fn leader(&self) -> usize {
        self.until("one leader that a running node confirms", || async {
            for (position, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
                let answer = node.get("/api/v1/cluster/leader?consistency=local").await;
                if answer.is_some_and(|answer| answer.status == 200 && answer.body["is_leader"] == true) {
                    return Some(position);
                }
            }
            None
        })
        .await
    }

    /// Position of some running node that does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.nodes.len())
            .find(|position| *position != leader && self.nodes[*position].is_running())
            .expect("a running follower")
    }

    /// Waits until a node that was told to stop has ended, and says how.
    pub(crate) async fn end_of(&mut self, position: usize) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.nodes[position].ended() {
                return status;
            }
            let node = &self.nodes[position];
            assert!(start.elapsed() < PATIENCE, "{} does not end\n{}", node.name(), node.log_tail(60));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until `condition` yields something. Fails with the nodes' logs when it takes longer than [`PATIENCE`].
    pub(crate) async fn until<T, F>(&self, what: &str, mut condition: impl FnMut() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for node in &self.nodes {
            eprintln!("--- log of {} (last lines)\n{}", node.name(), node.log_tail(60));
        }
        panic!("not within {PATIENCE:?}: {what}");
    }

    /// Takes a lock through the first running node that gives it, retrying with one idempotency key as a user's
    /// client would.
    pub(crate) async fn acquire(&self, key: &str, owner: &str) -> Lock {
        let retry = unique("acquire");
        self.until(&format!("{owner} acquires {key}"), || async {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let body = serde_json::json!({ "owner": owner, "ttl_ms": 60_000 });
                let path = format!("/api/v1/cluster/locks/{key}/acquire");
                if let Some(answer) = node.post_with_key(&path, &body, &retry).await
                    && answer.status == 200
                {
                    return Some(Lock::from_answer(&answer));
                }
            }
            None
        })
        .await
    }

    /// Releases a lock through any running node.
    pub(crate) async fn release(&self, lock: &Lock) {
        let retry = unique("release");
        self.until(&format!("release {}", lock.key), || async {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let path = format!("/api/v1/cluster/locks/{}/release", lock.key);
                let body = serde_json::json!({ "secret": lock.secret });
                if let Some(answer) = node.post_with_key(&path, &body, &retry).await
                    && answer.status == 204
                {
                    return Some(());
                }
            }
            None
        })
        .await;
    }

    /// The state hashes of all running nodes at one applied index, once they agree on the index.
    pub(crate) async fn converged(&self) {
        self.until("all running nodes applied the same index with the same state hash", || async {
            let mut seen: Option<(serde_json::Value, serde_json::Value)> = None;
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let answer = node.get("/api/v1/cluster?consistency=local").await?;
                let here = (answer.body["applied_index"].clone(), answer.body["state_hash"].clone());
                assert!(here.1.is_string(), "no state_hash in {}", answer.body);
                match &seen {
                    None => seen = Some(here),
                    Some(there) if *there == here => {}
                    Some(there) if there.0 == here.0 => panic!("state differs: {there:?} against {here:?}"),
                    Some(_) => return None,
                }
            }
            seen.map(|_| ())
        })
        .await;
    }
}

/// `127.x.y` that no other test of this machine uses at the moment.
pub(crate) fn subnet() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number =
        NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(257).wrapping_add(std::process::id() as u16);
    format!("127.{}.{}", 16 + (number >> 8) % 200, number & 0xff)
}

/// The peer list of nodes 1..=count in a subnet.
pub(crate) fn peers(subnet: &str, count: usize) -> String {
    let all: Vec<String> =
        (1..=count).map(|number| format!("node-{number}={subnet}.{number}:{}", node::PEER_PORT)).collect();
    all.join(",")
}

/// A key that no other call uses.
pub(crate) fn unique(prefix: &str) -> String {
    use rand::RngExt;
    format!("{prefix}-{:032x}", rand::rng().random::<u128>())
}

/// For assertions that show both sides.
pub(crate) fn assert_strictly_increasing<T: PartialOrd + Debug>(values: &[T], what: &str) {
    for pair in values.windows(2) {
        assert!(pair[0] < pair[1], "{what} do not increase: {:?} before {:?}", pair[0], pair[1]);
    }
}
