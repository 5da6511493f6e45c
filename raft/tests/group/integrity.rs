//! States are compared, and a wrong one is not served.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, RaftLogReader};
use ovncp_raft::{Integrity, Phase, ProposeError, StartError};
use ovncp_storage::codec::{decode_request, encode_request};
use ovncp_storage::disk::RealDisk;
use ovncp_storage::{DataDir, StoreOptions};

use crate::cluster::{Cluster, TIMEOUT, TestNode, put};

/// Makes the state of a stopped node wrong behind correct checksums, as a bug would: it applies its log with another
/// value for `key`, and keeps the result as a snapshot.
async fn falsify(dir: &Path, key: &str) {
    let dir = DataDir::open(RealDisk, dir).unwrap();
    let mut store = ovncp_storage::open(dir, StoreOptions::default(), Arc::new(())).unwrap();
    let committed = store.log.read_committed().await.unwrap().unwrap();
    let mut entries =
        store.log.get_log_reader().await.try_get_log_entries(0..=committed.index).await.unwrap();
    let right = encode_request(&put(key, "right"));
    let mut falsified = 0;
    for entry in &mut entries {
        if let EntryPayload::Normal(proposal) = &mut entry.payload
            && decode_request(&proposal.envelope).unwrap() == decode_request(&right).unwrap()
        {
            proposal.envelope = Bytes::from(encode_request(&put(key, "wrong")).to_vec());
            falsified += 1;
        }
    }
    assert_eq!(falsified, 1);
    store.machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await.unwrap();
    let mut builder = store.machine.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap();
}

/// Writes `key` everywhere and falsifies it on one node, which runs again afterwards.
async fn falsified(cluster: &mut Cluster, name: &str, key: &str) {
    let committed = cluster.node(name).group().propose(put(key, "right"), TIMEOUT).await.unwrap();
    for node in cluster.running() {
        node.group().wait_applied(committed.index, TIMEOUT).await.unwrap();
    }
    cluster.node_mut(name).stop().await;
    falsify(&cluster.node(name).config.data_dir, key).await;
    cluster.node_mut(name).start().await;
    assert_eq!(cluster.node(name).value(key).as_deref(), Some("wrong"));
}

async fn until_quarantined(node: &TestNode) {
    let status =
        node.until("quarantined", |status| matches!(status.integrity, Integrity::Quarantined { .. })).await;
    let Integrity::Quarantined { reason } = status.integrity else { unreachable!() };
    assert_eq!(
        node.until("stopped", |status| matches!(status.phase, Phase::Stopped { .. })).await.phase,
        Phase::Stopped { reason }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_state_differs_is_quarantined_and_replaced_and_the_others_go_on() {
    let mut cluster = Cluster::formed(3).await;
    let victim = cluster.follower().await;
    falsified(&mut cluster, &victim, "a").await;
    let node = cluster.node(&victim);
    let old = node.group().identity().node_id.unwrap();
    until_quarantined(node).await;
    let refused = node.group().propose(put("a", "2"), TIMEOUT).await;
    assert!(
        matches!(&refused, Err(ProposeError::Stopped { reason }) if reason.contains("quarantined")),
        "{refused:?}"
    );
    for name in ["n1", "n2", "n3"].into_iter().filter(|name| *name != victim) {
        let node = cluster.node(name);
        node.group().propose(put("b", name), TIMEOUT).await.unwrap();
        assert!(!matches!(
            node.group().status().integrity,
            Integrity::Quarantined { .. } | Integrity::Held { .. }
        ));
    }

    // The directory is evidence: it is kept, and not used again.
    cluster.node_mut(&victim).stop().await;
    let refused = cluster.node_mut(&victim).try_start().await;
    assert!(
        matches!(&refused, Err(StartError::Quarantined { reason, .. }) if reason.starts_with("quarantined: after entry")),
        "{refused:?}"
    );
    assert!(cluster.node(&victim).config.data_dir.join("quarantine").is_file());

    // The way out: with an empty one the node takes the place of its former self.
    cluster.node_mut(&victim).wipe();
    cluster.node_mut(&victim).start().await;
    let node = cluster.node(&victim);
    node.until("votes again", |status| {
        status.node_id.is_some_and(|id| id != old && status.voters.contains(&id))
    })
    .await;
    node.until("agrees", |status| matches!(status.integrity, Integrity::Agrees { .. })).await;
    assert_eq!(node.value("a").as_deref(), Some("right"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_differ_both_stop_writing_until_a_third_one_decides() {
    let mut cluster = Cluster::formed(2).await;
    falsified(&mut cluster, "n2", "a").await;
    for node in cluster.running() {
        node.until("writes are held", |status| matches!(status.integrity, Integrity::Held { .. })).await;
        let refused = node.group().propose(put("a", "2"), TIMEOUT).await;
        assert!(
            matches!(&refused, Err(ProposeError::Stopped { reason }) if reason.contains("writes are held")),
            "{refused:?}"
        );
    }
    // It makes the state from the log by itself, and votes.
    let mut third = TestNode::alone("n3");
    third.config.peers.clone_from(&cluster.node("n1").config.peers);
    third.start().await;
    until_quarantined(cluster.node("n2")).await;
    cluster.node("n1").until("goes on", |status| matches!(status.integrity, Integrity::Agrees { .. })).await;
    cluster.node("n1").group().propose(put("a", "2"), TIMEOUT).await.unwrap();
    assert_eq!(cluster.node("n1").value("a").as_deref(), Some("2"));
    third.stop().await;
    cluster.stop().await;
}
