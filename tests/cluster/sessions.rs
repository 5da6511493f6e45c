//! Sessions of WebSocket clients when their node dies.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

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

/// Publishes 0, 1, 2 ... to a user, each once, through whichever node answers; answers how many when told to stop.
fn publisher(cluster: &Cluster, stop: watch::Receiver<bool>) -> JoinHandle<u64> {
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| (node.client.clone(), node.url(""))).collect();
    tokio::spawn(async move {
        let mut count = 0;
        for n in 0.. {
            if *stop.borrow() {
                break;
            }
            for (client, base) in nodes.iter().cycle().skip(usize::try_from(n).unwrap() % nodes.len()) {
                let sent = client
                    .post(format!("{base}/api/v1/cluster/messages"))
                    .header("idempotency-key", format!("message-{n}"))
                    .json(&json!({"to": {"user": "ada"}, "data": n}))
                    .send();
                // Unknown outcomes are asked for again under the same key.
                if sent.await.is_ok_and(|answer| answer.status().as_u16() == 200) {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            count = n + 1;
            tokio::time::sleep(PAUSE / 10).await;
        }
        count
    })
}

/// What a client has seen, and where it is.
#[derive(Clone, Debug, Default)]
struct Seen {
    node: Option<usize>,
    resumes: u64,
    events: Vec<(u64, u64)>,
}

/// A client that comes back, wherever it finds a node.
struct Client {
    addresses: Vec<String>,
    seen: watch::Sender<Seen>,
    id: Option<String>,
    since: Option<u64>,
}

impl Client {
    fn start(cluster: &Cluster) -> watch::Receiver<Seen> {
        let addresses = cluster.nodes.iter().map(|node| node.url("").replace("http://", "")).collect();
        let (seen, watcher) = watch::channel(Seen::default());
        tokio::spawn(Self { addresses, seen, id: None, since: None }.run());
        watcher
    }

    async fn run(mut self) {
        for node in (0..self.addresses.len()).cycle() {
            if let Some(stream) = self.open(node).await {
                self.listen(node, stream).await;
            }
            if self.seen.is_closed() {
                return;
            }
            self.seen.send_modify(|seen| seen.node = None);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open(&self, node: usize) -> Option<WebSocketStream<TcpStream>> {
        let address = self.addresses[node].trim_end_matches('/');
        let query = match (&self.id, self.since) {
            (Some(id), Some(since)) => format!("?session={id}&since={since}"),
            _ => "?user=ada".to_owned(),
        };
        let open = async {
            let stream = TcpStream::connect(address).await.ok()?;
            let opened = tokio_tungstenite::client_async(format!("ws://{address}/ws{query}"), stream).await;
            Some(opened.ok()?.0)
        };
        tokio::time::timeout(PATIENCE, open).await.ok().flatten()
    }

    async fn listen(&mut self, node: usize, mut stream: WebSocketStream<TcpStream>) {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let offset = |name: &str| frame[name].as_str().unwrap().parse::<u64>().unwrap();
            match frame["type"].as_str().unwrap() {
                "welcome" => {
                    assert_eq!(frame["resumed"], self.id.is_some(), "{frame}");
                    self.id = Some(frame["session_id"].as_str().unwrap().to_owned());
                    self.since.get_or_insert(offset("position"));
                    self.seen.send_modify(|seen| {
                        seen.node = Some(node);
                        seen.resumes += u64::from(frame["resumed"] == true);
                    });
                }
                "event" => {
                    self.since = Some(offset("offset") + 1);
                    let event = (offset("offset"), frame["data"].as_u64().unwrap());
                    self.seen.send_modify(|seen| seen.events.push(event));
                }
                other => panic!("{other} was not expected: {frame}"),
            }
        }
    }
}

async fn wait_for(
    seen: &mut watch::Receiver<Seen>,
    what: &str,
    condition: impl FnMut(&Seen) -> bool,
) -> Seen {
    let found = tokio::time::timeout(PATIENCE, seen.wait_for(condition)).await;
    found.unwrap_or_else(|_| panic!("never: {what}")).expect("the client goes on").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_kill_9_of_its_node_with_every_message_once_and_in_order() {
    let mut cluster = Cluster::start(3).await;
    let mut seen = Client::start(&cluster);
    wait_for(&mut seen, "welcomed", |seen| seen.node.is_some()).await;
    let (stop, stopping) = watch::channel(false);
    let publisher = publisher(&cluster, stopping);
    for round in 1..=4 {
        let enough = seen.borrow().events.len() + 40;
        let at =
            wait_for(&mut seen, "messages come", |seen| seen.events.len() >= enough && seen.node.is_some())
                .await;
        let victim = at.node.unwrap();
        cluster.nodes[victim].kill();
        // The other two go on, and one of them has the session.
        let resumed = wait_for(&mut seen, "resumed elsewhere", |seen| {
            seen.resumes >= round && seen.node.is_some_and(|node| node != victim)
        })
        .await;
        let enough = resumed.events.len() + 40;
        wait_for(&mut seen, "messages come after the resume", |seen| seen.events.len() >= enough).await;
        cluster.nodes[victim].start();
        cluster.all_ready().await;
    }
    stop.send_replace(true);
    let published = publisher.await.unwrap();
    let enough = usize::try_from(published).unwrap();
    let all = wait_for(&mut seen, "everything arrived", |seen| seen.events.len() >= enough).await;
    let data: Vec<_> = all.events.iter().map(|(_, data)| *data).collect();
    assert_eq!(data, (0..published).collect::<Vec<_>>(), "every message once, in order");
    assert!(all.events.windows(2).all(|pair| pair[0].0 < pair[1].0), "in the order of their offsets");
    cluster.converged().await;
}
