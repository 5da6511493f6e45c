//! Who may talk to whom. Both ends judge: the listener the dialer's hello, the dialer the listener's welcome.
//!
//! What is known of a member comes from the replicated state ([`Directory`]) and from the connections seen by
//! this process. Of two processes with one id, copies of a data directory, the one that is already connected
//! wins: before a newcomer with another start replaces it, it is asked for a sign of life.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ovncp_state::{Incarnation, NodeId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::handshake::Hello;
use super::identity::{Directory, Lane, PeerIdentity, Refusal, Target};
use super::limits::{CONNECTIONS_PER_LANE_MAX, CONTROL_CONNECTIONS_MAX, MEMBERS_SEEN_MAX};

/// How long the connections of an earlier process may take to show that it lives: generous, for a busy machine,
/// but less than the time for a hand-shake.
const PROBE_TIMEOUT: Duration = Duration::from_millis(600);

/// Asks a connection for a sign of life; answered when one came.
pub(super) type Probe = oneshot::Sender<()>;

/// What the listener thinks of a hello, apart from other processes of the same id.
pub(super) fn judge_hello(
    own: &PeerIdentity,
    directory: &dyn Directory,
    hello: &Hello,
) -> Result<(), Refusal> {
    let Hello { lane, from, target } = hello;
    if from.process == own.process && from.incarnation == own.incarnation {
        return Err(Refusal::SelfDial);
    }
    judge_target(own, target)?;
    if from.name == own.name {
        return Err(Refusal::SameName { name: own.name.clone() });
    }
    judge_cluster(own, from)?;
    judge_member(directory, from)?;
    if *lane == Lane::Control {
        return Ok(());
    }
    let (Some(_), Some(from_id)) = (own.id, from.id) else { return Err(Refusal::NotMember) };
    // One that has not applied the first entry yet presents no cluster. It must be a member that we know.
    let unproven = own.cluster_id.is_some() && from.cluster_id.is_none();
    if unproven && directory.member(from_id).is_none() {
        return Err(Refusal::NotMember);
    }
    Ok(())
}

/// What the dialer thinks of who answered.
pub(super) fn judge_welcome(
    own: &PeerIdentity,
    directory: &dyn Directory,
    peer: &PeerIdentity,
    target: &Target,
) -> Result<(), Refusal> {
    if peer.process == own.process && peer.incarnation == own.incarnation {
        return Err(Refusal::SelfDial);
    }
    judge_target(peer, target)?;
    judge_cluster(own, peer)?;
    judge_member(directory, peer)
}

fn judge_target(answering: &PeerIdentity, target: &Target) -> Result<(), Refusal> {
    let other_name = target.name.as_ref().is_some_and(|name| *name != answering.name);
    let other_id = matches!((target.id, answering.id), (Some(asked), Some(id)) if asked != id);
    if other_name || other_id {
        return Err(Refusal::WrongTarget { name: answering.name.clone(), id: answering.id });
    }
    match (target.id, target.incarnation) {
        (Some(id), Some(known)) if known != answering.incarnation => {
            Err(Refusal::OtherIncarnation { id, known, presented: answering.incarnation })
        }
        _ => Ok(()),
    }
}

fn judge_cluster(own: &PeerIdentity, other: &PeerIdentity) -> Result<(), Refusal> {
    match (own.cluster_id, other.cluster_id) {
        (Some(theirs), Some(asked)) if theirs != asked => Err(Refusal::WrongCluster { theirs, asked }),
        _ => Ok(()),
    }
}

fn judge_member(directory: &dyn Directory, presented: &PeerIdentity) -> Result<(), Refusal> {
    let Some(id) = presented.id else { return Ok(()) };
    let Some(known) = directory.member(id) else { return Ok(()) };
    if known.incarnation != presented.incarnation {
        let presented = presented.incarnation;
        return Err(Refusal::OtherIncarnation { id, known: known.incarnation, presented });
    }
    if known.boot > presented.boot {
        return Err(Refusal::StaleBoot { id, known: known.boot, presented: presented.boot });
    }
    Ok(())
}

/// One start of one data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    incarnation: Incarnation,
    boot: u64,
    process: u64,
}

impl From<&PeerIdentity> for Start {
    fn from(peer: &PeerIdentity) -> Self {
        Self { incarnation: peer.incarnation, boot: peer.boot, process: peer.process }
    }
}

impl Start {
    /// Whether this start can be followed by `newer` (or is it).
    fn allows(self, id: NodeId, newer: Start) -> Result<(), Refusal> {
        if newer.incarnation != self.incarnation {
            let (known, presented) = (self.incarnation, newer.incarnation);
            return Err(Refusal::OtherIncarnation { id, known, presented });
        }
        if newer.boot < self.boot {
            return Err(Refusal::StaleBoot { id, known: self.boot, presented: newer.boot });
        }
        Ok(())
    }
}

struct Registered {
    lane: Lane,
    close: Arc<Notify>,
    probe: mpsc::Sender<Probe>,
}

struct Seen {
    start: Start,
    /// By serial number, so that the first is the oldest.
    connections: BTreeMap<u64, Registered>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<NodeId, Seen>,
    serial: u64,
    control: usize,
}

/// The starts and inbound connections of every member seen by this process.
#[derive(Clone, Default)]
pub(super) struct Admission {
    inner: Arc<Mutex<Inner>>,
}

/// An admitted inbound connection; leaves the books when dropped.
pub(super) struct Admitted {
    admission: Admission,
    id: Option<NodeId>,
    serial: u64,
    /// Resolves when the connection must end.
    pub(super) close: Arc<Notify>,
    /// Requests for a sign of life.
    pub(super) probes: mpsc::Receiver<Probe>,
}

impl Admission {
    /// The dialer's side: remembers the start that answered.
    pub(super) fn note(&self, peer: &PeerIdentity) -> Result<(), Refusal> {
        let Some(id) = peer.id else { return Ok(()) };
        let start = Start::from(peer);
        let mut inner = self.lock();
        match inner.members.get(&id) {
            Some(seen) => {
                seen.start.allows(id, start)?;
                // Connections of an earlier start keep its entry until they end or a newcomer is judged.
                if seen.connections.is_empty() {
                    inner.members.insert(id, Seen { start, connections: BTreeMap::new() });
                }
            }
            None if inner.members.len() < MEMBERS_SEEN_MAX => {
                inner.members.insert(id, Seen { start, connections: BTreeMap::new() });
            }
            None => {}
        }
        Ok(())
    }

    /// The listener's side, after [`judge_hello`].
    pub(super) async fn admit(&self, from: &PeerIdentity, lane: Lane) -> Result<Admitted, Refusal> {
        let Some(id) = from.id else { return self.admit_stranger() };
        let start = Start::from(from);
        loop {
            let (known, probes) = {
                let mut inner = self.lock();
                match inner.members.get(&id) {
                    Some(seen) if seen.start != start => {
                        seen.start.allows(id, start)?;
                        // The other lanes are not listened to all the time.
                        let listening = seen
                            .connections
                            .values()
                            .filter(|connection| matches!(connection.lane, Lane::Heartbeat | Lane::Forward));
                        let probes: Vec<_> = listening.map(|connection| connection.probe.clone()).collect();
                        (seen.start, probes)
                    }
                    _ => return self.register(&mut inner, id, start, lane),
                }
            };
            if shows_life(probes).await {
                return Err(Refusal::SecondProcess { id });
            }
            let mut inner = self.lock();
            // Another newcomer may have been quicker.
            if inner.members.get(&id).is_some_and(|seen| seen.start == known) {
                let dead = inner.members.remove(&id);
                for connection in dead.iter().flat_map(|seen| seen.connections.values()) {
                    connection.close.notify_one();
                }
            }
        }
    }

    fn register(&self, inner: &mut Inner, id: NodeId, start: Start, lane: Lane) -> Result<Admitted, Refusal> {
        if !inner.members.contains_key(&id) && inner.members.len() >= MEMBERS_SEEN_MAX {
            return Err(Refusal::TooManyConnections { limit: "members_seen_max".into() });
        }
        inner.serial += 1;
        let serial = inner.serial;
        let seen = inner.members.entry(id).or_insert(Seen { start, connections: BTreeMap::new() });
        let same_lane: Vec<u64> = seen
            .connections
            .iter()
            .filter(|(_, connection)| connection.lane == lane)
            .map(|(serial, _)| *serial)
            .collect();
        if same_lane.len() >= CONNECTIONS_PER_LANE_MAX
            && let Some(oldest) = same_lane.first().and_then(|serial| seen.connections.remove(serial))
        {
            oldest.close.notify_one();
        }
        let (probe, probes) = mpsc::channel(1);
        let close = Arc::new(Notify::new());
        seen.connections.insert(serial, Registered { lane, close: Arc::clone(&close), probe });
        Ok(Admitted { admission: self.clone(), id: Some(id), serial, close, probes })
    }

    /// One that has no id yet: on the control lane only.
    fn admit_stranger(&self) -> Result<Admitted, Refusal> {
        let mut inner = self.lock();
        if inner.control >= CONTROL_CONNECTIONS_MAX {
            return Err(Refusal::TooManyConnections { limit: "control_connections_max".into() });
        }
        inner.control += 1;
        let close = Arc::new(Notify::new());
        let (_, probes) = mpsc::channel(1);
        Ok(Admitted { admission: self.clone(), id: None, serial: 0, close, probes })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether any of the connections gets a sign of life from its other end.
async fn shows_life(probes: Vec<mpsc::Sender<Probe>>) -> bool {
    // Several newcomers may ask the same connection at once: each waits for its turn and its answer.
    let ask = |probe: mpsc::Sender<Probe>| async move {
        let (sender, answer) = oneshot::channel();
        probe.send(sender).await.is_ok() && answer.await.is_ok()
    };
    let mut answers: FuturesUnordered<_> = probes.into_iter().map(ask).collect();
    let any = async {
        while let Some(alive) = answers.next().await {
            if alive {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(PROBE_TIMEOUT, any).await.unwrap_or(false)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inner = self.admission.lock();
        match self.id {
            // The start stays known: a lower one is refused also while nothing is connected.
            Some(id) => {
                if let Some(seen) = inner.members.get_mut(&id) {
                    seen.connections.remove(&self.serial);
                }
            }
            None => inner.control -= 1,
        }
    }
}
