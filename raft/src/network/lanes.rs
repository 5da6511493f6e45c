//! What the listening side does on each lane. One task per connection reads, works and writes; handlers run
//! inside it, side by side where the lane allows.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future::BoxFuture, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::admission::{Admitted, Probe};
use super::conn::{Conn, ConnError};
use super::frame::{Frame, Kind};
use super::handler::{NotServing, PeerHandler};
use super::identity::PeerIdentity;
use super::limits::{
    APPEND_BYTES_IN_FLIGHT_MAX, APPENDS_IN_FLIGHT_MAX, CALLS_IN_FLIGHT_MAX, SNAPSHOT_CHUNKS_QUEUED_MAX,
};
use super::snapshot::SNAPSHOT_STALL;
use super::types::{AppendRequest, AppendResult};
use super::wire::{self, Fault, WireError};

/// A handler that has no answer by then is dropped, and its call answered as unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A control connection that asks nothing for this long is closed.
const CONTROL_IDLE: Duration = Duration::from_secs(10);

/// A connection that can be served.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An answer to be written.
pub(super) struct Answer {
    kind: Kind,
    body: BytesMut,
}

impl Answer {
    fn new(kind: Kind, fill: impl FnOnce(&mut BytesMut)) -> Self {
        let mut body = BytesMut::new();
        fill(&mut body);
        Self { kind, body }
    }

    fn or_declined<T>(
        kind: Kind,
        result: Result<T, NotServing>,
        fill: impl FnOnce(&mut BytesMut, &T),
    ) -> Self {
        match result {
            Ok(value) => Self::new(kind, |out| fill(out, &value)),
            Err(NotServing { reason }) => Self::new(Kind::Declined, |out| wire::put(out, &reason)),
        }
    }
}

fn misplaced(frame: &Frame) -> ConnError {
    Fault::Misplaced(frame.kind as u8).into()
}

fn body<T>(kind: Kind, taken: Result<T, WireError>) -> Result<T, ConnError> {
    taken.map_err(|_| Fault::Body(kind as u8).into())
}

/// Heartbeat and forward lanes: calls that run side by side and are answered as they finish.
pub(super) async fn calls<'h, S: Stream>(
    conn: &mut Conn<S>,
    admitted: &mut Admitted,
    start: impl Fn(PeerIdentity, Frame) -> Result<BoxFuture<'h, Answer>, ConnError>,
) -> ConnError {
    let mut running = FuturesUnordered::new();
    let mut probes: Vec<Probe> = Vec::new();
    loop {
        let unwritten = !conn.writer.is_empty();
        let room = !conn.writer.is_full();
        let step = tokio::select! {
            biased;
            flushed = conn.writer.flush(), if unwritten => flushed,
            Some((id, answer)) = running.next(), if room => {
                let answer: Answer = answer;
                conn.writer.push(answer.kind, id, |out| out.extend_from_slice(&answer.body));
                Ok(())
            }
            frame = conn.reader.next(), if room => match frame {
                Ok(Frame { kind: Kind::Ping, id, .. }) => {
                    conn.writer.push(Kind::Pong, id, |_| ());
                    Ok(())
                }
                Ok(Frame { kind: Kind::Pong, .. }) => {
                    for probe in probes.drain(..) {
                        // A prober may have given up.
                        let _ = probe.send(());
                    }
                    Ok(())
                }
                Ok(_) if running.len() >= CALLS_IN_FLIGHT_MAX => Err(Fault::InFlight.into()),
                Ok(frame) => {
                    let id = frame.id;
                    start(conn.peer.clone(), frame).map(|call| running.push(bounded(id, call)))
                }
                Err(error) => Err(error),
            },
            Some(asked) = admitted.probes.recv() => {
                conn.writer.push(Kind::Ping, 0, |_| ());
                // As many as there are hand-shakes under way; those that gave up leave.
                probes.retain(|probe| !probe.is_closed());
                probes.push(asked);
                Ok(())
            }
        };
        if let Err(error) = step {
            return error;
        }
    }
}

async fn bounded(id: u64, call: BoxFuture<'_, Answer>) -> (u64, Answer) {
    let answer = timeout(CALL_TIMEOUT, call).await;
    (id, answer.unwrap_or_else(|_| Answer::new(Kind::Unknown, |_| ())))
}

/// A call of the heartbeat lane.
pub(super) fn heartbeat<H: PeerHandler>(
    handler: &H,
    _from: PeerIdentity,
    frame: Frame,
) -> Result<BoxFuture<'_, Answer>, ConnError> {
    let kind = frame.kind;
    Ok(match kind {
        Kind::Heartbeat => {
            let (session, request) = body(kind, wire::take_append(&frame.body))?;
            let call = async move {
                Answer::or_declined(Kind::HeartbeatAnswer, handler.heartbeat(request).await, |out, result| {
                    wire::put_append_result(out, session, result);
                })
            };
            call.boxed()
        }
        Kind::Vote => {
            let request = body(kind, wire::take_vote(&frame.body))?;
            async move {
                Answer::or_declined(Kind::VoteAnswer, handler.vote(request).await, wire::put_vote_response)
            }
            .boxed()
        }
        Kind::PreVote => {
            let request = body(kind, wire::take_vote(&frame.body))?;
            let call = async move {
                let answer = handler.pre_vote(request).await;
                Answer::or_declined(Kind::PreVoteAnswer, answer, wire::put_vote_response)
            };
            call.boxed()
        }
        Kind::Transfer => {
            let request = body(kind, wire::take_transfer(&frame.body))?;
            let call = async move {
                let answer = handler.transfer_leader(request).await;
                Answer::or_declined(Kind::TransferAnswer, answer, wire::put_transfer_response)
            };
            call.boxed()
        }
        _ => return Err(misplaced(&frame)),
    })
}

/// A call of the forward lane.
pub(super) fn forward<H: PeerHandler>(
    handler: &H,
    from: PeerIdentity,
    frame: Frame,
) -> Result<BoxFuture<'_, Answer>, ConnError> {
    let kind = frame.kind;
    Ok(match kind {
        Kind::Forward => {
            let items = body(kind, wire::take_forward(&frame.body))?;
            let call = async move {
                let outcomes = handler.forward(&from, items).await;
                Answer::new(Kind::ForwardAnswer, |out| wire::put(out, &outcomes))
            };
            call.boxed()
        }
        Kind::Renew => {
            let items = body(kind, wire::take_renew(&frame.body))?;
            let call = async move {
                let outcomes = handler.renew(&from, items).await;
                Answer::new(Kind::RenewAnswer, |out| wire::put(out, &outcomes))
            };
            call.boxed()
        }
        Kind::ReadIndex => {
            let call = async move {
                let answer = handler.read_index(&from).await;
                Answer::new(Kind::ReadIndexAnswer, |out| wire::put(out, &answer))
            };
            call.boxed()
        }
        _ => return Err(misplaced(&frame)),
    })
}

/// One `stream_append` call of the leader.
struct Appends {
    session: u64,
    input: mpsc::Sender<AppendRequest>,
    answers: BoxStream<'static, Result<AppendResult, NotServing>>,
    /// Frame ids and bytes of the requests without an answer, oldest first.
    flying: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Appends {
    fn start<H: PeerHandler>(handler: &H, session: u64) -> Self {
        let (input, requests) = mpsc::channel(APPENDS_IN_FLIGHT_MAX);
        let requests = stream::unfold(requests, |mut requests: mpsc::Receiver<AppendRequest>| async move {
            let request = requests.recv().await?;
            Some((request, requests))
        });
        let answers = handler.append(requests.boxed());
        Self { session, input, answers, flying: VecDeque::new(), bytes: 0 }
    }

    fn push(&mut self, id: u64, bytes: usize, request: AppendRequest) -> Result<(), ConnError> {
        if self.flying.len() >= APPENDS_IN_FLIGHT_MAX || self.bytes >= APPEND_BYTES_IN_FLIGHT_MAX {
            return Err(Fault::InFlight.into());
        }
        // Invariant: the channel has room for every request in flight. A closed one means that the stream has
        // ended, which its answers tell.
        let _ = self.input.try_send(request);
        self.flying.push_back((id, bytes));
        self.bytes += bytes;
        Ok(())
    }
}

/// The append lane: a stream of requests into the handler, a stream of answers out of it.
pub(super) async fn append<S: Stream, H: PeerHandler>(conn: &mut Conn<S>, handler: &H) -> ConnError {
    let mut appends: Option<Appends> = None;
    // Of a session that ended, what was in flight behind the error is void.
    let mut void: Option<u64> = None;
    loop {
        let unwritten = !conn.writer.is_empty();
        let room = !conn.writer.is_full();
        let expects = appends.as_ref().is_some_and(|appends| !appends.flying.is_empty());
        let answer = async {
            match &mut appends {
                Some(appends) => appends.answers.next().await,
                None => std::future::pending().await,
            }
        };
        let step = tokio::select! {
            biased;
            answer = answer, if expects && room => {
                if let Some(ended) = answer_append(conn, &mut appends, answer) {
                    void = Some(ended);
                }
                Ok(())
            }
            // The leader waits for answers: they go out before further requests come in.
            flushed = conn.writer.flush(), if unwritten => flushed,
            frame = conn.reader.next(), if room => match frame {
                Ok(frame) => receive_append(conn, handler, &mut appends, void, frame),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = step {
            return error;
        }
    }
}

/// Writes an answer. Returns the session if it ended with it.
fn answer_append<S: Stream>(
    conn: &mut Conn<S>,
    appends: &mut Option<Appends>,
    answer: Option<Result<AppendResult, NotServing>>,
) -> Option<u64> {
    let current = appends.as_mut()?;
    let session = current.session;
    let (id, bytes) = current.flying.pop_front()?;
    current.bytes -= bytes;
    let answer = answer.unwrap_or_else(|| Err(NotServing { reason: "the stream of appends ended".into() }));
    let go_on = matches!(answer, Ok(Ok(_)));
    let answer = Answer::or_declined(Kind::AppendAnswer, answer, |out, result| {
        wire::put_append_result(out, session, result);
    });
    conn.writer.push(answer.kind, id, |out| out.extend_from_slice(&answer.body));
    if go_on {
        return None;
    }
    *appends = None;
    Some(session)
}

fn receive_append<S: Stream, H: PeerHandler>(
    conn: &mut Conn<S>,
    handler: &H,
    appends: &mut Option<Appends>,
    void: Option<u64>,
    frame: Frame,
) -> Result<(), ConnError> {
    match frame.kind {
        Kind::Ping => {
            conn.writer.push(Kind::Pong, frame.id, |_| ());
            return Ok(());
        }
        Kind::Append => {}
        _ => return Err(misplaced(&frame)),
    }
    let (session, request) = body(frame.kind, wire::take_append(&frame.body))?;
    if void == Some(session) {
        return Ok(());
    }
    let current = match appends {
        Some(current) if current.session == session => current,
        // The leader started over: nobody reads the answers of the earlier stream.
        _ => appends.insert(Appends::start(handler, session)),
    };
    current.push(frame.id, frame.body.len(), request)
}

/// The bytes of a snapshot that is being received.
#[derive(Debug)]
pub struct SnapshotChunks {
    /// An empty piece is the end.
    chunks: mpsc::Receiver<Bytes>,
}

impl SnapshotChunks {
    /// The next bytes; `None` after the last one. An error when the sender went away or gave up before the end:
    /// what was received is worthless.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self.chunks.recv().await {
            Some(chunk) if chunk.is_empty() => Ok(None),
            Some(chunk) => Ok(Some(chunk)),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sender of the snapshot is gone")),
        }
    }
}

/// The snapshot lane: one after the other.
pub(super) async fn snapshot<S: Stream, H: PeerHandler>(conn: &mut Conn<S>, handler: &H) -> ConnError {
    loop {
        if let Err(error) = one_snapshot(conn, handler).await {
            return error;
        }
    }
}

async fn one_snapshot<S: Stream, H: PeerHandler>(conn: &mut Conn<S>, handler: &H) -> Result<(), ConnError> {
    let frame = loop {
        let frame = conn.reader.next().await?;
        match frame.kind {
            Kind::SnapshotOffer => break frame,
            // The rest of one that was answered early: its sender hangs up when it has read the answer.
            Kind::SnapshotChunk | Kind::SnapshotEnd => {}
            _ => return Err(misplaced(&frame)),
        }
    };
    let offer = body(frame.kind, wire::take_snapshot_offer(&frame.body))?;
    let bytes = offer.bytes;
    let (sender, chunks) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED_MAX);
    let install = handler.snapshot(offer, SnapshotChunks { chunks });
    let receive = receive_chunks(conn, sender, bytes);
    let answered = both(install, receive).await?;
    let answer = Answer::or_declined(Kind::SnapshotAnswer, answered, |out, response| {
        wire::put_vote_only(out, response.vote);
    });
    conn.writer.push(answer.kind, frame.id, |out| out.extend_from_slice(&answer.body));
    conn.writer.flush().await
}

/// Runs the handler and the receiver until the handler has answered. A broken connection drops the chunks' other
/// end, which the handler learns from its next read; it gets to finish, so that it can clean up.
async fn both<T>(
    install: impl Future<Output = T>,
    receive: impl Future<Output = Result<(), ConnError>>,
) -> Result<T, ConnError> {
    tokio::pin!(install, receive);
    tokio::select! {
        biased;
        answer = &mut install => Ok(answer),
        received = &mut receive => {
            let answer = install.await;
            received.map(|()| answer)
        }
    }
}

async fn receive_chunks<S: Stream>(
    conn: &mut Conn<S>,
    sender: mpsc::Sender<Bytes>,
    bytes: u64,
) -> Result<(), ConnError> {
    let mut received = 0;
    loop {
        let frame = timeout(SNAPSHOT_STALL, conn.reader.next()).await.map_err(|_| ConnError::Stalled)??;
        match frame.kind {
            Kind::SnapshotChunk if !frame.body.is_empty() => {
                received += frame.body.len() as u64;
                if received > bytes {
                    return Err(Fault::Body(frame.kind as u8).into());
                }
                // A handler that reads no further has its answer ready.
                let _ = sender.send(frame.body).await;
            }
            Kind::SnapshotEnd if received == bytes => {
                let _ = sender.send(Bytes::new()).await;
                return Ok(());
            }
            Kind::SnapshotChunk | Kind::SnapshotEnd => return Err(Fault::Body(frame.kind as u8).into()),
            _ => return Err(misplaced(&frame)),
        }
    }
}

/// The control lane: one question after the other.
pub(super) async fn control<S: Stream, H: PeerHandler>(conn: &mut Conn<S>, handler: &H) -> ConnError {
    loop {
        if let Err(error) = one_control(conn, handler).await {
            return error;
        }
    }
}

async fn one_control<S: Stream, H: PeerHandler>(conn: &mut Conn<S>, handler: &H) -> Result<(), ConnError> {
    let frame = timeout(CONTROL_IDLE, conn.reader.next()).await.map_err(|_| ConnError::Stalled)??;
    if frame.kind != Kind::Control {
        return Err(misplaced(&frame));
    }
    let request = body(frame.kind, wire::take(&frame.body))?;
    let peer = conn.peer.clone();
    let call = async {
        let response = handler.control(&peer, request).await;
        Answer::new(Kind::ControlAnswer, |out| wire::put(out, &response))
    };
    let answer = timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Answer::new(Kind::Unknown, |_| ()));
    conn.writer.push(answer.kind, frame.id, |out| out.extend_from_slice(&answer.body));
    conn.writer.flush().await
}
