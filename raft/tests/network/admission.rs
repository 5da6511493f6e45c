//! Who is refused, and how it is told.

use std::time::Duration;

use ovncp_raft::network::message::ControlRequest;
use ovncp_raft::network::{CallError, DialError, KnownMember, Net, PeerNetwork, Refusal, Target};
use ovncp_state::{ClusterId, Incarnation, NodeId};

use crate::node::{CLUSTER, Members, Memory, Node, Setup};
use crate::support::sim_net::{SimHost, SimNet};

fn on_sim(id: u64) -> Setup {
    Setup { bind: format!("h{id}:7400"), ..Setup::new(id) }
}

/// Dials `to` on the control lane.
async fn dial<N: Net>(from: &PeerNetwork<N, Memory>, to: &str, target: Target) -> Result<(), CallError> {
    let request = ControlRequest::Probe { list: [0; 16] };
    from.control(to, target, request, Duration::from_secs(5)).await.map(|_| ())
}

fn anybody() -> Target {
    Target { id: None, name: None, incarnation: None }
}

fn refused(refusal: Refusal) -> Result<(), CallError> {
    Err(CallError::NotSent(DialError::Refused(refusal)))
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dials_itself_is_refused() {
    let net = SimNet::new(1);
    let a = on_sim(1).start(net.host("h1")).await;
    assert_eq!(dial(&a.network, "h1:7400", anybody()).await, refused(Refusal::SelfDial));
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_wrong_target_is_refused() {
    let net = SimNet::new(2);
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    let wrong = Refusal::WrongTarget { name: "node-2".into(), id: Some(NodeId(2)) };
    let by_name = Target { name: Some("node-3".into()), ..anybody() };
    assert_eq!(dial(&a.network, "h2:7400", by_name).await, refused(wrong.clone()));
    let by_id = Target { id: Some(NodeId(3)), name: Some("node-2".into()), incarnation: None };
    assert_eq!(dial(&a.network, "h2:7400", by_id).await, refused(wrong));
    let right = b.target();
    assert_eq!(dial(&a.network, "h2:7400", right.clone()).await, Ok(()));
    let (known, presented) = (Incarnation([9; 16]), Incarnation([2; 16]));
    let wiped = Target { incarnation: Some(known), ..right };
    let refusal = Refusal::OtherIncarnation { id: NodeId(2), known, presented };
    assert_eq!(dial(&a.network, "h2:7400", wiped).await, refused(refusal));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_refused() {
    let net = SimNet::new(3);
    let (other, b) = (ClusterId([8; 16]), on_sim(2).start(net.host("h2")).await);
    let a = Setup { cluster: Some(other), ..on_sim(1) }.start(net.host("h1")).await;
    let refusal = Refusal::WrongCluster { theirs: CLUSTER, asked: other };
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, refused(refusal));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_one_name_are_refused() {
    let net = SimNet::new(4);
    let twin = Setup { name: "node-2".into(), has_id: false, cluster: None, ..on_sim(1) };
    let (a, b) = (twin.start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    let refusal = Refusal::SameName { name: "node-2".into() };
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, refused(refusal));
    a.stop().await;
    b.stop().await;
}

fn known(members: &Members, id: u64, incarnation: u8, boot: u64) {
    let name = format!("node-{id}");
    let member = KnownMember { name, incarnation: Incarnation([incarnation; 16]), boot };
    members.0.lock().unwrap().insert(NodeId(id), member);
}

#[tokio::test(start_paused = true)]
async fn a_member_with_another_data_directory_or_an_older_start_is_refused() {
    let net = SimNet::new(5);
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2));
    let members = b.members.clone();
    let b = b.start(net.host("h2")).await;
    known(&members, 1, 9, 1);
    let (old, new) = (Incarnation([9; 16]), Incarnation([1; 16]));
    let refusal = Refusal::OtherIncarnation { id: NodeId(1), known: old, presented: new };
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, refused(refusal));
    known(&members, 1, 1, 5);
    let refusal = Refusal::StaleBoot { id: NodeId(1), known: 5, presented: 1 };
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, refused(refusal));
    known(&members, 1, 1, 1);
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, Ok(()));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_dialer_refuses_who_answers_with_another_data_directory() {
    let net = SimNet::new(6);
    let (a, b) = (on_sim(1), on_sim(2).start(net.host("h2")).await);
    known(&a.members, 2, 9, 1);
    let a = a.start(net.host("h1")).await;
    let (old, new) = (Incarnation([9; 16]), Incarnation([2; 16]));
    let refusal = Refusal::OtherIncarnation { id: NodeId(2), known: old, presented: new };
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, refused(refusal));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raft_lanes_open_only_between_members() {
    let net = SimNet::new(7);
    // It knows its id but not its cluster: it has not applied the first entry yet.
    let newcomer = Setup { cluster: None, ..on_sim(1) };
    let (a, b) = (newcomer.start(net.host("h1")).await, on_sim(2));
    let members = b.members.clone();
    let b = b.start(net.host("h2")).await;
    a.meet(&[b.place()]);
    a.sees(2, "refused", |sight| sight.refusal == Some(Refusal::NotMember)).await;
    assert_eq!(dial(&a.network, "h2:7400", anybody()).await, Ok(()), "the control lane is open");
    // Once the other knows it as a member, it may vote.
    known(&members, 1, 1, 1);
    a.sees(2, "connected", |sight| sight.connected).await;
    a.stop().await;
    b.stop().await;
}

/// A node and its copy, whose process differs, and a peer that the first is connected to.
async fn with_copy(
    net: &SimNet,
    copy: impl FnOnce(Setup) -> Setup,
) -> (Node<SimHost>, Node<SimHost>, Node<SimHost>) {
    let (original, peer) = (on_sim(1), on_sim(2).start(net.host("h2")).await);
    let copy = Setup { bind: "h3:7400".into(), process: 77, ..copy(original.clone()) };
    let original = original.start(net.host("h1")).await;
    original.meet(&[peer.place()]);
    original.sees(2, "connected", |sight| sight.connected).await;
    let copy = copy.start(net.host("h3")).await;
    copy.meet(&[peer.place()]);
    (original, copy, peer)
}

#[tokio::test(start_paused = true)]
async fn a_copied_data_directory_is_refused_while_the_original_lives() {
    for later_start in [false, true] {
        let net = SimNet::new(8);
        let (original, copy, peer) =
            with_copy(&net, |setup| if later_start { setup.restarted() } else { setup }).await;
        let second = Refusal::SecondProcess { id: NodeId(1) };
        copy.sees(2, "refused", |sight| sight.refusal == Some(second.clone())).await;
        // Not by asking often, either: all lanes of a node dial at once.
        let dials = (0..20).map(|_| dial(&copy.network, "h2:7400", anybody()));
        for dialed in futures_util::future::join_all(dials).await {
            assert_eq!(dialed, refused(second.clone()));
        }
        original.sees(2, "still connected", |sight| sight.connected).await;
        // The original dies without a word: the copy is a restart for all that anybody can know.
        net.power_off("h1");
        copy.sees(2, "connected", |sight| sight.connected).await;
        original.stop().await;
        copy.stop().await;
        peer.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_start_is_refused_also_after_the_newer_one_went() {
    let net = SimNet::new(9);
    let peer = on_sim(2).start(net.host("h2")).await;
    let newer = on_sim(1).restarted().start(net.host("h1")).await;
    assert_eq!(dial(&newer.network, "h2:7400", anybody()).await, Ok(()));
    newer.stop().await;
    let older = on_sim(1).start(net.host("h1")).await;
    let refusal = Refusal::StaleBoot { id: NodeId(1), known: 2, presented: 1 };
    assert_eq!(dial(&older.network, "h2:7400", anybody()).await, refused(refusal));
    older.stop().await;
    peer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn further_connections_of_one_lane_replace_the_oldest() {
    use openraft::network::RPCOption;
    use openraft::{RaftNetworkFactory, RaftNetworkV2};
    use ovncp_raft::network::limits::CONNECTIONS_PER_LANE_MAX;

    let net = SimNet::new(10);
    let (a, b) = (on_sim(1).start(net.host("h1")).await, on_sim(2).start(net.host("h2")).await);
    let option = RPCOption::new(Duration::from_secs(5));
    let mut clients = Vec::new();
    for _ in 0..=CONNECTIONS_PER_LANE_MAX {
        let mut client = a.network.clone().new_client(2, &b.peer).await;
        assert!(
            client.append_entries(crate::node::append(0, 1, 1), option.clone()).await.unwrap().is_success()
        );
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Its client notices when it next has something to send, and takes the place of another.
    assert!(clients[0].append_entries(crate::node::append(0, 1, 1), option).await.is_ok());
    let appends = b.handler.appended.lock().unwrap().len();
    assert_eq!(appends, CONNECTIONS_PER_LANE_MAX + 2);
    drop(clients);
    a.stop().await;
    b.stop().await;
    assert_eq!(net.connections(), 0);
}
