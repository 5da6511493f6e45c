//! Server-Sent Events: a stream of text blocks that a client resumes by the id of the last one it saw.
//!
//! A stream has no queue of its own. hyper asks for the next chunk when it has sent the last one, and only then
//! is the ring looked at; a client that does not read is cut by the listener ([`super::server`]). Blocks that a
//! filter leaves out still move the id, with the next sign of life, so that a client of rare events does not fall
//! behind the ring.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use ovncp_state::view::EventsReset;
use ovncp_state::{EventOffset, LogIndex};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::INDEX;
use super::error::{ApiError, Code};
use crate::services::events::{Kept, Step, Watcher};

/// Media type of a stream.
pub const EVENT_STREAM: &str = "text/event-stream";
/// A sign of life after so much silence: the guide's proxies cut at 50 s.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client is asked to pause before it reconnects.
pub(super) const RETRY_MS: u64 = 1_000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Header `Last-Event-ID`: the stream goes on behind it.
pub struct LastEventId(Option<EventOffset>);

impl LastEventId {
    /// The first offset to send: behind the last one seen, else `since`.
    pub fn or_since(self, since: Option<&str>) -> Result<Option<EventOffset>, ApiError> {
        let parse = |text: &str| text.parse().map(EventOffset);
        let since = since.map(parse).transpose();
        let since = since.map_err(|_| ApiError::invalid("since", "is not an offset (a decimal number)"))?;
        Ok(self.0.map(|last| EventOffset(last.0.saturating_add(1))).or(since))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Empty: a browser that has seen no id yet.
        let Some(value) = parts.headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
            return Ok(Self(None));
        };
        match value.to_str().ok().and_then(|text| text.parse().ok()) {
            Some(offset) => Ok(Self(Some(EventOffset(offset)))),
            None => Err(ApiError::new(Code::MalformedRequest, "Last-Event-ID is none of our offsets")
                .with("header", "Last-Event-ID")),
        }
    }
}

/// What one stream makes of events.
pub trait Lens: Send + 'static {
    /// Writes an event, or nothing when it is not wanted.
    fn show(&mut self, kept: &Kept, out: &mut Text);
    /// Writes that events were lost and the stream goes on with `reset.first`, or wherever it puts the watcher.
    fn show_reset(&mut self, reset: EventsReset, watcher: &mut Watcher, out: &mut Text);
}

/// Blocks of a stream.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Adds a block.
    pub fn block(&mut self, id: Option<EventOffset>, event: &str, data: &impl Serialize) {
        // JSON from our own structs: it cannot fail, and has no line break.
        let data = serde_json::to_string(data).unwrap_or_default();
        self.id(id);
        let _ = write!(self.0, "event: {event}\ndata: {data}\n\n");
    }

    /// Adds blocks rendered before.
    pub fn raw(&mut self, blocks: &[u8]) {
        self.0.push_str(&String::from_utf8_lossy(blocks));
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0.into()
    }

    fn id(&mut self, id: Option<EventOffset>) {
        // An empty one takes back what the client has: it is asked to begin anew.
        let _ = match id {
            Some(id) => writeln!(self.0, "id: {id}"),
            None => writeln!(self.0, "id:"),
        };
    }
}

/// Everything before this offset was told. A stream that has told nothing has no id.
#[must_use]
pub fn id_before(position: EventOffset) -> Option<EventOffset> {
    position.0.checked_sub(1).map(EventOffset)
}

struct Stream<L> {
    watcher: Watcher,
    lens: L,
    draining: watch::Receiver<bool>,
    /// Written before anything else.
    greeting: Option<Text>,
    sent: Instant,
}

impl<L: Lens> Stream<L> {
    /// The next chunk; none at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting.into_bytes());
        }
        loop {
            // In this order: many events that nobody wants must keep off neither the end nor a sign of life.
            let step = tokio::select! {
                biased;
                _ = self.draining.wait_for(|draining| *draining) => {
                    tracing::debug!("an event stream ends: this node stops");
                    return None;
                }
                () = tokio::time::sleep_until(self.sent + KEEP_ALIVE) => None,
                step = self.watcher.next() => Some(step),
            };
            let mut text = Text::default();
            match step {
                None => return self.sign_of_life(),
                Some(Step::Events(events)) => {
                    events.iter().for_each(|kept| self.lens.show(kept, &mut text));
                }
                Some(Step::Reset(reset)) => self.lens.show_reset(reset, &mut self.watcher, &mut text),
            }
            if !text.0.is_empty() {
                self.sent = Instant::now();
                return Some(text.into_bytes());
            }
        }
    }

    /// A comment for proxies, and where the stream is. A block without data is no event for the client.
    fn sign_of_life(&mut self) -> Option<Bytes> {
        if self.watcher.events().is_over() {
            tracing::info!("an event stream ends: this node's group has stopped");
            return None;
        }
        self.sent = Instant::now();
        let mut text = Text(": alive\n".to_owned());
        text.id(id_before(self.watcher.position()));
        text.0.push('\n');
        Some(text.into_bytes())
    }
}

/// The answer that streams what `watcher` sees through `lens`, beginning with the blocks of `first`.
pub fn response(
    watcher: Watcher,
    index: LogIndex,
    first: Text,
    lens: impl Lens,
    draining: watch::Receiver<bool>,
) -> Response {
    let mut greeting = Text(format!("retry: {RETRY_MS}\n"));
    greeting.id(id_before(watcher.position()));
    greeting.0.push('\n');
    greeting.0.push_str(&first.0);
    let stream = Stream { watcher, lens, draining, greeting: Some(greeting), sent: Instant::now() };
    let chunks = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.chunk().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    });
    let mut response = streamed(Body::from_stream(chunks));
    response.headers_mut().insert(INDEX, HeaderValue::from(index.0));
    response
}

/// An answer whose body is a stream of blocks.
pub(super) fn streamed(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}
