//! Elections: one leader per term, candidates in order, "nobody leads" visible, on any node.

use std::time::Duration;

use ovncp::client::{Change, Client, Error, Lost};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, EventStream, StreamedEvent, TestNode};

const PATIENCE: Duration = Duration::from_secs(60);
const ELECTION: &str = "/api/v1/cluster/elections/scheduler";

async fn campaign(node: &TestNode, body: Value) -> Answer {
    node.post(&format!("{ELECTION}/campaign"), body).await
}

async fn resign(node: &TestNode, term: &Value) -> Answer {
    node.post(&format!("{ELECTION}/resign"), json!({"secret": term["secret"]})).await
}

async fn observe(node: &TestNode) -> EventStream {
    node.call(Method::GET, &format!("{ELECTION}/observe")).stream().await
}

fn token(term: &Value) -> u64 {
    term["fencing_token"].as_str().unwrap().parse().unwrap()
}

/// Type, who leads after it and with what token.
fn told(event: &StreamedEvent) -> (String, Option<String>, Option<String>) {
    let leader = |field: &str| event.data["leader"][field].as_str().map(str::to_owned);
    assert_eq!((&event.data["type"], &event.data["name"]), (&json!(event.kind), &json!("scheduler")));
    assert!(event.data.get("leader").is_some(), "nobody is an answer too: {}", event.data);
    (event.kind.clone(), leader("candidate"), leader("fencing_token"))
}

/// Waits until so many candidates wait, as `node` sees it.
async fn candidates(node: &TestNode, count: u64) {
    let reached = async {
        while node.get(ELECTION).await.expect(200)["candidates_count"] != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never {count} candidates"));
}

#[tokio::test]
async fn terms_follow_each_other_and_everybody_sees_it() {
    let node = TestNode::start().await;
    let empty = node.get(ELECTION).await.expect(200);
    assert_eq!(empty, json!({"name": "scheduler", "leader": null, "candidates": [], "candidates_count": 0}));
    let mut observer = observe(&node).await;
    assert_eq!(told(&observer.event().await), ("state".to_owned(), None, None));
    // The first one leads and says where it is.
    let value = json!({"url": "http://a:1"});
    let first = campaign(&node, json!({"candidate": "a", "value": value, "ttl_ms": 86_400_000})).await;
    assert!(!first.header("x-ovncp-index").is_empty());
    let first = first.expect(200);
    let shown = node.get(ELECTION).await.expect(200);
    assert_eq!((&shown["leader"]["candidate"], &shown["leader"]["value"]), (&json!("a"), &value));
    assert_eq!(shown["leader"]["fencing_token"], first["fencing_token"]);
    assert!(shown["leader"].get("secret").is_none() && shown["leader"]["since"].is_string());
    // The second one is refused, or waits.
    let held = campaign(&node, json!({"candidate": "b"})).await.problem(409, "election_held");
    assert_eq!((&held["leader"]["candidate"], &held["name"]), (&json!("a"), &json!("scheduler")));
    let late =
        campaign(&node, json!({"candidate": "b", "wait_ms": 1})).await.problem(409, "election_timeout");
    assert_eq!(late["leader"]["fencing_token"], first["fencing_token"]);
    let call = node.call(Method::POST, &format!("{ELECTION}/campaign"));
    let body = json!({"candidate": "b", "wait_ms": 40_000, "ttl_ms": 86_400_000});
    let waiting = tokio::spawn(call.json(body).send());
    candidates(&node, 1).await;
    let shown = node.get(ELECTION).await.expect(200);
    assert_eq!(
        (&shown["candidates"][0]["candidate"], &shown["candidates"][0]["position"]),
        (&json!("b"), &json!(0))
    );
    let renewed =
        node.post(&format!("{ELECTION}/renew"), json!({"secret": first["secret"]})).await.expect(200);
    assert_eq!(renewed["fencing_token"], first["fencing_token"]);
    resign(&node, &first).await.expect(204);
    let second = waiting.await.unwrap().expect(200);
    assert!(token(&second) > token(&first));
    for verb in ["renew", "resign"] {
        let stale = node.post(&format!("{ELECTION}/{verb}"), json!({"secret": first["secret"]})).await;
        assert_eq!(stale.problem(409, "not_leader")["name"], "scheduler");
    }
    // An administrator ends the second term; the third ends by itself.
    let depose = || node.call(Method::DELETE, ELECTION).json(json!({"reason": "maintenance"})).send();
    assert_eq!(depose().await.expect(200)["fencing_tokens"], json!([second["fencing_token"]]));
    depose().await.problem(404, "unknown_election");
    let third = campaign(&node, json!({"candidate": "c", "ttl_ms": 500})).await.expect(200);
    let leads =
        |who: &str, term: &Value| (Some(who.to_owned()), term["fencing_token"].as_str().map(str::to_owned));
    let expected = [
        ("elected", leads("a", &first)),
        ("resigned", (None, None)),
        ("elected", leads("b", &second)),
        ("deposed", (None, None)),
        ("elected", leads("c", &third)),
        ("expired", (None, None)),
    ];
    let mut seen = Vec::new();
    for (kind, (who, token)) in expected {
        let event = observer.event().await;
        assert_eq!(told(&event), (kind.to_owned(), who, token));
        seen.push(event);
    }
    assert_eq!(seen[0].data["leader"]["value"], value);
    assert_eq!(seen[3].data["ended"]["reason"], "maintenance");
    assert_eq!(seen[1].data["ended"]["fencing_token"], first["fencing_token"]);
    // Who was there until the second term goes on behind it, and is not told the state again.
    let call = node.call(Method::GET, &format!("{ELECTION}/observe"));
    let mut resumed = call.header("last-event-id", &seen[2].id.to_string()).stream().await;
    let next = resumed.event().await;
    assert_eq!((next.id, &next.data["ended"]), (seen[3].id, &seen[3].data["ended"]));
    // The stream of everything has the same terms, in its own words.
    let path = format!("/api/v1/cluster/events?types=election&since={}", seen[0].id);
    let mut events = node.call(Method::GET, &path).stream().await;
    for event in &seen {
        let kind = if event.kind == "elected" { "election_won" } else { "election_ended" };
        let same = events.event().await;
        assert_eq!((same.id, same.kind.as_str(), &same.data["name"]), (event.id, kind, &json!("scheduler")));
    }
}

#[tokio::test]
async fn elections_keep_their_keys_from_locks() {
    let node = TestNode::start().await;
    let term = campaign(&node, json!({"candidate": "a"})).await.expect(200);
    let key = "ovncp.election%3Ascheduler";
    let body = json!({"owner": "x", "mode": "shared", "wait_ms": 1_000});
    assert_eq!(node.acquire(key, body).await.problem(422, "invalid_argument")["field"], "key");
    let many = json!({"owner": "x", "keys": ["k", "ovncp.election:scheduler"]});
    let many = node.post("/api/v1/cluster/locks/acquire", many).await.problem(422, "invalid_argument");
    assert_eq!(many["field"], "keys");
    for verb in ["renew", "release"] {
        let path = format!("/api/v1/cluster/locks/{key}/{verb}");
        node.post(&path, json!({"secret": term["secret"]})).await.problem(422, "invalid_argument");
    }
    let force = node.call(Method::DELETE, &format!("/api/v1/cluster/locks/{key}"));
    force.json(json!({"reason": "oops"})).send().await.problem(422, "invalid_argument");
    // Reading them is allowed: a term is a lock. It does not count as one of the users'.
    assert_eq!(
        node.get(&format!("/api/v1/cluster/locks/{key}")).await.expect(200)["holders"][0]["owner"],
        "a"
    );
    let metrics =
        node.client.get(format!("{}/metrics", node.metrics)).send().await.unwrap().text().await.unwrap();
    let acquired = metrics.lines().find(|line| line.starts_with("ovncp_distributed_locks_acquired_total"));
    assert!(acquired.is_some_and(|line| line.ends_with(" 0")), "{acquired:?}");
    assert_eq!(node.get(ELECTION).await.expect(200)["leader"]["fencing_token"], term["fencing_token"]);
}

#[tokio::test]
async fn wrong_campaigns_are_refused_in_their_own_words() {
    let node = TestNode::start().await;
    for (body, field) in [
        (json!({"candidate": ""}), "candidate"),
        (json!({"candidate": "a", "ttl_ms": 1}), "ttl_ms"),
        (json!({"candidate": "a", "wait_ms": 40_001}), "wait_ms"),
        (json!({"candidate": "a", "max_term_ms": 1}), "max_term_ms"),
        (json!({"candidate": "a", "value": "v".repeat(5_000)}), "value"),
        (json!({"candidate": "a", "secret": "short"}), "secret"),
    ] {
        let problem = campaign(&node, body).await.problem(422, "invalid_argument");
        assert_eq!(problem["field"], field);
        assert!(problem["detail"].as_str().unwrap().starts_with(field), "{problem}");
    }
    campaign(&node, json!({"candidate": "a", "mode": "shared"})).await.problem(422, "unknown_field");
    let long = "n".repeat(1_010);
    let path = format!("/api/v1/cluster/elections/{long}/campaign");
    let problem = node.post(&path, json!({"candidate": "a"})).await.problem(422, "invalid_argument");
    assert_eq!(problem["field"], "name");
    // As long as allowed, and named like a part of the path: listed in pages.
    for name in [&long[1..], "list", "a%2Fb"] {
        let path = format!("/api/v1/cluster/elections/{name}/campaign");
        node.post(&path, json!({"candidate": "a"})).await.expect(200);
    }
    node.acquire("ovncp", json!({"owner": "a"})).await.expect(200);
    let mut names = Vec::new();
    let mut query = "?limit=1".to_owned();
    loop {
        let page = node.get(&format!("/api/v1/cluster/elections{query}")).await.expect(200);
        names.extend(page["elections"].as_array().unwrap().iter().map(|one| one["name"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=1&cursor={cursor}");
    }
    assert_eq!(names, ["a/b", "list", &long[1..]]);
    assert_eq!(node.get("/api/v1/cluster/elections?prefix=li").await.expect(200)["count"], 1);
}

/// Campaign, observe, resign, retry and hang up, each on another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_any_candidate() {
    let nodes = TestNode::start_three().await;
    let mut observer = observe(&nodes[2]).await;
    assert_eq!(told(&observer.event().await).1, None);
    let first = campaign(&nodes[0], json!({"candidate": "a", "ttl_ms": 86_400_000})).await.expect(200);
    let body = |who: &str| json!({"candidate": who, "wait_ms": 40_000, "ttl_ms": 86_400_000});
    let call = |node: usize, who: &str| {
        nodes[node].call(Method::POST, &format!("{ELECTION}/campaign")).json(body(who)).send()
    };
    // One candidate hangs up and leaves the queue; the one behind it moves up.
    let gone = tokio::spawn(call(1, "gone"));
    candidates(&nodes[0], 1).await;
    let retried = || {
        let call = nodes[1].call(Method::POST, &format!("{ELECTION}/campaign"));
        call.header("idempotency-key", "c-1").json(body("c")).send()
    };
    let waiting = tokio::spawn(retried());
    candidates(&nodes[2], 2).await;
    gone.abort();
    candidates(&nodes[0], 1).await;
    resign(&nodes[2], &first).await.expect(204);
    let second = waiting.await.unwrap().expect(200);
    // The answer was lost? The retry has the same term and the same proof.
    let again = retried().await.expect(200);
    assert_eq!((&again["secret"], token(&again)), (&second["secret"], token(&second)));
    resign(&nodes[0], &second).await.expect(204);
    retried().await.problem(409, "term_lost");
    let mut kinds = Vec::new();
    for _ in 0..4 {
        kinds.push(told(&observer.event().await));
    }
    let leads = |who: &str, term: &Value| {
        ("elected".to_owned(), Some(who.to_owned()), term["fencing_token"].as_str().map(str::to_owned))
    };
    let resigned = || ("resigned".to_owned(), None, None);
    assert_eq!(kinds, [leads("a", &first), resigned(), leads("c", &second), resigned()]);
}

/// The typed calls of the Rust client, against three nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_campaigns_observes_and_resigns() {
    let nodes = TestNode::start_three().await;
    let client = |order: [usize; 3]| {
        let endpoints = order.map(|node| nodes[node].base.clone());
        Client::builder().endpoints(endpoints).deadline(PATIENCE).build().unwrap()
    };
    let (one, two) = (client([0, 1, 2]), client([1, 2, 0]));
    let mut observation = client([2, 0, 1]).election("scheduler").observe();
    let mut next = async || tokio::time::timeout(PATIENCE, observation.next()).await.expect("told").unwrap();
    let state = next().await;
    assert_eq!((state.change, &state.leader), (Change::State, &None), "nobody leads");

    let value = json!({"url": "http://a:1"});
    let campaign = one.election("scheduler").campaign().candidate("a").value(value.clone());
    let first = campaign.ttl(Duration::from_secs(60)).lead().await.unwrap();
    let elected = next().await;
    let leader = elected.leader.as_ref().unwrap();
    assert_eq!((elected.change, leader.candidate.as_str()), (Change::Elected, "a"));
    assert_eq!((leader.fencing_token, &leader.value), (first.fencing_token(), &Some(value)));
    let refused = two.election("scheduler").campaign().candidate("b").win().await.unwrap_err();
    assert!(matches!(&refused, Error::ElectionHeld { leader: Some(leader), .. } if leader.owner == "a"));

    // The second one waits on another node, and is elected when the first one resigns.
    let campaign = two.election("scheduler").campaign().candidate("b").ttl(Duration::from_secs(60));
    let waiting = tokio::spawn(campaign.wait(PATIENCE).lead());
    candidates(&nodes[0], 1).await;
    let view = one.election("scheduler").view().await.unwrap();
    assert_eq!((view.leader.unwrap().candidate.as_str(), view.candidates[0].candidate.as_str()), ("a", "b"));
    assert_eq!(first.run(async { 7 }).await, Ok(7));
    let old = first.fencing_token();
    first.resign().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.is_leading() && second.fencing_token() > old);
    let resigned = next().await;
    assert_eq!((resigned.change, resigned.leader), (Change::Resigned, None));
    assert_eq!(resigned.ended.unwrap().fencing_token, old);
    let elected = next().await;
    assert_eq!(elected.leader.unwrap().candidate, "b");
    let page = one.elections("sched", 10, None).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].candidates_count, page.next_cursor), (1, 0, None));

    // Deposed while it works: the work is dropped, and whoever goes on behind the election sees why.
    let deposed =
        one.election("scheduler").depose("maintenance", Some(second.fencing_token())).await.unwrap();
    assert_eq!(deposed, [second.fencing_token()]);
    let lost = tokio::time::timeout(PATIENCE, second.run(std::future::pending::<()>())).await;
    assert!(matches!(lost, Ok(Err(Lost::Taken { .. }))), "{lost:?}");
    assert!(matches!(second.resign().await, Err(Error::NotHolder(_))));
    let mut resumed = one.election("scheduler").observe_after(elected.offset.unwrap());
    let ended = tokio::time::timeout(PATIENCE, resumed.next()).await.expect("told").unwrap();
    assert_eq!((ended.change, ended.leader), (Change::Deposed, None));
    assert_eq!(ended.ended.unwrap().reason, "maintenance");

    // A term that nobody keeps.
    let term = one.election("scheduler").campaign().ttl(Duration::from_secs(60)).win().await.unwrap();
    assert_eq!(one.election("scheduler").renew(&term).await.unwrap().fencing_token, term.fencing_token);
    one.election("scheduler").resign(&term.secret).await.unwrap();
    assert!(matches!(one.election("scheduler").renew(&term).await, Err(Error::NotHolder(_))));
    let nobody = one.election("scheduler").depose("again", None).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
}
