//! A node that answers lock calls as it is told to, so that what the real one does rarely can be had at will.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

/// How a verb is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Json(u16, Value),
    /// Never.
    Silence,
}

/// One request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
    pub(crate) at: Instant,
}

/// The answer to a verb (the last segment of the path, with the query) and a body.
type Rule = dyn Fn(&str, &Value) -> Answer + Send + Sync;

#[derive(Clone)]
struct Shared {
    answers: Arc<Rule>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Runs on a thread of its own until the test ends.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    shared: Shared,
}

impl Fake {
    /// `answers` gets the last segment of the path, with the query.
    pub(crate) fn start(answers: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Fake {
        Fake::start_with(move |verb, _| answers(verb))
    }

    /// With the body too.
    pub(crate) fn start_with(answers: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Fake {
        let shared = Shared { answers: Arc::new(answers), seen: Arc::default() };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(shared.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await
            })
        });
        Fake { addr, shared }
    }

    /// Grants at once, renews and releases.
    pub(crate) fn granting() -> Fake {
        Fake::start_with(grant)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Requests whose path ends so.
    pub(crate) fn seen(&self, verb: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.path.ends_with(verb)).cloned().collect()
    }
}

/// What a node answers that lets the lock be held.
pub(crate) fn grant(verb: &str, body: &Value) -> Answer {
    match verb {
        "acquire" | "campaign" | "renew" => {
            Answer::Json(200, json!({"fencing_token": "42", "ttl_ms": body["ttl_ms"]}))
        }
        _ => Answer::Json(204, Value::Null),
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let verb = request.uri().to_string().rsplit('/').next().unwrap().to_owned();
    let key = request.headers().get("idempotency-key").map(|v| v.to_str().unwrap().to_owned());
    let at = Instant::now();
    let body: Bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    shared.seen.lock().unwrap().push(Seen { path, key, body: body.clone(), at });
    match (shared.answers)(&verb, &body) {
        Answer::Json(204, _) => StatusCode::NO_CONTENT.into_response(),
        Answer::Json(status, body) => (StatusCode::from_u16(status).unwrap(), Json(body)).into_response(),
        Answer::Silence => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
