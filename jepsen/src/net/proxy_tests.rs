//! The test process is the dialler: it registers its own process id under the dialling host's name.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::super::{Impairment, Pair};
use super::*;

/// How long a busy machine may take to bring bytes that nothing holds.
const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    links: Arc<Links>,
    _proxies: Proxies,
    dialled: TcpStream,
    accepted: TcpStream,
}

/// `n2` dials `n1` through the proxy of `n1`.
async fn connected() -> Fixture {
    let links = Arc::new(Links::new(1));
    let pids: Pids = Arc::new(Mutex::new(BTreeMap::from([("n2".to_owned(), std::process::id())])));
    let mut proxies = Proxies::prepare(Arc::clone(&links), pids).unwrap();
    let place = proxies.add_host("n1", 1).await.unwrap();
    let backend = TcpListener::bind((place.listen.as_str(), PEER_PORT)).await.unwrap();
    let dialled = TcpStream::connect((place.advertised.as_str(), PEER_PORT)).await.unwrap();
    let (accepted, _) = tokio::time::timeout(PATIENCE, backend.accept()).await.unwrap().unwrap();
    Fixture { links, _proxies: proxies, dialled, accepted }
}

fn pair(from: &str, to: &str) -> Pair {
    (from.to_owned(), to.to_owned())
}

async fn brings(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
    from.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(receive(to, text.len()).await, text);
}

async fn receive(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Waits until an impairment has hit something.
async fn until_hit(links: &Links, imposed: &super::super::Imposed) {
    let hit = async {
        while links.hits(imposed).frames == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, hit).await.expect("the impairment hits something");
}

#[tokio::test]
async fn bytes_and_the_end_come_through() {
    let mut it = connected().await;
    brings(&mut it.dialled, &mut it.accepted, "hello").await;
    brings(&mut it.accepted, &mut it.dialled, "there").await;
    it.dialled.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, it.accepted.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
    // Half closed: the other direction goes on.
    brings(&mut it.accepted, &mut it.dialled, "still").await;
}

#[tokio::test]
async fn a_one_way_cut_holds_one_direction_until_it_is_lifted() {
    let mut it = connected().await;
    let cut = it.links.impose(&[pair("n2", "n1")], Impairment::Cut);
    it.dialled.write_all(b"held").await.unwrap();
    until_hit(&it.links, &cut).await;
    brings(&mut it.accepted, &mut it.dialled, "free").await;
    let mut byte = [0; 1];
    let nothing = it.accepted.try_read(&mut byte);
    assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(it.links.lift(cut).bytes, 4);
    assert_eq!(receive(&mut it.accepted, 4).await, "held");
}

#[tokio::test]
async fn the_end_of_a_connection_does_not_pass_a_cut() {
    let mut it = connected().await;
    let cut = it.links.impose(&[pair("n2", "n1"), pair("n1", "n2")], Impairment::Cut);
    drop(it.dialled);
    until_hit(&it.links, &cut).await;
    let mut byte = [0; 1];
    assert_eq!(it.accepted.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let _ = it.links.lift(cut);
    let end = tokio::time::timeout(PATIENCE, it.accepted.read(&mut byte)).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn a_delay_is_kept_and_counted() {
    let mut it = connected().await;
    let by = Duration::from_millis(150);
    let delay = it.links.impose(&[pair("n2", "n1")], Impairment::Delay { by, jitter: Duration::ZERO });
    let sent = Instant::now();
    brings(&mut it.dialled, &mut it.accepted, "late").await;
    assert!(sent.elapsed() >= by);
    assert_eq!(it.links.lift(delay).bytes, 4);
}

#[tokio::test]
async fn a_dialler_that_is_no_node_is_closed() {
    let it = connected().await;
    it._proxies.pids.lock().unwrap().clear();
    let front = it._proxies.advertised(1);
    let mut stranger = TcpStream::connect((front, PEER_PORT)).await.unwrap();
    let mut byte = [0; 1];
    let end = tokio::time::timeout(PATIENCE, stranger.read(&mut byte)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}
