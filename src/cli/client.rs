//! The HTTP client of the commands: several endpoints, one of which is enough.
//!
//! A request goes to the endpoint that answered last; when that one cannot be reached or says that it cannot
//! serve (503, 429, 504), the next one is asked. Writes carry one `Idempotency-Key` over all tries, so that a
//! try whose outcome is unknown can be repeated elsewhere without happening twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode, Url, header};
use serde_json::Value;

use super::failure::{Exit, Failure};

/// Where a node of `ovncp dev` or a lone node listens.
pub(crate) const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:8080";
/// To connect, one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long commands keep asking endpoints that answer but cannot serve.
pub(crate) const PATIENCE_DEFAULT: Duration = Duration::from_secs(5);
/// Pause between two rounds over all endpoints.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// Endpoints and the connection pool to them.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoints: Vec<Url>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    token: Option<String>,
}

/// One request, as often as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<(Vec<u8>, String)>,
    headers: Vec<(&'static str, String)>,
    /// How long one try may take.
    try_timeout: Duration,
    /// How long to go on when endpoints answer that they cannot serve.
    patience: Duration,
}

/// An answer below 500, or the last one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: header::HeaderMap,
    pub(crate) body: Vec<u8>,
    /// When the try that was answered was sent.
    pub(crate) sent: Instant,
}

impl Call {
    /// A request to a path given as segments, which are percent-encoded here.
    pub(crate) fn new<'a>(method: Method, path: impl IntoIterator<Item = &'a str>) -> Call {
        Call {
            method,
            path: path.into_iter().map(str::to_owned).collect(),
            query: Vec::new(),
            body: None,
            headers: Vec::new(),
            try_timeout: Duration::from_secs(5),
            patience: PATIENCE_DEFAULT,
        }
    }

    /// A read: `GET` of a path.
    pub(crate) fn get<'a>(path: impl IntoIterator<Item = &'a str>) -> Call {
        Call::new(Method::GET, path)
    }

    /// A write with an idempotency key of its own.
    pub(crate) fn write<'a>(method: Method, path: impl IntoIterator<Item = &'a str>) -> Call {
        Call::new(method, path).header("idempotency-key", random_id())
    }

    pub(crate) fn query(mut self, name: &str, value: impl Into<String>) -> Call {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Call {
        self.body(body.to_string().into_bytes(), "application/json")
    }

    pub(crate) fn body(mut self, body: Vec<u8>, content_type: &str) -> Call {
        self.body = Some((body, content_type.to_owned()));
        self
    }

    pub(crate) fn try_timeout(mut self, timeout: Duration) -> Call {
        self.try_timeout = timeout;
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Call {
        self.patience = patience;
        self
    }
}

/// 128 random bits as hexadecimal digits: idempotency keys, secrets.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What one round over all endpoints came to.
enum Round {
    Answered(Answer),
    /// Connected at least once; the last refusal.
    Refused(Refused),
    /// No connection at all: the error of each endpoint.
    Unreachable(Vec<String>),
}

enum Refused {
    Answer(Box<Answer>),
    /// A connection broke or a try timed out.
    Transport(String),
}

impl Client {
    pub(crate) fn new(endpoints: &[String], token: Option<String>) -> Result<Client, Failure> {
        let endpoints = endpoints.iter().map(|text| parse_endpoint(text)).collect::<Result<Vec<_>, _>>()?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(|e| Failure::new(Exit::Failure, format!("cannot make an HTTP client: {e}")))?;
        Ok(Client { http, endpoints, preferred: AtomicUsize::new(0), token })
    }

    /// Sends and expects success; anything else is a failure with the words of the server.
    pub(crate) async fn expect(&self, call: &Call) -> Result<Answer, Failure> {
        let answer = self.call(call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.failure()) }
    }

    /// Sends and expects success with a JSON body.
    pub(crate) async fn json(&self, call: &Call) -> Result<Value, Failure> {
        self.expect(call).await?.json()
    }

    /// Sends until an endpoint answers with something else than "not here, not now".
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        let begun = Instant::now();
        loop {
            let pause = match self.round(call).await {
                Round::Answered(answer) => return Ok(answer),
                Round::Unreachable(errors) => return Err(self.unreachable(&errors)),
                Round::Refused(refused) => {
                    let pause = refused.pause();
                    if begun.elapsed() + pause >= call.patience {
                        return refused.end();
                    }
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&self, call: &Call) -> Round {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut refused = None;
        let mut errors = Vec::new();
        for step in 0..self.endpoints.len() {
            let at = (first + step) % self.endpoints.len();
            match self.send(&self.endpoints[at], call).await {
                Ok(answer) if answer.may_be_asked_elsewhere() => {
                    refused = Some(Refused::Answer(Box::new(answer)));
                }
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Round::Answered(answer);
                }
                Err(error) if error.is_connect() => {
                    errors.push(format!("{}: {}", self.endpoints[at], root_cause(&error)));
                }
                Err(error) => {
                    let words = format!("{}: {}", self.endpoints[at], root_cause(&error));
                    // An answer says more than a broken connection.
                    refused.get_or_insert(Refused::Transport(words));
                }
            }
        }
        refused.map_or(Round::Unreachable(errors), Round::Refused)
    }

    async fn send(&self, endpoint: &Url, call: &Call) -> Result<Answer, reqwest::Error> {
        let mut url = endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.http.request(call.method.clone(), url).timeout(call.try_timeout);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some((body, content_type)) = &call.body {
            request = request.header(header::CONTENT_TYPE, content_type).body(body.clone());
        }
        let sent = Instant::now();
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Answer { status, headers, body, sent })
    }

    fn unreachable(&self, errors: &[String]) -> Failure {
        let message = match errors {
            [one] => format!("cannot reach {one}"),
            many => format!("cannot reach any of {} endpoints:\n  {}", many.len(), many.join("\n  ")),
        };
        Failure::new(Exit::Unreachable, message).help(
            "start three nodes with `ovncp dev`, or name running ones with --endpoint URL (repeatable) \
             or OVNCP_ENDPOINTS=URL,URL",
        )
    }
}

impl Refused {
    fn pause(&self) -> Duration {
        let asked = match self {
            Refused::Answer(answer) => answer.headers.get(header::RETRY_AFTER),
            Refused::Transport(_) => None,
        };
        let seconds = asked.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        seconds.map_or(ROUND_PAUSE, |s: u64| Duration::from_secs(s.min(5)))
    }

    fn end(self) -> Result<Answer, Failure> {
        match self {
            Refused::Answer(answer) => Ok(*answer),
            Refused::Transport(words) => Err(Failure::new(Exit::Failure, format!("no answer from {words}"))
                .help("the outcome is unknown; `ovncp status` shows how the cluster is")),
        }
    }
}

impl Answer {
    fn may_be_asked_elsewhere(&self) -> bool {
        matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::GATEWAY_TIMEOUT
                | StatusCode::BAD_GATEWAY
        )
    }

    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Failure::new(Exit::Failure, format!("the answer is not JSON: {e}"))
                .help("is this endpoint an ovncp node?")
        })
    }

    /// The stable code of a problem+json answer.
    pub(crate) fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn problem(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn failure(&self) -> Failure {
        let problem = self.problem();
        let words = ["detail", "title"].into_iter().find_map(|field| problem[field].as_str());
        let words = words.map_or_else(|| format!("the node answered {}", self.status), str::to_owned);
        match (self.code().as_str(), self.status) {
            ("no_leader", _) => Failure::new(Exit::NoQuorum, words)
                .help("a majority of the voters must run: see `ovncp members`, then start the missing nodes"),
            ("outcome_unknown", _) => Failure::new(Exit::NoQuorum, words)
                .help("it may have happened: read the state before trying again"),
            (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Failure::new(Exit::Failure, words).help("set OVNCP_ADMIN_TOKEN to the cluster's admin token")
            }
            ("", status) => Failure::new(Exit::Failure, format!("{words} ({status})"))
                .help("is this endpoint an ovncp node?"),
            (code, _) => Failure::new(Exit::Failure, format!("{words} ({code})")),
        }
    }
}

/// `host:port` is taken as `http://host:port`.
fn parse_endpoint(text: &str) -> Result<Url, Failure> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&full).ok().filter(|url| url.has_host() && url.scheme() == "http");
    url.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{text}` is not an endpoint")).help(format!(
            "write it like {ENDPOINT_DEFAULT}; more than one: repeat --endpoint, or separate them by commas in OVNCP_ENDPOINTS"
        ))
    })
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
