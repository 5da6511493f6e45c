//! One node with its data in a temporary directory, and a client that checks every answer.
//!
//! Each answer is held against the published description: a status that the document does not name fails the
//! test that met it, and so does an error that is not a problem of the agreed shape.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ovncp::config::{Config, Sources};
use ovncp::node::Node;
use ovncp::services::invalidations::Invalidations;
use ovncp_raft::group::Group;
use ovncp_raft::status::Phase;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Status codes by path template and method, from the published document.
type Documented = BTreeMap<String, BTreeMap<String, Vec<u16>>>;

static DOCUMENTED: LazyLock<Documented> = LazyLock::new(|| {
    let document = serde_json::to_value(ovncp::api::openapi::document()).unwrap();
    let mut documented = Documented::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let codes = operation["responses"].as_object().unwrap().keys();
            let codes = codes.map(|code| code.parse().unwrap()).collect();
            documented.entry(path.clone()).or_default().insert(method.to_uppercase(), codes);
        }
    }
    documented
});

/// The template of a path: the exact one if it takes the method, since a key may be called like a route.
fn template(path: &str, method: &str) -> Option<&'static str> {
    if let Some((template, methods)) = DOCUMENTED.get_key_value(path)
        && methods.contains_key(method)
    {
        return Some(template);
    }
    let segments: Vec<_> = path.split('/').collect();
    let fits = |template: &&String| {
        let parts: Vec<_> = template.split('/').collect();
        parts.len() == segments.len()
            && parts
                .iter()
                .zip(&segments)
                .all(|(part, segment)| part == segment || (part.starts_with('{') && !segment.is_empty()))
    };
    let takes = |template: &&String| DOCUMENTED[*template].contains_key(method);
    DOCUMENTED.keys().filter(takes).find(fits).map(String::as_str)
}

/// Clusters of this process so far, for their addresses.
static NETS_USED: AtomicU32 = AtomicU32::new(0);
/// Longer than three nodes need to form on a slow machine.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether a node is ready.
const READY_PAUSE: Duration = Duration::from_millis(1);

/// A node that serves.
pub(crate) struct TestNode {
    pub(crate) name: String,
    pub(crate) base: String,
    pub(crate) metrics: String,
    pub(crate) group: Group,
    pub(crate) invalidations: Invalidations,
    pub(crate) client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let node = Self::begin(settings).await;
        node.serving().await;
        node
    }

    /// Three nodes of one cluster. Each group of nodes has loopback addresses of its own, so that peers can be
    /// named before they listen and no two tests ask for one port.
    pub(crate) async fn start_three() -> [Self; 3] {
        Net::unused().start_three(&[]).await
    }

    /// Waits until the node has caught up once and knows a leader, then until it is ready for everything.
    async fn serving(&self) {
        let mut status = self.group.status_watch();
        status
            .wait_for(|status| status.phase == Phase::Serving && status.leader.is_some())
            .await
            .expect("the group goes on");
        self.ready().await;
    }

    /// Waits until it says so.
    pub(crate) async fn ready(&self) {
        while self.get("/health/ready").await.status != StatusCode::OK {
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    /// A node that may not serve yet.
    pub(crate) async fn begin(settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut sources = Sources::default()
            .with_override("server.listen", "--listen", "127.0.0.1")
            .with_override("server.port", "--http-port", "0")
            .with_override("server.metrics_port", "--metrics-port", "0")
            .with_override("cluster.peer_port", "--peer-port", "0")
            .with_override("cluster.node_id", "--node-id", "node-1")
            .with_override("cluster.node_ip", "--node-ip", "127.0.0.1")
            .with_override("storage.data_dir", "--data-dir", data.path().join("data").to_str().unwrap());
        for (path, value) in settings {
            sources = sources.with_override(path, "--test", *value);
        }
        let node = Node::build(Config::load(&sources).unwrap().config).await.unwrap();
        let name =
            settings.iter().find(|(path, _)| *path == "cluster.node_id").map_or("node-1", |(_, name)| name);
        let base = format!("http://{}", node.http_address());
        let metrics = format!("http://{}", node.metrics_address());
        let (group, invalidations) = (node.group().clone(), node.invalidations().clone());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            node.run(async { stopped.await.unwrap_or_default() }).await.unwrap();
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            name: name.to_owned(),
            base,
            metrics,
            group,
            invalidations,
            client,
            stop: Some(stop),
            task,
            _data: data,
        }
    }

    /// Waits for the end of a node that was told to stop.
    pub(crate) async fn stop_begun(mut self) {
        (&mut self.task).await.unwrap();
    }

    pub(crate) fn begin_stop(&mut self) {
        let _ = self.stop.take().expect("stopped once").send(());
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let request = self.client.request(method.clone(), format!("{}{path}", self.base));
        Call { node: self.name.clone(), method, path: path.to_owned(), request }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).json(body).send().await
    }

    /// Takes a lock and answers its description.
    pub(crate) async fn acquire(&self, key: &str, body: Value) -> Answer {
        self.post(&format!("/api/v1/cluster/locks/{key}/acquire"), body).await
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Loopback addresses of one cluster.
pub(crate) struct Net(u32);

impl Net {
    pub(crate) fn unused() -> Self {
        Self(NETS_USED.fetch_add(1, Ordering::Relaxed))
    }

    fn host(&self, rank: u32) -> String {
        let pid = std::process::id();
        format!("127.{}.{}.{}", 32 + pid / 256 % 64, pid % 256, self.0 * 8 + rank)
    }

    /// With further settings for all of them.
    pub(crate) async fn start_three(&self, settings: &[(&str, &str)]) -> [TestNode; 3] {
        let mut nodes = Vec::new();
        for rank in 1..=3 {
            nodes.push(self.begin(rank, settings).await);
        }
        for node in &nodes {
            tokio::time::timeout(START_PATIENCE, node.serving()).await.expect("three nodes form a cluster");
        }
        nodes.try_into().ok().expect("three were begun")
    }

    /// A further node, which joins.
    pub(crate) async fn join(&self, rank: u32, settings: &[(&str, &str)]) -> TestNode {
        let node = self.begin(rank, settings).await;
        tokio::time::timeout(START_PATIENCE, node.serving()).await.expect("the node joins");
        node
    }

    async fn begin(&self, rank: u32, settings: &[(&str, &str)]) -> TestNode {
        let peers: Vec<_> = (1..=3).map(|rank| format!("node-{rank}={}:7400", self.host(rank))).collect();
        let (peers, name, host) = (peers.join(","), format!("node-{rank}"), self.host(rank));
        let mut all = vec![
            ("cluster.node_id", name.as_str()),
            ("cluster.peers", peers.as_str()),
            ("cluster.node_ip", host.as_str()),
            ("cluster.peer_port", "7400"),
            ("server.listen", host.as_str()),
        ];
        all.extend_from_slice(settings);
        TestNode::begin(&all).await
    }
}

/// A request being made.
pub(crate) struct Call {
    node: String,
    method: Method,
    path: String,
    request: reqwest::RequestBuilder,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.request = self.request.json(&body);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// Sends it and reads its answer as events, as they come.
    pub(crate) async fn stream(self) -> EventStream {
        let response = self.request.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap());
        assert_eq!(response.status(), StatusCode::OK, "{}", self.path);
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!((header("cache-control"), header("x-accel-buffering")), ("no-cache", "no"));
        assert_eq!(header("x-ovncp-node"), self.node);
        assert!(header("x-ovncp-index").parse::<u64>().is_ok());
        let mut stream = EventStream { response, text: String::new(), last_id: None };
        let greeting = stream.block().await.expect("a stream says where it is at once");
        assert!(greeting.starts_with("retry: ") && !greeting.contains("data:"), "{greeting}");
        stream
    }

    /// Sends it and leaves the body to the caller.
    pub(crate) async fn open(self) -> reqwest::Response {
        self.request.send().await.unwrap()
    }

    /// Sends it and checks what holds for every answer.
    pub(crate) async fn send(self) -> Answer {
        let response = self.request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap().to_vec();
        let answer = Answer { status, headers, bytes };
        assert_eq!(answer.header("x-ovncp-node"), self.node);
        answer.check(&self.method, &self.path);
        answer
    }
}

/// A stream of Server-Sent Events.
pub(crate) struct EventStream {
    response: reqwest::Response,
    text: String,
    /// Of the last block that had one: where to go on.
    pub(crate) last_id: Option<u64>,
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamedEvent {
    pub(crate) id: u64,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

impl EventStream {
    /// The next event; none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<StreamedEvent> {
        let next = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let block = self.block().await?;
                let field =
                    |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let Some(data) = field("data:") else { continue };
                let kind = field("event:").expect("every event has a type").to_owned();
                let id = field("id:").expect("every event has an id").parse().unwrap_or_default();
                return Some(StreamedEvent { id, kind, data: serde_json::from_str(data).unwrap() });
            }
        });
        next.await.expect("an event or the end")
    }

    /// The next event, which must come.
    pub(crate) async fn event(&mut self) -> StreamedEvent {
        self.next().await.expect("the stream goes on")
    }

    /// Events up to and with the first that `is_last` holds for.
    pub(crate) async fn until(&mut self, is_last: impl Fn(&StreamedEvent) -> bool) -> Vec<StreamedEvent> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            events.push(event);
            if events.last().is_some_and(&is_last) {
                return events;
            }
        }
    }

    /// Waits until the stream says that everything up to `id` is done, shown or not.
    pub(crate) async fn passed(&mut self, id: u64) {
        let passed = async {
            while self.last_id < Some(id) {
                self.block().await.expect("the stream goes on");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), passed).await.expect("a sign of life");
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let id = block.lines().find_map(|line| line.strip_prefix("id: "));
                self.last_id = id.map(|id| id.parse().unwrap()).or(self.last_id);
                return Some(block);
            }
            let chunk = self.response.chunk().await.expect("a stream ends in order")?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// An answer that holds what every answer promises.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Expects this status and answers the body, null when there is none.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// Expects a problem with this status and code and answers it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        problem
    }

    fn check(&self, method: &Method, path: &str) {
        assert!(!self.header("x-request-id").is_empty());
        if self.status.as_u16() >= 400 && !path.starts_with("/health") {
            self.check_problem();
        }
        let path = path.split('?').next().unwrap();
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some(template) = template(path, method) else { return };
        let Some(codes) = DOCUMENTED[template].get(method) else {
            assert_eq!(self.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {template}");
            return;
        };
        assert!(
            codes.contains(&self.status.as_u16()),
            "{method} {template} does not document {}",
            self.status
        );
    }

    fn check_problem(&self) {
        assert_eq!(self.header("content-type"), "application/problem+json");
        if self.bytes.is_empty() {
            return; // HEAD
        }
        let problem = self.json();
        let code = problem["code"].as_str().expect("a code");
        assert_eq!(problem["type"], format!("urn:ovncp:problem:{code}"));
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        let retry = self.headers.contains_key("retry-after");
        assert_eq!(retry, matches!(self.status.as_u16(), 429 | 503), "Retry-After on {}", self.status);
    }
}
