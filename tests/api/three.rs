//! Any node takes any request: three nodes, requests that move between them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNode};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the queue of the lock has this length, as one node sees it.
async fn queue_of(node: &TestNode, key: &str, length: u64) {
    let mut status = node.group.status_watch();
    let reached = async {
        while node.group.read(|state| state.lock(key, 0)).1.map_or(0, |lock| lock.queue_length) != length {
            // Each applied entry changes the status; a timer only bounds a missed change.
            let _ = tokio::time::timeout(Duration::from_millis(20), status.changed()).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("the queue has never {length} waiters"));
}

fn retryable(node: &TestNode, key: &str, body: Value) -> tokio::task::JoinHandle<Answer> {
    let call = node.call(Method::POST, &format!("/api/v1/cluster/locks/{key}/acquire"));
    tokio::spawn(call.header("idempotency-key", "retry-1").json(body).send())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_any_request() {
    let nodes = TestNode::start_three().await;
    for (rank, node) in nodes.iter().enumerate() {
        let key = format!("k{rank}");
        let held = node.acquire(&key, json!({"owner": "a"})).await;
        let (index, held) = (held.header("x-ovncp-index").to_owned(), held.expect(200));
        let next = &nodes[(rank + 1) % 3];
        // Linearizable anywhere; local where the asked index is applied.
        next.acquire(&key, json!({"owner": "b"})).await.problem(409, "lock_held");
        next.get(&format!("/api/v1/cluster/locks/{key}")).await.expect(200);
        let path = format!("/api/v1/cluster/locks/{key}?consistency=local");
        next.call(Method::GET, &path).header("x-ovncp-min-index", &index).send().await.expect(200);
        let secret = json!({"secret": held["secret"]});
        next.post(&format!("/api/v1/cluster/locks/{key}/renew"), secret.clone()).await.expect(200);
        next.post(&format!("/api/v1/cluster/locks/{key}/release"), secret).await.expect(204);
    }
    let listed = nodes[2].get("/api/v1/cluster/nodes").await.expect(200);
    let names: Vec<_> = listed["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3"]);
    assert_eq!(listed["self"], "node-3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiter_on_one_node_is_granted_by_a_release_on_another() {
    let nodes = TestNode::start_three().await;
    let held = nodes[0].acquire("k", json!({"owner": "a", "ttl_ms": 60_000})).await.expect(200);
    let call = nodes[1].call(Method::POST, "/api/v1/cluster/locks/k/acquire");
    let waiter = tokio::spawn(call.json(json!({"owner": "b", "wait_ms": 30_000})).send());
    queue_of(&nodes[2], "k", 1).await;
    let secret = json!({"secret": held["secret"]});
    nodes[2].post("/api/v1/cluster/locks/k/release", secret).await.expect(204);
    assert_eq!(waiter.await.unwrap().expect(200)["owner"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_on_another_node_takes_the_request_over() {
    let nodes = TestNode::start_three().await;
    let held = nodes[0].acquire("k", json!({"owner": "a", "ttl_ms": 86_400_000})).await.expect(200);
    let body = json!({"owner": "b", "ttl_ms": 86_400_000, "wait_ms": 30_000});
    let first = retryable(&nodes[0], "k", body.clone());
    queue_of(&nodes[0], "k", 1).await;
    first.abort();
    let gone = std::time::Instant::now();
    let second = retryable(&nodes[1], "k", body.clone());
    // The retry attaches: there is one waiter, and it has the node of the retry.
    let moved = async {
        loop {
            let shown = nodes[2].get("/api/v1/cluster/locks/k").await.expect(200);
            assert_eq!(shown["queue_length"], 1);
            if shown["queue"][0]["node_id"] == "node-2" {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("the retry takes the waiter over");
    let secret = json!({"secret": held["secret"]});
    nodes[2].post("/api/v1/cluster/locks/k/release", secret).await.expect(204);
    let granted = second.await.unwrap().expect(200);
    // A third node answers the same lock with the same secret, though none of them has kept it.
    let again = retryable(&nodes[2], "k", body).await.unwrap().expect(200);
    assert_eq!((&granted["secret"], &granted["fencing_token"]), (&again["secret"], &again["fencing_token"]));
    // The first node's cancellation, due 10 s after its client went, must not take the lock away.
    tokio::time::sleep_until((gone + Duration::from_secs(12)).into()).await;
    let renew = json!({"secret": granted["secret"]});
    nodes[0].post("/api/v1/cluster/locks/k/renew", renew).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_to_the_named_node() {
    let nodes = TestNode::start_three().await;
    for target in ["node-3", "node-1"] {
        let asked = nodes[1].post("/api/v1/cluster/leader/transfer", json!({ "target": target })).await;
        assert_eq!(asked.expect(200)["leader_id"], target);
        let shown = async {
            while nodes[1].get("/api/v1/cluster/leader").await.expect(200)["leader_id"] != target {}
        };
        tokio::time::timeout(PATIENCE, shown).await.expect("every node learns of the new leader");
    }
    nodes[1].acquire("k", json!({"owner": "a"})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_survivor_refuses_writes_soon_and_still_reads_locally() {
    let mut nodes = TestNode::start_three().await;
    let written = nodes[0].acquire("k", json!({"owner": "a", "ttl_ms": 86_400_000})).await;
    let index = written.header("x-ovncp-index").to_owned();
    written.expect(200);
    nodes[1].begin_stop();
    nodes[2].begin_stop();
    let [survivor, second, third] = nodes;
    second.stop_begun().await;
    third.stop_begun().await;
    // The first write may still be handed to a leader that has just gone: its outcome is then unknown. And a busy
    // machine may take longer than promised for one answer, but not for each.
    let soon = Duration::from_secs(2);
    let refused = async {
        loop {
            let began = std::time::Instant::now();
            let answer = survivor.acquire("other", json!({"owner": "b"})).await;
            if answer.status.as_u16() == 503 {
                answer.problem(503, "no_leader");
                if began.elapsed() < soon {
                    return;
                }
            } else {
                answer.problem(504, "outcome_unknown");
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("writes are refused soon without a majority");
    let refused = async {
        loop {
            let began = std::time::Instant::now();
            survivor.get("/api/v1/cluster/locks/k").await.problem(503, "no_leader");
            if began.elapsed() < soon {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("reads are refused soon without a majority");
    let path = "/api/v1/cluster/locks/k?consistency=local";
    let local = survivor.call(Method::GET, path).header("x-ovncp-min-index", &index).send().await;
    assert_eq!(local.expect(200)["holders"][0]["owner"], "a");
    survivor.get("/health/live").await.expect(200);
    let unready = async {
        loop {
            let report = survivor.get("/health/ready").await;
            if report.status.as_u16() == 503 {
                return report.json();
            }
        }
    };
    let report = tokio::time::timeout(PATIENCE, unready).await.expect("not ready without a leader");
    assert_eq!(report["checks"]["leader"]["status"], "failing", "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_of_a_stopping_node_leave_at_once() {
    let mut nodes = TestNode::start_three().await;
    nodes[0].acquire("k", json!({"owner": "a", "ttl_ms": 86_400_000})).await.expect(200);
    let call = nodes[1].call(Method::POST, "/api/v1/cluster/locks/k/acquire");
    let waiter = tokio::spawn(call.json(json!({"owner": "b", "wait_ms": 40_000})).send());
    queue_of(&nodes[2], "k", 1).await;
    let began = std::time::Instant::now();
    nodes[1].begin_stop();
    waiter.await.unwrap().problem(503, "draining");
    queue_of(&nodes[2], "k", 0).await;
    // Neither its deadline nor the node time-out did it.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
