//! Failing disks, followers that fall far behind, and hand-overs under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ovncp_raft::{Phase, SnapshotSettings};
use ovncp_storage::disk::{Fault, SimDisk, SimOp};

use crate::cluster::{Cluster, TIMEOUT, put};

const EIO: i32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_stops_and_says_why_and_the_others_go_on() {
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        node.disk = Some(SimDisk::new());
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    // The leader first: it acknowledges nothing any more, and another one takes over.
    let leader = cluster.leader().await;
    let survivor = cluster.follower().await;
    let disk = cluster.node(&leader).disk.clone().unwrap();
    disk.inject(Fault { op: SimOp::Sync, path: String::new(), after: 0, errno: EIO, sticky: true });
    let group = cluster.node(&survivor).group().clone();
    let began = std::time::Instant::now();
    while group.propose(put("a", "1"), std::time::Duration::from_secs(2)).await.is_err() {
        assert!(began.elapsed() < TIMEOUT, "no other leader");
    }
    let stopped =
        cluster.node(&leader).until("stopped", |status| matches!(status.phase, Phase::Stopped { .. })).await;
    let Phase::Stopped { reason } = &stopped.phase else { panic!("{:?}", stopped.phase) };
    assert!(reason.contains("storage stopped"), "{reason}");
    assert!(!stopped.is_leader || cluster.node(&survivor).group().status().leader != stopped.node_id);

    // After a repair it starts again by itself, with everything that was acknowledged.
    cluster.node_mut(&leader).stop().await;
    disk.heal();
    cluster.node_mut(&leader).disk = Some(disk.kill());
    cluster.node_mut(&leader).start().await;
    cluster.node(&leader).serving().await;
    cluster.node(&leader).group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(cluster.node(&leader).value("a").as_deref(), Some("1"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_fell_far_behind_catches_up_from_a_snapshot() {
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        node.config.snapshot = SnapshotSettings { every_entries: 100, keep_entries: 20 };
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    let group = cluster.node(&leader).group().clone();
    cluster.node_mut(&follower).kill();
    for number in 0..600 {
        group.propose(put(&format!("key-{}", number % 50), &number.to_string()), TIMEOUT).await.unwrap();
    }
    let behind = cluster.node(&leader).until("snapshot", |status| status.snapshot.0 > 400).await;
    cluster.node_mut(&follower).start().await;
    cluster.node(&follower).serving().await;
    cluster.node(&follower).group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(cluster.node(&follower).value("key-49").as_deref(), Some("599"));
    let (at, hash) = cluster.node(&follower).group().read(ovncp_state::State::hash);
    cluster.node(&leader).group().wait_applied(at, TIMEOUT).await.unwrap();
    assert!(at >= behind.snapshot);
    // A write that both have applied makes the states comparable at one index.
    let committed = group.propose(put("end", "1"), TIMEOUT).await.unwrap();
    cluster.node(&follower).group().wait_applied(committed.index, TIMEOUT).await.unwrap();
    let of = |name: &str| cluster.node(name).group().read(|state| (state.applied(), state.hash())).1;
    assert_eq!(of(&leader), of(&follower), "after {hash}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_under_load_without_one_failed_write() {
    let mut cluster = Cluster::formed(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = cluster
        .running()
        .flat_map(|node| (0..4).map(|writer| (node.group().clone(), format!("{}-{writer}", node.name()))))
        .map(|(group, key)| {
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    group.propose(put(&key, "x"), TIMEOUT).await.expect("a write failed");
                    written.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = written.load(Ordering::Relaxed);
        let old = cluster.leader().await;
        let began = std::time::Instant::now();
        let new = cluster.node(&old).group().transfer_leader(None, TIMEOUT).await.unwrap();
        println!("handed over in {:?}", began.elapsed());
        assert_ne!(new, cluster.id(&old));
        while written.load(Ordering::Relaxed) < before + 50 {
            assert!(!writers.iter().any(tokio::task::JoinHandle::is_finished), "a writer ended");
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    cluster.stop().await;
}
