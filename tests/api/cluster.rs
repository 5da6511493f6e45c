//! The cluster, its nodes and its leader; freshness of reads.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestNode;

#[tokio::test]
async fn cluster_names_itself_and_its_totals() {
    let node = TestNode::start().await;
    node.acquire("k", json!({"owner": "a"})).await.expect(200);
    node.call(Method::PUT, "/api/v1/cluster/kv/r").body("12").send().await.expect(200);
    let answer = node.get("/api/v1/cluster").await;
    let cluster = answer.expect(200);
    assert_eq!(cluster["cluster_id"].as_str().unwrap().len(), 32);
    assert_eq!(cluster["state_hash"].as_str().unwrap().len(), 32);
    assert_eq!((&cluster["leader_id"], &cluster["node_id"]), (&json!("node-1"), &json!("node-1")));
    assert_eq!(cluster["applied_index"], answer.header("x-ovncp-index"));
    assert!(cluster["term"].as_u64().unwrap() > 0);
    for (field, expected) in [
        ("nodes", 1),
        ("voters", 1),
        ("learners", 0),
        ("locks_held", 1),
        ("waiters", 0),
        ("kv_keys", 1),
        ("kv_bytes", 3),
    ] {
        assert_eq!(cluster[field], expected, "{field}");
    }
}

#[tokio::test]
async fn nodes_are_listed_and_shown_by_name() {
    let node = TestNode::start_with(&[("cluster.zone", "rack-1"), ("cluster.labels", "disk=nvme")]).await;
    let list = node.get("/api/v1/cluster/nodes").await.expect(200);
    assert_eq!(
        (&list["count"], &list["self"], &list["next_cursor"]),
        (&json!(1), &json!("node-1"), &Value::Null)
    );
    let shown = &list["nodes"][0];
    let port: u64 = node.base.rsplit(':').next().unwrap().parse().unwrap();
    for (field, expected) in [
        ("id", json!("node-1")),
        ("raft_id", json!("1")),
        ("ip", json!("127.0.0.1")),
        ("port", json!(port)),
        ("status", json!("active")),
        ("role", json!("voter")),
        ("is_leader", json!(true)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("zone", json!("rack-1")),
        ("metadata", json!({"disk": "nvme"})),
        ("sessions", json!(0)),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
    assert!(shown["last_heartbeat"].as_str().unwrap().ends_with('Z'));
    let one = node.get("/api/v1/cluster/nodes/node-1").await.expect(200);
    assert_eq!(one["id"], "node-1");
    assert_eq!(node.get("/api/v1/cluster/nodes?active=true").await.expect(200)["count"], 1);
    let problem = node.get("/api/v1/cluster/nodes/nobody").await.problem(404, "unknown_node");
    assert_eq!(problem["node_id"], "nobody");
}

#[tokio::test]
async fn leader_is_shown_and_keeps_its_office_when_alone() {
    let node = TestNode::start().await;
    let leader = node.get("/api/v1/cluster/leader").await.expect(200);
    assert_eq!((&leader["leader_id"], &leader["node_id"]), (&json!("node-1"), &json!("node-1")));
    assert_eq!(leader["is_leader"], true);
    assert!(leader["term"].as_u64().unwrap() > 0 && leader.get("quorum_ack_age_ms").is_some());
    let transfer = |body: Value| node.post("/api/v1/cluster/leader/transfer", body);
    assert_eq!(transfer(json!({"target": "node-1"})).await.expect(200)["leader_id"], "node-1");
    transfer(json!({"target": "nobody"})).await.problem(404, "unknown_node");
    transfer(json!({"to": "node-1"})).await.problem(422, "unknown_field");
}

#[tokio::test]
async fn last_voter_cannot_be_removed() {
    let node = TestNode::start().await;
    let remove = |name: &str| node.call(Method::DELETE, &format!("/api/v1/cluster/nodes/{name}")).send();
    let problem = remove("node-1").await.problem(409, "would_lose_quorum");
    assert_eq!(problem["node_id"], "node-1");
    remove("nobody").await.problem(404, "unknown_node");
    node.acquire("k", json!({"owner": "a"})).await.expect(200);
}

#[tokio::test]
async fn reads_are_as_fresh_as_asked() {
    let node = TestNode::start_with(&[("server.read_timeout", "200ms")]).await;
    let written = node.acquire("k", json!({"owner": "a"})).await;
    let index = written.header("x-ovncp-index").to_owned();
    for consistency in ["local", "linearizable"] {
        let path = format!("/api/v1/cluster/locks/k?consistency={consistency}");
        let read = node.call(Method::GET, &path).header("x-ovncp-min-index", &index).send().await;
        read.expect(200);
        assert!(read.header("x-ovncp-index").parse::<u64>().unwrap() >= index.parse().unwrap());
    }
    let future =
        node.call(Method::GET, "/api/v1/cluster?consistency=local").header("x-ovncp-min-index", "999999999");
    future.send().await.problem(503, "lagging");
    let wrong = node.call(Method::GET, "/api/v1/cluster").header("x-ovncp-min-index", "soon").send().await;
    assert_eq!(wrong.problem(400, "malformed_request")["header"], "X-Ovncp-Min-Index");
}
