//! Who asked first gets first.
//!
//! Clients crowd in front of few locks, and somebody looks at the queues: an owner that was seen waiting before
//! another one asked must come before it. Some wait for a short time only and must not get the lock after it.

use rand::RngExt;
use serde_json::{Value, json};

use crate::client::{Answer, Call, Outcome, segment};

use super::Endpoint;
use super::actor::Actor;
use super::finish::number;
use super::holding::{self, Ask};
use super::lock::give_back;

/// Clients per lock.
const CLIENTS_PER_LOCK: u32 = 5;
/// Lease, in milliseconds.
const TTL_MS: u64 = 600;
/// Waits that mostly last until the lock comes, in milliseconds.
const WAIT_MS: std::ops::RangeInclusive<u64> = 2_000..=3_500;
/// Waits that often end without it, in milliseconds.
const SHORT_WAIT_MS: std::ops::RangeInclusive<u64> = 5..=150;
/// Share of those.
const SHORT_WAITS: f64 = 0.3;
/// Share of requests in several tries under one idempotency key: they keep their place.
const RETRIED: f64 = 0.1;
/// Share of the steps at which a client looks at a queue instead of joining it.
const LOOKS: f64 = 0.35;
/// Looks at the queue while the lock is held, at most.
const LOOKS_WHILE_HELD_MAX: u32 = 2;
/// Share of holdings that are left to end by themselves: the whole queue waits for that.
const ABANDONED: f64 = 0.02;

/// Queues until the run ends.
pub(super) async fn run(actor: &mut Actor) {
    let locks = actor.objects("f", CLIENTS_PER_LOCK);
    while actor.goes_on().await {
        let Some(node) = actor.node() else { continue };
        let key = actor.one_of(&locks).clone();
        if actor.chance(LOOKS) {
            look(actor, &node, &key).await;
            continue;
        }
        let waits = if actor.chance(SHORT_WAITS) { SHORT_WAIT_MS } else { WAIT_MS };
        let wait_ms = actor.context.rng.random_range(waits);
        let ask = Ask { retried: actor.chance(RETRIED), ..Ask::lock(key.clone(), TTL_MS, wait_ms) };
        let Some(holding) = holding::acquire(actor, &node, &ask).await else { continue };
        for _ in 0..actor.context.rng.random_range(0..=LOOKS_WHILE_HELD_MAX) {
            if !actor.goes_on_at_once() {
                return;
            }
            look(actor, &node, &key).await;
        }
        if !actor.chance(ABANDONED) {
            give_back(actor, &holding).await;
        }
    }
}

/// Who holds the lock and who waits, linearizable.
async fn look(actor: &mut Actor, node: &Endpoint, key: &str) {
    let invocation = actor.begin("queue", Some(key), Some(node), Value::Null);
    let call = Call::get(format!("/api/v1/cluster/locks/{}", segment(key)));
    let outcome = actor.send(node, &call).await.and_then(seen);
    actor.end(&invocation, outcome);
}

/// A lock that nobody holds or waits for is unknown to the nodes: nobody stands there.
fn seen(answer: Answer) -> Outcome<Value> {
    if answer.status == 404 && answer.json()["code"] == "unknown_lock" {
        return Outcome::Ok(json!({ "holder_tokens": [], "queue": [] }));
    }
    answer.outcome().and_then(|answer| {
        let body = answer.json();
        let (Some(holders), Some(queue)) = (body["holders"].as_array(), body["queue"].as_array()) else {
            return Outcome::Unknown(format!("no lock: {body}"));
        };
        let tokens: Vec<_> = holders.iter().map(|holder| number(&holder["fencing_token"])).collect();
        let owners: Vec<_> = queue.iter().map(|waiter| &waiter["owner"]).collect();
        Outcome::Ok(json!({ "holder_tokens": tokens, "queue": owners }))
    })
}
