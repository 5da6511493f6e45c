//! Clusters form by themselves, once, and come back under new addresses.

use crate::support::{Cluster, Node, peers, subnet};
use crate::workload::Workload;

async fn cluster_id(node: &Node) -> Option<String> {
    let answer = node.get("/api/v1/cluster?consistency=local").await?;
    answer.body["cluster_id"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_one_by_one_form_one_cluster() {
    let mut cluster = Cluster::prepare(3, |_| {});
    // Two of three are not enough to form: a second cluster could arise elsewhere.
    cluster.nodes[2].start();
    cluster.nodes[1].start();
    cluster
        .until("node-2 says for whom it waits", || async {
            let answer = cluster.nodes[1].get("/health/startup").await?;
            (answer.status == 503 && answer.body.to_string().contains("node-1")).then_some(())
        })
        .await;
    assert_eq!(cluster_id(&cluster.nodes[1]).await, None);
    cluster.nodes[0].start();
    cluster.all_ready().await;
    let first = cluster_id(&cluster.nodes[0]).await.expect("an identity");
    for node in &cluster.nodes {
        assert_eq!(cluster_id(node).await.as_deref(), Some(first.as_str()), "{}", node.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_during_formation_it_still_becomes_one_cluster() {
    let mut cluster = Cluster::prepare(3, |_| {});
    cluster.nodes.iter_mut().for_each(Node::start);
    // Kill each node as soon as its listener answers, at whatever point of the formation that is.
    for position in 0..3 {
        cluster
            .until("the node answers at all", || async {
                cluster.nodes[position].get("/health/live").await.map(|_| ())
            })
            .await;
        cluster.nodes[position].kill();
        cluster.nodes[position].start();
    }
    cluster.all_ready().await;
    let first = cluster_id(&cluster.nodes[0]).await.expect("an identity");
    for node in &cluster.nodes {
        assert_eq!(cluster_id(node).await.as_deref(), Some(first.as_str()), "{}", node.name());
    }
    cluster.acquire("works", "me").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_on_new_addresses_come_up_by_themselves() {
    let mut cluster = Cluster::start(3).await;
    let held = cluster.acquire("moved", "me").await;
    let id = cluster_id(&cluster.nodes[0]).await;
    cluster.nodes.iter_mut().for_each(Node::kill);
    let elsewhere = subnet();
    for (position, node) in cluster.nodes.iter_mut().enumerate() {
        node.options.ip = format!("{elsewhere}.{}", position + 1);
        node.options.peers = peers(&elsewhere, 3);
        node.start();
    }
    cluster.all_ready().await;
    assert_eq!(cluster_id(&cluster.nodes[1]).await, id);
    let workload = Workload::start(&cluster, 2);
    workload.progress(&cluster, 20).await;
    workload.finish(&cluster).await;
    cluster.release(&held).await;
    cluster
        .until("the members are listed with their new addresses", || async {
            let answer = cluster.nodes[0].get("/api/v1/cluster/nodes").await?;
            let nodes = answer.body["nodes"].as_array()?;
            nodes
                .iter()
                .all(|node| node["ip"].as_str().is_some_and(|ip| ip.starts_with(&elsewhere)))
                .then_some(())
        })
        .await;
}
