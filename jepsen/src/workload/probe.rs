//! Asks every node all the time who leads, as far as it knows: two leaders in one term would be seen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Answer, Call, Outcome};

use super::actor::Actor;
use super::{ClientContext, Endpoint, Pace, WorkloadError};

/// Time between two questions to one node.
const PROBE_PERIOD: Duration = Duration::from_millis(100);
/// Longer than that no answer is waited for: the next question is due.
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

/// Asks all nodes of the run, also those that come later, until [`ClientContext::stop`].
pub async fn probe(mut context: ClientContext) -> Result<(), WorkloadError> {
    let (mut nodes, mut stop) = (context.nodes.clone(), context.stop.clone());
    let mut asked: BTreeMap<String, Endpoint> = BTreeMap::new();
    let mut probes = JoinSet::new();
    loop {
        let now = nodes.borrow_and_update().clone();
        for node in now {
            // A name that came back somewhere else has a probe of its own; the old one ends.
            if asked.get(&node.name) != Some(&node) {
                asked.insert(node.name.clone(), node.clone());
                let pace = Pace::new(1.0 / PROBE_PERIOD.as_secs_f64());
                probes.spawn(one(Actor::new(context.fork(pace))?, node));
            }
        }
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { break },
            _ = stop.wait_for(|stop| *stop) => break,
        }
        asked.retain(|_, node| nodes.borrow().contains(node));
    }
    probes.join_all().await;
    Ok(())
}

async fn one(mut actor: Actor, node: Endpoint) {
    let call = Call::get("/api/v1/cluster/leader?consistency=local").within(PROBE_TIME_MAX);
    while actor.goes_on().await && actor.context.nodes.borrow().contains(&node) {
        let invocation = actor.begin("leader", None, Some(&node), Value::Null);
        let outcome = actor.ask(&node, &call).await.and_then(|answer| leader(&answer));
        actor.end(&invocation, outcome);
    }
}

fn leader(answer: &Answer) -> Outcome<Value> {
    let body = answer.json();
    if !body["term"].is_u64() || !body["is_leader"].is_boolean() {
        return Outcome::Unknown(format!("no leader view: {body}"));
    }
    // A node that has not applied the leader's entry yet knows its number only. That is no second leader.
    let named = body["leader_id"].as_str().filter(|name| name.parse::<u64>().is_err());
    Outcome::Ok(json!({
        "term": body["term"],
        "leader_id": named,
        "is_leader": body["is_leader"],
        "node_id": body["node_id"],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(body: &str) -> Outcome<Value> {
        leader(&Answer { status: 200, index: None, node: None, revision: None, body: body.into() })
    }

    #[test]
    fn a_leader_without_a_name_is_nobody_in_particular() {
        let body = |leader: &str| {
            format!("{{\"node_id\":\"n2\",\"is_leader\":false,\"leader_id\":{leader},\"term\":4}}")
        };
        let expected = |leader: Value| {
            Outcome::Ok(json!({ "term": 4, "leader_id": leader, "is_leader": false, "node_id": "n2" }))
        };
        assert_eq!(seen(&body("\"n1\"")), expected("n1".into()));
        assert_eq!(seen(&body("\"1004\"")), expected(Value::Null));
        assert_eq!(seen(&body("null")), expected(Value::Null));
        assert!(matches!(seen("{}"), Outcome::Unknown(_)));
    }
}
