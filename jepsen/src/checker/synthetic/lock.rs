//! Locks with queues, leases and a fenced resource, as they should be.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Answer, Ask, MILLISECOND, World};

const TTL_MS: u64 = 800;
const WAITS_MS: [u64; 3] = [0, 300, 2_000];

#[derive(Debug, Default)]
struct Lock {
    /// Token and end of the lease.
    holder: Option<(u64, u64)>,
    /// Owners, with beginning and end of their wait, in the order in which they came.
    queue: Vec<(String, u64, u64)>,
    /// Newest token that the resource behind it has seen.
    used: u64,
}

/// Exclusive locks of one cluster.
#[derive(Debug, Default)]
pub struct Locks {
    keys: u64,
    locks: BTreeMap<String, Lock>,
    tokens: u64,
    owners: u64,
    /// Owners whose wait was over before they were granted anything.
    gone: BTreeSet<String>,
    /// What each client believes to hold: key and token.
    holding: BTreeMap<u64, (String, u64)>,
}

impl Locks {
    /// That many locks.
    pub fn new(keys: u64) -> Self {
        Self { keys, ..Self::default() }
    }

    fn acquire(&mut self, ask: &Ask, now_ms: u64) -> Option<Answer> {
        let owner = ask.value["owner"].as_str().unwrap_or_default();
        let wait_ms = ask.value["wait_ms"].as_u64().unwrap_or(0);
        let lock = self.locks.entry(ask.key.clone()).or_default();
        let place = lock.queue.iter().position(|(waiting, ..)| waiting == owner);
        let since_ms = place.map_or(now_ms, |place| lock.queue[place].1);
        if lock.holder.is_none() && place.unwrap_or(lock.queue.len()) == 0 {
            lock.queue.retain(|(waiting, ..)| waiting != owner);
            self.tokens += 1;
            lock.holder = Some((self.tokens, now_ms + TTL_MS));
            let waited_ms = now_ms - since_ms;
            return Some(Answer::ok(json!({"token": self.tokens, "waited_ms": waited_ms, "ttl_ms": TTL_MS})));
        }
        if wait_ms == 0 {
            return Some(Answer::fail("lock_held"));
        }
        if place.is_none() {
            lock.queue.push((owner.to_owned(), now_ms, now_ms + wait_ms));
        }
        None
    }

    /// Leases and waits that are over by now. Whether this one's wait is.
    fn expire(&mut self, ask: &Ask, now_ms: u64) -> bool {
        let lock = self.locks.entry(ask.key.clone()).or_default();
        lock.holder = lock.holder.filter(|(_, until_ms)| *until_ms > now_ms);
        for (owner, ..) in lock.queue.extract_if(.., |(_, _, until_ms)| *until_ms <= now_ms) {
            self.gone.insert(owner);
        }
        ask.value["owner"].as_str().is_some_and(|owner| self.gone.contains(owner))
    }

    /// What its holder does with it.
    fn keep(&mut self, ask: &Ask, now_ms: u64) -> Answer {
        let token = ask.value["token"].as_u64().unwrap_or(0);
        let lock = self.locks.entry(ask.key.clone()).or_default();
        if ask.f == "use" {
            let previous = lock.used;
            lock.used = previous.max(token);
            return if token < previous {
                Answer::fail("fenced")
            } else {
                Answer::ok(json!({"token": token, "previous": (previous > 0).then_some(previous)}))
            };
        }
        if lock.holder.is_none_or(|(held, _)| held != token) {
            return Answer::fail("not_holder");
        }
        lock.holder = (ask.f == "renew").then_some((token, now_ms + TTL_MS));
        Answer::ok(ask.value.clone())
    }
}

impl World for Locks {
    fn ask(&mut self, client: u64, _: u64, rng: &mut StdRng) -> Ask {
        if let Some((key, token)) = self.holding.get(&client).cloned() {
            let (f, value) = match rng.random_range(0..8) {
                0..4 => ("use", json!({"token": token})),
                4..6 => ("renew", json!({"token": token, "ttl_ms": TTL_MS})),
                _ => ("release", json!({"token": token})),
            };
            return Ask { f, key, value, patience_ns: 0 };
        }
        let key = format!("l{}", rng.random_range(0..self.keys));
        if rng.random_range(0..4) == 0 {
            return Ask { f: "queue", key, value: Value::Null, patience_ns: 0 };
        }
        self.owners += 1;
        let wait_ms = WAITS_MS[rng.random_range(0..WAITS_MS.len())];
        let value = json!({
            "keys": [key], "mode": "exclusive", "owner": format!("c{client}-{}", self.owners),
            "ttl_ms": TTL_MS, "wait_ms": wait_ms,
        });
        Ask { f: "acquire", key, value, patience_ns: wait_ms * MILLISECOND }
    }

    fn apply(&mut self, _: u64, ask: &Ask, now_ns: u64) -> Option<Answer> {
        let now_ms = now_ns / MILLISECOND;
        let is_late = self.expire(ask, now_ms);
        match ask.f {
            "acquire" if is_late => Some(Answer::fail("lock_timeout")),
            "acquire" => self.acquire(ask, now_ms),
            "queue" => {
                let lock = self.locks.entry(ask.key.clone()).or_default();
                let holders: Vec<u64> = lock.holder.iter().map(|(token, _)| *token).collect();
                let queue: Vec<&str> = lock.queue.iter().map(|(owner, ..)| owner.as_str()).collect();
                Some(Answer::ok(json!({"holder_tokens": holders, "queue": queue})))
            }
            _ => Some(self.keep(ask, now_ms)),
        }
    }

    fn learn(&mut self, client: u64, ask: &Ask, answer: Option<&Answer>, _: u64) {
        let is_ok = answer.is_some_and(|answer| answer.kind == crate::history::Kind::Ok);
        let token = answer.and_then(|answer| answer.value.get("token")).and_then(Value::as_u64);
        match (ask.f, token) {
            ("acquire", Some(token)) => drop(self.holding.insert(client, (ask.key.clone(), token))),
            ("use" | "renew", _) if is_ok => {}
            _ => drop(self.holding.remove(&client)),
        }
    }

    fn at_the_end(&self) -> Vec<(Ask, Answer)> {
        Vec::new()
    }
}
