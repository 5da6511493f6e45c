//! Opens the way to an endpoint.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::endpoint::Endpoint;
use super::tls::{TlsError, TlsSettings};

/// Bytes in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why an endpoint was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An `ssl:` endpoint, and no certificates.
    #[error("an ssl: endpoint needs a certificate, a private key and an authority")]
    NoTls,
    /// The certificates cannot be used.
    #[error("{}", with_source(.0))]
    Tls(#[from] TlsError),
}

fn with_source(error: &TlsError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

/// Connects to an endpoint, TLS hand-shake included.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&TlsSettings>,
    timeout: Duration,
) -> Result<Box<dyn Stream>, ConnectError> {
    tokio::time::timeout(timeout, open(endpoint, tls)).await.map_err(|_| ConnectError::Timeout(timeout))?
}

async fn open(endpoint: &Endpoint, tls: Option<&TlsSettings>) -> Result<Box<dyn Stream>, ConnectError> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port } => Ok(Box::new(open_tcp(host, *port).await?)),
        Endpoint::Ssl { host, port } => {
            let settings = tls.ok_or(ConnectError::NoTls)?.clone();
            // Three small files; still, a disk may hang, and this thread is not ours alone.
            let loaded = tokio::task::spawn_blocking(move || settings.load());
            let config = loaded.await.map_err(io::Error::other)??;
            let bare = host.split_once('%').map_or(host.as_str(), |(address, _)| address);
            let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
            let stream = open_tcp(host, *port).await?;
            Ok(Box::new(TlsConnector::from(Arc::clone(&config)).connect(name, stream).await?))
        }
    }
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // A call is one small write that somebody waits for.
    stream.set_nodelay(true)?;
    Ok(stream)
}
