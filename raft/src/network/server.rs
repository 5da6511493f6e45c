//! The listening side: accepts, shakes hands, and serves each lane in one task per connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ovncp_storage::runtime::spawn;
use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::admission::{self, Admitted};
use super::client::PeerNetwork;
use super::conn::{Conn, ConnError, FrameReader, FrameWriter};
use super::dial::{Shared, closed, lock};
use super::frame::Kind;
use super::handler::PeerHandler;
use super::handshake::{self, Hello, PROTOCOL_MAX, Welcome};
use super::identity::{Lane, Refusal};
use super::lanes;
pub use super::lanes::SnapshotChunks;
use super::limits::{CONNECTIONS_MAX, HANDSHAKE_BYTES_MAX, HANDSHAKES_MAX};
use super::net::Net;
use super::wire;

/// Last words to a peer may take this long.
const FAREWELL: Duration = Duration::from_millis(200);
/// Pause after the listener failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Names whose last refusal is remembered, to log changes only.
const REFUSALS_REMEMBERED_MAX: usize = 256;

/// What the connections of a listener share.
struct Listening<N: Net, H> {
    shared: Arc<Shared<N>>,
    handler: Arc<H>,
    stop: watch::Receiver<bool>,
    handshakes: Semaphore,
    /// The last refusal of each name, so that the operator hears of changes, not of every attempt.
    refusals: Mutex<BTreeMap<String, Refusal>>,
}

/// Serves the peers that dial `listener` until `shutdown` resolves (or the network is closed), then closes
/// their connections and returns once every task of theirs has ended.
pub async fn serve<N: Net, S, H: PeerHandler>(
    network: PeerNetwork<N, S>,
    mut listener: N::Listener,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let shared = Arc::clone(network.shared());
    // The network closes with its last owner. Serving it is no reason to keep it open.
    drop(network);
    let mut closing = shared.closing.subscribe();
    let (stop, stopped) = watch::channel(false);
    let listening = Arc::new(Listening {
        shared: Arc::clone(&shared),
        handler,
        stop: stopped,
        handshakes: Semaphore::new(HANDSHAKES_MAX),
        refusals: Mutex::default(),
    });
    let mut connections = FuturesUnordered::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = closed(&mut closing) => break,
            () = &mut shutdown => break,
            Some(_) = connections.next(), if !connections.is_empty() => {}
            accepted = shared.net.accept(&mut listener) => match accepted {
                Ok((stream, from)) if connections.len() < CONNECTIONS_MAX => {
                    connections.push(spawn(connection(Arc::clone(&listening), stream, from)));
                }
                Ok((_, from)) => warn!(from, limit = CONNECTIONS_MAX, "too many peer connections, closed one"),
                Err(error) => {
                    warn!(%error, "accept a peer connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // First the listener, so that a re-dial is refused: that tells the peers that this process goes.
    drop(listener);
    stop.send_replace(true);
    while connections.next().await.is_some() {}
}

async fn connection<N: Net, H: PeerHandler>(
    listening: Arc<Listening<N, H>>,
    stream: N::Stream,
    from: String,
) {
    let mut stop = listening.stop.clone();
    tokio::select! {
        biased;
        () = closed(&mut stop) => {}
        () = listening.converse(stream, &from) => {}
    }
}

impl<N: Net, H: PeerHandler> Listening<N, H> {
    async fn converse(&self, stream: N::Stream, from: &str) {
        let patience = self.shared.options.handshake_timeout;
        // Strangers that say nothing must not keep members out: beyond the bound they wait their turn, and
        // give up like everybody else when the time is over.
        let greeted = timeout(patience, async {
            let permit = self.handshakes.acquire().await.ok()?;
            self.greet(stream, from, permit).await
        });
        let Some((mut conn, lane, mut admitted)) = greeted.await.ok().flatten() else { return };
        debug!(from, peer = conn.peer.name, %lane, "peer connected to us");
        let close = Arc::clone(&admitted.close);
        let ended = tokio::select! {
            biased;
            () = close.notified() => {
                info!(peer = conn.peer.name, %lane, "connection replaced by a newer one");
                return;
            }
            ended = self.serve_lane(lane, &mut conn, &mut admitted) => ended,
        };
        match ended.accusation() {
            Some(fault) => {
                warn!(peer = conn.peer.name, %lane, %fault, "peer broke the protocol");
                conn.writer.push(Kind::Fault, 0, |out| wire::put(out, &fault));
                conn.writer.finish(FAREWELL).await;
            }
            None => debug!(peer = conn.peer.name, %lane, why = %ended, "peer disconnected"),
        }
    }

    async fn serve_lane(&self, lane: Lane, conn: &mut Conn<N::Stream>, admitted: &mut Admitted) -> ConnError {
        let handler = self.handler.as_ref();
        match lane {
            Lane::Append => lanes::append(conn, handler).await,
            Lane::Snapshot => lanes::snapshot(conn, handler).await,
            Lane::Control => lanes::control(conn, handler).await,
            Lane::Heartbeat => {
                lanes::calls(conn, admitted, |peer, frame| lanes::heartbeat(handler, peer, frame)).await
            }
            Lane::Forward => {
                lanes::calls(conn, admitted, |peer, frame| lanes::forward(handler, peer, frame)).await
            }
        }
    }

    /// The listener's part of the hand-shake.
    async fn greet(
        &self,
        stream: N::Stream,
        from: &str,
        _permit: SemaphorePermit<'_>,
    ) -> Option<(Conn<N::Stream>, Lane, Admitted)> {
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, HANDSHAKE_BYTES_MAX);
        let mut writer = FrameWriter::new(writer);
        let judged = match read_hello(&mut reader).await {
            Ok((version, hello)) => match self.judge(&hello).await {
                Ok(admitted) => Ok((version, hello, admitted)),
                Err(refusal) => {
                    self.log_refusal(&hello, from, &refusal);
                    Err(refusal)
                }
            },
            Err(refusal) => {
                debug!(from, %refusal, "refused a connection");
                Err(refusal)
            }
        };
        match judged {
            Ok((version, hello, admitted)) => {
                let welcome = Welcome { version, peer: self.shared.identity.present() };
                writer.push(Kind::Welcome, 0, |out| wire::put(out, &welcome));
                writer.flush().await.ok()?;
                reader.open(hello.lane);
                Some((Conn { reader, writer, peer: hello.from }, hello.lane, admitted))
            }
            Err(refusal) => {
                writer.push(Kind::Refused, 0, |out| wire::put(out, &refusal));
                writer.finish(FAREWELL).await;
                None
            }
        }
    }

    async fn judge(&self, hello: &Hello) -> Result<Admitted, Refusal> {
        if *self.shared.closing.borrow() {
            return Err(Refusal::Stopping);
        }
        let own = self.shared.identity.present();
        admission::judge_hello(&own, self.shared.directory.as_ref(), hello)?;
        let admitted = self.shared.admission.admit(&hello.from, hello.lane).await?;
        lock(&self.refusals).remove(&hello.from.name);
        // Who reaches us can probably be reached.
        if let Some(entry) =
            hello.from.id.and_then(|id| lock(&self.shared.peers).get(&id).map(|e| e.redial.clone()))
        {
            entry.iter().for_each(|redial| redial.notify_one());
        }
        Ok(admitted)
    }

    fn log_refusal(&self, hello: &Hello, from: &str, refusal: &Refusal) {
        let mut refusals = lock(&self.refusals);
        let name = &hello.from.name;
        if refusals.get(name) == Some(refusal) {
            debug!(from, peer = name, %refusal, "refused a peer again");
            return;
        }
        warn!(from, peer = name, id = ?hello.from.id, lane = %hello.lane, %refusal, "refused a peer");
        if refusals.len() < REFUSALS_REMEMBERED_MAX {
            refusals.insert(name.clone(), refusal.clone());
        }
    }
}

async fn read_hello<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<(u16, Hello), Refusal> {
    let frame = reader.next().await.map_err(|_| Refusal::BadHandshake)?;
    if frame.kind != Kind::Hello {
        return Err(Refusal::BadHandshake);
    }
    let (version, hello) = handshake::take_hello(&frame.body)?;
    debug_assert!(version <= PROTOCOL_MAX);
    Ok((version, hello))
}
