//! Idempotency: a retry gets the answer of the first try and has no second effect.
//!
//! A retry of an acquire that waits or is granted attaches to it and takes it to its own node, so that neither
//! the death of the first node nor a late cancellation from there ends it.
//!
//! A record keeps the reply under the scope of its request (caller, route and key, hashed at the edge), for
//! [`REQUESTS_KEPT_MS`](crate::limits::REQUESTS_KEPT_MS) and among the newest
//! [`REQUESTS_KEPT_MAX`](crate::limits::REQUESTS_KEPT_MAX). A record of a request that still waits is kept as
//! long as it waits, and its age counts from the outcome.
//!
//! Not kept: refusals of a request that was never begun (a bad argument, a limit, a cluster that is not
//! formed, a node that may not queue), so that the same key may be tried again, there or elsewhere. Commands that
//! the cluster sends itself (ticks, renewals, status changes, cancellations) have no use for a key and ignore it.

use serde::{Deserialize, Serialize};

use crate::command::AppliedAt;
use crate::cow_map::CowMap;
use crate::limits::{Limits, REQUESTS_KEPT_MS};
use crate::locks::Whereabouts;
use crate::mutants::{self, Mutant};
use crate::state::Effects;
use crate::table::{Object, Table};
use crate::{Command, FencingToken, LogIndex, Millis, Refusal, Reply, Request, RequestKey, State, WaiterId};

/// Hash of caller, route and `Idempotency-Key`.
pub(crate) type Scope = [u8; 16];

/// Records forgotten for their age by one apply.
const FORGOTTEN_PER_APPLY_MAX: usize = 1_024;

/// One kept answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestRecord {
    pub(crate) scope: Scope,
    pub(crate) body: [u8; 16],
    pub(crate) outcome: Outcome,
    /// When the outcome was known; of a request that waits, when it began.
    pub(crate) at: AppliedAt,
}

/// What a retry is answered from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The same again.
    Reply(Reply),
    /// A lock: the same while it is held.
    Granted(FencingToken),
    /// A lock request that still waits.
    Waiting(WaiterId),
}

impl Object for RequestRecord {
    const TAG: u8 = 7;
    type Key = Scope;

    fn key(&self) -> Scope {
        self.scope
    }
}

/// The kept answers.
#[derive(Clone, Default)]
pub(crate) struct Requests {
    pub(crate) table: Table<RequestRecord>,
    /// Records with an outcome, oldest first.
    pub(crate) by_age: CowMap<(LogIndex, Scope), ()>,
}

fn is_kept(command: &Command) -> bool {
    match command {
        Command::Tick
        | Command::ChangeNode(_)
        | Command::AnnounceLeader(_)
        | Command::RenewLocks(_)
        | Command::CancelWait(_)
        | Command::UpdateSessions(_)
        | Command::ReportCleared(_) => false,
        Command::FormCluster(_)
        | Command::JoinNode(_)
        | Command::UpdateNode(_)
        | Command::RemoveNode(_)
        | Command::AcquireLock(_)
        | Command::ReleaseLock(_)
        | Command::ForceReleaseLock(_)
        | Command::WriteKv(_)
        | Command::RegisterSession(_)
        | Command::AttachSession(_)
        | Command::EndSession(_)
        | Command::MigrateSession(_)
        | Command::RotateSession(_)
        | Command::DescribeSession(_)
        | Command::SubscribeSession(_)
        | Command::PublishMessages(_)
        | Command::AcquireLockInSession(_)
        | Command::DrainNode(_)
        | Command::ResumeNode(_)
        | Command::Invalidate(_) => true,
    }
}

impl State {
    /// Judges a request, or repeats the answer it got before.
    pub(crate) fn answer(&mut self, request: Request, out: &mut Effects) -> Reply {
        let key = request.idempotency.filter(|_| is_kept(&request.command));
        if let Some(reply) = key.and_then(|key| self.replay(key, &request.command, out)) {
            return reply;
        }
        let scope = key.map(|key| key.scope);
        let reply = self.execute(request.command, scope, out).unwrap_or_else(Reply::Refused);
        if let Some(key) = key {
            self.keep(key, &reply);
        }
        reply
    }

    fn replay(&mut self, key: RequestKey, command: &Command, out: &mut Effects) -> Option<Reply> {
        let now = self.meta.now;
        if mutants::is(Mutant::RetryWithoutKey) {
            return None;
        }
        let record = self.requests.live(key.scope, now)?;
        if record.body != key.body {
            return Some(Reply::Refused(Refusal::IdempotencyKeyReused));
        }
        if let Outcome::Waiting(waiter) = record.outcome {
            // Its time may be over without clean-up having reached it.
            self.settle_waiter(waiter, out);
        }
        let outcome = self.requests.live(key.scope, now)?.outcome.clone();
        let acquire = match command {
            Command::AcquireLock(acquire) => Some(acquire),
            Command::AcquireLockInSession(bound) => Some(&bound.acquire),
            _ => None,
        };
        if let Some(acquire) = acquire {
            let waiter = match outcome {
                Outcome::Waiting(waiter) => Some(waiter),
                Outcome::Granted(token) => self.live_grant(token).map(|grant| grant.waiter),
                Outcome::Reply(_) => None,
            };
            waiter.into_iter().for_each(|waiter| self.attach(waiter, acquire.node));
        }
        match outcome {
            Outcome::Reply(Reply::Session(kept)) => {
                Some(self.session_again(kept, command).unwrap_or_else(Reply::Refused))
            }
            Outcome::Reply(reply) => Some(reply),
            Outcome::Granted(token) => Some(match self.live_grant(token) {
                Some(grant) => Reply::Granted(self.grant_reply(grant)),
                None => Reply::Refused(Refusal::LockLost { token }),
            }),
            Outcome::Waiting(waiter) => Some(Reply::Waiting { waiter, position: self.position(waiter) }),
        }
    }

    /// Live waiters before this one on its most crowded key.
    fn position(&self, waiter: WaiterId) -> u64 {
        let Some(Whereabouts::Queued(index)) = self.locks.by_waiter.get(&waiter) else { return 0 };
        let keys = self.locks.waiters.get(index).map(|waiter| waiter.keys.as_slice()).unwrap_or_default();
        let before = keys.iter().map(|key| {
            let queue = self.locks.queue_of(key.as_str()).take_while(|(at, _)| at < index);
            queue.filter(|(_, place)| place.deadline > self.meta.now).count()
        });
        before.max().unwrap_or(0) as u64
    }

    fn keep(&mut self, key: RequestKey, reply: &Reply) {
        let outcome = match reply {
            Reply::Refused(
                Refusal::InvalidArgument { .. }
                | Refusal::LimitExceeded { .. }
                | Refusal::NotFormed
                // Another node, or the same one later, may take the session.
                | Refusal::Draining
                | Refusal::InvalidTarget
                // Here: its node may not queue, so the wait never began. That of a wait which did begin is kept.
                | Refusal::WaitCancelled,
            ) => return,
            Reply::Granted(grant) => Outcome::Granted(grant.token),
            Reply::Waiting { waiter, .. } => Outcome::Waiting(*waiter),
            reply => Outcome::Reply(reply.clone()),
        };
        let record = RequestRecord { scope: key.scope, body: key.body, outcome, at: self.meta.applied_at() };
        self.requests.put(record, &self.limits);
    }
}

impl Requests {
    /// The record of this scope, unless its time is over.
    fn live(&self, scope: Scope, now: Millis) -> Option<&RequestRecord> {
        let record = self.table.get(&scope)?;
        let waits = matches!(record.outcome, Outcome::Waiting(_));
        (waits || record.at.now.after(REQUESTS_KEPT_MS) > now).then_some(&**record)
    }

    fn put(&mut self, record: RequestRecord, limits: &Limits) {
        let scope = record.scope;
        if let Some(old) = self.table.get(&scope) {
            self.by_age.remove(&(old.at.index, scope));
        }
        if !matches!(record.outcome, Outcome::Waiting(_)) {
            self.by_age.insert((record.at.index, scope), ());
        }
        self.table.insert(record);
        while self.by_age.len() > limits.requests_kept {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((index, scope)) = self.by_age.first().map(|(oldest, ())| *oldest) else { return };
        self.by_age.remove(&(index, scope));
        self.table.remove(&scope);
    }

    pub(crate) fn forget_old(&mut self, now: Millis) {
        for _ in 0..FORGOTTEN_PER_APPLY_MAX {
            let Some(scope) = self.by_age.first().map(|((_, scope), ())| *scope) else { return };
            if self.live(scope, now).is_some() {
                return;
            }
            self.forget_first();
        }
    }

    /// The outcome of a request that waited.
    pub(crate) fn settle(&mut self, scope: Option<Scope>, outcome: Outcome, at: AppliedAt, limits: &Limits) {
        let Some(record) = scope.and_then(|scope| self.table.get(&scope)) else { return };
        let record = RequestRecord { outcome, at, ..(**record).clone() };
        self.put(record, limits);
    }
}
