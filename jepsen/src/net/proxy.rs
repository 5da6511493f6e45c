//! One TCP proxy in front of each node's peer port.
//!
//! A node binds `127.a.b.N` and tells its peers to dial `127.a.b.(100+N)`, where the proxy listens. Each accepted
//! connection has two directions, each of them a queue of pieces with the time at which they arrived: a piece goes
//! on when its delay has passed, the rate allows it and nothing is cut. What is held comes through after the cut,
//! late and in order, as TCP's own retransmissions would bring it; so does the end of a connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::{Links, NetError, dialler};
use crate::cluster::{PEER_PORT, Pids, Place};

/// Between the number of a node in its subnet and that of its proxy.
const PROXY_OFFSET: u8 = 100;
/// Largest piece that is read at once.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Pieces that one direction of one connection holds; beyond that the sender's own buffers fill.
const PIECES_MAX: usize = 256;
/// Attempts to find a free subnet.
const SUBNET_TRIES: u32 = 50;
/// How often, and how far apart, it is looked who dialled. A node is known a moment after its process starts.
const DIALLER_TRIES: u32 = 20;
const DIALLER_PAUSE: Duration = Duration::from_millis(25);
/// How long an accept that failed (no file descriptors left) waits before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The proxies of one run; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Proxies {
    links: Arc<Links>,
    pids: Pids,
    subnet: (u8, u8),
    running: Vec<AbortHandle>,
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.running.iter().for_each(AbortHandle::abort);
    }
}

impl Proxies {
    /// Picks a `127.a.b.0/24` in which nobody listens on the peer port.
    pub(super) fn prepare(links: Arc<Links>, pids: Pids) -> Result<Self, NetError> {
        let mut trouble = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..SUBNET_TRIES {
            let subnet = (rand::rng().random_range(16..240), rand::rng().random());
            let probe = |number| std::net::TcpListener::bind((address(subnet, number), PEER_PORT));
            match probe(1).and_then(|_first| probe(PROXY_OFFSET + 1)) {
                Ok(_) => return Ok(Self { links, pids, subnet, running: Vec::new() }),
                Err(error) => trouble = error,
            }
        }
        Err(NetError::io(format!("find a loopback subnet with port {PEER_PORT} free"), trouble))
    }

    /// Where peers dial host `number`.
    pub(super) fn advertised(&self, number: u8) -> Ipv4Addr {
        address(self.subnet, PROXY_OFFSET + number)
    }

    /// Starts the proxy of a host.
    pub(super) async fn add_host(&mut self, name: &str, number: u8) -> Result<Place, NetError> {
        let (front, back) = (self.advertised(number), address(self.subnet, number));
        let listener = TcpListener::bind((front, PEER_PORT))
            .await
            .map_err(|error| NetError::io(format!("listen on {front}:{PEER_PORT}"), error))?;
        let proxy = Proxy {
            links: Arc::clone(&self.links),
            pids: Arc::clone(&self.pids),
            host: name.to_owned(),
            back: SocketAddr::from((back, PEER_PORT)),
        };
        self.running.push(tokio::spawn(Arc::new(proxy).serve(listener)).abort_handle());
        Ok(Place { listen: back.to_string(), advertised: front.to_string(), wrapper: Vec::new() })
    }
}

fn address(subnet: (u8, u8), number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, subnet.0, subnet.1, number)
}

/// The proxy of one host.
#[derive(Debug)]
struct Proxy {
    links: Arc<Links>,
    pids: Pids,
    host: String,
    back: SocketAddr,
}

impl Proxy {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        // Aborting the proxy drops this set, and with it every connection.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => drop(connections.spawn(Arc::clone(&self).connection(stream, from))),
                    Err(error) => {
                        tracing::warn!(host = self.host, %error, "accept a peer's connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn connection(self: Arc<Self>, front: TcpStream, from: SocketAddr) {
        let Some(dialler) = self.dialler(&front, from).await else {
            return tracing::debug!(host = self.host, %from, "dialled by nobody that runs (any more)");
        };
        // Connecting takes both directions.
        hold(&self.links, &dialler, &self.host, 0).await;
        hold(&self.links, &self.host, &dialler, 0).await;
        let Ok(back) = TcpStream::connect(self.back).await else { return };
        if front.set_nodelay(true).and_then(|()| back.set_nodelay(true)).is_err() {
            return;
        }
        let ((front_read, front_write), (back_read, back_write)) = (front.into_split(), back.into_split());
        let links = &self.links;
        let there = carry(links, &dialler, &self.host, front_read, back_write);
        let back = carry(links, &self.host, &dialler, back_read, front_write);
        // Each direction may end before the other; an error in one ends both, as a reset does.
        if let Err(error) = tokio::try_join!(there, back) {
            tracing::debug!(host = self.host, dialler, %error, "connection between peers ended");
        }
    }

    async fn dialler(&self, front: &TcpStream, from: SocketAddr) -> Option<String> {
        let to = front.local_addr().ok()?;
        for _ in 0..DIALLER_TRIES {
            let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let pids: Vec<(String, u32)> = pids.into_iter().collect();
            let found = tokio::task::spawn_blocking(move || dialler::identify(from, to, &pids)).await;
            if let Ok(Ok(Some(name))) = found {
                return Some(name);
            }
            tokio::time::sleep(DIALLER_PAUSE).await;
        }
        None
    }
}

/// Waits until nothing is cut from one host to the other.
async fn hold(links: &Links, from: &str, to: &str, bytes: usize) {
    let mut changes = links.changes();
    let mut held = links.held(from, to, bytes);
    while held && changes.changed().await.is_ok() {
        held = links.is_cut(from, to);
    }
}

/// Carries one direction of one connection until its end.
async fn carry(
    links: &Links,
    from: &str,
    to: &str,
    source: impl AsyncRead + Unpin,
    sink: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (queue, pieces) = mpsc::channel(PIECES_MAX);
    tokio::try_join!(take_in(source, queue), pass_on(links, from, to, pieces, sink))?;
    Ok(())
}

async fn take_in(
    mut source: impl AsyncRead + Unpin,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
) -> io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        // A reset is an end like any other: it comes through when what was sent before it did.
        let length = source.read(&mut piece).await.unwrap_or(0);
        piece.truncate(length);
        if length == 0 || queue.send((Instant::now(), piece)).await.is_err() {
            return Ok(());
        }
    }
}

async fn pass_on(
    links: &Links,
    from: &str,
    to: &str,
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut sink: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some((arrived, piece)) = pieces.recv().await {
        let stream = links.stream(from, to, piece.len());
        tokio::time::sleep_until(arrived + stream.delay).await;
        if let Some(rate) = stream.bytes_per_second {
            let takes = Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64);
            tokio::time::sleep(takes).await;
        }
        hold(links, from, to, piece.len()).await;
        if let Err(error) = sink.write_all(&piece).await {
            // That the receiver is gone is news that travels the other way.
            hold(links, to, from, 0).await;
            return Err(error);
        }
    }
    hold(links, from, to, 0).await;
    sink.shutdown().await
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
