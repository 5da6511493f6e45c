//! The listening side.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::client::PeerNetwork;
use super::handler::PeerHandler;
use super::net::Net;

/// The bytes of a snapshot that is being received.
#[derive(Debug)]
pub struct SnapshotChunks {
    chunks: mpsc::Receiver<Bytes>,
}

impl SnapshotChunks {
    /// The next bytes; `None` after the last one. An error when the sender went away or gave up before the end:
    /// what was received is worthless.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.chunks.recv().await)
    }
}

/// Serves the peers that dial `listener` until `shutdown` resolves (or the network is shut down), then closes
/// their connections and returns once every task of theirs has ended.
pub async fn serve<N: Net, S, H: PeerHandler>(
    network: PeerNetwork<N, S>,
    listener: N::Listener,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let _keep = (network, listener, handler);
    shutdown.await;
}
