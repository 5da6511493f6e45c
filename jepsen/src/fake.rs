//! A node that answers as a test tells it, or not at all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Taken and answered, with a status line's rest, header lines and a body.
    Answer(&'static str, &'static str, &'static str),
    /// Taken and answered with these bytes; the connection ends.
    Raw(&'static str),
    /// Taken and never answered.
    Hang,
    /// The connection ends before it is read.
    CutBefore,
    /// Taken; the connection ends without an answer.
    CutAfter,
}

/// Listens until it is dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Fake {
    /// Does `acts` one after the other, whatever connection a request comes by; then hangs.
    pub(crate) async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let acts = Arc::new(Mutex::new(acts.into_iter().collect::<VecDeque<_>>()));
        let seen = Arc::clone(&requests);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&acts), Arc::clone(&seen)));
            }
        });
        Self { url, requests, server }
    }

    /// Head and body of every request that was read whole.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, acts: Arc<Mutex<VecDeque<Act>>>, seen: Arc<Mutex<Vec<String>>>) {
    loop {
        // A connection that never asks takes no act from the others.
        if stream.readable().await.is_err() {
            return;
        }
        let act = acts.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Act::Hang);
        if matches!(act, Act::CutBefore) {
            return;
        }
        let Some(request) = request(&mut stream).await else { return };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let answer = match act {
            Act::Answer(status, headers, body) => {
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
            }
            Act::Raw(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                return;
            }
            Act::Hang => return std::future::pending().await,
            Act::CutBefore | Act::CutAfter => return,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
