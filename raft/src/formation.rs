//! How a cluster comes to be: once, without a coordinator, and never twice.
//!
//! # The protocol
//!
//! Every node has the same static peer list. A node without a cluster asks all others on the control lane.
//! 1. If one of them is a member of a cluster, it asks to join that cluster, and forms nothing.
//! 2. If all of them answered, none has a cluster, all have the same list and this node has the lowest name, it
//!    is the *founder*: it picks a cluster id and a key, writes them with the roster (name, data directory and
//!    addresses of each node) to its own disk, and asks every other node to agree.
//! 3. A node agrees if it has no cluster, the roster is its own list with its own data directory in it, and the
//!    asker has the lowest name. The agreement is on its disk before it answers, and may be replaced by a later
//!    one while the node has no seat.
//! 4. When **all** agreed, the founder takes its seat (cluster and id become durable in its data directory) and
//!    writes the first membership into its log (`initialize`). Everybody else takes the agreed seat with the
//!    first Raft message of that cluster.
//! 5. Whoever leads proposes `FormCluster` with the roster until the state has it.
//!
//! Otherwise it waits and says for whom. There is no time-out that ends in a cluster.
//!
//! # Why there are never two clusters
//!
//! A cluster acts only through a majority of the founder's roster, and a seat is never left. Suppose two founders
//! completed step 4 with different offers. Both have the lowest name of their lists. Each needed the agreement of
//! every other node of its list, and each needs at least one of them to take a seat before anything commits (a
//! list of one has no others, and its node needs nobody). A node has one agreement at a time, takes its seat from
//! the present one only, and after that agrees to nothing. So the founder whose offer was replaced at some node
//! misses that node for good. For both to commit, their majorities must be disjoint, but both are majorities of
//! lists that agree with each other node for node (step 3), so they intersect.
//!
//! # Why a crash leaves no dead end
//!
//! - Founder, before all agreed: starts again with the same offer (it is on its disk) or, if a data directory in
//!   the roster changed, with a new one that replaces the old agreements.
//! - Founder, after its seat and before `initialize` was durable: its seat says rank 1 of the agreement and its
//!   log is empty, so it initialises then ([`resume`]). All had agreed.
//! - Founder, after `initialize`: plain Raft; the others have ids and an open door.
//! - Founder's disk lost before anybody took a seat: the new founder sees blank nodes and makes a new offer.
//! - Another node, before it agreed: the founder waits for it. After it agreed: it keeps the agreement, and takes
//!   its seat whenever the founder's cluster speaks to it. Its disk lost after it agreed: it is a wiped node
//!   with a new data directory; the formed cluster takes it in as a joiner.
//! - Whoever leads first and dies before `FormCluster`: the next leader has the same roster on its disk.
//!
//! One case needs an operator: the founder's disk is lost after others took their seats and before its first
//! entry reached any of them. Nothing was ever committed then, but they cannot know. The message of the waiting
//! node says so. Likewise a peer that is dead for good before the first start: the way out is the same shorter
//! list on every remaining node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ovncp_state::command::JoinNode;
use ovncp_state::{ClusterId, NodeId};
use ovncp_storage::runtime::{random_bytes, random_u64};
use ovncp_storage::types::Peer;
use tokio::time::{sleep, timeout};

use crate::agreement::Agreement;
use crate::network::message::{ControlRequest, ControlResponse, LeaderHint};
use crate::network::{CallError, PeerIdentity, Target};
use crate::seat::{Seat, SeatError};
use crate::settings::StaticPeer;
use crate::shared::{Membership, Shared};
use crate::status::Phase;

/// A peer that does not answer a question in this time is waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Admission waits for an entry to commit.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two rounds of questions, plus up to as much again.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Hash of what all founding members must agree on: the names of the list, since an address may be written in
/// several ways, and the number of voters.
pub(crate) fn list_hash(members: &[StaticPeer], voters_target: u8) -> [u8; 16] {
    let mut bytes = vec![voters_target];
    for member in members {
        bytes.extend((member.name.len() as u64).to_le_bytes());
        bytes.extend(member.name.as_bytes());
    }
    twox_hash::XxHash3_128::oneshot(&bytes).to_le_bytes()
}

/// Runs until this node has a seat in a cluster, or stops.
pub(crate) async fn run(shared: Arc<Shared>, seat: Arc<dyn Seat>) {
    let members = shared.config.members();
    let list = list_hash(&members, shared.config.voters_target);
    let mut found_with = None;
    while shared.consensus.get().is_none() && shared.stopped().is_none() {
        if let Some(roster) = found_with.take() {
            // Not to be dropped half-way: between the seat and the first membership nothing may be lost.
            let waiting_for = found(&shared, &*seat, &members, roster).await;
            wait_for(&shared, waiting_for);
        }
        let round = async {
            let answers = ask_all(&shared, &members, list).await;
            match judge(&shared.own_entry(), list, &members, &answers) {
                Step::Wait(waiting_for) => wait_for(&shared, waiting_for),
                Step::Join(order) => wait_for(&shared, join(&shared, &*seat, &order).await),
                Step::Found(roster) => return Some(roster),
            }
            sleep(ROUND_PAUSE + Duration::from_millis(random_u64() % 100)).await;
            None
        };
        tokio::select! {
            next = round => found_with = next,
            () = shared.until_seated() => {}
            () = shared.until_stopped() => {}
        }
    }
}

/// The founder crashed between its seat and its first membership: writes it now. See the module's argument.
pub(crate) async fn resume(shared: &Shared, agreement: &Agreement, place: Membership) {
    if place.node_id == NodeId(1) && agreement.place(shared.incarnation) == Some(place) {
        initialize(shared, agreement).await;
    }
}

/// What a peer answered to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Silent(String),
    Blank { list: [u8; 16], node: JoinNode },
    Member { cluster_id: ClusterId, leader: Option<LeaderHint> },
}

/// What to do about all answers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Wait, and say for whom and why.
    Wait(Vec<String>),
    /// Found a cluster with this roster.
    Found(Vec<JoinNode>),
    /// Ask these for admission, in this order.
    Join(Vec<StaticPeer>),
}

async fn ask_all(shared: &Shared, members: &[StaticPeer], list: [u8; 16]) -> BTreeMap<String, Answer> {
    let others = members.iter().filter(|peer| peer.name != shared.config.name);
    let asked = others.map(|peer| async move {
        let answer = match ask(shared, peer, ControlRequest::Probe { list }, ASK_TIMEOUT).await {
            Ok((_, ControlResponse::Blank { list, node })) => Answer::Blank { list, node },
            Ok((_, ControlResponse::Member { cluster_id, leader, .. })) => {
                Answer::Member { cluster_id, leader }
            }
            Ok((_, ControlResponse::Refused { reason, .. })) => Answer::Silent(reason),
            Ok(_) => Answer::Silent("its answer is not understood".to_owned()),
            Err(error) => Answer::Silent(error.to_string()),
        };
        (peer.name.clone(), answer)
    });
    join_all(asked).await.into_iter().collect()
}

/// One question to a peer of the list.
pub(crate) async fn ask(
    shared: &Shared,
    peer: &StaticPeer,
    request: ControlRequest,
    time: Duration,
) -> Result<(PeerIdentity, ControlResponse), CallError> {
    let target = Target { id: None, name: Some(peer.name.clone()), incarnation: None };
    let asked = shared.peers.control(peer.addr.clone(), target, request, time);
    timeout(time, asked).await.unwrap_or(Err(CallError::Lost))
}

fn judge(own: &JoinNode, list: [u8; 16], members: &[StaticPeer], answers: &BTreeMap<String, Answer>) -> Step {
    let clusters: BTreeMap<ClusterId, &str> = answers
        .iter()
        .filter_map(|(name, answer)| match answer {
            Answer::Member { cluster_id, .. } => Some((*cluster_id, name.as_str())),
            _ => None,
        })
        .collect();
    match clusters.len() {
        0 => judge_blank(own, list, members, answers),
        1 => Step::Join(admission_order(members, answers)),
        _ => Step::Wait(
            clusters
                .iter()
                .map(|(id, name)| format!("{name}: belongs to cluster {id}, others do not"))
                .collect(),
        ),
    }
}

/// The leader first, where somebody named one, then every member.
fn admission_order(members: &[StaticPeer], answers: &BTreeMap<String, Answer>) -> Vec<StaticPeer> {
    let mut order = Vec::new();
    for answer in answers.values() {
        if let Answer::Member { leader: Some(leader), .. } = answer {
            order.push(StaticPeer { name: leader.name.clone(), addr: leader.addr.clone() });
        }
    }
    let is_member = |peer: &&StaticPeer| matches!(answers.get(&peer.name), Some(Answer::Member { .. }));
    order.extend(members.iter().filter(is_member).cloned());
    order
}

fn judge_blank(
    own: &JoinNode,
    list: [u8; 16],
    members: &[StaticPeer],
    answers: &BTreeMap<String, Answer>,
) -> Step {
    let mut waiting_for = Vec::new();
    let mut roster = vec![own.clone()];
    for (name, answer) in answers {
        match answer {
            Answer::Blank { node, .. } if node.name != *name => {
                waiting_for.push(format!("{name}: {} answers at its address", node.name));
            }
            Answer::Blank { list: theirs, .. } if *theirs != list => {
                waiting_for.push(format!("{name}: has another peer list or voters target"));
            }
            Answer::Blank { node, .. } => roster.push(node.clone()),
            Answer::Silent(reason) => waiting_for.push(format!("{name}: {reason}")),
            Answer::Member { .. } => waiting_for.push(format!("{name}: is a member")),
        }
    }
    roster.sort_by(|left, right| left.name.cmp(&right.name));
    for (at, node) in roster.iter().enumerate() {
        if let Some(copy) = roster[..at].iter().find(|other| other.incarnation == node.incarnation) {
            waiting_for.push(format!("{}: has a copy of the data directory of {}", node.name, copy.name));
        }
    }
    if !waiting_for.is_empty() {
        return Step::Wait(waiting_for);
    }
    match members.first() {
        Some(lowest) if lowest.name != own.name => {
            Step::Wait(vec![format!("{}: founds the cluster, since its name is the lowest", lowest.name)])
        }
        _ => Step::Found(roster),
    }
}

fn wait_for(shared: &Shared, waiting_for: Vec<String>) {
    if !waiting_for.is_empty() {
        shared.set_phase(Phase::Forming { waiting_for });
    }
}

/// Steps 2 to 4. What still has to be waited for, if anything.
async fn found(
    shared: &Shared,
    seat: &dyn Seat,
    members: &[StaticPeer],
    roster: Vec<JoinNode>,
) -> Vec<String> {
    let agreement = match seat.agreement().await {
        Some(agreement) if agreement.roster == roster => agreement,
        _ => Agreement { cluster_id: ClusterId(random_bytes()), key: random_bytes(), roster },
    };
    if let Err(error) = seat.agree(agreement.clone()).await {
        return refused_seat(shared, &error);
    }
    let others = members.iter().filter(|peer| peer.name != shared.config.name);
    let asked = others.map(|peer| {
        let request = ControlRequest::Agree(agreement.clone().into());
        async move {
            match ask(shared, peer, request, ASK_TIMEOUT).await {
                Ok((_, ControlResponse::Agreed)) => None,
                Ok((_, ControlResponse::Refused { reason, .. })) => Some(format!("{}: {reason}", peer.name)),
                Ok(_) => Some(format!("{}: its answer is not understood", peer.name)),
                Err(error) => Some(format!("{}: {error}", peer.name)),
            }
        }
    });
    let waiting_for: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    if !waiting_for.is_empty() {
        return waiting_for;
    }
    let Some(place) = agreement.place(shared.incarnation) else {
        return vec!["this node is missing in its own roster".to_owned()];
    };
    match seat.take(place).await {
        Ok(()) => {
            tracing::info!(cluster = %place.cluster_id, nodes = agreement.roster.len(), "founding the cluster");
            initialize(shared, &agreement).await;
            Vec::new()
        }
        Err(error) => refused_seat(shared, &error),
    }
}

/// Writes the first membership: the lowest ranks vote, up to the target; autopilot takes in the rest.
async fn initialize(shared: &Shared, agreement: &Agreement) {
    let Some(consensus) = shared.consensus.get() else { return };
    let voters = agreement
        .members()
        .take(usize::from(shared.config.voters_target))
        .map(|(id, node)| {
            let addr = shared.addr_of(&node.name, &node.info.peer_addr);
            (id.0, Peer { name: node.name.clone(), addr })
        })
        .collect();
    if let Err(error) = consensus.initialize(voters).await {
        shared.stop(format!("found the cluster: {error}"));
    }
}

/// Asks for admission. What still has to be waited for, if anything.
async fn join(shared: &Shared, seat: &dyn Seat, order: &[StaticPeer]) -> Vec<String> {
    let mut waiting_for = Vec::new();
    for peer in order {
        let peer = StaticPeer { name: peer.name.clone(), addr: shared.addr_of(&peer.name, &peer.addr) };
        let request = ControlRequest::Join(shared.own_entry());
        match ask(shared, &peer, request, JOIN_TIMEOUT).await {
            Ok((_, ControlResponse::Joined { cluster_id, id, key })) => {
                tracing::info!(cluster = %cluster_id, %id, "admitted by {}", peer.name);
                return match seat.take(Membership { cluster_id, node_id: id, key }).await {
                    Ok(()) => Vec::new(),
                    Err(error) => refused_seat(shared, &error),
                };
            }
            Ok((_, ControlResponse::Refused { reason, retry: false })) => {
                shared.stop(format!("{} refuses this node: {reason}", peer.name));
                return Vec::new();
            }
            Ok((_, ControlResponse::Refused { reason, .. })) => {
                waiting_for.push(format!("admission by {}: {reason}", peer.name));
            }
            Ok((_, ControlResponse::NotLeader { .. })) => {
                waiting_for.push(format!("admission by {}: it does not lead", peer.name));
            }
            Ok(_) => waiting_for.push(format!("{}: its answer is not understood", peer.name)),
            Err(error) => waiting_for.push(format!("admission by {}: {error}", peer.name)),
        }
    }
    waiting_for
}

fn refused_seat(shared: &Shared, error: &SeatError) -> Vec<String> {
    match error {
        // The agreed cluster spoke to us meanwhile.
        SeatError::Taken => Vec::new(),
        SeatError::NotAgreed => vec![error.to_string()],
        SeatError::Failed(reason) => {
            shared.stop(reason.clone());
            Vec::new()
        }
    }
}

/// Step 3: whether this node agrees to an offer of `from`.
pub(crate) fn check_offer(
    own: &JoinNode,
    members: &[StaticPeer],
    from: &PeerIdentity,
    roster: &[JoinNode],
) -> Result<(), String> {
    let same_names = roster.iter().map(|node| &node.name).eq(members.iter().map(|peer| &peer.name));
    if !same_names {
        return Err("the roster is not this node's peer list".to_owned());
    }
    if roster.first().is_none_or(|first| (&first.name, first.incarnation) != (&from.name, from.incarnation)) {
        return Err("the asker has not the lowest name".to_owned());
    }
    let listed = |node: &&JoinNode| (&node.name, node.incarnation) == (&own.name, own.incarnation);
    if !roster.iter().any(|node| listed(&node)) {
        return Err("the roster has another data directory for this node".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ovncp_state::Incarnation;
    use ovncp_state::command::NodeInfo;

    use super::*;

    fn node(name: &str, byte: u8) -> JoinNode {
        JoinNode { name: name.to_owned(), incarnation: Incarnation([byte; 16]), info: NodeInfo::default() }
    }

    fn members(names: &[&str]) -> Vec<StaticPeer> {
        names.iter().map(|name| StaticPeer { name: (*name).to_owned(), addr: format!("{name}:1") }).collect()
    }

    fn blank(name: &str, byte: u8, list: [u8; 16]) -> (String, Answer) {
        (name.to_owned(), Answer::Blank { list, node: node(name, byte) })
    }

    fn member(name: &str, cluster: u8) -> (String, Answer) {
        (name.to_owned(), Answer::Member { cluster_id: ClusterId([cluster; 16]), leader: None })
    }

    #[test]
    fn the_lowest_name_founds_when_all_others_are_blank_with_the_same_list() {
        let members = members(&["a", "b", "c"]);
        let list = list_hash(&members, 3);
        let answers = BTreeMap::from([blank("b", 2, list), blank("c", 3, list)]);
        let step = judge(&node("a", 1), list, &members, &answers);
        assert_eq!(step, Step::Found(vec![node("a", 1), node("b", 2), node("c", 3)]));
    }

    #[test]
    fn others_wait_for_the_lowest_name() {
        let members = members(&["a", "b"]);
        let list = list_hash(&members, 3);
        let answers = BTreeMap::from([blank("a", 1, list)]);
        assert!(matches!(judge(&node("b", 2), list, &members, &answers), Step::Wait(_)));
    }

    #[test]
    fn a_silent_peer_another_list_or_a_copied_directory_stop_formation() {
        let members = members(&["a", "b", "c"]);
        let list = list_hash(&members, 3);
        let own = node("a", 1);
        let silent = ("c".to_owned(), Answer::Silent("no answer".to_owned()));
        let cases = [
            (silent, "c: no answer"),
            (blank("c", 3, [0; 16]), "c: has another peer list or voters target"),
            (blank("c", 2, list), "c: has a copy of the data directory of b"),
            (("c".to_owned(), Answer::Blank { list, node: node("x", 9) }), "c: x answers at its address"),
        ];
        for (answer, expected) in cases {
            let answers = BTreeMap::from([blank("b", 2, list), answer]);
            assert_eq!(judge(&own, list, &members, &answers), Step::Wait(vec![expected.to_owned()]));
        }
    }

    #[test]
    fn a_member_is_joined_even_by_the_lowest_name_and_with_others_missing() {
        let members = members(&["a", "b", "c"]);
        let list = list_hash(&members, 3);
        let answers = BTreeMap::from([member("b", 7), ("c".to_owned(), Answer::Silent(String::new()))]);
        assert_eq!(judge(&node("a", 1), list, &members, &answers), Step::Join(vec![members[1].clone()]));
    }

    #[test]
    fn peers_of_two_clusters_are_joined_by_nobody() {
        let members = members(&["a", "b", "c"]);
        let list = list_hash(&members, 3);
        let answers = BTreeMap::from([member("b", 7), member("c", 8)]);
        assert!(matches!(judge(&node("a", 1), list, &members, &answers), Step::Wait(_)));
    }

    #[test]
    fn a_node_alone_founds_its_own_cluster() {
        let members = members(&["a"]);
        let step = judge(&node("a", 1), list_hash(&members, 3), &members, &BTreeMap::new());
        assert_eq!(step, Step::Found(vec![node("a", 1)]));
    }

    #[test]
    fn an_offer_is_checked_against_the_own_list_name_and_directory() {
        let members = members(&["a", "b"]);
        let own = node("b", 2);
        let from = |name: &str, byte| PeerIdentity {
            cluster_id: None,
            id: None,
            name: name.to_owned(),
            incarnation: Incarnation([byte; 16]),
            boot: 1,
            process: 1,
        };
        let roster = vec![node("a", 1), node("b", 2)];
        assert_eq!(check_offer(&own, &members, &from("a", 1), &roster), Ok(()));
        assert!(check_offer(&own, &members, &from("a", 5), &roster).is_err(), "another founder's directory");
        assert!(check_offer(&own, &members, &from("b", 2), &roster).is_err(), "not the lowest name");
        assert!(check_offer(&node("b", 9), &members, &from("a", 1), &roster).is_err(), "wiped meanwhile");
        let longer = vec![node("a", 1), node("b", 2), node("c", 3)];
        assert!(check_offer(&own, &members, &from("a", 1), &longer).is_err(), "another list");
    }

    #[test]
    fn the_list_hash_depends_on_names_only_and_on_their_borders() {
        assert_eq!(list_hash(&members(&["a", "b"]), 3), {
            let mut other = members(&["a", "b"]);
            other[0].addr = "elsewhere:9".to_owned();
            list_hash(&other, 3)
        });
        assert_ne!(list_hash(&members(&["ab"]), 3), list_hash(&members(&["a", "b"]), 3));
        assert_ne!(list_hash(&members(&["a", "b"]), 3), list_hash(&members(&["a", "b"]), 5));
    }
}
