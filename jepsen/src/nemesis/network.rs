//! Faults of the network: partitions and bad links.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use serde_json::json;

use super::{Begun, Effect, Env, FaultError, NemesisKind};
use crate::net::{Impairment, Imposed, NetKind, Pair};

/// A fault at work.
#[derive(Debug)]
pub struct Running {
    imposed: Imposed,
}

/// Says why a fault of this family cannot be made in this run, if so.
pub(super) fn possible(kind: NemesisKind, env: &Env) -> Result<(), String> {
    let frames_only = matches!(kind, NemesisKind::Loss | NemesisKind::Duplicate | NemesisKind::Reorder);
    if frames_only && env.network.kind() == NetKind::Proxy {
        return Err(
            "a TCP proxy cannot lose, double or reorder what TCP carries: needs --net netns".to_owned()
        );
    }
    if kind == NemesisKind::PartitionBridge && env.cluster.names().len() < 3 {
        return Err("a bridge needs three nodes".to_owned());
    }
    if env.cluster.names().len() < 2 {
        return Err("a network needs two nodes".to_owned());
    }
    Ok(())
}

/// Begins a fault of this family.
pub(super) async fn start(
    kind: NemesisKind,
    env: &mut Env,
    rng: &mut StdRng,
) -> Result<Begun<Running>, FaultError> {
    possible(kind, env).map_err(FaultError::NotPossible)?;
    let mut nodes = env.cluster.names();
    if kind == NemesisKind::PartitionLeader {
        let leader = env.cluster.leader().await;
        let leader = leader.ok_or_else(|| FaultError::NotNow("nobody leads".to_owned()))?;
        // The others keep their order; the leader is the one that is cut off.
        nodes.retain(|node| *node != leader);
        nodes.insert(0, leader);
    } else {
        nodes.shuffle(rng);
    }
    let pairs = pairs(kind, &nodes, rng);
    let impairment = impairment(kind, rng);
    let imposed = env.network.links().impose(&pairs, impairment);
    let targets: BTreeSet<String> = pairs.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect();
    let links: Vec<String> = pairs.iter().map(|(from, to)| format!("{from}->{to}")).collect();
    let detail = json!({ "impairment": impairment, "links": links });
    Ok(Begun { targets: targets.into_iter().collect(), detail, state: Running { imposed } })
}

/// Whether anything was hit so far.
pub(super) fn shows_effect(running: &Running, env: &Env) -> bool {
    env.network.links().hits(&running.imposed).frames > 0
}

/// Ends a fault of this family.
pub(super) fn heal(running: Running, env: &mut Env) -> Effect {
    let hits = env.network.links().lift(running.imposed);
    Effect { effective: hits.frames > 0, measured: json!(hits) }
}

/// The links that suffer, of nodes in the order in which chance has put them.
fn pairs(kind: NemesisKind, nodes: &[String], rng: &mut impl Rng) -> Vec<Pair> {
    let halves = nodes.len() / 2;
    match kind {
        NemesisKind::PartitionOne | NemesisKind::PartitionLeader => {
            both_ways(between(&nodes[..1], &nodes[1..]))
        }
        NemesisKind::PartitionHalves => both_ways(between(&nodes[..halves], &nodes[halves..])),
        NemesisKind::PartitionOneway if rng.random() => between(&nodes[..1], &nodes[1..]),
        NemesisKind::PartitionOneway => between(&nodes[1..], &nodes[..1]),
        // The first is the bridge.
        NemesisKind::PartitionBridge => {
            let middle = 1 + (nodes.len() - 1) / 2;
            both_ways(between(&nodes[1..middle], &nodes[middle..]))
        }
        // Bad links are bad everywhere, or only around one node.
        _ if rng.random() => both_ways(between(&nodes[..1], &nodes[1..])),
        _ => nodes.iter().flat_map(|from| between(std::slice::from_ref(from), nodes)).collect(),
    }
}

fn between(from: &[String], to: &[String]) -> Vec<Pair> {
    let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone())));
    pairs.filter(|(from, to)| from != to).collect()
}

fn both_ways(pairs: Vec<Pair>) -> Vec<Pair> {
    pairs.into_iter().flat_map(|(from, to)| [(from.clone(), to.clone()), (to, from)]).collect()
}

/// How bad, from a few steps between bothersome and nearly unusable.
fn impairment(kind: NemesisKind, rng: &mut impl Rng) -> Impairment {
    let mut step = |steps: [u64; 4]| *steps.choose(rng).unwrap_or(&steps[0]);
    let percent = |percent: u64| percent as f64 / 100.0;
    match kind {
        NemesisKind::Loss => Impairment::Loss { probability: percent(step([2, 5, 15, 30])) },
        NemesisKind::Delay => {
            let by = Duration::from_millis(step([5, 20, 60, 150]));
            Impairment::Delay { by, jitter: by }
        }
        NemesisKind::Duplicate => Impairment::Duplicate { probability: percent(step([5, 10, 30, 60])) },
        NemesisKind::Reorder => {
            let probability = percent(step([5, 10, 25, 50]));
            Impairment::Reorder { probability, by: Duration::from_millis(step([2, 5, 10, 30])) }
        }
        NemesisKind::Rate => Impairment::Rate { bytes_per_second: 1_000 * step([16, 32, 64, 128]) },
        _ => Impairment::Cut,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn nodes(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("n{number}")).collect()
    }

    fn shown(kind: NemesisKind, count: usize, seed: u64) -> Vec<String> {
        let mut pairs = pairs(kind, &nodes(count), &mut StdRng::seed_from_u64(seed));
        pairs.sort();
        pairs.into_iter().map(|(from, to)| format!("{from}{to}")).collect()
    }

    #[test]
    fn partitions_cut_what_their_name_says() {
        let first_alone = ["n1n2", "n1n3", "n2n1", "n3n1"];
        assert_eq!(shown(NemesisKind::PartitionOne, 3, 0), first_alone);
        assert_eq!(shown(NemesisKind::PartitionLeader, 3, 0), first_alone);
        assert_eq!(shown(NemesisKind::PartitionHalves, 3, 0), first_alone);
        assert_eq!(shown(NemesisKind::PartitionHalves, 5, 0).len(), 2 * 2 * 3);
        assert_eq!(shown(NemesisKind::PartitionBridge, 3, 0), ["n2n3", "n3n2"]);
        let bridge = shown(NemesisKind::PartitionBridge, 5, 0);
        assert_eq!(bridge, ["n2n4", "n2n5", "n3n4", "n3n5", "n4n2", "n4n3", "n5n2", "n5n3"]);
    }

    #[test]
    fn one_way_is_one_of_the_two_ways() {
        let seen: BTreeSet<Vec<String>> =
            (0..20).map(|seed| shown(NemesisKind::PartitionOneway, 3, seed)).collect();
        let (deaf, mute) = (["n2n1", "n3n1"], ["n1n2", "n1n3"]);
        assert_eq!(
            seen,
            BTreeSet::from([deaf.map(str::to_owned).to_vec(), mute.map(str::to_owned).to_vec()])
        );
    }

    #[test]
    fn bad_links_are_everywhere_or_around_one_node() {
        let seen: BTreeSet<usize> = (0..20).map(|seed| shown(NemesisKind::Loss, 5, seed).len()).collect();
        assert_eq!(seen, BTreeSet::from([8, 20]));
    }
}
