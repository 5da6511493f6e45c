//! Nodes are stopped in order, with sockets open.

use tokio::sync::watch;

use super::{Client, Left, Manner, Publisher, Seen, messages_come, wait_for};
use crate::support::Cluster;

/// Clients that begin at each node: as many that go when they are asked as do not.
const CLIENTS_PER_NODE: usize = 4;
/// How an orderly end is told.
const RESTART: Left = Left::Closed(Some(1012));

fn at(clients: &[watch::Receiver<Seen>], node: usize) -> Vec<usize> {
    (0..clients.len()).filter(|client| clients[*client].borrow().node == Some(node)).collect()
}

/// Waits until every client is somewhere.
async fn settled(clients: &mut [watch::Receiver<Seen>]) {
    for seen in clients {
        wait_for(seen, "welcomed", |seen| seen.node.is_some()).await;
    }
}

fn manner(client: usize) -> Manner {
    if client.is_multiple_of(2) { Manner::Obeys } else { Manner::Stays }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_sends_every_client_on_and_no_message_is_lost_or_doubled() {
    let mut cluster = Cluster::start_with(3, |options| options.set("OVNCP_SESSION_DRAIN_GRACE", "3s")).await;
    let start = |client| Client::start(&cluster, client / CLIENTS_PER_NODE, manner(client));
    let mut clients: Vec<_> = (0..3 * CLIENTS_PER_NODE).map(start).collect();
    settled(&mut clients).await;
    let publishing = Publisher::new(&cluster).start();
    // First the leader, then whoever has most sockets.
    let mut victim = cluster.leader().await;
    for _ in 0..3 {
        messages_come(&mut clients[0], 40).await;
        settled(&mut clients).await;
        let there = at(&clients, victim);
        assert!(!there.is_empty(), "nobody would see the end of node {victim}");
        cluster.nodes[victim].begin_terminate();
        let status = cluster.end_of(victim).await;
        assert!(status.success(), "{status}: {}", cluster.nodes[victim].log_tail(60));
        for client in there {
            let seen = wait_for(&mut clients[client], "resumed elsewhere", |seen| {
                seen.node.is_some_and(|node| node != victim)
            })
            .await;
            let why = seen.left.iter().rev().find(|(node, _)| *node == victim).map(|(_, why)| *why);
            match manner(client) {
                // Not every one is asked in time.
                Manner::Obeys => assert!(matches!(why, Some(Left::Asked | RESTART)), "{client}: {why:?}"),
                Manner::Stays => assert_eq!(why, Some(RESTART), "{client}"),
            }
        }
        messages_come(&mut clients[0], 40).await;
        cluster.nodes[victim].start();
        cluster.all_ready().await;
        settled(&mut clients).await;
        victim = (0..3).max_by_key(|node| at(&clients, *node).len()).expect("three nodes");
    }
    publishing.everything_arrived(&mut clients).await;
    for (client, seen) in clients.iter().enumerate() {
        let left = &seen.borrow().left;
        let orderly = left.iter().all(|(_, why)| matches!(*why, Left::Asked | RESTART));
        assert!(orderly, "{client} left {left:?}: nobody died");
    }
    cluster.converged().await;
}
