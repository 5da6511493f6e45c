//! A way to a server that can be cut.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ovncp_ovn::wire::endpoint::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Carries bytes between a client and a server, as long as it is told to.
pub(crate) struct Proxy {
    path: PathBuf,
    state: Arc<State>,
}

struct State {
    server: PathBuf,
    open: watch::Sender<bool>,
    /// While set, what the server says is lost.
    mute: AtomicBool,
    /// Bytes from the client that reached the server.
    carried: AtomicU64,
}

impl Proxy {
    /// In front of the server with this Unix socket.
    pub(crate) fn new(server: &Endpoint, folder: &Path) -> Self {
        let Endpoint::Unix(server) = server else { panic!("a proxy of a Unix socket") };
        let path = folder.join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let state = State {
            server: server.clone(),
            open: watch::Sender::new(true),
            mute: AtomicBool::new(false),
            carried: AtomicU64::new(0),
        };
        let state = Arc::new(state);
        let accepting = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&accepting);
                tokio::spawn(async move { state.carry(client).await });
            }
        });
        Self { path, state }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.path.clone())
    }

    /// Closes all connections, and new ones at once until [`Proxy::mend`].
    pub(crate) fn cut(&self) {
        self.state.open.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.state.mute.store(false, Ordering::SeqCst);
        self.state.open.send_replace(true);
    }

    /// From now on nothing that the server says arrives.
    pub(crate) fn mute(&self) {
        self.state.mute.store(true, Ordering::SeqCst);
    }

    /// Bytes that reached the server so far.
    pub(crate) fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::SeqCst)
    }
}

impl State {
    async fn carry(&self, client: UnixStream) {
        let mut open = self.open.subscribe();
        let Ok(server) = UnixStream::connect(&self.server).await else { return };
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let up = async {
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                self.carried.fetch_add(count as u64, Ordering::SeqCst);
            }
        };
        let down = async {
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                let lost = self.mute.load(Ordering::SeqCst);
                if !lost && to_client.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            _ = open.wait_for(|open| !*open) => {}
        }
    }
}
