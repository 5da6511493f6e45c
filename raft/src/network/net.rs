//! The byte-stream seam under the transport: TCP in production, an in-memory network in simulation.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// Where connections come from and go to. Everything above (frames, hand-shake, lanes, timeouts) is the same
/// code over any implementation.
pub trait Net: Clone + Send + Sync + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static;
    /// A bound listener; dropping it refuses further dials.
    type Listener: Send + 'static;

    /// Dials `host:port`. The name is resolved anew at each call. The caller bounds the time.
    ///
    /// [`io::ErrorKind::ConnectionRefused`] must mean that the host answered and nothing listens there: it is
    /// taken as proof that the process is gone.
    fn connect(&self, addr: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Listens on `host:port`; port 0 picks a free one.
    fn bind(&self, addr: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// The next inbound connection and where it comes from, for logs only. Must be cancel-safe.
    fn accept(
        &self,
        listener: &mut Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, String)>> + Send;

    /// What [`bind`](Net::bind) was given, with the port it got.
    fn local_addr(&self, listener: &Self::Listener) -> io::Result<String>;
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 256;
/// An idle connection is asked for a sign of life after this time, ...
const KEEPALIVE_TIME: Duration = Duration::from_secs(5);
/// ... then this often, ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// ... and given up after this many unanswered questions.
const KEEPALIVE_RETRIES: u32 = 3;
/// Sent bytes that stay unacknowledged this long end the connection.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(8);

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

impl Net for TcpNet {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn connect(&self, addr: &str) -> io::Result<TcpStream> {
        // Every address of the name is tried; "refused" is reported only if all of them refused, since it is
        // taken as proof that nobody is there.
        let mut failure: Option<io::Error> = None;
        for candidate in lookup_host(addr).await? {
            match TcpStream::connect(candidate).await {
                // On loopback the kernel may pick the dialed port as our own and connect the socket to itself.
                // Nobody listens there then, and holding on would keep the peer from taking its port again.
                Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connected to itself");
                    failure.get_or_insert(refused);
                }
                Ok(stream) => {
                    configure(&stream)?;
                    return Ok(stream);
                }
                Err(error) => {
                    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                    if failure.is_none() || !refused {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{addr} resolves to no address"))
        }))
    }

    async fn bind(&self, addr: &str) -> io::Result<TcpListener> {
        let local: SocketAddr = lookup_host(addr).await?.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{addr} resolves to no address"))
        })?;
        let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted node takes its port again while old connections are still in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(local)?;
        socket.listen(BACKLOG)
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<(TcpStream, String)> {
        let (stream, from) = listener.accept().await?;
        configure(&stream)?;
        Ok((stream, from.to_string()))
    }

    fn local_addr(&self, listener: &TcpListener) -> io::Result<String> {
        Ok(listener.local_addr()?.to_string())
    }
}
