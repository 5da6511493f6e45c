//! Around the router, once per request: request id, the limit of requests in progress, panics, problems and
//! counters. One plain function instead of a stack of layers: each layer would box every response.

use std::any::Any;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use futures_util::FutureExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tower::Service;
use tracing::Instrument;

use super::error::{ApiError, Code, PROBLEM_JSON};
use super::extract::Remote;
use crate::telemetry::metrics::HttpMetrics;

/// Identity of one request, for logs and problems.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Name of the node that answered.
pub const NODE: HeaderName = HeaderName::from_static("x-ovncp-node");
/// Longest request id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Bytes of an id made here: two numbers of 16 digits and a dash.
const REQUEST_ID_OWN_BYTES: usize = 33;
/// How long a request waits for its turn, while too many are in progress, before it is refused.
const ADMISSION_WAIT: Duration = Duration::from_millis(100);
/// W3C trace context.
const TRACEPARENT: &str = "traceparent";
/// Bytes of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The outermost part of the HTTP service.
pub struct Edge {
    router: Router,
    node: HeaderValue,
    permits: Semaphore,
    permits_max: usize,
    metrics: Arc<HttpMetrics>,
    /// First half of the ids made here: random per process.
    id_prefix: u64,
    id_next: AtomicU64,
}

impl Edge {
    /// Wraps a router that has its state.
    #[must_use]
    pub fn new(
        router: Router,
        node_name: &str,
        concurrent_requests_max: usize,
        metrics: Arc<HttpMetrics>,
    ) -> Self {
        Self {
            router,
            node: HeaderValue::from_str(node_name).unwrap_or(HeaderValue::from_static("?")),
            permits: Semaphore::new(concurrent_requests_max),
            permits_max: concurrent_requests_max,
            metrics,
            id_prefix: rand::random(),
            id_next: AtomicU64::new(0),
        }
    }

    /// Answers one request. Never fails: whatever goes wrong is an answer too.
    pub async fn answer<B>(
        &self,
        mut request: Request<B>,
        remote: SocketAddr,
    ) -> Result<Response<Body>, Infallible>
    where
        B: HttpBody<Data = axum::body::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let began = Instant::now();
        let route = self.metrics.route(request.method(), request.uri().path());
        let in_flight = InFlight::new(&self.metrics);
        let request_id = self.request_id(request.headers());
        request.extensions_mut().insert(Remote(remote));
        let mut response = self.guarded(request, &request_id, began).await;
        if let Some(code) = complete_problem(&mut response, &request_id) {
            self.metrics.problem(code);
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, request_id);
        headers.insert(NODE, self.node.clone());
        drop(in_flight);
        self.metrics.answered(route, response.status().as_u16(), began.elapsed());
        Ok(response)
    }

    async fn guarded<B>(
        &self,
        request: Request<B>,
        request_id: &HeaderValue,
        began: Instant,
    ) -> Response<Body>
    where
        B: HttpBody<Data = axum::body::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        // A probe must be answered above all when there is too much to do.
        let _permit = if request.uri().path().starts_with("/health") {
            None
        } else {
            match self.admitted().await {
                Some(permit) => Some(permit),
                None => return axum::response::IntoResponse::into_response(self.too_many()),
            }
        };
        let span = span(&request, request_id);
        let mut router = self.router.clone();
        let handled = AssertUnwindSafe(async move { router.call(request).await }).catch_unwind();
        let handled = async move {
            match handled.await {
                Ok(Ok(response)) => {
                    let (status, took_us) = (response.status().as_u16(), began.elapsed().as_micros());
                    tracing::debug!(status, took_us, "answered");
                    response
                }
                Ok(Err(never)) => match never {},
                Err(panic) => axum::response::IntoResponse::into_response(panicked(panic.as_ref())),
            }
        };
        // Without a subscriber, as in a program that logs nothing, no wrapper is needed.
        if span.is_disabled() { handled.await } else { handled.instrument(span).await }
    }

    /// A place among the requests in progress, in the order in which they came. Not at once refused where there is
    /// none: a refusal costs a good part of what a write does, and a client that is refused at once asks again at
    /// once, until the node does nothing else. A connection that waits here asks nothing. Those who wait are bounded by
    /// the connections.
    async fn admitted(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Some(permit);
        }
        tokio::time::timeout(ADMISSION_WAIT, self.permits.acquire()).await.ok()?.ok()
    }

    fn too_many(&self) -> ApiError {
        self.metrics.refused();
        ApiError::new(Code::QueueFull, "too many requests are in progress")
            .with("queue", "concurrent_requests")
            .with("max", self.permits_max)
    }

    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(REQUEST_ID) {
            Some(given) if is_clean(given.as_bytes()) => given.clone(),
            _ => {
                let mut id = [0; REQUEST_ID_OWN_BYTES];
                hex_digits(&mut id[..16], self.id_prefix);
                id[16] = b'-';
                hex_digits(&mut id[17..], self.id_next.fetch_add(1, Ordering::Relaxed));
                HeaderValue::from_bytes(&id).expect("hexadecimal digits are a valid header value")
            }
        }
    }
}

/// Writes a number from the right, with leading zeroes, as far as there is room.
fn hex_digits(out: &mut [u8], number: u64) {
    for (place, digit) in out.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * place) & 0xf) as usize];
    }
}

/// Whether a client's id can stand in logs and headers as it is.
fn is_clean(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

fn span<B>(request: &Request<B>, request_id: &HeaderValue) -> tracing::Span {
    // At the highest level, so that whatever a handler logs carries the id, however little is logged.
    tracing::error_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        request_id = request_id.to_str().unwrap_or_default(),
        trace = traceparent(request.headers()).unwrap_or_default(),
    )
}

/// The trace context, if it is one.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let clean = value.len() == TRACEPARENT_BYTES
        && value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    clean.then_some(value)
}

fn panicked(panic: &(dyn Any + Send)) -> ApiError {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("unknown"), "a handler panicked");
    ApiError::new(Code::Internal, "this request met a defect; the node goes on")
}

/// Writes the body of a problem and tells which it is. Errors of the router itself and of libraries get the same
/// shape.
fn complete_problem(response: &mut Response<Body>, request_id: &HeaderValue) -> Option<Code> {
    let id = request_id.to_str().unwrap_or_default();
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if is_foreign(response) => foreign(response.status()),
        None => return None,
    };
    let code = error.code;
    let allow = response.headers_mut().remove(header::ALLOW);
    *response = error.render(id);
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    Some(code)
}

fn is_foreign(response: &Response<Body>) -> bool {
    let status = response.status();
    let media_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    (status.is_client_error() || status.is_server_error())
        && !media_type.is_some_and(|media_type| {
            media_type == PROBLEM_JSON.as_bytes() || media_type == b"application/json"
        })
}

fn foreign(status: StatusCode) -> ApiError {
    let code = match status {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
        StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
        status if status.is_client_error() => Code::MalformedRequest,
        _ => Code::Internal,
    };
    ApiError::new(code, code.title())
}

struct InFlight<'a>(&'a HttpMetrics);

impl<'a> InFlight<'a> {
    fn new(metrics: &'a HttpMetrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_is_a_problem_and_the_edge_goes_on() {
        async fn explode() -> &'static str {
            panic!("a secret detail");
        }
        let router = Router::new().route("/panic", axum::routing::get(explode));
        let router = router.route("/fine", axum::routing::get(|| std::future::ready("fine")));
        // One place: a panic must give it back.
        let edge = Edge::new(router, "node-1", 1, Arc::new(HttpMetrics::new(&[], 1, 1)));
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let request = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
        let Ok(response) = edge.answer(request("/panic"), remote).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let body = axum::body::to_bytes(response.into_body(), 4_096).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("internal_error") && !body.contains("secret detail"), "{body}");
        let Ok(response) = edge.answer(request("/fine"), remote).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(edge.metrics.in_flight.get(), 0);
    }

    #[test]
    fn own_ids_are_clean_and_never_the_same() {
        let edge = Edge::new(Router::new(), "node-1", 1, Arc::new(HttpMetrics::new(&[], 1, 1)));
        let ids: Vec<_> = (0..300).map(|_| edge.request_id(&HeaderMap::new())).collect();
        assert!(ids.iter().all(|id| is_clean(id.as_bytes()) && id.len() == REQUEST_ID_OWN_BYTES));
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ids[255].as_bytes().ends_with(b"-00000000000000ff"), "{:?}", ids[255]);
    }

    #[test]
    fn only_clean_ids_are_echoed() {
        assert!(is_clean(b"0af7651916cd43dd8448eb211c80319c"));
        assert!(is_clean(b"req-1_2.3:4/5+6=@"));
        for dirty in [&b""[..], b"a b", b"a\"b", b"<script>", &[b'a'; 129], "é".as_bytes()] {
            assert!(!is_clean(dirty), "{dirty:?}");
        }
    }

    #[test]
    fn only_a_trace_context_reaches_the_log() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(
                header::HeaderName::from_static(TRACEPARENT),
                HeaderValue::from_static(text),
            )])
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent(&headers(good)), Some(good));
        assert_eq!(traceparent(&headers("00-xyz")), None);
        assert_eq!(traceparent(&HeaderMap::new()), None);
    }
}
