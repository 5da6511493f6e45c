//! Locks with several holders, and several locks at once.

use rand::RngExt;

use super::actor::Actor;
use super::holding::{self, Ask, Holding};
use super::lock::give_back;

/// Clients per shared lock.
const CLIENTS_PER_LOCK: u32 = 4;
/// Clients per lock of which several are taken at once.
const CLIENTS_PER_KEY: u32 = 1;
/// Locks taken at once, at most.
const KEYS_MAX: usize = 3;
/// Leases asked for, in milliseconds.
const TTLS_MS: [u64; 3] = [500, 700, 1_200];
/// Longest wait asked for, in milliseconds.
const WAIT_MS_MAX: u64 = 1_000;
/// Share of requests that do not wait.
const TRY_ONLY: f64 = 0.25;
/// Share of shared requests among those for shared locks.
const SHARED: f64 = 0.65;
/// The same among those for several locks.
const SHARED_SEVERAL: f64 = 0.2;
/// Share of requests in several tries under one idempotency key.
const RETRIED: f64 = 0.1;
/// Share of holdings that are renewed.
const RENEWED: f64 = 0.3;
/// Share of holdings that are left to end by themselves.
const ABANDONED: f64 = 0.02;

/// Readers and writers of the same locks, until the run ends.
pub(super) async fn shared(actor: &mut Actor) {
    let locks = actor.objects("s", CLIENTS_PER_LOCK);
    while actor.goes_on().await {
        let key = actor.one_of(&locks).clone();
        let ask = Ask { shared: actor.chance(SHARED), ..ask(actor, vec![key]) };
        hold(actor, &ask).await;
    }
}

/// Several locks at once, until the run ends.
pub(super) async fn multi(actor: &mut Actor) {
    let locks = actor.objects("m", CLIENTS_PER_KEY);
    while actor.goes_on().await {
        let mut keys: Vec<_> = (0..KEYS_MAX).map(|_| actor.one_of(&locks).clone()).collect();
        keys.truncate(actor.context.rng.random_range(1..=KEYS_MAX));
        keys.sort_unstable();
        keys.dedup();
        let ask = Ask { shared: actor.chance(SHARED_SEVERAL), ..ask(actor, keys) };
        hold(actor, &ask).await;
    }
}

fn ask(actor: &mut Actor, keys: Vec<String>) -> Ask {
    let ttl_ms = *actor.one_of(&TTLS_MS);
    let wait_ms = if actor.chance(TRY_ONLY) { 0 } else { actor.context.rng.random_range(1..=WAIT_MS_MAX) };
    Ask { retried: actor.chance(RETRIED), keys, ..Ask::lock(String::new(), ttl_ms, wait_ms) }
}

async fn hold(actor: &mut Actor, ask: &Ask) {
    let Some(node) = actor.node() else { return };
    let Some(mut holding) = holding::acquire(actor, &node, ask).await else { return };
    // Shared holders come in any order, and tokens of several locks meet on each of them: a fence per lock works
    // for a single exclusive one only.
    if !ask.shared && ask.keys.len() == 1 && holding.is_sure() {
        holding::use_resource(actor, &holding, true);
    }
    renew_at_times(actor, &mut holding).await;
    if !actor.chance(ABANDONED) {
        give_back(actor, &holding).await;
    }
}

async fn renew_at_times(actor: &mut Actor, holding: &mut Holding) {
    if actor.chance(RENEWED)
        && actor.goes_on_at_once()
        && let Some(node) = actor.node()
    {
        holding::renew(actor, &node, holding).await;
    }
}
