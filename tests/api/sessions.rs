//! Sessions over HTTP: who sees what, and what can be asked of them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::socket::{Socket, publish, status};
use crate::support::TestNode;

fn path(id: &str) -> String {
    format!("/api/v1/cluster/sessions/{id}")
}

#[tokio::test]
async fn a_session_can_wait_for_its_socket() {
    let node = TestNode::start().await;
    let body = json!({"user_id": "ada", "metadata": {"app": 1}});
    let registered = node.post("/api/v1/cluster/sessions", body).await.expect(200);
    let id = registered["session_id"].as_str().unwrap().to_owned();
    assert_eq!(registered["node_id"], "node-1");
    let address = node.base.replace("http://", "ws://");
    assert_eq!(registered["url"], format!("{address}/ws?session={id}&node=node-1"));
    let shown = node.get(&path(&id)).await.expect(200);
    assert_eq!((&shown["status"], &shown["epoch"]), (&json!("placed"), &json!(0)));
    assert!(shown["expires_at"].is_string() && shown["metadata"] == json!({"app": 1}), "{shown}");
    // What comes before its socket waits for it.
    publish(&node, json!({"session": id}), json!("early")).await;
    let mut socket = Socket::open(&node, &format!("?session={id}")).await;
    assert_eq!(socket.event("session").await, "early");
    let shown = status(&node, &id, "attached").await;
    assert_eq!((&shown["expires_at"], &shown["epoch"]), (&Value::Null, &json!(1)));
    assert_eq!(node.get("/api/v1/cluster/nodes/node-1").await.expect(200)["sessions"], 1);
}

#[tokio::test]
async fn ids_are_secret_and_lists_show_a_hash() {
    let node = TestNode::start_with(&[("server.admin_token", "admin-admin-admin")]).await;
    let socket = Socket::open(&node, "?user=ada").await;
    let listed = node.get("/api/v1/cluster/sessions").await.expect(200);
    let shown = &listed["sessions"][0];
    assert!(shown["session_id"].is_null() && shown["session_hash"].as_str().unwrap().len() == 16, "{shown}");
    assert!(!listed.to_string().contains(socket.id()));
    let admin = |method: Method, path: &str| {
        node.call(method, path).header("authorization", "Bearer admin-admin-admin")
    };
    let listed = admin(Method::GET, "/api/v1/cluster/sessions").send().await.expect(200);
    assert_eq!(listed["sessions"][0]["session_id"], socket.id());
    // By its id anybody who knows it, by its number administrators.
    assert_eq!(node.get(&path(socket.id())).await.expect(200)["session_id"], socket.id());
    node.get(&path(socket.number())).await.problem(401, "unauthorized");
    let shown = admin(Method::GET, &path(socket.number())).send().await.expect(200);
    assert_eq!(shown["session_id"], socket.id());
    node.call(Method::DELETE, &path(socket.number())).send().await.problem(401, "unauthorized");
    for wrong in ["0123456789abcdef0123456789abcdef", "nonsense"] {
        node.get(&path(wrong)).await.problem(404, "unknown_session");
    }
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let node = TestNode::start().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let body = json!({"user_id": format!("u{}", n % 2)});
        ids.push(node.post("/api/v1/cluster/sessions", body).await.expect(200)["session"].clone());
    }
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = node.get(&format!("/api/v1/cluster/sessions{query}")).await.expect(200);
        seen.extend(page["sessions"].as_array().unwrap().iter().map(|session| session["session"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    let of_user = node.get("/api/v1/cluster/sessions/user/u1").await.expect(200);
    assert_eq!(of_user["count"], 2);
    assert_eq!(node.get("/api/v1/cluster/sessions?user=u0&local=true").await.expect(200)["count"], 3);
    assert_eq!(node.get("/api/v1/cluster/sessions?node=node-1").await.expect(200)["count"], 5);
    node.get("/api/v1/cluster/sessions?node=node-9").await.problem(404, "unknown_node");
    node.get("/api/v1/cluster/sessions?cursor=e").await.problem(400, "malformed_request");
    node.get("/api/v1/cluster/sessions?local=true&node=x").await.problem(422, "invalid_argument");
}

#[tokio::test]
async fn metadata_rotation_and_end() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "").await;
    let id = socket.id().to_owned();
    let put = |body: Value| node.call(Method::PUT, &format!("{}/metadata", path(&id))).json(body);
    put(json!({"a": [1]})).send().await.expect(204);
    assert_eq!(node.get(&path(&id)).await.expect(200)["metadata"], json!({"a": [1]}));
    put(Value::Null).send().await.expect(204);
    assert_eq!(node.get(&path(&id)).await.expect(200)["metadata"], Value::Null);
    put(json!("x".repeat(5_000))).send().await.problem(422, "invalid_argument");

    let rotate =
        || node.call(Method::POST, &format!("{}/rotate", path(&id))).header("idempotency-key", "once");
    let rotated = rotate().send().await.expect(200);
    let next = rotated["session_id"].as_str().unwrap().to_owned();
    assert_ne!(next, id);
    assert_eq!(rotate().send().await.expect(200), rotated, "a retry gets the same id");
    // Both work for a while; a socket by the old one is told the new one.
    assert_eq!(node.get(&path(&id)).await.expect(200)["session_id"], next.as_str());
    let again = Socket::open(&node, &format!("?session={id}")).await;
    assert_eq!(again.welcome["session_id"], next.as_str());
    assert_eq!(socket.closed().await, Some(4001));

    let mut socket = again;
    node.call(Method::DELETE, &path(&next)).send().await.expect(204);
    assert_eq!(socket.closed().await, Some(4009));
    node.call(Method::DELETE, &path(&next)).send().await.problem(404, "unknown_session");
}

#[tokio::test]
async fn placement_says_where_to_go() {
    let node = TestNode::start().await;
    let any = node.get("/api/v1/cluster/placement").await.expect(200);
    assert_eq!((&any["node_id"], &any["known"]), (&json!("node-1"), &json!(false)));
    assert!(!any["url"].as_str().unwrap().contains("session="), "{any}");
    let socket = Socket::open(&node, "").await;
    let placed = node.get(&format!("/api/v1/cluster/placement?session={}", socket.id())).await.expect(200);
    assert_eq!((&placed["known"], &placed["attached"]), (&json!(true), &json!(true)));
    node.get("/api/v1/cluster/placement?session=x").await.problem(422, "invalid_argument");
}

#[tokio::test]
async fn messages_are_checked_and_repeated_ones_are_one() {
    let node = TestNode::start().await;
    let send = |body: Value| node.call(Method::POST, "/api/v1/cluster/messages").json(body);
    for (body, status, code) in [
        (json!({"to": {}, "data": 1}), 422, "invalid_argument"),
        (json!({"to": {"user": "a", "channel": "b"}, "data": 1}), 422, "invalid_argument"),
        (json!({"to": {"nobody": "a"}, "data": 1}), 422, "unknown_field"),
        (json!({"to": {"user": "a"}}), 422, "invalid_body"),
        (json!({"to": {"user": ""}, "data": 1}), 422, "invalid_argument"),
        (json!({"to": {"channel": "user"}, "data": 1}), 422, "invalid_argument"),
        (json!({"to": {"session": "17"}, "data": 1}), 404, "unknown_session"),
        (json!({"to": {"user": "a"}, "data": "x".repeat(40_000)}), 422, "invalid_argument"),
    ] {
        send(body).send().await.problem(status, code);
    }
    let body = json!({"to": {"user": "a"}, "data": null});
    let first = send(body.clone()).header("idempotency-key", "k").send().await.expect(200);
    assert_eq!(send(body.clone()).header("idempotency-key", "k").send().await.expect(200), first);
    let next = send(body).send().await.expect(200);
    let offset = |answer: &Value| answer["offset"].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(offset(&next), offset(&first) + 1);
}

#[tokio::test]
async fn a_session_ends_when_its_client_does_not_come_back_and_takes_its_locks_along() {
    let node = TestNode::start_with(&[("session.ttl", "1s")]).await;
    let mut socket = Socket::open(&node, "").await;
    let ask = json!({"owner": "a", "ttl_ms": 86_400_000, "session_id": socket.id()});
    node.acquire("switch:1", ask.clone()).await.expect(200);
    socket.stream.close(None).await.unwrap();
    let freed = async { while node.get("/api/v1/cluster/locks/switch:1").await.status.as_u16() == 200 {} };
    tokio::time::timeout(crate::socket::PATIENCE, freed).await.expect("the lock ends with its session");
    node.get(&path(socket.id())).await.problem(404, "unknown_session");
    node.acquire("switch:1", ask).await.problem(404, "unknown_session");
}
