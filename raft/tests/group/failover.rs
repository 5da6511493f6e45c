//! Leaders die, stand still, and are wrongly given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, TIMEOUT, patient, put};

#[tokio::test(flavor = "multi_thread")]
async fn any_leader_may_be_killed_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::formed(3).await;
    for round in 0..4 {
        let leader = cluster.leader().await;
        let follower = cluster.follower().await;
        let group = cluster.node(&follower).group().clone();
        for number in 0..20 {
            let key = format!("{round}-{number}");
            group.propose(put(&key, "kept"), TIMEOUT).await.unwrap();
        }
        let killed = Instant::now();
        cluster.node_mut(&leader).kill();
        // What was under way may be unknown; a new one has to work again soon.
        while group.propose(put("alive", "yes"), Duration::from_secs(2)).await.is_err() {
            assert!(killed.elapsed() < TIMEOUT, "no fail-over");
        }
        println!("round {round}: written again {:?} after the kill", killed.elapsed());
        cluster.node_mut(&leader).start().await;
        cluster.node(&leader).serving().await;
        cluster.node(&leader).group().read_barrier(TIMEOUT).await.unwrap();
        for number in 0..20 {
            let value = cluster.node(&leader).value(&format!("{round}-{number}"));
            assert_eq!(value.as_deref(), Some("kept"), "{round}-{number} on {leader}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_may_be_killed_at_once() {
    let mut cluster = Cluster::formed(3).await;
    cluster.node("n2").group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    for node in cluster.nodes.values_mut() {
        node.kill();
    }
    for node in cluster.nodes.values_mut() {
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
        node.group().read_barrier(TIMEOUT).await.unwrap();
        assert_eq!(node.value("a").as_deref(), Some("1"));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stands_still_is_replaced_and_follows_when_it_wakes() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.node(&leader).pause();
    let group = cluster.node(&follower).group().clone();
    let began = Instant::now();
    while group.propose(put("a", "1"), Duration::from_secs(2)).await.is_err() {
        assert!(began.elapsed() < TIMEOUT, "no fail-over");
    }
    let term = group.status().term;
    cluster.node(&leader).resume();
    cluster
        .node(&leader)
        .until("follows", |status| !status.is_leader && status.leader.is_some() && status.term >= term)
        .await;
    cluster.node(&leader).group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(cluster.node(&leader).value("a").as_deref(), Some("1"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_changes_no_term() {
    let mut cluster = Cluster::formed_with(3, patient()).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let term = cluster.node(&leader).group().status().term;
    cluster.node_mut(&follower).kill();
    for number in 0..50 {
        cluster.node(&leader).group().propose(put("a", &number.to_string()), TIMEOUT).await.unwrap();
    }
    cluster.node_mut(&follower).start().await;
    cluster.node(&follower).serving().await;
    cluster.node(&follower).group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(cluster.node(&follower).value("a").as_deref(), Some("49"));
    assert_eq!(cluster.node(&leader).group().status().term, term);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_under_way_survive_the_death_of_the_leader_and_happen_once() {
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        // Nobody gives up: what is shown is that a change of leader loses nothing that has to be reported.
        node.config.timing.no_leader_wait = TIMEOUT;
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    for round in 0..3 {
        let leader = cluster.leader().await;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let survivors = cluster.running().filter(|node| node.name() != leader);
        let writers: Vec<_> = survivors
            .flat_map(|node| (0..6).map(|writer| (node.group().clone(), writer)))
            .map(|(group, writer)| {
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut written = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let node = group.identity().name;
                        let key = format!("{round}-{node}-{writer}-{}", written.len());
                        let committed = group.propose(put(&key, "x"), TIMEOUT).await.expect("a write failed");
                        written.push((key, committed.index));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    written
                })
            })
            .collect();
        while done.load(Ordering::Relaxed) < 100 {
            assert!(!writers.iter().any(tokio::task::JoinHandle::is_finished), "a writer ended");
            tokio::task::yield_now().await;
        }
        cluster.node_mut(&leader).kill();
        let new = cluster.leader().await;
        assert_ne!(new, leader);
        cluster.node(&new).group().propose(put("after", "1"), TIMEOUT).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        let reader = cluster.node(&new).group().clone();
        let mut count = 0;
        for writer in writers {
            let written = writer.await.unwrap();
            reader.read_barrier(TIMEOUT).await.unwrap();
            count += written.len();
            for (key, index) in written {
                let (meta, _) = reader.read(|state| state.kv(key.as_bytes())).1.expect("acknowledged");
                assert_eq!(meta.revision.0, index.0, "{key} was written twice");
            }
        }
        println!("round {round}: {count} writes");
        cluster.node_mut(&leader).start().await;
        cluster.node(&leader).serving().await;
    }
    cluster.stop().await;
}
