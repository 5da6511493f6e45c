//! The listener: a bounded number of connections, each with time limits, and an orderly end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::edge::Edge;
use super::impatient::Impatient;
use crate::telemetry::metrics::HttpMetrics;

/// Largest head of a request; also the read buffer of a connection.
const HEAD_BYTES_MAX: usize = 64 * 1_024;
/// Pause after an error of `accept`, such as too many open files, which would come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; more wait in the listen queue.
    pub connections_max: usize,
    /// Time for the head of a request, and for a kept-alive connection to idle.
    pub header_timeout: Duration,
    /// Time for a client to take at least some of what it is sent.
    pub write_timeout: Duration,
    /// Time for requests to finish once the node stops.
    pub shutdown_timeout: Duration,
}

/// How a node ends, seen from its listener.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Becomes true first: requests are answered as ever, and each connection ends with its next answer, so that
    /// clients go elsewhere at a moment when nothing of theirs is under way.
    pub draining: watch::Receiver<bool>,
    /// Becomes true then: no new connections, and those that are left end.
    pub closing: watch::Receiver<bool>,
}

/// How a stopping node ends its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Finish what is in progress.
    Closing,
    /// Drop what is left.
    Closed,
}

/// Serves connections until `closing` becomes true and the last one has ended or run out of time.
pub async fn serve(
    listener: TcpListener,
    edge: Arc<Edge>,
    metrics: Arc<HttpMetrics>,
    limits: Limits,
    mut ending: Ending,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let phase = watch::Sender::new(Phase::Open);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = ending.closing.wait_for(|closing| *closing) => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, remote, slot)) => {
                let connection = Connection {
                    edge: Arc::clone(&edge),
                    place: Place::new(Arc::clone(&metrics), slot),
                    remote,
                    limits,
                    draining: ending.draining.clone(),
                };
                tokio::spawn(connection.run(stream, phase.subscribe()));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    phase.send_replace(Phase::Closing);
    let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(limits.shutdown_timeout, slots.acquire_many(all)).await.is_err() {
        let open = limits.connections_max - slots.available_permits();
        tracing::warn!(open, "connections are cut: their requests did not finish in time");
    }
    phase.send_replace(Phase::Closed);
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, slot))
}

/// A place among the open connections, for as long as anybody holds on to it: a socket that a connection was upgraded to
/// keeps it.
#[derive(Clone)]
pub struct Place(#[expect(dead_code, reason = "held, not looked at")] Arc<Held>);

struct Held {
    metrics: Arc<HttpMetrics>,
    _slot: OwnedSemaphorePermit,
}

impl Place {
    fn new(metrics: Arc<HttpMetrics>, slot: OwnedSemaphorePermit) -> Self {
        metrics.connections.inc();
        Self(Arc::new(Held { metrics, _slot: slot }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

struct Connection {
    edge: Arc<Edge>,
    place: Place,
    remote: SocketAddr,
    limits: Limits,
    draining: watch::Receiver<bool>,
}

impl Connection {
    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(self.place.clone());
        }
        let mut response = self.edge.answer(request, self.remote).await?;
        // What is no HTTP any more ends by its own rules.
        if *self.draining.borrow() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn run(self, stream: TcpStream, mut phase: watch::Receiver<Phase>) {
        // Small answers must not wait for an acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let stream = Impatient::new(stream, self.limits.write_timeout);
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let mut closing = false;
        loop {
            let wanted = if closing { Phase::Closed } else { Phase::Closing };
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        self.log(&error);
                    }
                    break;
                }
                _ = phase.wait_for(|phase| *phase >= wanted) => {
                    if closing {
                        break;
                    }
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    fn log(&self, error: &hyper::Error) {
        if super::impatient::is_cause_of(error) {
            tracing::info!(remote = %self.remote, "connection closed: the client takes nothing of what it is sent");
        } else {
            tracing::debug!(remote = %self.remote, %error, "connection ended");
        }
    }
}
