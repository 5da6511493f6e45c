//! Members come, go, lose their disks and change their addresses.

use std::time::Duration;

use ovncp_raft::{GroupStatus, MembershipError, Phase, StaticPeer};
use ovncp_state::command::{NodeRole, NodeStatus, RemoveNode};
use ovncp_state::view::NodeView;
use ovncp_state::{Command, NodeId, Request, State};

use crate::cluster::{Cluster, TIMEOUT, TestNode, patient, put};

fn member(node: &TestNode, name: &str) -> Option<NodeView> {
    node.group().read(|state| state.node_by_name(name)).1
}

async fn until_member(node: &TestNode, name: &str, holds: impl Fn(&NodeView) -> bool) -> NodeView {
    node.until_state(name, |state| state.node_by_name(name).is_some_and(|view| holds(&view))).await;
    member(node, name).expect("a record of a member stays")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_joins_as_a_learner_and_stays_one_beyond_the_voter_target() {
    let mut cluster = Cluster::formed(3).await;
    cluster.node("n1").group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    let mut joiner = TestNode::alone("n4");
    joiner.config.peers.clone_from(&cluster.node("n1").config.peers);
    joiner.start().await;
    joiner.serving().await;
    assert!(joiner.group().identity().node_id.unwrap() > NodeId(1_000));
    assert_eq!(joiner.group().cluster_key(), cluster.node("n1").group().cluster_key());
    // A learner reads linearizably and takes writes.
    joiner.group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(joiner.value("a").as_deref(), Some("1"));
    joiner.group().propose(put("a", "2"), TIMEOUT).await.unwrap();
    assert_eq!(joiner.value("a").as_deref(), Some("2"));
    let view = until_member(cluster.node("n2"), "n4", |node| node.status == NodeStatus::Active).await;
    assert_eq!(view.role, NodeRole::Learner);
    joiner.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_suspected_then_inactive_then_replaced_by_a_learner() {
    let mut cluster = Cluster::formed(3).await;
    let mut joiner = TestNode::alone("n4");
    joiner.config.peers.clone_from(&cluster.node("n1").config.peers);
    joiner.start().await;
    joiner.serving().await;
    let victim = cluster.follower().await;
    let victim_id = cluster.id(&victim);
    cluster.node_mut(&victim).stop().await;
    let id = joiner.group().identity().node_id.unwrap();
    joiner
        .until("votes instead", |status| status.voters.contains(&id) && !status.voters.contains(&victim_id))
        .await;
    until_member(&joiner, "n4", |node| node.role == NodeRole::Voter).await;
    until_member(&joiner, &victim, |node| node.role == NodeRole::Learner).await;

    // It comes back as a learner: there are enough voters.
    cluster.node_mut(&victim).start().await;
    cluster.node(&victim).serving().await;
    let back = until_member(&joiner, &victim, |node| node.status == NodeStatus::Active).await;
    assert_eq!((back.id, back.role), (victim_id, NodeRole::Learner));
    joiner.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_learns_it_and_stops_and_the_others_go_on() {
    let mut cluster = Cluster::formed_with(3, patient()).await;
    let leader = cluster.leader().await;
    let gone = cluster.follower().await;
    let id = cluster.id(&gone);
    let removed = cluster.node(&gone).group().clone();
    cluster.node(&leader).group().remove_node(id, "test".to_owned(), TIMEOUT).await.unwrap();
    cluster
        .node(&gone)
        .until(
            "stopped",
            |status| matches!(&status.phase, Phase::Stopped { reason } if reason.contains("removed")),
        )
        .await;
    assert!(removed.propose(put("a", "0"), TIMEOUT).await.is_err());
    let term = cluster.node(&leader).group().status().term;
    cluster.node(&leader).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    assert_eq!(cluster.node(&leader).group().status().term, term, "the removed node disturbs nobody");

    // Started again with its old directory it is refused; the cluster does not take it back.
    cluster.node_mut(&gone).stop().await;
    cluster.node_mut(&gone).start().await;
    cluster
        .node(&gone)
        .until(
            "stopped again",
            |status| matches!(&status.phase, Phase::Stopped { reason } if reason.contains("removed")),
        )
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_first() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let id = cluster.id(&leader);
    cluster.node(&follower).group().remove_node(id, "test".to_owned(), TIMEOUT).await.unwrap();
    cluster.node(&leader).until("stopped", |status| matches!(&status.phase, Phase::Stopped { .. })).await;
    cluster.node(&follower).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_lose_the_majority_is_refused() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    cluster.node_mut(&dead).stop().await;
    until_member(cluster.node(&leader), &dead, |node| node.status != NodeStatus::Active).await;
    let other =
        cluster.running().find(|node| node.name() != leader).map(|node| node.name().to_owned()).unwrap();
    let id = cluster.id(&other);
    let refused = cluster.node(&leader).group().remove_node(id, "test".to_owned(), TIMEOUT).await;
    assert!(matches!(refused, Err(MembershipError::WouldLoseQuorum { .. })), "{refused:?}");
    let unknown = cluster.node(&leader).group().remove_node(NodeId(77), "test".to_owned(), TIMEOUT).await;
    assert!(matches!(unknown, Err(MembershipError::UnknownNode)), "{unknown:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_healthy_voters_are_kept_although_the_dead_one_is_still_shown_as_active() {
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        // The failure detector says nothing during this test.
        node.config.timing.heartbeat_interval = TIMEOUT;
        node.config.timing.node_timeout = TIMEOUT * 10;
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    cluster.node_mut(&dead).kill();
    let other = cluster.follower().await;
    for asked in [&leader, &other] {
        for going in [&leader, &other] {
            let id = cluster.id(going);
            let refused = cluster.node(asked).group().remove_node(id, "test".to_owned(), TIMEOUT).await;
            let Err(MembershipError::WouldLoseQuorum { reason }) = &refused else {
                panic!("{going} removed through {asked}: {refused:?}")
            };
            assert!(reason.contains(&dead), "{reason}");
        }
    }
    assert_eq!(member(cluster.node(&leader), &dead).map(|node| node.status), Some(NodeStatus::Active));
    // The dead one may go; asking again finds it done.
    let known = |state: &State| state.node_by_name(&dead).map(|node| node.id);
    let id = cluster.node(&leader).group().read(known).1.unwrap();
    for asked in [&other, &leader] {
        cluster.node(asked).group().remove_node(id, "test".to_owned(), TIMEOUT).await.unwrap();
    }
    // Of two that are left both are needed.
    let id = cluster.id(&leader);
    cluster.node_mut(&other).kill();
    let refused = cluster.node(&leader).group().remove_node(id, "test".to_owned(), TIMEOUT).await;
    assert!(refused.is_err(), "{refused:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_voter_cannot_be_removed() {
    let mut node = TestNode::alone("n1");
    node.start().await;
    node.serving().await;
    let id = node.group().identity().node_id.unwrap();
    let refused = node.group().remove_node(id, "test".to_owned(), TIMEOUT).await;
    assert!(matches!(refused, Err(MembershipError::WouldLoseQuorum { .. })), "{refused:?}");
    node.group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_voter_stays_as_long_as_the_others_have_no_majority_without_it() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    cluster.node_mut(&dead).stop().await;
    until_member(cluster.node(&leader), &dead, |node| node.status == NodeStatus::Inactive).await;
    let gone =
        cluster.running().find(|node| node.name() != leader).map(|node| node.name().to_owned()).unwrap();
    // As if the removal had been decided just before the other one died.
    let remove = RemoveNode { id: cluster.id(&gone), reason: "test".to_owned() };
    let request = Request::from(Command::RemoveNode(remove));
    cluster.node(&leader).group().propose(request, TIMEOUT).await.unwrap();
    let mut status = cluster.node(&gone).group().status_watch();
    let stopped = status.wait_for(|status| matches!(status.phase, Phase::Stopped { .. }));
    let stopped = tokio::time::timeout(Duration::from_secs(7), stopped).await;
    assert!(stopped.is_err(), "its vote is needed: {stopped:?}");
    cluster.node(&leader).group().propose(put("a", "1"), TIMEOUT).await.unwrap();

    cluster.node_mut(&dead).start().await;
    let out = |status: &GroupStatus| matches!(&status.phase, Phase::Stopped { reason } if reason.contains("removed"));
    cluster.node(&gone).until("stopped", out).await;
    cluster.node_mut(&gone).stop().await;
    let leader = cluster.leader().await;
    cluster.node(&leader).until("two voters", |status| status.voters.len() == 2).await;
    cluster.node(&leader).group().propose(put("a", "2"), TIMEOUT).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_with_a_new_id_in_the_place_of_its_old_self() {
    let mut cluster = Cluster::formed(3).await;
    let wiped = cluster.follower().await;
    let old = cluster.id(&wiped);
    cluster.node(&wiped).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    cluster.node_mut(&wiped).stop().await;
    cluster.node_mut(&wiped).wipe();
    cluster.node_mut(&wiped).start().await;
    let status = cluster
        .node(&wiped)
        .until("votes again", |status| status.node_id.is_some_and(|id| status.voters.contains(&id)))
        .await;
    assert_ne!(status.node_id, Some(old));
    cluster.node(&wiped).serving().await;
    assert_eq!(cluster.node(&wiped).value("a").as_deref(), Some("1"));
    let leader = cluster.leader().await;
    let at_leader = cluster.node(&leader);
    at_leader.until("the old id is gone", |status| !status.voters.contains(&old)).await;
    let left = |state: &State| state.node(old).is_none_or(|node| node.status == NodeStatus::Left);
    at_leader.until_state("the old record is ended", left).await;
    assert_eq!(at_leader.group().status().voters.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_come_up_on_new_addresses_under_the_same_names() {
    let mut cluster = Cluster::formed(3).await;
    cluster.node("n1").group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    cluster.stop().await;
    let moved: Vec<_> = cluster.nodes.keys().map(|name| TestNode::alone(name).config).collect();
    let peers: Vec<_> = moved
        .iter()
        .map(|config| StaticPeer { name: config.name.clone(), addr: config.listen.to_string() })
        .collect();
    for config in moved {
        let node = cluster.node_mut(&config.name);
        node.config.listen = config.listen;
        node.config.info.peer_addr = config.info.peer_addr;
        node.config.peers.clone_from(&peers);
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    cluster.node("n2").group().propose(put("a", "2"), TIMEOUT).await.unwrap();
    for name in ["n1", "n2", "n3"] {
        let addr = cluster.node(name).config.info.peer_addr.clone();
        until_member(cluster.node("n3"), name, |node| node.info.peer_addr == addr).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_on_a_new_address_is_found_although_no_list_names_it() {
    let mut cluster = Cluster::formed(3).await;
    let mut joiner = TestNode::alone("n4");
    joiner.config.peers.clone_from(&cluster.node("n1").config.peers);
    joiner.start().await;
    joiner.serving().await;
    let id = joiner.group().identity().node_id;
    joiner.stop().await;
    let moved = TestNode::alone("n4");
    joiner.config.listen = moved.config.listen;
    joiner.config.info.peer_addr = moved.config.info.peer_addr.clone();
    drop(moved);
    joiner.start().await;
    joiner.serving().await;
    assert_eq!(joiner.group().identity().node_id, id);
    joiner.group().read_barrier(TIMEOUT).await.unwrap();
    joiner.stop().await;
    cluster.stop().await;
}
