//! The invalidation log on real nodes: what is asked and answered, barriers, and caches that never serve what was
//! invalidated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ovncp::cache::{Cache, CacheOptions, Loaded};
use ovncp::services::invalidations::{Ask, Position, Step, Wait};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Net, TestNode};

const LOG: &str = "/api/v1/cluster/invalidations";
const PATIENCE: Duration = Duration::from_secs(180);

async fn until(what: &str, mut met: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !met().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn offsets(page: &Value) -> Vec<&str> {
    let entries = page["invalidations"].as_array().unwrap().iter();
    entries.map(|entry| entry["offset"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_log_is_appended_to_read_in_pages_and_resumed() {
    let node = TestNode::start().await;
    let empty = node.get(LOG).await.expect(200);
    assert_eq!((&empty["count"], &empty["first"], &empty["next"]), (&json!(0), &json!("0:0"), &json!("0:0")));
    let mut stream = node.call(Method::GET, "/api/v1/cluster/events?types=invalidation").stream().await;
    for number in 0..3 {
        let body = json!({"patterns": [format!("switch:{number}*")], "tags": ["t"], "wait": "all"});
        let answer = node.post(LOG, body).await;
        assert!(answer.header("x-ovncp-index").parse::<u64>().unwrap() > 0);
        let done = answer.expect(200);
        assert_eq!((&done["epoch"], &done["offset"]), (&json!(0), &json!(number.to_string())));
        assert_eq!((&done["complete"], &done["applied_by"]), (&json!(true), &json!(["node-1"])));
        assert_eq!(done["missing"], json!([]));
        let event = stream.event().await;
        assert_eq!((event.kind.as_str(), &event.data["log_offset"]), ("invalidation", &done["offset"]));
        assert_eq!(event.data["patterns"], json!([format!("switch:{number}*")]));
    }
    let first = node.get(&format!("{LOG}?limit=2")).await.expect(200);
    assert_eq!((offsets(&first), &first["next_since"]), (vec!["0", "1"], &json!("0:2")));
    let entry = &first["invalidations"][1];
    assert_eq!((&entry["patterns"], &entry["tags"]), (&json!(["switch:1*"]), &json!(["t"])));
    assert_eq!((&entry["origin"], &entry["epoch"]), (&json!("node-1"), &json!(0)));
    let rest = node.get(&format!("{LOG}?since=0:2")).await.expect(200);
    assert_eq!(
        (offsets(&rest), &rest["next_since"], &rest["next"]),
        (vec!["2"], &json!("0:3"), &json!("0:3"))
    );
    assert_eq!(rest["nodes"], json!([{"node_id": "node-1", "cleared": "3", "lag": 0}]));
    // Where nobody was, and where another epoch was.
    for lost in ["0:4", "1:0"] {
        let problem = node.get(&format!("{LOG}?since={lost}")).await.problem(410, "reset");
        assert_eq!((&problem["first"], &problem["next"]), (&json!("0:0"), &json!("0:3")), "{lost}");
        node.get(&format!("{LOG}?since={lost}&consistency=local")).await.problem(410, "reset");
    }
}

#[tokio::test]
async fn a_retry_appends_once() {
    let node = TestNode::start().await;
    for _ in 0..2 {
        let call = node.call(Method::POST, LOG).header("idempotency-key", "once");
        let done = call.json(json!({"patterns": ["a"], "wait": "quorum"})).send().await.expect(200);
        assert_eq!((&done["offset"], &done["complete"]), (&json!("0"), &json!(true)));
    }
    let call = node.call(Method::POST, LOG).header("idempotency-key", "once");
    call.json(json!({"patterns": ["b"]})).send().await.problem(422, "idempotency_key_reused");
    assert_eq!(node.get(LOG).await.expect(200)["next"], "0:1");
}

#[tokio::test]
async fn a_long_poll_waits_for_the_next_entry() {
    let mut node = TestNode::start().await;
    let nothing = node.get(&format!("{LOG}?since=0:0&wait_ms=50")).await.expect(200);
    assert_eq!((&nothing["count"], &nothing["next_since"]), (&json!(0), &json!("0:0")));
    let poll = |since: &str| {
        let call = node.call(Method::GET, &format!("{LOG}?since={since}&wait_ms=40000"));
        tokio::spawn(call.send())
    };
    let waiting = poll("0:0");
    // Whether the poll comes first or not: it is answered with the entry.
    node.post(LOG, json!({"patterns": ["a"]})).await.expect(200);
    let page = waiting.await.unwrap().expect(200);
    assert_eq!((offsets(&page), &page["next_since"]), (vec!["0"], &json!("0:1")));
    // A stopping node keeps nobody waiting.
    let waiting = poll("0:1");
    until("the poll waits", async || node.invalidations.subscribers() == 1).await;
    node.begin_stop();
    let answer = tokio::time::timeout(PATIENCE, waiting).await.expect("at once").unwrap();
    assert!(answer.status == 200 && answer.json()["count"] == 0 || answer.status == 503, "{answer:?}");
    tokio::time::timeout(PATIENCE, node.stop_begun()).await.expect("nothing holds up the stop");
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let node = TestNode::start().await;
    let long = "x".repeat(1_025);
    let many: Vec<_> = (0..257).map(|number| number.to_string()).collect();
    for (body, field) in [
        (json!({}), "patterns"),
        (json!({"patterns": []}), "patterns"),
        (json!({"patterns": many}), "patterns"),
        (json!({"patterns": ["a", ""]}), "patterns"),
        (json!({"patterns": [long]}), "patterns"),
        (json!({"patterns": ["a\\"]}), "patterns"),
        (json!({"tags": [""]}), "tags"),
        (json!({"tags": [long]}), "tags"),
        (json!({"patterns": ["a"], "timeout_ms": 40_001}), "timeout_ms"),
    ] {
        let problem = node.post(LOG, body.clone()).await.problem(422, "invalid_argument");
        assert_eq!(problem["field"], field, "{body}");
    }
    node.post(LOG, json!({"pattern": ["a"]})).await.problem(422, "unknown_field");
    for body in [json!({"patterns": "a"}), json!({"patterns": ["a"], "wait": "some"}), json!({"tags": [1]})] {
        node.post(LOG, body).await.problem(422, "invalid_body");
    }
    for query in ["since=1", "since=0:x", "since=", "limit=0", "limit=1001", "wait_ms=40001"] {
        node.get(&format!("{LOG}?{query}")).await.problem(422, "invalid_argument");
    }
    node.get(&format!("{LOG}?from=1")).await.problem(400, "malformed_request");
    assert_eq!(node.get(LOG).await.expect(200)["next"], "0:0", "nothing of it is in the log");
    // The largest that may be, of the most hostile kind.
    let globs: Vec<_> = (0..256).map(|_| "*a".repeat(512)).collect();
    node.post(LOG, json!({"patterns": globs, "wait": "all"})).await.expect(200);
    let page = node.get(LOG).await.expect(200);
    assert_eq!(page["invalidations"][0]["patterns"].as_array().unwrap().len(), 256);
}

#[tokio::test]
async fn subscribers_follow_in_order_and_are_told_of_a_reset() {
    let node = TestNode::start().await;
    let mut from_now = node.invalidations.subscribe(None).unwrap();
    for number in 0..200 {
        node.post(LOG, json!({"patterns": [format!("k{number}")]})).await.expect(200);
    }
    let mut all = node.invalidations.subscribe(Some(Position::default())).unwrap();
    for subscription in [&mut from_now, &mut all] {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            match tokio::time::timeout(PATIENCE, subscription.next()).await.expect("an entry") {
                Step::Entries(entries) => seen.extend(entries.iter().map(|entry| entry.offset.0)),
                Step::Reset { first, next } => panic!("{first} {next}"),
            }
        }
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert_eq!(subscription.position().to_string(), "0:200");
    }
    for lost in ["7:3", "0:1000"] {
        let mut subscription = node.invalidations.subscribe(Some(lost.parse().unwrap())).unwrap();
        match tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a reset") {
            Step::Reset { first, next } => {
                assert_eq!((first.to_string(), next.to_string()), ("0:0".to_owned(), "0:200".to_owned()));
            }
            Step::Entries(entries) => panic!("{} entries after {lost}", entries.len()),
        }
        assert!(matches!(subscription.next().await, Step::Entries(entries) if entries[0].offset.0 == 0));
    }
    assert_eq!(node.invalidations.subscribers(), 2);
}

/// What is no longer kept is never left out silently: a reader is told, and so is a subscriber.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_the_log_is_reset() {
    let node = TestNode::start().await;
    let mut behind = node.invalidations.subscribe(Some(Position::default())).unwrap();
    // 32 MiB are kept, and each of these has a quarter of one.
    let patterns: Vec<_> = (0..256).map(|number| format!("{number:01024}")).collect();
    for _ in 0..140 {
        node.post(LOG, json!({"patterns": patterns})).await.expect(200);
    }
    let problem = node.get(&format!("{LOG}?since=0:0")).await.problem(410, "reset");
    let first: Position = problem["first"].as_str().unwrap().parse().unwrap();
    assert!((1..140).contains(&first.offset.0), "{first}");
    assert_eq!(problem["next"], "0:140");
    let page = node.get(&format!("{LOG}?since={first}")).await.expect(200);
    assert_eq!(offsets(&page)[0], first.offset.to_string());
    assert!(page["count"].as_u64().unwrap() < 10, "a page is bounded by bytes too");
    match tokio::time::timeout(PATIENCE, behind.next()).await.expect("a reset") {
        Step::Reset { first: told, .. } => assert_eq!(told, first),
        Step::Entries(entries) => panic!("{} entries that are not kept", entries.len()),
    }
    assert!(matches!(behind.next().await, Step::Entries(entries) if entries[0].offset == first.offset));
    assert_eq!(node.invalidations.cleared().to_string(), "0:140", "the applier was never behind");
}

/// A database of one number, and a cache in front of it on each node.
struct Tier {
    database: Arc<AtomicU64>,
    caches: Vec<Cache<str, u64>>,
}

impl Tier {
    async fn before(nodes: &[TestNode]) -> Self {
        for node in nodes {
            until("the caches are trusted", async || node.invalidations.is_trusted()).await;
        }
        let cache = |node: &TestNode| node.invalidations.cache(CacheOptions::new("numbers"));
        Self { database: Arc::default(), caches: nodes.iter().map(cache).collect() }
    }

    async fn call(&self, rank: usize) -> u64 {
        let load = async || {
            // Slow on both sides of the look: it may be overtaken.
            for _ in 0..rand::random_range(0..20) {
                tokio::task::yield_now().await;
            }
            let value = self.database.load(Ordering::SeqCst);
            for _ in 0..rand::random_range(0..20) {
                tokio::task::yield_now().await;
            }
            Ok::<_, std::io::Error>(Loaded::new(value).tag("number"))
        };
        self.caches[rank].get_or_load("n:1", load).await.unwrap()
    }
}

/// Readers on all nodes, and a writer that invalidates and waits: nobody is given an older value after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_barrier_no_node_serves_what_was_before() {
    let nodes = TestNode::start_three().await;
    let tier = Arc::new(Tier::before(&nodes).await);
    let (promised, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..6)
        .map(|number| {
            let (tier, promised, stop) = (Arc::clone(&tier), Arc::clone(&promised), Arc::clone(&stop));
            tokio::spawn(async move {
                while stop.load(Ordering::Relaxed) == 0 {
                    let at_least = promised.load(Ordering::SeqCst);
                    let seen = tier.call(number % 3).await;
                    assert!(seen >= at_least, "{seen} after {at_least} was promised");
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for round in 1..=60_u64 {
        tier.database.store(round, Ordering::SeqCst);
        let what = if round % 2 == 0 { json!({"patterns": ["n:*"]}) } else { json!({"tags": ["number"]}) };
        let mut body = what;
        body["wait"] = json!("all");
        body["timeout_ms"] = json!(40_000);
        let node = &nodes[usize::try_from(round).unwrap() % 3];
        let done = node.post(LOG, body).await.expect(200);
        assert_eq!(done["applied_by"], json!(["node-1", "node-2", "node-3"]), "{done}");
        promised.store(round, Ordering::SeqCst);
    }
    stop.store(1, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let counted: Vec<_> = tier.caches.iter().map(Cache::counters).collect();
    assert!(counted.iter().all(|counters| counters.hits > 0 && counters.cleared > 0), "{counted:?}");
    let page = nodes[0].get(&format!("{LOG}?limit=1")).await.expect(200);
    assert!(page["nodes"].as_array().unwrap().iter().all(|node| node["lag"] == 0), "{page}");
}

/// Without any barrier: who invalidates and then unlocks is seen in that order by the next holder, on another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_holder_of_a_lock_sees_what_was_invalidated_before() {
    let nodes = TestNode::start_three().await;
    let tier = Tier::before(&nodes).await;
    for round in 1..=40 {
        let rank = round % 3;
        let held = nodes[rank].acquire("k", json!({"owner": "o", "wait_ms": 40_000})).await.expect(200);
        let last = u64::try_from(round).unwrap() - 1;
        assert_eq!(tier.call(rank).await, last, "read under the lock");
        tier.database.fetch_add(1, Ordering::SeqCst);
        nodes[rank].post(LOG, json!({"patterns": ["n:1"]})).await.expect(200);
        // Here at once.
        assert_eq!(tier.call(rank).await, last + 1);
        let next = nodes[(rank + 1) % 3].call(Method::POST, "/api/v1/cluster/locks/k/acquire");
        let next = tokio::spawn(next.json(json!({"owner": "next", "wait_ms": 40_000})).send());
        let secret = json!({"secret": held["secret"]});
        nodes[rank].post("/api/v1/cluster/locks/k/release", secret).await.expect(204);
        let granted = next.await.unwrap().expect(200);
        assert_eq!(tier.call((rank + 1) % 3).await, last + 1, "the next holder");
        let secret = json!({"secret": granted["secret"]});
        nodes[(rank + 1) % 3].post("/api/v1/cluster/locks/k/release", secret).await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_names_the_missing() {
    let [first, _second, mut third] = TestNode::start_three().await;
    third.begin_stop();
    third.stop_begun().await;
    let ask = async |wait: &str, timeout_ms: u64| {
        let body = json!({"patterns": ["n:1"], "wait": wait, "timeout_ms": timeout_ms});
        first.post(LOG, body).await.expect(200)
    };
    let quorum = ask("quorum", 40_000).await;
    assert_eq!(quorum["complete"], true, "{quorum}");
    let late = ask("all", 300).await;
    assert_eq!((&late["complete"], &late["missing"]), (&json!(false), &json!(["node-3"])), "{late}");
    // It is in the log all the same.
    let page = first.get(&format!("{LOG}?since=0:1")).await.expect(200);
    assert_eq!(page["invalidations"][0]["offset"], late["offset"]);
    let lag = page["nodes"].as_array().unwrap().iter().find(|node| node["node_id"] == "node-3").unwrap();
    assert_eq!((&lag["cleared"], &lag["lag"]), (&json!("0"), &json!(2)));
}

/// A member that is inactive for a while holds up nobody; and a node without a majority serves nothing that it kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inactive_hold_up_nobody_and_the_lonely_trust_nothing() {
    let settings = [("cluster.heartbeat_interval", "1s"), ("cluster.node_timeout", "6s")];
    let nodes = Net::unused().start_three(&settings).await;
    let tier = Tier::before(&nodes).await;
    let [first, mut second, mut third] = nodes;
    third.begin_stop();
    third.stop_begun().await;
    until("the stopped node holds up nobody", async || {
        let body = json!({"patterns": ["n:1"], "wait": "all", "timeout_ms": 1_000});
        let done = first.post(LOG, body).await;
        // No leader for a moment is no failure here.
        done.status == 200 && done.json()["complete"] == true
    })
    .await;
    until("what is kept is served", async || {
        assert_eq!(tier.call(0).await, 0);
        tier.caches[0].get("n:1").is_some()
    })
    .await;
    second.begin_stop();
    second.stop_begun().await;
    until("a node without a majority trusts nothing", async || !first.invalidations.is_trusted()).await;
    assert_eq!(tier.caches[0].get("n:1"), None);
    tier.database.store(77, Ordering::SeqCst);
    assert_eq!(tier.call(0).await, 77, "it goes to the database");
    // Nothing comes into the log without a majority.
    let ask = Ask {
        patterns: vec!["a".to_owned()],
        tags: Vec::new(),
        wait: Wait::None,
        timeout: Duration::ZERO,
        retry: None,
    };
    assert!(first.invalidations.invalidate(ask).await.is_err());
}
