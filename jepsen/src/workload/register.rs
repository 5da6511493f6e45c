//! Registers: read, write, compare-and-set. They must look like one variable each, whatever happens to the nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};

use crate::client::{Answer, Call, Outcome, segment};

use super::actor::Actor;
use super::{Endpoint, retry};

/// Registers whose last seen value a client remembers.
const REMEMBERED_MAX: usize = 16;
/// Share of writes and compare-and-sets that are made under an idempotency key, in several tries if need be.
const RETRIED: f64 = 0.25;

/// Share of those that were answered with success and are sent once more, as by a network that kept a copy back.
const SENT_AGAIN: f64 = 0.4;
/// Longest time that such a copy is kept back, in milliseconds.
const KEPT_BACK_MS_MAX: u64 = 60;

/// What a client does next, in hundredths.
const READ: u32 = 28;
const WRITE: u32 = READ + 22;
const CAS: u32 = WRITE + 34;
const CREATE: u32 = CAS + 1;
const READ_LOCAL: u32 = CREATE + 13;
const ALL: u32 = 100;

/// A register: value and revision, or that there is none.
type Content = Option<(u64, u64)>;
/// What a client saw of registers last.
type Seen = BTreeMap<String, Content>;

/// Works on registers until the run ends.
pub(super) async fn run(actor: &mut Actor) {
    let mut seen = Seen::new();
    while actor.goes_on().await {
        let Some(node) = actor.node() else { continue };
        let choice = actor.context.rng.random_range(0..ALL);
        if choice >= READ_LOCAL {
            // What was acknowledged must still be there long after the last write.
            let retired = actor.context.shared.retired_register(&mut actor.context.rng);
            if let Some(key) = retired {
                read(actor, &node, &key, "read").await;
                continue;
            }
        }
        let key = actor.context.shared.register(actor.context.number, &mut actor.context.rng);
        let known = seen.get(&key).copied();
        let now = match (choice, known) {
            (..READ, _) => read(actor, &node, &key, "read").await,
            (READ..WRITE, _) => write(actor, &node, &key).await,
            (WRITE..CAS, Some(Some(known))) => cas(actor, &node, &key, known).await,
            (WRITE..CAS, Some(None)) | (CAS..CREATE, _) => create(actor, &node, &key).await,
            // Look first.
            (WRITE..CAS, None) => read(actor, &node, &key, "read").await,
            _ => read_local(actor, &node, &key).await,
        };
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        match now {
            Some(now) => seen.insert(key, now),
            // Whatever made it fail or unknown.
            None => seen.remove(&key),
        };
    }
}

fn path(key: &str) -> String {
    format!("/api/v1/cluster/kv/{}", segment(key))
}

/// A linearizable read; what it saw, if it was answered.
pub(super) async fn read(actor: &mut Actor, node: &Endpoint, key: &str, f: &str) -> Option<Content> {
    let invocation = actor.begin(f, Some(key), Some(node), Value::Null);
    let outcome = actor.send(node, &Call::get(path(key))).await.and_then(found);
    let (seen, remark) = match &outcome {
        Outcome::Ok((seen, remark)) => (Some(*seen), remark.clone()),
        _ => (None, None),
    };
    actor.end_with(&invocation, outcome.map(|(seen, _)| shown(seen)), remark);
    seen
}

/// A read of what the node has applied, at least up to what this process saw.
async fn read_local(actor: &mut Actor, node: &Endpoint, key: &str) -> Option<Content> {
    let min_index = Some(actor.index_seen()).filter(|index| *index > 0);
    let invocation = actor.begin("read-local", Some(key), Some(node), json!({ "min_index": min_index }));
    let call = Call::get(format!("{}?consistency=local", path(key)));
    let call = match min_index {
        Some(index) => call.header("x-ovncp-min-index", index.to_string()),
        None => call,
    };
    let answer = actor.send(node, &call).await;
    let index = match &answer {
        Outcome::Ok(answer) => answer.index,
        _ => None,
    };
    let outcome = answer.and_then(found);
    let (seen, remark) = match &outcome {
        Outcome::Ok((seen, remark)) => (Some(*seen), remark.clone()),
        _ => (None, None),
    };
    let value = outcome.map(|(seen, _)| {
        let mut value = shown(seen);
        value["index"] = json!(index);
        value
    });
    actor.end_with(&invocation, value, remark);
    // It may be old: no ground for a compare-and-set, but those must stand that too.
    seen
}

fn shown(seen: Content) -> Value {
    json!({ "value": seen.map(|(value, _)| value), "revision": seen.map(|(_, revision)| revision) })
}

/// A value that was found and its revision, with a remark where the bytes are none that we write.
type Found = (Content, Option<String>);

/// What a read found. A register that is not there is a finding too; bytes that we never write are shown as 0, which
/// nobody writes either.
fn found(answer: Answer) -> Outcome<Found> {
    if answer.status == 404 && answer.json()["code"] == "unknown_key" {
        return Outcome::Ok((None, None));
    }
    let revision = answer.revision.unwrap_or(0);
    answer.outcome().map(|answer| {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        match text.parse() {
            Ok(value) => (Some((value, revision)), None),
            Err(_) => (Some((0, revision)), Some(format!("the value is {text:?}"))),
        }
    })
}

async fn write(actor: &mut Actor, node: &Endpoint, key: &str) -> Option<Content> {
    let value = actor.context.shared.new_value();
    let call = Call::put(path(key), value.to_string());
    put(actor, node, key, "write", json!({ "value": value }), call, value).await
}

async fn cas(actor: &mut Actor, node: &Endpoint, key: &str, known: (u64, u64)) -> Option<Content> {
    let (from, revision) = known;
    let to = actor.context.shared.new_value();
    let call = Call::put(path(key), to.to_string()).header("if-match", format!("\"{revision}\""));
    let arguments = json!({ "from": from, "to": to, "revision": revision });
    put(actor, node, key, "cas", arguments, call, to).await
}

async fn create(actor: &mut Actor, node: &Endpoint, key: &str) -> Option<Content> {
    let to = actor.context.shared.new_value();
    let call = Call::put(path(key), to.to_string()).header("if-none-match", "*");
    put(actor, node, key, "create", json!({ "to": to }), call, to).await
}

/// Stores `value` as `call` says, at times in several tries; what is there now, if that is known.
async fn put(
    actor: &mut Actor,
    node: &Endpoint,
    key: &str,
    f: &str,
    arguments: Value,
    call: Call,
    value: u64,
) -> Option<Content> {
    let retried = actor.chance(RETRIED);
    let call = match retried {
        true => call.header("idempotency-key", actor.context.shared.new_name("retry")),
        false => call,
    };
    let invocation = actor.begin(f, Some(key), Some(node), arguments.clone());
    let (outcome, attempts) = if retried {
        let first_time_max = retry::first_time_max(actor);
        let (outcome, attempts) = retry::settle(actor, &node.name, first_time_max, &call).await;
        (outcome, Some(attempts))
    } else {
        (actor.ask(node, &call).await, None)
    };
    let stored = outcome.map(|answer| answer.revision.unwrap_or(0));
    let now = match &stored {
        Outcome::Ok(revision) => Some(Some((value, *revision))),
        _ => None,
    };
    let ended = stored.map(|revision| {
        let mut ended = arguments;
        ended["revision"] = revision.into();
        if let Some(attempts) = attempts {
            ended["attempts"] = attempts.into();
        }
        ended
    });
    actor.end(&invocation, ended);
    if retried && now.is_some() && actor.chance(SENT_AGAIN) {
        send_again(actor, &call).await;
    }
    now
}

/// A late copy of a request that happened. It is no operation: if it has any effect, others will see it.
async fn send_again(actor: &mut Actor, call: &Call) {
    let kept_back = Duration::from_millis(actor.context.rng.random_range(0..=KEPT_BACK_MS_MAX));
    tokio::time::sleep(kept_back).await;
    if let Some(node) = actor.any_node() {
        actor.send(&node, call).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Act, Fake};
    use crate::history::{Event, Kind};
    use crate::workload::tests::actor;

    async fn after_read(act: Act) -> (Option<Content>, Event) {
        let fake = Fake::start([act]).await;
        let (mut actor, recorder) = actor(&[&fake.url]);
        let node = actor.node().unwrap();
        let seen = read(&mut actor, &node, "r1", "read").await;
        (seen, recorder.with_events(|events| events[1].clone()))
    }

    #[tokio::test]
    async fn absence_is_a_finding_and_only_with_its_code() {
        let (seen, event) = after_read(Act::Answer("404 Not Found", "", "{\"code\":\"unknown_key\"}")).await;
        assert_eq!((seen, event.kind), (Some(None), Kind::Ok));
        assert_eq!(event.value, json!({ "value": null, "revision": null }));
        let (seen, event) = after_read(Act::Answer("404 Not Found", "", "{\"code\":\"not_found\"}")).await;
        assert_eq!((seen, event.kind, event.error.as_deref()), (None, Kind::Fail, Some("not_found")));
    }

    #[tokio::test]
    async fn bytes_that_nobody_wrote_are_shown_as_such() {
        let (seen, event) = after_read(Act::Answer("200 OK", "etag: \"9\"\r\n", "5\0")).await;
        assert_eq!((seen, event.value), (Some(Some((0, 9))), json!({ "value": 0, "revision": 9 })));
        assert!(event.error.unwrap().contains("5\\0"));
        let (seen, event) = after_read(Act::Answer("200 OK", "etag: \"9\"\r\n", "5")).await;
        assert_eq!((seen, event.error), (Some(Some((5, 9))), None));
    }

    #[tokio::test]
    async fn a_write_is_shown_with_its_revision_and_a_local_read_asks_for_what_was_seen() {
        let stored = Act::Answer("200 OK", "etag: \"9\"\r\nx-ovncp-index: 9\r\n", "{}");
        let found = Act::Answer("200 OK", "etag: \"9\"\r\nx-ovncp-index: 11\r\n", "1");
        let fake = Fake::start([stored, found]).await;
        let (mut actor, recorder) = actor(&[&fake.url]);
        let node = actor.node().unwrap();
        let call = Call::put(path("r1"), "1");
        let invocation = actor.begin("write", Some("r1"), Some(&node), json!({ "value": 1 }));
        let revision = actor.ask(&node, &call).await.map(|answer| json!(answer.revision));
        actor.end(&invocation, revision);
        assert_eq!(read_local(&mut actor, &node, "r1").await, Some(Some((1, 9))));
        assert!(fake.requests()[1].contains("x-ovncp-min-index: 9\r\n"), "{:?}", fake.requests());
        let events = recorder.history().unwrap().events;
        assert_eq!(events[2].value, json!({ "min_index": 9 }));
        assert_eq!(events[3].value, json!({ "value": 1, "revision": 9, "index": 11 }));
    }
}
