//! A node without peers is a group of one over the same store.

use ovncp_raft::Phase;
use ovncp_state::command::{KvOperation, WriteKv};
use ovncp_state::{Command, LogIndex, NodeId, Reply, Request};

use crate::cluster::{TIMEOUT, TestNode, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_forms_writes_reads_and_keeps_everything_over_a_restart() {
    let mut node = TestNode::alone("solo");
    node.start().await;
    node.serving().await;
    assert_eq!(node.group().identity().node_id, Some(NodeId(1)));
    let key = node.group().cluster_key().unwrap();

    let committed = node.group().propose(put("color", "red"), TIMEOUT).await.unwrap();
    assert!(matches!(committed.reply, Reply::Written { .. }), "{committed:?}");
    let barrier = node.group().read_barrier(TIMEOUT).await.unwrap();
    assert!(barrier >= committed.index);
    assert_eq!(node.value("color"), Some("red".to_owned()));

    let boot = node.group().identity().boot;
    node.stop().await;
    node.start().await;
    node.serving().await;
    assert_eq!(node.group().identity().boot, boot + 1);
    assert_eq!(node.group().cluster_key(), Some(key));
    node.group().read_barrier(TIMEOUT).await.unwrap();
    assert_eq!(node.value("color"), Some("red".to_owned()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_group_answers_stopped_and_frees_its_directory() {
    let mut node = TestNode::alone("solo");
    node.start().await;
    node.serving().await;
    let group = node.group().clone();
    node.stop().await;
    let refused = group.propose(put("color", "red"), TIMEOUT).await;
    assert!(matches!(refused, Err(ovncp_raft::ProposeError::Stopped { .. })), "{refused:?}");
    assert!(matches!(group.status().phase, Phase::Stopped { .. }));
    // The lock of the directory is free: a second start works although `group` is still held.
    node.start().await;
    node.serving().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_concurrent_proposals_are_each_answered_with_their_own_reply() {
    let mut node = TestNode::alone("solo");
    node.start().await;
    node.serving().await;
    let proposals = (0..500_u32).map(|number| {
        let group = node.group().clone();
        tokio::spawn(async move {
            let operations = vec![KvOperation::Put {
                key: format!("key-{number}").into_bytes(),
                value: number.to_be_bytes().to_vec(),
                content_type: None,
                ttl: None,
            }];
            let write = Command::WriteKv(WriteKv { conditions: Vec::new(), operations });
            let committed = group.propose(Request::from(write), TIMEOUT).await.unwrap();
            (number, committed)
        })
    });
    let mut indexes = std::collections::BTreeSet::new();
    for proposal in proposals.collect::<Vec<_>>() {
        let (number, committed) = proposal.await.unwrap();
        let Reply::Written { revision, .. } = committed.reply else { panic!("{committed:?}") };
        assert_eq!(LogIndex(revision.0), committed.index);
        let stored = node.group().read(|state| state.kv(format!("key-{number}").as_bytes())).1;
        let (meta, value) = stored.unwrap();
        assert_eq!((meta.revision, value), (revision, number.to_be_bytes().to_vec()));
        assert!(indexes.insert(committed.index));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_larger_than_an_entry_is_refused_and_hurts_nobody() {
    let mut node = TestNode::alone("solo");
    node.start().await;
    node.serving().await;
    let operations = (0..128_u8)
        .map(|number| KvOperation::Put {
            key: vec![number],
            value: vec![number; 64 * 1_024],
            content_type: None,
            ttl: None,
        })
        .collect();
    let write = Command::WriteKv(WriteKv { conditions: Vec::new(), operations });
    let refused = node.group().propose(Request::from(write), TIMEOUT).await;
    assert!(matches!(refused, Err(ovncp_raft::ProposeError::TooLarge { .. })), "{refused:?}");
    node.group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    node.stop().await;
}
