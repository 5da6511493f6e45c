//! Requests that wait for a lock: order, deadlines, callers that go away, limits.

use std::time::Duration;

use ovncp_state::command::{AcquireLock, LockMode};
use ovncp_state::limits::WAITERS_PER_KEY_MAX;
use ovncp_state::{Command, EventKind, EventOffset, Millis, NodeId, Request, SecretHash, WaiterId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNode};

const LOCK: &str = "/api/v1/cluster/locks/k";
/// Longer than any of these conditions takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the queue of the lock `k` has this length on this node.
async fn queue_of(node: &TestNode, length: u64) {
    let mut events = node.group.status_watch();
    let reached = async {
        while node.group.read(|state| state.lock("k", 0)).1.map_or(0, |lock| lock.queue_length) != length {
            // Each applied entry changes the status; a timer only bounds a missed change.
            let _ = tokio::time::timeout(Duration::from_millis(20), events.changed()).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("the queue has never {length} waiters"));
}

fn waiting(node: &TestNode, owner: &str, headers: &[(&str, &str)]) -> tokio::task::JoinHandle<Answer> {
    let mut call = node.call(Method::POST, &format!("{LOCK}/acquire"));
    for (name, value) in headers {
        call = call.header(name, value);
    }
    tokio::spawn(call.json(json!({"owner": owner, "ttl_ms": 60_000, "wait_ms": 30_000})).send())
}

async fn release(node: &TestNode, secret: &Value) {
    node.post(&format!("{LOCK}/release"), json!({ "secret": secret })).await.expect(204);
}

#[tokio::test]
async fn waiters_get_the_lock_in_order() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "first"})).await.expect(200);
    let second = waiting(&node, "second", &[]);
    queue_of(&node, 1).await;
    let third = waiting(&node, "third", &[]);
    queue_of(&node, 2).await;
    let shown = node.get(LOCK).await.expect(200);
    let queue: Vec<_> = shown["queue"].as_array().unwrap().iter().map(|waiter| &waiter["owner"]).collect();
    assert_eq!(queue, ["second", "third"]);
    assert_eq!(shown["queue"][0]["node_id"], "node-1");
    release(&node, &held["secret"]).await;
    let second = second.await.unwrap().expect(200);
    assert!(!third.is_finished());
    release(&node, &second["secret"]).await;
    let third = third.await.unwrap().expect(200);
    let tokens =
        [&held, &second, &third].map(|lock| lock["fencing_token"].as_str().unwrap().parse::<u64>().unwrap());
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test]
async fn waiter_is_refused_when_its_time_is_over() {
    let node = TestNode::start().await;
    node.acquire("k", json!({"owner": "holder", "ttl_ms": 60_000})).await.expect(200);
    let began = std::time::Instant::now();
    let problem =
        node.acquire("k", json!({"owner": "waiter", "wait_ms": 300})).await.problem(409, "lock_timeout");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(problem["holder"]["owner"], "holder");
    assert_eq!(node.get(LOCK).await.expect(200)["queue_length"], 0);
}

#[tokio::test]
async fn client_that_hangs_up_leaves_the_queue() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "holder"})).await.expect(200);
    let gone = waiting(&node, "gone", &[]);
    queue_of(&node, 1).await;
    let stays = waiting(&node, "stays", &[]);
    queue_of(&node, 2).await;
    gone.abort();
    queue_of(&node, 1).await;
    release(&node, &held["secret"]).await;
    assert_eq!(stays.await.unwrap().expect(200)["owner"], "stays");
}

#[tokio::test]
async fn retry_attaches_to_the_request_that_still_waits() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "holder"})).await.expect(200);
    let key = [("idempotency-key", "wait-1")];
    let first = waiting(&node, "waiter", &key);
    queue_of(&node, 1).await;
    first.abort();
    let second = waiting(&node, "waiter", &key);
    let other = waiting(&node, "other", &[]);
    queue_of(&node, 2).await;
    release(&node, &held["secret"]).await;
    let granted = second.await.unwrap().expect(200);
    // A third try after the grant gets the same lock and secret.
    let again = waiting(&node, "waiter", &key).await.unwrap().expect(200);
    assert_eq!(granted["secret"], again["secret"]);
    assert_eq!(granted["fencing_token"], again["fencing_token"]);
    release(&node, &granted["secret"]).await;
    assert_eq!(other.await.unwrap().expect(200)["owner"], "other");
}

#[tokio::test]
async fn retryable_request_whose_client_never_returns_leaves_too() {
    let node = TestNode::start().await;
    node.acquire("k", json!({"owner": "holder", "ttl_ms": 60_000})).await.expect(200);
    let gone = waiting(&node, "gone", &[("idempotency-key", "wait-1")]);
    queue_of(&node, 1).await;
    let began = std::time::Instant::now();
    gone.abort();
    queue_of(&node, 0).await;
    // Not at once: a retry had its time to attach. And before its own deadline of 30 s.
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(20)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn one_waiter_more_than_the_limit_is_refused() {
    let node = TestNode::start().await;
    node.acquire("k", json!({"owner": "holder", "ttl_ms": 600_000})).await.expect(200);
    // Over HTTP this would take as many connections: the queue is filled where the edge would fill it.
    let group = &node.group;
    let fill = (0..WAITERS_PER_KEY_MAX).map(|rank| async move {
        let command = Command::AcquireLock(AcquireLock {
            keys: vec!["k".to_owned()],
            mode: LockMode::Exclusive,
            owner: format!("waiter-{rank}"),
            secret: SecretHash([1; 32]),
            salt: None,
            ttl: Millis(60_000),
            wait: Millis(600_000),
            hold_max: None,
            metadata: None,
            waiter: WaiterId(u128::try_from(rank).unwrap().to_be_bytes()),
            node: NodeId(1),
        });
        group.propose(Request::from(command), PATIENCE).await.unwrap();
    });
    use futures_util::StreamExt;
    futures_util::stream::iter(fill).buffer_unordered(256).collect::<Vec<()>>().await;
    let problem =
        node.acquire("k", json!({"owner": "late", "wait_ms": 1_000})).await.problem(429, "limit_exceeded");
    assert_eq!((&problem["limit"], &problem["max"]), (&json!("waiters_per_key"), &json!(10_000)));
    node.acquire("other", json!({"owner": "late"})).await.expect(200);
    let shown = node.get(LOCK).await.expect(200);
    assert_eq!(shown["queue_length"], 10_000);
    assert_eq!(shown["queue"].as_array().unwrap().len(), 1_000);
}

#[tokio::test]
async fn waiters_are_told_when_the_node_stops() {
    let mut node = TestNode::start().await;
    node.acquire("k", json!({"owner": "holder", "ttl_ms": 60_000})).await.expect(200);
    let waiter = waiting(&node, "waiter", &[]);
    queue_of(&node, 1).await;
    node.begin_stop();
    waiter.await.unwrap().problem(503, "draining");
}

#[tokio::test]
async fn grant_that_was_never_delivered_is_given_back() {
    let node = TestNode::start().await;
    // A client that sends its request and is gone: whether the grant came before or after, nobody holds it.
    for round in 0..20 {
        let mut stream =
            tokio::net::TcpStream::connect(node.base.trim_start_matches("http://")).await.unwrap();
        let body =
            json!({"owner": format!("gone-{round}"), "ttl_ms": 86_400_000, "wait_ms": 30_000}).to_string();
        let head = format!(
            "POST /api/v1/cluster/locks/gone/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{head}{body}").as_bytes()).await.unwrap();
        if round == 0 {
            // The first one takes the lock and reads its answer: the others wait behind it.
            let mut byte = [0; 1];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await.unwrap();
        }
    }
    let left = async {
        while node.group.read(|state| state.lock("gone", 0)).1.is_some_and(|lock| lock.queue_length > 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("every waiter left the queue");
    let granted = node.group.read(|state| state.events(EventOffset(0), 1_000)).1.unwrap();
    let owners: Vec<_> = granted
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::LockAcquired { owner, .. } => Some(owner.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(owners, ["gone-0"]);
}
