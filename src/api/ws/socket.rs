//! One socket, from its welcome to its close.
//!
//! One task serves it: whatever comes first of its messages, its client's frames, the answer to the one request that is
//! under way, the logs it reads, and the clock. While a request is under way, the client is not read; so nothing of it
//! is queued here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ovncp_state::MessageOffset;
use ovncp_state::command::Recipient;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::frames::{self, Ask, Frame, Say};
use super::tails::{Tail, Tails};
use crate::api::App;
use crate::api::error::{ApiError, Code};
use crate::services::ServiceError;
use crate::services::sessions::{Attached, End, Kept, Step, Subscription};
use crate::telemetry::metrics::SessionMetrics;

/// Time between two pings: the guide's proxies cut a silent connection at 50 s.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Silence after which a client is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Time for a client to take what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that go out together when they wait anyway.
const BURST_MESSAGES_MAX: usize = 32;
/// Frames that cannot be understood before the socket is closed.
const MISTAKES_MAX: u32 = 16;
/// Time to send a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the client to answer it, and between two parts of what it is still sending. Cut off earlier, it might not see
/// why it was closed.
const LINGER: Duration = Duration::from_secs(2);
/// The same in all, for a client that goes on sending.
const LINGER_MAX: Duration = Duration::from_secs(30);

type Stream = WebSocketStream<TokioIo<Upgraded>>;

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// The client's wish.
    Normal,
    /// A binary frame.
    Binary,
    /// Neither JSON nor an object.
    NotJson,
    /// Too many frames that cannot be understood.
    Abuse,
    /// A message larger than allowed.
    TooLarge,
    /// The client goes on elsewhere.
    Restart,
    /// Another socket has the session.
    Moved,
    /// The token of a migration is not valid.
    InvalidToken,
    /// The client does not take what it is sent.
    Slow,
    /// There is no such session, or no more.
    Ended,
    /// There is nobody to tell.
    Lost,
}

impl Close {
    fn code(self) -> Option<u16> {
        match self {
            Self::Normal => Some(1000),
            Self::Binary => Some(1003),
            Self::NotJson => Some(1007),
            Self::Abuse => Some(1008),
            Self::TooLarge => Some(1009),
            Self::Restart => Some(1012),
            Self::Moved => Some(4001),
            Self::InvalidToken => Some(4003),
            Self::Slow => Some(4008),
            Self::Ended => Some(4009),
            Self::Lost => None,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Normal => "closed",
            Self::Binary => "binary frames are not understood",
            Self::NotJson => "frames are JSON objects",
            Self::Abuse => "too many frames that cannot be understood",
            Self::TooLarge => "message too large",
            Self::Restart => "go on at another node",
            Self::Moved => "session_moved",
            Self::InvalidToken => "invalid_token",
            Self::Slow => "slow_consumer",
            Self::Ended => "session_ended",
            Self::Lost => "",
        }
    }
}

impl From<End> for Close {
    fn from(end: End) -> Self {
        match end {
            End::Moved => Self::Moved,
            End::Ended => Self::Ended,
            End::Slow => Self::Slow,
            End::Restart => Self::Restart,
        }
    }
}

/// What became of the request under way.
enum Outcome {
    Subscribed(Result<Subscription, ServiceError>, Tails),
    Unsubscribed(Result<Subscription, ServiceError>),
    Published(Result<MessageOffset, ServiceError>),
    Ended(Result<(), ServiceError>),
}

type UnderWay = Pin<Box<dyn Future<Output = (Option<String>, Outcome)> + Send>>;

/// An open socket and its session.
pub(super) struct Socket {
    app: Arc<App>,
    stream: Stream,
    attached: Attached,
    under_way: Option<UnderWay>,
    tails: Tails,
    mistakes: u32,
}

/// What happens next.
enum Next {
    Step(Step),
    Came(Option<Result<Message, Error>>),
    Done((Option<String>, Outcome)),
    Tail(Tail),
    Clock,
}

impl Socket {
    pub(super) fn new(app: Arc<App>, stream: Stream, attached: Attached) -> Self {
        Self { app, stream, attached, under_way: None, tails: Tails::default(), mistakes: 0 }
    }

    /// Serves the client until one of the two has had enough.
    pub(super) async fn serve(mut self, resumed: bool) {
        let close = match self.welcome(resumed).await {
            Ok(()) => self.run().await,
            Err(close) => close,
        };
        tracing::debug!(session = %self.attached.grant().number, ?close, "socket closed");
        if matches!(close, Close::Moved | Close::Ended) {
            self.attached.settle();
        }
        let Self { app, mut stream, attached, .. } = self;
        if close == Close::Lost
            && let Some(expire) = attached.expire()
            && let Err(error) = expire.await
        {
            tracing::debug!(%error, "a silent session is not ended by its node");
        }
        // At once: its client may come back elsewhere before it has read the close.
        drop(attached);
        finish(&app.session_metrics, &mut stream, close).await;
    }

    async fn run(&mut self) -> Close {
        // Not all at the same moment after many came at once.
        let mut ping_at = Instant::now() + PING_INTERVAL.mul_f64(rand::random_range(0.5..1.0));
        loop {
            let listens = self.under_way.is_none() && !self.attached.is_behind();
            let next = tokio::select! {
                step = self.attached.next() => Next::Step(step),
                came = self.stream.next(), if listens => Next::Came(came),
                done = under_way(&mut self.under_way) => Next::Done(done),
                tail = self.tails.next(&self.app), if !self.tails.is_empty() => Next::Tail(tail),
                () = tokio::time::sleep_until(ping_at) => Next::Clock,
            };
            let went_on = match next {
                Next::Step(step) => self.step(step).await,
                Next::Came(came) => self.came(came).await,
                Next::Done((id, outcome)) => {
                    self.under_way = None;
                    self.done(id, outcome).await
                }
                Next::Tail(tail) => self.tail(tail).await,
                Next::Clock => {
                    ping_at = Instant::now() + PING_INTERVAL;
                    self.clock().await
                }
            };
            if let Err(close) = went_on {
                return close;
            }
        }
    }

    async fn welcome(&mut self, resumed: bool) -> Result<(), Close> {
        let grant = self.attached.grant();
        let text = Say::Welcome {
            session_id: grant.id.to_string(),
            session: grant.number.to_string(),
            user: &grant.user,
            node_id: &self.app.node_name,
            epoch: grant.epoch,
            resumed,
            position: self.attached.position().to_string(),
            channels: self.attached.channels().iter().map(String::as_str).collect(),
            resume_url: self.app.sessions.resume_url(&grant.id, &self.app.node_name),
            ping_interval_ms: u64::try_from(PING_INTERVAL.as_millis()).unwrap_or(u64::MAX),
        }
        .text();
        self.say(text).await
    }

    /// What the session has to tell; as much as waits goes out together.
    async fn step(&mut self, first: Step) -> Result<(), Close> {
        let mut next = Some(first);
        let mut burst = 0;
        while let Some(step) = next.take() {
            match step {
                Step::Message(kept) => {
                    self.feed(text_of(&kept)).await?;
                    self.attached.sent(&kept);
                    burst += 1;
                    if burst < BURST_MESSAGES_MAX {
                        next = self.attached.next().now_or_never();
                    }
                }
                Step::Reset(reset, channels) => {
                    let (first, next) = (reset.first.to_string(), reset.next.to_string());
                    let of =
                        |channel| Say::Reset { channel, first: first.clone(), next: next.clone() }.text();
                    for channel in channels.iter().flatten() {
                        self.feed(of(Some(channel.as_str())).into()).await?;
                    }
                    if channels.is_none() {
                        self.feed(of(None).into()).await?;
                    }
                }
                Step::Migrate(target) => {
                    // Its answer tells how far the client is when it comes without `since`.
                    self.ping().await?;
                    let say = Say::Migrate { url: &target.url, token: &target.token, node_id: &target.node };
                    self.feed(say.text().into()).await?;
                }
                Step::CaughtUp => {}
                Step::End(end) => return Err(end.into()),
            }
        }
        self.flush().await
    }

    async fn came(&mut self, came: Option<Result<Message, Error>>) -> Result<(), Close> {
        let message = match came {
            None => return Err(Close::Lost),
            Some(Ok(message)) => message,
            Some(Err(Error::Capacity(_))) => return Err(Close::TooLarge),
            Some(Err(Error::Utf8(_))) => return Err(Close::NotJson),
            Some(Err(error)) => {
                tracing::debug!(%error, "socket lost");
                return Err(Close::Lost);
            }
        };
        self.attached.touch();
        match message {
            Message::Text(text) => {
                self.app.session_metrics.received();
                self.frame(frames::parse(&text).ok_or(Close::NotJson)?).await
            }
            Message::Binary(_) => Err(Close::Binary),
            Message::Pong(payload) => {
                if let Some(position) = position_of(&payload) {
                    self.attached.acknowledged(position);
                }
                Ok(())
            }
            // The library answers pings and closes by itself; the answers go out with the next flush.
            Message::Ping(_) => self.flush().await,
            Message::Close(_) => {
                let _ = self.flush().await;
                Err(Close::Normal)
            }
            Message::Frame(_) => Ok(()),
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Close> {
        let Frame { id, ask } = frame;
        let ask = match ask {
            Ok(ask) => ask,
            Err(error) => return self.mistake(&error, id).await,
        };
        let attached = &self.attached;
        let under_way: UnderWay = match ask {
            Ask::Ping => return self.say(Say::Pong { r#ref: id }.text()).await,
            Ask::Close => {
                let end = attached.end();
                Box::pin(async move { (id, Outcome::Ended(end.await)) })
            }
            Ask::Subscribe { channels, logs, since } => {
                let opened = Tails::open(&self.app, &self.tails, logs);
                let tails = match opened {
                    Ok(tails) => tails,
                    Err(error) => return self.mistake(&error, id).await,
                };
                let subscribe = attached.subscribe(channels, Vec::new(), since);
                Box::pin(async move { (id, Outcome::Subscribed(subscribe.await, tails)) })
            }
            Ask::Unsubscribe { channels, logs } => {
                self.tails.close(&logs);
                let unsubscribe = attached.subscribe(Vec::new(), channels, None);
                Box::pin(async move { (id, Outcome::Unsubscribed(unsubscribe.await)) })
            }
            Ask::Publish { channel, data } => {
                let to = match self.recipient(channel) {
                    Ok(to) => to,
                    Err(error) => return self.mistake(&error, id).await,
                };
                let publish = attached.publish(to, data);
                Box::pin(async move { (id, Outcome::Published(publish.await)) })
            }
        };
        self.under_way = Some(under_way);
        Ok(())
    }

    /// A client publishes to itself, to its user, and to what it listens to.
    fn recipient(&self, channel: String) -> Result<Recipient, ApiError> {
        let grant = self.attached.grant();
        match channel.as_str() {
            frames::SESSION => Ok(Recipient::Session(grant.number)),
            frames::USER => Ok(Recipient::User(grant.user.clone())),
            name if self.attached.channels().contains(name) => Ok(Recipient::Channel(channel)),
            name => Err(ApiError::invalid("channel", format!("this session does not listen to {name:?}"))),
        }
    }

    async fn done(&mut self, id: Option<String>, outcome: Outcome) -> Result<(), Close> {
        let text = match outcome {
            Outcome::Published(Ok(offset)) => Say::Published { offset: offset.to_string(), r#ref: id }.text(),
            Outcome::Ended(Ok(())) => return Err(Close::Ended),
            Outcome::Subscribed(Ok(mut subscription), tails) => {
                let nonexistent = subscription.nonexistent.take();
                let fresh = subscription.added().to_vec();
                self.attached.subscribed(subscription);
                self.tails.join(tails);
                let text = Say::Subscribed { channels: self.listened(), r#ref: id }.text();
                self.say(text).await?;
                if let Some(reset) = nonexistent {
                    return self.step(Step::Reset(reset, Some(fresh))).await;
                }
                return Ok(());
            }
            Outcome::Unsubscribed(Ok(subscription)) => {
                self.attached.subscribed(subscription);
                Say::Unsubscribed { channels: self.listened(), r#ref: id }.text()
            }
            Outcome::Subscribed(Err(error), _)
            | Outcome::Unsubscribed(Err(error))
            | Outcome::Published(Err(error))
            | Outcome::Ended(Err(error)) => frames::error_text(&error.into(), id),
        };
        self.say(text).await
    }

    fn listened(&self) -> Vec<&str> {
        let channels = self.attached.channels().iter().map(String::as_str);
        channels.chain(self.tails.names().map(|name: &'static str| -> &str { name })).collect()
    }

    async fn tail(&mut self, tail: Tail) -> Result<(), Close> {
        for text in tail.0 {
            self.feed(text).await?;
        }
        self.flush().await
    }

    async fn mistake(&mut self, error: &ApiError, id: Option<String>) -> Result<(), Close> {
        // A limit of this node is no mistake of its client.
        if error.code != Code::LimitExceeded {
            self.mistakes += 1;
        }
        self.say(frames::error_text(error, id)).await?;
        if self.mistakes >= MISTAKES_MAX { Err(Close::Abuse) } else { Ok(()) }
    }

    /// Sees whether the client is still there.
    async fn clock(&mut self) -> Result<(), Close> {
        if self.attached.idle() >= SILENCE_MAX {
            return Err(Close::Lost);
        }
        self.ping().await?;
        self.flush().await
    }

    /// The answer proves that everything before it has arrived.
    async fn ping(&mut self) -> Result<(), Close> {
        let position = self.attached.position().0.to_be_bytes();
        send(self.stream.feed(Message::Ping(Bytes::copy_from_slice(&position)))).await
    }

    async fn say(&mut self, text: String) -> Result<(), Close> {
        self.feed(text.into()).await?;
        self.flush().await
    }

    async fn feed(&mut self, text: Utf8Bytes) -> Result<(), Close> {
        self.app.session_metrics.sent();
        send(self.stream.feed(Message::Text(text))).await
    }

    async fn flush(&mut self) -> Result<(), Close> {
        send(self.stream.flush()).await
    }
}

async fn under_way(under_way: &mut Option<UnderWay>) -> (Option<String>, Outcome) {
    match under_way {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}

/// A client that takes nothing for so long is too slow, whatever waits for it.
async fn send(sending: impl Future<Output = Result<(), Error>>) -> Result<(), Close> {
    match tokio::time::timeout(SEND_TIMEOUT, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Error::WriteBufferFull(_))) | Err(_) => Err(Close::Slow),
        Ok(Err(error)) => {
            tracing::debug!(%error, "socket lost");
            Err(Close::Lost)
        }
    }
}

/// The text of a message, made once for all sockets.
fn text_of(kept: &Kept) -> Utf8Bytes {
    let bytes = kept.text.get_or_init(|| frames::event_text(kept).into());
    Utf8Bytes::try_from(bytes.clone()).unwrap_or_default()
}

/// The position that a ping carried.
fn position_of(payload: &[u8]) -> Option<MessageOffset> {
    Some(MessageOffset(u64::from_be_bytes(payload.try_into().ok()?)))
}

/// Tells a client that came in vain why.
pub(super) async fn refuse(app: &App, mut stream: Stream, close: Close) {
    finish(&app.session_metrics, &mut stream, close).await;
}

/// Says why, and waits a little for the client to read it.
async fn finish(metrics: &SessionMetrics, stream: &mut Stream, close: Close) {
    metrics.closed(close.code());
    // A close of the client is answered already.
    let Some(code) = close.code().filter(|_| close != Close::Normal) else { return };
    let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(close.reason()) };
    let sending = stream.send(Message::Close(Some(frame)));
    if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, sending).await, Ok(Ok(()))) {
        return;
    }
    let _ = tokio::time::timeout(LINGER_MAX, linger(stream, close)).await;
}

async fn linger(stream: &mut Stream, close: Close) {
    if close != Close::TooLarge {
        while let Ok(Some(Ok(message))) = tokio::time::timeout(LINGER, stream.next()).await {
            if message.is_close() {
                return;
            }
        }
        return;
    }
    // In the middle of a message that nobody wants: what follows is not looked at, but taken.
    let mut discarded = [0; 4_096];
    while let Ok(Ok(1..)) = tokio::time::timeout(LINGER, stream.get_mut().read(&mut discarded)).await {}
}
