//! Clients that take locks and write registers while a test breaks things, and the checks on what they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Answer, Cluster, Lock, Node, NodeOptions, assert_strictly_increasing, unique};

/// Between attempts after an unknown outcome or a refusal; the clients must not be what is measured.
const PAUSE_BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
const KEYS: u64 = 3;

/// Running clients.
pub(crate) struct Workload {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Option<Register>>>,
}

#[derive(Default)]
struct Shared {
    /// Per key: somebody was told that he holds it, and has not begun to release it.
    held: Mutex<BTreeMap<String, u64>>,
    /// Tokens per key in the order in which their holders learned of them.
    tokens: Mutex<BTreeMap<String, Vec<u64>>>,
    pairs: AtomicU64,
}

/// A register that one client alone writes, with increasing values.
struct Register {
    name: String,
    acknowledged: u64,
    attempted: u64,
}

impl Workload {
    /// Starts clients that each use all nodes in turn.
    pub(crate) fn start(cluster: &Cluster, clients: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared::default());
        let nodes: Vec<NodeOptions> = cluster.nodes.iter().map(|node| node.options.clone()).collect();
        let clients = (0..clients)
            .map(|number| {
                let client = Client {
                    nodes: nodes.iter().cloned().map(Node::new).collect(),
                    next: number as usize,
                    number,
                    stop: stop.clone(),
                    shared: shared.clone(),
                };
                tokio::spawn(client.run())
            })
            .collect();
        Self { stop, shared, clients }
    }

    /// Acquire-release pairs completed so far.
    pub(crate) fn pairs(&self) -> u64 {
        self.shared.pairs.load(Ordering::Relaxed)
    }

    /// Waits until `more` further pairs are done: the cluster serves.
    pub(crate) async fn progress(&self, cluster: &Cluster, more: u64) {
        let goal = self.pairs() + more;
        cluster
            .until(&format!("{more} more lock pairs"), || async { (self.pairs() >= goal).then_some(()) })
            .await;
    }

    /// Stops the clients and checks: no key had two holders, tokens increase, no acknowledged write is lost.
    pub(crate) async fn finish(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        let mut registers = Vec::new();
        for client in self.clients {
            registers.extend(client.await.expect("a client saw a broken promise"));
        }
        for (key, tokens) in self.shared.tokens.lock().expect("no panic under lock").iter() {
            assert_strictly_increasing(tokens, &format!("tokens of {key}"));
        }
        let mut all: Vec<u64> =
            self.shared.tokens.lock().expect("no panic under lock").values().flatten().copied().collect();
        all.sort_unstable();
        assert_strictly_increasing(&all, "tokens over all keys");
        for register in registers {
            let value = read_register(cluster, &register.name).await;
            assert!(
                (register.acknowledged..=register.attempted).contains(&value),
                "register {} holds {value}; acknowledged {}, attempted {}",
                register.name,
                register.acknowledged,
                register.attempted
            );
        }
    }
}

/// A linearizable read of a counter from any running node; 0 when it was never written.
async fn read_register(cluster: &Cluster, name: &str) -> u64 {
    cluster
        .until(&format!("read {name}"), || async {
            for node in cluster.nodes.iter().filter(|node| node.is_running()) {
                match node.get(&format!("/api/v1/cluster/kv/{name}")).await {
                    Some(answer) if answer.status == 200 => return answer.body.as_u64(),
                    Some(answer) if answer.status == 404 => return Some(0),
                    _ => {}
                }
            }
            None
        })
        .await
}

struct Client {
    nodes: Vec<Node>,
    next: usize,
    number: u64,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Client {
    async fn run(mut self) -> Option<Register> {
        let mut register =
            Register { name: format!("workload-{}", self.number), acknowledged: 0, attempted: 0 };
        let mut round = self.number;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            let key = format!("workload-{}", round % KEYS);
            let Some(lock) = self.acquire(&key).await else { continue };
            self.enter(&lock);
            if !self.write(&mut register).await {
                break;
            }
            self.leave(&lock);
            self.release(&lock).await;
            self.shared.pairs.fetch_add(1, Ordering::Relaxed);
        }
        Some(register)
    }

    /// Repeats a request with one idempotency key, on the nodes in turn, until an answer is definite.
    async fn until_definite(&mut self, path: &str, body: &serde_json::Value) -> Option<Answer> {
        let retry = unique("workload");
        loop {
            self.next = (self.next + 1) % self.nodes.len();
            let answer = self.nodes[self.next].post_with_key(path, body, &retry).await;
            if let Some(answer) = answer
                && !matches!(answer.status, 429 | 500..)
            {
                return Some(answer);
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            tokio::time::sleep(PAUSE_BETWEEN_ATTEMPTS).await;
        }
    }

    async fn acquire(&mut self, key: &str) -> Option<Lock> {
        let body = json!({ "owner": format!("client-{}", self.number), "ttl_ms": 300_000, "wait_ms": 5_000 });
        let answer = self.until_definite(&format!("/api/v1/cluster/locks/{key}/acquire"), &body).await?;
        match (answer.status, answer.code()) {
            (200, _) => Some(Lock::from_answer(&answer)),
            // Cancelled: the node through which it waited was reported inactive.
            (409, "lock_timeout" | "lock_held" | "wait_cancelled") => None,
            _ => panic!("acquire answered {answer:?}"),
        }
    }

    async fn release(&mut self, lock: &Lock) {
        let body = json!({ "secret": lock.secret });
        let path = format!("/api/v1/cluster/locks/{}/release", lock.key);
        if let Some(answer) = self.until_definite(&path, &body).await {
            assert_eq!(answer.status, 204, "release of a held lock answered {answer:?}");
        }
    }

    /// One write whose outcome is known, or `false` when the test stops first.
    async fn write(&mut self, register: &mut Register) -> bool {
        register.attempted += 1;
        let value = register.attempted.to_string();
        let path = format!("/api/v1/cluster/kv/{}", register.name);
        loop {
            self.next = (self.next + 1) % self.nodes.len();
            let answer = self.nodes[self.next].put(&path, value.as_bytes(), &[]).await;
            // The same value again is harmless, so that every outcome but success may be repeated.
            if answer.is_some_and(|answer| matches!(answer.status, 200 | 201 | 204)) {
                register.acknowledged = register.attempted;
                return true;
            }
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            tokio::time::sleep(PAUSE_BETWEEN_ATTEMPTS).await;
        }
    }

    fn enter(&self, lock: &Lock) {
        let mut held = self.shared.held.lock().expect("no panic under lock");
        if let Some(other) = held.insert(lock.key.clone(), lock.token) {
            panic!("{} has two holders: tokens {other} and {}", lock.key, lock.token);
        }
        let mut tokens = self.shared.tokens.lock().expect("no panic under lock");
        tokens.entry(lock.key.clone()).or_default().push(lock.token);
    }

    fn leave(&self, lock: &Lock) {
        self.shared.held.lock().expect("no panic under lock").remove(&lock.key);
    }
}
