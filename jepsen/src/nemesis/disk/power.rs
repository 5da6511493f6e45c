//! Power loss of one node, or of all at once.

use rand::rngs::StdRng;
use rustix::process::Signal;
use serde_json::json;

use super::{Begun, Effect, Env, FaultError, Running, blocking};
use crate::disk::{Image, PowerLoss};
use crate::nemesis::Pick;

/// Nodes without power, and what they lost.
#[derive(Debug)]
pub struct Down {
    losses: Vec<(String, PowerLoss)>,
}

pub(super) async fn one(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let node = env.claim(rng, Pick::Any).await?;
    cut(env, vec![node]).await
}

pub(super) async fn all(env: &mut Env) -> Result<Begun<Running>, FaultError> {
    let nodes = env.claim_all()?;
    cut(env, nodes).await
}

async fn cut(env: &mut Env, nodes: Vec<String>) -> Result<Begun<Running>, FaultError> {
    let images: Vec<Image> =
        nodes.iter().map(|node| env.disks.get(node)?.image().cloned()).collect::<Result<_, _>>()?;
    for node in &nodes {
        env.cluster.node(node)?.signal(Signal::KILL)?;
    }
    for node in &nodes {
        env.cluster.kill(node).await?;
    }
    // All at the same time, each as soon as it can: the kernel writes back what is dirty sooner or later.
    let tasks: Vec<_> =
        images.into_iter().map(|image| tokio::spawn(blocking(move || image.lose_power()))).collect();
    let mut losses = Vec::new();
    for (node, task) in nodes.iter().zip(tasks) {
        let lost = task.await.map_err(|panic| FaultError::Failed(panic.to_string()))?;
        losses.push((node.clone(), lost?));
    }
    let detail =
        json!({ "losses": losses.iter().map(|(node, loss)| json!({ node: loss })).collect::<Vec<_>>() });
    Ok(Begun { targets: nodes, detail, state: Running::Power(Down { losses }) })
}

pub(super) fn heal(down: &Down, env: &mut Env) -> Result<Effect, FaultError> {
    for (node, _) in &down.losses {
        if !env.cluster.is_running(node) {
            env.start(node)?;
        }
        env.release(node);
    }
    let sum =
        |figure: fn(&PowerLoss) -> usize| down.losses.iter().map(|(_, loss)| figure(loss)).sum::<usize>();
    let effective = down.losses.iter().all(|(_, loss)| loss.is_effective());
    let measured = json!({
        "nodes": down.losses.len(),
        "unsynced_canaries_lost": sum(|loss| usize::from(loss.unsynced_canary_lost)),
        "synced_canaries_kept": sum(|loss| usize::from(loss.synced_canary_kept)),
        "files_changed": sum(|loss| loss.files_changed),
        "blocks_lost": sum(|loss| loss.blocks_lost),
    });
    Ok(Effect { effective: effective && !down.losses.is_empty(), measured })
}
