//! Sessions that go from node to node: migration, drain, stop, and what only three nodes show.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::socket::{Came, PATIENCE, Socket, open, publish, status};
use crate::support::{Net, TestNode};

/// Clients that come at once: more than are let in at a time, fewer than there may be open files.
const CROWD: u64 = 320;

/// The node of this name.
fn named<'a>(nodes: &'a [TestNode], name: &Value) -> &'a TestNode {
    nodes.iter().find(|node| *name == node.name.as_str()).expect("a node of the cluster")
}

/// Opens a socket that is closed at once, and answers the code.
async fn refused_with(node: &TestNode, query: &str) -> Option<u16> {
    let (stream, _) = open(node, query).await.unwrap();
    let mut socket = Socket { stream, welcome: Value::Null, header: String::new() };
    socket.closed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migration_moves_a_session_with_a_token_that_works_once() {
    let nodes = TestNode::start_three().await;
    let mut socket = Socket::open(&nodes[0], "?user=ada").await;
    let id = socket.id().to_owned();
    let migrate = |target: &str| {
        let path = format!("/api/v1/cluster/sessions/{id}/migrate");
        nodes[1].call(Method::POST, &path).json(json!({ "target_node_id": target })).send()
    };
    migrate("node-9").await.problem(400, "invalid_target");
    migrate("node-1").await.problem(400, "invalid_target");
    let moving = migrate("node-3").await.expect(200);
    assert_eq!((&moving["node_id"], &moving["target_node_id"]), (&json!("node-1"), &json!("node-3")));
    let asked = socket.expect("migrate").await;
    assert_eq!(asked["node_id"], "node-3");
    let address = nodes[2].base.replace("http://", "ws://");
    let token = asked["token"].as_str().unwrap().to_owned();
    assert_eq!(asked["url"], format!("{address}/ws?session={id}&token={token}&node=node-3"));
    status(&nodes[1], &id, "migrating").await;
    // Until it has gone, it is served where it is.
    let before = publish(&nodes[1], json!({"user": "ada"}), json!("before")).await;
    assert_eq!(socket.event("user").await, "before");
    // A forged token moves nothing.
    assert_eq!(refused_with(&nodes[2], &format!("?session={id}&token=forged")).await, Some(4003));
    assert_eq!(
        refused_with(&nodes[2], &format!("?session={id}&token={}", "x".repeat(500))).await,
        Some(4003)
    );
    publish(&nodes[1], json!({"user": "ada"}), json!("between")).await;
    let query = format!("&token={token}&since={}", before + 1);
    let mut moved = socket.resume(&nodes[2], &query).await;
    assert_eq!(moved.event("user").await, "between");
    assert_eq!(socket.closed().await, Some(4001));
    // A used token neither.
    assert_eq!(refused_with(&nodes[1], &format!("?session={id}&token={token}")).await, Some(4003));
    let shown = status(&nodes[0], &id, "attached").await;
    assert_eq!((&shown["node_id"], &shown["epoch"]), (&json!("node-3"), &json!(2)));
    publish(&nodes[0], json!({"session": id}), json!("after")).await;
    assert_eq!(moved.event("session").await, "after");
    let metrics = nodes[2].client.get(format!("{}/metrics", nodes[2].metrics)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("ovncp_session_migrations_total{from=\"node-1\",to=\"node-3\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_are_claimed_at_once_agree_on_one() {
    let nodes = TestNode::start_three().await;
    let first = Socket::open(&nodes[0], "").await;
    let id = first.id().to_owned();
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..4 {
        for node in &nodes {
            let (address, query) = (node.base.clone(), format!("?session={id}"));
            claims.spawn(async move {
                let address = address.strip_prefix("http://").unwrap().to_owned();
                let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
                tokio_tungstenite::client_async(format!("ws://{address}/ws{query}"), stream).await.unwrap().0
            });
        }
    }
    let mut sockets = Vec::new();
    while let Some(stream) = claims.join_next().await {
        sockets.push(Socket { stream: stream.unwrap(), welcome: Value::Null, header: String::new() });
    }
    let shown = status(&nodes[0], &id, "attached").await;
    assert_eq!(shown["epoch"], 13);
    // Whoever gets what is published after all of them came has the session; all others are told.
    publish(&nodes[1], json!({"session": id}), json!("mine")).await;
    let mut owners = Vec::new();
    for mut socket in sockets {
        loop {
            match socket.came().await {
                Came::Frame(frame) if frame["data"] == "mine" => {
                    owners.push(socket);
                    break;
                }
                Came::Frame(_) => {}
                Came::Closed(code) => {
                    assert_eq!(code, Some(4001));
                    break;
                }
            }
        }
    }
    assert_eq!(owners.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_empties_itself_and_takes_nobody() {
    let nodes = TestNode::start_three().await;
    let mut sockets = Vec::new();
    for n in 0..12 {
        sockets.push(Socket::open(&nodes[0], &format!("?user=u{n}")).await);
    }
    nodes[1].get("/api/v1/cluster/nodes/node-1/drain").await.problem(404, "not_draining");
    let drain =
        |rate: u32| nodes[1].post("/api/v1/cluster/nodes/node-1/drain", json!({ "rate_per_s": rate }));
    drain(0).await.problem(422, "invalid_argument");
    let begun = drain(200).await.expect(200);
    assert_eq!(
        (&begun["total"], &begun["rate_per_s"], &begun["done"]),
        (&json!(12), &json!(200), &json!(false))
    );
    // Every client is asked, goes, and has what was published meanwhile.
    let mut moved = Vec::new();
    for (n, mut socket) in sockets.into_iter().enumerate() {
        let asked = socket.expect("migrate").await;
        assert_ne!(asked["node_id"], "node-1");
        publish(&nodes[0], json!({"user": format!("u{n}")}), json!(n)).await;
        let target = named(&nodes, &asked["node_id"]);
        let position = socket.welcome["position"].as_str().unwrap().to_owned();
        let more = format!("&token={}&since={position}", asked["token"].as_str().unwrap());
        let mut resumed = socket.resume(target, &more).await;
        assert_eq!(resumed.event("user").await, n);
        moved.push(resumed);
    }
    let progress = async {
        loop {
            let shown = nodes[2].get("/api/v1/cluster/nodes/node-1/drain").await.expect(200);
            if shown["done"] == true {
                return shown;
            }
        }
    };
    let shown = tokio::time::timeout(PATIENCE, progress).await.expect("the drain ends");
    assert_eq!((&shown["moved"], &shown["left"], &shown["eta_ms"]), (&json!(12), &json!(0), &json!(0)));
    // It refuses by HTTP, with different times to come back; and balancers see it.
    let refusal = async {
        loop {
            if let Err(refused) = open(&nodes[0], "").await {
                return refused;
            }
        }
    };
    let (code, problem, retry) = tokio::time::timeout(PATIENCE, refusal).await.expect("no new sockets");
    assert_eq!((code, &problem["code"]), (503, &json!("draining")));
    assert!((1..=5).contains(&retry.unwrap()));
    let report = nodes[0].get("/health/ready").await;
    assert_eq!(report.status.as_u16(), 503);
    assert_eq!(report.json()["checks"]["draining"]["status"], "failing");
    assert_eq!(nodes[1].get("/api/v1/cluster/nodes/node-1").await.expect(200)["status"], "draining");
    // Nobody is sent there.
    for _ in 0..10 {
        let placed = nodes[1].get("/api/v1/cluster/placement").await.expect(200);
        assert_ne!(placed["node_id"], "node-1");
    }
    let path = format!("/api/v1/cluster/sessions/{}/migrate", moved[0].id());
    nodes[1].post(&path, json!({"target_node_id": "node-1"})).await.problem(400, "invalid_target");
    // And taken back.
    nodes[1].call(Method::POST, "/api/v1/cluster/nodes/node-1/resume").send().await.expect(200);
    tokio::time::timeout(PATIENCE, nodes[0].ready()).await.expect("it is ready again");
    open(&nodes[0], "").await.expect("and takes sockets");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_go_is_closed_at_the_end_of_its_patience() {
    let nodes = TestNode::start_three().await;
    let mut socket = Socket::open(&nodes[0], "").await;
    nodes[1].post("/api/v1/cluster/nodes/node-1/drain", json!({})).await.expect(200);
    socket.expect("migrate").await;
    assert_eq!(socket.closed().await, Some(1012));
    let shown = status(&nodes[1], socket.id(), "detached").await;
    assert_eq!(shown["node_id"], "node-1");
    // Its session waits for it, elsewhere.
    socket.resume(&nodes[1], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_sends_its_clients_on_and_stays_a_member() {
    let settings = [("session.drain_grace", "20s")];
    let mut nodes = Net::unused().start_three(&settings).await;
    let mut willing = Socket::open(&nodes[0], "?user=ada").await;
    let mut deaf = Socket::open(&nodes[0], "?user=bob").await;
    let begun = std::time::Instant::now();
    nodes[0].begin_stop();
    let asked = willing.expect("migrate").await;
    publish(&nodes[1], json!({"user": "ada"}), json!("meanwhile")).await;
    let position = willing.welcome["position"].as_str().unwrap().to_owned();
    let more = format!("&token={}&since={position}", asked["token"].as_str().unwrap());
    let mut resumed = willing.resume(named(&nodes, &asked["node_id"]), &more).await;
    assert_eq!(resumed.event("user").await, "meanwhile");
    deaf.expect("migrate").await;
    assert_eq!(deaf.closed().await, Some(1012));
    assert!(begun.elapsed() >= Duration::from_secs(15), "it had its grace: {:?}", begun.elapsed());
    let [stopped, second, third] = nodes;
    stopped.stop_begun().await;
    // Reported before it stopped: nobody waits for a node time-out.
    let shown = status(&second, deaf.id(), "detached").await;
    assert_eq!(shown["node_id"], "node-1");
    deaf.resume(&third, "").await;
    let voters = second.get("/api/v1/cluster").await.expect(200)["voters"].clone();
    assert_eq!(voters, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_closes_its_sockets_and_takes_no_more() {
    let settings = [("cluster.heartbeat_interval", "500ms"), ("cluster.node_timeout", "4s")];
    let mut nodes = Net::unused().start_three(&settings).await;
    let mut socket = Socket::open(&nodes[0], "").await;
    nodes[1].begin_stop();
    nodes[2].begin_stop();
    let [survivor, second, third] = nodes;
    second.stop_begun().await;
    third.stop_begun().await;
    assert_eq!(socket.closed().await, Some(1012));
    let (code, problem, retry) = open(&survivor, "").await.unwrap_err();
    assert_eq!((code, &problem["code"]), (503, &json!("no_leader")));
    assert!(retry.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_come_at_once_are_let_in_or_asked_to_come_later() {
    let node = TestNode::start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let address = node.base.strip_prefix("http://").unwrap().to_owned();
        clients.spawn(async move {
            loop {
                let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
                match tokio_tungstenite::client_async(format!("ws://{address}/ws"), stream).await {
                    Ok((stream, _)) => return stream,
                    Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                        assert_eq!(response.status().as_u16(), 503);
                        let retry = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                        tokio::time::sleep(Duration::from_secs(retry)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let mut sockets = Vec::new();
    let all = async {
        while let Some(socket) = clients.join_next().await {
            sockets.push(socket.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE * 2, all).await.expect("everybody comes in");
    assert_eq!(node.get("/api/v1/cluster/nodes/node-1").await.expect(200)["sessions"], CROWD);
    drop(sockets);
    // All of them are gone: reported in few entries.
    let before = node.group.status().applied;
    let gone = async {
        while node.get("/api/v1/cluster/nodes/node-1").await.expect(200)["sessions"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("lost sockets are reported");
    assert!(node.group.status().applied.0 - before.0 < CROWD / 2, "in batches");
}
