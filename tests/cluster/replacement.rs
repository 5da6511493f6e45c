//! A node that comes back with an empty disk gets a new id and takes the place of the old one.

use crate::support::{Cluster, Node, NodeOptions};
use crate::workload::Workload;

fn impatient(options: &mut NodeOptions) {
    options.set("CLUSTER_HEARTBEAT_INTERVAL", "300ms");
    options.set("CLUSTER_NODE_TIMEOUT", "2s");
    options.set("OVNCP_PROMOTE_AFTER", "1s");
}

async fn raft_id(cluster: &Cluster, through: usize, name: &str) -> Option<(String, String)> {
    let answer = cluster.nodes[through].get(&format!("/api/v1/cluster/nodes/{name}")).await?;
    Some((answer.body["raft_id"].as_str()?.to_owned(), answer.body["role"].as_str()?.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_follower_is_replaced_by_itself_under_a_new_id() {
    let mut cluster = Cluster::start_with(3, impatient).await;
    let workload = Workload::start(&cluster, 3);
    workload.progress(&cluster, 30).await;
    let wiped = cluster.follower().await;
    let name = cluster.nodes[wiped].name().to_owned();
    let other = (0..3).find(|position| *position != wiped).expect("another node");
    let (old, role) = raft_id(&cluster, other, &name).await.expect("the member is listed");
    assert_eq!(role, "voter");
    cluster.nodes[wiped].kill();
    std::fs::remove_dir_all(cluster.nodes[wiped].data_dir()).expect("wipe the disk");
    cluster.nodes[wiped].start();
    let names: Vec<&str> = cluster.nodes.iter().map(Node::name).collect();
    cluster
        .until("the wiped node votes under a new id", || async {
            // It hears of the leader before it knows its name, and says only what it knows.
            if let Some(answer) = cluster.nodes[wiped].get("/api/v1/cluster/leader").await
                && let Some(leader) = answer.body["leader_id"].as_str()
            {
                assert!(names.contains(&leader), "{leader} is not the name of a node");
            }
            let (id, role) = raft_id(&cluster, other, &name).await?;
            (id != old && role == "voter").then_some(())
        })
        .await;
    cluster.all_ready().await;
    workload.progress(&cluster, 30).await;
    workload.finish(&cluster).await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_during_a_membership_change_lose_nothing() {
    let mut cluster = Cluster::start_with(3, impatient).await;
    let workload = Workload::start(&cluster, 3);
    workload.progress(&cluster, 30).await;
    // A fourth node joins while leaders die. A leader that is slow to come back loses its vote to it, as it should.
    let mut options = cluster.nodes[0].options.clone();
    let subnet = options.ip.rsplit_once('.').expect("an address").0.to_owned();
    options.name = "node-4".to_owned();
    options.ip = format!("{subnet}.4");
    options.data_dir = cluster.folder.path().join("node-4");
    options.peers = format!("{},node-4={}.4:7400", options.peers, subnet);
    cluster.nodes.push(Node::new(options));
    cluster.nodes[3].start();
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        workload.progress(&cluster, 20).await;
        cluster.nodes[leader].start();
        cluster.all_ready().await;
    }
    cluster
        .until("the fourth node is an active member, and three of the four vote", || async {
            let mut voters = 0;
            for node in &cluster.nodes {
                let (_, role) = raft_id(&cluster, 0, node.name()).await?;
                voters += usize::from(role == "voter");
            }
            let fourth = cluster.nodes[0].get("/api/v1/cluster/nodes/node-4").await?;
            (voters == 3 && fourth.body["status"] == "active").then_some(())
        })
        .await;
    workload.progress(&cluster, 20).await;
    workload.finish(&cluster).await;
    cluster.converged().await;
}
