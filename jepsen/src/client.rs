//! A client that sends each request once and says honestly what became of it.
//!
//! The product's own client retries until an answer counts. Here every attempt must be seen: what surely did not
//! happen is `fail`, what may have happened is unknown, and nothing turns the one into the other. A new connection
//! is the only thing that is repeated silently, and only while not one byte of the request has been written.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ETAG, HeaderMap};
use serde_json::Value;

/// A whole request, answer included, may take this long; after that its outcome is unknown.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection that is not there by then was surely sent nothing.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Index of the state that an answer was read from or written at.
const INDEX: &str = "x-ovncp-index";
/// Name of the node that answered.
const NODE: &str = "x-ovncp-node";

/// Sends requests. Each client of a run has its own, and so its own connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    time_max: Duration,
}

impl Call {
    /// A request without a body. `path` is percent-encoded and may have a query.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: None, time_max: REQUEST_TIME_MAX }
    }

    /// A read.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A call with a JSON body.
    #[must_use]
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    /// A value of its own kind.
    #[must_use]
    pub fn put(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        let call = Self::new(Method::PUT, path).header("content-type", "text/plain");
        Self { body: Some(body.into()), ..call }
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        let call = self.header("content-type", "application/json");
        Self { body: Some(body.to_string().into_bytes()), ..call }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With less time than [`REQUEST_TIME_MAX`].
    #[must_use]
    pub fn within(self, time_max: Duration) -> Self {
        Self { time_max: time_max.min(REQUEST_TIME_MAX), ..self }
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It happened.
    Ok(T),
    /// It surely did not and will not: the problem's code, or that nothing was sent.
    Fail(String),
    /// Nobody knows.
    Unknown(String),
}

impl<T> Outcome<T> {
    /// Looks deeper into what happened.
    pub fn and_then<U>(self, look: impl FnOnce(T) -> Outcome<U>) -> Outcome<U> {
        match self {
            Self::Ok(value) => look(value),
            Self::Fail(code) => Outcome::Fail(code),
            Self::Unknown(code) => Outcome::Unknown(code),
        }
    }

    /// As it is, with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        self.and_then(|value| Outcome::Ok(change(value)))
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `X-Ovncp-Index`.
    pub index: Option<u64>,
    /// `X-Ovncp-Node`.
    pub node: Option<String>,
    /// The quoted number of the `ETag`.
    pub revision: Option<u64>,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What the status says about the request.
    ///
    /// 503 counts as "did not happen" only with a code of the product: it answers so before it proposes. Without one
    /// somebody else answered, who does not know.
    #[must_use]
    pub fn outcome(self) -> Outcome<Self> {
        let code = || self.json()["code"].as_str().map(str::to_owned);
        let by_number = || format!("http_{}", self.status);
        match self.status {
            200..=299 => Outcome::Ok(self),
            400..=499 => Outcome::Fail(code().unwrap_or_else(by_number)),
            503 => match code() {
                Some(code) => Outcome::Fail(code),
                None => Outcome::Unknown(by_number()),
            },
            _ => Outcome::Unknown(code().unwrap_or_else(by_number)),
        }
    }
}

impl Client {
    /// A client without a connection yet. Fails where the system has no random numbers or the like.
    pub fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIME_MAX)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { http })
    }

    /// Sends `call` to the node at `url` once, and waits for the whole answer.
    ///
    /// The result is `Ok` for any answer, whatever its status: see [`Answer::outcome`].
    pub async fn send(&self, url: &str, call: &Call) -> Outcome<Answer> {
        let url = format!("{url}{}", call.path);
        let mut request = self.http.request(call.method.clone(), url).timeout(call.time_max);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        match request.send().await {
            Ok(response) => read(response).await,
            Err(error) if error.is_builder() => Outcome::Fail(format!("not a request: {error}")),
            Err(error) => lost(&error),
        }
    }

    /// Sends `call` and judges the answer by its status.
    pub async fn ask(&self, url: &str, call: &Call) -> Outcome<Answer> {
        self.send(url, call).await.and_then(Answer::outcome)
    }
}

async fn read(mut response: reqwest::Response) -> Outcome<Answer> {
    let headers = response.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let status = response.status().as_u16();
    let index = text(INDEX).and_then(|index| index.parse().ok());
    let node = text(NODE).map(str::to_owned);
    let revision = revision(headers);
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Outcome::Unknown("answer_too_long".to_owned()),
            Ok(None) => return Outcome::Ok(Answer { status, index, node, revision, body }),
            // Even with a status seen: half an answer may be anything.
            Err(error) => return lost(&error),
        }
    }
}

fn revision(headers: &HeaderMap) -> Option<u64> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Without an answer it is known only of a connection that never was that nothing happened.
fn lost<T>(error: &reqwest::Error) -> Outcome<T> {
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => Outcome::Fail("connect_timeout".to_owned()),
        (true, false) => Outcome::Fail("refused".to_owned()),
        (false, true) => Outcome::Unknown("timeout".to_owned()),
        (false, false) => Outcome::Unknown("connection_lost".to_owned()),
    }
}

/// `text` as one segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |out, byte| match plain(byte) {
        true => out + &char::from(byte).to_string(),
        false => out + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests;
