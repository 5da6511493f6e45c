//! A node is emptied of its sessions, and taken back into service when it is empty.
//!
//! Nothing goes down: a drained node votes and serves everything but sockets, so it is not claimed, and other faults may
//! hit it meanwhile. Ending the fault waits until nobody is left there, with all other faults healed; a drain that does
//! not come to zero then is a finding.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Begun, Effect, Env, FaultError};
use crate::client::{Answer, Call, Client, Outcome, segment};
use crate::workload::number;

/// Sessions per second that are asked to go.
const RATE_PER_S: u32 = 20;
/// How long the last clients may take once nothing else is wrong: those that do not go when they are asked are closed
/// after ten seconds.
const EMPTY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a resume may take to be answered.
const RESUME_PATIENCE: Duration = Duration::from_secs(30);
/// One call of it.
const CALL_TIME_MAX: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A drain at work.
#[derive(Debug)]
pub struct Running {
    node: String,
    /// A node that comes back with an empty disk is another one, and drained no more.
    raft_id: Option<String>,
    /// Sockets that it had.
    total: u64,
}

/// How far a drain is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// So many are left.
    Left(u64),
    /// It is not being drained.
    Over,
}

/// Begins a drain.
pub(super) async fn start(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let chosen = env.unclaimed().choose(rng).cloned();
    let node = chosen.ok_or_else(|| FaultError::NotNow("no node is well".to_owned()))?;
    let path = format!("/api/v1/cluster/nodes/{}/drain", segment(&node));
    let call = Call::post(path, &json!({ "rate_per_s": RATE_PER_S }));
    let total = match ask(env, &call).await {
        Outcome::Ok(answer) => number(&answer.json()["total"]).unwrap_or(0),
        Outcome::Fail(code) if code == "not_found" || code == "http_404" => {
            return Err(FaultError::NotPossible("these nodes know no drain".to_owned()));
        }
        Outcome::Fail(code) => return Err(FaultError::NotNow(code)),
        Outcome::Unknown(code) => {
            // It may be drained, or become so.
            resume(env, &node).await?;
            return Err(FaultError::NotNow(code));
        }
    };
    let raft_id = member(env, &node).await.and_then(|member| Some(member["raft_id"].as_str()?.to_owned()));
    let detail = json!({ "sockets": total, "rate_per_s": RATE_PER_S });
    Ok(Begun { targets: vec![node.clone()], detail, state: Running { node, raft_id, total } })
}

/// Whether nobody is left.
pub(super) async fn is_settled(running: &Running, env: &Env) -> bool {
    !matches!(progress(env, &running.node).await, Some(Progress::Left(left)) if left > 0)
}

/// Waits until nobody is left, then takes the node back.
pub(super) async fn heal(running: Running, env: &mut Env) -> Result<Effect, FaultError> {
    let Running { node, raft_id, total } = running;
    let deadline = Instant::now() + EMPTY_PATIENCE;
    let mut last = progress(env, &node).await;
    while !matches!(last, Some(Progress::Left(0) | Progress::Over)) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
        last = progress(env, &node).await.or(last);
    }
    let member = member(env, &node).await;
    let status = member.as_ref().and_then(|member| member["status"].as_str().map(str::to_owned));
    let is_same = member.as_ref().and_then(|member| member["raft_id"].as_str()) == raft_id.as_deref();
    let mut findings = Vec::new();
    match &last {
        Some(Progress::Left(0)) => {}
        Some(Progress::Left(left)) => {
            findings.push(format!("{node} was drained and kept {left} sessions for {EMPTY_PATIENCE:?}"));
        }
        Some(Progress::Over) if is_same => findings.push(format!("the drain of {node} was forgotten")),
        Some(Progress::Over) | None => {}
    }
    let left = match last {
        Some(Progress::Left(left)) => Some(left),
        _ => None,
    };
    resume(env, &node).await?;
    let measured = json!({
        "sockets": total,
        "left": left,
        "status": status,
        "same_member": is_same,
        "findings": findings,
    });
    // Seen by others as drained, by its status or because only the drain's own record says so while it is suspect.
    Ok(Effect { effective: left.is_some() || !is_same, measured })
}

async fn progress(env: &Env, node: &str) -> Option<Progress> {
    let call = Call::get(format!("/api/v1/cluster/nodes/{}/drain", segment(node)));
    match ask(env, &call).await {
        Outcome::Ok(answer) => number(&answer.json()["left"]).map(Progress::Left),
        Outcome::Fail(code) if code == "not_draining" || code == "unknown_node" => Some(Progress::Over),
        Outcome::Fail(_) | Outcome::Unknown(_) => None,
    }
}

/// Takes the node back, whatever it takes.
async fn resume(env: &Env, node: &str) -> Result<(), FaultError> {
    let call = Call::new(reqwest::Method::POST, format!("/api/v1/cluster/nodes/{}/resume", segment(node)));
    let deadline = Instant::now() + RESUME_PATIENCE;
    loop {
        let why = match ask(env, &call).await {
            Outcome::Ok(_) => return Ok(()),
            Outcome::Fail(code) if code == "not_draining" || code == "unknown_node" => return Ok(()),
            Outcome::Fail(code) | Outcome::Unknown(code) => code,
        };
        if Instant::now() >= deadline {
            return Err(FaultError::Failed(format!("{node} could not be taken back: {why}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn member(env: &Env, node: &str) -> Option<Value> {
    let answer = ask(env, &Call::get(format!("/api/v1/cluster/nodes/{}", segment(node)))).await;
    match answer {
        Outcome::Ok(answer) => Some(answer.json()),
        Outcome::Fail(_) | Outcome::Unknown(_) => None,
    }
}

/// Asks one node after the other until one settles it; what the last one said.
async fn ask(env: &Env, call: &Call) -> Outcome<Answer> {
    let mut last = Outcome::Fail("no_node".to_owned());
    let Ok(client) = Client::new() else { return last };
    let token = format!("Bearer {}", env.cluster.admin().token());
    let call = call.clone().header("authorization", token).within(CALL_TIME_MAX);
    for name in env.cluster.names().into_iter().filter(|name| env.cluster.is_running(name)) {
        let Ok(url) = env.cluster.url(&name) else { continue };
        let said = client.ask(url, &call).await;
        let is_settled = match &said {
            Outcome::Ok(_) => true,
            Outcome::Fail(code) => !matches!(code.as_str(), "no_leader" | "draining" | "refused" | "lagging"),
            Outcome::Unknown(_) => false,
        };
        if is_settled {
            return said;
        }
        // What may have happened is not forgotten over what surely did not.
        if !matches!((&last, &said), (Outcome::Unknown(_), Outcome::Fail(_))) {
            last = said;
        }
    }
    last
}
