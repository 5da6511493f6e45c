//! A node that answers as it is told to and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Builder, Client};

/// Longer than anything takes when all is well, on a machine with much else to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// One request that came in.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) key: Option<String>,
    pub(super) min_index: Option<String>,
    pub(super) last_event_id: Option<String>,
    pub(super) body: Value,
    pub(super) at: Instant,
    /// How many came before it.
    pub(super) number: usize,
}

/// How it is answered.
pub(super) enum Answer {
    Json(u16, Value),
    /// As a stopping or overloaded node: with `Retry-After`.
    Later(u16, &'static str, u64),
    /// These bytes, then the end of the connection.
    Stream(&'static str),
    /// Never.
    Silence,
}

type Rule = dyn Fn(&Seen) -> Answer + Send + Sync;

#[derive(Clone)]
pub(super) struct Fake {
    addr: SocketAddr,
    rule: Arc<Rule>,
    seen: Arc<watch::Sender<Vec<Seen>>>,
}

impl Fake {
    pub(super) async fn start(rule: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let fake = Self { addr, rule: Arc::new(rule), seen: Arc::default() };
        let app = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    /// Answers everything so.
    pub(super) async fn always(status: u16, body: Value) -> Self {
        Self::start(move |_| Answer::Json(status, body.clone())).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// Those whose path ends so.
    pub(super) fn asked(&self, verb: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.ends_with(verb)).collect()
    }

    /// Waits until so many such requests have come.
    pub(super) async fn until_asked(&self, verb: &str, times: usize) {
        let mut all = self.seen.subscribe();
        let come = all.wait_for(|all| all.iter().filter(|seen| seen.path.ends_with(verb)).count() >= times);
        let came = tokio::time::timeout(PATIENCE, come).await.is_ok();
        assert!(came, "{verb} was not asked {times} times: {:?}", self.seen());
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let (path, key, min_index, last_event_id) = (
        parts.uri.to_string(),
        header("idempotency-key"),
        header("x-ovncp-min-index"),
        header("last-event-id"),
    );
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut seen = Seen { path, key, min_index, last_event_id, body, at: Instant::now(), number: 0 };
    fake.seen.send_modify(|all| {
        seen.number = all.len();
        all.push(seen.clone());
    });
    let response = Response::builder();
    match (fake.rule)(&seen) {
        Answer::Json(204, _) => response.status(204).body(Body::empty()).unwrap(),
        Answer::Json(status, body) => response
            .status(status)
            .header("content-type", "application/json")
            .header("x-ovncp-index", seen.number + 100)
            .header("etag", format!("\"{}\"", seen.number + 100))
            .body(Body::from(body.to_string()))
            .unwrap(),
        Answer::Later(status, code, seconds) => response
            .status(status)
            .header("retry-after", seconds)
            .body(Body::from(json!({"code": code, "detail": "later"}).to_string()))
            .unwrap(),
        Answer::Stream(text) => {
            response.header("content-type", "text/event-stream").body(Body::from(text)).unwrap()
        }
        Answer::Silence => std::future::pending().await,
    }
}

/// A port that nobody listens on.
pub(super) async fn closed_port() -> String {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

pub(super) fn builder(fakes: &[&Fake]) -> Builder {
    Client::builder().endpoints(fakes.iter().map(|fake| fake.url()))
}

/// With a deadline that no test waits for.
pub(super) fn client(fakes: &[&Fake]) -> Client {
    builder(fakes).deadline(PATIENCE).build().unwrap()
}
