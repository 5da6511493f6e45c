//! What each node says of itself and of the leader, asked over and over through its public API.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::layout::Layout;

/// While something is going on.
const INTERVAL_BUSY: Duration = Duration::from_millis(20);
/// While all is well.
const INTERVAL_QUIET: Duration = Duration::from_millis(200);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const QUEUE_MAX: usize = 64;

/// One answer of one node, or its silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) index: usize,
    pub(crate) answer: Option<Answer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its own name.
    pub(crate) node: String,
    /// `/health/ready` is 200.
    pub(crate) ready: bool,
    /// Why it is not.
    pub(crate) reason: Option<String>,
    /// The leader it knows.
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
}

/// Asks every node for ever.
pub(crate) struct Observer {
    seen: mpsc::Receiver<Seen>,
    busy: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Observer {
    pub(crate) fn start(layout: &Layout) -> Observer {
        let (tell, seen) = mpsc::channel(QUEUE_MAX);
        let (busy, pace) = watch::channel(true);
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().unwrap_or_default();
        let mut tasks = JoinSet::new();
        for (index, node) in layout.nodes.iter().enumerate() {
            let (http, tell, pace, url) = (http.clone(), tell.clone(), pace.clone(), node.url());
            tasks.spawn(ask_for_ever(index, url, http, tell, pace));
        }
        Observer { seen, busy, _tasks: tasks }
    }

    /// The next answer, of any node.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }

    /// Asks more often.
    pub(crate) fn hurry(&self, busy: bool) {
        self.busy.send_if_modified(|now| std::mem::replace(now, busy) != busy);
    }
}

async fn ask_for_ever(
    index: usize,
    url: String,
    http: reqwest::Client,
    tell: mpsc::Sender<Seen>,
    mut pace: watch::Receiver<bool>,
) {
    loop {
        let answer = ask(&http, &url).await;
        if tell.send(Seen { index, answer }).await.is_err() {
            return;
        }
        let busy = *pace.borrow_and_update();
        let pause = if busy { INTERVAL_BUSY } else { INTERVAL_QUIET };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = pace.changed() => if changed.is_err() { return },
        }
    }
}

/// One look at one node; `None` when it does not answer.
pub(crate) async fn ask(http: &reqwest::Client, url: &str) -> Option<Answer> {
    let get = async |path: &str| http.get(format!("{url}{path}")).send().await.ok();
    let health = get("/health/ready").await?;
    let ready = health.status().is_success();
    let health: Value = health.json().await.unwrap_or_default();
    let view = get("/api/v1/cluster/leader?consistency=local").await?;
    let view: Value = view.json().await.unwrap_or_default();
    Some(Answer {
        node: view["node_id"].as_str().unwrap_or_default().to_owned(),
        ready,
        reason: if ready { None } else { failing(&health) },
        leader: view["leader_id"].as_str().map(str::to_owned),
        term: number(&view["term"]),
    })
}

/// u64 values travel as decimal strings; the term may be either.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

/// The first check that fails, in the node's own words.
fn failing(health: &Value) -> Option<String> {
    let checks = health["checks"].as_object()?;
    let bad = checks.iter().find(|(_, check)| !matches!(check["status"].as_str(), Some("ok" | "pass")))?;
    Some(bad.1["detail"].as_str().map_or_else(|| bad.0.clone(), str::to_owned))
}
