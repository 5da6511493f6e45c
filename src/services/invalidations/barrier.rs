//! Who has cleared an entry, and waiting for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ovncp_state::command::{NodeRole, NodeStatus};
use ovncp_state::{Millis, NodeId, State};
use tokio::time::Instant;

use super::{Invalidations, Position};

/// An inactive member is waited for until this share of the node time-out has passed since it was seen to be inactive:
/// longer than it may trust its caches ([`super::applier`]).
const ABSENT_SHARE: u32 = 2;

/// Who must have cleared an entry before its answer, beside the node that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Nobody.
    #[default]
    None,
    /// A majority of the voters.
    Quorum,
    /// Every member that has not been inactive for a while.
    All,
}

/// Who has cleared an entry, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// Those who have, by name.
    pub applied_by: Vec<String>,
    /// Those who have not, and are or were active lately.
    pub missing: Vec<String>,
    /// Whether that is what was waited for.
    pub complete: bool,
}

/// When this node first saw a member inactive, as long as it is. An absence is told from a later one of the same member
/// by its beginning: it may have been back between two looks, and have trusted its caches anew.
#[derive(Debug, Default)]
pub(super) struct Absent(Mutex<BTreeMap<(NodeId, Millis), Instant>>);

impl Absent {
    /// Notes who is inactive now; answers since when.
    pub(super) fn look(&self, state: &State, now: Instant) -> BTreeMap<NodeId, Instant> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inactive = state.nodes().into_iter().filter(|node| node.status == NodeStatus::Inactive);
        let absences = inactive.map(|node| (node.id, node.status_since));
        *since = absences.map(|absence| (absence, since.get(&absence).copied().unwrap_or(now))).collect();
        since.iter().map(|((node, _), since)| (*node, *since)).collect()
    }
}

/// A barrier at one moment, and when it may be another one without any change of the state.
struct Seen {
    barrier: Barrier,
    changes_at: Option<Instant>,
}

impl Invalidations {
    /// Waits until `wait` is fulfilled for the entry at `position`, until `deadline` at most.
    pub(super) async fn barrier(&self, position: Position, wait: Wait, deadline: Instant) -> Barrier {
        let mut changes = self.core.group.cleared_watch();
        loop {
            // Before the look: what is applied after it wakes us again.
            changes.borrow_and_update();
            let now = Instant::now();
            let seen = self.core.group.read(|state| self.seen(state, position, wait, now)).1;
            if seen.barrier.complete || now >= deadline {
                return seen.barrier;
            }
            let until = seen.changes_at.map_or(deadline, |at| at.min(deadline));
            if let Ok(Err(_)) = tokio::time::timeout_at(until, changes.changed()).await {
                // The group is over.
                return seen.barrier;
            }
        }
    }

    fn seen(&self, state: &State, position: Position, wait: Wait, now: Instant) -> Seen {
        let (reports, absent) = (state.cleared(), self.absent.look(state, now));
        let same_epoch = state.epoch() == position.epoch;
        let mut barrier = Barrier { applied_by: Vec::new(), missing: Vec::new(), complete: false };
        let (mut voters, mut cleared_voters, mut changes_at) = (0, 0, None);
        for node in state.nodes() {
            let reported = reports.iter().find(|(id, _)| *id == node.id);
            // A restore came in between: it cleared everything.
            let cleared = !same_epoch || reported.is_some_and(|(_, next)| *next > position.offset);
            let counts_until = absent.get(&node.id).map(|since| *since + self.node_timeout / ABSENT_SHARE);
            if node.role == NodeRole::Voter {
                voters += 1;
                cleared_voters += usize::from(cleared);
            }
            if cleared {
                barrier.applied_by.push(node.name);
            } else if counts_until.is_none_or(|until| now < until) {
                barrier.missing.push(node.name);
                changes_at = [changes_at, counts_until].into_iter().flatten().min();
            }
        }
        barrier.complete = match wait {
            Wait::None => true,
            Wait::Quorum => cleared_voters > voters / 2,
            Wait::All => barrier.missing.is_empty(),
        };
        Seen { barrier, changes_at }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use ovncp_state::command::{ChangeNode, FormCluster, JoinNode, NodeInfo};
    use ovncp_state::{ClusterId, Command, Entry, Incarnation, LogIndex, Reply};

    const MEMBER: NodeId = NodeId(2);

    fn apply(state: &mut State, at: u64, command: Command) {
        let index = LogIndex(state.applied().0 + 1);
        let applied = state.apply(Entry { index, at: Millis(at), request: command.into() });
        assert!(!matches!(applied.reply, Reply::Refused(_)), "{:?}", applied.reply);
    }

    fn becomes(state: &mut State, at: u64, status: NodeStatus) {
        let generation = state.node(MEMBER).unwrap().generation;
        let change = ChangeNode { id: MEMBER, generation, status: Some(status), role: None };
        apply(state, at, Command::ChangeNode(change));
    }

    #[test]
    fn an_absence_that_nobody_saw_end_does_not_lengthen_the_next_one() {
        let join = |name: &str, byte| JoinNode {
            name: name.to_owned(),
            incarnation: Incarnation([byte; 16]),
            info: NodeInfo::default(),
        };
        let mut state = State::new();
        let form = FormCluster {
            cluster_id: ClusterId([1; 16]),
            formed_at_unix_ms: 0,
            voters_target: 1,
            nodes: vec![join("a", 1), join("b", 2)],
        };
        apply(&mut state, 0, Command::FormCluster(form));
        becomes(&mut state, 1_000, NodeStatus::Inactive);
        let (absent, first) = (Absent::default(), Instant::now());
        assert_eq!(absent.look(&state, first).get(&MEMBER), Some(&first));
        let later = first + Duration::from_secs(60);
        assert_eq!(absent.look(&state, later).get(&MEMBER), Some(&first), "still the same absence");
        becomes(&mut state, 2_000, NodeStatus::Active);
        becomes(&mut state, 3_000, NodeStatus::Inactive);
        assert_eq!(absent.look(&state, later).get(&MEMBER), Some(&later), "another one");
        becomes(&mut state, 4_000, NodeStatus::Active);
        assert!(absent.look(&state, later).is_empty());
    }
}
