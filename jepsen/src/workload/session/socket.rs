//! One real WebSocket: opened, read along by a task of its own, and written down frame by frame.
//!
//! A socket is a process of the history, apart from the client that holds it, so that a client can hold two. What has
//! arrived is recorded when the client looks; nothing is judged by that time.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::{Outcome, REQUEST_TIME_MAX};
use crate::history::{Invocation, Kind, Process, Recorder};

use super::super::finish::number;

/// Frames that may wait for the client; then the socket is not read on.
const FRAMES_MAX: usize = 4_096;
/// Frames of one `receive`, at most: lines of the history that people can read.
const FRAMES_PER_RECEIVE_MAX: usize = 64;
/// Close code of a session that is no more.
const ENDED: u16 = 4009;
/// Close code of a token that does not work.
const INVALID_TOKEN: u16 = 4003;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What the server sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    Event {
        channel: String,
        offset: u64,
        data: u64,
    },
    Reset {
        channel: Option<String>,
        first: u64,
        next: u64,
    },
    Migrate {
        node: String,
        token: String,
    },
    /// The answer to a frame of the client, with its `ref`.
    Answer {
        to: String,
        body: Value,
    },
    /// A close code, or none: the connection is lost.
    Closed(Option<u16>),
    /// Nothing that matters here.
    Other,
}

/// A socket that was welcomed.
#[derive(Debug)]
pub(super) struct Socket {
    /// Unique in the run.
    pub(super) id: u64,
    /// The session's number.
    pub(super) session: u64,
    pub(super) epoch: u64,
    node: String,
    process: Process,
    recorder: Recorder,
    arrived: mpsc::Receiver<Frame>,
    /// Taken from `arrived` and not recorded yet.
    waiting: VecDeque<Frame>,
    /// Dropped: the connection is cut.
    send: mpsc::Sender<Message>,
    is_closed: bool,
}

/// What the server said first.
#[derive(Clone, Debug)]
pub(super) struct Welcome {
    pub(super) session_id: String,
    pub(super) position: u64,
}

/// Whom and what to ask for.
#[derive(Clone, Debug)]
pub(super) struct Wish<'a> {
    /// `connect`, or its name after the heal.
    pub(super) f: &'a str,
    /// Base address and name of the node.
    pub(super) node: &'a super::Endpoint,
    pub(super) user: &'a str,
    /// Secret id and number of the session to resume.
    pub(super) session: Option<(&'a str, u64)>,
    pub(super) since: Option<u64>,
    pub(super) token: Option<&'a str>,
}

impl Wish<'_> {
    fn url(&self) -> String {
        let base = self.node.url.strip_prefix("http").unwrap_or(&self.node.url);
        let mut url = format!("ws{base}/ws?user={}", self.user);
        let mut add = |name: &str, value: String| url += &format!("&{name}={value}");
        if let Some((id, _)) = self.session {
            add("session", id.to_owned());
        }
        if let Some(since) = self.since {
            add("since", since.to_string());
        }
        if let Some(token) = self.token {
            add("token", crate::client::segment(token));
        }
        url
    }
}

/// Opens a socket and waits for its welcome. Recorded with a process of its own.
pub(super) async fn open(recorder: &Recorder, id: u64, wish: &Wish<'_>) -> Result<(Socket, Welcome), String> {
    let number = wish.session.map(|(_, number)| number);
    let invocation = Invocation {
        process: recorder.new_process(),
        f: wish.f.to_owned(),
        key: number.map(|number| number.to_string()),
        node: Some(wish.node.name.clone()),
    };
    let asked = json!({
        "socket": id,
        "session": number,
        "user": wish.user,
        "since": wish.since,
        "token": wish.token.is_some(),
    });
    recorder.invoke(&invocation, asked);
    let welcomed = tokio::time::timeout(REQUEST_TIME_MAX, welcomed(&wish.url())).await;
    let (kind, error) = match welcomed {
        Ok(Outcome::Ok((stream, welcome))) => match read_welcome(&welcome) {
            Some((value, told)) => {
                recorder.complete(&invocation, Kind::Ok, value.clone(), None);
                let socket = Socket::new(recorder, invocation, id, &value, stream);
                return Ok((socket, told));
            }
            None => (Kind::Info, format!("no welcome: {welcome}")),
        },
        Ok(Outcome::Fail(code)) => (Kind::Fail, code),
        Ok(Outcome::Unknown(code)) => (Kind::Info, code),
        Err(_) => (Kind::Info, "timeout".to_owned()),
    };
    recorder.complete(&invocation, kind, Value::Null, Some(error.clone()));
    Err(error)
}

async fn welcomed(url: &str) -> Outcome<(Stream, Value)> {
    let (mut stream, _) = match connect_async(url).await {
        Ok(connected) => connected,
        Err(error) => return refused(error),
    };
    match stream.next().await {
        Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
            Ok(welcome) => Outcome::Ok((stream, welcome)),
            Err(error) => Outcome::Unknown(format!("no JSON: {error}")),
        },
        Some(Ok(Message::Close(frame))) => {
            let code = frame.map(|frame| u16::from(frame.code));
            match code {
                Some(ENDED) => Outcome::Fail("session_ended".to_owned()),
                Some(INVALID_TOKEN) => Outcome::Fail("invalid_token".to_owned()),
                // It had the session for a moment.
                code => Outcome::Unknown(format!("closed {}", code.unwrap_or_default())),
            }
        }
        Some(Ok(other)) => Outcome::Unknown(format!("no welcome: {other:?}")),
        Some(Err(_)) | None => Outcome::Unknown("connection_lost".to_owned()),
    }
}

/// A refusal before the upgrade has a code, as any answer.
fn refused<T>(error: Error) -> Outcome<T> {
    match error {
        Error::Http(response) => {
            let status = response.status().as_u16();
            let body = response.into_body().unwrap_or_default();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let code = body["code"].as_str().map_or_else(|| format!("http_{status}"), str::to_owned);
            match status {
                400..=499 | 503 => Outcome::Fail(code),
                _ => Outcome::Unknown(code),
            }
        }
        Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Outcome::Fail("refused".to_owned())
        }
        _ => Outcome::Unknown("connection_lost".to_owned()),
    }
}

/// What the history keeps of a welcome, and what the client needs.
fn read_welcome(welcome: &Value) -> Option<(Value, Welcome)> {
    let session = number(&welcome["session"])?;
    let position = number(&welcome["position"])?;
    let epoch = number(&welcome["epoch"])?;
    let told = Welcome { session_id: welcome["session_id"].as_str()?.to_owned(), position };
    let is_welcome = welcome["type"] == "welcome" && welcome["channels"].is_array();
    let value = json!({
        "session": session,
        "epoch": epoch,
        "position": position,
        "user": welcome["user"],
        "channels": welcome["channels"],
        "resumed": welcome["resumed"],
        "node": welcome["node_id"],
    });
    is_welcome.then_some((value, told))
}

impl Socket {
    fn new(recorder: &Recorder, opened: Invocation, id: u64, welcome: &Value, stream: Stream) -> Self {
        let (frames, arrived) = mpsc::channel(FRAMES_MAX);
        let (send, sends) = mpsc::channel(1);
        tokio::spawn(serve(stream, frames, sends));
        Self {
            id,
            session: welcome["session"].as_u64().unwrap_or(0),
            epoch: welcome["epoch"].as_u64().unwrap_or(0),
            node: opened.node.unwrap_or_default(),
            process: opened.process,
            recorder: recorder.clone(),
            arrived,
            waiting: VecDeque::new(),
            send,
            is_closed: false,
        }
    }

    /// Whether nothing comes any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn begin(&self, f: &str, key: String, value: Value) -> Invocation {
        let invocation = Invocation {
            process: self.process,
            f: f.to_owned(),
            key: Some(key),
            node: Some(self.node.clone()),
        };
        self.recorder.invoke(&invocation, value);
        invocation
    }

    fn end(&mut self, invocation: &Invocation, outcome: Outcome<Value>) {
        let (kind, value, error) = match outcome {
            Outcome::Ok(value) => (Kind::Ok, value, None),
            Outcome::Fail(code) => (Kind::Fail, Value::Null, Some(code)),
            Outcome::Unknown(code) => (Kind::Info, Value::Null, Some(code)),
        };
        self.recorder.complete(invocation, kind, value, error);
        if kind == Kind::Info {
            self.process = self.recorder.new_process();
        }
    }

    /// What has come, at the latest until then; recorded as `f`.
    pub(super) async fn receive(&mut self, f: &str, until: Instant) -> Vec<Frame> {
        if self.waiting.is_empty()
            && let Ok(Some(frame)) = timeout_at(until, self.arrived.recv()).await
        {
            self.waiting.push_back(frame);
        }
        self.take(f)
    }

    /// What is here already; recorded as `f`.
    pub(super) fn take(&mut self, f: &str) -> Vec<Frame> {
        while self.waiting.len() < FRAMES_PER_RECEIVE_MAX
            && let Ok(frame) = self.arrived.try_recv()
        {
            self.waiting.push_back(frame);
        }
        let frames: Vec<Frame> = self.waiting.drain(..).collect();
        self.is_closed |= frames.iter().any(|frame| matches!(frame, Frame::Closed(_)));
        let shown: Vec<Value> = frames.iter().filter_map(shown).collect();
        if !shown.is_empty() {
            let invocation = self.begin(f, self.session.to_string(), json!({ "socket": self.id }));
            self.end(&invocation, Outcome::Ok(json!({ "frames": shown })));
        }
        frames
    }

    /// Sends a frame that asks for something and waits for its answer. What else comes meanwhile waits.
    pub(super) async fn ask(&mut self, f: &str, key: String, value: Value, mut frame: Value) -> bool {
        let name = format!("q{}", self.recorder.now_ns());
        frame["id"] = Value::from(name.as_str());
        let invocation = self.begin(f, key, value);
        let outcome = match self.send.send(Message::text(frame.to_string())).await {
            Ok(()) => self.answer(&name).await,
            Err(_) => Outcome::Unknown("connection_lost".to_owned()),
        };
        let is_ok = matches!(outcome, Outcome::Ok(_));
        self.end(&invocation, outcome);
        is_ok
    }

    async fn answer(&mut self, name: &str) -> Outcome<Value> {
        let deadline = Instant::now() + REQUEST_TIME_MAX;
        loop {
            match timeout_at(deadline, self.arrived.recv()).await {
                Ok(Some(Frame::Answer { to, body })) if to == name => return answered(&body),
                Ok(Some(frame)) => {
                    let is_last = matches!(frame, Frame::Closed(_));
                    self.waiting.push_back(frame);
                    if is_last {
                        return Outcome::Unknown("connection_lost".to_owned());
                    }
                }
                Ok(None) => return Outcome::Unknown("connection_lost".to_owned()),
                Err(_) => return Outcome::Unknown("timeout".to_owned()),
            }
        }
    }

    /// Waits until the server has closed it, for so long at most, and records whether it has. It was replaced.
    pub(super) async fn see_it_end(mut self, until: Instant) {
        while !self.is_closed && Instant::now() < until {
            self.receive("final-receive", until).await;
        }
        let asked = json!({ "socket": self.id, "epoch": self.epoch });
        let invocation = self.begin("final-stale", self.session.to_string(), asked);
        let outcome = match self.is_closed {
            true => Outcome::Ok(Value::Null),
            false => Outcome::Fail("still open".to_owned()),
        };
        self.end(&invocation, outcome);
    }

    /// Cuts the connection without a word. Everything that was read from it is recorded first: what the server may take
    /// for delivered, since a ping behind it was answered, was seen.
    pub(super) async fn cut_off(mut self, f: &str) -> Vec<Frame> {
        let (unused, _) = mpsc::channel(1);
        // The task that reads ends when nobody can send any more.
        drop(std::mem::replace(&mut self.send, unused));
        let mut all = Vec::new();
        while let Some(frame) = self.arrived.recv().await {
            self.waiting.push_back(frame);
            all.extend(self.take(f));
        }
        all.extend(self.take(f));
        all
    }

    /// Says good-bye as a client does; the answer comes as a frame.
    pub(super) async fn close(&self) {
        let until = Instant::now() + Duration::from_millis(500);
        let _ = timeout_at(until, self.send.send(Message::Close(None))).await;
    }
}

fn answered(body: &Value) -> Outcome<Value> {
    match body["type"].as_str() {
        Some("error") => {
            let code = body["code"].as_str().unwrap_or("error").to_owned();
            match body["status"].as_u64() {
                Some(400..=499 | 503) => Outcome::Fail(code),
                _ => Outcome::Unknown(code),
            }
        }
        Some("published") => match number(&body["offset"]) {
            Some(offset) => Outcome::Ok(json!({ "offset": offset })),
            None => Outcome::Unknown(format!("no offset: {body}")),
        },
        _ => Outcome::Ok(json!({ "channels": body["channels"] })),
    }
}

/// Reads and writes until the server or the client has had enough. Pings are answered by the library.
async fn serve(mut stream: Stream, frames: mpsc::Sender<Frame>, mut sends: mpsc::Receiver<Message>) {
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            send = sends.recv() => match send {
                Some(send) => {
                    // What is wrong is seen by reading on.
                    let _ = stream.send(send).await;
                    continue;
                }
                // Cut off without a word, like a client that lost its network.
                None => return,
            },
        };
        let frame = match message {
            Some(Ok(Message::Text(text))) => parse(&text),
            Some(Ok(Message::Close(frame))) => Frame::Closed(frame.map(|frame| u16::from(frame.code))),
            Some(Ok(_)) => Frame::Other,
            Some(Err(_)) | None => Frame::Closed(None),
        };
        let is_last = matches!(frame, Frame::Closed(_));
        if frame != Frame::Other && frames.send(frame).await.is_err() {
            return;
        }
        if is_last {
            // The library answers a close frame when it is read on; then the connection is over.
            while let Some(Ok(_)) = stream.next().await {}
            return;
        }
    }
}

fn parse(text: &str) -> Frame {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    if let Some(to) = body["ref"].as_str() {
        return Frame::Answer { to: to.to_owned(), body };
    }
    let channel = body["channel"].as_str().map(str::to_owned);
    let frame = match body["type"].as_str() {
        Some("event") => channel.and_then(|channel| {
            // What no client of ours published is number 0.
            let data = body["data"].as_u64().unwrap_or(0);
            Some(Frame::Event { channel, offset: number(&body["offset"])?, data })
        }),
        Some("reset") => number(&body["first"]).map(|first| Frame::Reset {
            channel,
            first,
            next: number(&body["next"]).unwrap_or(first),
        }),
        Some("migrate") => Some(Frame::Migrate { node: text("node_id"), token: text("token") }),
        _ => None,
    };
    frame.unwrap_or(Frame::Other)
}

/// As the history has it.
fn shown(frame: &Frame) -> Option<Value> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    match frame {
        Frame::Event { channel, offset, data } => {
            set("channel", channel.as_str().into());
            set("offset", (*offset).into());
            set("data", (*data).into());
        }
        Frame::Reset { channel, first, next } => {
            set("reset", channel.as_deref().into());
            set("first", (*first).into());
            set("next", (*next).into());
        }
        Frame::Migrate { node, .. } => {
            set("migrate", node.as_str().into());
        }
        Frame::Closed(code) => {
            set("closed", (*code).into());
        }
        Frame::Answer { .. } | Frame::Other => return None,
    }
    Some(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_the_server_writes_them() {
        let event = r#"{"type":"event","channel":"user","offset":"12","at_ms":3,"data":77}"#;
        let channel = "user".to_owned();
        assert_eq!(parse(event), Frame::Event { channel, offset: 12, data: 77 });
        let reset = r#"{"type":"reset","channel":null,"first":"5","next":"9"}"#;
        assert_eq!(parse(reset), Frame::Reset { channel: None, first: 5, next: 9 });
        let migrate = r#"{"type":"migrate","url":"ws://x/ws","token":"t","node_id":"n2"}"#;
        assert_eq!(parse(migrate), Frame::Migrate { node: "n2".to_owned(), token: "t".to_owned() });
        let published = r#"{"type":"published","offset":"4","ref":"q1"}"#;
        let Frame::Answer { to, body } = parse(published) else { panic!("an answer") };
        assert_eq!((to.as_str(), answered(&body)), ("q1", Outcome::Ok(json!({"offset": 4}))));
        assert_eq!(parse(r#"{"type":"pong"}"#), Frame::Other);
        assert_eq!(parse("?"), Frame::Other);
    }

    #[test]
    fn an_error_of_the_server_says_whether_it_may_have_happened() {
        let error = |status: u16| json!({"type": "error", "code": "x", "status": status});
        assert_eq!(answered(&error(429)), Outcome::Fail("x".to_owned()));
        assert_eq!(answered(&error(503)), Outcome::Fail("x".to_owned()));
        assert_eq!(answered(&error(504)), Outcome::Unknown("x".to_owned()));
    }

    #[test]
    fn a_session_is_asked_for_with_all_that_is_known_of_it() {
        let node = super::super::Endpoint { name: "n1".to_owned(), url: "http://a:1".to_owned() };
        let wish = Wish {
            f: "connect",
            node: &node,
            user: "u1",
            session: Some(("ab", 7)),
            since: Some(4),
            token: Some("t+"),
        };
        assert_eq!(wish.url(), "ws://a:1/ws?user=u1&session=ab&since=4&token=t%2B");
        let new = Wish { session: None, since: None, token: None, ..wish };
        assert_eq!(new.url(), "ws://a:1/ws?user=u1");
    }

    /// A server for one socket: the frames that it sends first, answers to the asks that come, and a close code.
    async fn server(first: Vec<Value>, answers: Vec<Value>, code: u16) -> super::super::Endpoint {
        use tokio_tungstenite::tungstenite::protocol::CloseFrame;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_tungstenite::accept_async(stream).await.unwrap();
            for frame in first {
                stream.send(Message::text(frame.to_string())).await.unwrap();
            }
            for mut answer in answers {
                let Some(Ok(Message::Text(asked))) = stream.next().await else { panic!("no ask") };
                let asked: Value = serde_json::from_str(&asked).unwrap();
                answer["ref"] = asked["id"].clone();
                stream.send(Message::text(answer.to_string())).await.unwrap();
            }
            let close = CloseFrame { code: code.into(), reason: "".into() };
            stream.send(Message::Close(Some(close))).await.unwrap();
            while let Some(Ok(_)) = stream.next().await {}
        });
        super::super::Endpoint { name: "n1".to_owned(), url }
    }

    fn wish(node: &super::super::Endpoint) -> Wish<'_> {
        Wish { f: "connect", node, user: "u1", session: Some(("ab", 7)), since: None, token: None }
    }

    #[tokio::test]
    async fn what_comes_over_a_socket_is_recorded_in_its_order_with_asks_between() {
        let welcome = json!({"type": "welcome", "session_id": "ab", "session": "7", "user": "u1", "node_id": "n1",
            "epoch": 2, "resumed": true, "position": "5", "channels": ["c1"]});
        let event = json!({"type": "event", "channel": "c1", "offset": "5", "at_ms": 1, "data": 9});
        let answers = vec![
            json!({"type": "published", "offset": "6"}),
            json!({"type": "error", "code": "limit_exceeded", "status": 429}),
        ];
        let node = server(vec![welcome, event], answers, 4001).await;
        let recorder = Recorder::new(None).unwrap();
        let (mut socket, welcome) = open(&recorder, 1, &wish(&node)).await.unwrap();
        assert_eq!((socket.session, socket.epoch, welcome.position), (7, 2, 5));
        let frame = || json!({"type": "publish", "channel": "c1", "data": 3});
        assert!(socket.ask("publish", "channel:c1".to_owned(), json!({"data": 3}), frame()).await);
        assert!(!socket.ask("publish", "channel:c1".to_owned(), json!({"data": 4}), frame()).await);
        let until = Instant::now() + Duration::from_secs(60);
        let mut frames = Vec::new();
        while !socket.is_closed() && Instant::now() < until {
            frames.extend(socket.receive("receive", until).await);
        }
        let channel = "c1".to_owned();
        assert_eq!(frames, [Frame::Event { channel, offset: 5, data: 9 }, Frame::Closed(Some(4001))]);
        let events = recorder.history().unwrap().events;
        let ended: Vec<_> = events.iter().filter(|event| event.kind != Kind::Invoke).collect();
        assert_eq!((ended[0].f.as_str(), &ended[0].value["epoch"]), ("connect", &json!(2)));
        assert_eq!((ended[1].kind, &ended[1].value), (Kind::Ok, &json!({"offset": 6})));
        assert_eq!((ended[2].kind, ended[2].error.as_deref()), (Kind::Fail, Some("limit_exceeded")));
        assert!(ended[3..].iter().all(|event| event.f == "receive" && event.key.as_deref() == Some("7")));
        assert!(ended.iter().all(|event| event.process == ended[0].process));
    }

    #[tokio::test]
    async fn a_socket_that_is_cut_off_loses_nothing_that_was_read() {
        let welcome = json!({"type": "welcome", "session_id": "ab", "session": "7", "user": "u1", "node_id": "n1",
            "epoch": 2, "resumed": true, "position": "0", "channels": []});
        let event = |offset: u64| json!({"type": "event", "channel": "user", "offset": offset.to_string(), "data": 9});
        let frames = [welcome].into_iter().chain((0..200).map(event)).collect();
        // An answer is waited for, so that the server has not closed.
        let node = server(frames, vec![json!({"type": "published", "offset": "6"}), json!({})], 1000).await;
        let recorder = Recorder::new(None).unwrap();
        let (mut socket, _) = open(&recorder, 1, &wish(&node)).await.unwrap();
        let frame = json!({"type": "publish", "channel": "user", "data": 3});
        assert!(socket.ask("publish", "user:u1".to_owned(), json!({"data": 3}), frame).await);
        // The answer came behind all of them.
        assert_eq!(socket.cut_off("receive").await.len(), 200);
        let shown = recorder.with_events(|events| {
            let received = events.iter().filter(|event| event.kind == Kind::Ok && event.f == "receive");
            received.map(|event| event.value["frames"].as_array().unwrap().len()).sum::<usize>()
        });
        assert_eq!(shown, 200);
    }

    #[tokio::test]
    async fn a_socket_that_is_refused_says_why() {
        let recorder = Recorder::new(None).unwrap();
        for (code, error) in [(4009, "session_ended"), (4003, "invalid_token"), (1012, "closed 1012")] {
            let node = server(Vec::new(), Vec::new(), code).await;
            assert_eq!(open(&recorder, 1, &wish(&node)).await.unwrap_err(), error);
        }
        let draining = "{\"code\":\"draining\"}";
        let acts = [crate::fake::Act::Answer("503 Service Unavailable", "", draining)];
        let fake = crate::fake::Fake::start(acts).await;
        let node = super::super::Endpoint { name: "n1".to_owned(), url: fake.url.clone() };
        assert_eq!(open(&recorder, 1, &wish(&node)).await.unwrap_err(), "draining");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let node = super::super::Endpoint { name: "n1".to_owned(), url };
        assert_eq!(open(&recorder, 1, &wish(&node)).await.unwrap_err(), "refused");
        let kinds: Vec<_> = recorder.with_events(|events| {
            events.iter().filter(|event| event.kind != Kind::Invoke).map(|event| event.kind).collect()
        });
        assert_eq!(kinds, [Kind::Fail, Kind::Fail, Kind::Info, Kind::Fail, Kind::Fail]);
    }
}
