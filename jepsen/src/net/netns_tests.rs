//! Real namespaces where this machine allows them; elsewhere the tests say so and pass.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UdpSocket;

use super::super::{Impairment, NetKind, Network, Pair};
use super::*;

/// How long a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two datagrams, since the first may come before anybody listens.
const RESEND: Duration = Duration::from_millis(50);
/// A program that sends every datagram back. Perl's core is on every Debian.
const ECHO: &str = r#"
    use IO::Socket::INET;
    my $s = IO::Socket::INET->new(LocalAddr => "0.0.0.0", LocalPort => 7, Proto => "udp") or die $!;
    while (defined(my $from = $s->recv(my $data, 2000))) { $s->send($data) }"#;

struct Fixture {
    network: Option<Network>,
    folder: tempfile::TempDir,
    echo: Child,
    socket: UdpSocket,
    peer: SocketAddr,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.echo.kill();
        let _ = self.echo.wait();
    }
}

/// A host `n1` that echoes; none where namespaces are not possible.
async fn echoing() -> Option<Fixture> {
    let folder = tempfile::tempdir().unwrap();
    let leftovers = Leftovers::begin(folder.path()).unwrap();
    let prepared = match possible() {
        Ok(()) => Network::prepare(NetKind::Netns, 1, Default::default(), leftovers).await,
        Err(why) => Err(NetError::io(why, std::io::ErrorKind::Unsupported.into())),
    };
    let mut network = match prepared {
        Ok(network) => network,
        Err(why) => {
            eprintln!("skipped: no network namespaces here: {why}");
            return None;
        }
    };
    let place = network.add_host("n1").await.unwrap();
    assert_eq!(network.add_host("n1").await.unwrap(), place);
    let echo = Command::new(&place.wrapper[0])
        .args(&place.wrapper[1..])
        .args(["perl", "-e", ECHO])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let peer = format!("{}:7", place.listen).parse().unwrap();
    Some(Fixture { network: Some(network), folder, echo, socket, peer })
}

impl Fixture {
    /// Sends `text` until it comes back. Echoes of other texts are ignored.
    async fn until_echoed(&self, text: &str) {
        let echoed = async {
            let mut bytes = [0; 100];
            loop {
                self.socket.send_to(text.as_bytes(), self.peer).await.unwrap();
                let answer = tokio::time::timeout(RESEND, self.socket.recv(&mut bytes)).await;
                if matches!(answer, Ok(Ok(length)) if bytes[..length] == *text.as_bytes()) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, echoed).await.expect("an echo");
    }

    async fn count(&self, text: &str, wanted: usize) -> usize {
        let (mut seen, mut bytes) = (0, [0; 100]);
        while seen < wanted {
            let length = tokio::time::timeout(PATIENCE, self.socket.recv(&mut bytes)).await.unwrap().unwrap();
            seen += usize::from(bytes[..length] == *text.as_bytes());
        }
        seen
    }
}

fn pair(from: &str, to: &str) -> Pair {
    (from.to_owned(), to.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_cross_the_switch_and_impairments_hit_them() {
    let Some(it) = echoing().await else { return };
    it.until_echoed("hello").await;

    let links = it.network.as_ref().unwrap().links();
    let cut = links.impose(&[pair("harness", "n1")], Impairment::Cut);
    for _ in 0..3 {
        it.socket.send_to(b"cut", it.peer).await.unwrap();
    }
    let hit = async {
        while links.hits(&cut).frames < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, hit).await.expect("three frames are dropped");
    assert_eq!(links.lift(cut).frames, 3);

    let doubled = links.impose(&[pair("n1", "harness")], Impairment::Duplicate { probability: 1.0 });
    it.socket.send_to(b"twice", it.peer).await.unwrap();
    assert_eq!(it.count("twice", 2).await, 2);
    assert!(links.lift(doubled).frames >= 1);
    it.until_echoed("healed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_named_in_the_state_file_while_they_exist() {
    let Some(mut it) = echoing().await else { return };
    let state = it.folder.path().join("running.json");
    let state = || std::fs::read_to_string(&state).unwrap();
    let namespace = |word: &str| word.starts_with(PREFIX).then(|| word.to_owned());
    let name = state().split('"').find_map(namespace).expect("a namespace in the state file");
    let path = std::path::Path::new("/run/netns").join(&name);
    assert!(path.exists());
    it.echo.kill().unwrap();
    it.network.take().unwrap().remove().await.unwrap();
    assert!(!path.exists() && !state().contains(PREFIX));
}
