//! Each node restarted in turn, as for an upgrade, under the eyes of clients that notice everything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ovncp::client::{Client, Guard};
use tokio::task::JoinSet;

use crate::support::{Cluster, HTTP_PORT, NodeOptions, PATIENCE};

/// Clients that take locks, write and read; each pair of them wants one key.
const WORKERS: u64 = 8;
/// Locks that are held all the time.
const HELD: usize = 6;
/// Lease of those: renewed many times over while the nodes restart.
const HELD_TTL: Duration = Duration::from_secs(20);
/// Operations of all workers together between two restarts.
const OPERATIONS_BETWEEN: u64 = 100;
/// A stopping node answers for so long that probes see that it is not ready. Followers are patient: nobody is
/// elected because the machine is busy, and a leader that went without a hand-over would be missed for seconds.
const SETTINGS: [(&str, &str); 4] = [
    ("OVNCP_DRAIN_DELAY", "3s"),
    ("OVNCP_RAFT_HEARTBEAT_INTERVAL", "200ms"),
    ("OVNCP_RAFT_ELECTION_TIMEOUT_MIN", "3s"),
    ("OVNCP_RAFT_ELECTION_TIMEOUT_MAX", "5s"),
];

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    failures: Mutex<Vec<String>>,
}

fn client(cluster: &Cluster) -> Client {
    let endpoints = cluster.nodes.iter().map(|node| format!("http://{}:{HTTP_PORT}", node.options.ip));
    Client::builder().endpoints(endpoints).deadline(PATIENCE).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_under_load_loses_no_request_and_no_lock() {
    let settings =
        |options: &mut NodeOptions| SETTINGS.iter().for_each(|(name, value)| options.set(name, value));
    let mut cluster = Cluster::start_with(3, settings).await;
    let guards = hold(&client(&cluster)).await;
    let shared = Arc::new(Shared::default());
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        // A client of its own each, so that not all of them move at once.
        workers.spawn(work(number, client(&cluster), Arc::clone(&shared)));
    }
    progress(&cluster, &shared).await;
    let first = cluster.leader().await;
    for step in 0..3 {
        restart(&mut cluster, (first + step) % 3).await;
        progress(&cluster, &shared).await;
    }
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = workers.join_next().await {
        ended.expect("a worker reports its failures");
    }
    assert_eq!(*shared.failures.lock().expect("no panic under lock"), Vec::<String>::new());
    for (guard, token) in guards {
        assert!(guard.is_held(), "{} was lost: {}", guard.key(), guard.lost().await);
        let shown = client(&cluster).inspect(guard.key()).await.expect("an answer").expect("it is held");
        assert_eq!(shown.holders[0].fencing_token, token, "{}: the same grant", guard.key());
        guard.release().await.expect("a held lock is released");
    }
    cluster.converged().await;
}

async fn hold(client: &Client) -> Vec<(Guard, u64)> {
    let mut guards = Vec::new();
    for number in 0..HELD {
        let guard = client.lock(format!("held-{number}")).ttl(HELD_TTL).guard().await.expect("a free lock");
        let token = guard.fencing_token();
        guards.push((guard, token));
    }
    guards
}

/// SIGTERM; the node says that it is not ready, finishes, exits with success and comes back.
async fn restart(cluster: &mut Cluster, position: usize) {
    let was_leader = cluster.leader().await == position;
    cluster.nodes[position].begin_terminate();
    let told = cluster.until("the stopping node says that it is not ready", || async {
        let answer = cluster.nodes[position].get("/health/ready").await?;
        (answer.status == 503).then_some(answer)
    });
    let told = told.await;
    assert_eq!(told.body["checks"]["draining"]["status"], "failing", "{told:?}");
    let status = cluster.end_of(position).await;
    let log = cluster.nodes[position].log();
    assert!(status.success(), "{status}: {log}");
    // Not lost with its end.
    assert!(!was_leader || log.contains("leadership handed over"), "{log}");
    cluster.nodes[position].start();
    cluster.all_ready().await;
}

async fn progress(cluster: &Cluster, shared: &Shared) {
    let goal = shared.operations.load(Ordering::Relaxed) + OPERATIONS_BETWEEN;
    let what = format!("{OPERATIONS_BETWEEN} more operations");
    cluster
        .until(&what, || async { (shared.operations.load(Ordering::Relaxed) >= goal).then_some(()) })
        .await;
}

/// A lock pair, a write under it and a read of what was written, again and again. Whatever is no success ends it.
async fn work(number: u64, client: Client, shared: Arc<Shared>) {
    let mut written = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        written += 1;
        if let Err(failure) = round(number, written, &client).await {
            shared.failures.lock().expect("no panic under lock").push(format!("{number}: {failure}"));
            return;
        }
        shared.operations.fetch_add(4, Ordering::Relaxed);
    }
}

async fn round(number: u64, written: u64, client: &Client) -> Result<(), String> {
    let said = |what: &'static str| move |error| format!("{what}: {error:?}");
    let request = client.lock(format!("pair-{}", number / 2)).owner(format!("worker-{number}"));
    let lock =
        request.ttl(Duration::from_secs(300)).wait(PATIENCE).acquire().await.map_err(said("acquire"))?;
    let key = format!("value-{number}");
    let value = written.to_string();
    let revision = client.kv().put(&key, value.clone()).send().await.map_err(said("put"))?;
    let entry = client.kv().get(&key).await.map_err(said("get"))?.ok_or("get: it is gone")?;
    if (&entry.value[..], entry.revision) != (value.as_bytes(), revision) {
        return Err(format!("wrote {value} at {revision} and read {entry:?}"));
    }
    client.release(&lock).await.map_err(said("release"))
}
