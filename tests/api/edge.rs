//! What holds for every route: problems, limits, headers, probes, metrics.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::socket::{PATIENCE, Socket};
use crate::support::TestNode;

const ACQUIRE: &str = "/api/v1/cluster/locks/k/acquire";
/// Starts that are watched for their first moment.
const STARTS: usize = 8;

async fn post_raw(node: &TestNode, content_type: &str, body: &'static str) -> crate::support::Answer {
    node.call(Method::POST, ACQUIRE).header("content-type", content_type).body(body).send().await
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let node = TestNode::start().await;
    for path in ["/", "/api", "/api/v1/cluster/nope", "/health/nope", "/api/docs/nope.js"] {
        node.get(path).await.problem(404, "not_found");
    }
    let wrong = node.call(Method::PUT, ACQUIRE).json(json!({})).send().await;
    wrong.problem(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), "POST");
    node.call(Method::POST, "/api/v1/cluster").send().await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn malformed_json_names_its_place() {
    let node = TestNode::start().await;
    let problem =
        post_raw(&node, "application/json", "{\"owner\":\n  oops}").await.problem(400, "malformed_json");
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(3)));
    post_raw(&node, "application/json", "").await.problem(400, "malformed_json");
    post_raw(&node, "application/json", "{\"owner\":\"a\"} trailing").await.problem(400, "malformed_json");
    post_raw(&node, "application/json", "{\"owner\":\"\u{0}\"}").await.problem(400, "malformed_json");
    let problem = post_raw(&node, "application/json", "{\"owner\":\"a\",\"ttl\":1}")
        .await
        .problem(422, "unknown_field");
    assert_eq!(problem["field"], "ttl");
    post_raw(&node, "application/json", "{\"owner\":5}").await.problem(422, "invalid_body");
    post_raw(&node, "application/json", "{}").await.problem(422, "invalid_body");
    post_raw(&node, "application/json", "[]").await.problem(422, "invalid_body");
    post_raw(&node, "application/json", "{\"owner\":\"a\",\"ttl_ms\":-1}").await.problem(422, "invalid_body");
    post_raw(&node, "text/plain", "{\"owner\":\"a\"}").await.problem(415, "unsupported_media_type");
    node.call(Method::POST, ACQUIRE).body("{}").send().await.problem(415, "unsupported_media_type");
    post_raw(&node, "application/vnd.api+json; charset=utf-8", "{\"owner\":\"a\"}").await.expect(200);
}

#[tokio::test]
async fn large_body_is_refused_and_the_connection_survives() {
    let node = TestNode::start().await;
    let huge = format!("{{\"owner\":\"{}\"}}", "a".repeat(10 * 1_024 * 1_024));
    for _ in 0..3 {
        let answer = node
            .call(Method::POST, ACQUIRE)
            .header("content-type", "application/json")
            .body(huge.clone())
            .send();
        assert_eq!(answer.await.problem(413, "body_too_large")["max_bytes"], 1_048_576);
    }
    // Without an announced length it is found out while reading.
    let chunks = futures_util::stream::iter((0..160).map(|_| Ok::<_, std::io::Error>(vec![b'a'; 65_536])));
    let body = reqwest::Body::wrap_stream(chunks);
    let answer =
        node.call(Method::POST, ACQUIRE).header("content-type", "application/json").body(body).send().await;
    answer.problem(413, "body_too_large");
    node.acquire("k", json!({"owner": "a"})).await.expect(200);
}

#[tokio::test]
async fn request_id_is_echoed_when_clean_and_made_otherwise() {
    let node = TestNode::start().await;
    let with = |id: &'static str| node.call(Method::GET, "/api/nope").header("x-request-id", id).send();
    let clean = with("req-1.2:3").await;
    assert_eq!(clean.header("x-request-id"), "req-1.2:3");
    assert_eq!(clean.problem(404, "not_found")["request_id"], "req-1.2:3");
    for dirty in ["", "a b", "a\"b", "<script>"] {
        let answer = with(dirty).await;
        assert_ne!(answer.header("x-request-id"), dirty);
    }
    let long = "a".repeat(129);
    let answer = node.call(Method::GET, "/api/nope").header("x-request-id", &long).send().await;
    assert!(answer.header("x-request-id").len() < 64);
    let (a, b) = (node.get("/health").await, node.get("/health").await);
    assert_ne!(a.header("x-request-id"), b.header("x-request-id"));
}

#[tokio::test]
async fn requests_in_progress_are_bounded_but_probes_are_answered() {
    let node = TestNode::start_with(&[("server.concurrent_requests_max", "1")]).await;
    node.acquire("k", json!({"owner": "holder", "ttl_ms": 60_000})).await.expect(200);
    let call = node.call(Method::POST, ACQUIRE).json(json!({"owner": "waiter", "wait_ms": 30_000}));
    let waiter = tokio::spawn(call.send());
    let full = async {
        loop {
            let answer = node.get("/api/v1/cluster/leader").await;
            if answer.status.as_u16() == 429 {
                return answer.problem(429, "queue_full");
            }
        }
    };
    let problem =
        tokio::time::timeout(Duration::from_secs(20), full).await.expect("the waiter takes the one place");
    assert_eq!(problem["queue"], "concurrent_requests");
    assert_eq!(node.get("/health/ready").await.status.as_u16(), 200);
    waiter.abort();
}

/// Everything the node still sends on a connection until it closes it.
async fn drained(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    let read = stream.read_to_end(&mut out);
    let ended =
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the node closes the connection");
    // A reset is an end too.
    let _ = ended;
    String::from_utf8_lossy(&out).into_owned()
}

async fn raw(node: &TestNode, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.base.trim_start_matches("http://")).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let node =
        TestNode::start_with(&[("server.header_timeout", "300ms"), ("server.body_timeout", "300ms")]).await;
    let mut head = raw(&node, "GET /health HTTP/1.1\r\nhost:").await;
    drained(&mut head).await;
    let mut idle = raw(&node, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(drained(&mut idle).await.starts_with("HTTP/1.1 200"));
    let request = format!(
        "POST {ACQUIRE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{{"
    );
    let mut body = raw(&node, &request).await;
    let answer = drained(&mut body).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    node.get("/health").await.expect(200);
}

#[tokio::test]
async fn nonsense_on_the_wire_is_refused() {
    let node = TestNode::start().await;
    for nonsense in [
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = raw(&node, nonsense).await;
        let answer = drained(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let mut long = raw(&node, &format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000))).await;
    assert!(drained(&mut long).await.starts_with("HTTP/1.1 4"));
    node.get("/health").await.expect(200);
}

#[tokio::test]
async fn probes_tell_what_they_check() {
    let node = TestNode::start().await;
    for (path, check) in [
        ("/health/live", "event_loop"),
        ("/health/ready", "leader"),
        ("/health/startup", "startup"),
        ("/health", "membership"),
    ] {
        let report = node.get(path).await.expect(200);
        assert_eq!(report["status"], "ok", "{report}");
        assert_eq!(report["checks"][check]["status"], "ok", "{report}");
        assert!(report["checks"][check]["detail"].is_string());
    }
    node.get("/health/ready?for=api").await.expect(200);
    assert_eq!(node.get("/health/ready?for=x").await.status.as_u16(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_ready_takes_sockets_at_once() {
    for _ in 0..STARTS {
        let node = TestNode::begin(&[]).await;
        tokio::time::timeout(PATIENCE, node.ready()).await.expect("it becomes ready");
        let identity = node.group.identity();
        let known = node.group.read(|state| state.node(identity.node_id.unwrap()).unwrap().boot).1;
        assert_eq!(
            known, identity.boot,
            "what comes before this start is known counts as lost with the last one"
        );
        Socket::open(&node, "").await;
    }
}

#[tokio::test]
async fn stopping_node_is_not_ready_but_finishes_requests() {
    let mut node = TestNode::start().await;
    // Both connections are open before the node begins to stop: it takes no new ones then.
    let mut probe = raw(&node, "GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut first = [0; 12];
    probe.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let request = format!(
        "POST {ACQUIRE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{{\"owner\":"
    );
    let mut half = raw(&node, &request).await;
    // The node has read the head when it counts the request.
    let counted = async {
        while !node
            .client
            .get(format!("{}/metrics", node.metrics))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("ovncp_http_requests_in_flight 1")
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), counted).await.expect("the request is in progress");
    node.begin_stop();
    half.write_all(b"\"a\"}").await.unwrap();
    let answer = drained(&mut half).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("fencing_token"), "{answer}");
    node.stop_begun().await;
}

#[tokio::test]
async fn metrics_have_the_names_of_the_guide() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "a"})).await.expect(200);
    let text =
        node.client.get(format!("{}/metrics", node.metrics)).send().await.unwrap().text().await.unwrap();
    for line in [
        "ovncp_cluster_nodes_total{status=\"active\"} 1",
        "ovncp_cluster_leader{node_id=\"node-1\"} 1",
        "ovncp_distributed_locks_acquired_total{node_id=\"node-1\"} 1",
        "ovncp_distributed_locks_held{node_id=\"node-1\"} 1",
        "ovncp_distributed_lock_wait_seconds{quantile=\"0.99\"} ",
        "ovncp_distributed_lock_wait_seconds_count 1",
        "ovncp_distributed_lock_wait_seconds_sum ",
        "ovncp_cluster_node_info{node_id=\"node-1\",hostname=\"",
        "ovncp_raft_term ",
        "ovncp_raft_applied_index ",
        "ovncp_http_requests_total{route=\"/api/v1/cluster/locks/{key}/acquire\",method=\"POST\",class=\"2xx\"} 1",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "no {line} in\n{text}");
    }
    assert!(!text.contains(held["secret"].as_str().unwrap()));
    let missing = node.client.get(format!("{}/other", node.metrics)).send().await.unwrap();
    assert_eq!(missing.status().as_u16(), 404);
}

#[tokio::test]
async fn administrators_show_a_token_or_come_from_loopback() {
    let node = TestNode::start_with(&[("server.admin_token", "correct horse")]).await;
    node.acquire("k", json!({"owner": "a"})).await.expect(200);
    let delete = |token: Option<&'static str>| {
        let call = node.call(Method::DELETE, "/api/v1/cluster/locks/k").json(json!({"reason": "r"}));
        let call = match token {
            Some(token) => call.header("authorization", token),
            None => call,
        };
        call.send()
    };
    let refused = delete(None).await;
    refused.problem(401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    for wrong in ["Bearer wrong", "Bearer correct hors", "Basic correct horse", "Bearer"] {
        delete(Some(wrong)).await.problem(401, "unauthorized");
    }
    delete(Some("bearer correct horse")).await.expect(200);

    let open = TestNode::start().await;
    let call = |proxied: bool| {
        let call =
            open.call(Method::POST, "/api/v1/cluster/leader/transfer").json(json!({"target": "node-1"}));
        if proxied { call.header("x-forwarded-for", "203.0.113.9").send() } else { call.send() }
    };
    // A proxy on this machine must not lend its loopback address to the world.
    call(true).await.problem(403, "forbidden");
    call(false).await.expect(200);
}
