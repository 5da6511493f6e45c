//! Elections: one leader at a time, a higher token for each term, and "nobody leads" can be seen.

use rand::RngExt;
use serde_json::{Value, json};

use crate::client::{Answer, Call, Outcome, segment};

use super::Endpoint;
use super::actor::Actor;
use super::finish::number;
use super::holding::{self, Ask, Family};
use super::lock::give_back;

/// Clients per election.
const CLIENTS_PER_ELECTION: u32 = 3;
/// Leases of a term, in milliseconds.
const TTLS_MS: [u64; 3] = [500, 800, 1_500];
/// Longest wait asked for, in milliseconds.
const WAIT_MS_MAX: u64 = 1_500;
/// Share of campaigns that do not wait.
const TRY_ONLY: f64 = 0.3;
/// Share of campaigns in several tries under one idempotency key.
const RETRIED: f64 = 0.1;
/// Share of campaigns with a bound on the term.
const BOUNDED: f64 = 0.1;
/// Share of the steps at which a client only looks who leads.
const OBSERVED: f64 = 0.3;
/// Renewals of a term, at most.
const RENEWALS_MAX: u32 = 2;
/// Share of terms that are left to end by themselves.
const ABANDONED: f64 = 0.03;

/// Campaigns until the run ends.
pub(super) async fn run(actor: &mut Actor) {
    let elections = actor.objects("e", CLIENTS_PER_ELECTION);
    while actor.goes_on().await {
        let Some(node) = actor.node() else { continue };
        let name = actor.one_of(&elections).clone();
        if actor.chance(OBSERVED) {
            observe(actor, &node, &name).await;
            continue;
        }
        let ask = ask(actor, name);
        let Some(mut term) = holding::acquire(actor, &node, &ask).await else { continue };
        for _ in 0..actor.context.rng.random_range(0..=RENEWALS_MAX) {
            if term.is_sure() && !holding::use_resource(actor, &term, true) {
                break;
            }
            if !actor.goes_on_at_once() {
                return;
            }
            let Some(node) = actor.node() else { break };
            if holding::renew(actor, &node, &mut term).await == Some(false) {
                break;
            }
        }
        if !actor.chance(ABANDONED) {
            give_back(actor, &term).await;
        }
    }
}

fn ask(actor: &mut Actor, name: String) -> Ask {
    let ttl_ms = *actor.one_of(&TTLS_MS);
    let wait_ms = if actor.chance(TRY_ONLY) { 0 } else { actor.context.rng.random_range(1..=WAIT_MS_MAX) };
    Ask {
        family: Family::Election,
        max_hold_ms: actor.chance(BOUNDED).then_some(ttl_ms * 2),
        retried: actor.chance(RETRIED),
        ..Ask::lock(name, ttl_ms, wait_ms)
    }
}

/// Who leads and who wants to, linearizable.
async fn observe(actor: &mut Actor, node: &Endpoint, name: &str) {
    let invocation = actor.begin("observe", Some(name), Some(node), Value::Null);
    let call = Call::get(format!("/api/v1/cluster/elections/{}", segment(name)));
    let outcome = actor.ask(node, &call).await.and_then(|answer| seen(&answer));
    actor.end(&invocation, outcome);
}

fn seen(answer: &Answer) -> Outcome<Value> {
    let body = answer.json();
    let Some(candidates) = body["candidates"].as_array() else {
        return Outcome::Unknown(format!("no election: {body}"));
    };
    let queue: Vec<_> = candidates.iter().map(|candidate| &candidate["candidate"]).collect();
    let leader = &body["leader"];
    Outcome::Ok(json!({
        "token": number(&leader["fencing_token"]),
        "candidate": leader["candidate"],
        "queue": queue,
    }))
}
