//! Sending a snapshot: an offer, pieces, an end, one answer, over a connection of its own. TCP's flow control
//! is the back-pressure: the next piece is read once the one before is written.

use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::alias::SnapshotOf;
use openraft::errors::{ErrorSource, StreamingError, Timeout};
use openraft::{RPCTypes, alias::ErrorSourceOf};
use ovncp_state::NodeId;
use ovncp_storage::types::{Peer, TypeConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tracing::{debug, info};

use super::append::unreachable;
use super::conn::{Conn, ConnError};
use super::dial::{Shared, closed};
use super::frame::{Frame, Kind};
use super::handler::{SnapshotOffer, SnapshotSource};
use super::identity::Lane;
use super::limits::SNAPSHOT_CHUNK_BYTES;
use super::link::{accused, answer_body};
use super::net::Net;
use super::types::{SnapshotResponse, Vote};
use super::wire;

/// A piece that could not be written for this long ends the transfer.
pub(super) const SNAPSHOT_STALL: Duration = Duration::from_secs(10);

type SendError = StreamingError<TypeConfig>;

/// Sends a snapshot and waits until it is installed; for that at most `patience`.
pub(super) async fn send<N: Net, S: SnapshotSource>(
    shared: &Arc<Shared<N>>,
    target: NodeId,
    peer: &Peer,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, S>,
    patience: Duration,
) -> Result<SnapshotResponse, SendError> {
    let mut closing = shared.closing.subscribe();
    let transfer = async {
        let mut conn = shared
            .dial_peer(target, peer, Lane::Snapshot)
            .await
            .map_err(|error| SendError::from(unreachable(&error)))?;
        let mut source = snapshot.snapshot;
        let offer = SnapshotOffer { vote, meta: snapshot.meta, bytes: source.size() };
        info!(peer = peer.name, bytes = offer.bytes, "sending a snapshot");
        let early = send_all(&mut conn, &offer, &mut source).await?;
        let frame = match early {
            Some(frame) => frame,
            None => timeout(patience, receive(&mut conn))
                .await
                .map_err(|_| timed_out(shared, target, patience))?
                .map_err(|error| SendError::from(unreachable(&error)))?,
        };
        let body = answer_body(frame, Kind::SnapshotAnswer).map_err(|error| unreachable(&error))?;
        let vote = wire::take_vote_only(&body).map_err(|error| unreachable(&error))?;
        debug!(peer = peer.name, "snapshot answered");
        Ok(SnapshotResponse::new(vote))
    };
    tokio::select! {
        biased;
        () = closed(&mut closing) => Err(unreachable(&"stopping").into()),
        sent = transfer => sent,
    }
}

/// Writes everything; stops early when the other end has answered already.
async fn send_all<S, C>(
    conn: &mut Conn<C>,
    offer: &SnapshotOffer,
    source: &mut S,
) -> Result<Option<Frame>, SendError>
where
    S: SnapshotSource,
    C: AsyncRead + AsyncWrite + Unpin,
{
    conn.writer.push(Kind::SnapshotOffer, 1, |out| wire::put_snapshot_offer(out, offer));
    let mut offset = 0;
    loop {
        if let Some(answer) = write(conn).await.map_err(|error| unreachable(&error))? {
            return Ok(Some(answer));
        }
        let chunk = source.read_at(offset, SNAPSHOT_CHUNK_BYTES).map_err(|error| {
            // Our own snapshot cannot be read: that is this node's storage, not the network.
            SendError::StorageError(StorageError::read_snapshot(
                None,
                ErrorSourceOf::<TypeConfig>::from_error(&error),
            ))
        })?;
        if chunk.is_empty() {
            break;
        }
        offset += chunk.len() as u64;
        conn.writer.push(Kind::SnapshotChunk, 1, |out| out.extend_from_slice(&chunk));
    }
    conn.writer.push(Kind::SnapshotEnd, 1, |_| ());
    write(conn).await.map_err(|error| unreachable(&error).into())
}

/// Writes what waits, or receives an early answer.
async fn write<C: AsyncRead + AsyncWrite + Unpin>(conn: &mut Conn<C>) -> Result<Option<Frame>, ConnError> {
    let Conn { reader, writer, .. } = conn;
    let step = async {
        tokio::select! {
            biased;
            frame = reader.next() => frame.and_then(checked).map(Some),
            flushed = writer.flush() => flushed.map(|()| None),
        }
    };
    timeout(SNAPSHOT_STALL, step).await.unwrap_or(Err(ConnError::Stalled))
}

async fn receive<C: AsyncRead + AsyncWrite + Unpin>(conn: &mut Conn<C>) -> Result<Frame, ConnError> {
    conn.reader.next().await.and_then(checked)
}

fn checked(frame: Frame) -> Result<Frame, ConnError> {
    if frame.kind == Kind::Fault { Err(accused(&frame)) } else { Ok(frame) }
}

fn timed_out<N: Net>(shared: &Shared<N>, target: NodeId, patience: Duration) -> SendError {
    let id = shared.identity.id().unwrap_or_default().0;
    SendError::Timeout(Timeout { action: RPCTypes::InstallSnapshot, id, target: target.0, timeout: patience })
}
