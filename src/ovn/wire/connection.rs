//! One connection to a server: calls out, answers and notifications in, in the order in which they came.
//!
//! A [`Connection`] has no task of its own: whoever holds it awaits [`Connection::next`], which reads, writes, answers
//! the server's probes and sends its own while it waits. It may be dropped and awaited again at any moment.
//!
//! A call carries a token of the caller's, given back with its answer. When the connection is lost, every token comes
//! back with the one thing that matters then: whether the last byte of the call was handed to the system. If it was
//! not, the server cannot have acted on the call.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::framing::{Framer, FramingError, MESSAGE_BYTES_MAX};
use super::message::{self, Answer, Message};
use super::transport::Stream;

/// Most that waits to be written; a server that asks and does not read is left.
pub(crate) const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// How long a connection without probes waits before it looks at its deadlines again.
const IDLE: Duration = Duration::from_secs(3600);

/// Something that arrived.
#[derive(Debug)]
pub(crate) enum Event<T> {
    /// A call is answered.
    Reply { token: T, answer: Answer },
    /// The server tells something.
    Notification { method: String, params: Bytes },
    /// The server has answered a probe of ours.
    Alive,
}

/// A call that a lost connection leaves unanswered.
#[derive(Debug)]
pub(crate) struct Unanswered<T> {
    pub(crate) token: T,
    /// Whether the server may have seen the whole call.
    pub(crate) sent: bool,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the server has closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server has been silent for {0:?}")]
    Silent(Duration),
    #[error("the server does not speak JSON-RPC: {0}")]
    Framing(#[from] FramingError),
    #[error("the server does not speak JSON-RPC: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the server does not read what it is sent")]
    OutputFull,
}

/// When silence is asked about, and when it is believed to be the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Silence after which the server is asked whether it is there. Zero: never.
    pub(crate) probe_after: Duration,
    /// Silence after which it is left, if it was asked.
    pub(crate) leave_after: Duration,
}

struct Call<T> {
    /// `None` for our probes.
    token: Option<T>,
    /// Where the call ends in all that was ever queued.
    end: u64,
}

pub(crate) struct Connection<T> {
    stream: Box<dyn Stream>,
    framer: Framer,
    /// What is still to be written.
    output: BytesMut,
    output_bytes_max: usize,
    /// Whether something written may sit in the transport.
    flush_due: bool,
    /// Bytes that the transport has taken.
    sent: u64,
    received: u64,
    next_id: u64,
    /// Invariant: an id is in here from its call until its answer.
    calls: BTreeMap<u64, Call<T>>,
    patience: Patience,
    heard_at: Instant,
    probed: bool,
    timer: Pin<Box<Sleep>>,
}

impl<T> Connection<T> {
    pub(crate) fn new(stream: Box<dyn Stream>, patience: Patience) -> Self {
        Self {
            stream,
            framer: Framer::new(MESSAGE_BYTES_MAX),
            output: BytesMut::new(),
            output_bytes_max: OUTPUT_BYTES_MAX,
            flush_due: false,
            sent: 0,
            received: 0,
            next_id: 0,
            calls: BTreeMap::new(),
            patience,
            heard_at: Instant::now(),
            probed: false,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Queues a call; it is written by the next [`next`](Self::next). `params` is the text of a JSON array.
    pub(crate) fn call(&mut self, method: &'static str, params: &[u8], token: T) {
        self.queue(method, params, Some(token));
    }

    /// Bytes that wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.output.len()
    }

    /// Bytes taken by the transport, and bytes received.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// When the last byte came.
    pub(crate) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// How long silence lasts from now on.
    pub(crate) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
        self.timer.as_mut().reset(Instant::now());
    }

    /// Waits for what comes next. Cancel-safe: nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Event<T>, ConnectionError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The calls that are left when the connection is over, oldest first.
    pub(crate) fn into_unanswered(self) -> impl Iterator<Item = Unanswered<T>> {
        let accepted = self.sent;
        self.calls
            .into_values()
            .filter_map(move |call| Some(Unanswered { token: call.token?, sent: call.end <= accepted }))
    }

    fn queue(&mut self, method: &'static str, params: &[u8], token: Option<T>) {
        let id = self.next_id;
        self.next_id += 1;
        message::write_call(&mut self.output, id, method, params);
        let end = self.sent + self.output.len() as u64;
        self.calls.insert(id, Call { token, end });
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Event<T>, ConnectionError>> {
        loop {
            while let Some(frame) = self.framer.next()? {
                if let Some(event) = self.take(message::parse(&frame)?)? {
                    // What is queued by now is not held up by what arrives. A failure is met again below.
                    let _ = self.poll_write(context);
                    return Poll::Ready(Ok(event));
                }
            }
            let written = self.poll_write(context);
            match self.poll_read(context)? {
                Poll::Ready(()) => {}
                Poll::Pending => {
                    // Not before all was read that the server said: answers among it.
                    let _ = written?;
                    ready!(self.poll_silence(context))?;
                }
            }
        }
    }

    /// What a message means for the calls; gives back what is for the caller.
    fn take(&mut self, message: Message) -> Result<Option<Event<T>>, ConnectionError> {
        match message {
            Message::Reply { id, answer } => {
                let Some(call) = self.calls.remove(&id) else {
                    tracing::warn!(id, "an answer to no call of ours");
                    return Ok(None);
                };
                return Ok(Some(call.token.map_or(Event::Alive, |token| Event::Reply { token, answer })));
            }
            Message::Notification { method, params } => {
                return Ok(Some(Event::Notification { method, params }));
            }
            Message::Request { id, method, params } if method == "echo" => {
                message::write_answer(&mut self.output, &id, &params, b"null");
            }
            Message::Request { id, method, .. } => {
                tracing::warn!(method, "the server asks for what we do not know");
                message::write_answer(&mut self.output, &id, b"null", br#""unknown method""#);
            }
            Message::Stray => tracing::warn!("an answer to no call of ours"),
        }
        if self.output.len() > self.output_bytes_max { Err(ConnectionError::OutputFull) } else { Ok(None) }
    }

    /// Hands over what the transport takes. `Pending` when it takes no more for now.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, ConnectionError> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(0) => return Err(ConnectionError::Closed),
                Poll::Ready(taken) => {
                    self.output.advance(taken);
                    self.sent += taken as u64;
                    self.flush_due = true;
                }
            }
        }
        if self.flush_due && Pin::new(&mut self.stream).poll_flush(context)?.is_ready() {
            self.flush_due = false;
        }
        Ok(Poll::Ready(()))
    }

    /// Reads once. `Pending` when nothing is there.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, ConnectionError> {
        let read = self.stream.read_buf(self.framer.space());
        match pin!(read).poll(context)? {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(0) => Err(ConnectionError::Closed),
            Poll::Ready(count) => {
                self.received += count as u64;
                self.heard_at = Instant::now();
                self.probed = false;
                Ok(Poll::Ready(()))
            }
        }
    }

    /// Asks after long silence, and ends after longer. `Ready` when there is something new to write.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        loop {
            let due = match (self.patience.probe_after, self.probed) {
                (Duration::ZERO, _) => Instant::now() + IDLE,
                (probe_after, false) => self.heard_at + probe_after,
                (_, true) => self.heard_at + self.patience.leave_after,
            };
            if due > Instant::now() {
                if self.timer.deadline() != due {
                    self.timer.as_mut().reset(due);
                }
                ready!(self.timer.as_mut().poll(context));
                continue;
            }
            if self.probed {
                return Poll::Ready(Err(ConnectionError::Silent(self.heard_at.elapsed())));
            }
            self.probed = true;
            self.queue("echo", b"[]", None);
            return Poll::Ready(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    fn pair(bytes: usize, probe_secs: u64) -> (Connection<&'static str>, DuplexStream) {
        let (ours, theirs) = duplex(bytes);
        let probe_after = Duration::from_secs(probe_secs);
        let patience = Patience { probe_after, leave_after: probe_after * 2 };
        (Connection::new(Box::new(ours), patience), theirs)
    }

    /// Polls once, so that what can be written is written.
    async fn nudge(connection: &mut Connection<&'static str>) {
        let nothing = tokio::time::timeout(Duration::ZERO, connection.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }

    async fn read(stream: &mut DuplexStream) -> String {
        let mut buffer = vec![0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_lost_connection_tells_what_the_server_can_have_seen() {
        let (mut connection, theirs) = pair(100, 0);
        connection.call("transact", br#"["A"]"#, "answered");
        connection.call("transact", br#"["B"]"#, "sent");
        nudge(&mut connection).await;
        connection.call("transact", format!("[\"{}\"]", "x".repeat(200)).as_bytes(), "half");
        connection.call("transact", br#"["C"]"#, "behind");
        nudge(&mut connection).await;
        let mut theirs = theirs;
        theirs.write_all(br#"{"id":0,"result":[],"error":null}"#).await.unwrap();
        let event = connection.next().await.unwrap();
        assert!(matches!(event, Event::Reply { token: "answered", answer: Answer::Result(_) }), "{event:?}");
        drop(theirs);
        let error = connection.next().await.unwrap_err();
        assert!(matches!(error, ConnectionError::Closed | ConnectionError::Io(_)), "{error}");
        let left: Vec<_> = connection.into_unanswered().map(|call| (call.token, call.sent)).collect();
        assert_eq!(left, [("sent", true), ("half", false), ("behind", false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_asked_about_and_then_believed() {
        let (mut connection, mut theirs) = pair(4096, 5);
        let begun_at = Instant::now();
        let event = tokio::select! {
            event = connection.next() => event.unwrap(),
            () = async {
                let probe = read(&mut theirs).await;
                assert_eq!(probe, r#"{"id":0,"method":"echo","params":[]}"#);
                assert_eq!(begun_at.elapsed().as_secs(), 5);
                theirs.write_all(br#"{"id":0,"result":[],"error":null}"#).await.unwrap();
                std::future::pending().await
            } => unreachable!("the connection tells of the answer"),
        };
        assert!(matches!(event, Event::Alive), "{event:?}");
        let error = connection.next().await.unwrap_err();
        assert!(matches!(error, ConnectionError::Silent(_)), "{error}");
        assert_eq!(begun_at.elapsed().as_secs(), 15, "five seconds, an answer, and ten");
        assert_eq!(connection.into_unanswered().count(), 0, "a probe is nobody's call");
    }

    #[tokio::test(start_paused = true)]
    async fn without_probes_silence_is_borne() {
        let (mut connection, mut theirs) = pair(4096, 0);
        let waited = tokio::time::timeout(Duration::from_secs(100_000), connection.next()).await;
        assert!(waited.is_err(), "{waited:?}");
        connection.call("transact", b"[]", "call");
        nudge(&mut connection).await;
        assert_eq!(read(&mut theirs).await, r#"{"id":0,"method":"transact","params":[]}"#);
    }

    #[tokio::test]
    async fn a_server_that_asks_and_does_not_read_is_left() {
        let (mut connection, mut theirs) = pair(1 << 16, 0);
        connection.output_bytes_max = 1 << 20;
        let asking = tokio::spawn(async move {
            let words = "x".repeat(1 << 16);
            let echo = format!("{{\"id\":1,\"method\":\"echo\",\"params\":[\"{words}\"]}}");
            while theirs.write_all(echo.as_bytes()).await.is_ok() {}
        });
        let error = connection.next().await.unwrap_err();
        assert!(matches!(error, ConnectionError::OutputFull), "{error}");
        assert!(connection.backlog() <= (1 << 20) + (2 << 16));
        drop(connection);
        asking.await.unwrap();
    }
}
