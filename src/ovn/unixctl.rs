//! The control socket of OVS and OVN programs, which `ovs-appctl` speaks to: one JSON-RPC request over a Unix
//! socket, one reply ([ovs-appctl(8)](https://docs.openvswitch.org/en/latest/ref/ovs-appctl.8/)).
//!
//! Every call takes a connection of its own. Arguments travel as a JSON array, so that nothing in them can become
//! another argument or another command.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Time for one call, unless said otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer reply is refused, unless said otherwise.
pub const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What fits into the address of a Unix socket on Linux: 108 bytes and their end.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
const READ_BYTES: usize = 16 * 1024;

/// Where a program listens for commands.
#[derive(Clone, Debug)]
pub struct Unixctl {
    path: PathBuf,
    timeout: Duration,
    reply_bytes_max: usize,
}

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum UnixctlError {
    /// Nobody listens, or the connection broke before the reply.
    #[error("{} does not answer: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No reply in time.
    #[error("{} gave no answer in {after:?}", path.display())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long it was waited.
        after: Duration,
    },
    /// The program understood and refused; its own words.
    #[error("{0}")]
    Refused(String),
    /// The reply is too long.
    #[error("the reply is longer than {max} bytes")]
    TooLarge {
        /// What is allowed.
        max: usize,
    },
    /// The reply is none of this protocol.
    #[error("{} speaks no unixctl: {reason}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Unixctl {
    /// The socket at `path`; nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Unixctl {
        Unixctl { path: path.into(), timeout: CALL_TIMEOUT, reply_bytes_max: REPLY_BYTES_MAX }
    }

    /// The same socket with other limits.
    pub fn with_limits(mut self, timeout: Duration, reply_bytes_max: usize) -> Unixctl {
        (self.timeout, self.reply_bytes_max) = (timeout, reply_bytes_max);
        self
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs one command and gives what it prints.
    pub async fn call(&self, command: &str, arguments: &[&str]) -> Result<String, UnixctlError> {
        match tokio::time::timeout(self.timeout, self.exchange(command, arguments)).await {
            Ok(result) => result,
            Err(_) => Err(UnixctlError::TimedOut { path: self.path.clone(), after: self.timeout }),
        }
    }

    async fn exchange(&self, command: &str, arguments: &[&str]) -> Result<String, UnixctlError> {
        let unreachable = |source| UnixctlError::Unreachable { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).await.map_err(unreachable)?;
        let request = json!({"id": 0, "method": command, "params": arguments}).to_string();
        stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
        let mut reply = Vec::new();
        let mut end = ObjectEnd::default();
        let mut seen = 0;
        loop {
            let before = reply.len();
            reply.reserve(READ_BYTES);
            if (&mut stream).take(READ_BYTES as u64).read_buf(&mut reply).await.map_err(unreachable)? == 0 {
                return Err(unreachable(io::ErrorKind::UnexpectedEof.into()));
            }
            if reply.len() > self.reply_bytes_max {
                return Err(UnixctlError::TooLarge { max: self.reply_bytes_max });
            }
            debug_assert_eq!(before, seen);
            if let Some(length) = end.find(&reply[seen..]) {
                return self.result(&reply[..seen + length]);
            }
            seen = reply.len();
        }
    }

    fn result(&self, reply: &[u8]) -> Result<String, UnixctlError> {
        let strange = |reason: String| UnixctlError::Protocol { path: self.path.clone(), reason };
        let reply: Value = serde_json::from_slice(reply).map_err(|e| strange(e.to_string()))?;
        if let Some(error) = reply.get("error").and_then(Value::as_str) {
            return Err(UnixctlError::Refused(error.trim_end().to_owned()));
        }
        match reply.get("result").and_then(Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => Err(strange("the reply holds neither a result nor an error".to_owned())),
        }
    }
}

/// Finds where the first JSON object of a stream ends, looking at each byte once.
#[derive(Debug, Default)]
struct ObjectEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ObjectEnd {
    /// The number of bytes of this piece that belong to the object, if it ends here.
    fn find(&mut self, piece: &[u8]) -> Option<usize> {
        for (at, byte) in piece.iter().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A program that answers each connection with these pieces and then waits.
    fn program(dir: &Path, pieces: &'static [&'static str]) -> Unixctl {
        let path = dir.join("ctl");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            assert!(length > 0);
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        });
        Unixctl::new(path)
    }

    #[tokio::test]
    async fn reply_may_come_in_pieces_and_hold_braces_in_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let pieces = &[r#"{"id":0,"res"#, r#"ult":"next {\"a\"}\\"#, r#"","error":null}"#];
        let program = program(dir.path(), pieces);
        assert_eq!(program.call("version", &[]).await.unwrap(), "next {\"a\"}\\");
    }

    #[tokio::test]
    async fn refusal_is_told_in_the_words_of_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), &[r#"{"id":0,"result":null,"error":"no such command\n"}"#]);
        let refused = program.call("nosuch", &[]).await.unwrap_err();
        assert!(matches!(&refused, UnixctlError::Refused(text) if text == "no such command"), "{refused:?}");
    }

    #[tokio::test]
    async fn endless_reply_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), &[r#"{"result":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"#]);
        let program = program.with_limits(CALL_TIMEOUT, 32);
        let cut = program.call("version", &[]).await.unwrap_err();
        assert!(matches!(cut, UnixctlError::TooLarge { max: 32 }), "{cut:?}");
    }

    #[tokio::test]
    async fn silence_ends_with_the_time_out() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), &[r#"{"id":0,"#]).with_limits(Duration::from_millis(50), 100);
        let late = program.call("version", &[]).await.unwrap_err();
        assert!(matches!(late, UnixctlError::TimedOut { .. }), "{late:?}");
    }

    #[tokio::test]
    async fn nobody_there_and_nonsense_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Unixctl::new(dir.path().join("none")).call("version", &[]).await.unwrap_err();
        assert!(matches!(gone, UnixctlError::Unreachable { .. }), "{gone:?}");
        let program = program(dir.path(), &["{}"]);
        let strange = program.call("version", &[]).await.unwrap_err();
        assert!(matches!(strange, UnixctlError::Protocol { .. }), "{strange:?}");
    }
}
