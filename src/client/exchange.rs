//! Sends a call until an answer counts.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::Url;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::de::DeserializeOwned;

use super::call::{Answer, Call};
use super::error::{Error, Problem};
use super::rotation::Rotation;
use super::{Client, Consistency};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Header of the least index that a read must see.
const MIN_INDEX: &str = "x-ovncp-min-index";
/// Longest time that a call can be given.
pub(super) const DEADLINE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What one try came to.
enum Tried {
    Done(Answer),
    /// An answer that the call ends with.
    Refused(Problem),
    /// An answer that says "not here" or "not now".
    NotNow {
        problem: Problem,
        retry_after: Option<Duration>,
    },
    /// Nothing was sent.
    NoConnection(String),
    /// Sent, and no whole answer came.
    Broken(String),
    /// No other try would do better.
    Hopeless(Error),
}

/// What the tries so far leave as the error of the call.
#[derive(Default)]
struct Report {
    /// A try of a write may have happened.
    ambiguous: bool,
    /// Some endpoint was connected to.
    connected: bool,
    /// Why each endpoint could not be connected to.
    unreachable: Vec<String>,
    problem: Option<Problem>,
    last: String,
}

impl Client {
    /// Sends a call until an endpoint gives a definite answer or the deadline passes.
    pub async fn call(&self, call: &Call) -> Result<Answer, Error> {
        let begun = Instant::now();
        let time = call.deadline.unwrap_or(self.inner.deadline).saturating_add(call.wait);
        let deadline = begun + time.min(DEADLINE_MAX);
        let fail_fast = call.fail_fast.unwrap_or(self.inner.fail_fast);
        let endpoints = &self.inner.endpoints;
        let first = self.inner.preferred.load(Ordering::Relaxed);
        let mut rotation = Rotation::new(endpoints.len(), first, call.pause_max, begun);
        let mut report = Report::default();
        loop {
            let now = Instant::now();
            let (position, at) = rotation.next(now);
            if at >= deadline || now >= deadline {
                return Err(report.end(call));
            }
            tokio::time::sleep_until(at.into()).await;
            let tried = self.attempt(call, &endpoints[position], deadline).await;
            let retry_after = match tried {
                Tried::Done(answer) => {
                    self.inner.preferred.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Tried::Refused(problem) => {
                    self.inner.preferred.store(position, Ordering::Relaxed);
                    return Err(problem.into());
                }
                Tried::Hopeless(error) => return Err(error),
                failed => report.note(&endpoints[position], failed, call),
            };
            rotation.failed(position, retry_after, rand::random(), Instant::now());
            if fail_fast && !report.connected && rotation.all_failed() {
                return Err(report.end(call));
            }
        }
    }

    /// Sends and reads the body as JSON.
    pub async fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        self.call(call).await?.json()
    }

    async fn attempt(&self, call: &Call, endpoint: &Url, deadline: Instant) -> Tried {
        let request = match self.request(call, endpoint) {
            Ok(request) => request,
            Err(error) => return Tried::Hopeless(error),
        };
        let sent = Instant::now();
        let time = call.try_timeout.unwrap_or(self.inner.try_timeout).saturating_add(call.wait);
        let time = time.min(deadline.saturating_duration_since(sent));
        let response = match request.timeout(time).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Tried::NoConnection(root_cause(&error)),
            Err(error) if error.is_builder() => {
                return Tried::Hopeless(Error::Setup(root_cause(&error)));
            }
            Err(error) => return Tried::Broken(root_cause(&error)),
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = match body(response).await {
            Ok(body) => body,
            Err(words) => return Tried::Broken(words),
        };
        if status < 300 {
            let answer = Answer { status, body, headers, sent };
            if let Some(index) = answer.index() {
                self.see_index(index);
            }
            return Tried::Done(answer);
        }
        let problem = Problem::read(status, &body);
        if !problem.is_transient() {
            return Tried::Refused(problem);
        }
        Tried::NotNow { problem, retry_after: asked_pause(&headers) }
    }

    /// The request as one endpoint gets it.
    pub(super) fn request(&self, call: &Call, endpoint: &Url) -> Result<reqwest::RequestBuilder, Error> {
        let url = call.url(endpoint)?;
        let mut request = call.fill(self.inner.http.request(call.method.clone(), url));
        if let Some(token) = &self.inner.token {
            request = request.bearer_auth(token);
        }
        let seen = self.seen_index();
        if call.consistency == Some(Consistency::Local) && seen > 0 {
            request = request.header(MIN_INDEX, seen);
        }
        Ok(request)
    }
}

/// `Retry-After`, in seconds; nodes send no dates.
pub(super) fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The body, if it is not larger than anything that a node sends.
async fn body(mut response: reqwest::Response) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| root_cause(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

impl Report {
    /// Remembers a try that the call does not end with, and answers what pause was asked for.
    fn note(&mut self, endpoint: &Url, tried: Tried, call: &Call) -> Option<Duration> {
        match tried {
            Tried::NotNow { problem, retry_after } => {
                self.connected = true;
                self.ambiguous |= call.is_write() && problem.is_ambiguous();
                self.last = format!("{endpoint}: {problem}");
                self.problem = Some(problem);
                return retry_after;
            }
            Tried::NoConnection(words) => {
                self.last = format!("{endpoint}: {words}");
                // One line for each endpoint, the newest: tries are bounded by time only.
                let name = format!("{endpoint}: ");
                self.unreachable.retain(|line| !line.starts_with(&name));
                self.unreachable.push(self.last.clone());
            }
            Tried::Broken(words) => {
                self.connected = true;
                self.ambiguous |= call.is_write();
                self.last = format!("{endpoint}: {words}");
            }
            Tried::Done(_) | Tried::Refused(_) | Tried::Hopeless(_) => {}
        }
        None
    }

    fn end(self, call: &Call) -> Error {
        if self.ambiguous {
            return Error::Unknown {
                idempotency_key: call.idempotency_key.clone(),
                last: self.last,
                problem: self.problem.map(Box::new),
            };
        }
        match self.problem {
            Some(problem) => problem.into(),
            None if self.connected => Error::Timeout { last: self.last },
            None if self.unreachable.is_empty() => {
                Error::Timeout { last: "anybody: the deadline was over before the first try".to_owned() }
            }
            None => Error::Unreachable { endpoints: self.unreachable },
        }
    }
}

/// The innermost words: the outer ones repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
