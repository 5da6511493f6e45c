//! Many writers, few transactions.
//!
//! A clustered OVSDB commits a few hundred transactions per second, whatever is in them, and fewer when many are sent
//! at once. So requests of callers that come at the same time are sent as one transaction, and at most a few of those
//! are under way. A request that comes when nothing is under way is sent at once.
//!
//! Each call of [`Writer::submit`] stays atomic and gets the answer that it would have got alone: `batch.rs` decides
//! what may stand together and takes a transaction apart when it fails. Calls that run at the same time are put into
//! some order; a caller that waits for its answer before it calls again keeps its own.
//!
//! # Caveats
//!
//! What only a commit checks (unique indexes, references, rows without a reference) is checked for the requests of one
//! transaction together. Two requests that run at the same time may both succeed where, one after the other, neither
//! order would let them: each takes the unique name that the other one gives up, or one takes a name that the other one
//! gives up together with a row that the first then keeps. Both have then happened as a whole, and the database is
//! consistent.

mod batch;
mod footprint;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use self::batch::{Answer, Batcher, Limits, Next, Ticket};
use self::footprint::Footprint;
use crate::database::Database;
use crate::error::TransactError;
use crate::operation::{Operation, OperationResult};

/// Takes transactions, each of which happens as a whole or not at all.
pub trait Transact: Send + Sync + 'static {
    /// Runs one transaction.
    fn transact(
        &self,
        operations: Vec<Operation>,
    ) -> impl Future<Output = Result<Vec<OperationResult>, TransactError>> + Send;
}

impl<T: Transact> Transact for Arc<T> {
    fn transact(
        &self,
        operations: Vec<Operation>,
    ) -> impl Future<Output = Result<Vec<OperationResult>, TransactError>> + Send {
        T::transact(self, operations)
    }
}

/// Bounds of a [`Writer`].
#[derive(Clone, Copy, Debug)]
pub struct WriterSettings {
    /// Transactions under way. More of them do not help a cluster, which puts them in one order anyway.
    pub in_flight_max: usize,
    /// Requests in one transaction.
    pub requests_max: usize,
    /// Operations in a transaction of several requests. A single request may have more.
    pub operations_max: usize,
    /// About as many bytes has a transaction of several requests at most. A single request may have more.
    pub bytes_max: usize,
    /// How long a request waits for company while another transaction is under way.
    pub delay_max: Duration,
    /// Requests that wait.
    pub queue_requests_max: usize,
    /// Bytes of requests that wait.
    pub queue_bytes_max: usize,
    /// Operations in one request.
    pub request_operations_max: usize,
    /// Bytes of one request.
    pub request_bytes_max: usize,
    /// How long a call waits for its answer.
    pub timeout: Duration,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            in_flight_max: 2,
            requests_max: 64,
            operations_max: 2_000,
            bytes_max: 1 << 20,
            delay_max: Duration::from_millis(2),
            queue_requests_max: 4_096,
            queue_bytes_max: 64 << 20,
            request_operations_max: 50_000,
            request_bytes_max: 16 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

/// What a writer has done since it was made.
#[derive(Debug, Default)]
pub struct WriterMetrics {
    submitted: AtomicU64,
    refused: AtomicU64,
    transactions: AtomicU64,
    requests: AtomicU64,
    retried: AtomicU64,
}

impl WriterMetrics {
    /// Requests that were taken in.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed)
    }

    /// Requests that were not, because too many wait or because they are too large.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Transactions that were sent.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Requests in them; those that were sent twice count twice.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that were tried again, because a transaction failed for another one or met no leader.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64, times: usize) {
    counter.fetch_add(times as u64, Ordering::Relaxed);
}

type Reply = oneshot::Sender<Answer>;

struct Shared<T> {
    database: T,
    settings: WriterSettings,
    batcher: Mutex<Batcher<Reply>>,
    /// Wakes the driver that waits for a time.
    wake: Notify,
    started: Instant,
    metrics: WriterMetrics,
}

/// Sends requests to one database. Clones share everything.
pub struct Writer<T = Database> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Transact> Writer<T> {
    /// A writer to this database. Bounds of zero count as one.
    #[must_use]
    pub fn new(database: T, settings: WriterSettings) -> Self {
        let limits = Limits {
            in_flight_max: settings.in_flight_max.max(1),
            requests_max: settings.requests_max.max(1),
            operations_max: settings.operations_max,
            bytes_max: settings.bytes_max,
            delay_max: settings.delay_max,
            queue_requests_max: settings.queue_requests_max.max(1),
            queue_bytes_max: settings.queue_bytes_max.max(settings.request_bytes_max),
        };
        let shared = Shared {
            database,
            settings,
            batcher: Mutex::new(Batcher::new(limits)),
            wake: Notify::new(),
            started: Instant::now(),
            metrics: WriterMetrics::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The database that is written to.
    #[must_use]
    pub fn database(&self) -> &T {
        &self.shared.database
    }

    /// What was done so far.
    #[must_use]
    pub fn metrics(&self) -> &WriterMetrics {
        &self.shared.metrics
    }

    /// Requests that wait to be sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting()
    }

    /// Runs these operations as a whole, one result for each, or says why not. When the future is dropped before the
    /// request was sent, it never is.
    ///
    /// # Errors
    /// As [`TransactError`] says. A call that runs into the time-out is `Unavailable` when it was not sent, and has an
    /// unknown outcome when it was.
    pub async fn submit(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, TransactError> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let timeout = self.shared.settings.timeout;
        let (reply, mut answer) = oneshot::channel();
        let place = self.enter(operations, reply)?;
        match tokio::time::timeout(timeout, &mut answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown("the task that sent it ended".to_owned())),
            Err(_) if place.leave() => {
                let reason = format!("not sent within {timeout:?}");
                Err(TransactError::Unavailable { reason })
            }
            // It was sent; perhaps the answer has come in this very moment.
            Err(_) => {
                answer.try_recv().unwrap_or_else(|_| Err(unknown(format!("no answer within {timeout:?}"))))
            }
        }
    }

    fn enter(&self, operations: Vec<Operation>, reply: Reply) -> Result<Place<'_, T>, TransactError> {
        let shared = &self.shared;
        let entered = shared.check(&operations).and_then(|footprint| {
            let now = shared.now();
            let mut batcher = shared.lock();
            let ticket = batcher.push(operations, footprint, reply, now)?;
            let (seats, wakes) = (batcher.take_seats(), batcher.wakes(now));
            drop(batcher);
            Ok((ticket, seats, wakes))
        });
        let (ticket, seats, wakes) = entered.inspect_err(|_| count(&shared.metrics.refused, 1))?;
        count(&shared.metrics.submitted, 1);
        shared.start(seats, wakes);
        Ok(Place { shared, ticket })
    }
}

impl<T: Transact> Transact for Writer<T> {
    fn transact(
        &self,
        operations: Vec<Operation>,
    ) -> impl Future<Output = Result<Vec<OperationResult>, TransactError>> + Send {
        self.submit(operations)
    }
}

fn unknown(reason: String) -> TransactError {
    TransactError::OutcomeUnknown { reason }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Batcher<Reply>> {
        self.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn check(&self, operations: &[Operation]) -> Result<Footprint, TransactError> {
        let max = self.settings.request_operations_max;
        if operations.len() > max {
            return Err(TransactError::TooLarge { limit: "request_operations", max });
        }
        let footprint = Footprint::of(operations);
        let max = self.settings.request_bytes_max;
        if footprint.bytes > max {
            return Err(TransactError::TooLarge { limit: "request_bytes", max });
        }
        Ok(footprint)
    }
}

impl<T: Transact> Shared<T> {
    fn start(self: &Arc<Self>, seats: usize, wakes: bool) {
        if wakes {
            self.wake.notify_one();
        }
        for _ in 0..seats {
            let seat = Seat { shared: Arc::clone(self), state: SeatState::Asking };
            tokio::spawn(seat.drive());
        }
    }
}

/// A call's place among those that wait. Dropped, it is given up.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    ticket: Ticket,
}

impl<T> Place<'_, T> {
    /// Whether the request had not been sent, and never will be.
    fn leave(&self) -> bool {
        self.shared.lock().cancel(self.ticket)
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeatState {
    Asking,
    InFlight,
    Lingering,
    /// Given back.
    Left,
}

/// A task that sends one transaction after the other as long as requests wait.
struct Seat<T: Transact> {
    shared: Arc<Shared<T>>,
    state: SeatState,
}

impl<T: Transact> Seat<T> {
    async fn drive(mut self) {
        loop {
            let lingered = self.state == SeatState::Lingering;
            let next = self.shared.lock().next(self.shared.now(), lingered);
            match next {
                Next::Send(batch) => {
                    self.state = SeatState::InFlight;
                    self.send(batch).await;
                    self.state = SeatState::Asking;
                }
                Next::WaitUntil(until) => {
                    self.state = SeatState::Lingering;
                    let woken = self.shared.wake.notified();
                    let _ = tokio::time::timeout_at(self.shared.started + until, woken).await;
                }
                Next::Idle => {
                    self.state = SeatState::Left;
                    return;
                }
            }
        }
    }

    async fn send(&mut self, batch: batch::Batch<Reply>) {
        let shared = &self.shared;
        count(&shared.metrics.transactions, 1);
        count(&shared.metrics.requests, batch.len());
        let answer = shared.database.transact(batch.operations()).await;
        let now = shared.now();
        let mut batcher = shared.lock();
        let settled = batcher.answered(batch, answer, now);
        self.state = SeatState::Asking;
        let (seats, wakes) = (batcher.take_seats(), batcher.wakes(now));
        drop(batcher);
        count(&shared.metrics.retried, settled.retried);
        for (reply, answer) in settled.answers {
            // Whoever does not wait any more has been told that the outcome is unknown, or has gone.
            let _ = reply.send(answer);
        }
        shared.start(seats, wakes);
    }
}

impl<T: Transact> Drop for Seat<T> {
    /// The database panicked, or the runtime ends: others must not wait for this seat.
    fn drop(&mut self) {
        if self.state != SeatState::Left {
            let (in_flight, lingered) =
                (self.state == SeatState::InFlight, self.state == SeatState::Lingering);
            self.shared.lock().lost(in_flight, lingered);
        }
    }
}
