//! What a member does that hears of no leader: it asks around.
//!
//! A removed node is not told by the log, since it receives none; a node with a new address is not found by its
//! leader. Both ask the peers they know on the control lane. One learns that it was removed and stops, the other
//! learns who leads and reports itself there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ovncp_state::command::{NodeStatus, UpdateNode};
use ovncp_state::{Command, NodeId, Refusal, Reply, Request, State, Version};
use ovncp_storage::types::Peer;
use tokio::time::{Instant, interval, sleep};

use crate::consensus::Consensus;
use crate::formation::{ask, list_hash};
use crate::network::message::{ControlRequest, ControlResponse, LeaderHint};
use crate::settings::{GroupConfig, StaticPeer};
use crate::shared::{Membership, Route, Shared};
use crate::{network, proposals};

/// How often a member looks whether it hears its leader.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// Silence after which it asks around.
const SILENCE: Duration = Duration::from_secs(2);
/// A peer that does not answer in this time is left out.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A removed learner stays this long for the change that removes it. A voter stays until that is committed: its
/// vote may be needed for it, and until then the others may have no majority without it.
const FAREWELL: Duration = Duration::from_secs(5);
/// A node that is refused by all for so long is not the one they know.
const REFUSED_MAX: Duration = Duration::from_secs(5);
/// A report that is not applied by then is sent again.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks out until this node stops.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>) {
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let started = Instant::now();
    let (mut left_since, mut refused_since) = (None, None);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = shared.until_stopped() => return,
        }
        let Some(place) = shared.membership() else { continue };
        if let Some((own, cluster)) =
            shared.replica.read(|state| outdated(state, Some(place.node_id), &shared.config))
        {
            shared.stop(format!(
                "this node has version {own}, its cluster {cluster}: start a version of ovncp that is not older \
                 than the cluster's"
            ));
            return;
        }
        if leave(&shared, &*consensus, place, &mut left_since)
            || give_up(&shared, place.node_id, &mut refused_since)
        {
            return;
        }
        let heard = shared.last_heard().unwrap_or(started);
        if matches!(shared.route(), Route::Here { .. }) || heard.elapsed() < SILENCE {
            continue;
        }
        for hint in ask_around(&shared, place).await {
            report_directly(&shared, place, &hint).await;
        }
    }
}

/// The versions of this node and of its cluster, where the node is older: what comes next in the log may be of a kind
/// that it does not know. It was put back and has not reported that yet, or could not. One that was removed before
/// the version rose is not meant: it gets nothing of a later version, and its vote may be needed to let it go.
pub(crate) fn outdated(
    state: &State,
    id: Option<NodeId>,
    config: &GroupConfig,
) -> Option<(Version, Version)> {
    let left = id.and_then(|id| state.node(id)).is_some_and(|node| node.status == NodeStatus::Left);
    let (own, cluster) = (Version::of(&config.info.version), state.cluster_version());
    (own < cluster && !left).then_some((own, cluster))
}

/// Stops a node that the state says has left, once its vote cannot be needed any more.
fn leave(
    shared: &Shared,
    consensus: &dyn Consensus,
    place: Membership,
    left_since: &mut Option<Instant>,
) -> bool {
    let own = shared.replica.read(|state| state.node(place.node_id));
    if own.is_none_or(|node| node.status != NodeStatus::Left) {
        *left_since = None;
        return false;
    }
    let since = *left_since.get_or_insert_with(Instant::now);
    let metrics = consensus.metrics();
    let id = place.node_id.0;
    let out = metrics.committed_membership_config.membership().get_node(&id).is_none();
    let votes = [&metrics.committed_membership_config, &metrics.membership_config]
        .iter()
        .any(|known| known.membership().voter_ids().any(|voter| voter == id));
    let leave = may_leave(out, votes, since.elapsed());
    if leave {
        shared.stop("this node was removed from the cluster".to_owned());
    }
    leave
}

/// Whether a node that left the state may stop: it is out of Raft's membership, or only listens. One that votes,
/// as far as it knows, hears from the others ([`ask_around`]) when it is out.
fn may_leave(out: bool, votes: bool, left_for: Duration) -> bool {
    out || (!votes && left_for >= FAREWELL)
}

/// Stops a node that every peer in reach refuses as somebody else's copy. One refusal may be an old connection of
/// its own last start; it has to last.
fn give_up(shared: &Shared, own: NodeId, refused_since: &mut Option<Instant>) -> bool {
    let sights = shared.peers.sights();
    let refusal = {
        let sights = sights.borrow();
        let connected = sights.values().any(|sight| sight.connected);
        let mut refusals = sights.values().filter_map(|sight| sight.refusal.clone());
        refusals.find(|refusal| is_copy(refusal, own)).filter(|_| !connected)
    };
    let Some(refusal) = refusal.filter(|_| !matches!(shared.route(), Route::Here { .. })) else {
        *refused_since = None;
        return false;
    };
    let give_up = refused_since.get_or_insert_with(Instant::now).elapsed() >= REFUSED_MAX;
    if give_up {
        shared.stop(format!("the peers refuse this node: {refusal}"));
    }
    give_up
}

/// Whether it is `own` that is contested. A peer whose disk was exchanged is refused in the same words until it has
/// joined anew, and a node that reaches nobody else must wait for the others and not stop.
fn is_copy(refusal: &network::Refusal, own: NodeId) -> bool {
    use network::Refusal::{OtherIncarnation, SecondProcess, StaleBoot};
    match refusal {
        OtherIncarnation { id, .. } | SecondProcess { id } | StaleBoot { id, .. } => *id == own,
        _ => false,
    }
}

/// Asks every peer whose address is known. Who leads, as far as they say.
async fn ask_around(shared: &Shared, place: Membership) -> Vec<LeaderHint> {
    let list = list_hash(&shared.config.members(), shared.config.voters_target);
    let known = known_peers(shared, place);
    let asked = known
        .iter()
        .map(|peer| async move { ask(shared, peer, ControlRequest::Probe { list }, ASK_TIMEOUT).await });
    let mut hints = BTreeMap::new();
    for answer in join_all(asked).await {
        let Ok((_, ControlResponse::Member { cluster_id, leader, removed, .. })) = answer else { continue };
        if cluster_id != place.cluster_id {
            continue;
        }
        if removed {
            shared.stop("this node was removed from the cluster".to_owned());
            return Vec::new();
        }
        if let Some(leader) = leader.filter(|leader| leader.id != place.node_id) {
            hints.insert(leader.id, leader);
        }
    }
    hints.into_values().collect()
}

fn known_peers(shared: &Shared, place: Membership) -> Vec<StaticPeer> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for node in shared.replica.read(State::nodes) {
        if node.id != place.node_id {
            known.insert(node.name, node.info.peer_addr);
        }
    }
    for peer in &shared.config.peers {
        known.insert(peer.name.clone(), peer.addr.clone());
    }
    known.remove(&shared.config.name);
    known.into_iter().map(|(name, addr)| StaticPeer { name, addr }).collect()
}

/// Tells a leader that cannot find this node where it is now.
async fn report_directly(shared: &Shared, place: Membership, leader: &LeaderHint) {
    let addr = shared.addr_of(&leader.name, &leader.addr);
    shared.add_peer(leader.id, Peer { name: leader.name.clone(), addr });
    let envelope = ovncp_storage::codec::encode_request(&report(shared, place));
    // Nobody waits for the reply: the leader finding us is the answer.
    let origin = ovncp_storage::types::Origin { node: NodeId(0), ticket: 0 };
    let item = crate::network::message::ForwardItem { origin, term: 0, envelope };
    let sent = shared.peers.forward(leader.id, vec![item]);
    let _ = tokio::time::timeout(REPORT_TIMEOUT, sent).await;
}

fn report(shared: &Shared, place: Membership) -> Request {
    Request::from(Command::UpdateNode(UpdateNode {
        id: place.node_id,
        incarnation: shared.incarnation,
        boot: shared.boot,
        info: shared.config.info.clone(),
    }))
}

/// Reports this start: its boot counter, addresses and version.
pub(crate) async fn report_start(shared: Arc<Shared>) {
    loop {
        let place = shared.membership();
        let formed = shared.replica.read(State::is_formed);
        if let Some(place) = place.filter(|_| formed) {
            match proposals::propose(&shared, &report(&shared, place), REPORT_TIMEOUT).await {
                Ok(committed) => {
                    match committed.reply {
                        Reply::Refused(Refusal::StaleIncarnation) => shared.stop(
                            "a later start of this node is known: its data directory was copied or restored, or \
                             another process runs with it"
                                .to_owned(),
                        ),
                        Reply::Refused(outdated @ Refusal::Outdated { .. }) => {
                            shared.stop(format!("the cluster refuses this node: {outdated}"));
                        }
                        _ => {}
                    }
                    return;
                }
                Err(error) => tracing::debug!(%error, "this start is not reported yet"),
            }
        }
        tokio::select! {
            () = sleep(LOOK_PERIOD) => {}
            () = shared.until_stopped() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use ovncp_state::Incarnation;

    use super::*;

    #[test]
    fn a_removed_voter_stays_until_it_is_out_and_a_learner_only_for_a_while() {
        let long = FAREWELL * 1_000;
        assert!(may_leave(true, false, Duration::ZERO));
        assert!(!may_leave(false, true, long), "the others may need its vote");
        assert!(!may_leave(false, false, FAREWELL / 2));
        assert!(may_leave(false, false, FAREWELL));
    }

    #[test]
    fn only_a_refusal_of_this_very_node_calls_it_a_copy() {
        let (own, peer) = (NodeId(3), NodeId(1));
        let (known, presented) = (Incarnation([1; 16]), Incarnation([2; 16]));
        for (id, copy) in [(own, true), (peer, false)] {
            assert_eq!(is_copy(&network::Refusal::OtherIncarnation { id, known, presented }, own), copy);
            assert_eq!(is_copy(&network::Refusal::StaleBoot { id, known: 2, presented: 1 }, own), copy);
            assert_eq!(is_copy(&network::Refusal::SecondProcess { id }, own), copy);
        }
        assert!(!is_copy(&network::Refusal::NotMember, own));
    }
}
