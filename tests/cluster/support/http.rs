//! Requests to one node, with an outcome that keeps "no answer" apart from "refused".

use reqwest::Method;
use serde_json::Value;

use super::node::Node;

/// An answer; the body is JSON where it parses as such, else a string.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A lock that somebody holds.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    pub(crate) key: String,
    pub(crate) secret: String,
    pub(crate) token: u64,
}

impl Lock {
    pub(crate) fn from_answer(answer: &Answer) -> Self {
        let text = |name: &str| {
            answer.body[name].as_str().unwrap_or_else(|| panic!("{name} in {}", answer.body)).to_owned()
        };
        Self {
            key: text("key"),
            secret: text("secret"),
            token: text("fencing_token").parse().expect("a token is a decimal string"),
        }
    }
}

impl Node {
    /// `None`: no answer (refused, reset, timed out), so the outcome of a write is unknown.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let mut request = self.client.request(method, self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await.ok()?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Some(Answer { status, headers, body })
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Answer> {
        self.request(Method::GET, path, None, &[]).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Option<Answer> {
        let body = serde_json::to_vec(body).expect("JSON");
        self.request(Method::POST, path, Some(body), &[("content-type", "application/json")]).await
    }

    pub(crate) async fn post_with_key(&self, path: &str, body: &Value, key: &str) -> Option<Answer> {
        let body = serde_json::to_vec(body).expect("JSON");
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.request(Method::POST, path, Some(body), &headers).await
    }

    pub(crate) async fn put(&self, path: &str, value: &[u8], headers: &[(&str, &str)]) -> Option<Answer> {
        self.request(Method::PUT, path, Some(value.to_vec()), headers).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.get("/health/ready").await.is_some_and(|answer| answer.status == 200)
    }
}
