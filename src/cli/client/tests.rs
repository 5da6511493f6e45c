//! The client of the commands against small servers: which endpoint is asked, and what its answers become.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;

use super::*;

/// Path and idempotency key of a request.
type Asked = (String, Option<String>);

/// A node that answers every request the same way and remembers what it was asked.
struct Fake {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    async fn start(status: u16, body: Value) -> Fake {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let answer = move |request: Request| async move {
            let key = request.headers().get("idempotency-key").map(|v| v.to_str().unwrap().to_owned());
            log.lock().unwrap().push((request.uri().to_string(), key));
            let status = StatusCode::from_u16(status).unwrap();
            let response: Response = (status, Json(body)).into_response();
            response
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Fake { addr, seen }
    }

    fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

/// A port that nobody listens on.
async fn closed_port() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn client(endpoints: &[SocketAddr]) -> Client {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    Client::new(&endpoints, None).unwrap()
}

#[tokio::test]
async fn write_fails_over_with_one_idempotency_key() {
    let (closed, broken) = (closed_port().await, Fake::start(503, json!({"code": "no_leader"})).await);
    let good = Fake::start(200, json!({"ok": true})).await;
    let client = client(&[closed, broken.addr, good.addr]);

    let call = Call::write(Method::POST, ["api", "v1", "switch:a/b"]).json(&json!({}));
    assert_eq!(client.json(&call).await.unwrap(), json!({"ok": true}));

    let (asked_first, asked_then) = (broken.seen(), good.seen());
    assert_eq!(asked_first, asked_then, "the same request with the same key");
    assert_eq!(asked_then[0].0, "/api/v1/switch:a%2Fb");
    assert!(asked_then[0].1.is_some());
}

#[tokio::test]
async fn endpoint_that_answered_is_asked_first_next_time() {
    let broken = Fake::start(503, json!({"code": "draining"})).await;
    let good = Fake::start(200, json!({})).await;
    let client = client(&[broken.addr, good.addr]);
    for _ in 0..3 {
        client.expect(&Call::get(["x"])).await.unwrap();
    }
    assert_eq!((broken.seen().len(), good.seen().len()), (1, 3));
}

#[tokio::test]
async fn exit_codes_tell_unreachable_from_no_quorum() {
    let nobody = client(&[closed_port().await]);
    let failure = nobody.expect(&Call::get(["x"])).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.to_string().contains("ovncp dev"), "{failure}");

    let fake = Fake::start(503, json!({"code": "no_leader", "detail": "no leader"})).await;
    let call = Call::get(["x"]).patience(Duration::ZERO);
    let failure = client(&[closed_port().await, fake.addr]).expect(&call).await.unwrap_err();
    assert_eq!(failure.exit, Exit::NoQuorum);
}

#[tokio::test]
async fn refusals_carry_the_words_and_the_code_of_the_server() {
    let fake = Fake::start(409, json!({"code": "not_holder", "detail": "the secret is wrong"})).await;
    let failure = client(&[fake.addr]).expect(&Call::get(["x"])).await.unwrap_err();
    assert_eq!(
        (failure.exit, failure.to_string()),
        (Exit::Failure, "the secret is wrong (not_holder)".to_owned())
    );
}

#[test]
fn endpoints_may_omit_the_scheme_and_must_be_addresses() {
    assert_eq!(parse_endpoint("node-1:8080").unwrap().as_str(), "http://node-1:8080/");
    for wrong in ["", "ftp://x", "http://", "a b"] {
        assert_eq!(parse_endpoint(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
    }
}
