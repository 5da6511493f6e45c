//! Three nodes: they form by themselves, any of them takes any request, and one may go at any moment.

use std::time::{Duration, Instant};

use ovncp_raft::{Phase, ProposeError};
use ovncp_state::NodeId;

use crate::cluster::{Cluster, TIMEOUT, put};

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_form_one_cluster_and_each_takes_writes_and_reads() {
    let mut cluster = Cluster::formed(3).await;
    let identities: Vec<_> = cluster.running().map(|node| node.group().identity()).collect();
    assert!(identities.iter().all(|identity| identity.cluster_id == identities[0].cluster_id));
    let ids: Vec<_> = identities.iter().map(|identity| identity.node_id).collect();
    assert_eq!(ids, [Some(NodeId(1)), Some(NodeId(2)), Some(NodeId(3))]);
    let keys: Vec<_> = cluster.running().map(|node| node.group().cluster_key()).collect();
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]));

    for node in cluster.running() {
        let committed = node.group().propose(put("last", node.name()), TIMEOUT).await.unwrap();
        // Read your writes on the node that took it, without a barrier.
        assert_eq!(node.value("last").as_deref(), Some(node.name()), "{committed:?}");
        for reader in cluster.running() {
            reader.group().read_barrier(TIMEOUT).await.unwrap();
            assert_eq!(reader.value("last").as_deref(), Some(node.name()), "read on {}", reader.name());
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_after_the_leader_stops_and_after_a_restart_of_all() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.node(&follower).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    cluster.node_mut(&leader).stop().await;
    cluster.node(&follower).group().propose(put("b", "2"), TIMEOUT).await.unwrap();
    cluster.stop().await;
    for node in cluster.nodes.values_mut() {
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
        node.group().read_barrier(TIMEOUT).await.unwrap();
        assert_eq!((node.value("a").as_deref(), node.value("b").as_deref()), (Some("1"), Some("2")));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_refused_in_time_and_go_on_when_one_returns() {
    let mut cluster = Cluster::formed(3).await;
    cluster.node(&cluster.leader().await).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    let survivor = cluster.leader().await;
    let others: Vec<String> = cluster.nodes.keys().filter(|name| **name != survivor).cloned().collect();
    for name in &others {
        cluster.node_mut(name).stop().await;
    }
    let group = cluster.node(&survivor).group().clone();
    let asked = Instant::now();
    let refused = group.propose(put("a", "2"), TIMEOUT).await;
    assert!(asked.elapsed() < TIMEOUT / 2, "took {:?}", asked.elapsed());
    // The first one may have met a leader that did not know yet.
    assert!(matches!(refused, Err(ProposeError::NoLeader { .. } | ProposeError::Unknown)), "{refused:?}");
    let asked = Instant::now();
    let refused = group.propose(put("a", "3"), TIMEOUT).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader { .. })), "{refused:?}");
    assert!(asked.elapsed() < TIMEOUT / 2, "took {:?}", asked.elapsed());
    assert!(group.read_barrier(TIMEOUT).await.is_err());
    // Local reads still work.
    assert!(cluster.node(&survivor).value("a").is_some());

    cluster.node_mut(&others[0]).start().await;
    cluster.node(&others[0]).serving().await;
    group.propose(put("a", "4"), TIMEOUT).await.unwrap();
    cluster.node(&others[0]).group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(cluster.node(&others[0]).value("a").as_deref(), Some("4"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_its_silent_peers_and_says_for_whom() {
    let mut cluster = Cluster::new(3).await;
    for name in ["n1", "n3"] {
        cluster.node_mut(name).start().await;
    }
    let waits_for_n2 = |phase: &Phase| matches!(phase, Phase::Forming { waiting_for } if waiting_for.iter().any(|who| who.starts_with("n2:")));
    for name in ["n1", "n3"] {
        cluster.node(name).until("waits for n2", |status| waits_for_n2(&status.phase)).await;
    }
    cluster.node_mut("n2").start().await;
    for node in cluster.running() {
        node.serving().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_from_any_node_to_the_asked_one() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let third = cluster.nodes.keys().find(|name| **name != leader && **name != follower).unwrap().clone();
    let target = cluster.id(&third);
    // Asked on a node that is neither the old leader nor the new one.
    let asked = cluster.node(&follower).group();
    let began = Instant::now();
    loop {
        let result = asked.transfer_leader(Some(target), TIMEOUT).await;
        if result == Ok(target) {
            break;
        }
        assert!(began.elapsed() < TIMEOUT, "not handed over: {result:?}");
    }
    cluster.node(&third).until("leads", |status| status.is_leader).await;
    cluster.node(&leader).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    let unknown = cluster.node(&leader).group().transfer_leader(Some(NodeId(77)), TIMEOUT).await;
    assert!(unknown.is_err(), "{unknown:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_learns_of_a_commit_at_once_and_not_with_the_next_heartbeat() {
    const HEARTBEAT: Duration = Duration::from_secs(5);
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        node.config.timing.raft_heartbeat = HEARTBEAT;
        node.config.timing.election_timeout_min = HEARTBEAT * 4;
        node.config.timing.election_timeout_max = HEARTBEAT * 5;
        node.config.timing.heartbeat_interval = HEARTBEAT * 2;
        node.config.timing.node_timeout = HEARTBEAT * 20;
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    let follower = cluster.follower().await;
    let group = cluster.node(&follower).group();
    let began = Instant::now();
    for number in 0..10 {
        group.propose(put("a", &number.to_string()), TIMEOUT).await.unwrap();
    }
    // With the next heartbeat each would take half a second on average.
    assert!(began.elapsed() < HEARTBEAT * 4, "10 writes through a follower took {:?}", began.elapsed());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_data_directory_is_refused_and_says_so() {
    let mut cluster = Cluster::formed(3).await;
    let original = cluster.leader().await;
    // The directory as it was at some moment, used by a second process on another address.
    let mut copy = crate::cluster::TestNode::alone(&original);
    copy.config.peers.clone_from(&cluster.node(&original).config.peers);
    cluster.node_mut(&original).stop().await;
    cluster.node(&original).copy_data_to(&copy);
    cluster.node_mut(&original).start().await;
    cluster.node(&original).serving().await;
    // As the leader it tells that both peers know this start of it.
    cluster.make_leader(&original).await;
    let known = |status: &ovncp_raft::GroupStatus| {
        status.is_leader
            && status.peers.len() == 2
            && status.peers.iter().all(|peer| peer.last_ack_age_ms.is_some_and(|age| age < 10_000))
    };
    cluster.node(&original).until("both peers answer it", known).await;
    copy.start().await;
    copy.until(
        "refused",
        |status| matches!(&status.phase, Phase::Stopped { reason } if reason.contains("copied")),
    )
    .await;
    cluster.node(&original).group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    copy.stop().await;
    cluster.stop().await;
}
