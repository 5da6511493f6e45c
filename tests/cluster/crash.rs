//! kill -9 of any node at any moment, of all of them, and pauses.

use crate::support::{Cluster, Node};
use crate::workload::Workload;

/// Snapshots every few hundred entries, so that kills fall into them.
fn with_frequent_snapshots(options: &mut crate::support::NodeOptions) {
    options.set("OVNCP_RAFT_SNAPSHOT_ENTRIES", "200");
    options.set("OVNCP_RAFT_SNAPSHOT_KEEP", "50");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_and_followers_lose_nothing() {
    let mut cluster = Cluster::start_with(3, with_frequent_snapshots).await;
    let workload = Workload::start(&cluster, 4);
    workload.progress(&cluster, 50).await;
    for round in 0..6 {
        let victim = if round % 2 == 0 { cluster.leader().await } else { cluster.follower().await };
        cluster.nodes[victim].kill();
        // The other two go on.
        workload.progress(&cluster, 60).await;
        cluster.nodes[victim].start();
        cluster.all_ready().await;
        workload.progress(&cluster, 60).await;
    }
    workload.finish(&cluster).await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::start_with(3, with_frequent_snapshots).await;
    let before = cluster.acquire("survivor", "before").await;
    let workload = Workload::start(&cluster, 4);
    for _ in 0..2 {
        workload.progress(&cluster, 80).await;
        cluster.nodes.iter_mut().for_each(Node::kill);
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.all_ready().await;
    }
    workload.progress(&cluster, 50).await;
    workload.finish(&cluster).await;

    // The lock is still held by its holder, and no token comes twice.
    let view = cluster.nodes[0].get("/api/v1/cluster/locks/survivor").await.expect("an answer");
    assert_eq!(view.status, 200, "{view:?}");
    cluster.release(&before).await;
    let after = cluster.acquire("survivor", "after").await;
    assert!(after.token > before.token, "{} after {}", after.token, before.token);
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_is_replaced_and_steps_down_when_it_wakes() {
    let cluster = Cluster::start_with(3, |options| {
        options.set("CLUSTER_HEARTBEAT_INTERVAL", "500ms");
        options.set("CLUSTER_NODE_TIMEOUT", "3s");
    })
    .await;
    let workload = Workload::start(&cluster, 3);
    workload.progress(&cluster, 30).await;
    let paused = cluster.leader().await;
    let name = cluster.nodes[paused].name().to_owned();
    cluster.nodes[paused].pause();
    let status = |wanted: &'static str| {
        let (cluster, name) = (&cluster, &name);
        async move {
            let what = format!("{name} is reported {wanted}");
            cluster
                .until(&what, || async {
                    let other = cluster.nodes.iter().find(|node| node.name() != name)?;
                    let answer = other.get(&format!("/api/v1/cluster/nodes/{name}")).await?;
                    (answer.body["status"] == wanted).then_some(())
                })
                .await;
        }
    };
    // Long past its lease and its node time-out.
    status("inactive").await;
    cluster.nodes[paused].resume();
    status("active").await;
    workload.progress(&cluster, 30).await;
    workload.finish(&cluster).await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_leader_hands_over_and_ends_with_success() {
    let mut cluster = Cluster::start(3).await;
    let workload = Workload::start(&cluster, 3);
    workload.progress(&cluster, 30).await;
    let leader = cluster.leader().await;
    let status = cluster.nodes[leader].terminate();
    assert!(status.success(), "exit {status}: {}", cluster.nodes[leader].log_tail(30));
    workload.progress(&cluster, 30).await;
    // Membership is unchanged: it is expected back.
    let name = cluster.nodes[leader].name().to_owned();
    let other = cluster.follower().await;
    let answer = cluster.nodes[other].get("/api/v1/cluster/nodes").await.expect("an answer");
    assert_eq!(answer.body["count"], 3, "{}", answer.body);
    cluster.nodes[leader].start();
    cluster.all_ready().await;
    let answer = cluster.nodes[other].get(&format!("/api/v1/cluster/nodes/{name}")).await.expect("an answer");
    assert_eq!(answer.body["role"], "voter", "{}", answer.body);
    workload.finish(&cluster).await;
    cluster.converged().await;
}
