//! The append lane: order, pipelining, bounds, conflicts, reconnection.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use ovncp_raft::network::limits::{APPEND_FRAME_BYTES, APPENDS_IN_FLIGHT_MAX};
use ovncp_raft::network::types::RpcError;
use ovncp_raft::network::{Net, PeerClient, TcpNet};
use tokio::time::{Instant, timeout};

use crate::node::{Handler, Memory, NamedTcp, Node, Setup, append, log_id, vote};
use crate::support::sim_net::{SimNet, Weather};

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(5))
}

async fn client<N: Net>(from: &Node<N>, to: &Node<N>) -> PeerClient<N, Memory> {
    from.network.clone().new_client(to.id.0, &to.peer).await
}

/// Hosts of the simulated network bind under their own name.
fn on_sim(id: u64) -> Setup {
    Setup { bind: format!("h{id}:7400"), ..Setup::new(id) }
}

async fn answers_come_in_order<N: Net>(a: Node<N>, b: Node<N>) {
    let mut client = client(&a, &b).await;
    let requests = (0..500).map(|i| append(i * 3, 3, 100));
    let answers = client.stream_append(stream::iter(requests), option()).await.unwrap();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().unwrap().unwrap().index).collect().await;
    let expected: Vec<u64> = (1..=500).map(|i| i * 3).collect();
    assert_eq!(answers, expected);
    assert_eq!(*b.handler.appended.lock().unwrap(), expected);
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn answers_come_in_order_over_tcp() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    answers_come_in_order(a, b).await;
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_order_over_a_slow_network() {
    let net = SimNet::new(1);
    net.set_weather(Weather { latency_ms: 5..=20, loss_per_10k: 3_000, ..Weather::default() });
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    answers_come_in_order(a, b).await;
    assert!(net.counters().lost > 0);
    assert_eq!(net.connections(), 0, "a stopped node leaves no connection behind");
}

#[tokio::test(start_paused = true)]
async fn many_appends_are_in_flight_at_once() {
    let net = SimNet::new(2);
    net.set_weather(Weather { latency_ms: 50..=50, ..Weather::default() });
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    let mut client = client(&a, &b).await;
    let requests = (0..100).map(|i| append(i, 1, 10));
    let start = Instant::now();
    let answers = client.stream_append(stream::iter(requests), option()).await.unwrap();
    assert_eq!(answers.count().await, 100);
    // Dial and hand-shake take three one-way delays and the appends one round trip, not a hundred.
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded_while_the_peer_does_not_answer() {
    let net = SimNet::new(3);
    let handler = Handler { append_permits: tokio::sync::Semaphore::new(0), ..Handler::default() };
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start_with(net.host("h2"), handler).await);
    let mut client = client(&a, &b).await;
    let pulled = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&pulled);
    let requests = (0..10_000).map(move |i| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        append(i, 1, 10)
    });
    let mut answers = client.stream_append(stream::iter(requests), option()).await.unwrap();
    // Longer than the stall time-out: the peer is slow, not dead, and answers pings.
    assert!(timeout(Duration::from_secs(30), answers.next()).await.is_err());
    let pulled = || pulled.load(std::sync::atomic::Ordering::Relaxed);
    assert!(pulled() <= APPENDS_IN_FLIGHT_MAX + 1, "{} requests taken from the log", pulled());
    b.handler.append_permits.add_permits(10_000);
    let mut expected = 1;
    while let Some(answer) = answers.next().await {
        assert_eq!(answer.unwrap().unwrap(), Some(log_id(expected)));
        expected += 1;
    }
    assert_eq!(expected, 10_001);
    drop(answers);
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_large_request_is_split_and_answered_once() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    let mut client = client(&a, &b).await;
    let requests =
        [append(0, 5, APPEND_FRAME_BYTES / 2 + 1), append(5, 0, 0), append(5, 1, 2 * APPEND_FRAME_BYTES)];
    let answers = client.stream_append(stream::iter(requests), option()).await.unwrap();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().unwrap().unwrap().index).collect().await;
    assert_eq!(answers, [5, 5, 6]);
    assert_eq!(*b.handler.appended.lock().unwrap(), [1, 2, 3, 4, 5, 5, 6]);
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_conflict_ends_the_stream_and_the_next_one_uses_the_same_connection() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    *b.handler.conflict_at.lock().unwrap() = Some(3);
    let mut client = client(&a, &b).await;
    let requests = (0..100).map(|i| append(i, 1, 10));
    let answers = client.stream_append(stream::iter(requests), option()).await.unwrap();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap()).collect().await;
    assert_eq!(
        answers,
        [Ok(Some(log_id(1))), Ok(Some(log_id(2))), Err(StreamAppendError::Conflict(log_id(2)))]
    );
    *b.handler.conflict_at.lock().unwrap() = None;
    b.handler.appended.lock().unwrap().clear();
    let answer = client.append_entries(append(7, 2, 10), option()).await.unwrap();
    assert_eq!(answer, AppendEntriesResponse::Success);
    // What was in flight behind the conflict is void.
    assert_eq!(*b.handler.appended.lock().unwrap(), [9]);
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_dropped_stream_leaves_the_connection_usable() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    let mut client = client(&a, &b).await;
    for round in 0..20_u64 {
        let requests = (0..100).map(move |i| append(round * 1_000 + i, 1, 10_000));
        let mut answers = client.stream_append(stream::iter(requests), option()).await.unwrap();
        for i in 0..round {
            let answer = answers.next().await.unwrap().unwrap().unwrap();
            assert_eq!(answer, Some(log_id(round * 1_000 + i + 1)));
        }
    }
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_without_raft_is_unreachable() {
    let handler = Handler { serving: false, ..Handler::default() };
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start_with(TcpNet, handler).await);
    let mut client = client(&a, &b).await;
    let error = client.append_entries(append(0, 1, 1), option()).await.unwrap_err();
    assert!(matches!(&error, RpcError::Unreachable(why) if why.to_string().contains("no raft")), "{error}");
    let request = ovncp_raft::network::types::VoteRequest::new(vote(2), None);
    let error = client.vote(request, option()).await.unwrap_err();
    assert!(matches!(&error, RpcError::Unreachable(why) if why.to_string().contains("no raft")), "{error}");
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_peer_that_comes_back_on_another_address_is_found_under_its_name() {
    let net = NamedTcp::default();
    let (setup, a) = (Setup::new(2), Setup::new(1).start(net.clone()).await);
    let b = setup.start(net.clone()).await;
    net.point("node-2.peers:7400", &b.peer.addr);
    let named = ovncp_storage::types::Peer { name: "node-2".into(), addr: "node-2.peers:7400".into() };
    let mut client = a.network.clone().new_client(2, &named).await;
    assert!(client.append_entries(append(0, 1, 1), option()).await.unwrap().is_success());
    b.stop().await;
    let error = client.append_entries(append(1, 1, 1), option()).await.unwrap_err();
    assert!(matches!(error, RpcError::Unreachable(_)), "{error}");
    let b = setup.restarted().start(net.clone()).await;
    net.point("node-2.peers:7400", &b.peer.addr);
    assert!(client.append_entries(append(1, 1, 1), option()).await.unwrap().is_success());
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_path_is_unreachable_after_the_stall_time_and_works_again_when_healed() {
    let net = SimNet::new(4);
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    let mut client = client(&a, &b).await;
    assert!(client.append_entries(append(0, 1, 1), option()).await.unwrap().is_success());
    net.cut_one_way("h2", "h1");
    let start = Instant::now();
    let error = client.append_entries(append(1, 1, 1), option()).await.unwrap_err();
    assert!(matches!(error, RpcError::Unreachable(_)), "{error}");
    assert!((900..1_100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    net.heal();
    assert!(client.append_entries(append(1, 1, 1), option()).await.unwrap().is_success());
    drop(client);
    a.stop().await;
    b.stop().await;
}
