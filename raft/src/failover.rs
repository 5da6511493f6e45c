//! Fast fail-over: what to do when the leader's process is gone for certain.
//!
//! A follower normally campaigns only after the lease it gave its leader has run out. When the leader's
//! connection closed *and* its host refused a re-dial, nobody leads there any more, and waiting is of no use.
//! Then this node forgets its lease (so that it may vote at once) and campaigns, the lowest id first and the
//! others a little later each, so that they do not split the votes.
//!
//! The hint may be wrong. Then nothing happens that could hurt: the campaign begins with a pre-vote, a node that
//! has not seen the same keeps its lease and refuses, and no term changes. If enough nodes are wrong together,
//! there is an election and the old leader steps down. No read relies on a lease (reads ask a quorum every time),
//! so a forgotten lease cannot make a stale one.

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::NodeId;
use tokio::time::sleep;

use crate::consensus::Consensus;
use crate::shared::{Route, Shared};

/// Campaigns after one hint; the lease runs out by itself soon after.
const ATTEMPTS_MAX: u32 = 6;
/// Head start of each voter over the one with the next id: a few round trips and an fsync.
const STAGGER: Duration = Duration::from_millis(15);
/// Pause between attempts of one voter.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// Watches the leader's connection until this node stops.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>) {
    let mut sights = shared.peers.sights();
    let mut route = shared.route.subscribe();
    loop {
        let current = *route.borrow_and_update();
        if let Route::Remote { leader, term } = current
            && is_gone(&shared, leader)
        {
            take_over(&shared, &*consensus, leader, term).await;
        }
        tokio::select! {
            changed = sights.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = route.changed() => {}
            () = shared.until_stopped() => return,
        }
    }
}

fn is_gone(shared: &Shared, leader: NodeId) -> bool {
    let sights = shared.peers.sights();
    sights.borrow().get(&leader).is_some_and(|sight| sight.gone_at.is_some())
}

async fn take_over(shared: &Shared, consensus: &dyn Consensus, leader: NodeId, term: u64) {
    let own = shared.node_id().unwrap_or_default();
    let still = || shared.route() == Route::Remote { leader, term } && is_gone(shared, leader);
    let metrics = consensus.metrics();
    let vote = metrics.vote;
    if !vote.is_committed() || metrics.current_term != term {
        return;
    }
    consensus.forget_lease(vote).await;
    let voters = metrics.membership_config.membership().voter_ids();
    let mut candidates: Vec<u64> = voters.filter(|id| *id != leader.0).collect();
    candidates.sort_unstable();
    candidates.dedup();
    // A learner only forgets its lease: it cannot lead.
    let Some(rank) = candidates.iter().position(|id| *id == own.0) else { return };
    tracing::info!(%leader, term, rank, "the leader's process is gone: campaigning");
    sleep(STAGGER * u32::try_from(rank).unwrap_or(u32::MAX)).await;
    for _ in 0..ATTEMPTS_MAX {
        if !still() {
            return;
        }
        consensus.campaign().await;
        sleep(RETRY_PAUSE).await;
    }
}
