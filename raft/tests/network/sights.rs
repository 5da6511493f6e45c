//! What a node sees of its peers: connected, gone, restarted, refused.

use std::time::Duration;

use openraft::network::RPCOption;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use ovncp_raft::network::types::VoteRequest;
use ovncp_raft::network::{Refusal, TcpNet};
use tokio::time::{Instant, sleep};

use crate::node::{Node, Setup, vote};
use crate::support::sim_net::{SimHost, SimNet};

fn on_sim(id: u64) -> Setup {
    Setup { bind: format!("h{id}:7400"), ..Setup::new(id) }
}

/// Two nodes that see each other.
async fn pair(net: &SimNet) -> (Node<SimHost>, Node<SimHost>) {
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    a.meet(&[a.place(), b.place()]);
    b.meet(&[a.place(), b.place()]);
    a.sees(2, "connected", |sight| sight.connected).await;
    b.sees(1, "connected", |sight| sight.connected).await;
    (a, b)
}

#[tokio::test]
async fn a_process_that_ends_is_gone_at_once_over_tcp() {
    // An address of its own: a test beside this one must not take the port that becomes free.
    let b = Setup { bind: "127.77.0.2:0".into(), ..Setup::new(2) };
    let (a, b) = (Setup::new(1).start(TcpNet).await, b.start(TcpNet).await);
    a.meet(&[b.place()]);
    let sight = a.sees(2, "connected", |sight| sight.connected).await;
    assert_eq!((sight.boot, sight.gone_at), (Some(1), None));
    let end = Instant::now();
    b.stop().await;
    let sight = a.sees(2, "gone", |sight| sight.gone_at.is_some()).await;
    assert!(!sight.connected);
    assert!(sight.gone_at.unwrap() >= end);
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn gone_is_known_within_two_round_trips() {
    let net = SimNet::new(1);
    let (a, b) = pair(&net).await;
    let end = Instant::now();
    b.stop().await;
    let sight = a.sees(2, "gone", |sight| sight.gone_at.is_some()).await;
    assert!(sight.gone_at.unwrap() - end <= Duration::from_millis(5));
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_quick_restart_is_seen_as_gone_and_connected() {
    let net = SimNet::new(2);
    let (a, b) = pair(&net).await;
    b.network.close();
    let end = Instant::now();
    b.stop().await;
    let b = on_sim(2).restarted().start(net.host("h2")).await;
    let sight = a.sees(2, "connected again", |sight| sight.connected && sight.boot == Some(2)).await;
    assert!(sight.gone_at.unwrap() >= end);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_alone_does_not_mean_gone() {
    let net = SimNet::new(3);
    let (a, b) = pair(&net).await;
    net.reset("h1", "h2");
    a.sees(2, "disconnected", |sight| !sight.connected).await;
    let sight = a.sees(2, "connected again", |sight| sight.connected).await;
    assert_eq!(sight.gone_at, None);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_path_is_noticed_without_traffic_and_does_not_mean_gone() {
    let net = SimNet::new(4);
    let (a, b) = pair(&net).await;
    let start = Instant::now();
    net.cut("h1", "h2");
    a.sees(2, "disconnected", |sight| !sight.connected).await;
    assert!(start.elapsed() <= Duration::from_millis(1_600), "{:?}", start.elapsed());
    sleep(Duration::from_secs(30)).await;
    net.heal();
    let healed = Instant::now();
    let sight = a.sees(2, "connected again", |sight| sight.connected).await;
    assert_eq!(sight.gone_at, None);
    assert!(healed.elapsed() <= Duration::from_millis(500), "{:?}", healed.elapsed());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_gone_only_when_it_answers_again() {
    let net = SimNet::new(5);
    let (a, b) = pair(&net).await;
    net.power_off("h2");
    b.stop().await;
    let sight = a.sees(2, "disconnected", |sight| !sight.connected).await;
    assert_eq!(sight.gone_at, None);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(a.network.sights().borrow()[&ovncp_state::NodeId(2)].gone_at, None);
    net.power_on("h2");
    a.sees(2, "gone", |sight| sight.gone_at.is_some()).await;
    a.stop().await;
}

/// The member list may learn of a peer after consensus did.
#[tokio::test(start_paused = true)]
async fn a_peer_that_is_connected_already_is_seen_as_such() {
    let net = SimNet::new(8);
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    let mut client = a.network.clone().new_client(2, &b.peer).await;
    let request = VoteRequest::new(vote(5), None);
    client.vote(request, RPCOption::new(Duration::from_secs(5))).await.unwrap();
    a.meet(&[b.place()]);
    let sight = a.sees(2, "connected", |sight| sight.connected).await;
    assert_eq!((sight.boot, sight.gone_at), (Some(1), None));
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reaches_us_is_dialed_at_once() {
    let net = SimNet::new(6);
    let options = ovncp_raft::network::NetworkOptions {
        redial_min: Duration::from_secs(3_600),
        redial_max: Duration::from_secs(3_600),
        ..Default::default()
    };
    let a = Setup { options, ..on_sim(1) }.start(net.host("h1")).await;
    let absent = ovncp_storage::types::Peer { name: "node-2".into(), addr: "h2:7400".into() };
    a.meet(&[(ovncp_state::NodeId(2), absent)]);
    sleep(Duration::from_secs(60)).await;
    let b = on_sim(2).start(net.host("h2")).await;
    b.meet(&[a.place()]);
    let start = Instant::now();
    a.sees(2, "connected", |sight| sight.connected).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_seen_and_so_is_its_end() {
    let net = SimNet::new(7);
    let a = on_sim(1).start(net.host("h1")).await;
    // It has not joined yet.
    let b = Setup { has_id: false, cluster: None, ..on_sim(2) }.start(net.host("h2")).await;
    a.meet(&[b.place()]);
    a.sees(2, "refused", |sight| sight.refusal == Some(Refusal::NotMember)).await;
    b.network.identity().set_membership(Some(crate::node::CLUSTER), Some(b.id));
    let sight = a.sees(2, "connected", |sight| sight.connected).await;
    assert_eq!(sight.refusal, None);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_left_the_membership_is_let_go() {
    let net = SimNet::new(8);
    let (a, b) = pair(&net).await;
    a.meet(&[]);
    b.meet(&[]);
    assert!(a.network.sights().borrow().is_empty());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(net.connections(), 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_network_ends_its_connections() {
    let net = SimNet::new(9);
    let (a, b) = pair(&net).await;
    let Node { network, .. } = a;
    // `serve` and the links run on, but nobody owns the network any more.
    drop(network);
    b.sees(1, "disconnected", |sight| !sight.connected).await;
    b.stop().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(net.connections(), 0);
}
