//! Syncs that fail, and syncs that take long.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use super::{Begun, Effect, Env, FaultError, LOOK_EVERY, Running, Since, blocking, refusal, restart};
use crate::cluster::NodeError;
use crate::disk::injection::{self, Failure, Injection};
use crate::nemesis::Pick;

/// How much longer a slow sync takes, in milliseconds: at least, at most.
const SLOW_BY_MS: (u64, u64) = (20, 200);
/// How long a fault that has not hit yet may go on: until the node syncs something.
const HIT_LIMIT: Duration = Duration::from_secs(10);

/// An injection into one node.
#[derive(Debug)]
pub struct Injected {
    node: String,
    failure: Failure,
    injection: Injection,
    since: Since,
}

pub(super) async fn fail(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let node = env.claim(rng, Pick::Any).await?;
    let begun = inject(env, node.clone(), Failure::SyncFails).await?;
    env.cluster.may_exit(&node);
    Ok(begun)
}

/// A slow node is no missing node, but it is claimed: the injection ends with the process, and a fault that kills it
/// before it has synced anything would leave this one without an effect.
pub(super) async fn slow(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let node = env.claim(rng, Pick::Any).await?;
    let by = Duration::from_millis(rng.random_range(SLOW_BY_MS.0..=SLOW_BY_MS.1));
    inject(env, node, Failure::SyncIsSlow(by)).await
}

async fn inject(env: &Env, node: String, failure: Failure) -> Result<Begun<Running>, FaultError> {
    let since = Since::now(env, &node)?;
    let injection = begin(env, &node, failure).await?;
    let detail = match failure {
        Failure::SyncIsSlow(by) => json!({ "slower_by_ms": by.as_millis() }),
        _ => json!({ "error": "EIO" }),
    };
    let targets = vec![node.clone()];
    Ok(Begun { targets, detail, state: Running::Syncs(Injected { node, failure, injection, since }) })
}

/// Begins an injection into a node that nobody traces yet.
pub(super) async fn begin(env: &Env, node: &str, failure: Failure) -> Result<Injection, FaultError> {
    let pid = env.cluster.pid(node).ok_or_else(|| NodeError::NotRunning(node.to_owned()))?;
    if injection::is_under_way(pid)? {
        return Err(FaultError::NotNow(format!("another fault injects into {node}")));
    }
    let starts = env.cluster.node(node)?.starts();
    let log = env.cluster.node(node)?.log();
    let output = log.with_file_name(format!("{node}-{pid}-{starts}-{}.strace", failure.name()));
    blocking(move || Injection::start(pid, failure, &output)).await
}

pub(super) async fn heal(injected: Injected, env: &mut Env) -> Result<Effect, FaultError> {
    let Injected { node, failure, injection, since } = injected;
    let until = tokio::time::Instant::now() + HIT_LIMIT;
    while injection.injected()?.log_calls == 0
        && env.cluster.is_running(&node)
        && tokio::time::Instant::now() < until
    {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let counted = blocking(move || injection.stop()).await?;
    if failure != Failure::SyncFails {
        env.release(&node);
        return Ok(Effect { effective: counted.calls > 0, measured: json!({ "delayed": counted }) });
    }
    let mut findings = Vec::new();
    let mut said = since.stopped();
    if counted.log_calls > 0 {
        let ready;
        (said, ready) = refusal(env, &node, &since).await?;
        if said.is_none() || ready {
            let calls = counted.log_calls;
            findings.push(format!("{node}: {calls} syncs of its log failed; ready: {ready}; said: {said:?}"));
        }
    }
    findings.extend(restart(env, &node).await?);
    env.release(&node);
    let effective = counted.calls > 0 && said.is_some();
    Ok(Effect { effective, measured: json!({ "failed": counted, "said": said, "findings": findings }) })
}
