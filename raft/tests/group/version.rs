//! Nodes of several versions in one group: kinds of commands that an older one does not know wait for it.

use ovncp_raft::{Phase, ProposeError, StartError};
use ovncp_state::{Command, State, Version};

use crate::cluster::{Cluster, TIMEOUT, TestNode, put};

const NEXT: Version = Version::new(0, 2);

/// As if registers had come with the next version.
fn since(command: &Command) -> Version {
    if matches!(command, Command::WriteKv(_)) { NEXT } else { command.since() }
}

fn set(node: &mut TestNode, version: &str) {
    node.config.info.version = version.to_owned();
    node.config.since = since;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_kind_waits_for_the_oldest_member_and_then_bars_it() {
    let mut cluster = Cluster::new(3).await;
    for (name, version) in [("n1", "0.2.0"), ("n2", "0.2.1"), ("n3", "0.1.7")] {
        set(cluster.node_mut(name), version);
        cluster.node_mut(name).start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    // On every node, whoever leads: refused before it is proposed, and the rest goes on.
    for node in cluster.running() {
        let refused = node.group().propose(put("a", "1"), TIMEOUT).await;
        let Err(ProposeError::NotYet { needs: NEXT, cluster: Version::BASE, oldest }) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(oldest.as_deref(), Some("n3"));
        node.group().propose(Command::Tick.into(), TIMEOUT).await.unwrap();
    }

    // The last one is upgraded: the version rises by itself, on every node.
    cluster.node_mut("n3").stop().await;
    set(cluster.node_mut("n3"), "0.2.0");
    cluster.node_mut("n3").start().await;
    for node in cluster.running() {
        node.until_state("the version rises", |state| state.cluster_version() == NEXT).await;
        node.group().propose(put("a", node.name()), TIMEOUT).await.unwrap();
    }

    // From here on what is older is refused: as a joiner ...
    let mut joiner = TestNode::alone("n4");
    joiner.config.peers.clone_from(&cluster.node("n1").config.peers);
    set(&mut joiner, "0.1.7");
    joiner.start().await;
    let refused = joiner.until("refused", |status| matches!(status.phase, Phase::Stopped { .. })).await;
    let Phase::Stopped { reason } = refused.phase else { unreachable!() };
    assert!(reason.contains("0.1 is older than the cluster's, 0.2"), "{reason}");
    joiner.stop().await;
    // ... and as a member whose binary was put back. It says so when it reports its start, or, once a snapshot says
    // so, before it does anything.
    cluster.node_mut("n2").stop().await;
    set(cluster.node_mut("n2"), "0.1.7");
    match cluster.node_mut("n2").try_start().await {
        Ok(()) => {
            let node = cluster.node("n2");
            let stopped = node.until("refused", |status| matches!(status.phase, Phase::Stopped { .. })).await;
            let Phase::Stopped { reason } = stopped.phase else { unreachable!() };
            assert!(reason.contains("older than the cluster's"), "{reason}");
        }
        Err(error) => assert!(matches!(error, StartError::Outdated { .. }), "{error}"),
    }
    // The others have a majority and never took it in as older than it was.
    let name = cluster.node("n1").group().read(|state| state.cluster_version()).1;
    assert_eq!(name, NEXT);
    cluster.node_mut("n2").stop().await;
    set(cluster.node_mut("n2"), "0.2.0");
    cluster.node_mut("n2").start().await;
    cluster.node("n2").serving().await;
    assert!(cluster.node("n2").group().read(State::is_formed).1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_later_version_is_not_opened_by_an_earlier_one() {
    let mut node = TestNode::alone("n1");
    set(&mut node, "0.2.0");
    node.config.snapshot.every_entries = 8;
    node.config.snapshot.keep_entries = 0;
    node.start().await;
    node.serving().await;
    // Whatever the log still holds, a snapshot says it.
    node.group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    let built = || node.group().storage().snapshot.is_some();
    while !built() {
        node.group().propose(put("a", "1"), TIMEOUT).await.unwrap();
    }
    node.stop().await;
    set(&mut node, "0.1.0");
    let refused = node.try_start().await;
    assert!(
        matches!(refused, Err(StartError::Outdated { own: Version::BASE, cluster: NEXT, .. })),
        "{refused:?}"
    );
    set(&mut node, "0.2.9");
    node.start().await;
    node.serving().await;
    assert_eq!(node.value("a").as_deref(), Some("1"));
    node.stop().await;
}
