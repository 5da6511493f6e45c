//! What is read after the heal: whatever was acknowledged is still there, and all nodes have the same state.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Answer, Call, Outcome};

use super::actor::Actor;
use super::{ClientContext, Endpoint, Pace, WorkloadError, register};

/// Nodes that were healed agree within this time.
const CONVERGE_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two looks at them.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Looks at a state that moves on between any two of them.
const STATE_LOOKS_MAX: usize = 10;
/// Readers at work at once.
const READERS: usize = 8;

/// Reads every register of the run through every node. A node that is ready may lose its leader once more before
/// all is quiet: who gets no answer asks again, as long as nodes may take to agree.
pub(super) async fn registers(context: &mut ClientContext) -> Result<(), WorkloadError> {
    let nodes = context.nodes.borrow().clone();
    let keys = context.shared.all_registers();
    let deadline = Instant::now() + CONVERGE_TIME_MAX;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let (mut actor, nodes) = (actor(context)?, nodes.clone());
        let keys: Vec<_> = keys.iter().skip(reader).step_by(READERS).cloned().collect();
        readers.spawn(async move {
            for key in keys {
                for node in &nodes {
                    while register::read(&mut actor, node, &key, "final-read").await.is_none()
                        && Instant::now() < deadline
                    {
                        tokio::time::sleep(LOOK_PERIOD).await;
                    }
                }
            }
        });
    }
    readers.join_all().await;
    Ok(())
}

fn actor(context: &mut ClientContext) -> Result<Actor, WorkloadError> {
    Actor::new(context.fork(Pace::new(0.0)))
}

/// Records the state hash of every node, once all of them have applied the same index or the time is over.
pub(super) async fn hashes(context: &mut ClientContext) -> Result<(), WorkloadError> {
    let nodes = context.nodes.borrow().clone();
    let mut looking = Vec::new();
    for node in nodes {
        let actor = actor(context)?;
        let invocation = actor.begin("final-hash", None, Some(&node), Value::Null);
        looking.push((actor, node, invocation));
    }
    let deadline = Instant::now() + CONVERGE_TIME_MAX;
    loop {
        // All at once: the index moves on while leases end.
        let mut looks = JoinSet::new();
        for (place, (mut actor, node, invocation)) in looking.drain(..).enumerate() {
            looks.spawn(async move {
                let outcome = state(&mut actor, &node).await;
                (place, actor, node, invocation, outcome)
            });
        }
        let mut looked = looks.join_all().await;
        looked.sort_by_key(|(place, ..)| *place);
        let indexes: Vec<_> = looked.iter().map(|(.., outcome)| index(outcome)).collect();
        let agreed = indexes.iter().all(|index| index.is_some() && *index == indexes[0]);
        if agreed || Instant::now() >= deadline {
            for (_, mut actor, _, invocation, outcome) in looked {
                actor.end(&invocation, outcome);
            }
            return Ok(());
        }
        looking =
            looked.into_iter().map(|(_, actor, node, invocation, _)| (actor, node, invocation)).collect();
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

fn index(outcome: &Outcome<Value>) -> Option<u64> {
    match outcome {
        Outcome::Ok(state) => state["applied_index"].as_u64(),
        _ => None,
    }
}

/// Index, hash and members of one node.
async fn state(actor: &mut Actor, node: &Endpoint) -> Outcome<Value> {
    let members = actor.ask(node, &Call::get("/api/v1/cluster/nodes?consistency=local")).await;
    let members = match members {
        Outcome::Ok(answer) => members_of(&answer),
        Outcome::Fail(code) => return Outcome::Fail(code),
        Outcome::Unknown(code) => return Outcome::Unknown(code),
    };
    settled(actor, node).await.map(|(applied_index, state_hash)| {
        json!({ "applied_index": applied_index, "state_hash": state_hash, "members": members })
    })
}

/// Index and hash of the state of one node. A node looks at the index first and at the state then, which may have
/// moved on: they belong together once two answers in a row say the same.
async fn settled(actor: &mut Actor, node: &Endpoint) -> Outcome<(Option<u64>, Value)> {
    let call = Call::get("/api/v1/cluster?consistency=local");
    let mut before = None;
    for _ in 0..STATE_LOOKS_MAX {
        let now = actor.ask(node, &call).await.map(|answer| {
            let body = answer.json();
            (number(&body["applied_index"]), body["state_hash"].clone())
        });
        match now {
            Outcome::Ok(now) if before.as_ref() == Some(&now) => return Outcome::Ok(now),
            Outcome::Ok(now) => before = Some(now),
            other => return other,
        }
    }
    Outcome::Unknown("moves_on".to_owned())
}

fn members_of(answer: &Answer) -> Vec<Value> {
    let body = answer.json();
    let nodes = body["nodes"].as_array().cloned().unwrap_or_default();
    let shown = |node: &Value| {
        json!({
            "id": node["id"],
            "raft_id": number(&node["raft_id"]),
            "role": node["role"],
            "status": node["status"],
        })
    };
    let mut members: Vec<_> = nodes.iter().map(shown).collect();
    members.sort_by_key(|member| member["raft_id"].as_u64());
    members
}

/// The API shows long numbers as strings.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
