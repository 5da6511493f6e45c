//! Every mutant of the group is one: it answers where the group does not, or with another time.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

#[path = "group/cluster.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod cluster;

use std::time::Duration;

use ovncp_raft::Timing;
use ovncp_state::mutants::{Mutant, choose};
use ovncp_state::{Millis, State};
use tokio::sync::Mutex;

use cluster::{Cluster, TIMEOUT, TestNode, put, quick};

/// A mutant belongs to its whole process: one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Nobody campaigns during a test: who follows goes on to follow.
fn placid() -> Timing {
    Timing {
        election_timeout_min: Duration::from_secs(300),
        election_timeout_max: Duration::from_secs(400),
        no_leader_wait: TIMEOUT,
        ..quick()
    }
}

/// A read that waits no longer than this for a majority that is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether `reader` of three serves a read while nobody but itself runs: rightly, and as this mutant.
async fn reads_alone(mutant: Mutant, leads: bool) -> (bool, bool) {
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::formed_with(3, placid()).await;
    let leader = cluster.leader().await;
    let reader = if leads { leader.clone() } else { cluster.follower().await };
    cluster.node(&leader).group().propose(put("color", "red"), TIMEOUT).await.unwrap();
    cluster.node(&reader).group().read_barrier(TIMEOUT).await.unwrap();
    let others = |cluster: &Cluster, act: fn(&TestNode)| {
        cluster.nodes.values().filter(|node| node.name() != reader).for_each(act);
    };
    others(&cluster, TestNode::pause);
    let right = cluster.node(&reader).group().read_barrier(PATIENCE).await.is_ok();
    choose(Some(mutant));
    let wrong = cluster.node(&reader).group().read_barrier(PATIENCE).await.is_ok();
    choose(None);
    others(&cluster, TestNode::resume);
    cluster.stop().await;
    (right, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_read_local_asks_nobody() {
    assert_eq!(reads_alone(Mutant::FollowerReadsLocally, false).await, (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_read_local_asks_no_quorum() {
    assert_eq!(reads_alone(Mutant::LeaderReadsLocally, true).await, (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_by_wall_clock_stamps_entries_with_it() {
    let _turn = TURN.lock().await;
    let mut node = TestNode::alone("solo");
    node.start().await;
    node.serving().await;
    let year_2001 = Millis(1_000_000_000_000);
    let clock = async || {
        node.group().propose(put("color", "red"), TIMEOUT).await.unwrap();
        node.group().read(State::now).1
    };
    let right = clock().await;
    choose(Some(Mutant::ExpiryByWallClock));
    let wrong = clock().await;
    choose(None);
    assert!(right < year_2001 && wrong > year_2001, "{right:?} {wrong:?}");
    node.stop().await;
}
