//! Many clients with a WebSocket each, that go where they are told and come back when they were cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{LOOK_EVERY, Moved};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// Handshakes at a time, of all clients.
const HANDSHAKES_MAX: usize = 64;
/// Before a client tries again.
const PAUSE: Duration = Duration::from_millis(20);
/// Small buffers: ten thousand clients are on the same machine as what is measured.
const BUFFER_BYTES: usize = 1_024;

/// See the module.
pub(super) struct Crowd {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
    resumed: mpsc::Receiver<Instant>,
}

struct Shared {
    addresses: Vec<String>,
    doors: Semaphore,
    /// Clients that were welcomed at least once.
    served: AtomicU32,
    lost: AtomicU64,
    resumed: mpsc::Sender<Instant>,
    first_error: std::sync::OnceLock<String>,
}

type Socket = WebSocketStream<TcpStream>;

impl Crowd {
    /// `count` clients, all of them of node `home` at first.
    pub(super) fn open(count: u32, addresses: &[String], home: usize) -> Crowd {
        // One place for each client: none of them ever waits to tell that it is back.
        let (tell, resumed) = mpsc::channel(count as usize * 2);
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            doors: Semaphore::new(HANDSHAKES_MAX),
            served: AtomicU32::new(0),
            lost: AtomicU64::new(0),
            resumed: tell,
            first_error: std::sync::OnceLock::new(),
        });
        let run = random_id()[..8].to_owned();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let path = format!("/ws?user=bench-{run}-{number}");
            tasks.spawn(live(Arc::clone(&shared), home, path));
        }
        Crowd { tasks, shared, resumed }
    }

    /// Waits until `count` clients are served.
    pub(super) async fn served(
        &mut self,
        count: u32,
        patience: Duration,
        mut show: impl FnMut(u32),
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let served = self.shared.served.load(Ordering::Relaxed);
            show(served);
            if served >= count {
                return Ok(());
            }
            if begun.elapsed() > patience {
                return Err(self.missing(served, count, patience));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sockets that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Forgets who has come back so far.
    pub(super) fn forget(&mut self) {
        while self.resumed.try_recv().is_ok() {}
    }

    /// Waits until `count` clients are back on some node.
    pub(super) async fn moved(
        &mut self,
        count: u32,
        begun: Instant,
        patience: Duration,
    ) -> Result<Moved, Failure> {
        let mut times = Vec::new();
        while times.len() < count as usize {
            match tokio::time::timeout(patience, self.resumed.recv()).await {
                Ok(Some(at)) => times.push(at.saturating_duration_since(begun).as_secs_f64() * 1_000.0),
                Ok(None) | Err(_) => return Err(self.missing(times.len() as u32, count, patience)),
            }
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Ok(Moved { sessions: count, all_ms: at(1.0), p50_ms: at(0.5), p99_ms: at(0.99) })
    }

    fn missing(&self, there: u32, count: u32, patience: Duration) -> Failure {
        let error = self.shared.first_error.get().map_or("none", String::as_str);
        let message = format!(
            "{there} of {count} sessions are served after {patience:?}; {} clients live; first error: {error}",
            self.tasks.len()
        );
        Failure::new(Exit::Failure, message).help("fewer with --held, or more open files with ulimit -n")
    }
}

/// One client, for as long as the crowd is there.
async fn live(shared: Arc<Shared>, home: usize, path: String) {
    let (mut node, mut path, mut first) = (home, path, true);
    loop {
        match enter(&shared, &shared.addresses[node], &path).await {
            Ok((mut socket, welcome)) => {
                if first {
                    shared.served.fetch_add(1, Ordering::Relaxed);
                    first = false;
                } else {
                    let _ = shared.resumed.try_send(Instant::now());
                }
                let session = welcome["session_id"].as_str().unwrap_or_default().to_owned();
                match stay(&mut socket).await {
                    Some(url) => (node, path) = shared.aim(&url).unwrap_or((node, path)),
                    None => {
                        shared.lost.fetch_add(1, Ordering::Relaxed);
                        node = (node + 1) % shared.addresses.len();
                        path = format!("/ws?session={session}");
                    }
                }
            }
            Err(error) => {
                shared.first_error.get_or_init(|| error);
                if !first {
                    node = (node + 1) % shared.addresses.len();
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Shared {
    /// Which of our nodes an address means, and what is asked of it.
    fn aim(&self, url: &str) -> Option<(usize, String)> {
        let (_, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/')?);
        Some((self.addresses.iter().position(|address| address == authority)?, path.to_owned()))
    }
}

async fn enter(shared: &Shared, address: &str, path: &str) -> Result<(Socket, Value), String> {
    let _door = shared.doors.acquire().await.map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0);
    let url = format!("ws://{address}{path}");
    let opened = client_async_with_config(url, stream, Some(config)).await;
    let (mut socket, _) = opened.map_err(|error| error.to_string())?;
    match socket.next().await {
        Some(Ok(Message::Text(text))) => {
            let frame: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            if frame["type"] == "welcome" { Ok((socket, frame)) } else { Err(frame.to_string()) }
        }
        other => Err(format!("no welcome but {other:?}")),
    }
}

/// Answers pings until the socket is gone (nothing) or the client is sent elsewhere (where to).
async fn stay(socket: &mut Socket) -> Option<String> {
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message
            && let Ok(frame) = serde_json::from_str::<Value>(&text)
            && frame["type"] == "migrate"
        {
            return frame["url"].as_str().map(str::to_owned);
        }
    }
    None
}
