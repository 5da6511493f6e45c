//! A minimal HTTP/1.1 client over one kept-alive connection.
//!
//! Load generator and servers share the machine's cores, so a general client's work would be measured instead of
//! the servers'. What is left out is left out of what is accepted, too: an answer that is not exactly what this
//! code understands is an error, never a guess.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Bytes of the current answer; reused.
    buffer: Vec<u8>,
}

/// An answer, borrowed from its connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

/// A request as bytes, made once and sent many times.
pub(super) fn request(method: &str, host: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
    if method != "GET" {
        let head = format!("content-type: {content_type}\r\ncontent-length: {}\r\n", body.len());
        bytes.extend_from_slice(head.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// The same request with an idempotency key.
pub(super) fn keyed(mut request: Vec<u8>, key: &str) -> Vec<u8> {
    let line_end = request.windows(2).position(|two| two == b"\r\n").map_or(0, |at| at + 2);
    request.splice(line_end..line_end, format!("idempotency-key: {key}\r\n").into_bytes());
    request
}

impl Connection {
    pub(super) async fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4 * 1024) })
    }

    /// Sends a request and reads its whole answer. After an error the connection is of no use.
    pub(super) async fn send(&mut self, request: &[u8]) -> io::Result<Reply<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(wrong("the head of the answer has no end"));
            }
            self.read_more().await?;
        };
        let end = head.bytes + head.body_bytes;
        while self.buffer.len() < end {
            self.read_more().await?;
        }
        if self.buffer.len() > end {
            return Err(wrong("bytes after the answer"));
        }
        Ok(Reply { status: head.status, body: &self.buffer[head.bytes..end] })
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within an answer")),
            _ => Ok(()),
        }
    }
}

/// The part of an answer that says how long it is.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// `None` when there is more to come.
    fn parse(buffer: &[u8]) -> io::Result<Option<Head>> {
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&buffer[..end]).map_err(|_| wrong("the head is not text"))?;
        let mut lines = text.split("\r\n");
        let status = parse_status(lines.next().unwrap_or_default())?;
        let mut length = None;
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| wrong("a header without a colon"))?;
            if name.eq_ignore_ascii_case("content-length") {
                let parsed = value.trim().parse::<usize>().map_err(|_| wrong("a strange content-length"))?;
                if length.replace(parsed).is_some() {
                    return Err(wrong("two content-lengths"));
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(wrong("an answer in chunks"));
            }
        }
        let body_bytes = match (status, length) {
            (204 | 304, None | Some(0)) => 0,
            (204 | 304, Some(_)) => return Err(wrong("a body where none may be")),
            (_, Some(bytes)) if bytes <= BODY_BYTES_MAX => bytes,
            (_, Some(_)) => return Err(wrong("the body is too large")),
            (_, None) => return Err(wrong("an answer without a length")),
        };
        Ok(Some(Head { status, bytes: end + 4, body_bytes }))
    }
}

fn parse_status(line: &str) -> io::Result<u16> {
    let code = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let code =
        code.filter(|code| code.bytes().all(|b| b.is_ascii_digit())).and_then(|code| code.parse().ok());
    code.filter(|code| (200..600).contains(code)).ok_or_else(|| wrong("a strange status line"))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_says_how_long_the_answer_is() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        let head = Head::parse(bytes).unwrap().unwrap();
        assert_eq!((head.status, head.bytes + head.body_bytes), (200, bytes.len()));
        assert_eq!(Head::parse(&bytes[..20]).unwrap(), None, "more to come");
        assert_eq!(Head::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().body_bytes, 0);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for strange in [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(Head::parse(strange.as_bytes()).is_err(), "{strange:?}");
        }
    }

    #[test]
    fn a_key_goes_behind_the_first_line() {
        let keyed = keyed(request("POST", "h", "/x", "a/b", b"{}"), "k");
        let text = "POST /x HTTP/1.1\r\nidempotency-key: k\r\nhost: h\r\ncontent-type: a/b\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(String::from_utf8(keyed).unwrap(), text);
    }

    #[tokio::test]
    async fn one_connection_carries_many_requests() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let echo = |body: axum::body::Bytes| async move { body };
        let app = axum::Router::new().fallback(echo);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut connection = Connection::open(&address).await.unwrap();
        for bytes in [0, 1, 70_000] {
            let body = vec![b'x'; bytes];
            let request = request("PUT", &address, "/a%2Fb", "text/plain", &body);
            let reply = connection.send(&request).await.unwrap();
            assert_eq!(reply, Reply { status: 200, body: &body });
        }
    }
}
