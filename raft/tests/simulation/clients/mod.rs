//! Clients: they go through random nodes, retry what is unknown under the same idempotency key, and write down
//! what they asked, when, and what they were told.

pub mod kv;
pub mod locks;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ovncp_raft::{Committed, ProposeError};
use ovncp_state::{Command, Request, RequestKey};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::check::linear::Operation;
use crate::check::locks::Holding;
use crate::cluster::{Cluster, Connection};
use crate::machine::Machine;

/// Time a node gets for one request.
pub const REQUEST_TIME: Duration = Duration::from_millis(1_500);
/// Time a client waits for a node beyond that, before it hangs up.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// Nodes that a request with an idempotency key tries at most.
const ATTEMPTS_MAX: u32 = 4;

/// What all clients of a run wrote down. Clones share it.
#[derive(Clone, Default)]
pub struct History {
    inner: Arc<Mutex<Record>>,
}

/// See [`History`].
#[derive(Default)]
pub struct Record {
    /// By register.
    pub registers: std::collections::BTreeMap<u8, Vec<Operation>>,
    /// Revisions that clients were told, with the value written.
    pub written: std::collections::BTreeMap<u64, u64>,
    pub holdings: Vec<Holding>,
    pub ok: u64,
    pub refused: u64,
    pub failed: u64,
    pub unknown: u64,
    pub waited: u64,
    pub renewed: u64,
    pub cancelled: u64,
    /// Contradictions that are visible without any search.
    pub wrong: Vec<String>,
}

impl History {
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client and what it needs.
pub struct Client<D> {
    pub name: String,
    pub cluster: Cluster<D>,
    pub history: History,
    pub rng: SmallRng,
    /// Becomes true when clients shall end.
    pub stop: watch::Receiver<bool>,
    pub mutant: Option<Mutant>,
}

/// What a client can do wrong, so that its checkers have something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Reads what the node has, without asking the leader.
    StaleRead,
    /// Takes an unknown outcome for a failure.
    UnknownIsFailure,
    /// Asks again after an unknown outcome, without an idempotency key.
    BlindRetry,
    /// Trusts a lease for longer than it was given.
    LateHolder,
}

/// What became of a proposal, as a client may judge it.
pub enum Outcome {
    /// Committed and applied.
    Done(Committed),
    /// Surely did not happen.
    Failed,
    /// May have happened or may still.
    Unknown,
}

impl<D: Machine> Client<D> {
    pub fn now(&self) -> u64 {
        self.cluster.trace.now()
    }

    pub fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// A key for a retryable request, for about half of them.
    pub fn maybe_key(&mut self) -> Option<RequestKey> {
        if self.mutant.is_some() {
            return None;
        }
        self.rng.random_bool(0.6).then(|| {
            let mut key = RequestKey { scope: [0; 16], body: [0; 16] };
            self.rng.fill_bytes(&mut key.scope);
            self.rng.fill_bytes(&mut key.body);
            key
        })
    }

    /// Connects to some node that runs; waits a little when none does.
    pub async fn connect(&mut self) -> Option<Connection> {
        for _ in 0..20 {
            let nodes = self.cluster.connect_all();
            if !nodes.is_empty() {
                return Some(nodes[self.rng.random_range(0..nodes.len())].clone());
            }
            if self.stopped() {
                return None;
            }
            sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// Proposes through `node`; with a key it retries through others until it knows.
    pub async fn propose(&mut self, node: &Connection, command: Command, key: Option<RequestKey>) -> Outcome {
        let mut node = node.clone();
        let mut handed_over = false;
        for attempt in 0..ATTEMPTS_MAX {
            let request = Request { idempotency: key, command: command.clone() };
            let call = node
                .call(REQUEST_TIME + PATIENCE, move |group| async move {
                    group.propose(request, REQUEST_TIME).await
                })
                .await;
            match call {
                Some(Ok(committed)) => return Outcome::Done(committed),
                Some(Err(ProposeError::Unknown)) | None => {
                    if self.mutant == Some(Mutant::UnknownIsFailure) {
                        return Outcome::Failed;
                    }
                    handed_over = true;
                    if key.is_none() && self.mutant != Some(Mutant::BlindRetry) {
                        return Outcome::Unknown;
                    }
                }
                Some(Err(_)) => {
                    if key.is_none() {
                        return Outcome::Failed;
                    }
                }
            }
            if attempt + 1 < ATTEMPTS_MAX {
                sleep(Duration::from_millis(self.rng.random_range(20..300))).await;
                match self.connect().await {
                    Some(other) => node = other,
                    None => break,
                }
            }
        }
        if handed_over { Outcome::Unknown } else { Outcome::Failed }
    }

    /// Sleeps, but not beyond the end of the run.
    pub async fn rest(&mut self, millis: std::ops::Range<u64>) {
        let end = Instant::now() + Duration::from_millis(self.rng.random_range(millis));
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep_until(end) => {}
        }
    }
}
