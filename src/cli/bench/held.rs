//! Locks that are held while something else is measured: what growth costs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use super::closed_loop::{OPERATION_TIMEOUT, progress, token};
use super::target::{PREPARE_PATIENCE, PREPARE_PAUSE};
use super::wire::{Connection, request};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// Connections over which locks are acquired.
const CONNECTIONS: usize = 64;
/// Lease until the first renewal, if there is any: longer than any run.
const TTL_MS_LONGEST: u64 = 86_400_000;
/// Locks whose progress is shown at once.
const SHOWN_STEP: u64 = 100;

/// A lock that this process holds.
#[derive(Clone, Debug)]
pub(super) struct HeldLock {
    /// Position of the node that is spoken to about it.
    pub(super) node: usize,
    /// Renews it.
    pub(super) renewal: Vec<u8>,
}

/// Acquires so many locks. Only if they will be renewed, to this TTL, is each one remembered.
pub(super) async fn hold(
    count: u32,
    renewed_to_ms: Option<u64>,
    addresses: &[String],
) -> Result<Vec<HeldLock>, Failure> {
    let bar = progress(u64::from(count));
    bar.set_message(format!("holding {count} locks"));
    let run = random_id()[..8].to_owned();
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let turn = Turn { run: run.clone(), renewed_to_ms, next: Arc::clone(&next), count, bar: bar.clone() };
        tasks.spawn(turn.acquire(addresses.to_vec()));
    }
    let mut held = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(|e| Failure::new(Exit::Failure, format!("a client failed: {e}")))?;
        held.extend(ended.map_err(|e| Failure::io("acquire a lock to hold", &e))?);
    }
    bar.finish_and_clear();
    Ok(held)
}

/// One connection's part.
struct Turn {
    run: String,
    renewed_to_ms: Option<u64>,
    next: Arc<AtomicU32>,
    count: u32,
    bar: ProgressBar,
}

impl Turn {
    async fn acquire(self, addresses: Vec<String>) -> io::Result<Vec<HeldLock>> {
        let mut connections: Vec<Option<Connection>> = addresses.iter().map(|_| None).collect();
        let (mut held, mut done) = (Vec::new(), 0);
        let mut succeeded = Instant::now();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                self.bar.inc(done % SHOWN_STEP);
                return Ok(held);
            }
            let node = number as usize % addresses.len();
            let lock = loop {
                let acquired = self.acquire_one(number, &addresses[node], &mut connections[node]);
                let acquired = tokio::time::timeout(OPERATION_TIMEOUT, acquired).await;
                match acquired.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(renewal) => break renewal.map(|renewal| HeldLock { node, renewal }),
                    Err(error) if succeeded.elapsed() >= PREPARE_PATIENCE => return Err(error),
                    Err(_) => {
                        connections[node] = None;
                        tokio::time::sleep(PREPARE_PAUSE).await;
                    }
                }
            };
            succeeded = Instant::now();
            held.extend(lock);
            done += 1;
            if done % SHOWN_STEP == 0 {
                self.bar.inc(SHOWN_STEP);
            }
        }
    }

    /// Each try has a key of its own: an earlier one may hold the lock that nobody told us of.
    async fn acquire_one(
        &self,
        number: u32,
        address: &str,
        connection: &mut Option<Connection>,
    ) -> io::Result<Option<Vec<u8>>> {
        let open = match connection {
            Some(open) => open,
            closed => closed.insert(Connection::open(address).await?),
        };
        let secret = random_id();
        let path = format!("/api/v1/cluster/locks/held%3A{}%3A{number}%3A{}", self.run, &secret[..4]);
        let post = |verb: &str, body: &str| {
            request("POST", address, &format!("{path}/{verb}"), "application/json", body.as_bytes())
        };
        let body = format!(r#"{{"owner":"bench","ttl_ms":{TTL_MS_LONGEST},"secret":"{secret}"}}"#);
        let reply = open.send(&post("acquire", &body)).await?;
        if reply.status != 200 || token(reply.body).is_none() {
            let words = String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]);
            return Err(io::Error::other(format!("answer {}: {words}", reply.status)));
        }
        Ok(self
            .renewed_to_ms
            .map(|ttl_ms| post("renew", &format!(r#"{{"secret":"{secret}","ttl_ms":{ttl_ms}}}"#))))
    }
}
