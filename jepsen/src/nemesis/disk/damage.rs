//! A flipped bit and a file cut short, in the newest segment of the log or the newest snapshot of a stopped node.
//!
//! The node must refuse to start on it and name file and offset. It then gets what its operator would give it, an
//! empty disk, and must come back as a voter under a new id.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use super::{
    Begun, Effect, Env, FaultError, LOOK_EVERY, NemesisKind, REFUSAL_LIMIT, Running, Since, blocking,
};
use crate::disk::damage::{Damage, Target, Victim};
use crate::nemesis::Pick;
use crate::nemesis::env::Kept;

/// How long a node with an empty disk may take to vote again before other faults go on. A cluster that other
/// faults disturb needs longer; whether it comes back at all is seen at the end of the run.
const REJOIN_LIMIT: Duration = Duration::from_secs(20);
/// What a node says of a damaged file, besides its name.
const DAMAGED: &str = "damaged at offset";

/// A node that was started on damaged files.
#[derive(Debug)]
pub struct Damaged {
    node: String,
    /// Its id in the group before.
    raft_id: Option<String>,
    damage: Damage,
    since: Since,
}

/// How a start on damaged files ended.
#[derive(Debug)]
enum Outcome {
    /// As it has to: refused, with these words.
    Refused(String),
    /// It serves.
    Accepted,
    /// Neither in time.
    Silent,
}

pub(super) async fn start(
    kind: NemesisKind,
    env: &mut Env,
    rng: &mut StdRng,
) -> Result<Begun<Running>, FaultError> {
    let node = env.claim(rng, Pick::Any).await?;
    let raft_id = seat(env, &node).await.map(|(id, _)| id);
    let data_dir = env.disks.data_dir(&node)?;
    let wanted = if rng.random() { Target::Log } else { Target::Snapshot };
    let mut draw: StdRng = rand::SeedableRng::seed_from_u64(rng.random());
    env.cluster.kill(&node).await?;
    let damaged = blocking(move || {
        let victim = match Victim::find(&data_dir, wanted)? {
            None => Victim::find(&data_dir, Target::Log)?,
            found => found,
        };
        let Some(victim) = victim else { return Ok(None) };
        let cut = kind == NemesisKind::Truncate;
        Ok(Some(if cut { victim.truncate(&mut draw)? } else { victim.flip(&mut draw)? }))
    });
    let damaged = damaged.await;
    let since = Since::now(env, &node)?;
    // In any case: a fault that failed must not leave the node down.
    env.start(&node)?;
    env.cluster.may_exit(&node);
    let Some(damage) = damaged? else {
        return Err(FaultError::NotNow(format!("{node} has written nothing yet")));
    };
    let (targets, detail) = (vec![node.clone()], json!({ "damage": damage }));
    Ok(Begun { targets, detail, state: Running::Damage(Damaged { node, raft_id, damage, since }) })
}

pub(super) async fn heal(damaged: Damaged, env: &mut Env) -> Result<Effect, FaultError> {
    let Damaged { node, raft_id, damage, since } = damaged;
    let outcome = outcome(env, &node, &damage, &since).await?;
    env.cluster.kill(&node).await?;
    let disk = env.disks.get(&node)?.clone();
    blocking(move || disk.replace()).await?;
    env.start(&node)?;
    let replaced = Instant::now();
    let rejoined = tokio::time::timeout(REJOIN_LIMIT, async {
        loop {
            match seat(env, &node).await {
                Some((id, role)) if Some(&id) != raft_id.as_ref() && role == "voter" => return id,
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    });
    let new_id = rejoined.await.ok();
    match new_id {
        Some(_) => env.release(&node),
        // Another empty disk before this node votes again would be the end of a cluster of three.
        None => env.keep(&node, Kept::Joins(raft_id.clone())),
    }
    let findings: Vec<String> = match &outcome {
        Outcome::Accepted => vec![format!("{node} serves although its files are damaged: {damage:?}")],
        Outcome::Refused(_) | Outcome::Silent => Vec::new(),
    };
    let said = if let Outcome::Refused(said) = &outcome { Some(said) } else { None };
    let measured = json!({
        "said": said,
        "raft_id_before": raft_id,
        "raft_id_after": new_id,
        "rejoined_after_ms": new_id.as_ref().map(|_| replaced.elapsed().as_millis()),
        "findings": findings,
    });
    Ok(Effect { effective: said.is_some(), measured })
}

async fn outcome(env: &Env, node: &str, damage: &Damage, since: &Since) -> Result<Outcome, FaultError> {
    let url = env.cluster.url(node)?.to_owned();
    let waited = tokio::time::timeout(REFUSAL_LIMIT, async {
        loop {
            if let Some(line) = since.line_with(&[&damage.file, DAMAGED]) {
                return Outcome::Refused(line);
            }
            if env.cluster.admin().is_ready(&url).await {
                return Outcome::Accepted;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    Ok(waited.await.unwrap_or(Outcome::Silent))
}

/// Id and role of a node as some other node knows them.
async fn seat(env: &Env, node: &str) -> Option<(String, String)> {
    for other in env.cluster.names().iter().filter(|name| *name != node) {
        let path = format!("/api/v1/cluster/nodes/{node}?consistency=local");
        if let Ok(url) = env.cluster.url(other)
            && let Some(seen) = env.cluster.admin().get(url, &path).await
        {
            return Some((seen["raft_id"].as_str()?.to_owned(), seen["role"].as_str()?.to_owned()));
        }
    }
    None
}
