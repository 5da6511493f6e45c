//! Sessions of WebSocket clients while their nodes die, stop, and are emptied: no message is lost or comes twice.
//!
//! A [`publisher`] counts while [`Client`]s listen; whatever happens meanwhile, each of them has to have seen every
//! number once and in order.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod killed;
mod moved;
mod stopped;

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Cluster, PATIENCE};

/// Pause of a client before it tries the next node, and of a publisher before it asks again.
const PAUSE: Duration = Duration::from_millis(50);
/// Whose sessions all are.
const USER: &str = "ada";

/// Publishes numbers to [`USER`], each once, through whichever node answers.
struct Publisher(Vec<(reqwest::Client, String)>);

impl Publisher {
    fn new(cluster: &Cluster) -> Self {
        Self(cluster.nodes.iter().map(|node| (node.client.clone(), node.url(""))).collect())
    }

    async fn publish(&self, n: u64) {
        for (client, base) in self.0.iter().cycle().skip(usize::try_from(n).unwrap() % self.0.len()) {
            let sent = client
                .post(format!("{base}/api/v1/cluster/messages"))
                .header("idempotency-key", format!("message-{n}"))
                .json(&json!({"to": {"user": USER}, "data": n}))
                .send();
            // Unknown outcomes are asked for again under the same key.
            if sent.await.is_ok_and(|answer| answer.status().as_u16() == 200) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Publishes 0, 1, 2 ... until it is told to stop; answers how many they were.
    fn start(self) -> Publishing {
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut count = 0;
            while !*stopping.borrow() {
                self.publish(count).await;
                count += 1;
                tokio::time::sleep(PAUSE / 10).await;
            }
            // Whatever came twice came before this one.
            self.publish(count).await;
            count + 1
        });
        Publishing { stop, task }
    }
}

/// A publisher at work.
struct Publishing {
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Publishing {
    /// Ends it, and holds what each client has seen against what was published.
    async fn everything_arrived(self, clients: &mut [watch::Receiver<Seen>]) {
        self.stop.send_replace(true);
        let published = self.task.await.unwrap();
        for seen in clients {
            let last = |seen: &Seen| seen.events.last().is_some_and(|(_, data)| *data + 1 == published);
            let all = wait_for(seen, "everything arrived", last).await;
            let data: Vec<_> = all.events.iter().map(|(_, data)| *data).collect();
            assert_eq!(data, (0..published).collect::<Vec<_>>(), "every message once, in order");
            assert!(all.events.windows(2).all(|pair| pair[0].0 < pair[1].0), "in the order of their offsets");
        }
    }
}

/// What a client does when it is asked to go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It goes.
    Obeys,
    /// It stays until it is thrown out.
    Stays,
}

/// Why a client left a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It was asked to.
    Asked,
    /// Its socket was closed, with this code if with any.
    Closed(Option<u16>),
}

/// What a client has seen, and where it is.
#[derive(Clone, Debug, Default)]
struct Seen {
    id: String,
    node: Option<usize>,
    resumes: u64,
    events: Vec<(u64, u64)>,
    /// Each node that it left, and why.
    left: Vec<(usize, Left)>,
}

/// A client that comes back, wherever it finds a node.
struct Client {
    addresses: Vec<String>,
    manner: Manner,
    seen: watch::Sender<Seen>,
    id: Option<String>,
    since: Option<u64>,
}

impl Client {
    /// Tries the nodes in their order, beginning with `first`.
    fn start(cluster: &Cluster, first: usize, manner: Manner) -> watch::Receiver<Seen> {
        let addresses = cluster.nodes.iter().map(|node| node.url("").replace("http://", "")).collect();
        let (seen, watcher) = watch::channel(Seen::default());
        tokio::spawn(Self { addresses, manner, seen, id: None, since: None }.run(first));
        watcher
    }

    async fn run(mut self, first: usize) {
        let (mut node, mut asked) = (first, None);
        while !self.seen.is_closed() {
            let url = asked.take().unwrap_or_else(|| self.url(node));
            if let Some(stream) = Self::open(&url).await {
                asked = self.listen(stream).await;
                self.seen.send_modify(|seen| seen.node = None);
            }
            if asked.is_none() {
                node = (node + 1) % self.addresses.len();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn url(&self, node: usize) -> String {
        let address = self.addresses[node].trim_end_matches('/');
        match (&self.id, self.since) {
            (Some(id), Some(since)) => format!("ws://{address}/ws?session={id}&since={since}"),
            _ => format!("ws://{address}/ws?user={USER}"),
        }
    }

    async fn open(url: &str) -> Option<WebSocketStream<TcpStream>> {
        let (address, _) = url.strip_prefix("ws://")?.split_once('/')?;
        let open = async {
            let stream = TcpStream::connect(address).await.ok()?;
            Some(tokio_tungstenite::client_async(url, stream).await.ok()?.0)
        };
        tokio::time::timeout(PATIENCE, open).await.ok().flatten()
    }

    /// Listens until the socket is gone; answers where to go when it was asked to.
    async fn listen(&mut self, mut stream: WebSocketStream<TcpStream>) -> Option<String> {
        let (mut node, mut code) = (None, None);
        while let Some(Ok(message)) = stream.next().await {
            let text = match message {
                Message::Text(text) => text,
                Message::Close(close) => {
                    code = close.map(|close| close.code.into());
                    continue;
                }
                _ => continue,
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let offset = |name: &str| frame[name].as_str().unwrap().parse::<u64>().unwrap();
            match frame["type"].as_str().unwrap() {
                "welcome" => {
                    assert_eq!(frame["resumed"], self.id.is_some(), "{frame}");
                    node = Some(place(&frame["node_id"]));
                    let id = frame["session_id"].as_str().unwrap().to_owned();
                    self.since.get_or_insert(offset("position"));
                    self.seen.send_modify(|seen| {
                        seen.id.clone_from(&id);
                        seen.node = node;
                        seen.resumes += u64::from(frame["resumed"] == true);
                    });
                    self.id = Some(id);
                }
                "event" => {
                    self.since = Some(offset("offset") + 1);
                    let event = (offset("offset"), frame["data"].as_u64().unwrap());
                    self.seen.send_modify(|seen| seen.events.push(event));
                }
                "migrate" if self.manner == Manner::Stays => {}
                "migrate" => {
                    self.seen.send_modify(|seen| seen.left.push((node.unwrap(), Left::Asked)));
                    return Some(format!("{}&since={}", frame["url"].as_str().unwrap(), self.since.unwrap()));
                }
                other => panic!("{other} was not expected: {frame}"),
            }
        }
        if let Some(node) = node {
            self.seen.send_modify(|seen| seen.left.push((node, Left::Closed(code))));
        }
        None
    }
}

/// The position of a node in its cluster, from its name.
fn place(name: &Value) -> usize {
    let number: usize = name.as_str().unwrap().strip_prefix("node-").unwrap().parse().unwrap();
    number - 1
}

async fn wait_for(
    seen: &mut watch::Receiver<Seen>,
    what: &str,
    condition: impl FnMut(&Seen) -> bool,
) -> Seen {
    let found = tokio::time::timeout(PATIENCE, seen.wait_for(condition)).await;
    found.unwrap_or_else(|_| panic!("never: {what}")).expect("the client goes on").clone()
}

/// Waits until `more` further messages came.
async fn messages_come(seen: &mut watch::Receiver<Seen>, more: usize) -> Seen {
    let enough = seen.borrow().events.len() + more;
    wait_for(seen, "messages come", |seen| seen.events.len() >= enough && seen.node.is_some()).await
}
