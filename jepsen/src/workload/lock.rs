//! Exclusive locks and what they protect.
//!
//! A client takes a lock, uses the resource behind it some times, renews meanwhile and gives the lock back. At times
//! it sleeps past its lease and goes on as if nothing had happened, as a process does that was swapped out or is
//! collecting garbage. Then somebody else may have the lock: a resource with a fence keeps the sleeper out, one
//! without takes its write. At times it just leaves, and its lease must run out.

use std::time::Duration;

use rand::RngExt;

use super::actor::Actor;
use super::holding::{self, Ask, Holding};

/// Clients per lock.
const CLIENTS_PER_LOCK: u32 = 3;
/// Leases asked for, in milliseconds.
const TTLS_MS: [u64; 4] = [500, 600, 800, 1_500];
/// Longest wait asked for, in milliseconds.
const WAIT_MS_MAX: u64 = 1_200;
/// Share of requests that do not wait.
const TRY_ONLY: f64 = 0.3;
/// Share of requests that are made in several tries under one idempotency key.
const RETRIED: f64 = 0.15;
/// Share of requests with a bound on the holding that renewal cannot pass.
const BOUNDED: f64 = 0.1;
/// Uses of the resource per holding, at most.
const USES_MAX: u32 = 3;
/// Share of the pauses between two uses that renew the lease.
const RENEWED: f64 = 0.3;
/// Share of holdings in which the client sleeps past its lease.
const OVERSLEPT: f64 = 0.02;
/// The same where nothing protects the resource: there it is the point.
const OVERSLEPT_UNFENCED: f64 = 0.06;
/// How far past it, in milliseconds.
const OVERSLEPT_MS_MAX: u64 = 400;
/// Share of holdings that are left to end by themselves.
const ABANDONED: f64 = 0.02;
/// Share of the locks that were given back and are given back once more: the secret must be worth nothing by then.
const GIVEN_BACK_TWICE: f64 = 0.05;
/// How often a client tries to give back what it holds.
const RELEASE_TRIES: u32 = 3;

/// Works with locks until the run ends.
pub(super) async fn run(actor: &mut Actor, fenced: bool) {
    let locks = actor.objects("l", CLIENTS_PER_LOCK);
    while actor.goes_on().await {
        let Some(node) = actor.node() else { continue };
        let ask = ask(actor, &locks);
        let Some(mut holding) = holding::acquire(actor, &node, &ask).await else { continue };
        work(actor, &mut holding, fenced).await;
        let overslept = if fenced { OVERSLEPT } else { OVERSLEPT_UNFENCED };
        if actor.chance(overslept) {
            oversleep(actor, &mut holding, fenced).await;
        }
        if !actor.chance(ABANDONED) {
            give_back(actor, &holding).await;
        }
    }
}

fn ask(actor: &mut Actor, locks: &[String]) -> Ask {
    let key = actor.one_of(locks).clone();
    let ttl_ms = *actor.one_of(&TTLS_MS);
    let wait_ms = if actor.chance(TRY_ONLY) { 0 } else { actor.context.rng.random_range(1..=WAIT_MS_MAX) };
    Ask {
        max_hold_ms: actor.chance(BOUNDED).then_some(ttl_ms * 2),
        retried: actor.chance(RETRIED),
        ..Ask::lock(key, ttl_ms, wait_ms)
    }
}

/// Uses the resource while the client believes to hold the lock.
async fn work(actor: &mut Actor, holding: &mut Holding, fenced: bool) {
    for _ in 0..actor.context.rng.random_range(1..=USES_MAX) {
        if !holding.is_sure() || !holding::use_resource(actor, holding, fenced) {
            return;
        }
        if actor.chance(RENEWED) {
            if !actor.goes_on_at_once() {
                return;
            }
            let Some(node) = actor.node() else { return };
            if holding::renew(actor, &node, holding).await == Some(false) {
                return;
            }
        }
    }
}

/// The client stands still past its lease and does not notice.
async fn oversleep(actor: &mut Actor, holding: &mut Holding, fenced: bool) {
    if !holding.is_sure() {
        return;
    }
    let past = Duration::from_millis(actor.context.rng.random_range(1..=OVERSLEPT_MS_MAX));
    if !actor.sleep_until(holding.sure_until() + past).await {
        return;
    }
    holding::use_resource(actor, holding, fenced);
    if let Some(node) = actor.node() {
        holding::renew(actor, &node, holding).await;
    }
}

/// Gives back what is held, through other nodes too; an end by its lease is as good.
pub(super) async fn give_back(actor: &mut Actor, holding: &Holding) {
    for attempt in 0..RELEASE_TRIES {
        if !actor.goes_on_at_once() {
            return;
        }
        let node = if attempt == 0 { actor.node() } else { actor.any_node() };
        let Some(node) = node else { return };
        match holding::release(actor, &node, holding).await {
            None => {}
            Some(given) => {
                if given && actor.chance(GIVEN_BACK_TWICE) {
                    holding::release(actor, &node, holding).await;
                }
                return;
            }
        }
    }
}
