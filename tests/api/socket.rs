//! A WebSocket client that checks what holds for every frame.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::TestNode;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An open socket that was welcomed.
pub(crate) struct Socket {
    pub(crate) stream: WebSocketStream<TcpStream>,
    pub(crate) welcome: Value,
    /// Header `X-Ovncp-Session` of the answer.
    pub(crate) header: String,
}

/// What comes from the server.
#[derive(Debug, PartialEq)]
pub(crate) enum Came {
    Frame(Value),
    /// Closed with this code, or cut.
    Closed(Option<u16>),
}

/// Opens a socket, or answers the status and the headers of the refusal.
pub(crate) async fn open(
    node: &TestNode,
    query: &str,
) -> Result<(WebSocketStream<TcpStream>, String), (u16, Value, Option<u64>)> {
    let address = node.base.strip_prefix("http://").unwrap().to_owned();
    let stream = TcpStream::connect(&address).await.unwrap();
    let request = format!("ws://{address}/ws{query}").into_client_request().unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((stream, response)) => {
            assert_eq!(response.headers()["x-ovncp-node"], node.name.as_str());
            let header = response.headers().get("x-ovncp-session");
            let header = header.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
            Ok((stream, header))
        }
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let problem = serde_json::from_slice(body).unwrap_or(Value::Null);
            let retry = response.headers().get("retry-after");
            let retry = retry.map(|value| value.to_str().unwrap().parse().unwrap());
            Err((response.status().as_u16(), problem, retry))
        }
        Err(error) => panic!("{error}"),
    }
}

impl Socket {
    pub(crate) async fn open(node: &TestNode, query: &str) -> Self {
        let (stream, header) = open(node, query).await.unwrap_or_else(|refused| panic!("{refused:?}"));
        let mut socket = Self { stream, welcome: Value::Null, header };
        let welcome = socket.frame().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        assert_eq!(welcome["node_id"], node.name.as_str());
        assert_eq!(welcome["session_id"], socket.header.as_str());
        socket.welcome = welcome;
        socket
    }

    /// Resumes this session at a node, behind what was seen.
    pub(crate) async fn resume(&self, node: &TestNode, more: &str) -> Self {
        let resumed = Self::open(node, &format!("?session={}{more}", self.id())).await;
        assert_eq!(resumed.welcome["resumed"], true);
        assert_eq!(resumed.welcome["session"], self.welcome["session"]);
        resumed
    }

    pub(crate) fn id(&self) -> &str {
        self.welcome["session_id"].as_str().unwrap()
    }

    pub(crate) fn number(&self) -> &str {
        self.welcome["session"].as_str().unwrap()
    }

    /// What comes next; pings are answered on the way.
    pub(crate) async fn came(&mut self) -> Came {
        let came = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Came::Frame(serde_json::from_str(&text).unwrap());
                    }
                    Some(Ok(Message::Close(close))) => {
                        // The library's answer to it goes out with the next look.
                        let _ = self.stream.next().await;
                        return Came::Closed(close.map(|close| u16::from(close.code)));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Came::Closed(None),
                }
            }
        };
        tokio::time::timeout(PATIENCE, came).await.expect("a frame or the end")
    }

    /// The next frame, which must come.
    pub(crate) async fn frame(&mut self) -> Value {
        match self.came().await {
            Came::Frame(frame) => frame,
            closed @ Came::Closed(_) => panic!("{closed:?} instead of a frame"),
        }
    }

    /// The next frame, which must have this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Waits for the close, whatever comes before it.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Came::Closed(code) = self.came().await {
                return code;
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.raw(Message::text(frame.to_string())).await;
    }

    pub(crate) async fn raw(&mut self, message: Message) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.send(message)).await;
        sent.expect("the server reads").unwrap();
    }

    /// Sends a frame and expects an answer of this type, with events allowed before it.
    pub(crate) async fn ask(&mut self, mut frame: Value, kind: &str) -> Value {
        frame["id"] = json!("q");
        self.send(frame).await;
        loop {
            let frame = self.frame().await;
            if frame["type"] != "event" {
                assert_eq!((&frame["type"], &frame["ref"]), (&json!(kind), &json!("q")), "{frame}");
                return frame;
            }
        }
    }

    /// The data of the next event, which must be of this channel.
    pub(crate) async fn event(&mut self, channel: &str) -> Value {
        let frame = self.expect("event").await;
        assert_eq!(frame["channel"], channel, "{frame}");
        frame["data"].clone()
    }
}

/// Publishes over HTTP; answers the offset.
pub(crate) async fn publish(node: &TestNode, to: Value, data: Value) -> u64 {
    let published = node.post("/api/v1/cluster/messages", json!({"to": to, "data": data})).await;
    published.expect(200)["offset"].as_str().unwrap().parse().unwrap()
}

/// Waits until a session shows this status.
pub(crate) async fn status(node: &TestNode, id: &str, wanted: &str) -> Value {
    let reached = async {
        loop {
            let shown = node.get(&format!("/api/v1/cluster/sessions/{id}")).await.expect(200);
            if shown["status"] == wanted {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never {wanted}"))
}
