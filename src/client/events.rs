//! The stream of events, from whatever node can give it, without a gap and without repeats.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::exchange::{asked_pause, root_cause};
use super::rotation::Rotation;
use super::sse::{Frame, Parser};
use super::{Call, Client, Error, Problem};

/// A stream that is silent for so long is given up: nodes send a comment more often than that.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Time to get the head of a stream.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// A stream being put together: [`Client::events`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `open`"]
pub struct EventsRequest {
    client: Client,
    path: Vec<String>,
    query: Vec<(String, String)>,
    since: Option<u64>,
}

/// Something that happened in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the order that is the same on every node; absent where the stream gave none.
    pub offset: Option<u64>,
    /// What happened, such as `lock` or `leader_change`; `reset` when events between the last one and the next
    /// are no longer kept.
    pub kind: String,
    /// Its fields.
    pub data: Value,
}

/// A stream of events. It reconnects by itself, on the next endpoint, where the last event left off.
#[derive(Debug)]
pub struct Events {
    request: EventsRequest,
    /// Where the next stream goes on.
    last: Option<String>,
    open: Option<Open>,
    ready: VecDeque<Frame>,
    rotation: Option<Rotation>,
}

#[derive(Debug)]
struct Open {
    response: reqwest::Response,
    parser: Parser,
    position: usize,
}

impl Client {
    /// Begins a stream of the cluster's events: those that come from now on.
    pub fn events(&self) -> EventsRequest {
        self.stream(["api", "v1", "cluster", "events"])
    }

    /// Begins a stream of another route that sends events.
    pub fn stream<T: Into<String>>(&self, path: impl IntoIterator<Item = T>) -> EventsRequest {
        let path = path.into_iter().map(Into::into).collect();
        EventsRequest { client: self.clone(), path, query: Vec::new(), since: None }
    }
}

impl EventsRequest {
    /// Those from this offset on.
    pub fn since(mut self, offset: u64) -> Self {
        self.since = Some(offset);
        self
    }

    /// Only these kinds.
    pub fn types<T: AsRef<str>>(self, types: impl IntoIterator<Item = T>) -> Self {
        let types: Vec<_> = types.into_iter().map(|name| name.as_ref().to_owned()).collect();
        if types.is_empty() { self } else { self.query("types", types.join(",")) }
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// The stream; connects with the first [`next`](Events::next).
    #[must_use]
    pub fn open(self) -> Events {
        Events { request: self, last: None, open: None, ready: VecDeque::new(), rotation: None }
    }

    fn call(&self, last: Option<&str>) -> Call {
        let mut call = Call::get(&self.path).header("accept", "text/event-stream");
        for (name, value) in &self.query {
            call = call.query(name, value);
        }
        match (last, self.since) {
            (Some(last), _) => call.header("last-event-id", last),
            (None, Some(since)) => call.query("since", since.to_string()),
            (None, None) => call,
        }
    }
}

impl Events {
    /// The next event, as long as it takes. Ends only by an error that no other try would mend: a refusal such
    /// as a wrong type, or no endpoint for the client's deadline. After such an error it may be called again.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return event(frame);
            }
            let Some(open) = &mut self.open else {
                self.open = Some(self.connect().await?);
                continue;
            };
            let mut frames = Vec::new();
            let failed = match tokio::time::timeout(SILENCE_MAX, open.response.chunk()).await {
                Ok(Ok(Some(bytes))) => open.parser.feed(&bytes, &mut frames).is_err(),
                Ok(Ok(None) | Err(_)) | Err(_) => true,
            };
            if !frames.is_empty() {
                // It serves: the pauses of earlier failures are forgotten.
                self.rotation = None;
                self.ready.extend(frames);
            }
            if failed {
                let position = open.position;
                // What came before it is in `ready`, which is handed out before anybody is asked again.
                self.last = open.parser.last_id().map(str::to_owned);
                self.open = None;
                self.rotation().failed(position, None, rand::random(), Instant::now());
            }
        }
    }

    fn rotation(&mut self) -> &mut Rotation {
        let inner = &self.request.client.inner;
        let first = inner.preferred.load(std::sync::atomic::Ordering::Relaxed);
        let new = || Rotation::new(inner.endpoints.len(), first, None, Instant::now());
        self.rotation.get_or_insert_with(new)
    }

    /// Asks endpoints in turn for at most the client's deadline.
    async fn connect(&mut self) -> Result<Open, Error> {
        let deadline = Instant::now() + self.request.client.inner.deadline;
        let call = self.request.call(self.last.as_deref());
        let mut last = Error::Timeout { last: "anybody".to_owned() };
        let mut asked = false;
        loop {
            let now = Instant::now();
            let (position, at) = self.rotation().next(now);
            if asked && at >= deadline {
                return Err(last);
            }
            asked = true;
            tokio::time::sleep_until(at.into()).await;
            let endpoint = &self.request.client.inner.endpoints[position];
            let request = self.request.client.request(&call, endpoint)?;
            let mut retry_after = None;
            let refused = match tokio::time::timeout(OPEN_TIME, request.send()).await {
                Ok(Ok(response)) if response.status().is_success() => {
                    return Ok(Open { response, parser: Parser::after(self.last.clone()), position });
                }
                Ok(Ok(response)) => {
                    retry_after = asked_pause(response.headers());
                    let problem = refusal(response).await;
                    // Watchers are limited by each node for itself.
                    if !problem.is_transient() && problem.status != 429 {
                        return Err(problem.into());
                    }
                    problem.into()
                }
                Ok(Err(error)) => {
                    let words = format!("{endpoint}: {}", root_cause(&error));
                    match error.is_connect() {
                        true => Error::Unreachable { endpoints: vec![words] },
                        false => Error::Timeout { last: words },
                    }
                }
                Err(_) => Error::Timeout { last: endpoint.to_string() },
            };
            last = refused;
            self.rotation().failed(position, retry_after, rand::random(), Instant::now());
            let fail_fast = self.request.client.inner.fail_fast;
            if fail_fast && self.rotation().all_failed() && matches!(last, Error::Unreachable { .. }) {
                return Err(last);
            }
        }
    }
}

async fn refusal(mut response: reqwest::Response) -> Problem {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            if body.len() + chunk.len() > REFUSAL_BYTES_MAX {
                break;
            }
            body.extend_from_slice(&chunk);
        }
    };
    // What came until then says enough.
    let _ = tokio::time::timeout(OPEN_TIME, read).await;
    Problem::read(status, &body)
}

fn event(frame: Frame) -> Result<Event, Error> {
    let data = serde_json::from_str(&frame.data)
        .map_err(|error| Error::Protocol(format!("an event that is not JSON: {error}")))?;
    let offset = frame.id.as_deref().and_then(|id| id.parse().ok());
    let kind = if frame.kind.is_empty() { "message".to_owned() } else { frame.kind };
    Ok(Event { offset, kind, data })
}
