//! Nodes of several versions in one group: kinds of commands that an older one does not know wait for it.

use std::time::Duration;

use ovncp_raft::{Phase, ProposeError, StartError};
use ovncp_state::command::RemoveNode;
use ovncp_state::{Command, Reply, Request, State, Version};

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

/// Removing the oldest member raises the version while that one still votes. What it does not know must not reach it.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_kind_waits_until_a_removed_older_member_receives_nothing_any_more() {
    let mut cluster = Cluster::new(3).await;
    for (name, version) in [("n1", "0.2.0"), ("n2", "0.2.0"), ("n3", "0.1.7")] {
        set(cluster.node_mut(name), version);
        cluster.node_mut(name).start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    // Without n2 the other two are needed for a majority, so the removed one stays a voter.
    cluster.node_mut("n2").stop().await;
    let (_, oldest) = cluster.node("n1").group().read(|state| state.node_by_name("n3").unwrap().id);
    let remove = RemoveNode { id: oldest, reason: "test".to_owned() };
    let removed =
        cluster.node("n1").group().propose(Command::RemoveNode(remove).into(), TIMEOUT).await.unwrap();
    assert_eq!(removed.reply, Reply::Done);
    for name in ["n1", "n3"] {
        let node = cluster.node(name);
        node.until_state("the version rises", |state| state.cluster_version() == NEXT).await;
        let refused = node.group().propose(put("a", "1"), TIMEOUT).await;
        let Err(ProposeError::NotYet { needs: NEXT, cluster: NEXT, oldest }) = &refused else {
            panic!("{name}: {refused:?}");
        };
        assert_eq!(oldest.as_deref(), Some("n3"));
        // It still votes: with it, and only with it, the rest is written.
        written(node, Command::Tick.into()).await;
    }
    // With n2 back the removed one is not needed, and nothing waits for it any more.
    cluster.node_mut("n2").start().await;
    written(cluster.node("n1"), put("a", "1")).await;
    cluster.stop().await;
}

/// Proposes until it is applied, whatever stands in the way for a while. Applying it twice must do no harm.
async fn written(node: &TestNode, request: Request) -> Reply {
    use ProposeError::{Busy, NoLeader, NotYet, Unknown};
    let written = async {
        loop {
            match node.group().propose(request.clone(), TIMEOUT).await {
                Ok(committed) => break committed.reply,
                Err(NotYet { .. } | NoLeader { .. } | Busy { .. } | Unknown) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(TIMEOUT, written).await.expect("written in time")
}

/// A binary that was put back where nobody could hear of it: no leader, and no snapshot that would say it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_put_back_does_not_start_even_without_the_others() {
    let mut cluster = Cluster::new(3).await;
    for name in ["n1", "n2", "n3"] {
        set(cluster.node_mut(name), "0.2.0");
        cluster.node_mut(name).start().await;
    }
    for node in cluster.running() {
        node.serving().await;
        written(node, put("a", node.name())).await;
    }
    for name in ["n1", "n2", "n3"] {
        cluster.node_mut(name).stop().await;
    }
    set(cluster.node_mut("n3"), "0.1.7");
    // At once where the log says what is committed, or as soon as it is applied.
    match cluster.node_mut("n3").try_start().await {
        Err(error) => {
            assert!(
                matches!(error, StartError::Outdated { own: Version::BASE, cluster: NEXT, .. }),
                "{error}"
            );
        }
        Ok(()) => {
            let node = cluster.node("n3");
            let stopped = node.until("stopped", |status| matches!(status.phase, Phase::Stopped { .. })).await;
            let Phase::Stopped { reason } = stopped.phase else { unreachable!() };
            assert!(reason.contains("version 0.1, its cluster 0.2"), "{reason}");
        }
    }
    cluster.node_mut("n3").stop().await;
    set(cluster.node_mut("n3"), "0.2.4");
    for name in ["n1", "n3"] {
        cluster.node_mut(name).start().await;
    }
    cluster.node("n3").serving().await;
    cluster.stop().await;
}
