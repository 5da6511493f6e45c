//! Registers: values, revisions, conditions, pages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNode};

const KV: &str = "/api/v1/cluster/kv";

async fn put(node: &TestNode, key: &str, value: &'static str, headers: &[(&str, &str)]) -> Answer {
    let mut call = node.call(Method::PUT, &format!("{KV}/{key}")).body(value);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await
}

async fn delete(node: &TestNode, key: &str, headers: &[(&str, &str)]) -> Answer {
    let mut call = node.call(Method::DELETE, &format!("{KV}/{key}"));
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await
}

#[tokio::test]
async fn value_comes_back_with_its_type_and_revision() {
    let node = TestNode::start().await;
    let stored = put(&node, "a%2Fb", "<p>hello", &[("content-type", "text/html; charset=utf-8")]).await;
    let revision = stored.expect(200)["revision"].as_str().unwrap().to_owned();
    assert_eq!(stored.header("etag"), format!("\"{revision}\""));
    let read = node.get(&format!("{KV}/a%2Fb")).await;
    assert_eq!((read.status.as_u16(), read.bytes.as_slice()), (200, b"<p>hello".as_slice()));
    assert_eq!(read.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(read.header("etag"), stored.header("etag"));
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    let head = node.call(Method::HEAD, &format!("{KV}/a%2Fb")).send().await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "8"));
    assert_eq!(delete(&node, "a%2Fb", &[]).await.expect(204), Value::Null);
    assert_eq!(node.get(&format!("{KV}/a%2Fb")).await.problem(404, "unknown_key")["key"], "a/b");
    delete(&node, "a%2Fb", &[]).await.problem(404, "unknown_key");
}

#[tokio::test]
async fn conditions_make_it_compare_and_set() {
    let node = TestNode::start().await;
    let absent = [("if-none-match", "*")];
    let first = put(&node, "k", "1", &absent).await;
    first.expect(200);
    let etag = first.header("etag").to_owned();
    let problem = put(&node, "k", "2", &absent).await.problem(412, "revision_mismatch");
    assert_eq!(problem["current_revision"], etag.trim_matches('"'));
    let second = put(&node, "k", "2", &[("if-match", &etag)]).await;
    second.expect(200);
    assert_ne!(second.header("etag"), etag);
    put(&node, "k", "3", &[("if-match", &etag)]).await.problem(412, "revision_mismatch");
    let problem = delete(&node, "k", &[("if-match", &etag)]).await.problem(412, "revision_mismatch");
    assert_eq!(problem["current_revision"], second.header("etag").trim_matches('"'));
    assert_eq!(node.get(&format!("{KV}/k")).await.bytes, b"2");
    delete(&node, "k", &[("if-match", second.header("etag"))]).await.expect(204);
    let problem = put(&node, "k", "4", &[("if-match", "*")]).await.problem(412, "revision_mismatch");
    assert_eq!(problem["current_revision"], Value::Null);
    for wrong in [[("if-match", "17")], [("if-none-match", "\"17\"")]] {
        put(&node, "k", "5", &wrong).await.problem(400, "malformed_request");
    }
    put(&node, "k", "5", &[("if-match", "*"), ("if-none-match", "*")])
        .await
        .problem(400, "malformed_request");
}

#[tokio::test]
async fn value_goes_when_its_time_is_over() {
    let node = TestNode::start().await;
    let path = format!("{KV}/k?ttl_ms=500");
    node.call(Method::PUT, &path).body("short").send().await.expect(200);
    let listed = node.get(KV).await.expect(200);
    assert!(listed["keys"][0]["expires"].as_str().is_some_and(|at| at.ends_with('Z')), "{listed}");
    // The cluster clock moves on with the ticker: wait for what it does, not for a time.
    let gone = async {
        while node.get(&format!("{KV}/k")).await.status.as_u16() == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("the register goes");
    node.call(Method::PUT, &format!("{KV}/k?ttl_ms=0"))
        .body("x")
        .send()
        .await
        .problem(422, "invalid_argument");
    node.call(Method::PUT, &format!("{KV}/k?ttl=5")).body("x").send().await.problem(400, "malformed_request");
}

#[tokio::test]
async fn keys_are_bytes_and_bounded() {
    let node = TestNode::start().await;
    put(&node, "%ff%00x", "binary", &[]).await.expect(200);
    assert_eq!(node.get(&format!("{KV}/%FF%00x")).await.bytes, b"binary");
    let listed = node.get(KV).await.expect(200);
    assert_eq!(listed["keys"][0]["key_base64"], "_wB4");
    put(&node, &"k".repeat(1_024), "x", &[]).await.expect(200);
    put(&node, &"k".repeat(5_120), "x", &[]).await.problem(422, "invalid_argument");
    put(&node, "", "x", &[]).await.problem(422, "invalid_argument");
    put(&node, "%zz", "x", &[]).await.problem(400, "malformed_request");
}

#[tokio::test]
async fn value_is_bounded() {
    let node = TestNode::start().await;
    let put = |bytes: usize| node.call(Method::PUT, "/api/v1/cluster/kv/k").body(vec![7_u8; bytes]).send();
    put(64 * 1_024).await.expect(200);
    assert_eq!(put(64 * 1_024 + 1).await.problem(413, "body_too_large")["max_bytes"], 65_536);
    put(10 * 1_024 * 1_024).await.problem(413, "body_too_large");
    assert_eq!(node.get(&format!("{KV}/k")).await.bytes.len(), 64 * 1_024);
    put(0).await.expect(200);
    assert_eq!(node.get(&format!("{KV}/k")).await.bytes, b"");
}

#[tokio::test]
async fn retry_of_a_put_is_one_put() {
    let node = TestNode::start().await;
    let key = [("idempotency-key", "put-1")];
    let first = put(&node, "k", "1", &key).await;
    first.expect(200);
    put(&node, "k", "2", &[]).await.expect(200);
    let replay = put(&node, "k", "1", &key).await;
    assert_eq!(replay.expect(200), first.json());
    assert_eq!(node.get(&format!("{KV}/k")).await.bytes, b"2");
    put(&node, "k", "other", &key).await.problem(422, "idempotency_key_reused");
    let path = format!("{KV}/k?ttl_ms=60000");
    let with_ttl = node.call(Method::PUT, &path).header("idempotency-key", "put-1").body("1").send().await;
    with_ttl.problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn list_is_paged_by_prefix() {
    let node = TestNode::start().await;
    for key in ["a%3A1", "a%3A2", "a%3A3", "b"] {
        put(&node, key, "value", &[("content-type", "text/plain")]).await.expect(200);
    }
    let first = node.get(&format!("{KV}?prefix=a:&limit=2")).await.expect(200);
    assert_eq!(first["count"], 2);
    assert_eq!(first["keys"][0]["key"], "a:1");
    assert_eq!(first["keys"][0]["size"], 5);
    assert_eq!(first["keys"][0]["content_type"], "text/plain");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = node.get(&format!("{KV}?prefix=a:&limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((&second["keys"][0]["key"], &second["next_cursor"]), (&json!("a:3"), &Value::Null));
}
