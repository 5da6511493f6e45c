//! A disk without room. On a disk of its own it is really full: somebody else's file has taken it all. On a plain
//! folder writing and allocating fail as if it were.
//!
//! A node has room set aside (segments that were made ready), so that it notices late. Large values are written
//! through another node meanwhile, until it says that its disk is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use serde_json::json;
use tokio::task::JoinHandle;

use super::syncs::begin;
use super::{Begun, Effect, Env, FaultError, LOOK_EVERY, Running, Since, blocking, restart};
use crate::disk::filler::Filler;
use crate::disk::injection::{Failure, Injected, Injection};
use crate::nemesis::Pick;

/// Key that is written over and over; no workload uses it.
const BULK_KEY: &str = "/api/v1/cluster/kv/nemesis-bulk";
/// Size of the values: near the most that a register takes.
const BULK_BYTES: usize = 60_000;
/// All together: more than a node has set aside.
const BULK_BYTES_MAX: u64 = 128 * 1_024 * 1_024;
/// How long one large write may take before the next one.
const BULK_LIMIT: Duration = Duration::from_secs(2);
/// After a write that was refused.
const BULK_PAUSE: Duration = Duration::from_millis(50);
/// How long the fault goes on at most when it is time to heal it and the node has not noticed yet.
const NOTICE_LIMIT: Duration = Duration::from_secs(40);
/// It does so only as long as large writes are acknowledged at all: other faults may be in their way.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// How a node names the cause: the system's words.
const FULL: &str = "No space left";
/// Nothing has so much set aside. A node that takes it on a full disk does not look at what the disk says.
const BULK_BYTES_SUSPECT: u64 = 96 * 1_024 * 1_024;

/// A node without room.
#[derive(Debug)]
pub struct Full {
    node: String,
    since: Since,
    cause: Cause,
    bulk: Bulk,
}

#[derive(Debug)]
enum Cause {
    Filler(Filler),
    Injection(Injection),
}

pub(super) async fn start(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let node = env.claim(rng, Pick::Any).await?;
    let since = Since::now(env, &node)?;
    let (cause, detail) = match env.disks.get(&node)?.image() {
        Ok(image) => {
            let mount_point = image.mount_point().to_path_buf();
            let filler = blocking(move || Filler::fill(&mount_point)).await?;
            let detail = json!({ "taken_bytes": filler.bytes, "free_bytes": filler.free_bytes });
            (Cause::Filler(filler), detail)
        }
        Err(_) => {
            let injection = begin(env, &node, Failure::NoRoom).await?;
            (Cause::Injection(injection), json!({ "error": "ENOSPC" }))
        }
    };
    env.cluster.may_exit(&node);
    let others: Vec<String> = env.cluster.names().into_iter().filter(|name| *name != node).collect();
    let urls =
        others.iter().map(|name| Ok(env.cluster.url(name)?.to_owned())).collect::<Result<_, FaultError>>()?;
    let bulk = Bulk::start(urls, env.cluster.admin().token().to_owned());
    let targets = vec![node.clone()];
    Ok(Begun { targets, detail, state: Running::Full(Full { node, since, cause, bulk }) })
}

pub(super) async fn heal(full: Full, env: &mut Env) -> Result<Effect, FaultError> {
    let Full { node, since, cause, bulk } = full;
    let said = notice(&since, &bulk).await;
    let bulk_bytes = bulk.stop().await;
    let (took_nothing, injected) = match cause {
        Cause::Filler(filler) => (blocking(move || filler.is_full()).await?, None),
        Cause::Injection(injection) => {
            let injected = blocking(move || injection.stop()).await?;
            (injected.calls > 0, Some(injected))
        }
    };
    // Room again: a node that stopped over it needs one restart, as its operator would give it.
    let stopped = since.stopped().is_some();
    let mut findings = Vec::new();
    if stopped {
        findings.extend(restart(env, &node).await?);
    } else if refused_writes(injected.as_ref(), bulk_bytes) {
        let failed = injected.as_ref().map_or(0, |injected| injected.log_calls);
        findings
            .push(format!("{node} took {bulk_bytes} bytes without room ({failed} calls on its log failed)"));
    }
    env.release(&node);
    let measured = json!({
        "said": said, "stopped": stopped, "took_nothing": took_nothing, "bulk_bytes": bulk_bytes, "failed": injected, "findings": findings,
    });
    Ok(Effect { effective: said.is_some() || took_nothing, measured })
}

/// Waits until the node says that its disk is full; what it said.
async fn notice(since: &Since, bulk: &Bulk) -> Option<String> {
    let began = tokio::time::Instant::now();
    let (mut bytes, mut moved) = (bulk.bytes(), began);
    loop {
        if let Some(said) = since.line_with(&[FULL]) {
            return Some(said);
        }
        if bulk.bytes() != bytes {
            (bytes, moved) = (bulk.bytes(), tokio::time::Instant::now());
        }
        // A busy machine may take long to write so much; more would show nothing more.
        let is_enough = bytes >= BULK_BYTES_SUSPECT;
        if is_enough || began.elapsed() > NOTICE_LIMIT || moved.elapsed() > STALL_LIMIT {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the log of the node must have met the full disk.
fn refused_writes(injected: Option<&Injected>, bulk_bytes: u64) -> bool {
    match injected {
        Some(injected) => injected.log_calls > 0,
        None => bulk_bytes >= BULK_BYTES_SUSPECT,
    }
}

/// Large writes in the background.
#[derive(Debug)]
struct Bulk {
    task: JoinHandle<()>,
    acknowledged: Arc<AtomicU64>,
}

impl Bulk {
    fn start(urls: Vec<String>, token: String) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&acknowledged);
        let task = tokio::spawn(async move {
            let client = reqwest::Client::builder().no_proxy().timeout(BULK_LIMIT).build();
            let client = client.expect("no TLS and no proxy: nothing to fail");
            for url in urls.iter().cycle() {
                if counter.load(Ordering::Relaxed) >= BULK_BYTES_MAX {
                    return;
                }
                let put =
                    client.put(format!("{url}{BULK_KEY}")).bearer_auth(&token).body(vec![b'x'; BULK_BYTES]);
                match put.send().await {
                    Ok(answer) if answer.status().is_success() => {
                        counter.fetch_add(BULK_BYTES as u64, Ordering::Relaxed);
                    }
                    _ => tokio::time::sleep(BULK_PAUSE).await,
                }
            }
        });
        Self { task, acknowledged }
    }

    /// Bytes that were acknowledged so far.
    fn bytes(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Bytes that were acknowledged in all.
    async fn stop(mut self) -> u64 {
        self.task.abort();
        // Aborted or at its end: it writes nothing more.
        let _ = (&mut self.task).await;
        self.bytes()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.task.abort();
    }
}
