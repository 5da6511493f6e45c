//! Renewals of leases: many holders, few entries.
//!
//! The leader collects renewals, its own and those of its peers, for at most [`COLLECT_TIME`] or until
//! [`RENEWALS_PER_ENTRY_MAX`] are there, and proposes them as one entry; each is answered after that entry is
//! applied. A follower hands its renewals on at once: while one bundle is under way the next one gathers, so
//! following adds no wait of its own. The ticker asks for what is queued to be proposed before a Tick, so a
//! renewal that arrived in time is never overtaken by the expiry of its own lease.
//!
//! To renew twice is to renew once, a little later, so a bundle that was lost on its way to the leader is sent
//! again, whether it arrived or not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use ovncp_state::command::RenewLock;
use ovncp_state::limits::RENEWALS_PER_ENTRY_MAX;
use ovncp_state::reply::Renewed;
use ovncp_state::{Command, LogIndex, NodeId, Refusal, Reply, Request};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::callers::unexpected;
use crate::error::ProposeError;
use crate::network::CallError;
use crate::network::message::RenewOutcome;
use crate::proposals::{self, Started};
use crate::reads::wait_applied;
use crate::shared::{Route, Shared};

/// Longest wait of a renewal for company.
pub(crate) const COLLECT_TIME: Duration = Duration::from_millis(50);
/// Renewals waiting on one node at once.
const QUEUE_MAX: usize = 65_536;
/// Bundles under way at once.
const BUNDLES_MAX: usize = 8;
/// A bundle that takes longer is not followed any more.
const BUNDLE_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause before renewals that reached no leader are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// One renewal's answer, with the index at which it can be seen.
type Answer = Result<(LogIndex, Result<Renewed, Refusal>), ProposeError>;

/// A renewal in the queue of this node.
pub(crate) struct QueuedRenewal {
    renewal: RenewLock,
    answer: oneshot::Sender<Answer>,
    arrived: Instant,
    give_up: Instant,
    /// Came from a peer: only for this node as leader, never to be handed on.
    from_peer: bool,
    /// An earlier attempt was lost on its way: it may have been applied.
    attempted: bool,
}

/// The queue in front of [`run`].
pub(crate) fn queue() -> (mpsc::Sender<QueuedRenewal>, mpsc::Receiver<QueuedRenewal>) {
    mpsc::channel(QUEUE_MAX)
}

/// Answered once everything that had arrived before is in the queue of proposals.
pub(crate) type Flush = oneshot::Sender<()>;

/// The queue of [`flush`].
pub(crate) fn flushes() -> (mpsc::Sender<Flush>, mpsc::Receiver<Flush>) {
    mpsc::channel(1)
}

/// Puts every renewal that has arrived into the queue of proposals: what is proposed after this returned comes
/// behind them.
pub(crate) async fn flush(shared: &Shared) {
    let (done, flushed) = oneshot::channel();
    if shared.flush_renewals.send(done).await.is_ok() {
        let _ = flushed.await;
    }
}

/// Renews for a caller of this node; answered after this node applied it.
pub(crate) async fn renew(
    shared: &Shared,
    renewal: RenewLock,
    timeout: Duration,
) -> Result<Result<Renewed, Refusal>, ProposeError> {
    if let Some(reason) = shared.stopped() {
        return Err(ProposeError::Stopped { reason });
    }
    let deadline = Instant::now() + timeout;
    let give_up = deadline.min(Instant::now() + shared.config.timing.no_leader_wait);
    let answered = enqueue(shared, renewal, give_up, false)?;
    match timeout_at(deadline, answered).await {
        Ok(Ok(Ok((index, result)))) => {
            wait_applied(shared, index, deadline).await.map_err(|_| ProposeError::Unknown)?;
            Ok(result)
        }
        Ok(Ok(Err(error))) => Err(error),
        // The collector is gone, or time is up: the renewal may be on its way.
        Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
    }
}

fn enqueue(
    shared: &Shared,
    renewal: RenewLock,
    give_up: Instant,
    from_peer: bool,
) -> Result<oneshot::Receiver<Answer>, ProposeError> {
    let (answer, answered) = oneshot::channel();
    let queued =
        QueuedRenewal { renewal, answer, arrived: Instant::now(), give_up, from_peer, attempted: false };
    shared.renewals.try_send(queued).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => ProposeError::Busy { queue: "renewals" },
        mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped { reason: "stopping".to_owned() },
    })?;
    Ok(answered)
}

/// What this node answers to renewals of a peer.
pub(crate) async fn answer_peer(shared: &Shared, items: Vec<RenewLock>) -> Vec<RenewOutcome> {
    let count = items.len();
    if !matches!(shared.route(), Route::Here { .. }) {
        return vec![RenewOutcome::NotLeader { hint: shared.last_known_leader() }; count];
    }
    let give_up = Instant::now() + shared.config.timing.no_leader_wait;
    let queued = items.into_iter().map(|renewal| enqueue(shared, renewal, give_up, true));
    let answers = queued.map(|queued| async move {
        match queued {
            Err(_) => RenewOutcome::Busy,
            Ok(answered) => match answered.await {
                Ok(Ok((index, result))) => RenewOutcome::Applied { index, result },
                Ok(Err(ProposeError::NoLeader { last_known })) => {
                    RenewOutcome::NotLeader { hint: last_known }
                }
                Ok(Err(ProposeError::Busy { .. })) => RenewOutcome::Busy,
                Ok(Err(_)) | Err(_) => RenewOutcome::Unknown,
            },
        }
    });
    // Enqueued by the iterator in order, before the first answer is awaited.
    join_all(answers).await
}

/// Collects and proposes until the group stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    queue: mpsc::Receiver<QueuedRenewal>,
    flushes: mpsc::Receiver<Flush>,
) {
    let mut collector = Collector {
        shared,
        queue,
        waiting: VecDeque::new(),
        bundles: FuturesUnordered::new(),
        flushes,
        paused_until: None,
    };
    while collector.step().await {}
}

/// Renewals that come back to be tried again: they surely reached no log, or say that they may have.
type Returned = Vec<QueuedRenewal>;

struct Collector {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<QueuedRenewal>,
    waiting: VecDeque<QueuedRenewal>,
    bundles: FuturesUnordered<BoxFuture<'static, Returned>>,
    flushes: mpsc::Receiver<Flush>,
    paused_until: Option<Instant>,
}

impl Collector {
    async fn step(&mut self) -> bool {
        self.send_due();
        let room = QUEUE_MAX.saturating_sub(self.waiting.len()).min(RENEWALS_PER_ENTRY_MAX);
        let mut arrived = Vec::new();
        let wake = self.wake_at();
        tokio::select! {
            biased;
            Some(returned) = self.bundles.next() => self.take_back(returned),
            count = self.queue.recv_many(&mut arrived, room), if room > 0 => {
                if count == 0 {
                    return false;
                }
                self.waiting.extend(arrived);
            }
            Some(flushed) = self.flushes.recv() => {
                self.flush();
                let _ = flushed.send(());
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                self.paused_until = self.paused_until.filter(|end| *end > Instant::now());
            }
            () = self.shared.until_stopped() => return false,
        }
        true
    }

    fn wake_at(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        let collected = oldest.arrived + COLLECT_TIME;
        // While bundles are under way their return wakes us; while paused, the end of the pause does.
        Some(match self.paused_until {
            Some(end) => end,
            None => collected.max(Instant::now() + Duration::from_millis(1)),
        })
    }

    fn send_due(&mut self) {
        while self.paused_until.is_none() && self.bundles.len() < BUNDLES_MAX && self.is_due() {
            self.send_bundle();
        }
    }

    fn flush(&mut self) {
        while let Ok(renewal) = self.queue.try_recv() {
            self.waiting.push_back(renewal);
        }
        while !self.waiting.is_empty() && matches!(self.shared.route(), Route::Here { .. }) {
            self.send_bundle();
        }
    }

    fn send_bundle(&mut self) {
        let count = self.waiting.len().min(RENEWALS_PER_ENTRY_MAX);
        let bundle: Vec<_> = self.waiting.drain(..count).collect();
        let shared = Arc::clone(&self.shared);
        match self.shared.route() {
            Route::Here { .. } => {
                // Started here and not in the future, so that its place in the queue is taken now.
                let renewals = bundle.iter().map(|one| one.renewal.clone()).collect();
                let request = Request::from(Command::RenewLocks(renewals));
                let started = proposals::start(&self.shared, &request, BUNDLE_TIME_MAX);
                self.bundles.push(Box::pin(async move { answer_bundle(&shared, bundle, started).await }));
            }
            Route::Remote { leader, .. } => {
                self.bundles.push(Box::pin(async move { forward_bundle(&shared, leader, bundle).await }));
            }
            Route::Nobody { .. } => self.take_back(bundle),
        }
    }

    fn is_due(&self) -> bool {
        let Some(oldest) = self.waiting.front() else { return false };
        match self.shared.route() {
            // The leader does the collecting.
            Route::Remote { .. } => true,
            Route::Here { .. } | Route::Nobody { .. } => {
                self.waiting.len() >= RENEWALS_PER_ENTRY_MAX || oldest.arrived.elapsed() >= COLLECT_TIME
            }
        }
    }

    fn take_back(&mut self, returned: Returned) {
        if returned.is_empty() {
            return;
        }
        let now = Instant::now();
        let last_known = self.shared.last_known_leader();
        for renewal in returned {
            let give_up = renewal.give_up <= now
                || (renewal.from_peer && !matches!(self.shared.route(), Route::Here { .. }));
            if give_up {
                // `NoLeader` would say that nothing happened.
                let error = match renewal.attempted {
                    true => ProposeError::Unknown,
                    false => ProposeError::NoLeader { last_known },
                };
                let _ = renewal.answer.send(Err(error));
            } else {
                self.waiting.push_back(renewal);
            }
        }
        self.paused_until = Some(now + RETRY_PAUSE);
    }
}

/// Answers the renewals of one entry; what comes back surely reached no log.
async fn answer_bundle(
    shared: &Shared,
    bundle: Vec<QueuedRenewal>,
    started: Result<Started, ProposeError>,
) -> Returned {
    let outcome = match started {
        Ok(started) => started.outcome(shared, Instant::now() + BUNDLE_TIME_MAX).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(committed) => match committed.reply {
            Reply::Renewed(results) if results.len() == bundle.len() => {
                for (one, result) in bundle.into_iter().zip(results) {
                    let _ = one.answer.send(Ok((committed.index, result)));
                }
            }
            Reply::Refused(refusal) => {
                for one in bundle {
                    let _ = one.answer.send(Ok((committed.index, Err(refusal.clone()))));
                }
            }
            other => answer_all(bundle, &unexpected(&other)),
        },
        Err(ProposeError::NoLeader { .. }) => return bundle,
        Err(error) => answer_all(bundle, &error),
    }
    Vec::new()
}

/// Hands one bundle to the leader's collector; what comes back is tried again. A renewal of a peer is
/// never handed on: the peer finds the new leader itself.
async fn forward_bundle(shared: &Shared, leader: NodeId, bundle: Vec<QueuedRenewal>) -> Returned {
    let (mut returned, bundle): (Vec<_>, Vec<_>) = bundle.into_iter().partition(|one| one.from_peer);
    if bundle.is_empty() {
        return returned;
    }
    let renewals = bundle.iter().map(|one| one.renewal.clone()).collect();
    let sent = timeout(BUNDLE_TIME_MAX, shared.peers.renew(leader, renewals)).await;
    match sent.unwrap_or(Err(CallError::Lost)) {
        Ok(outcomes) if outcomes.len() == bundle.len() => {
            for (one, outcome) in bundle.into_iter().zip(outcomes) {
                let answer = match outcome {
                    RenewOutcome::Applied { index, result } => Ok((index, result)),
                    RenewOutcome::NotLeader { .. } => {
                        returned.push(one);
                        continue;
                    }
                    RenewOutcome::Busy => Err(ProposeError::Busy { queue: "leader" }),
                    RenewOutcome::Unknown => Err(ProposeError::Unknown),
                };
                let _ = one.answer.send(answer);
            }
        }
        Ok(_) => answer_all(bundle, &ProposeError::Unknown),
        // To renew twice is to renew once, a little later: also what may have been applied is tried again.
        Err(CallError::Lost) => {
            returned.extend(bundle.into_iter().map(|one| QueuedRenewal { attempted: true, ..one }));
        }
        Err(CallError::NotSent(_) | CallError::Busy | CallError::Declined(_)) => returned.extend(bundle),
    }
    returned
}

fn answer_all(bundle: Vec<QueuedRenewal>, error: &ProposeError) {
    for one in bundle {
        let _ = one.answer.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use ovncp_state::SecretHash;

    use super::*;
    use crate::{Group, GroupConfig};

    #[tokio::test]
    async fn a_renewal_that_may_have_been_applied_is_never_refused_as_if_nothing_had_happened() {
        let dir = tempfile::tempdir().unwrap();
        let config = GroupConfig::new("n1", "127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
        let group = Group::start(config).await.unwrap();
        let mut collector = Collector {
            shared: Arc::clone(group.shared()),
            queue: queue().1,
            waiting: VecDeque::new(),
            bundles: FuturesUnordered::new(),
            flushes: flushes().1,
            paused_until: None,
        };
        let late = |attempted| {
            let (answer, answered) = oneshot::channel();
            let renewal = RenewLock { key: "k".to_owned(), secret: SecretHash([0; 32]), ttl: None };
            let now = Instant::now();
            (
                QueuedRenewal { renewal, answer, arrived: now, give_up: now, from_peer: false, attempted },
                answered,
            )
        };
        let ((lost, unknown), (refused, certain)) = (late(true), late(false));
        collector.take_back(vec![lost, refused]);
        assert_eq!(unknown.await.unwrap(), Err(ProposeError::Unknown));
        assert!(matches!(certain.await.unwrap(), Err(ProposeError::NoLeader { .. })));
        group.shutdown().await;
    }
}
