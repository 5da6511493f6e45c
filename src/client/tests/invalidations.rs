//! What is said to the invalidation log, and following it.

use std::time::Duration;

use serde_json::json;

use super::fake::{Answer, Fake, client};
use crate::client::{Cleared, Error, Followed};

fn entry(offset: u64) -> serde_json::Value {
    json!({"epoch": 1, "offset": offset.to_string(), "cluster_ms": 5, "time": "t", "patterns": ["a*"], "tags": [],
        "origin": "node-1"})
}

fn page(entries: &[u64], next_since: &str) -> Answer {
    let entries: Vec<_> = entries.iter().map(|offset| entry(*offset)).collect();
    Answer::Json(
        200,
        json!({"invalidations": entries, "count": entries.len(), "next_since": next_since, "first": "1:0",
            "next": "1:7", "nodes": [{"node_id": "node-1", "cleared": "6", "lag": 1}]}),
    )
}

#[tokio::test]
async fn an_invalidation_says_what_and_who_is_waited_for() {
    let fake = Fake::start(|_| {
        Answer::Json(
            200,
            json!({"epoch": 1, "offset": "6", "complete": false, "applied_by": ["node-1"], "missing": ["node-2"]}),
        )
    })
    .await;
    let request = client(&[&fake]).invalidate(["switch:*", "a"]).tag("t");
    let done = request.wait(Cleared::All, Duration::from_millis(700)).send().await.unwrap();
    assert_eq!((done.epoch, done.offset, done.complete), (1, 6, false));
    assert_eq!((done.applied_by, done.missing), (vec!["node-1".to_owned()], vec!["node-2".to_owned()]));
    let seen = &fake.asked("invalidations")[0];
    let body = json!({"patterns": ["switch:*", "a"], "tags": ["t"], "wait": "all", "timeout_ms": 700});
    assert_eq!((seen.path.as_str(), &seen.body), ("/api/v1/cluster/invalidations", &body));
    assert!(seen.key.is_some(), "a retry must not append twice");
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_and_tells_of_a_reset() {
    let fake = Fake::start(|seen| match seen.number {
        // From now on: where is that?
        0 => page(&[], "1:7"),
        1 => page(&[7, 8], "1:9"),
        2 => Answer::Json(410, json!({"code": "reset", "first": "2:3", "next": "2:5", "status": 410})),
        3 => page(&[3], "2:4"),
        _ => Answer::Json(422, json!({"code": "invalid_argument", "status": 422})),
    })
    .await;
    let mut follower = client(&[&fake]).follow_invalidations(None);
    assert_eq!(follower.position(), None);
    let offsets = |followed: Followed| match followed {
        Followed::Entries(entries) => entries.iter().map(|entry| entry.offset).collect::<Vec<_>>(),
        Followed::Reset { first } => panic!("reset to {first}"),
    };
    assert_eq!(offsets(follower.next().await.unwrap()), [7, 8]);
    assert_eq!(follower.position(), Some("1:9"));
    assert_eq!(follower.next().await.unwrap(), Followed::Reset { first: "2:3".to_owned() });
    assert_eq!(offsets(follower.next().await.unwrap()), [3]);
    assert!(matches!(follower.next().await, Err(Error::Invalid(_))));
    assert_eq!(follower.position(), Some("2:4"), "an error moves nothing");
}
