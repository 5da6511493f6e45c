//! Locks: the happy paths, and what is refused.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNode};

const LOCKS: &str = "/api/v1/cluster/locks";

async fn release(node: &TestNode, key: &str, secret: &Value) -> Answer {
    node.post(&format!("{LOCKS}/{key}/release"), json!({ "secret": secret })).await
}

async fn renew(node: &TestNode, key: &str, body: Value) -> Answer {
    node.post(&format!("{LOCKS}/{key}/renew"), body).await
}

fn token(acquired: &Value) -> u64 {
    acquired["fencing_token"].as_str().expect("a decimal string").parse().unwrap()
}

#[tokio::test]
async fn lock_is_acquired_shown_renewed_and_released() {
    let node = TestNode::start().await;
    let key = "switch%3Aupdate%3Aa%2Fb";
    let answer =
        node.acquire(key, json!({"owner": "alice", "ttl_ms": 10_000, "metadata": {"why": "test"}})).await;
    let acquired = answer.expect(200);
    assert_eq!(acquired["key"], "switch:update:a/b");
    assert_eq!((&acquired["mode"], &acquired["owner"]), (&json!("exclusive"), &json!("alice")));
    assert_eq!((&acquired["ttl_ms"], &acquired["waited_ms"]), (&json!(10_000), &json!(0)));
    assert!(acquired["secret"].as_str().unwrap().len() >= 22, "128 bits at least");
    assert!(acquired.get("keys").is_none());
    assert!(answer.header("x-ovncp-index").parse::<u64>().unwrap() > 0);

    let shown = node.get(&format!("{LOCKS}/{key}")).await.expect(200);
    let holder = &shown["holders"][0];
    assert_eq!(holder["owner"], "alice");
    assert_eq!(holder["fencing_token"], acquired["fencing_token"]);
    assert_eq!(holder["metadata"], json!({"why": "test"}));
    assert!(holder["expires"].as_str().unwrap() > holder["since"].as_str().unwrap());
    assert!(
        !shown.to_string().contains(acquired["secret"].as_str().unwrap()),
        "the secret is shown to nobody"
    );

    let renewed =
        renew(&node, key, json!({"secret": acquired["secret"], "ttl_ms": 60_000})).await.expect(200);
    assert_eq!(renewed, json!({"ttl_ms": 60_000, "fencing_token": acquired["fencing_token"]}));

    assert_eq!(release(&node, key, &acquired["secret"]).await.expect(204), Value::Null);
    node.get(&format!("{LOCKS}/{key}")).await.problem(404, "unknown_lock");
    let again = node.acquire(key, json!({"owner": "bob"})).await.expect(200);
    assert_eq!(again["ttl_ms"], 30_000);
    assert!(token(&again) > token(&acquired));
}

#[tokio::test]
async fn held_lock_is_refused_with_its_holder() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "alice", "ttl_ms": 20_000})).await.expect(200);
    let problem = node.acquire("k", json!({"owner": "bob"})).await.problem(409, "lock_held");
    assert_eq!(problem["key"], "k");
    assert_eq!(problem["holder"]["owner"], "alice");
    assert_eq!(problem["holder"]["fencing_token"], held["fencing_token"]);
    assert_eq!(problem["queue_length"], 0);
    let problem = node.acquire("k", json!({"owner": "bob", "wait_ms": 1})).await.problem(409, "lock_timeout");
    assert_eq!(problem["holder"]["owner"], "alice");
}

#[tokio::test]
async fn shared_locks_have_several_holders() {
    let node = TestNode::start().await;
    let shared = json!({"owner": "reader", "mode": "shared"});
    let first = node.acquire("k", shared.clone()).await.expect(200);
    let second = node.acquire("k", shared).await.expect(200);
    node.acquire("k", json!({"owner": "writer"})).await.problem(409, "lock_held");
    let shown = node.get(&format!("{LOCKS}/k")).await.expect(200);
    assert_eq!(shown["holders"].as_array().unwrap().len(), 2);
    release(&node, "k", &first["secret"]).await.expect(204);
    release(&node, "k", &second["secret"]).await.expect(204);
    node.acquire("k", json!({"owner": "writer"})).await.expect(200);
}

#[tokio::test]
async fn several_locks_are_taken_all_or_none() {
    let node = TestNode::start().await;
    let acquire = format!("{LOCKS}/acquire");
    let held = node.post(&acquire, json!({"keys": ["b", "a", "b"], "owner": "alice"})).await.expect(200);
    assert_eq!((&held["key"], &held["keys"]), (&json!("a"), &json!(["a", "b"])));
    let problem =
        node.post(&acquire, json!({"keys": ["c", "b"], "owner": "bob"})).await.problem(409, "lock_held");
    assert_eq!(problem["key"], "b");
    node.get(&format!("{LOCKS}/c")).await.problem(404, "unknown_lock");
    // Any key of the grant releases the whole grant.
    release(&node, "b", &held["secret"]).await.expect(204);
    node.acquire("a", json!({"owner": "bob"})).await.expect(200);
    node.post(&acquire, json!({"keys": [], "owner": "bob"})).await.problem(422, "invalid_argument");
    let many: Vec<_> = (0..65).map(|rank| format!("many-{rank}")).collect();
    let problem = node.post(&acquire, json!({"keys": many, "owner": "bob"})).await;
    assert_eq!(problem.problem(422, "invalid_argument")["field"], "keys");
}

#[tokio::test]
async fn lock_called_acquire_is_a_lock_like_any_other() {
    let node = TestNode::start().await;
    node.acquire("acquire", json!({"owner": "alice"})).await.expect(200);
    assert_eq!(node.get(&format!("{LOCKS}/acquire")).await.expect(200)["key"], "acquire");
    let forced =
        node.call(Method::DELETE, &format!("{LOCKS}/acquire")).json(json!({"reason": "test"})).send().await;
    assert_eq!(forced.expect(200)["fencing_tokens"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn only_the_holder_renews_and_releases() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "alice"})).await.expect(200);
    let wrong = json!("not-the-secret-at-all");
    assert_eq!(release(&node, "k", &wrong).await.problem(409, "not_holder")["key"], "k");
    renew(&node, "k", json!({ "secret": wrong })).await.problem(409, "not_holder");
    release(&node, "k", &held["secret"]).await.expect(204);
    // Twice, and of a key that never was.
    release(&node, "k", &held["secret"]).await.problem(409, "not_holder");
    release(&node, "never", &held["secret"]).await.problem(409, "not_holder");
    renew(&node, "k", json!({ "secret": held["secret"] })).await.problem(409, "not_holder");
}

#[tokio::test]
async fn lease_ends_by_itself_and_is_not_renewed_then() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "alice", "ttl_ms": 500})).await.expect(200);
    // The wait is granted by the expiry: a condition, not a sleep.
    let next = node.acquire("k", json!({"owner": "bob", "wait_ms": 10_000})).await.expect(200);
    assert!(token(&next) > token(&held));
    renew(&node, "k", json!({ "secret": held["secret"] })).await.problem(409, "not_holder");
    release(&node, "k", &held["secret"]).await.problem(409, "not_holder");
}

#[tokio::test]
async fn renewal_does_not_pass_the_longest_hold() {
    let node = TestNode::start().await;
    let body = json!({"owner": "alice", "ttl_ms": 1_000, "max_hold_ms": 5_000});
    let held = node.acquire("k", body).await.expect(200);
    let renewed = renew(&node, "k", json!({"secret": held["secret"], "ttl_ms": 60_000})).await.expect(200);
    assert!(renewed["ttl_ms"].as_u64().unwrap() <= 5_000, "{renewed}");
}

#[tokio::test]
async fn client_may_bring_its_own_secret() {
    let node = TestNode::start().await;
    let secret = "sixteen bytes ok";
    let held = node.acquire("k", json!({"owner": "alice", "secret": secret})).await.expect(200);
    assert_eq!(held["secret"], secret);
    release(&node, "k", &json!(secret)).await.expect(204);
    let long = "s".repeat(257);
    for wrong in ["short", long.as_str()] {
        let problem = node
            .acquire("k", json!({"owner": "alice", "secret": wrong}))
            .await
            .problem(422, "invalid_argument");
        assert_eq!(problem["field"], "secret");
        assert!(!problem.to_string().contains(wrong) || wrong == "short", "the answer repeats the secret");
    }
}

#[tokio::test]
async fn impossible_values_are_named() {
    let node = TestNode::start().await;
    let day_and_more = 30 * 24 * 3_600_000_u64;
    for (body, field) in [
        (json!({"owner": "a", "ttl_ms": 0}), "ttl_ms"),
        (json!({"owner": "a", "ttl_ms": 1}), "ttl_ms"),
        (json!({"owner": "a", "ttl_ms": day_and_more}), "ttl_ms"),
        (json!({"owner": "a", "wait_ms": 40_001}), "wait_ms"),
        (json!({"owner": "a", "max_hold_ms": 1}), "max_hold_ms"),
        (json!({"owner": ""}), "owner"),
        (json!({"owner": "o".repeat(257)}), "owner"),
        (json!({"owner": "a", "metadata": "m".repeat(5_000)}), "metadata"),
    ] {
        let problem = node.acquire("k", body.clone()).await.problem(422, "invalid_argument");
        assert_eq!(problem["field"], field, "{body}");
    }
    let long = "k".repeat(5 * 1_024);
    let problem = node.acquire(&long, json!({"owner": "a"})).await.problem(422, "invalid_argument");
    assert_eq!(problem["field"], "keys");
    node.acquire("", json!({"owner": "a"})).await.problem(422, "invalid_argument");
    node.get(&format!("{LOCKS}/")).await.problem(422, "invalid_argument");
    let held = node.acquire("k", json!({"owner": "a"})).await.expect(200);
    renew(&node, "k", json!({"secret": held["secret"], "ttl_ms": 0})).await.problem(422, "invalid_argument");
    let session = node.acquire("s", json!({"owner": "a", "session_id": "none"})).await;
    session.problem(404, "unknown_session");
}

#[tokio::test]
async fn force_release_needs_a_reason_and_ends_the_grant() {
    let node = TestNode::start().await;
    let held = node.acquire("k", json!({"owner": "alice"})).await.expect(200);
    let delete = |body: Value| node.call(Method::DELETE, "/api/v1/cluster/locks/k").json(body).send();
    delete(json!({})).await.problem(422, "invalid_body");
    delete(json!({"reason": ""})).await.problem(422, "invalid_argument");
    delete(json!({"reason": "r", "fencing_token": "x"})).await.problem(422, "invalid_argument");
    delete(json!({"reason": "r", "fencing_token": "999999"})).await.problem(404, "unknown_lock");
    let forced = delete(json!({"reason": "stuck"})).await.expect(200);
    assert_eq!(forced["fencing_tokens"], json!([held["fencing_token"]]));
    delete(json!({"reason": "stuck"})).await.problem(404, "unknown_lock");
    renew(&node, "k", json!({ "secret": held["secret"] })).await.problem(409, "not_holder");
}

#[tokio::test]
async fn retry_gets_the_same_answer_and_a_reused_key_is_refused() {
    let node = TestNode::start().await;
    let acquire = |key: &'static str, body: Value| {
        node.call(Method::POST, "/api/v1/cluster/locks/k/acquire")
            .header("idempotency-key", key)
            .json(body)
            .send()
    };
    let body = json!({"owner": "alice", "ttl_ms": 60_000});
    let first = acquire("retry-1", body.clone()).await.expect(200);
    let second = acquire("retry-1", body.clone()).await.expect(200);
    assert_eq!(first["secret"], second["secret"]);
    assert_eq!(first["fencing_token"], second["fencing_token"]);
    assert!(second["ttl_ms"].as_u64().unwrap() <= 60_000);
    acquire("retry-1", json!({"owner": "mallory"})).await.problem(422, "idempotency_key_reused");
    acquire("retry-2", body.clone()).await.problem(409, "lock_held");

    let release = |secret: Value| {
        let call =
            node.call(Method::POST, "/api/v1/cluster/locks/k/release").header("idempotency-key", "release-1");
        call.json(json!({ "secret": secret })).send()
    };
    release(first["secret"].clone()).await.expect(204);
    release(first["secret"].clone()).await.expect(204);
    // What was granted under this key is gone: a replay must not hand out a dead lock.
    let lost = acquire("retry-1", body).await.problem(409, "lock_lost");
    assert_eq!(lost["fencing_token"], first["fencing_token"]);
}

#[tokio::test]
async fn idempotency_keys_are_checked_and_scoped() {
    let node = TestNode::start().await;
    let acquire = |path: &'static str, key: String| {
        node.call(Method::POST, path).header("idempotency-key", &key).json(json!({"owner": "alice"})).send()
    };
    for wrong in ["".to_owned(), "a b".to_owned(), "k".repeat(256)] {
        let problem =
            acquire("/api/v1/cluster/locks/a/acquire", wrong).await.problem(400, "malformed_request");
        assert_eq!(problem["header"], "Idempotency-Key");
    }
    // The same key on another lock is another request.
    let one = acquire("/api/v1/cluster/locks/a/acquire", "k".repeat(255)).await.expect(200);
    let other = acquire("/api/v1/cluster/locks/b/acquire", "k".repeat(255)).await.expect(200);
    assert_ne!(one["secret"], other["secret"]);
}

#[tokio::test]
async fn list_is_paged_by_prefix() {
    let node = TestNode::start().await;
    for rank in 0..7 {
        node.acquire(&format!("page%3A{rank}"), json!({"owner": "a"})).await.expect(200);
    }
    node.acquire("other", json!({"owner": "a"})).await.expect(200);
    let mut path = format!("{LOCKS}?prefix=page:&limit=3");
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let page = node.get(&path).await.expect(200);
        let keys =
            page["locks"].as_array().unwrap().iter().map(|lock| lock["key"].as_str().unwrap().to_owned());
        seen.extend(keys);
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        assert_eq!(page["count"], 3);
        path = format!("{LOCKS}?prefix=page:&limit=3&cursor={cursor}");
    }
    let expected: Vec<_> = (0..7).map(|rank| format!("page:{rank}")).collect();
    assert_eq!((pages, seen), (3, expected));
    // A page that ends exactly at the last one has no next.
    assert_eq!(
        node.get(&format!("{LOCKS}?prefix=page:&limit=7")).await.expect(200)["next_cursor"],
        Value::Null
    );
    assert_eq!(node.get(LOCKS).await.expect(200)["count"], 8);
    for wrong in ["limit=0", "limit=1001"] {
        node.get(&format!("{LOCKS}?{wrong}")).await.problem(422, "invalid_argument");
    }
    for wrong in ["limit=x", "cursor=!", "limt=3", "consistency=eventual"] {
        node.get(&format!("{LOCKS}?{wrong}")).await.problem(400, "malformed_request");
    }
}
