//! Autopilot: the leader makes the Raft membership what the replicated state asks for, one change at a time.
//!
//! The state says who belongs to the cluster; openraft's membership says who receives the log and who votes.
//! [`next_action`] compares the two and names the one next thing to do. Every change of the membership is guarded
//! by the log id of the membership it was decided on and by the term, so a decision that became old does nothing.
//! A change that lost its leader half-way (in joint consensus) is finished by the next leader first.
//!
//! - A node of the state that receives no log becomes a learner.
//! - A learner that was healthy and caught up for `promotion_stable` may vote while voters are fewer than the
//!   target.
//! - A voter whose data directory was wiped is replaced by its new self, and a voter that is inactive by a
//!   healthy learner: one joint change swaps the two.
//! - A node that left the state leaves the membership; a leader hands over first.
//! - Nothing is done that would leave a voter set without a healthy majority, before or after the change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use ovncp_state::command::{ChangeNode, NodeRole, NodeStatus, RemoveNode};
use ovncp_state::view::NodeView;
use ovncp_state::{Command, NodeId, Request};
use ovncp_storage::types::Peer;
use tokio::time::{Instant, interval, timeout};

use crate::consensus::{Change, Consensus, Metrics};
use crate::failure::{self, CAUGHT_UP_LAG, Sight};
use crate::shared::Shared;
use crate::{proposals, transfer};

/// How often the picture is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// A change that is not committed by then is looked at again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A member counts as healthy when it acknowledged something within so many Raft heartbeats (and a second at
/// least): the failure detector's statuses are slower on purpose.
const HEALTHY_HEARTBEATS: u32 = 10;
const HEALTHY_MIN: Duration = Duration::from_secs(1);

/// Everything that a decision rests on.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) own: NodeId,
    pub(crate) voters_target: usize,
    /// The voter sets: two of them during a joint change.
    pub(crate) voter_sets: Vec<BTreeSet<NodeId>>,
    /// Every node of the Raft membership with its dialed address.
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// Live nodes of the state.
    pub(crate) nodes: Vec<NodeView>,
    /// Members that answer now; the leader itself is one.
    pub(crate) healthy: BTreeSet<NodeId>,
    /// Members that were healthy and caught up for long enough.
    pub(crate) stable: BTreeSet<NodeId>,
}

impl Picture {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.voter_sets.iter().flatten().copied().collect()
    }

    fn learners(&self) -> impl Iterator<Item = NodeId> {
        let voters = self.voters();
        self.peers.keys().copied().filter(move |id| !voters.contains(id))
    }

    fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Whether a healthy majority of this voter set exists, leaving out nobody.
    fn quorate(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.intersection(&self.healthy).count() > voters.len() / 2
    }

    /// Whether changing to `voters` keeps a healthy majority before and after.
    fn may_become(&self, voters: &BTreeSet<NodeId>) -> bool {
        !voters.is_empty() && self.voter_sets.iter().all(|old| self.quorate(old)) && self.quorate(voters)
    }

    /// A newer live node with the same name: the old one's disk was wiped.
    fn successor(&self, id: NodeId) -> Option<&NodeView> {
        let old = self.node(id)?;
        self.nodes.iter().filter(|node| node.name == old.name && node.id > id).max_by_key(|node| node.id)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A change of openraft's membership; whether voters that leave the set stay as learners.
    Change(Change, bool),
    /// A change of the state's record of a member.
    Propose(Command),
    /// This leader has to leave: hand over first.
    HandOver,
}

/// The one next thing to do, if any.
pub(crate) fn next_action(picture: &Picture) -> Option<Action> {
    if picture.voter_sets.len() > 1 {
        // A change that lost its leader: the empty change leads out of joint consensus.
        return Some(Action::Change(ChangeMembers::AddVoterIds(BTreeSet::new()), true));
    }
    take_out(picture)
        .or_else(|| take_in(picture))
        .or_else(|| correct_address(picture))
        .or_else(|| replace_wiped(picture))
        .or_else(|| replace_dead(picture))
        .or_else(|| promote(picture))
        .or_else(|| forget_wiped(picture))
        .or_else(|| correct_role(picture))
}

fn ids(ids: impl IntoIterator<Item = NodeId>) -> BTreeSet<u64> {
    ids.into_iter().map(|id| id.0).collect()
}

/// A member of openraft's that left the state.
fn take_out(picture: &Picture) -> Option<Action> {
    let voters = picture.voters();
    for id in picture.peers.keys().filter(|id| picture.node(**id).is_none()) {
        if !voters.contains(id) {
            return Some(Action::Change(ChangeMembers::RemoveNodes(ids([*id])), false));
        }
        let mut rest = voters.clone();
        rest.remove(id);
        if !picture.may_become(&rest) {
            continue;
        }
        if *id == picture.own {
            return Some(Action::HandOver);
        }
        return Some(Action::Change(ChangeMembers::RemoveVoters(ids([*id])), false));
    }
    None
}

/// A node of the state that receives no log.
fn take_in(picture: &Picture) -> Option<Action> {
    let node = picture
        .nodes
        .iter()
        .find(|node| !picture.peers.contains_key(&node.id) && picture.successor(node.id).is_none())?;
    let peer = Peer { name: node.name.clone(), addr: node.info.peer_addr.clone() };
    Some(Action::Change(ChangeMembers::AddNodes(BTreeMap::from([(node.id.0, peer)])), true))
}

/// A member that reported another address than the one openraft dials.
fn correct_address(picture: &Picture) -> Option<Action> {
    picture.nodes.iter().find_map(|node| {
        let peer = picture.peers.get(&node.id)?;
        let now = Peer { name: node.name.clone(), addr: node.info.peer_addr.clone() };
        let differs = !node.info.peer_addr.is_empty() && *peer != now;
        differs.then(|| Action::Change(ChangeMembers::SetNodes(BTreeMap::from([(node.id.0, now)])), true))
    })
}

fn swap(picture: &Picture, old: NodeId, new: NodeId, keep_old: bool) -> Option<Action> {
    let mut voters = picture.voters();
    voters.remove(&old);
    voters.insert(new);
    if old == picture.own || !picture.may_become(&voters) {
        return None;
    }
    let change = ChangeMembers::Batch(vec![
        ChangeMembers::AddVoterIds(ids([new])),
        ChangeMembers::RemoveVoters(ids([old])),
    ]);
    Some(Action::Change(change, keep_old))
}

/// A voter whose data directory was wiped, and its new self is ready.
fn replace_wiped(picture: &Picture) -> Option<Action> {
    picture.voters().into_iter().find_map(|id| {
        let successor = picture.successor(id)?;
        let ready = picture.stable.contains(&successor.id) && !picture.voters().contains(&successor.id);
        if ready { swap(picture, id, successor.id, false) } else { None }
    })
}

/// An inactive voter, and a learner that can do its part.
fn replace_dead(picture: &Picture) -> Option<Action> {
    let dead = |id: &NodeId| {
        !picture.healthy.contains(id)
            && picture.node(*id).is_some_and(|node| node.status == NodeStatus::Inactive)
    };
    let dead = picture.voters().into_iter().find(dead)?;
    let substitute = eligible(picture).next()?;
    swap(picture, dead, substitute, true)
}

/// Learners that could vote. A wiped node's new self waits for its old self's place.
fn eligible(picture: &Picture) -> impl Iterator<Item = NodeId> {
    let voters = picture.voters();
    picture.learners().filter(move |id| {
        let takes_a_place =
            voters.iter().any(|voter| picture.successor(*voter).is_some_and(|successor| successor.id == *id));
        let status = picture.node(*id).map(|node| node.status);
        picture.stable.contains(id) && status == Some(NodeStatus::Active) && !takes_a_place
    })
}

/// Fewer voters than wanted, and learners that can vote.
fn promote(picture: &Picture) -> Option<Action> {
    let voters = picture.voters();
    let missing = picture.voters_target.checked_sub(voters.len()).filter(|missing| *missing > 0)?;
    let chosen: BTreeSet<NodeId> = eligible(picture).take(missing).collect();
    let after = voters.union(&chosen).copied().collect();
    if chosen.is_empty() || !picture.may_become(&after) {
        return None;
    }
    Some(Action::Change(ChangeMembers::AddVoterIds(ids(chosen)), true))
}

/// The old self of a wiped node, once it does not vote any more.
fn forget_wiped(picture: &Picture) -> Option<Action> {
    let voters = picture.voters();
    let old = picture
        .nodes
        .iter()
        .find(|node| !voters.contains(&node.id) && picture.successor(node.id).is_some())?;
    let reason = "replaced by a new data directory".to_owned();
    Some(Action::Propose(Command::RemoveNode(RemoveNode { id: old.id, reason })))
}

/// The role that the state shows is the one that openraft gives.
fn correct_role(picture: &Picture) -> Option<Action> {
    let voters = picture.voters();
    picture.nodes.iter().find_map(|node| {
        let role = if voters.contains(&node.id) { NodeRole::Voter } else { NodeRole::Learner };
        let differs = picture.peers.contains_key(&node.id) && node.role != role;
        differs.then(|| {
            let change =
                ChangeNode { id: node.id, generation: node.generation, status: None, role: Some(role) };
            Action::Propose(Command::ChangeNode(change))
        })
    })
}

/// Since when each member has been healthy and caught up without a break.
#[derive(Debug, Default)]
struct Stability(BTreeMap<NodeId, Instant>);

impl Stability {
    fn update(&mut self, sights: &BTreeMap<NodeId, Sight>, healthy: &BTreeSet<NodeId>, now: Instant) {
        self.0.retain(|id, _| healthy.contains(id));
        for (id, sight) in sights {
            if !healthy.contains(id) || sight.lag >= CAUGHT_UP_LAG {
                self.0.remove(id);
            } else {
                self.0.entry(*id).or_insert(now);
            }
        }
    }

    fn stable(&self, wanted: Duration, now: Instant) -> BTreeSet<NodeId> {
        let long = |since: &Instant| now.saturating_duration_since(*since) >= wanted;
        self.0.iter().filter(|(_, since)| long(since)).map(|(id, _)| *id).collect()
    }
}

/// Works while this node leads; dropped at the end of the term.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>, term: u64) {
    let since = Instant::now();
    let mut stability = Stability::default();
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if !shared.replica.read(ovncp_state::State::is_formed) {
            continue;
        }
        let metrics = consensus.metrics();
        // One change at a time: the last one has to be committed.
        if metrics.membership_config != metrics.committed_membership_config {
            continue;
        }
        let picture = picture(&shared, &metrics, since, &mut stability);
        if let Some(action) = next_action(&picture) {
            perform(&shared, &*consensus, &metrics, term, action).await;
        }
    }
}

fn picture(shared: &Shared, metrics: &Metrics, since: Instant, stability: &mut Stability) -> Picture {
    let own = shared.node_id().unwrap_or_default();
    let timing = &shared.config.timing;
    let sights = failure::sights(metrics, own, since);
    let healthy = healthy(shared, metrics);
    let now = Instant::now();
    stability.update(&sights, &healthy, now);
    let membership = metrics.membership_config.membership();
    let sets = membership.get_joint_config();
    let (nodes, voters_target) =
        shared.replica.read(|state| (state.nodes(), usize::from(state.cluster().voters_target)));
    Picture {
        own,
        voters_target,
        voter_sets: sets.iter().map(|set| set.iter().copied().map(NodeId).collect()).collect(),
        peers: membership.nodes().map(|(id, peer)| (NodeId(*id), peer.clone())).collect(),
        nodes,
        healthy,
        stable: stability.stable(timing.promotion_stable, now),
    }
}

/// Members that answer this leader now, and itself.
pub(crate) fn healthy(shared: &Shared, metrics: &Metrics) -> BTreeSet<NodeId> {
    let own = shared.node_id().unwrap_or_default();
    let fresh = (shared.config.timing.raft_heartbeat * HEALTHY_HEARTBEATS).max(HEALTHY_MIN);
    // Whose process died has lost its connection long before it has been silent for a second.
    let connected = transfer::connected(shared);
    // Only who was seen counts, and then the whole age of its acknowledgement.
    let sights = failure::sights(metrics, own, shared.started);
    let answers =
        sights.iter().filter(|(id, sight)| connected.contains(id) && sight.seen && sight.silence < fresh);
    answers.map(|(id, _)| *id).chain([own]).collect()
}

async fn perform(shared: &Shared, consensus: &dyn Consensus, metrics: &Metrics, term: u64, action: Action) {
    match action {
        Action::Change(change, retain) => {
            tracing::info!(%change, "changing the membership");
            let decided_on = *metrics.membership_config.log_id();
            let done = consensus.change(change, retain, decided_on, term);
            match timeout(CHANGE_TIMEOUT, done).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "membership not changed"),
                Err(_elapsed) => tracing::warn!("membership not changed in time"),
            }
        }
        Action::Propose(command) => {
            let _ = proposals::propose(shared, &Request::from(command), CHANGE_TIMEOUT).await;
        }
        Action::HandOver => {
            let handed = transfer::hand_over(shared, None, Instant::now() + CHANGE_TIMEOUT).await;
            if let Err(error) = handed {
                tracing::warn!(%error, "leadership not handed over before leaving");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ovncp_state::command::NodeInfo;
    use ovncp_state::{Incarnation, Millis};

    use super::*;

    fn node(id: u64, name: &str, status: NodeStatus, role: NodeRole) -> NodeView {
        let info = NodeInfo { peer_addr: format!("{name}:1"), ..NodeInfo::default() };
        NodeView {
            id: NodeId(id),
            name: name.to_owned(),
            incarnation: Incarnation([u8::try_from(id % 251).unwrap(); 16]),
            boot: 1,
            info,
            status,
            role,
            generation: 1,
            status_since: Millis(0),
            joined_at: Millis(0),
        }
    }

    /// Three healthy voters `a`, `b`, `c` led by `a`, and nothing to do.
    fn settled() -> Picture {
        let names = ["a", "b", "c"];
        let all: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        let peer = |name: &str| Peer { name: name.to_owned(), addr: format!("{name}:1") };
        Picture {
            own: NodeId(1),
            voters_target: 3,
            voter_sets: vec![all.clone()],
            peers: (1..).map(NodeId).zip(names.map(peer)).collect(),
            nodes: (1..)
                .zip(names)
                .map(|(id, name)| node(id, name, NodeStatus::Active, NodeRole::Voter))
                .collect(),
            healthy: all,
            stable: BTreeSet::from([NodeId(2), NodeId(3)]),
        }
    }

    fn with_learner(id: u64, name: &str) -> Picture {
        let mut picture = settled();
        picture.nodes.push(node(id, name, NodeStatus::Active, NodeRole::Learner));
        picture.peers.insert(NodeId(id), Peer { name: name.to_owned(), addr: format!("{name}:1") });
        picture.healthy.insert(NodeId(id));
        picture.stable.insert(NodeId(id));
        picture
    }

    fn swapped(old: u64, new: u64, keep_old: bool) -> Option<Action> {
        let change = ChangeMembers::Batch(vec![
            ChangeMembers::AddVoterIds(BTreeSet::from([new])),
            ChangeMembers::RemoveVoters(BTreeSet::from([old])),
        ]);
        Some(Action::Change(change, keep_old))
    }

    #[test]
    fn a_settled_group_is_left_alone_and_more_learners_stay_learners() {
        assert_eq!(next_action(&settled()), None);
        assert_eq!(next_action(&with_learner(1_005, "d")), None);
    }

    #[test]
    fn a_change_that_lost_its_leader_is_finished_before_anything_else() {
        let mut picture = with_learner(1_005, "d");
        picture.voter_sets.push(BTreeSet::from([NodeId(1), NodeId(2), NodeId(1_005)]));
        picture.nodes.remove(2);
        let finish = ChangeMembers::AddVoterIds(BTreeSet::new());
        assert_eq!(next_action(&picture), Some(Action::Change(finish, true)));
    }

    #[test]
    fn a_node_of_the_state_becomes_a_learner_first() {
        let mut picture = settled();
        picture.nodes.push(node(1_005, "d", NodeStatus::Joining, NodeRole::Learner));
        let peer = Peer { name: "d".to_owned(), addr: "d:1".to_owned() };
        let add = ChangeMembers::AddNodes(BTreeMap::from([(1_005, peer)]));
        assert_eq!(next_action(&picture), Some(Action::Change(add, true)));
    }

    #[test]
    fn stable_learners_vote_while_voters_are_missing() {
        let mut picture = with_learner(1_005, "d");
        picture.voters_target = 5;
        let promote = ChangeMembers::AddVoterIds(BTreeSet::from([1_005]));
        assert_eq!(next_action(&picture), Some(Action::Change(promote, true)));
        picture.stable.remove(&NodeId(1_005));
        assert_eq!(next_action(&picture), None, "not stable for long enough");
    }

    #[test]
    fn an_inactive_voter_is_swapped_for_a_learner_in_one_change_and_a_suspect_is_not() {
        let mut picture = with_learner(1_005, "d");
        picture.healthy.remove(&NodeId(3));
        picture.stable.remove(&NodeId(3));
        picture.nodes[2].status = NodeStatus::Suspect;
        assert_eq!(next_action(&picture), None);
        picture.nodes[2].status = NodeStatus::Inactive;
        assert_eq!(next_action(&picture), swapped(3, 1_005, true));
        picture.healthy.remove(&NodeId(2));
        assert_eq!(next_action(&picture), None, "no healthy majority to decide it");
    }

    #[test]
    fn a_wiped_node_takes_its_own_place_and_no_other_and_its_old_record_ends_afterwards() {
        let mut picture = with_learner(1_005, "c");
        picture.healthy.remove(&NodeId(3));
        picture.nodes[2].status = NodeStatus::Suspect;
        assert_eq!(next_action(&picture), swapped(3, 1_005, false));
        // Another dead voter does not get it.
        let mut other = picture.clone();
        other.voters_target = 5;
        other.stable.remove(&NodeId(1_005));
        assert_eq!(next_action(&other), None);
        // After the change the old id is in no voter set and in no membership.
        picture.voter_sets = vec![BTreeSet::from([NodeId(1), NodeId(2), NodeId(1_005)])];
        picture.peers.remove(&NodeId(3));
        picture.nodes[3].role = NodeRole::Voter;
        let Some(Action::Propose(Command::RemoveNode(remove))) = next_action(&picture) else {
            panic!("{:?}", next_action(&picture))
        };
        assert_eq!(remove.id, NodeId(3));
    }

    #[test]
    fn who_left_the_state_leaves_the_membership_and_a_leader_hands_over_first() {
        let mut picture = settled();
        picture.nodes.remove(1);
        let remove = ChangeMembers::RemoveVoters(BTreeSet::from([2]));
        assert_eq!(next_action(&picture), Some(Action::Change(remove, false)));
        let mut leader = settled();
        leader.nodes.remove(0);
        assert_eq!(next_action(&leader), Some(Action::HandOver));
        // Not while the rest would have no healthy majority.
        picture.healthy.remove(&NodeId(3));
        assert_eq!(next_action(&picture), None);
        let mut learner = with_learner(1_005, "d");
        learner.nodes.pop();
        let remove = ChangeMembers::RemoveNodes(BTreeSet::from([1_005]));
        assert_eq!(next_action(&learner), Some(Action::Change(remove, false)));
    }

    #[test]
    fn a_reported_address_is_dialed_and_a_role_follows_the_membership() {
        let mut picture = settled();
        picture.nodes[1].info.peer_addr = "elsewhere:2".to_owned();
        let peer = Peer { name: "b".to_owned(), addr: "elsewhere:2".to_owned() };
        let set = ChangeMembers::SetNodes(BTreeMap::from([(2, peer)]));
        assert_eq!(next_action(&picture), Some(Action::Change(set, true)));
        let mut picture = settled();
        picture.nodes[2].role = NodeRole::Learner;
        let Some(Action::Propose(Command::ChangeNode(change))) = next_action(&picture) else {
            panic!("{:?}", next_action(&picture))
        };
        assert_eq!((change.id, change.role, change.status), (NodeId(3), Some(NodeRole::Voter), None));
    }

    #[test]
    fn stability_is_lost_with_one_silence_and_one_lag() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let sight = |lag| Sight { silence: Duration::ZERO, seen: true, lag };
        let (id, wanted) = (NodeId(2), Duration::from_secs(10));
        let healthy = BTreeSet::from([id]);
        let mut stability = Stability::default();
        stability.update(&BTreeMap::from([(id, sight(0))]), &healthy, later(0));
        stability.update(&BTreeMap::from([(id, sight(249))]), &healthy, later(9));
        assert!(stability.stable(wanted, later(9)).is_empty());
        assert_eq!(stability.stable(wanted, later(10)), healthy);
        stability.update(&BTreeMap::from([(id, sight(250))]), &healthy, later(11));
        stability.update(&BTreeMap::from([(id, sight(0))]), &healthy, later(12));
        assert!(stability.stable(wanted, later(21)).is_empty());
        stability.update(&BTreeMap::from([(id, sight(0))]), &BTreeSet::new(), later(22));
        stability.update(&BTreeMap::from([(id, sight(0))]), &healthy, later(23));
        assert!(stability.stable(wanted, later(32)).is_empty());
    }
}
