//! The node of a session dies.

use super::{Client, Manner, Publisher, messages_come, wait_for};
use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_kill_9_of_its_node_with_every_message_once_and_in_order() {
    let mut cluster = Cluster::start(3).await;
    let mut seen = Client::start(&cluster, 0, Manner::Obeys);
    wait_for(&mut seen, "welcomed", |seen| seen.node.is_some()).await;
    let publishing = Publisher::new(&cluster).start();
    for round in 1..=4 {
        let victim = messages_come(&mut seen, 40).await.node.unwrap();
        cluster.nodes[victim].kill();
        // The other two go on, and one of them has the session.
        wait_for(&mut seen, "resumed elsewhere", |seen| {
            seen.resumes >= round && seen.node.is_some_and(|node| node != victim)
        })
        .await;
        messages_come(&mut seen, 40).await;
        cluster.nodes[victim].start();
        cluster.all_ready().await;
    }
    publishing.everything_arrived(&mut [seen]).await;
    cluster.converged().await;
}
