//! Nodes compare their states, and one that differs from the majority is taken out of service.
//!
//! Every node remembers the hash of its state at the same indexes ([`Replica::checkpoints`]) and now and then asks
//! the voters for theirs. Equal entries make equal states, so a difference at one index is damage: a bug that is
//! not deterministic, or memory or a disk that lies. Each node judges itself, from what all of them say:
//!
//! - A majority of the voters has another hash: this node is **quarantined**. It stops, says why, and leaves the
//!   file `quarantine` in its data directory, so that no restart brings it back unseen. The directory is evidence;
//!   a node started with an empty one joins in its place.
//! - Hashes differ and none has a majority (with two voters always): nobody knows who is right, so each of them
//!   **holds its writes** until a majority agrees, which a further voter or a restart of the damaged node can
//!   bring about. Changes of members are let through, since they are the way out.
//!
//! Nothing is written to the log for it. Only nodes whose hash covers the same things
//! ([`State::HASH_VERSION`]) are compared.
//!
//! [`Replica::checkpoints`]: ovncp_storage::Replica::checkpoints
//! [`State::HASH_VERSION`]: ovncp_state::State::HASH_VERSION

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ovncp_state::{Command, LogIndex, NodeId, State, StateHash};
use ovncp_storage::Checkpoint;
use ovncp_storage::disk::{Disk, File};
use tokio::time::sleep;

use crate::consensus::Consensus;
use crate::formation::ask;
use crate::network::PeerIdentity;
use crate::network::message::{ControlRequest, ControlResponse};
use crate::seat::Seat;
use crate::settings::StaticPeer;
use crate::shared::{Membership, Shared};
use crate::status::Integrity;

/// How often a node compares itself with the voters.
const COMPARE_PERIOD: Duration = Duration::from_secs(2);
/// A voter that does not answer in this time is left out of this comparison.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A dispute that a silent voter could decide holds writes only after so many comparisons.
const DISPUTE_ROUNDS: u32 = 3;
/// In the data directory of a quarantined node.
const FILE: &str = "quarantine";
const FILE_NEW: &str = "quarantine.new";
/// More of the file is not shown.
const REASON_BYTES_MAX: u64 = 4 * 1_024;

/// What a comparison shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing that could be compared.
    Unknown,
    /// A majority of the voters has this node's state.
    Agrees { at: LogIndex },
    /// A majority has another one.
    Differs { at: LogIndex, own: StateHash, theirs: StateHash, voters: Vec<NodeId> },
    /// No state has a majority.
    Disputed {
        at: LogIndex,
        hashes: Vec<(StateHash, Vec<NodeId>)>,
        /// Voters that were not compared could make one.
        open: bool,
    },
}

/// Compares the checkpoints of `own`, which need not be a voter, with those of the voters. The highest index says
/// who agrees; having differed at any that is still remembered is never forgiven.
fn judge(own: NodeId, voters: &BTreeSet<NodeId>, known: &BTreeMap<NodeId, Vec<Checkpoint>>) -> Verdict {
    let mut verdict = Verdict::Unknown;
    for mine in known.get(&own).into_iter().flatten().rev() {
        let mut hashes: BTreeMap<StateHash, Vec<NodeId>> = BTreeMap::new();
        let at = |list: &[Checkpoint]| list.iter().find(|other| other.index == mine.index).map(|it| it.hash);
        for id in voters {
            if let Some(hash) = known.get(id).and_then(|list| at(list)) {
                hashes.entry(hash).or_default().push(*id);
            }
        }
        let majority = hashes.iter().find(|(_, ids)| ids.len() > voters.len() / 2);
        match majority {
            Some((hash, ids)) if *hash != mine.hash => {
                let (own, theirs) = (mine.hash, *hash);
                return Verdict::Differs { at: mine.index, own, theirs, voters: ids.clone() };
            }
            Some(_) if verdict == Verdict::Unknown => verdict = Verdict::Agrees { at: mine.index },
            None if verdict == Verdict::Unknown => {
                // A learner that differs from the only voter that was asked is a dispute too.
                let compared: usize = hashes.values().map(Vec::len).sum();
                if hashes.keys().any(|hash| *hash != mine.hash) || hashes.len() > 1 {
                    let most = hashes.values().map(Vec::len).max().unwrap_or(0);
                    let open = most + (voters.len() - compared) > voters.len() / 2;
                    verdict =
                        Verdict::Disputed { at: mine.index, hashes: hashes.into_iter().collect(), open };
                }
            }
            _ => {}
        }
    }
    verdict
}

/// Compares until this node stops.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>, seat: Arc<dyn Seat>) {
    let mut disputes = 0;
    loop {
        tokio::select! {
            () = sleep(COMPARE_PERIOD) => {}
            () = shared.until_stopped() => return,
        }
        let Some(place) = shared.membership() else { continue };
        let voters: BTreeSet<NodeId> =
            consensus.metrics().membership_config.membership().voter_ids().map(NodeId).collect();
        let mut known = tokio::select! {
            known = ask_voters(&shared, place, &voters) => known,
            () = shared.until_stopped() => return,
        };
        known.insert(place.node_id, shared.replica.checkpoints());
        match judge(place.node_id, &voters, &known) {
            Verdict::Unknown => {}
            Verdict::Agrees { at } => {
                disputes = 0;
                release(&shared, at);
            }
            Verdict::Differs { at, own, theirs, voters } => {
                let voters = names(&voters);
                let reason = format!(
                    "quarantined: after entry {at} the state of this node has the hash {own}, that of a \
                     majority (nodes {voters}) {theirs}; its data directory is kept for analysis and must be \
                     replaced by an empty one"
                );
                quarantine(&shared, &*seat, reason).await;
                return;
            }
            Verdict::Disputed { at, hashes, open } => {
                disputes += 1;
                if !open || disputes >= DISPUTE_ROUNDS {
                    hold(&shared, at, &hashes);
                }
            }
        }
    }
}

/// What the other voters in reach remember.
async fn ask_voters(
    shared: &Shared,
    place: Membership,
    voters: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, Vec<Checkpoint>> {
    let others = voters.iter().copied().filter(|id| *id != place.node_id);
    let asked = others.filter_map(|id| {
        let node = shared.replica.read(|state| state.node(id))?;
        let addr = shared.addr_of(&node.name, &node.info.peer_addr);
        let peer = StaticPeer { name: node.name, addr };
        Some(async move {
            match ask(shared, &peer, ControlRequest::Checkpoints, ASK_TIMEOUT).await {
                // The node of this name may have another disk, and so another id, by now.
                Ok((from, ControlResponse::Checkpoints { version, checkpoints }))
                    if from.id == Some(id)
                        && from.cluster_id == Some(place.cluster_id)
                        && version == State::HASH_VERSION =>
                {
                    Some((id, checkpoints))
                }
                _ => None,
            }
        })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What this node answers to a peer that compares itself.
pub(crate) fn answer_peer(shared: &Shared, from: &PeerIdentity) -> ControlResponse {
    match shared.membership() {
        Some(place) if from.cluster_id == Some(place.cluster_id) => ControlResponse::Checkpoints {
            version: State::HASH_VERSION,
            checkpoints: shared.replica.checkpoints(),
        },
        _ => ControlResponse::Refused { reason: "not a member of the same cluster".to_owned(), retry: false },
    }
}

fn names(ids: &[NodeId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

async fn quarantine(shared: &Shared, seat: &dyn Seat, reason: String) {
    tracing::error!(%reason, "the state of this node is wrong");
    if let Err(error) = seat.quarantine(reason.clone()).await {
        tracing::error!(%error, "the quarantine is not written down: a restart would end it");
    }
    shared.integrity.send_replace(Integrity::Quarantined { reason: reason.clone() });
    shared.stop(reason);
}

fn hold(shared: &Shared, at: LogIndex, hashes: &[(StateHash, Vec<NodeId>)]) {
    let sides: Vec<_> = hashes.iter().map(|(hash, ids)| format!("{hash} on {}", names(ids))).collect();
    let reason =
        format!("writes are held: the states of the voters differ after entry {at}: {}", sides.join("; "));
    shared.integrity.send_if_modified(|integrity| {
        if matches!(integrity, Integrity::Held { .. }) {
            return false;
        }
        tracing::error!(%reason, "no majority of the voters has the same state");
        *integrity = Integrity::Held { reason };
        true
    });
}

fn release(shared: &Shared, at: LogIndex) {
    let held = matches!(*shared.integrity.borrow(), Integrity::Held { .. });
    if held {
        tracing::warn!(%at, "a majority of the voters has this node's state: writes go on");
    }
    shared.integrity.send_replace(Integrity::Agrees { at });
}

/// Why this node takes no write like `command` now.
pub(crate) fn refuses(shared: &Shared, command: &Command) -> Option<String> {
    let integrity = shared.integrity.borrow();
    let Integrity::Held { reason } = &*integrity else { return None };
    let way_out = matches!(
        command,
        Command::FormCluster(_)
            | Command::JoinNode(_)
            | Command::UpdateNode(_)
            | Command::ChangeNode(_)
            | Command::RemoveNode(_)
            | Command::AnnounceLeader(_)
    );
    (!way_out).then(|| reason.clone())
}

/// Why this data directory must not be used, if a quarantine was written down in it.
pub(crate) fn load<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<String>> {
    if !disk.read_dir(dir)?.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let file = disk.open(&dir.join(FILE))?;
    let len = file.len()?.min(REASON_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

/// Writes a quarantine down: durable when it returns.
pub(crate) fn save<D: Disk>(disk: &D, dir: &Path, reason: &str) -> io::Result<()> {
    let beside = dir.join(FILE_NEW);
    let file = disk.create(&beside, true)?;
    file.write_at(format!("{reason}\n").as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename(&beside, &dir.join(FILE))?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use ovncp_storage::disk::RealDisk;

    use super::*;

    fn list(points: &[(u64, u8)]) -> Vec<Checkpoint> {
        let point =
            |(index, hash): &(u64, u8)| Checkpoint { index: LogIndex(*index), hash: StateHash([*hash; 16]) };
        points.iter().map(point).collect()
    }

    /// The verdict of node `own` among voters 1.. with these checkpoints; a voter without any did not answer.
    fn judged(own: u64, voters: u64, lists: &[(u64, &[(u64, u8)])]) -> Verdict {
        let voters = (1..=voters).map(NodeId).collect();
        let known = lists.iter().map(|(id, points)| (NodeId(*id), list(points))).collect();
        judge(NodeId(own), &voters, &known)
    }

    fn differs(verdict: &Verdict) -> Option<(u64, Vec<u64>)> {
        match verdict {
            Verdict::Differs { at, voters, .. } => Some((at.0, voters.iter().map(|id| id.0).collect())),
            _ => None,
        }
    }

    #[test]
    fn who_differs_from_a_majority_is_wrong_and_the_majority_is_not() {
        let lists: &[(u64, &[(u64, u8)])] =
            &[(1, &[(256, 1), (512, 7)]), (2, &[(256, 1), (512, 7)]), (3, &[(256, 1), (512, 8)])];
        assert_eq!(differs(&judged(3, 3, lists)), Some((512, vec![1, 2])));
        assert_eq!(judged(1, 3, lists), Verdict::Agrees { at: LogIndex(512) });
        assert_eq!(judged(2, 3, lists), Verdict::Agrees { at: LogIndex(512) });
    }

    #[test]
    fn states_at_different_indexes_are_not_compared() {
        assert_eq!(judged(1, 3, &[(1, &[(256, 1)]), (2, &[(257, 2)]), (3, &[(512, 3)])]), Verdict::Unknown);
        assert_eq!(judged(1, 3, &[(1, &[(256, 1)])]), Verdict::Unknown, "nobody else is in reach");
        // One of three is not a majority, however equal.
        assert_eq!(judged(1, 5, &[(1, &[(9, 1)]), (2, &[(9, 1)])]), Verdict::Unknown);
    }

    #[test]
    fn having_differed_once_is_not_forgiven_by_agreeing_later() {
        let lists: &[(u64, &[(u64, u8)])] =
            &[(1, &[(256, 1), (512, 2)]), (2, &[(256, 1), (512, 2)]), (3, &[(256, 9), (512, 2)])];
        assert_eq!(differs(&judged(3, 3, lists)), Some((256, vec![1, 2])));
        assert_eq!(judged(1, 3, lists), Verdict::Agrees { at: LogIndex(512) });
    }

    #[test]
    fn two_voters_that_differ_both_dispute_and_nobody_can_decide_it() {
        let lists: &[(u64, &[(u64, u8)])] = &[(1, &[(9, 1)]), (2, &[(9, 2)])];
        for own in [1, 2] {
            let verdict = judged(own, 2, lists);
            assert!(matches!(verdict, Verdict::Disputed { at: LogIndex(9), open: false, .. }), "{verdict:?}");
        }
        // A third voter that is silent now could.
        let verdict = judged(1, 3, lists);
        assert!(matches!(verdict, Verdict::Disputed { open: true, .. }), "{verdict:?}");
        // Three opinions are final.
        let verdict = judged(1, 3, &[(1, &[(9, 1)]), (2, &[(9, 2)]), (3, &[(9, 3)])]);
        assert!(matches!(verdict, Verdict::Disputed { open: false, .. }), "{verdict:?}");
    }

    #[test]
    fn a_learner_is_judged_by_the_voters_and_does_not_count_itself() {
        let voters: [(u64, &[(u64, u8)]); 3] = [(1, &[(9, 1)]), (2, &[(9, 1)]), (3, &[(9, 1)])];
        let with =
            |hash: &'static [(u64, u8)]| judged(1_005, 3, &[voters[0], voters[1], voters[2], (1_005, hash)]);
        assert_eq!(with(&[(9, 1)]), Verdict::Agrees { at: LogIndex(9) });
        assert_eq!(differs(&with(&[(9, 4)])), Some((9, vec![1, 2, 3])));
        // Its opinion does not make a majority of a single voter's.
        let verdict = judged(1_005, 2, &[(1, &[(9, 1)]), (2, &[(9, 2)]), (1_005, &[(9, 1)])]);
        assert!(matches!(verdict, Verdict::Disputed { open: false, .. }), "{verdict:?}");
    }

    #[test]
    fn a_quarantine_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(&RealDisk, dir.path()).unwrap(), None);
        save(&RealDisk, dir.path(), "quarantined: because").unwrap();
        assert_eq!(load(&RealDisk, dir.path()).unwrap().as_deref(), Some("quarantined: because"));
    }
}
