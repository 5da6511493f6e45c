//! The invalidation log: some append, with and without a barrier, others follow, each from where it is, on any node.
//!
//! Every entry has a pattern of its own, so that two entries are never taken for one. A follower stays with a position
//! through errors, time-outs, changes of the node and restarts of whatever it asks; a `reset` moves it.

use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::client::{Answer, Call, Outcome};

use super::actor::Actor;
use super::finish::number;
use super::{ClientContext, Endpoint, Pace, WorkloadError, retry};

const PATH: &str = "/api/v1/cluster/invalidations";
/// What stands before the number in a pattern.
const PATTERN: &str = "chaos:";
/// One client of so many appends; the others follow.
const APPENDERS: u32 = 2;
/// Longest wait for other nodes that is asked for, in milliseconds: below the limit of a request.
const BARRIER_MS_MAX: u64 = 3_000;
/// Longest wait for the next entry that is asked for, in milliseconds.
const POLL_MS_MAX: u64 = 1_500;
/// Entries of one look, at most.
const ENTRIES_MAX: u64 = 200;
/// Share of appends in several tries under one idempotency key.
const RETRIED: f64 = 0.1;
/// Share of looks for which the node is asked what it has itself.
const LOCAL: f64 = 0.7;
/// Share of looks after which a follower begins anew, at the oldest entry.
const ANEW: f64 = 0.01;
/// Looks at the whole log of a node end within this time.
const FINISH_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two tries of them.
const PAUSE: Duration = Duration::from_millis(200);

/// Appends or follows until the run ends.
pub(super) async fn run(actor: &mut Actor) {
    if actor.context.number.is_multiple_of(APPENDERS) {
        while actor.goes_on().await {
            append(actor).await;
        }
        return;
    }
    let mut since = None;
    while actor.goes_on().await {
        let Some(node) = actor.node() else { continue };
        let local = actor.chance(LOCAL);
        let wait_ms = actor.context.rng.random_range(0..=POLL_MS_MAX);
        let look = follow(actor, &node, "follow", since, (local, wait_ms)).await;
        since = look.map(|look| look.next).or(since);
        if actor.chance(ANEW) {
            since = None;
        }
    }
}

async fn append(actor: &mut Actor) {
    let Some(node) = actor.node() else { return };
    let data = actor.context.shared.new_value();
    let wait = *actor.one_of(&["none", "quorum", "all"]);
    let timeout_ms = actor.context.rng.random_range(1..=BARRIER_MS_MAX);
    let body = json!({ "patterns": [format!("{PATTERN}{data}")], "wait": wait, "timeout_ms": timeout_ms });
    let invocation = actor.begin("append", None, Some(&node), json!({ "data": data, "wait": wait }));
    let outcome = if actor.chance(RETRIED) {
        let key = actor.context.shared.new_name("invalidation");
        let call = Call::post(PATH, &body).header("idempotency-key", key);
        let first = retry::first_time_max(actor);
        retry::settle(actor, &node.name, first, &call).await.0
    } else {
        actor.ask(&node, &Call::post(PATH, &body)).await
    };
    let outcome = outcome.and_then(|answer| appended(&answer));
    let is_ok = matches!(outcome, Outcome::Ok(_));
    actor.end(&invocation, outcome);
    if is_ok && wait != "none" {
        cleared(actor, data).await;
    }
}

fn appended(answer: &Answer) -> Outcome<Value> {
    let body = answer.json();
    let (Some(epoch), Some(offset)) = (body["epoch"].as_u64(), number(&body["offset"])) else {
        return Outcome::Unknown(format!("no place: {body}"));
    };
    Outcome::Ok(json!({
        "epoch": epoch,
        "offset": offset,
        "applied_by": body["applied_by"],
        "missing": body["missing"],
    }))
}

/// How far each node says that it is, right after a barrier. Linearizable, through any node.
async fn cleared(actor: &mut Actor, data: u64) {
    let Some(node) = actor.any_node() else { return };
    let invocation = actor.begin("cleared", None, Some(&node), json!({ "data": data }));
    let outcome = actor.ask(&node, &Call::get(format!("{PATH}?limit=1"))).await;
    actor.end(&invocation, outcome.and_then(|answer| progress(&answer)));
}

/// A node that has reported nothing (its report is gone when it restarts or is inactive) shows 0, and says nothing.
fn progress(answer: &Answer) -> Outcome<Value> {
    let body = answer.json();
    let Some((epoch, _)) = body["next"].as_str().and_then(place) else {
        return Outcome::Unknown(format!("no page: {body}"));
    };
    let nodes = body["nodes"].as_array().into_iter().flatten();
    let shown = nodes.filter_map(|node| {
        let cleared = number(&node["cleared"]).filter(|cleared| *cleared > 0)?;
        Some((node["node_id"].as_str()?.to_owned(), json!({ "epoch": epoch, "offset": cleared })))
    });
    Outcome::Ok(json!({ "nodes": shown.collect::<serde_json::Map<_, _>>() }))
}

/// Where a follower is: epoch and offset.
type Place = (u64, u64);

/// `epoch:offset`.
fn place(text: &str) -> Option<Place> {
    let (epoch, offset) = text.split_once(':')?;
    Some((epoch.parse().ok()?, offset.parse().ok()?))
}

fn shown(place: Option<Place>) -> Value {
    place.map_or(Value::Null, |(epoch, offset)| json!({ "epoch": epoch, "offset": offset }))
}

/// What a look told: where the next one begins, and whether there was anything.
struct Look {
    next: Place,
    is_empty: bool,
}

/// One look from `since` on; `None` when it told nothing.
async fn follow(
    actor: &mut Actor,
    node: &Endpoint,
    f: &str,
    since: Option<Place>,
    (local, wait_ms): (bool, u64),
) -> Option<Look> {
    let invocation = actor.begin(f, None, Some(node), json!({ "since": shown(since), "local": local }));
    let mut path = format!("{PATH}?limit={ENTRIES_MAX}&wait_ms={wait_ms}");
    if let Some((epoch, offset)) = since {
        path += &format!("&since={epoch}%3A{offset}");
    }
    if local {
        path += "&consistency=local";
    }
    let outcome = actor.send(node, &Call::get(path)).await.and_then(looked);
    let mut look = None;
    let outcome = outcome.map(|(value, next, is_empty)| {
        look = Some(Look { next, is_empty });
        value
    });
    actor.end(&invocation, outcome);
    look
}

fn looked(answer: Answer) -> Outcome<(Value, Place, bool)> {
    let body = answer.json();
    if answer.status == 410 {
        return match body["first"].as_str().and_then(place) {
            Some(first) => Outcome::Ok((json!({ "entries": [], "reset": shown(Some(first)) }), first, false)),
            None => Outcome::Fail(format!("a reset that says nothing: {body}")),
        };
    }
    answer.outcome().and_then(|_| {
        let entries = body["invalidations"].as_array().into_iter().flatten().map(entry);
        let entries: Option<Vec<Value>> = entries.collect();
        match (entries, body["next_since"].as_str().and_then(place)) {
            (Some(entries), Some(next)) => {
                let is_empty = entries.is_empty();
                Outcome::Ok((json!({ "entries": entries, "reset": null }), next, is_empty))
            }
            _ => Outcome::Unknown(format!("no page: {body}")),
        }
    })
}

/// An entry with the number that is in its pattern; 0 for a pattern that nobody made.
fn entry(entry: &Value) -> Option<Value> {
    let data = entry["patterns"][0].as_str().and_then(|pattern| pattern.strip_prefix(PATTERN)?.parse().ok());
    let (epoch, offset) = (entry["epoch"].as_u64()?, number(&entry["offset"])?);
    Some(json!({ "epoch": epoch, "offset": offset, "data": data.unwrap_or(0_u64) }))
}

/// Reads the whole log of every node, as it has it itself once it has all that is committed.
pub(super) async fn finish(context: &mut ClientContext) -> Result<(), WorkloadError> {
    let nodes = context.nodes.borrow().clone();
    for node in nodes {
        let mut actor = Actor::new(context.fork(Pace::new(0.0)))?;
        let deadline = Instant::now() + FINISH_TIME_MAX;
        let mut since = None;
        while Instant::now() < deadline {
            match follow(&mut actor, &node, "final-follow", since, (false, 0)).await {
                Some(look) if look.is_empty => break,
                Some(look) => since = Some(look.next),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Act, Fake};
    use crate::history::Kind;
    use crate::workload::tests::actor;

    const PAGE: &str = r#"{"invalidations": [
        {"epoch": 0, "offset": "7", "patterns": ["chaos:31"]}, {"epoch": 0, "offset": "8", "patterns": ["other"]}],
        "count": 2, "next_since": "0:9", "first": "0:1", "next": "0:9",
        "nodes": [{"node_id": "n1", "cleared": "9", "lag": 0}, {"node_id": "n2", "cleared": "0", "lag": 9}]}"#;

    #[tokio::test]
    async fn a_follower_goes_on_behind_what_it_saw_and_a_reset_moves_it() {
        let reset = r#"{"code": "reset", "first": "1:4", "next": "1:6"}"#;
        let acts = [Act::Answer("200 OK", "", PAGE), Act::Answer("410 Gone", "", reset), Act::CutAfter];
        let fake = Fake::start(acts).await;
        let (mut actor, recorder) = actor(&[&fake.url]);
        let node = actor.node().unwrap();
        let look = follow(&mut actor, &node, "follow", Some((0, 7)), (true, 5)).await.unwrap();
        assert_eq!((look.next, look.is_empty), ((0, 9), false));
        let look = follow(&mut actor, &node, "follow", Some(look.next), (false, 0)).await.unwrap();
        assert_eq!(look.next, (1, 4));
        assert!(follow(&mut actor, &node, "follow", Some(look.next), (false, 0)).await.is_none());
        let values: Vec<_> = recorder
            .with_events(|events| events.iter().map(|event| (event.kind, event.value.clone())).collect());
        let at = |epoch: u64, offset: u64, data: u64| json!({"epoch": epoch, "offset": offset, "data": data});
        assert_eq!(values[1].1, json!({"entries": [at(0, 7, 31), at(0, 8, 0)], "reset": null}));
        assert_eq!(values[3].1, json!({"entries": [], "reset": {"epoch": 1, "offset": 4}}));
        assert_eq!(values[5].0, Kind::Info);
        let requests = fake.requests();
        assert!(requests[0].contains("wait_ms=5&since=0%3A7&consistency=local "), "{}", requests[0]);
        assert!(requests[1].contains("since=0%3A9 "), "{}", requests[1]);
    }

    #[test]
    fn a_node_without_a_report_says_nothing() {
        let answer = Answer { status: 200, index: None, node: None, revision: None, body: PAGE.into() };
        let expected = json!({"nodes": {"n1": {"epoch": 0, "offset": 9}}});
        assert_eq!(progress(&answer), Outcome::Ok(expected));
    }
}
