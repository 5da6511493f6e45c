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
use tokio::time::{Instant, sleep};

use crate::consensus::Consensus;
use crate::shared::{Route, Shared};

/// Campaigns after one hint; the lease runs out by itself soon after.
const ATTEMPTS_MAX: u32 = 6;
/// Head start of each voter over the one with the next id: a few round trips and an fsync.
const STAGGER: Duration = Duration::from_millis(15);
/// What a process sent before its end may be read this much later.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Pause between attempts of one voter.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// A leader as this node followed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Followed {
    leader: NodeId,
    term: u64,
    since: Instant,
}

impl Followed {
    /// Whether its process ended after this node began to follow it and after it last spoke. A sighting stays
    /// in the record when the node is started again, so an older one says nothing.
    fn is_gone(&self, gone_at: Option<Instant>, last_heard: Option<Instant>) -> bool {
        gone_at.is_some_and(|gone| {
            gone >= self.since && last_heard.is_none_or(|heard| gone + LAST_WORDS >= heard)
        })
    }
}

/// Watches the leader's connection until this node stops.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>) {
    let mut sights = shared.peers.sights();
    let mut route = shared.route.subscribe();
    let mut followed = None;
    loop {
        let current = *route.borrow_and_update();
        followed = match (current, followed) {
            (Route::Remote { leader, term }, Some(Followed { leader: l, term: t, .. }))
                if (l, t) == (leader, term) =>
            {
                followed
            }
            (Route::Remote { leader, term }, _) => Some(Followed { leader, term, since: Instant::now() }),
            _ => None,
        };
        sights.mark_unchanged();
        if let Some(followed) = followed.filter(|followed| seen_gone(&shared, followed)) {
            take_over(&shared, &*consensus, followed).await;
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

fn seen_gone(shared: &Shared, followed: &Followed) -> bool {
    let sights = shared.peers.sights();
    let gone_at = sights.borrow().get(&followed.leader).and_then(|sight| sight.gone_at);
    followed.is_gone(gone_at, shared.last_heard())
}

async fn take_over(shared: &Shared, consensus: &dyn Consensus, followed: Followed) {
    let Followed { leader, term, .. } = followed;
    let own = shared.node_id().unwrap_or_default();
    let still = || shared.route() == Route::Remote { leader, term } && seen_gone(shared, &followed);
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

#[cfg(test)]
mod tests {
    use ovncp_state::{Command, Request};

    use super::*;
    use crate::{Group, GroupConfig, Phase, StaticPeer};

    /// Three nodes in this process, as a false hint needs to reach their insides.
    async fn three() -> (Vec<Group>, Vec<tempfile::TempDir>) {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let addresses = [free(), free(), free()];
        let names = ["n1", "n2", "n3"];
        let peers: Vec<StaticPeer> = names
            .iter()
            .zip(&addresses)
            .map(|(name, addr)| StaticPeer { name: (*name).to_owned(), addr: addr.to_string() })
            .collect();
        let (mut groups, mut dirs) = (Vec::new(), Vec::new());
        for (name, addr) in names.iter().zip(addresses) {
            let dir = tempfile::tempdir().unwrap();
            let mut config = GroupConfig::new(*name, addr, dir.path().join("data"));
            config.peers.clone_from(&peers);
            // Slow enough that a busy machine makes no elections of its own.
            config.timing.raft_heartbeat = Duration::from_millis(100);
            config.timing.election_timeout_min = Duration::from_secs(2);
            config.timing.election_timeout_max = Duration::from_secs(4);
            config.timing.no_leader_wait = Duration::from_secs(20);
            groups.push(Group::start(config).await.unwrap());
            dirs.push(dir);
        }
        for group in &groups {
            let mut status = group.status_watch();
            status.wait_for(|status| status.phase == Phase::Serving).await.unwrap();
        }
        (groups, dirs)
    }

    async fn give_up_leader(group: &Group) {
        let shared = group.shared();
        let consensus = shared.consensus.get().unwrap();
        consensus.forget_lease(consensus.metrics().vote).await;
        consensus.campaign().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_false_hint_changes_no_term_and_loses_no_write() {
        let (groups, _dirs) = three().await;
        let write = || Request::from(Command::Tick);
        groups[0].propose(write(), Duration::from_secs(20)).await.unwrap();
        let term = groups[0].status().term;
        let follower = groups.iter().find(|group| !group.status().is_leader).unwrap();
        for _ in 0..10 {
            give_up_leader(follower).await;
            follower.propose(write(), Duration::from_secs(20)).await.unwrap();
        }
        for group in &groups {
            assert_eq!(group.status().term, term, "one wrong node moves nobody");
        }
        // Wrong together they elect one of themselves, and nothing is lost by it either.
        let wrong: Vec<_> = groups.iter().filter(|group| !group.status().is_leader).collect();
        for _ in 0..3 {
            for group in &wrong {
                give_up_leader(group).await;
            }
        }
        for group in &groups {
            group.propose(write(), Duration::from_secs(20)).await.unwrap();
            group.read_barrier(Duration::from_secs(20)).await.unwrap();
        }
        for group in groups {
            group.shutdown().await;
        }
    }

    #[test]
    fn only_an_end_after_the_last_word_of_the_present_leader_counts() {
        let since = Instant::now();
        let later = |millis| Some(since + Duration::from_millis(millis));
        let followed = Followed { leader: NodeId(1), term: 3, since };
        assert!(!followed.is_gone(None, later(5)));
        assert!(followed.is_gone(later(10), later(5)));
        assert!(followed.is_gone(later(10), None));
        assert!(followed.is_gone(later(10), later(20)), "its last words were read late");
        assert!(!followed.is_gone(later(10), later(100)), "it spoke afterwards");
        let restarted = Followed { since: since + Duration::from_millis(50), ..followed };
        assert!(!restarted.is_gone(later(10), None), "an earlier process of the same node");
    }
}
