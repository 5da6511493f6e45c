//! One request, as often as it is sent, and its answer.

use std::fmt::Write;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, random_id};

/// How fresh a read is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was answered to anybody before the read began.
    #[default]
    Linearizable,
    /// What the asked node has applied, which is at least what this client has seen. Needs no leader.
    Local,
}

/// One logical request, for routes that have no typed method. Sent again (by retries, or by the caller) it is
/// the same request: a write keeps the idempotency key that it got when it was made.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) method: Method,
    path: Vec<Vec<u8>>,
    query: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<(Bytes, String)>,
    pub(super) idempotency_key: Option<String>,
    pub(super) consistency: Option<Consistency>,
    /// Added to the deadline and to the time of each try: what the server was asked to wait.
    pub(super) wait: Duration,
    pub(super) try_timeout: Option<Duration>,
    pub(super) deadline: Option<Duration>,
    /// Longest pause between two tries, where time is short.
    pub(super) pause_max: Option<Duration>,
    pub(super) fail_fast: Option<bool>,
}

impl Call {
    fn new<T: AsRef<[u8]>>(method: Method, path: impl IntoIterator<Item = T>) -> Self {
        let idempotency_key = (method != Method::GET).then(random_id);
        Self {
            method,
            path: path.into_iter().map(|segment| segment.as_ref().to_vec()).collect(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            idempotency_key,
            consistency: None,
            wait: Duration::ZERO,
            try_timeout: None,
            deadline: None,
            pause_max: None,
            fail_fast: None,
        }
    }

    /// A read. The path is given by its segments, which are percent-encoded here:
    /// `["api", "v1", "cluster", "locks", "switch:a/b"]`.
    pub fn get<T: AsRef<[u8]>>(path: impl IntoIterator<Item = T>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A write by `POST`.
    pub fn post<T: AsRef<[u8]>>(path: impl IntoIterator<Item = T>) -> Self {
        Self::new(Method::POST, path)
    }

    /// A write by `PUT`.
    pub fn put<T: AsRef<[u8]>>(path: impl IntoIterator<Item = T>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// A write by `DELETE`.
    pub fn delete<T: AsRef<[u8]>>(path: impl IntoIterator<Item = T>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A JSON body. What cannot be written as JSON becomes `null`, which the server refuses.
    #[must_use]
    pub fn json(self, body: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(body).unwrap_or_else(|_| b"null".to_vec());
        self.body(bytes, "application/json")
    }

    /// A body of any kind.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>, content_type: impl Into<String>) -> Self {
        self.body = Some((body.into(), content_type.into()));
        self
    }

    /// How fresh a read is. Routes that know no `consistency` refuse it.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = Some(consistency);
        self
    }

    /// Continues an earlier write, for example one that ended as [`Error::Unknown`].
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// A write that may happen twice and shall be done anew by each try.
    #[must_use]
    pub(super) fn without_idempotency_key(mut self) -> Self {
        self.idempotency_key = None;
        self
    }

    /// Time that the server was asked to wait before it answers.
    #[must_use]
    pub fn waits(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Time of one try, instead of the client's.
    #[must_use]
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.try_timeout = Some(timeout);
        self
    }

    /// Time of all tries, instead of the client's.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(super) fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    pub(super) fn pause_max(mut self, pause: Duration) -> Self {
        self.pause_max = Some(pause);
        self
    }

    pub(super) fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = Some(fail_fast);
        self
    }

    /// The address at one endpoint.
    pub(super) fn url(&self, endpoint: &Url) -> Result<Url, Error> {
        let mut path = endpoint.path().trim_end_matches('/').to_owned();
        for segment in &self.path {
            if segment.is_empty() || segment == b"." || segment == b".." {
                // URLs have no way to say it: every spelling is taken as a step within the path.
                let words = String::from_utf8_lossy(segment);
                return Err(Error::Setup(format!("`{words}` cannot be a name in a URL")));
            }
            path.push('/');
            percent_encode(segment, &mut path);
        }
        let mut url = endpoint.clone();
        url.set_path(&path);
        if let Some(consistency) = self.consistency {
            let name = match consistency {
                Consistency::Linearizable => "linearizable",
                Consistency::Local => "local",
            };
            url.query_pairs_mut().append_pair("consistency", name);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }

    /// Headers and body.
    pub(super) fn fill(&self, mut request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some((body, content_type)) = &self.body {
            request = request.header("content-type", content_type).body(body.clone());
        }
        request
    }
}

/// Everything but unreserved characters (RFC 3986).
fn percent_encode(segment: &[u8], path: &mut String) {
    for byte in segment {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            path.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

/// A successful answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status, 200 to 399.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
    pub(super) headers: HeaderMap,
    /// When the try that was answered was sent.
    pub(super) sent: Instant,
}

impl Answer {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body from JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Protocol(format!("the answer is not what was asked for: {error}")))
    }

    /// The index of the state that the answer shows or made.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        self.header("x-ovncp-index")?.parse().ok()
    }

    /// The revision in `ETag`.
    pub(super) fn revision(&self) -> Result<u64, Error> {
        let tag = self.header("etag").and_then(|tag| tag.trim_matches('"').parse().ok());
        tag.ok_or_else(|| Error::Protocol("the answer has no revision".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(call: &Call) -> String {
        call.url(&Url::parse("http://h:1/base/").unwrap()).unwrap().to_string()
    }

    #[test]
    fn segments_are_encoded_as_bytes() {
        assert_eq!(
            url(&Call::get(["a", "switch:a/b ü%2e"])),
            "http://h:1/base/a/switch%3Aa%2Fb%20%C3%BC%252e"
        );
        assert_eq!(url(&Call::get([&b"\xff\x00"[..]])), "http://h:1/base/%FF%00");
        let call = Call::get(["a"]).consistency(Consistency::Local).query("prefix", "x&y=z");
        assert_eq!(url(&call), "http://h:1/base/a?consistency=local&prefix=x%26y%3Dz");
    }

    #[test]
    fn names_that_would_be_steps_in_the_path_are_refused() {
        for name in ["", ".", ".."] {
            let call = Call::delete(["locks", name]);
            assert!(matches!(call.url(&Url::parse("http://h:1").unwrap()), Err(Error::Setup(_))), "{name:?}");
        }
        assert_eq!(url(&Call::get(["..."])), "http://h:1/base/...");
    }

    #[test]
    fn writes_have_a_key_of_their_own_and_reads_none() {
        let (one, two) = (Call::post(["a"]), Call::post(["a"]));
        assert!(one.idempotency_key.is_some() && one.idempotency_key != two.idempotency_key);
        assert_eq!(one.clone().idempotency_key, one.idempotency_key);
        assert!(Call::get(["a"]).idempotency_key.is_none());
    }
}
