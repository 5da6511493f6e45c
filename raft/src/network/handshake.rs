//! The first two messages of a connection: who dials whom, in which cluster, for what.

use bytes::{Buf, BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::client::DialError;
use super::conn::{Conn, ConnError, FrameReader, FrameWriter};
use super::frame::Kind;
use super::identity::{Lane, PeerIdentity, Refusal, Target};
use super::limits::HANDSHAKE_BYTES_MAX;
use super::wire;

/// What every hand-shake opens with, behind the frame header.
pub const MAGIC: [u8; 8] = *b"ovncp-pr";
/// Oldest version of the peer protocol that is spoken.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest version.
pub const PROTOCOL_MAX: u16 = 1;

/// First message of the dialer. Behind magic and versions, which never change their place, comes the rest in
/// postcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the connection is for.
    pub lane: Lane,
    /// Who dials.
    pub from: PeerIdentity,
    /// Whom it means.
    pub target: Target,
}

/// Answer to a [`Hello`] that is welcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version spoken from here on.
    pub version: u16,
    /// Who answered.
    pub peer: PeerIdentity,
}

/// Appends a `Hello`.
pub fn put_hello(out: &mut BytesMut, hello: &Hello) {
    out.put_slice(&MAGIC);
    out.put_u16_le(PROTOCOL_MIN);
    out.put_u16_le(PROTOCOL_MAX);
    wire::put(out, hello);
}

/// Version to speak and the rest, or why not.
pub fn take_hello(mut body: &[u8]) -> Result<(u16, Hello), Refusal> {
    if body.len() < MAGIC.len() + 4 || body[..MAGIC.len()] != MAGIC {
        return Err(Refusal::BadHandshake);
    }
    body.advance(MAGIC.len());
    let (min, max) = (body.get_u16_le(), body.get_u16_le());
    if max < PROTOCOL_MIN || min > PROTOCOL_MAX || min > max {
        return Err(Refusal::Version { min: PROTOCOL_MIN, max: PROTOCOL_MAX });
    }
    let hello = wire::take::<Hello>(body).map_err(|_| Refusal::BadHandshake)?;
    Ok((max.min(PROTOCOL_MAX), hello))
}

impl From<ConnError> for DialError {
    fn from(error: ConnError) -> Self {
        DialError::Io(format!("hand-shake: {error}"))
    }
}

/// The dialer's part. The caller bounds the time and checks who answered.
pub(super) async fn introduce<S>(stream: S, hello: &Hello) -> Result<Conn<S>, DialError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, HANDSHAKE_BYTES_MAX);
    let mut writer = FrameWriter::new(writer);
    writer.push(Kind::Hello, 0, |out| put_hello(out, hello));
    writer.flush().await?;
    let frame = reader.next().await?;
    match frame.kind {
        Kind::Welcome => {
            let welcome = wire::take::<Welcome>(&frame.body).map_err(|_| Refusal::BadHandshake)?;
            if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&welcome.version) {
                return Err(Refusal::Version { min: PROTOCOL_MIN, max: PROTOCOL_MAX }.into());
            }
            reader.open(hello.lane);
            Ok(Conn { reader, writer, peer: welcome.peer })
        }
        Kind::Refused => {
            // A reason from a later version counts as a refusal all the same.
            Err(wire::take::<Refusal>(&frame.body).unwrap_or(Refusal::BadHandshake).into())
        }
        _ => Err(Refusal::BadHandshake.into()),
    }
}
