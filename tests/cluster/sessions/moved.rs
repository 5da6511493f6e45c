//! Sessions are asked to go to nodes that cannot take them.

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Client, Manner, Publisher, Seen, messages_come, wait_for};
use crate::support::{Answer, Cluster, NodeOptions, PATIENCE};

/// Soon enough for a test, and long enough that a busy machine is not taken for a dead node.
fn soon_missed(options: &mut NodeOptions) {
    options.set("CLUSTER_HEARTBEAT_INTERVAL", "2s");
    options.set("CLUSTER_NODE_TIMEOUT", "12s");
}

/// The first answer of a running node that is not about the cluster being between two leaders.
async fn ask(cluster: &Cluster, path: &str, body: &Value) -> Answer {
    cluster
        .until(&format!("an answer to {path}"), || async {
            for node in cluster.nodes.iter().filter(|node| node.is_running()) {
                match node.post(path, body).await {
                    // 409: the client went elsewhere in the middle of it.
                    Some(answer) if answer.status < 500 && answer.status != 409 => return Some(answer),
                    _ => {}
                }
            }
            None
        })
        .await
}

async fn migrate(cluster: &Cluster, id: &str, target: Option<usize>) -> Answer {
    let body = json!({"target_node_id": target.map(|node| cluster.nodes[node].name())});
    ask(cluster, &format!("/api/v1/cluster/sessions/{id}/migrate"), &body).await
}

/// Has a session asked to go until its client is there: a node that has just come back may refuse it at first.
async fn moves(cluster: &Cluster, seen: &mut watch::Receiver<Seen>, target: usize) {
    let start = Instant::now();
    loop {
        let now = wait_for(seen, "the client is somewhere", |seen| seen.node.is_some()).await;
        if now.node == Some(target) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the client never gets to node {target}: {:?}", now.left);
        if migrate(cluster, &now.id, Some(target)).await.status == 200 {
            wait_for(seen, "the client leaves", |seen| seen.left.len() > now.left.len()).await;
        }
    }
}

async fn has_status(cluster: &Cluster, node: usize, wanted: &str) {
    let path = format!("/api/v1/cluster/nodes/{}", cluster.nodes[node].name());
    cluster
        .until(&format!("node {node} is {wanted}"), || async {
            let other = cluster.nodes.iter().find(|node| node.is_running())?;
            (other.get(&path).await?.body["status"] == wanted).then_some(())
        })
        .await;
}

fn is_no_target(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (400, "invalid_target"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_dead_or_drains_is_no_target_and_the_session_stays() {
    let mut cluster = Cluster::start_with(3, soon_missed).await;
    let mut seen = Client::start(&cluster, 0, Manner::Obeys);
    let id = wait_for(&mut seen, "welcomed", |seen| seen.node.is_some()).await.id;
    let publishing = Publisher::new(&cluster).start();
    let here = messages_come(&mut seen, 20).await.node.unwrap();
    let (dead, drained) = ((here + 1) % 3, (here + 2) % 3);

    // Dead, but nobody knows it yet: the client is asked, does not get there, and comes back.
    cluster.nodes[dead].kill();
    let early = migrate(&cluster, &id, Some(dead)).await;
    assert!(early.status == 200 || early.code() == "invalid_target", "{early:?}");
    messages_come(&mut seen, 20).await;
    has_status(&cluster, dead, "inactive").await;
    is_no_target(&migrate(&cluster, &id, Some(dead)).await);
    messages_come(&mut seen, 20).await;

    // The only other one drains: named or not, there is nowhere to go.
    moves(&cluster, &mut seen, here).await;
    let drained_name = cluster.nodes[drained].name().to_owned();
    let drain = ask(&cluster, &format!("/api/v1/cluster/nodes/{drained_name}/drain"), &json!({})).await;
    assert_eq!(drain.status, 200, "{drain:?}");
    is_no_target(&migrate(&cluster, &id, Some(drained)).await);
    is_no_target(&migrate(&cluster, &id, None).await);
    assert_eq!(messages_come(&mut seen, 20).await.node, Some(here), "it stays where it is");

    // Each is a target again when it is back.
    let resume = ask(&cluster, &format!("/api/v1/cluster/nodes/{drained_name}/resume"), &json!({})).await;
    assert_eq!(resume.status, 200, "{resume:?}");
    moves(&cluster, &mut seen, drained).await;
    cluster.nodes[dead].start();
    cluster.all_ready().await;
    has_status(&cluster, dead, "active").await;
    moves(&cluster, &mut seen, dead).await;
    messages_come(&mut seen, 20).await;
    publishing.everything_arrived(&mut [seen]).await;
    cluster.converged().await;
}
