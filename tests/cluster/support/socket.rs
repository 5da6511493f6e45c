//! A WebSocket client as a user would write it: it comes back when it lost its node, goes where it is told to go, and
//! says what it has seen.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::PATIENCE;

/// Before it tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// An open socket and what the server said first.
pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) welcome: Value,
}

/// What a client learns next.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A frame that is no ping.
    Frame(Value),
    /// The socket is gone, with the close code if there was one.
    Gone(Option<u16>),
}

impl Socket {
    /// One try; `path` is the path and query of the upgrade. `None`: no socket.
    pub(crate) async fn try_open(authority: &str, path: &str) -> Option<Self> {
        let opening = connect_async(format!("ws://{authority}{path}"));
        let (stream, _) = tokio::time::timeout(PATIENCE, opening).await.ok()?.ok()?;
        let mut socket = Self { stream, welcome: Value::Null };
        match socket.next().await {
            Heard::Frame(frame) if frame["type"] == "welcome" => {
                socket.welcome = frame;
                Some(socket)
            }
            _ => None,
        }
    }

    /// Tries until there is one.
    pub(crate) async fn open(authority: &str, path: &str) -> Self {
        let start = tokio::time::Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(socket) = Self::try_open(authority, path).await {
                return socket;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("no WebSocket at {authority}{path} within {PATIENCE:?}");
    }

    /// A field of the welcome.
    pub(crate) fn welcomed(&self, name: &str) -> &str {
        self.welcome[name].as_str().unwrap_or_else(|| panic!("{name} in {}", self.welcome))
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        // A socket that is gone says so when it is read.
        let _ = self.stream.send(Message::text(frame.to_string())).await;
    }

    /// Subscribes and waits for the answer. Events that come before it are lost: ask before anything is published.
    pub(crate) async fn subscribe(&mut self, channel: &str) {
        self.send(json!({"type": "subscribe", "channels": [channel]})).await;
        loop {
            match self.next().await {
                Heard::Frame(frame) if frame["type"] == "subscribed" => return,
                Heard::Frame(frame) => assert_ne!(frame["type"], "error", "{frame}"),
                Heard::Gone(code) => panic!("gone with {code:?} before it subscribed"),
            }
        }
    }

    /// Waits for the next frame.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    return Heard::Frame(serde_json::from_str(&text).expect("JSON frames"));
                }
                Ok(Some(Ok(Message::Close(close)))) => {
                    return Heard::Gone(close.map(|close| close.code.into()));
                }
                // Pongs are sent by the library when it is polled next.
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) | Err(_) => return Heard::Gone(None),
            }
        }
    }
}
