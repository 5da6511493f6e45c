//! The leader's side of the append lane: many requests in flight on one connection, answers in order.
//!
//! openraft's replication task of a peer polls the stream of answers, and that drives everything: there is no
//! other task and no queue between the log and the socket. The connection outlives the stream: a stream ends at
//! each conflict or change of plan, and the next one goes on with a new session number on the same connection.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt};
use futures_util::{Stream, stream};
use openraft::errors::Unreachable;
use ovncp_state::NodeId;
use ovncp_storage::types::Peer;
use tokio::time::sleep_until;
use tracing::debug;

use super::client::DialError;
use super::conn::{Conn, ConnError, Liveness, Silence};
use super::dial::{LaneLog, Shared};
use super::frame::{Frame, Kind};
use super::identity::Lane;
use super::limits::{APPEND_BYTES_IN_FLIGHT_MAX, APPEND_FRAME_BYTES, APPENDS_IN_FLIGHT_MAX};
use super::link::{accused, answer_body};
use super::net::Net;
use super::types::{AppendRequest, AppendResult, Entry, LogId, RpcError};
use super::wire::{self, Fault};

/// An item of the stream of answers.
type Item = Result<AppendResult, RpcError>;

/// What remains between two streams.
pub(super) struct AppendLane<N: Net> {
    shared: Arc<Shared<N>>,
    target: NodeId,
    conn: Option<Conn<N::Stream>>,
    sessions: u64,
    frames: u64,
    log: LaneLog,
}

impl<N: Net> AppendLane<N> {
    pub(super) fn new(shared: Arc<Shared<N>>, target: NodeId) -> Self {
        Self { shared, target, conn: None, sessions: 0, frames: 0, log: LaneLog::default() }
    }

    /// Sends what `input` yields, and yields one answer for each in order. An error of any sort is the last
    /// item. `peer` says where the target is now.
    pub(super) fn stream<'s, I>(&'s mut self, input: I, peer: Peer) -> BoxStream<'s, Item>
    where
        I: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        self.sessions += 1;
        let session = Session {
            live: Liveness::new(self.shared.options.stall_timeout),
            lane: self,
            peer,
            input,
            ended: false,
            current: None,
            flying: VecDeque::new(),
            flying_bytes: 0,
        };
        stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            let item = session.next().await?;
            let last = !matches!(item, Ok(Ok(_)));
            Some((item, (!last).then_some(session)))
        })
        .boxed()
    }
}

/// A frame that was handed to the connection and not answered.
struct Flying {
    id: u64,
    bytes: usize,
    /// Whether it carries the end of its request, whose answer is the request's.
    last: bool,
}

/// A request of which entries before `sent` are on their way.
struct Current {
    request: AppendRequest,
    sent: usize,
}

struct Session<'s, N: Net, I> {
    lane: &'s mut AppendLane<N>,
    peer: Peer,
    input: I,
    /// The input has no more requests.
    ended: bool,
    current: Option<Current>,
    flying: VecDeque<Flying>,
    flying_bytes: usize,
    live: Liveness,
}

impl<N: Net, I: Stream<Item = AppendRequest> + Send + Unpin> Session<'_, N, I> {
    async fn next(&mut self) -> Option<Item> {
        loop {
            if self.ended && self.current.is_none() && self.flying.is_empty() {
                return None;
            }
            if self.lane.conn.is_none() {
                // openraft's backoff sits in the input: only what came through it is worth a dial.
                if self.current.is_none() {
                    self.pull().await;
                    continue;
                }
                if let Err(error) = self.dial().await {
                    return Some(Err(unreachable(&error)));
                }
            }
            self.send_current();
            match self.step().await {
                Ok(None) => {}
                Ok(Some(item)) => return Some(item),
                Err(error) => {
                    self.lane.conn = None;
                    self.lane.log.lost(&self.peer, Lane::Append, &error);
                    // With nothing in flight nothing is in doubt: go on over a new connection.
                    if !self.flying.is_empty() {
                        return Some(Err(unreachable(&error)));
                    }
                }
            }
        }
    }

    async fn pull(&mut self) {
        match self.input.next().await {
            Some(request) => self.current = Some(Current { request, sent: 0 }),
            None => self.ended = true,
        }
    }

    async fn dial(&mut self) -> Result<(), DialError> {
        let lane = &mut *self.lane;
        match lane.shared.dial_peer(lane.target, &self.peer, Lane::Append).await {
            Ok(conn) => {
                lane.log.up(&self.peer, Lane::Append);
                lane.conn = Some(conn);
                Ok(())
            }
            Err(error) => {
                lane.log.down(&self.peer, Lane::Append, &error);
                Err(error)
            }
        }
    }

    fn has_room(&self) -> bool {
        self.flying.len() < APPENDS_IN_FLIGHT_MAX && self.flying_bytes < APPEND_BYTES_IN_FLIGHT_MAX
    }

    /// Hands as much of the current request to the connection as there is room for.
    fn send_current(&mut self) {
        while self.has_room()
            && let Some(current) = &mut self.current
            && let Some(conn) = &mut self.lane.conn
            && !conn.writer.is_full()
        {
            if self.flying.is_empty() {
                self.live.heard();
            }
            let Current { request, sent } = current;
            let part = part_len(&request.entries[*sent..]);
            let prev =
                sent.checked_sub(1).map_or(request.prev_log_id, |last| Some(log_id(&request.entries[last])));
            let entries = &request.entries[*sent..*sent + part];
            let before = conn.writer.len();
            self.lane.frames += 1;
            let id = self.lane.frames;
            let session = self.lane.sessions;
            conn.writer.push(Kind::Append, id, |out| wire::put_append(out, session, request, prev, entries));
            let bytes = conn.writer.len() - before;
            *sent += part;
            let last = *sent == request.entries.len();
            self.flying.push_back(Flying { id, bytes, last });
            self.flying_bytes += bytes;
            if last {
                self.current = None;
            }
        }
    }

    /// Waits for whatever comes first. Everything it waits for can be dropped without loss.
    async fn step(&mut self) -> Result<Option<Item>, ConnError> {
        let wants_input = !self.ended && self.current.is_none() && self.has_room();
        let expects = !self.flying.is_empty();
        let deadline = self.live.deadline();
        let Some(conn) = &mut self.lane.conn else { return Ok(None) };
        let room = !conn.writer.is_full();
        let unwritten = !conn.writer.is_empty();
        tokio::select! {
            biased;
            frame = conn.reader.next() => self.receive(frame?),
            // The log first: requests that are ready share a write.
            request = self.input.next(), if wants_input && room => {
                match request {
                    Some(request) => self.current = Some(Current { request, sent: 0 }),
                    None => self.ended = true,
                }
                Ok(None)
            }
            flushed = conn.writer.flush(), if unwritten => flushed.map(|()| None),
            () = sleep_until(deadline), if expects => match self.live.silent() {
                Silence::Ask => {
                    conn.writer.push(Kind::Ping, 0, |_| ());
                    Ok(None)
                }
                Silence::Dead => Err(ConnError::Stalled),
            },
        }
    }

    fn receive(&mut self, frame: Frame) -> Result<Option<Item>, ConnError> {
        self.live.heard();
        match frame.kind {
            Kind::Pong => return Ok(None),
            Kind::Ping => {
                if let Some(conn) = &mut self.lane.conn {
                    conn.writer.push(Kind::Pong, frame.id, |_| ());
                }
                return Ok(None);
            }
            Kind::Fault => return Err(accused(&frame)),
            _ => {}
        }
        // Answers come in order; those of an earlier stream come first and have no reader any more.
        let Some(front) = self.flying.front().filter(|front| front.id == frame.id) else {
            debug!(id = frame.id, "answer to an append of an earlier stream");
            return Ok(None);
        };
        let last = front.last;
        self.flying_bytes -= front.bytes;
        self.flying.pop_front();
        let body = match answer_body(frame, Kind::AppendAnswer) {
            Ok(body) => body,
            Err(error) => return Ok(Some(Err(unreachable(&error)))),
        };
        let (_, result) =
            wire::take_append_result(&body).map_err(|_| Fault::Body(Kind::AppendAnswer as u8))?;
        Ok((last || result.is_err()).then_some(Ok(result)))
    }
}

/// How many of the entries go into one frame: at least one, if there are any.
fn part_len(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += weight(entry);
        bytes <= APPEND_FRAME_BYTES
    });
    fitting.count().max(1).min(entries.len())
}

/// Bytes of an entry's envelope; the rest is small.
fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.envelope.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    }
}

fn log_id(entry: &Entry) -> LogId {
    entry.log_id
}

/// openraft backs off from an unreachable peer; anything else it would try again at once.
pub(super) fn unreachable(error: &dyn std::fmt::Display) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(error))
}
