//! Linearizable reads from any node: ask the leader for a read index, then wait until it is applied here.
//!
//! The leader confirms its office with a quorum for every read index (ReadIndex), so no clock is trusted and
//! a lease that was cleared for a fast fail-over cannot hurt. Reads that arrive while a question is not sent
//! yet share it: one question covers everybody who asked before it left.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ovncp_state::LogIndex;
use ovncp_state::mutants::{self, Mutant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::ReadError;
use crate::network::message::ReadIndexRefusal;
use crate::shared::{Route, Shared};

/// Readers waiting on one node at once.
const READERS_MAX: usize = 65_536;
/// Readers that share one question.
const ROUND_READERS_MAX: usize = 8_192;
/// Questions under way at once.
const ROUNDS_MAX: usize = 4;
/// A question that takes longer has failed.
const ROUND_TIME_MAX: Duration = Duration::from_secs(1);
/// Pause before a failed question is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A reader in the queue.
pub(crate) struct ReadRequest {
    answer: oneshot::Sender<LogIndex>,
    give_up: Instant,
}

/// The queue in front of [`run`].
pub(crate) fn queue() -> (mpsc::Sender<ReadRequest>, mpsc::Receiver<ReadRequest>) {
    mpsc::channel(READERS_MAX)
}

/// Resolves once a local read is linearizable.
pub(crate) async fn barrier(shared: &Shared, timeout: Duration) -> Result<LogIndex, ReadError> {
    if let Some(reason) = shared.stopped() {
        return Err(ReadError::Stopped { reason });
    }
    if mutants::is(Mutant::FollowerReadsLocally) && matches!(shared.route(), Route::Remote { .. }) {
        return Ok(shared.replica.applied());
    }
    let deadline = Instant::now() + timeout;
    let give_up = deadline.min(Instant::now() + shared.config.timing.no_leader_wait);
    let (answer, asked) = oneshot::channel();
    shared.reads.try_send(ReadRequest { answer, give_up }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => ReadError::Busy { queue: "reads" },
        mpsc::error::TrySendError::Closed(_) => ReadError::Stopped { reason: "stopping".to_owned() },
    })?;
    match timeout_at(deadline, asked).await {
        Ok(Ok(index)) => {
            wait_applied(shared, index, deadline).await?;
            Ok(index)
        }
        _ => match shared.stopped() {
            Some(reason) => Err(ReadError::Stopped { reason }),
            None => Err(ReadError::NoLeader { last_known: shared.last_known_leader() }),
        },
    }
}

/// Resolves once `index` is applied here.
pub(crate) async fn wait_applied(
    shared: &Shared,
    index: LogIndex,
    deadline: Instant,
) -> Result<(), ReadError> {
    if shared.replica.applied() >= index {
        return Ok(());
    }
    let mut applied = shared.replica.applied_watch();
    tokio::select! {
        reached = timeout_at(deadline, applied.wait_for(|applied| *applied >= index)) => match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ReadError::Lagging),
        },
        () = shared.until_stopped() => {
            Err(ReadError::Stopped { reason: shared.stopped().unwrap_or_default() })
        }
    }
}

/// What this node answers to a peer that asks for a read index.
pub(crate) async fn answer_peer(shared: &Shared) -> Result<LogIndex, ReadIndexRefusal> {
    if mutants::is(Mutant::LeaderReadsLocally) && matches!(shared.route(), Route::Here { .. }) {
        return Ok(shared.replica.applied());
    }
    match shared.consensus.get() {
        Some(consensus) => consensus.read_index().await,
        None => Err(ReadIndexRefusal::NotLeader { hint: None }),
    }
}

/// Asks for read indexes until the group stops.
pub(crate) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<ReadRequest>) {
    let mut rounds: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        let mut readers = Vec::new();
        tokio::select! {
            biased;
            Some(()) = rounds.next() => {}
            count = queue.recv_many(&mut readers, ROUND_READERS_MAX), if rounds.len() < ROUNDS_MAX => {
                if count == 0 {
                    return;
                }
                rounds.push(Box::pin(round(Arc::clone(&shared), readers)));
            }
            () = shared.until_stopped() => return,
        }
    }
}

/// Asks for all of `readers` until there is an answer or nobody waits any more.
async fn round(shared: Arc<Shared>, mut readers: Vec<ReadRequest>) {
    while !readers.is_empty() {
        shared.counters.read_rounds.add(1);
        if let Ok(Some(index)) = timeout(ROUND_TIME_MAX, ask(&shared)).await {
            for reader in readers {
                let _ = reader.answer.send(index);
            }
            return;
        }
        sleep(RETRY_PAUSE).await;
        let now = Instant::now();
        // Dropping a reader tells it that there is no leader.
        readers.retain(|reader| reader.give_up > now && !reader.answer.is_closed());
    }
}

async fn ask(shared: &Shared) -> Option<LogIndex> {
    match shared.route() {
        Route::Nobody { .. } => None,
        Route::Here { .. } => answer_peer(shared).await.ok(),
        Route::Remote { leader, .. } => shared.peers.read_index(leader).await.ok()?.ok(),
    }
}
