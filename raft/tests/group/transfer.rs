//! Leadership goes to whoever can lead, and is refused to who cannot, with the reason and in time.

use std::time::{Duration, Instant};

use ovncp_raft::MembershipError;
use ovncp_storage::disk::SimDisk;

use crate::cluster::{Cluster, TIMEOUT, patient, put};

/// A target may have been started a moment ago, so it is not refused at once.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

fn unfit(answer: Result<ovncp_state::NodeId, MembershipError>) -> String {
    match answer {
        Err(MembershipError::Unfit { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_target_is_refused_with_the_reason_and_another_one_takes_over() {
    let mut cluster = Cluster::formed_with(3, patient()).await;
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    let id = cluster.id(&dead);
    cluster.node_mut(&dead).kill();
    let other = cluster.follower().await;
    for asked in [&leader, &other] {
        let began = Instant::now();
        let reason = unfit(cluster.node(asked).group().transfer_leader(Some(id), TIMEOUT).await);
        assert_eq!(reason, "it does not answer", "asked on {asked}");
        assert!(began.elapsed() >= PATIENCE_MIN, "refused after {:?}", began.elapsed());
        assert!(began.elapsed() < TIMEOUT / 2, "refused after {:?}", began.elapsed());
    }
    let began = Instant::now();
    while cluster.node(&leader).group().transfer_leader(None, TIMEOUT).await != Ok(cluster.id(&other)) {
        assert!(began.elapsed() < TIMEOUT, "nobody takes over");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_a_stalled_disk_is_refused_and_leads_once_it_has_caught_up() {
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        node.config.timing = patient();
        node.disk = Some(SimDisk::new());
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    let leader = cluster.leader().await;
    let slow = cluster.follower().await;
    let disk = cluster.node(&slow).disk.clone().unwrap();
    // It lives, but syncs nothing any more.
    disk.set_latency(TIMEOUT / 12);
    let group = cluster.node(&leader).group().clone();
    let writes: Vec<_> = (0..1_000)
        .map(|number| {
            let group = group.clone();
            tokio::spawn(async move { group.propose(put(&format!("key-{number}"), "x"), TIMEOUT).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let id = cluster.id(&slow);
    unfit(group.transfer_leader(Some(id), TIMEOUT).await);
    disk.set_latency(Duration::ZERO);
    cluster.make_leader(&slow).await;
    assert_eq!(cluster.node(&slow).value("key-999").as_deref(), Some("x"));
    cluster.stop().await;
}
