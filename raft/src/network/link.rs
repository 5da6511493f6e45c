//! A connection that many callers share: the heartbeat and the forward lane to one peer, each owned by one task
//! that dials, writes calls in batches, matches answers to them and dials again.
//!
//! The heartbeat lane is kept open to every peer of the membership, so that a vote never waits for a dial, and
//! so that the end of a peer's process is seen at once: its kernel closes the connection and refuses the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ovncp_state::NodeId;
use ovncp_storage::runtime::spawn;
use ovncp_storage::types::Peer;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use super::client::{CallError, DialError};
use super::conn::{Conn, ConnError, Liveness, Silence};
use super::dial::{LaneLog, Shared, closed, lock};
use super::frame::{Frame, Kind};
use super::identity::{Lane, PeerIdentity, Refusal};
use super::limits::{CALLS_IN_FLIGHT_MAX, CALLS_QUEUED_MAX};
use super::net::Net;
use super::wire::{self, Fault};

type Answer = oneshot::Sender<Result<Frame, CallError>>;

/// One request on its way.
struct Call {
    kind: Kind,
    body: Bytes,
    answer: Answer,
}

/// The callers' end of a shared connection. Its task ends when the last clone is gone.
#[derive(Clone)]
pub(super) struct Link {
    calls: mpsc::Sender<Call>,
}

impl Link {
    /// Sends a request and waits for its answer, which must be of kind `expected`. The caller bounds the time.
    pub(super) async fn call(&self, kind: Kind, body: Bytes, expected: Kind) -> Result<Bytes, CallError> {
        let (answer, answered) = oneshot::channel();
        self.calls.try_send(Call { kind, body, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Busy,
            mpsc::error::TrySendError::Closed(_) => CallError::NotSent(DialError::Stopped),
        })?;
        let frame = answered.await.unwrap_or(Err(CallError::Lost))?;
        answer_body(frame, expected)
    }
}

/// The body of an answer of the expected kind.
pub(super) fn answer_body(frame: Frame, expected: Kind) -> Result<Bytes, CallError> {
    match frame.kind {
        kind if kind == expected => Ok(frame.body),
        Kind::Declined => {
            Err(CallError::Declined(wire::take(&frame.body).unwrap_or_else(|_| "no reason".to_owned())))
        }
        _ => Err(CallError::Lost),
    }
}

/// What is kept per peer. Dropping it ends its links.
pub(super) struct PeerEntry {
    /// Where it is now.
    pub(super) peer: Arc<Mutex<Peer>>,
    pub(super) heartbeat: Link,
    pub(super) forward: Link,
    /// Whether the heartbeat lane is kept open without calls.
    pub(super) keep: Arc<AtomicBool>,
    /// Ends the pause before the next dial.
    pub(super) redial: [Arc<Notify>; 2],
}

impl PeerEntry {
    /// Starts the tasks of the links.
    pub(super) fn start<N: Net>(shared: &Arc<Shared<N>>, id: NodeId, peer: Peer, keep: bool) -> Self {
        let peer = Arc::new(Mutex::new(peer));
        let keep = Arc::new(AtomicBool::new(keep));
        let start = |lane, keep: &Arc<AtomicBool>| {
            let (calls, queue) = mpsc::channel(CALLS_QUEUED_MAX);
            let redial = Arc::new(Notify::new());
            let task = LinkTask {
                shared: Arc::clone(shared),
                closing: shared.closing.subscribe(),
                id,
                lane,
                peer: Arc::clone(&peer),
                keep: Arc::clone(keep),
                redial: Arc::clone(&redial),
                queue,
                waiting: VecDeque::new(),
                log: LaneLog::default(),
                lost: None,
            };
            let mut tasks = lock(&shared.tasks);
            tasks.retain(|task| !task.is_finished());
            tasks.push(spawn(task.run()));
            (Link { calls }, redial)
        };
        let (heartbeat, redial_heartbeat) = start(Lane::Heartbeat, &keep);
        let (forward, redial_forward) = start(Lane::Forward, &Arc::new(AtomicBool::new(false)));
        Self { peer, heartbeat, forward, keep, redial: [redial_heartbeat, redial_forward] }
    }

    /// The peer may be reachable now.
    pub(super) fn redial_now(&self) {
        self.redial.iter().for_each(|redial| redial.notify_one());
    }
}

struct LinkTask<N: Net> {
    shared: Arc<Shared<N>>,
    closing: watch::Receiver<bool>,
    id: NodeId,
    lane: Lane,
    peer: Arc<Mutex<Peer>>,
    keep: Arc<AtomicBool>,
    redial: Arc<Notify>,
    queue: mpsc::Receiver<Call>,
    /// Taken from the queue before there was a connection.
    waiting: VecDeque<Call>,
    log: LaneLog,
    /// The process whose connection was lost, until it is known what became of it.
    lost: Option<PeerIdentity>,
}

/// Why a task stops trying.
enum Stop {
    /// No caller is left, or everything ends.
    Done,
}

impl<N: Net> LinkTask<N> {
    async fn run(mut self) {
        // The only way out is `Stop`.
        let Err(Stop::Done) = self.keep_connected().await;
        self.see(|sight| sight.connected = false);
        self.queue.close();
        while let Ok(call) = self.queue.try_recv() {
            self.waiting.push_back(call);
        }
        self.decline(&DialError::Stopped);
    }

    async fn keep_connected(&mut self) -> Result<std::convert::Infallible, Stop> {
        let mut failures = 0;
        loop {
            self.wait_for_need().await?;
            let peer = lock(&self.peer).clone();
            let dialed = tokio::select! {
                biased;
                () = closed(&mut self.closing) => return Err(Stop::Done),
                dialed = self.shared.dial_peer(self.id, &peer, self.lane) => dialed,
            };
            match dialed {
                Ok(conn) => {
                    failures = 0;
                    self.connected(&peer, &conn.peer);
                    let identity = conn.peer.clone();
                    let ended = self.serve(conn).await;
                    self.lost = Some(identity);
                    self.see(|sight| sight.connected = false);
                    self.log.lost(&peer, self.lane, &ended?);
                }
                Err(error) => {
                    self.failed(&peer, &error);
                    failures += 1;
                    self.pause(failures, &error).await?;
                }
            }
        }
    }

    /// A connection that is not kept open is dialed for a call.
    async fn wait_for_need(&mut self) -> Result<(), Stop> {
        while self.waiting.is_empty() && !self.keep.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                () = closed(&mut self.closing) => return Err(Stop::Done),
                call = self.queue.recv() => self.waiting.push_back(call.ok_or(Stop::Done)?),
                () = self.redial.notified() => {}
            }
        }
        Ok(())
    }

    fn connected(&mut self, peer: &Peer, identity: &PeerIdentity) {
        self.log.up(peer, self.lane);
        let restarted = self.lost.take().is_some_and(|lost| lost.process != identity.process);
        if restarted {
            info!(peer = peer.name, boot = identity.boot, "peer was restarted");
        }
        self.see(|sight| {
            sight.connected = true;
            sight.boot = Some(identity.boot);
            sight.refusal = None;
            if restarted {
                sight.gone_at = Some(Instant::now());
            }
        });
    }

    fn failed(&mut self, peer: &Peer, error: &DialError) {
        self.log.down(peer, self.lane, error);
        let gone = matches!(error, DialError::ConnectionRefused | DialError::Refused(Refusal::Stopping))
            && self.lost.take().is_some();
        if gone && self.lane == Lane::Heartbeat {
            info!(peer = peer.name, "the process of the peer is gone");
        }
        self.see(|sight| {
            sight.refusal = match error {
                DialError::Refused(refusal) => Some(refusal.clone()),
                _ => None,
            };
            if gone {
                sight.gone_at = Some(Instant::now());
            }
        });
    }

    /// Waits before the next dial. Calls are declined meanwhile, and so are those that waited for this one.
    async fn pause(&mut self, failures: u32, error: &DialError) -> Result<(), Stop> {
        let pause = sleep(self.shared.redial_pause(failures));
        tokio::pin!(pause);
        loop {
            self.decline(error);
            tokio::select! {
                biased;
                () = closed(&mut self.closing) => return Err(Stop::Done),
                call = self.queue.recv() => self.waiting.push_back(call.ok_or(Stop::Done)?),
                () = self.redial.notified() => return Ok(()),
                () = &mut pause => return Ok(()),
            }
        }
    }

    fn decline(&mut self, error: &DialError) {
        for call in self.waiting.drain(..) {
            // A caller that went away needs no answer.
            let _ = call.answer.send(Err(CallError::NotSent(error.clone())));
        }
    }

    /// Only the heartbeat lane tells what is seen of a peer.
    fn see(&self, change: impl FnOnce(&mut super::client::PeerSight)) {
        if self.lane == Lane::Heartbeat {
            self.shared.see(self.id, change);
        }
    }

    /// Runs a connection to its end and says why it ended.
    async fn serve(&mut self, conn: Conn<N::Stream>) -> Result<ConnError, Stop> {
        let boot = conn.peer.boot;
        let mut session = Session {
            conn,
            live: Liveness::new(self.shared.options.stall_timeout),
            flying: BTreeMap::new(),
            next: 1,
        };
        for call in self.waiting.drain(..) {
            session.send(call);
        }
        let ended = loop {
            let room = session.has_room();
            let unwritten = !session.conn.writer.is_empty();
            let deadline = session.live.deadline();
            let step = tokio::select! {
                biased;
                () = closed(&mut self.closing) => break Err(Stop::Done),
                frame = session.conn.reader.next() => frame.and_then(|frame| session.receive(frame)),
                flushed = session.conn.writer.flush(), if unwritten => flushed,
                call = self.queue.recv(), if room => match call {
                    Some(call) => {
                        session.send(call);
                        while session.has_room() && let Ok(call) = self.queue.try_recv() {
                            session.send(call);
                        }
                        Ok(())
                    }
                    None => break Err(Stop::Done),
                },
                () = sleep_until(deadline) => session.silent(),
                // Its sight is kept from now on: this connection was there before.
                () = self.redial.notified() => {
                    self.see(|sight| (sight.connected, sight.boot) = (true, Some(boot)));
                    Ok(())
                }
            };
            if let Err(error) = step {
                break Ok(error);
            }
        };
        for answer in std::mem::take(&mut session.flying).into_values() {
            let _ = answer.send(Err(CallError::Lost));
        }
        ended
    }
}

/// One connection and the calls in flight on it.
struct Session<S> {
    conn: Conn<S>,
    live: Liveness,
    flying: BTreeMap<u64, Answer>,
    next: u64,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Session<S> {
    fn has_room(&self) -> bool {
        self.flying.len() < CALLS_IN_FLIGHT_MAX && !self.conn.writer.is_full()
    }

    fn send(&mut self, call: Call) {
        // Its caller gave up while it waited: nobody may act on it any more.
        if call.answer.is_closed() {
            return;
        }
        let id = self.next;
        self.next += 1;
        self.conn.writer.push(call.kind, id, |out| out.extend_from_slice(&call.body));
        self.flying.insert(id, call.answer);
    }

    fn receive(&mut self, frame: Frame) -> Result<(), ConnError> {
        self.live.heard();
        match frame.kind {
            Kind::Pong => {}
            Kind::Ping => self.conn.writer.push(Kind::Pong, frame.id, |_| ()),
            Kind::Fault => return Err(accused(&frame)),
            _ => match self.flying.remove(&frame.id) {
                Some(answer) => drop(answer.send(Ok(frame))),
                None => debug!(kind = ?frame.kind, id = frame.id, "answer without a call"),
            },
        }
        Ok(())
    }

    fn silent(&mut self) -> Result<(), ConnError> {
        match self.live.silent() {
            Silence::Ask => {
                self.conn.writer.push(Kind::Ping, 0, |_| ());
                Ok(())
            }
            Silence::Dead => Err(ConnError::Stalled),
        }
    }
}

/// The other end says what we did wrong.
pub(super) fn accused(frame: &Frame) -> ConnError {
    ConnError::Accused(wire::take(&frame.body).unwrap_or(Fault::Body(Kind::Fault as u8)))
}
