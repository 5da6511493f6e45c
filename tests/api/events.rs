//! Events as streams: the same on every node, resumed anywhere, and clients that misbehave.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::support::{EventStream, Net, StreamedEvent, TestNode};

const EVENTS: &str = "/api/v1/cluster/events";
const PATIENCE: Duration = Duration::from_secs(90);

async fn watch(node: &TestNode, query: &str) -> EventStream {
    node.call(Method::GET, &format!("{EVENTS}{query}")).stream().await
}

async fn resume(node: &TestNode, last: u64) -> EventStream {
    node.call(Method::GET, EVENTS).header("last-event-id", &last.to_string()).stream().await
}

/// Takes a lock and gives it back: two events.
async fn pair(node: &TestNode, key: &str, owner: &str) {
    let held = node.acquire(key, json!({ "owner": owner })).await.expect(200);
    let secret = json!({"secret": held["secret"]});
    node.post(&format!("/api/v1/cluster/locks/{key}/release"), secret).await.expect(204);
}

/// What must be the same on every node.
fn essence(events: &[StreamedEvent]) -> Vec<(u64, String, Value)> {
    let strip = |event: &StreamedEvent| {
        let mut data = event.data.clone();
        assert!(data.as_object_mut().unwrap().remove("time").is_some_and(|time| time.is_string()));
        (event.id, event.kind.clone(), data)
    };
    events.iter().map(strip).collect()
}

fn assert_dense(events: &[StreamedEvent]) {
    for pair in events.windows(2) {
        assert_eq!(pair[1].id, pair[0].id + 1, "{pair:?}");
    }
    for event in events {
        assert_eq!(event.data["offset"], event.id.to_string());
        assert_eq!(event.data["type"], event.kind);
    }
}

#[tokio::test]
async fn stream_replays_filters_and_goes_on_where_it_was() {
    let mut node = TestNode::start().await;
    let mut all = watch(&node, "?since=0").await;
    let mut replayed = all.until(|event| event.kind == "leader_change").await;
    let mut from_now = watch(&node, "?types=lock").await;
    pair(&node, "a", "first").await;
    replayed.extend(all.until(|event| event.kind == "lock_released").await);
    assert_dense(&replayed);
    assert_eq!(replayed[0].id, 0);
    let kinds: Vec<_> = replayed.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!((kinds[0], &replayed[0].data["node_id"]), ("node_join", &json!("node-1")));
    let acquired = &replayed[replayed.len() - 2];
    assert_eq!((&acquired.data["keys"], &acquired.data["owner"]), (&json!(["a"]), &json!("first")));
    let released = &replayed[replayed.len() - 1].data;
    assert_eq!((&released["cause"], released.get("reason")), (&json!("released"), None));
    assert_eq!(released["fencing_token"], acquired.data["fencing_token"]);
    // Left without `since`, the past is not shown.
    assert_eq!(from_now.event().await, *acquired);
    // A filter shows the same events with the same ids.
    let mut locks = watch(&node, "?since=0&types=lock_released,leader_change").await;
    let shown = locks.until(|event| event.kind == "lock_released").await;
    let expected = replayed.iter().filter(|e| ["lock_released", "leader_change"].contains(&e.kind.as_str()));
    assert_eq!(essence(&shown), essence(&expected.cloned().collect::<Vec<_>>()));
    // The id wins over the query, as in a browser that reconnects to the same URL.
    let call = node.call(Method::GET, &format!("{EVENTS}?since=0"));
    let mut resumed = call.header("last-event-id", &acquired.id.to_string()).stream().await;
    assert_eq!(resumed.event().await.id, acquired.id + 1);
    // Offsets of another cluster lead to the kept ones, by an explicit block.
    let mut lost = watch(&node, "?since=1000000").await;
    let reset = lost.event().await;
    assert_eq!((reset.kind.as_str(), &reset.data["first"]), ("reset", &json!("0")));
    assert_eq!(lost.event().await.id, 0);
    // A stopping node ends its streams in order, and at once.
    node.begin_stop();
    for stream in [&mut from_now, &mut all, &mut locks, &mut resumed] {
        while stream.next().await.is_some() {}
    }
    tokio::time::timeout(PATIENCE, node.stop_begun()).await.expect("streams do not hold up the stop");
}

/// Who waits for rare events must not fall behind the ring meanwhile.
#[tokio::test]
async fn a_sign_of_life_moves_the_id_past_what_is_left_out() {
    let node = TestNode::start().await;
    let mut rare = watch(&node, "?types=node_leave").await;
    pair(&node, "k", "o").await;
    let mut all = watch(&node, "?since=0").await;
    let last = all.until(|event| event.kind == "lock_released").await.pop().unwrap();
    rare.passed(last.id).await;
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let node = TestNode::start().await;
    let problem = node.get(&format!("{EVENTS}?types=lock,nonsense")).await.problem(422, "invalid_argument");
    assert_eq!((&problem["field"], &problem["unknown"]), (&json!("types"), &json!(["nonsense"])));
    for since in ["-1", "x", "", "18446744073709551616"] {
        let problem = node.get(&format!("{EVENTS}?since={since}")).await.problem(422, "invalid_argument");
        assert_eq!(problem["field"], "since");
    }
    node.get(&format!("{EVENTS}?typo=lock")).await.problem(400, "malformed_request");
    let call = node.call(Method::GET, EVENTS).header("last-event-id", "soon");
    assert_eq!(call.send().await.problem(400, "malformed_request")["header"], "Last-Event-ID");
}

/// Three nodes, one of which stops for good, and a fourth that begins with a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_tells_the_same_story() {
    let settings = [
        ("cluster.heartbeat_interval", "1s"),
        ("cluster.node_timeout", "5s"),
        ("raft.snapshot_entries", "60"),
        ("raft.snapshot_keep_entries", "10"),
    ];
    let net = Net::unused();
    let mut nodes = net.start_three(&settings).await;
    let mut live = Vec::new();
    for node in &nodes {
        live.push(watch(node, "?since=0").await);
    }
    for round in 0..40 {
        // Where one node has shown an event, any other goes on behind it: it may not have applied so far yet.
        pair(&nodes[round % 3], "k", &format!("owner-{round}")).await;
        let mut ahead = watch(&nodes[round % 3], "?types=lock").await;
        let held = nodes[round % 3].acquire("l", json!({"owner": "o", "ttl_ms": 500})).await.expect(200);
        let seen = ahead.event().await;
        let mut other = resume(&nodes[(round + 1) % 3], seen.id).await;
        let secret = json!({"secret": held["secret"]});
        nodes[round % 3].post("/api/v1/cluster/locks/l/release", secret).await;
        let behind = other.until(|event| event.kind == "lock_released").await;
        assert_eq!(behind[0].id, seen.id + 1);
        assert_dense(&behind);
    }
    let joined = net.join(4, &settings).await;
    assert!(joined.group.status().snapshot.0 > 0, "the log began too late for a newcomer");
    let mut newcomer = watch(&joined, "?since=0").await;
    // The third node goes. Whoever watched there goes on elsewhere, without a gap.
    nodes[2].begin_stop();
    let [first, second, third] = nodes;
    let mut there = live.pop().unwrap();
    let mut story = Vec::new();
    while let Some(event) = there.next().await {
        story.push(event);
    }
    let stopped = there.last_id.unwrap();
    third.stop_begun().await;
    let is_gone =
        |event: &StreamedEvent| event.data["node_id"] == "node-3" && event.data["status"] == "inactive";
    story.extend(resume(&first, stopped).await.until(is_gone).await);
    pair(&second, "end", "last").await;
    let is_end =
        |event: &StreamedEvent| event.kind == "lock_released" && event.data["keys"] == json!(["end"]);
    let last = story.last().unwrap().id;
    story.extend(resume(&second, last).await.until(is_end).await);
    assert_dense(&story);
    assert_eq!(story[0].id, 0);
    for stream in live.iter_mut().chain([&mut newcomer]) {
        assert_eq!(essence(&stream.until(is_end).await), essence(&story));
    }
    told_once(&story, stopped);
}

/// A node that went is suspect once and then inactive once; no term has two leaders.
fn told_once(story: &[StreamedEvent], stopped: u64) {
    let updates = story.iter().filter(|event| event.id > stopped && event.kind == "node_update");
    let mut statuses: Vec<_> = updates
        .filter(|event| event.data["node_id"] == "node-3")
        .map(|event| &event.data["status"])
        .collect();
    // A change of role is an update too.
    statuses.dedup();
    assert_eq!(statuses, ["suspect", "inactive"]);
    let leaders = story.iter().filter(|event| event.kind == "leader_change");
    let terms: Vec<_> = leaders.map(|event| event.data["term"].as_u64().unwrap()).collect();
    assert!(!terms.is_empty() && terms.is_sorted_by(|earlier, later| earlier < later), "{terms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_see_the_same_under_load() {
    // Both ends of every connection are files of this process.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("up to the hard limit");
    let clients = limit.maximum.map_or(1_000, |files| (files.saturating_sub(200) / 2).min(1_000));
    if clients < 1_000 {
        eprintln!("only {clients} clients: the hard limit of open files is {:?}", limit.maximum);
    }
    let node = Arc::new(TestNode::start().await);
    let (opened, mut waiting) = tokio::sync::mpsc::channel(64);
    let mut readers = JoinSet::new();
    for _ in 0..clients {
        let (node, opened) = (Arc::clone(&node), opened.clone());
        readers.spawn(async move {
            let mut stream = watch(&node, "?types=lock_acquired").await;
            opened.send(()).await.unwrap();
            let is_last = |event: &StreamedEvent| event.data["keys"] == json!(["last"]);
            let events = stream.until(is_last).await;
            events.iter().map(|event| (event.id, event.data["owner"].clone())).collect::<Vec<_>>()
        });
    }
    for _ in 0..clients {
        waiting.recv().await.unwrap();
    }
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                for round in 0..25 {
                    pair(&node, &format!("k{writer}"), &format!("{writer}-{round}")).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    pair(&node, "last", "last").await;
    let expected = readers.join_next().await.unwrap().unwrap();
    assert_eq!(expected.len(), 4 * 25 + 1);
    assert!(expected.is_sorted_by(|earlier, later| earlier.0 < later.0));
    while let Some(seen) = readers.join_next().await {
        assert_eq!(seen.unwrap(), expected);
    }
}

/// Clients that never read take all places; they are cut, and their places are free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_cut() {
    let node =
        TestNode::start_with(&[("server.connections_max", "8"), ("server.write_timeout", "500ms")]).await;
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let address = node.base.trim_start_matches("http://").parse().unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!("GET {EVENTS}?types=lock HTTP/1.1\r\nhost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stuck.push(stream);
    }
    let refused = async {
        loop {
            // Until all four have their places.
            let response = node.client.get(format!("{}{EVENTS}", node.base)).send().await.unwrap();
            if response.status() == 429 {
                assert_eq!(response.headers()["retry-after"], "1");
                let problem: Value = response.json().await.unwrap();
                assert_eq!(
                    (&problem["code"], &problem["limit"]),
                    (&json!("limit_exceeded"), &json!("event_watchers"))
                );
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("places are limited");
    // Events of 60 kB fill whatever the kernel buffers; then nothing moves, and the node gives up.
    let keys: Vec<_> = (0..60).map(|rank| format!("{rank:02}{}", "k".repeat(1_000))).collect();
    let freed = async {
        loop {
            let body = json!({"keys": keys, "owner": "o"});
            let held = node.post("/api/v1/cluster/locks/acquire", body).await.expect(200);
            let secret = json!({"secret": held["secret"]});
            node.post(&format!("/api/v1/cluster/locks/{}/release", keys[0]), secret).await.expect(204);
            let response = node.client.get(format!("{}{EVENTS}", node.base)).send().await.unwrap();
            if response.status() == 200 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("a client that never reads loses its place");
    drop(stuck);
}
