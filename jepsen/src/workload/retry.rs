//! One operation in several tries under one `Idempotency-Key`: it must happen once, however often it is sent.
//!
//! The first try is often cut short on purpose: its request is on its way while the next one is sent through another
//! node. Between tries others get time to write, so that a second effect would be seen.

use std::time::Duration;

use rand::RngExt;

use crate::client::{Answer, Call, Outcome, REQUEST_TIME_MAX};

use super::actor::Actor;

/// Tries of one operation.
pub(super) const ATTEMPTS_MAX: u64 = 4;
/// A first try that is cut short gets at most so many milliseconds.
const SHORT_MS_MAX: u64 = 12;
/// Share of the first tries that are cut short.
const CUT_SHORT: f64 = 0.6;
/// Longest pause between two tries, in milliseconds.
const PAUSE_MS_MAX: u64 = 60;

/// Sends `call` until an answer settles it; how often it was sent is the second part.
///
/// A refusal that the nodes keep with the key, such as 412, settles it like a success does: by the promise of the
/// key, an earlier try that happened would have been repeated instead. Any other failure says nothing about
/// earlier tries.
pub(super) async fn settle(actor: &mut Actor, first: &str, call: &Call) -> (Outcome<Answer>, u64) {
    let mut unsure = None;
    let mut outcome = Outcome::Fail("no_node".to_owned());
    for attempt in 1..=ATTEMPTS_MAX {
        let Some(node) = node(actor, first, attempt) else { break };
        let time_max = match attempt == 1 && actor.chance(CUT_SHORT) {
            true => Duration::from_millis(actor.context.rng.random_range(1..=SHORT_MS_MAX)),
            false => REQUEST_TIME_MAX,
        };
        outcome = actor.ask(&node, &call.clone().within(time_max)).await;
        match &outcome {
            Outcome::Ok(_) => return (outcome, attempt),
            Outcome::Fail(code) if is_kept(code) => return (outcome, attempt),
            Outcome::Fail(_) => {}
            Outcome::Unknown(code) => unsure = Some(code.clone()),
        }
        let pause = actor.context.rng.random_range(0..=PAUSE_MS_MAX);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    match unsure {
        Some(code) => (Outcome::Unknown(code), ATTEMPTS_MAX),
        None => (outcome, ATTEMPTS_MAX),
    }
}

/// The first try goes where the history says, later ones anywhere.
fn node(actor: &mut Actor, first: &str, attempt: u64) -> Option<super::Endpoint> {
    let nodes = actor.context.nodes.borrow().clone();
    let named = nodes.iter().find(|node| attempt == 1 && node.name == first).cloned();
    named.or_else(|| actor.any_node())
}

/// Refusals of requests that were judged, which a retry gets again.
fn is_kept(code: &str) -> bool {
    code == "revision_mismatch"
}
