//! What goes into the next transaction, and what its answer means for each request in it. Pure: time is an argument.
//!
//! An answer that says no names at most one operation, so a transaction of many requests is taken apart until each one has
//! an answer of its own:
//!
//! - *Operation i failed.* The request that owns it is at fault if nothing before it in the transaction can have changed
//!   what it saw. Otherwise it is tried again alone, since what it saw has been rolled back. The others are tried again
//!   together; when that fails too, those that went before the one at fault apart from those behind it, so that many bad
//!   requests cost a transaction or two each and not a whole round each.
//! - *The commit failed.* The error often names rows: the requests that name them are tried apart from the others.
//!   Otherwise both halves are.
//! - *Not leader.* Nothing happened; all are tried again after a pause.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::footprint::{Company, Footprint, may_influence};
use crate::error::{Rejection, RejectionKind, TransactError};
use crate::operation::{Operation, OperationResult};

/// What a request ends with.
pub(super) type Answer = Result<Vec<OperationResult>, TransactError>;

/// Names a request. Later ones are larger.
pub(super) type Ticket = u64;

/// Requests that are looked at for one transaction: those that may not join it are passed over.
const CANDIDATES_MAX: usize = 256;
/// Time until a transaction that met a member without leadership is sent again.
const NOT_LEADER_PAUSE: Duration = Duration::from_millis(50);

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_flight_max: usize,
    pub(super) requests_max: usize,
    pub(super) operations_max: usize,
    pub(super) bytes_max: usize,
    pub(super) delay_max: Duration,
    pub(super) queue_requests_max: usize,
    pub(super) queue_bytes_max: usize,
}

/// One caller's operations and the way back to it.
#[derive(Debug)]
pub(super) struct Request<R> {
    operations: Vec<Operation>,
    footprint: Footprint,
    reply: R,
    ticket: Ticket,
    since: Duration,
}

/// Requests that are sent as one transaction.
#[derive(Debug)]
pub(super) struct Batch<R> {
    requests: Vec<Request<R>>,
    /// Times that one of them failed the others.
    failures: u32,
    /// When it may be sent (again).
    not_before: Duration,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Next<R> {
    /// Send this and call [`Batcher::answered`].
    Send(Batch<R>),
    /// Ask again at this time, or when woken.
    WaitUntil(Duration),
    /// Nothing. The driver's seat is given back.
    Idle,
}

/// What an answer led to.
#[derive(Debug)]
pub(super) struct Settled<R> {
    /// For these callers it is over.
    pub(super) answers: Vec<(R, Answer)>,
    /// So many requests are tried again.
    pub(super) retried: usize,
}

/// Requests that wait, and how many transactions are under way.
///
/// Invariant: `drivers` tasks exist, each of which has a transaction in flight, or waits for a time, or is about to ask
/// what is next; whenever requests wait there is at least one.
#[derive(Debug)]
pub(super) struct Batcher<R> {
    limits: Limits,
    fresh: BTreeMap<Ticket, Request<R>>,
    retries: VecDeque<Batch<R>>,
    next_ticket: Ticket,
    operations: usize,
    bytes: usize,
    in_flight: usize,
    drivers: usize,
    /// The one driver that waits for a time, and for which.
    lingers_until: Option<Duration>,
}

impl<R> Batch<R> {
    fn new(requests: Vec<Request<R>>, failures: u32) -> Self {
        Self { requests, failures, not_before: Duration::ZERO }
    }

    /// Number of requests.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// All operations in order.
    pub(super) fn operations(&self) -> Vec<Operation> {
        self.requests.iter().flat_map(|request| &request.operations).cloned().collect()
    }

    /// Which request an operation belongs to, and which of its operations it is.
    fn owner(&self, operation: usize) -> Option<(usize, usize)> {
        let mut left = operation;
        for (position, request) in self.requests.iter().enumerate() {
            if left < request.operations.len() {
                return Some((position, left));
            }
            left -= request.operations.len();
        }
        None
    }

    /// Whether the request at `position` would fail at its operation `own` without the ones before it, too.
    fn is_at_fault(&self, position: usize, own: usize, kind: RejectionKind) -> bool {
        let earlier = self.requests[..position].iter().flat_map(|request| &request.operations);
        matches!(kind, RejectionKind::Syntax | RejectionKind::UnknownName)
            || !may_influence(earlier, &self.requests[position].operations[..=own])
    }

    fn all(self, answer: &Answer) -> Vec<(R, Answer)> {
        self.requests.into_iter().map(|request| (request.reply, answer.clone())).collect()
    }
}

impl<R> Batcher<R> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            fresh: BTreeMap::new(),
            retries: VecDeque::new(),
            next_ticket: 0,
            operations: 0,
            bytes: 0,
            in_flight: 0,
            drivers: 0,
            lingers_until: None,
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.fresh.len() + self.retries.iter().map(Batch::len).sum::<usize>()
    }

    /// Takes a request in, or says that there are too many.
    pub(super) fn push(
        &mut self,
        operations: Vec<Operation>,
        footprint: Footprint,
        reply: R,
        now: Duration,
    ) -> Result<Ticket, TransactError> {
        let waiting = self.fresh.len();
        let fits = waiting < self.limits.queue_requests_max
            && self.bytes.saturating_add(footprint.bytes) <= self.limits.queue_bytes_max;
        if !fits {
            return Err(TransactError::QueueFull { max: waiting });
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.operations += operations.len();
        self.bytes += footprint.bytes;
        self.fresh.insert(ticket, Request { operations, footprint, reply, ticket, since: now });
        Ok(ticket)
    }

    /// Takes a request out. False when it is under way or answered.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> bool {
        if self.take(ticket).is_some() {
            return true;
        }
        let mut found = false;
        for batch in &mut self.retries {
            let before = batch.len();
            batch.requests.retain(|request| request.ticket != ticket);
            found |= batch.len() < before;
        }
        self.retries.retain(|batch| batch.len() > 0);
        found
    }

    fn take(&mut self, ticket: Ticket) -> Option<Request<R>> {
        let request = self.fresh.remove(&ticket)?;
        self.operations -= request.operations.len();
        self.bytes -= request.footprint.bytes;
        Some(request)
    }

    /// Seats for new drivers, which the caller must start.
    pub(super) fn take_seats(&mut self) -> usize {
        let ready = self.retries.len() + usize::from(!self.fresh.is_empty());
        let idle = self.drivers - self.in_flight;
        let seats = ready.saturating_sub(idle).min(self.limits.in_flight_max - self.drivers);
        self.drivers += seats;
        seats
    }

    /// Whether the driver that waits for a time should look again now.
    pub(super) fn wakes(&self, now: Duration) -> bool {
        self.lingers_until.is_some_and(|until| self.ready_at().is_some_and(|at| at <= now || at < until))
    }

    /// A driver that did not come to an answer is gone, with its transaction if it had one.
    pub(super) fn lost(&mut self, in_flight: bool, lingered: bool) {
        self.drivers -= 1;
        self.in_flight -= usize::from(in_flight);
        if lingered {
            self.lingers_until = None;
        }
    }

    /// What a driver does next. `lingered` says that it comes back from [`Next::WaitUntil`].
    pub(super) fn next(&mut self, now: Duration, lingered: bool) -> Next<R> {
        if lingered {
            self.lingers_until = None;
        }
        match self.ready_at() {
            Some(at) if at <= now => {
                self.in_flight += 1;
                let retry = self.retries.iter().position(|batch| batch.not_before <= now);
                let retry = retry.and_then(|position| self.retries.remove(position));
                Next::Send(retry.unwrap_or_else(|| self.assemble()))
            }
            Some(at) if self.lingers_until.is_none() => {
                self.lingers_until = Some(at);
                Next::WaitUntil(at)
            }
            _ => {
                self.drivers -= 1;
                Next::Idle
            }
        }
    }

    /// When something can be sent, given what waits now.
    fn ready_at(&self) -> Option<Duration> {
        let retry = self.retries.iter().map(|batch| batch.not_before).min();
        let fresh = self.fresh.values().next().map(|oldest| {
            let full = self.fresh.len() >= self.limits.requests_max
                || self.operations >= self.limits.operations_max
                || self.bytes >= self.limits.bytes_max;
            // Nothing is under way: there is nothing to gain by waiting for company.
            if full || self.in_flight == 0 { Duration::ZERO } else { oldest.since + self.limits.delay_max }
        });
        retry.into_iter().chain(fresh).min()
    }

    /// The oldest requests that may stand together; at least one.
    fn assemble(&mut self) -> Batch<R> {
        let (mut chosen, mut operations, mut bytes) = (Vec::new(), 0, 0);
        let mut company = Company::default();
        for (ticket, request) in self.fresh.iter().take(CANDIDATES_MAX) {
            operations += request.operations.len();
            bytes += request.footprint.bytes;
            let fits = operations <= self.limits.operations_max && bytes <= self.limits.bytes_max;
            if !chosen.is_empty() && (chosen.len() >= self.limits.requests_max || !fits) {
                break;
            }
            if company.takes(&request.footprint) {
                company.add(&request.footprint);
                chosen.push(*ticket);
            } else {
                operations -= request.operations.len();
                bytes -= request.footprint.bytes;
            }
        }
        let requests = chosen.into_iter().filter_map(|ticket| self.take(ticket)).collect();
        Batch::new(requests, 0)
    }

    /// Takes the database's answer to a batch that [`next`](Self::next) gave out.
    pub(super) fn answered(&mut self, batch: Batch<R>, answer: Answer, now: Duration) -> Settled<R> {
        self.in_flight -= 1;
        let before = self.waiting();
        let answers = match answer {
            Ok(results) => succeeded(batch, results),
            Err(TransactError::Rejected(rejection)) => self.rejected(batch, rejection, now),
            Err(TransactError::TooLarge { .. }) if batch.len() > 1 => {
                self.retry_halves(batch);
                Vec::new()
            }
            Err(error) => batch.all(&Err(error)),
        };
        Settled { answers, retried: self.waiting() - before }
    }

    fn rejected(&mut self, mut batch: Batch<R>, rejection: Rejection, now: Duration) -> Vec<(R, Answer)> {
        match rejection.kind {
            RejectionKind::NotLeader => {
                batch.not_before = now + NOT_LEADER_PAUSE;
                self.retries.push_back(batch);
                return Vec::new();
            }
            // The server's trouble, not that of one request: trying the halves would only add to it.
            RejectionKind::Resources => {
                let rejection = Rejection { operation: None, ..rejection };
                return batch.all(&Err(rejection.into()));
            }
            _ => {}
        }
        match rejection.operation.and_then(|operation| batch.owner(operation)) {
            Some((position, own)) => self.operation_failed(batch, position, own, rejection),
            None if batch.len() == 1 => {
                let rejection = Rejection { operation: None, ..rejection };
                batch.all(&Err(rejection.into()))
            }
            None => {
                self.commit_failed(batch, &rejection);
                Vec::new()
            }
        }
    }

    fn operation_failed(
        &mut self,
        mut batch: Batch<R>,
        position: usize,
        own: usize,
        rejection: Rejection,
    ) -> Vec<(R, Answer)> {
        let at_fault = batch.is_at_fault(position, own, rejection.kind);
        let behind = batch.requests.split_off(position + 1);
        let failed = batch.requests.pop();
        let (mut before, failures) = (batch.requests, batch.failures + 1);
        if failures == 1 {
            before.extend(behind);
            self.retry(before, failures);
        } else {
            self.retry(before, failures);
            self.retry(behind, failures);
        }
        match failed {
            Some(failed) if at_fault => {
                let rejection = Rejection { operation: Some(own), ..rejection };
                vec![(failed.reply, Err(rejection.into()))]
            }
            failed => {
                self.retry(failed.into_iter().collect(), failures);
                Vec::new()
            }
        }
    }

    fn commit_failed(&mut self, batch: Batch<R>, rejection: &Rejection) {
        let uuids = uuids_in(&rejection.details);
        let is_named = |request: &Request<R>| uuids.iter().any(|uuid| request.footprint.names(*uuid));
        let named = batch.requests.iter().filter(|request| is_named(request)).count();
        if named == 0 || named == batch.len() {
            self.retry_halves(batch);
            return;
        }
        let failures = batch.failures;
        let (named, others) = batch.requests.into_iter().partition(is_named);
        self.retry(others, failures);
        self.retry(named, failures);
    }

    fn retry_halves(&mut self, mut batch: Batch<R>) {
        let second = batch.requests.split_off(batch.len() / 2);
        self.retry(batch.requests, batch.failures);
        self.retry(second, batch.failures);
    }

    fn retry(&mut self, requests: Vec<Request<R>>, failures: u32) {
        if !requests.is_empty() {
            self.retries.push_back(Batch::new(requests, failures));
        }
    }
}

fn succeeded<R>(batch: Batch<R>, results: Vec<OperationResult>) -> Vec<(R, Answer)> {
    let expected: usize = batch.requests.iter().map(|request| request.operations.len()).sum();
    if results.len() != expected {
        let reason = format!("{} results for {expected} operations", results.len());
        return batch.all(&Err(TransactError::OutcomeUnknown { reason }));
    }
    let mut results = results.into_iter();
    let own = |request: Request<R>| {
        let own = results.by_ref().take(request.operations.len()).collect();
        (request.reply, Ok(own))
    };
    batch.requests.into_iter().map(own).collect()
}

/// The uuids that a sentence of the server names.
fn uuids_in(details: &str) -> Vec<Uuid> {
    let words = details.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    words.filter(|word| word.len() == UUID_CHARS).filter_map(|word| word.parse().ok()).collect()
}

/// Length of a uuid as text.
const UUID_CHARS: usize = 36;
