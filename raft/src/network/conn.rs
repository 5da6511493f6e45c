//! Frames over one byte stream: a reader and a writer whose operations can be dropped and taken up again.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::frame::{self, Frame, FrameError, Kind};
use super::identity::{Lane, PeerIdentity};
use super::limits::{
    IDLE_BUFFER_BYTES_MAX, READ_BYTES, READ_BYTES_MIN, WRITE_BUFFER_BYTES_MAX, frame_bytes_max,
};
use super::wire::Fault;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnError {
    #[error("closed by the other end")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("no sign of life")]
    Stalled,
    #[error("the other end accuses us: {0}")]
    Accused(Fault),
    #[error("{0}")]
    Fault(#[from] Fault),
}

impl ConnError {
    /// What to tell the other end, when the end is its fault.
    pub(super) fn accusation(&self) -> Option<Fault> {
        match self {
            Self::Frame(FrameError::TooLong { .. }) => Some(Fault::TooLong),
            Self::Frame(FrameError::Checksum) => Some(Fault::Checksum),
            Self::Frame(FrameError::UnknownKind(kind)) => Some(Fault::UnknownKind(*kind)),
            Self::Fault(fault) => Some(fault.clone()),
            Self::Closed | Self::Io(_) | Self::Stalled | Self::Accused(_) => None,
        }
    }
}

/// A connection after its hand-shake.
pub(super) struct Conn<S> {
    pub(super) reader: FrameReader<ReadHalf<S>>,
    pub(super) writer: FrameWriter<WriteHalf<S>>,
    /// Who is at the other end.
    pub(super) peer: PeerIdentity,
}

pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads small frames until [`open`](Self::open).
    pub(super) fn new(stream: R, frame_bytes_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), frame_bytes_max }
    }

    /// Frames of the lane's size are welcome from now on.
    pub(super) fn open(&mut self, lane: Lane) {
        self.frame_bytes_max = frame_bytes_max(lane);
    }

    /// The next frame. Cancel-safe: what was read stays.
    pub(super) async fn next(&mut self) -> Result<Frame, ConnError> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer, self.frame_bytes_max)? {
                return Ok(frame);
            }
            // Bodies that somebody keeps hold their block. So a block is used up before the next one is taken:
            // a small entry in a cache must not pin a block of its own.
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
                self.buffer.reserve(READ_BYTES);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ConnError::Closed);
            }
        }
    }
}

pub(super) struct FrameWriter<W> {
    stream: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Adds a frame to what waits to be written.
    pub(super) fn push(&mut self, kind: Kind, id: u64, body: impl FnOnce(&mut BytesMut)) {
        frame::encode(&mut self.buffer, kind, id, body);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether further frames should wait.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= WRITE_BUFFER_BYTES_MAX
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Writes all that waits, in as few writes as the stream allows. Cancel-safe: what was not written stays.
    pub(super) async fn flush(&mut self) -> Result<(), ConnError> {
        while !self.buffer.is_empty() {
            if self.stream.write_buf(&mut self.buffer).await? == 0 {
                return Err(ConnError::Closed);
            }
        }
        if self.buffer.capacity() > IDLE_BUFFER_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.stream.flush().await?;
        Ok(())
    }

    /// Best effort to get the last words out, then end-of-file.
    pub(super) async fn finish(&mut self, patience: Duration) {
        let last_words = async {
            if self.flush().await.is_ok() {
                // The other end may be gone already; nothing more can be done for it.
                let _ = self.stream.shutdown().await;
            }
        };
        let _ = tokio::time::timeout(patience, last_words).await;
    }
}

/// Decides when to ask a silent peer for a sign of life, and when to give it up.
pub(super) struct Liveness {
    stall: Duration,
    since: Instant,
    asked: bool,
}

pub(super) enum Silence {
    /// Ask.
    Ask,
    /// It did not answer.
    Dead,
}

impl Liveness {
    pub(super) fn new(stall: Duration) -> Self {
        Self { stall, since: Instant::now(), asked: false }
    }

    /// The peer spoke, or is expected to speak from now on.
    pub(super) fn heard(&mut self) {
        self.since = Instant::now();
        self.asked = false;
    }

    /// When [`silent`](Self::silent) is due.
    pub(super) fn deadline(&self) -> Instant {
        self.since + if self.asked { self.stall } else { self.stall / 2 }
    }

    /// The deadline passed.
    pub(super) fn silent(&mut self) -> Silence {
        if self.asked {
            return Silence::Dead;
        }
        self.asked = true;
        Silence::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::limits::FRAME_BYTES_MAX;

    #[tokio::test]
    async fn kept_bodies_share_blocks() {
        let (ours, theirs) = tokio::io::duplex(1_024);
        let mut reader = FrameReader::new(ours, FRAME_BYTES_MAX);
        let mut writer = FrameWriter::new(theirs);
        let mut bodies = Vec::new();
        for id in 0..2_000 {
            writer.push(Kind::Append, id, |out| out.extend_from_slice(&[7; 100]));
            writer.flush().await.unwrap();
            bodies.push(reader.next().await.unwrap().body);
        }
        let step = 100 + frame::HEADER_BYTES;
        let in_one_block =
            bodies.windows(2).filter(|pair| pair[1].as_ptr() as usize == pair[0].as_ptr() as usize + step);
        let blocks = bodies.len() - in_one_block.count();
        let needed = bodies.len() * step / (READ_BYTES - READ_BYTES_MIN) + 1;
        assert!(blocks <= needed, "{blocks} blocks pinned where {needed} are needed");
    }

    #[tokio::test]
    async fn a_dropped_read_or_write_loses_nothing() {
        let (ours, theirs) = tokio::io::duplex(10);
        let mut reader = FrameReader::new(ours, FRAME_BYTES_MAX);
        let mut writer = FrameWriter::new(theirs);
        writer.push(Kind::Append, 5, |out| out.extend_from_slice(&[7; 1_000]));
        loop {
            // Whichever does not finish is dropped and taken up again.
            tokio::select! {
                biased;
                frame = reader.next() => {
                    let frame = frame.unwrap();
                    assert_eq!((frame.id, frame.body.as_ref()), (5, &[7; 1_000][..]));
                    break;
                }
                flushed = writer.flush(), if !writer.is_empty() => flushed.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
    }
}
