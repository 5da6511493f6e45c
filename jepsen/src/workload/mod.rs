//! What clients do while the nemesis is at work, one file per workload.
//!
//! A workload is a loop of operations of one client; many run side by side and meet on the same few objects. What
//! they ask for is random from the seed, what they get is not. Each operation is recorded as an invocation before
//! anything is sent and a completion after the answer has arrived whole; [`Actor`] does that for all of them.
//!
//! Most requests of a client go to its home node, few to others: so somebody keeps asking the node that is cut off,
//! and so the same object is asked for on both sides of a partition.
//!
//! [`client`] runs one client, [`probe`] asks every node who leads, [`finish`] reads the end state after the heal.

mod actor;
mod election;
mod fifo;
mod finish;
mod groups;
mod holding;
mod invalidation;
mod lock;
mod probe;
mod register;
mod retry;
mod session;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::history::Recorder;

pub(crate) use finish::number;
pub use probe::probe;
pub use shared::Shared;

use actor::Actor;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// Registers: read, write, compare-and-set; also with retries under one idempotency key.
    Register,
    /// Exclusive locks over a resource that rejects older tokens, by clients that may sleep past their lease.
    Lock,
    /// The same over a resource that trusts its clients: shows what fencing is for.
    LockUnfenced,
    /// Locks with a queue: who asked first gets first.
    Fifo,
    /// Shared and exclusive holders of the same locks.
    Shared,
    /// Several locks at once, all or none.
    Multi,
    /// Elections.
    Election,
    /// Registers while nodes join, leave and are replaced.
    Membership,
    /// WebSocket sessions: published, delivered, moved, taken over.
    Session,
    /// The invalidation log: appended, followed on every node, waited for.
    Invalidation,
}

/// A node that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Where it answers, without a slash at the end.
    pub url: String,
}

/// What one client works with.
#[derive(Debug)]
pub struct ClientContext {
    /// Its number, from 0.
    pub number: u32,
    /// Where it writes down what it does.
    pub recorder: Recorder,
    /// The nodes that there are. One that is down stays, one that was removed goes.
    pub nodes: watch::Receiver<Vec<Endpoint>>,
    /// Its own randomness, from the seed of the run and its number.
    pub rng: StdRng,
    /// Becomes true when it shall end.
    pub stop: watch::Receiver<bool>,
    /// How fast it may go.
    pub pace: Pace,
    /// For calls of administrators.
    pub admin_token: Option<String>,
    /// What all clients of the run share.
    pub shared: Arc<Shared>,
    /// The harness' own mutant: reports a time-out as `fail`. Must raise a false alarm.
    pub time_out_fails: bool,
}

impl ClientContext {
    /// For another client that works for this one, at its own pace.
    fn fork(&mut self, pace: Pace) -> Self {
        Self {
            number: self.number,
            recorder: self.recorder.clone(),
            nodes: self.nodes.clone(),
            rng: StdRng::from_rng(&mut self.rng),
            stop: self.stop.clone(),
            pace,
            admin_token: self.admin_token.clone(),
            shared: Arc::clone(&self.shared),
            time_out_fails: self.time_out_fails,
        }
    }
}

/// A bound on the operations per second of one client.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    period: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// Operations per second at most; 0 and less: no bound.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        let period = if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO };
        Self { period, next: None }
    }

    /// Waits until the next operation may begin. Who was held up does not make up for it.
    pub async fn wait(&mut self) {
        tokio::time::sleep_until(self.next.unwrap_or_else(Instant::now)).await;
        self.owe();
    }

    /// Counts an operation that cannot wait: the next one that can waits for both.
    pub fn owe(&mut self) {
        let now = Instant::now();
        self.next = Some(self.next.unwrap_or(now).max(now) + self.period);
    }
}

/// Why a workload cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The HTTP client of the library cannot be made.
    #[error("make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Runs one client until [`ClientContext::stop`]; it ends its operation first.
pub async fn client(kind: WorkloadKind, context: ClientContext) -> Result<(), WorkloadError> {
    let mut actor = Actor::new(context)?;
    match kind {
        WorkloadKind::Register | WorkloadKind::Membership => register::run(&mut actor).await,
        WorkloadKind::Lock => lock::run(&mut actor, true).await,
        WorkloadKind::LockUnfenced => lock::run(&mut actor, false).await,
        WorkloadKind::Fifo => fifo::run(&mut actor).await,
        WorkloadKind::Shared => groups::shared(&mut actor).await,
        WorkloadKind::Multi => groups::multi(&mut actor).await,
        WorkloadKind::Election => election::run(&mut actor).await,
        WorkloadKind::Session => session::run(&mut actor).await,
        WorkloadKind::Invalidation => invalidation::run(&mut actor).await,
    }
    Ok(())
}

/// Reads the end state, after the heal: whatever the workload wants to see again, then the state hash of every node.
/// Takes no notice of [`ClientContext::stop`].
pub async fn finish(kind: WorkloadKind, mut context: ClientContext) -> Result<(), WorkloadError> {
    if matches!(kind, WorkloadKind::Register | WorkloadKind::Membership) {
        finish::registers(&mut context).await?;
    }
    match kind {
        WorkloadKind::Session => session::finish(&mut context).await?,
        WorkloadKind::Invalidation => invalidation::finish(&mut context).await?,
        _ => {}
    }
    finish::hashes(&mut context).await
}

#[cfg(test)]
mod tests;
