//! From a caller to a leader's log: batched, forwarded, retried only where that is certain to be safe.
//!
//! One task drains the queue of this node. Whatever has gathered goes as one batch: into the local log when
//! this node leads, over the forward lane when another does. While a batch is under way the next one gathers,
//! so batches grow with the load and an idle node adds no delay.
//!
//! A proposal that a leader surely did not append (see [`consensus`](crate::consensus)), or that a change of
//! leader surely lost (see [`callers`](crate::callers)), returns to the queue and is tried again, here or at the
//! next leader, until its caller's deadline or [`no_leader_wait`](crate::settings::Timing::no_leader_wait)
//! passes; then it is refused with `NoLeader`, and that refusal is certain. One that may be in a log is never
//! proposed again: its caller is answered by this node's own apply, or with `Unknown` at its deadline.
//!
//! A leader that lost its quorum appends nothing: openraft refuses writes once the lease of
//! `election_timeout_max` has run out without a quorum's acknowledgement.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ovncp_state::{Request, Version};
use ovncp_storage::codec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::callers::{CALLERS_MAX, Queued, Ticket};
use crate::consensus::Submitted;
use crate::error::ProposeError;
use crate::group::Committed;
use crate::integrity;
use crate::network::message::{ForwardItem, ForwardOutcome};
use crate::network::{CallError, PeerIdentity};
use crate::shared::{Route, Shared};

/// Proposals in one batch.
const BATCH_ITEMS_MAX: usize = 1_024;
/// Bytes of envelopes in one batch, unless a single one is larger.
const BATCH_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Bytes of one encoded request: what a log entry holds, less its own head.
pub(crate) const ENVELOPE_BYTES_MAX: usize = codec::ENTRY_BYTES_MAX - 1_024;
/// Batches under way to the present leader.
const FLIGHTS_MAX: usize = 16;
/// A batch whose fate stays unknown this long is not followed any more; its callers have given up.
const FLIGHT_TIME_MAX: Duration = Duration::from_secs(60);
/// Pause before a refused batch is tried again with the same leader.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// How often queued proposals are looked over for passed deadlines.
const EXPIRY_PERIOD: Duration = Duration::from_millis(20);

/// The queue in front of [`run`].
pub(crate) fn queue() -> (mpsc::Sender<Queued>, mpsc::Receiver<Queued>) {
    mpsc::channel(CALLERS_MAX)
}

/// Proposes for a caller of this node and waits until this node applied it.
pub(crate) async fn propose(
    shared: &Shared,
    request: &Request,
    timeout: Duration,
) -> Result<Committed, ProposeError> {
    let deadline = Instant::now() + timeout;
    start(shared, request, timeout)?.outcome(shared, deadline).await
}

/// Puts a proposal into the queue at once: those started later come behind it.
pub(crate) fn start(shared: &Shared, request: &Request, timeout: Duration) -> Result<Started, ProposeError> {
    if let Some(reason) = shared.stopped() {
        return Err(ProposeError::Stopped { reason });
    }
    if let Some(reason) = integrity::refuses(shared, &request.command) {
        return Err(ProposeError::Stopped { reason });
    }
    let needs = (shared.config.since)(&request.command);
    if let Some(refused) = not_yet(shared, needs) {
        return Err(refused);
    }
    let envelope = codec::encode_request(request);
    if envelope.len() > ENVELOPE_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes: envelope.len(), max: ENVELOPE_BYTES_MAX });
    }
    let give_up = Instant::now() + timeout.min(shared.config.timing.no_leader_wait);
    let (ticket, queued) = shared.callers.register(envelope, give_up)?;
    shared.proposals.try_send(queued).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => ProposeError::Busy { queue: "proposals" },
        mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped { reason: "stopping".to_owned() },
    })?;
    Ok(Started { ticket })
}

/// Why a command that came with version `needs` must not be proposed: a member could not apply it. What this node has
/// applied may be behind, which errs on the safe side, since the cluster's version only rises.
///
/// It rises when the oldest member is removed, too, and that one receives entries, and votes, until Raft's membership
/// is without it. Nor can the state speak for a member that it does not know.
fn not_yet(shared: &Shared, needs: Version) -> Option<ProposeError> {
    if needs <= Version::BASE {
        return None;
    }
    let members = shared.consensus.get().map(|consensus| consensus.members()).unwrap_or_default();
    shared.replica.read(|state| {
        let cluster = state.cluster_version();
        let older = if needs > cluster {
            state.oldest_member()
        } else {
            Some(members.into_iter().find(|id| !state.understands(*id, needs))?)
        };
        let oldest = older.and_then(|id| state.node(id)).map(|node| node.name);
        Some(ProposeError::NotYet { needs, cluster, oldest })
    })
}

/// A proposal in the queue or beyond.
pub(crate) struct Started {
    ticket: Ticket,
}

impl Started {
    /// Waits until this node applied it.
    pub(crate) async fn outcome(
        mut self,
        shared: &Shared,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        match timeout_at(deadline, self.ticket.answer()).await {
            Ok(answer) => answer,
            Err(_elapsed) => match self.ticket.withdraw() {
                Ok(answer) => answer,
                Err(true) => Err(ProposeError::Unknown),
                Err(false) => Err(ProposeError::NoLeader { last_known: shared.last_known_leader() }),
            },
        }
    }
}

/// Drains the queue until the group stops.
pub(crate) async fn run(shared: Arc<Shared>, queue: mpsc::Receiver<Queued>) {
    let route = shared.route.subscribe();
    let applied_term = shared.applied_term.subscribe();
    let mut pump = Pump {
        shared,
        queue,
        route,
        applied_term,
        backlog: VecDeque::new(),
        flights: FuturesUnordered::new(),
        generation: 0,
        under_way: 0,
        paused_until: None,
        expires_at: None,
    };
    while pump.step().await {}
}

/// A batch under way.
struct Landing {
    generation: u64,
    term: u64,
    batch: Vec<Queued>,
    fates: Vec<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Appended, or nobody knows.
    Wait,
    /// Surely not appended.
    Retry,
    /// Surely not appended: the leader has too much to do.
    Busy,
}

struct Pump {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Queued>,
    route: watch::Receiver<Route>,
    applied_term: watch::Receiver<u64>,
    backlog: VecDeque<Queued>,
    flights: FuturesUnordered<BoxFuture<'static, Landing>>,
    /// Counts changes of the route; batches of an earlier one do not count against the window.
    generation: u64,
    under_way: usize,
    paused_until: Option<Instant>,
    /// When the backlog is looked over next; a fixed time, so that arrivals cannot put it off for ever.
    expires_at: Option<Instant>,
}

impl Pump {
    async fn step(&mut self) -> bool {
        self.dispatch();
        let room = CALLERS_MAX.saturating_sub(self.backlog.len()).min(BATCH_ITEMS_MAX);
        let mut arrived = Vec::new();
        let wake = match self.paused_until {
            Some(end) => Some(end),
            None if self.backlog.is_empty() => {
                self.expires_at = None;
                None
            }
            None => Some(*self.expires_at.get_or_insert_with(|| Instant::now() + EXPIRY_PERIOD)),
        };
        let due = wake.filter(|end| *end <= Instant::now());
        tokio::select! {
            biased;
            // Before what arrives: a queue that is never empty must not keep callers from their refusal.
            () = std::future::ready(()), if due.is_some() => self.wake_up(),
            changed = self.route.changed() => {
                if changed.is_err() {
                    return false;
                }
                self.generation += 1;
                self.under_way = 0;
                self.paused_until = None;
            }
            Ok(()) = self.applied_term.changed() => {
                let term = *self.applied_term.borrow_and_update();
                self.backlog.extend(self.shared.callers.lost_before(term));
            }
            Some(landing) = self.flights.next() => self.land(landing),
            count = self.queue.recv_many(&mut arrived, room), if room > 0 => {
                if count == 0 {
                    return false;
                }
                self.backlog.extend(arrived);
                // With a batch under way nothing is gained by haste: whoever is ready to run proposes first, and
                // goes along. Each batch costs the leader, its log and both connections a round of work.
                if self.under_way > 0 {
                    tokio::task::yield_now().await;
                    self.gather();
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.wake_up(),
            () = self.shared.until_stopped() => return false,
        }
        true
    }

    /// Takes what has arrived meanwhile.
    fn gather(&mut self) {
        while self.backlog.len() < CALLERS_MAX {
            let Ok(queued) = self.queue.try_recv() else { return };
            self.backlog.push_back(queued);
        }
    }

    /// The pause is over, or the backlog is to be looked over.
    fn wake_up(&mut self) {
        self.paused_until = None;
        self.expires_at = None;
        self.expire();
    }

    /// Sends what may go now.
    fn dispatch(&mut self) {
        while !self.backlog.is_empty() && self.under_way < FLIGHTS_MAX && self.paused_until.is_none() {
            let route = *self.route.borrow();
            let (Route::Here { term } | Route::Remote { term, .. }) = route else { return };
            let batch = self.next_batch(term);
            if batch.is_empty() {
                continue;
            }
            self.under_way += 1;
            let (shared, generation) = (Arc::clone(&self.shared), self.generation);
            self.flights.push(Box::pin(async move {
                let fates = match timeout(FLIGHT_TIME_MAX, deliver(&shared, route, &batch)).await {
                    Ok(fates) => fates,
                    Err(_elapsed) => vec![Fate::Wait; batch.len()],
                };
                Landing { generation, term, batch, fates }
            }));
        }
    }

    fn next_batch(&mut self, term: u64) -> Vec<Queued> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.backlog.front() {
            bytes += next.envelope.len();
            if batch.len() == BATCH_ITEMS_MAX || (!batch.is_empty() && bytes > BATCH_BYTES_MAX) {
                break;
            }
            // A caller that is gone must not be proposed for.
            if let Some(next) =
                self.backlog.pop_front().filter(|next| self.shared.callers.hand_over(next.ticket, term))
            {
                batch.push(next);
            }
        }
        batch
    }

    fn land(&mut self, landing: Landing) {
        let current = landing.generation == self.generation;
        if current {
            self.under_way -= 1;
        }
        for (item, fate) in landing.batch.into_iter().zip(landing.fates) {
            match fate {
                Fate::Wait => {}
                Fate::Busy if !self.shared.callers.take_back(item.ticket, landing.term) => {}
                Fate::Busy => {
                    self.shared.callers.refuse(item.ticket, ProposeError::Busy { queue: "leader" });
                }
                Fate::Retry => {
                    if self.shared.callers.take_back(item.ticket, landing.term) {
                        self.shared.counters.retried.add(1);
                        self.backlog.push_back(item);
                    }
                    if current {
                        self.paused_until = Some(Instant::now() + RETRY_PAUSE);
                    }
                }
            }
        }
    }

    /// Refuses what was handed to nobody in time.
    fn expire(&mut self) {
        let now = Instant::now();
        let shared = &self.shared;
        self.backlog.retain(|item| {
            let keep = item.give_up > now;
            if !keep {
                let last_known = shared.last_known_leader();
                shared.callers.refuse(item.ticket, ProposeError::NoLeader { last_known });
            }
            keep
        });
    }
}

/// Takes one batch to the leader and learns its fate.
async fn deliver(shared: &Shared, route: Route, batch: &[Queued]) -> Vec<Fate> {
    match route {
        Route::Nobody { .. } => vec![Fate::Retry; batch.len()],
        Route::Here { term } => {
            let items = batch
                .iter()
                .map(|item| (shared.callers.origin(item.ticket), item.envelope.clone()))
                .collect();
            let submitted = shared.submit(term, items).await;
            submitted
                .into_iter()
                .map(|fate| match fate {
                    Submitted::Appended => Fate::Wait,
                    Submitted::Refused { .. } => Fate::Retry,
                })
                .collect()
        }
        Route::Remote { leader, term } => {
            let items: Vec<ForwardItem> = batch
                .iter()
                .map(|item| ForwardItem {
                    origin: shared.callers.origin(item.ticket),
                    term,
                    envelope: item.envelope.clone(),
                })
                .collect();
            shared.counters.forwarded.add(items.len());
            match shared.peers.forward(leader, items).await {
                Ok(outcomes) if outcomes.len() == batch.len() => outcomes
                    .into_iter()
                    .map(|outcome| match outcome {
                        ForwardOutcome::Accepted => Fate::Wait,
                        ForwardOutcome::NotLeader { .. } => Fate::Retry,
                        ForwardOutcome::Busy => Fate::Busy,
                    })
                    .collect(),
                // The connection broke, or an answer that makes no sense: any of them may be in the log.
                Ok(_) | Err(CallError::Lost) => vec![Fate::Wait; batch.len()],
                Err(CallError::NotSent(_) | CallError::Busy | CallError::Declined(_)) => {
                    vec![Fate::Retry; batch.len()]
                }
            }
        }
    }
}

/// What this node answers to proposals of a peer.
pub(crate) async fn accept_forwarded(
    shared: &Shared,
    from: &PeerIdentity,
    items: Vec<ForwardItem>,
) -> Vec<ForwardOutcome> {
    let count = items.len();
    shared.counters.taken.add(count);
    let refuse = |hint| vec![ForwardOutcome::NotLeader { hint }; count];
    let Route::Here { term } = shared.route() else {
        return refuse(shared.last_known_leader());
    };
    let stale = items.iter().any(|item| item.term != 0 && item.term != term);
    if from.id.is_none() || stale {
        return refuse(shared.node_id());
    }
    let Some(_room) = admit(shared, &items) else { return vec![ForwardOutcome::Busy; count] };
    let enters: Vec<bool> = items.iter().map(|item| may_enter(shared, &item.envelope)).collect();
    let taken: Vec<_> = items
        .into_iter()
        .zip(&enters)
        .filter(|(_, enters)| **enters)
        .map(|(item, _)| (item.origin, item.envelope))
        .collect();
    let submitted = if taken.is_empty() { Vec::new() } else { shared.submit(term, taken).await };
    let mut outcomes = submitted.into_iter().map(|fate| match fate {
        Submitted::Appended => ForwardOutcome::Accepted,
        Submitted::Refused { leader } => ForwardOutcome::NotLeader { hint: leader },
    });
    // Surely not appended, and of no use to try again: to its caller, a leader that does not take it.
    let outcome = |enters: bool| if enters { outcomes.next() } else { Some(ForwardOutcome::Busy) };
    enters.into_iter().filter_map(outcome).collect()
}

/// Room for what a peer sent, until it is given back; `None` while this leader has too much to do.
fn admit(shared: &Shared, items: &[ForwardItem]) -> Option<[OwnedSemaphorePermit; 2]> {
    let bytes: usize = items.iter().map(|item| item.envelope.len()).sum();
    let take = |room: &Arc<Semaphore>, count: usize| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Arc::clone(room).try_acquire_many_owned(count).ok()
    };
    Some([take(&shared.admission, items.len())?, take(&shared.admission_bytes, bytes)?])
}

/// Whether what a peer sent may become an entry here: understood by all, and no write while writes are held.
fn may_enter(shared: &Shared, envelope: &[u8]) -> bool {
    understood(envelope).is_some_and(|Request { command, .. }| {
        integrity::refuses(shared, &command).is_none()
            && not_yet(shared, (shared.config.since)(&command)).is_none()
    })
}

/// The request that a peer sent. One that is too large looks like a failing disk to the log of its leader; one
/// that does not decode (a peer of a newer version sent it) stops every node that applies it, for good, since it
/// is applied again after each restart.
fn understood(envelope: &[u8]) -> Option<Request> {
    if envelope.len() > ENVELOPE_BYTES_MAX {
        tracing::warn!(bytes = envelope.len(), "a forwarded proposal is too large");
        return None;
    }
    codec::decode_request(envelope)
        .inspect_err(|error| tracing::warn!(%error, "a forwarded proposal is not understood"))
        .ok()
}

#[cfg(test)]
mod tests {
    use ovncp_state::command::AnnounceLeader;
    use ovncp_state::{Command, Incarnation, NodeId};
    use ovncp_storage::types::Origin;

    use super::*;
    use crate::status::Integrity;
    use crate::{Group, GroupConfig, StaticPeer};

    #[test]
    fn what_would_stop_every_node_does_not_enter_the_log() {
        let good = codec::encode_request(&Command::Tick.into()).to_vec();
        assert!(understood(&good).is_some());
        let (mut newer, mut unknown, mut longer) = (good.clone(), good.clone(), good.clone());
        newer[0] += 1;
        // The last byte is the command's discriminant.
        *unknown.last_mut().expect("a command") = 0x7f;
        longer.push(0);
        for bad in [newer, unknown, longer, Vec::new(), vec![0; ENVELOPE_BYTES_MAX + 1]] {
            assert!(understood(&bad).is_none(), "{:?}", &bad[..bad.len().min(16)]);
        }
    }

    /// A member of a group that never forms, so nobody ever leads.
    async fn leaderless() -> (Group, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = GroupConfig::new("n1", "127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
        config.info.peer_addr = "127.0.0.1:1".to_owned();
        config.peers.push(StaticPeer { name: "n2".to_owned(), addr: "127.0.0.1:1".to_owned() });
        config.timing.no_leader_wait = Duration::from_millis(100);
        (Group::start(config).await.unwrap(), dir)
    }

    /// A node that has not compared yet does not hold, and must not write through a leader that does.
    #[tokio::test]
    async fn a_leader_that_holds_writes_appends_none_of_its_peers() {
        let dir = tempfile::tempdir().unwrap();
        let config = GroupConfig::new("n1", "127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
        let group = Group::start(config).await.unwrap();
        group.propose(Command::Tick.into(), Duration::from_secs(60)).await.unwrap();
        let shared = group.shared();
        let peer = PeerIdentity {
            cluster_id: None,
            id: Some(NodeId(2)),
            name: "n2".to_owned(),
            incarnation: Incarnation([2; 16]),
            boot: 1,
            process: 1,
        };
        let item = |command: Command, ticket| ForwardItem {
            origin: Origin { node: NodeId(2), ticket },
            term: 0,
            envelope: codec::encode_request(&command.into()),
        };
        let announce = Command::AnnounceLeader(AnnounceLeader { id: NodeId(2), term: 1 });
        let items = || vec![item(Command::Tick, 1), item(announce.clone(), 2)];
        shared.integrity.send_replace(Integrity::Held { reason: "test".to_owned() });
        let outcomes = accept_forwarded(shared, &peer, items()).await;
        assert_eq!(outcomes, [ForwardOutcome::Busy, ForwardOutcome::Accepted]);
        shared.integrity.send_replace(Integrity::Unchecked);
        let outcomes = accept_forwarded(shared, &peer, items()).await;
        assert_eq!(outcomes, [ForwardOutcome::Accepted, ForwardOutcome::Accepted]);
        group.shutdown().await;
    }

    /// A peer of a version that checks less got such an entry committed, somehow.
    #[tokio::test]
    async fn an_entry_of_a_kind_that_is_not_known_stops_the_node_and_it_does_not_start_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = || GroupConfig::new("n1", "127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
        let group = Group::start(config()).await.unwrap();
        group.propose(Command::Tick.into(), Duration::from_secs(60)).await.unwrap();
        let Route::Here { term } = group.shared().route() else { panic!("the only node leads") };
        let mut unknown = codec::encode_request(&Command::Tick.into()).to_vec();
        *unknown.last_mut().expect("a command") = 0x7f;
        let origin = Origin { node: NodeId(1), ticket: 0 };
        group.shared().submit(term, vec![(origin, unknown.into())]).await;
        let stopped = timeout(Duration::from_secs(60), group.shared().until_stopped()).await;
        stopped.expect("stopped in time");
        let reason = group.shared().stopped().unwrap();
        assert!(reason.contains("written by a newer version of ovncp"), "{reason}");
        group.shutdown().await;
        // Still there, and still not skipped: at once where the log says that it is committed, or when it is.
        match Group::start(config()).await {
            Err(error) => assert!(error.to_string().contains("newer version of ovncp"), "{error}"),
            Ok(group) => {
                let stopped = timeout(Duration::from_secs(60), group.shared().until_stopped()).await;
                stopped.expect("stopped in time");
                let reason = group.shared().stopped().unwrap();
                assert!(reason.contains("written by a newer version of ovncp"), "{reason}");
                group.shutdown().await;
            }
        }
    }

    #[tokio::test]
    async fn proposals_that_keep_coming_do_not_put_off_the_refusal_of_earlier_ones() {
        let (group, _dir) = leaderless().await;
        let shared = group.shared();
        let (request, patience) = (Request::from(Command::Tick), Duration::from_secs(10));
        let begun = Instant::now();
        let mut kept = Vec::new();
        let arriving = async {
            let mut next = tokio::time::interval(EXPIRY_PERIOD / 10);
            loop {
                next.tick().await;
                kept.push(start(shared, &request, patience).unwrap());
            }
        };
        let refused = tokio::select! {
            refused = propose(shared, &request, patience) => refused,
            never = arriving => never,
        };
        assert_eq!(refused, Err(ProposeError::NoLeader { last_known: None }));
        assert!(begun.elapsed() < patience / 2, "refused only after {:?}", begun.elapsed());
        group.shutdown().await;
    }
}
