//! Fail-over, retries, and what is said when it is unknown what happened.

use std::time::Duration;

use serde_json::{Value, json};

use super::fake::{Answer, Fake, PATIENCE, builder, client, closed_port};
use crate::client::{Call, Client, Consistency, Error};

fn ok() -> Value {
    json!({"ok": true})
}

#[tokio::test]
async fn write_fails_over_with_one_idempotency_key() {
    let broken = Fake::always(503, json!({"code": "no_leader"})).await;
    let good = Fake::always(200, ok()).await;
    let client = Client::builder().endpoint(closed_port().await);
    let client = client.endpoints([&broken, &good].map(Fake::url)).build().unwrap();
    let call = Call::post(["api", "switch:a/b"]).json(&ok());
    assert_eq!(client.json::<Value>(&call).await.unwrap(), ok());
    let (first, then) = (&broken.seen()[0], &good.seen()[0]);
    assert_eq!((&first.path, &first.key, &first.body), (&then.path, &then.key, &then.body));
    assert_eq!(then.path, "/api/switch%3Aa%2Fb");
    assert!(then.key.is_some());
}

#[tokio::test]
async fn endpoint_that_answered_is_asked_first_next_time() {
    let broken = Fake::start(|_| Answer::Later(503, "draining", 1)).await;
    let good = Fake::always(200, ok()).await;
    let client = client(&[&broken, &good]);
    for _ in 0..3 {
        client.call(&Call::get(["x"])).await.unwrap();
    }
    assert_eq!((broken.seen().len(), good.seen().len()), (1, 3));
    // A refusal is an answer too.
    let refusing = Fake::always(409, json!({"code": "conflict"})).await;
    let client = self::client(&[&broken, &refusing]);
    for _ in 0..2 {
        assert!(matches!(client.call(&Call::get(["x"])).await, Err(Error::Refused(_))));
    }
    assert_eq!((broken.seen().len(), refusing.seen().len()), (2, 2));
}

#[tokio::test]
async fn try_without_an_answer_is_repeated_with_the_same_key_and_once_answered_is_no_error() {
    let silent_once =
        Fake::start(|seen| if seen.number == 0 { Answer::Silence } else { Answer::Json(200, ok()) }).await;
    let client =
        builder(&[&silent_once]).try_timeout(Duration::from_millis(200)).deadline(PATIENCE).build().unwrap();
    client.call(&Call::put(["x"]).body("v", "text/plain")).await.unwrap();
    let seen = silent_once.seen();
    assert!(seen.len() >= 2 && seen.iter().all(|try_| try_.key == seen[0].key), "{seen:?}");
}

#[tokio::test]
async fn write_that_may_have_happened_ends_as_unknown_whatever_came_after() {
    // The first try is cut off, the others are refused: it may have happened all the same.
    let fake = Fake::start(|seen| match seen.number {
        0 => Answer::Silence,
        _ => Answer::Later(503, "no_leader", 0),
    })
    .await;
    let client = builder(&[&fake])
        .try_timeout(Duration::from_millis(100))
        .deadline(Duration::from_secs(2))
        .build()
        .unwrap();
    let call = Call::post(["x"]).idempotency_key("mine");
    match client.call(&call).await {
        Err(Error::Unknown { idempotency_key: Some(key), .. }) => assert_eq!(key, "mine"),
        other => panic!("{other:?}: {:?}", fake.seen()),
    }
    for (code, status) in
        [("outcome_unknown", 504), ("node_stopped", 503), ("", 502), ("internal_error", 500)]
    {
        let fake = Fake::always(status, json!({ "code": code })).await;
        let client = builder(&[&fake]).deadline(Duration::from_millis(300)).build().unwrap();
        let ended = client.call(&Call::post(["x"])).await;
        assert!(matches!(ended, Err(Error::Unknown { .. })), "{code}: {ended:?}");
        // A read changes nothing, so that there is nothing to be unknown.
        let ended = client.call(&Call::get(["x"])).await;
        assert!(!matches!(ended, Ok(_) | Err(Error::Unknown { .. })), "{code}: {ended:?}");
    }
}

/// Followed, a redirected write would become a read that succeeds.
#[tokio::test]
async fn redirect_is_no_success() {
    let fake = Fake::always(302, json!({})).await;
    let ended = client(&[&fake]).call(&Call::post(["x"])).await;
    assert!(matches!(ended, Err(Error::Protocol(_))), "{ended:?}");
}

#[tokio::test]
async fn what_surely_did_not_happen_has_an_error_of_its_own() {
    let limits = |fake: &Fake| builder(&[fake]).deadline(Duration::from_millis(300)).build().unwrap();
    let leaderless = Fake::start(|_| Answer::Later(503, "no_leader", 0)).await;
    let ended = limits(&leaderless).call(&Call::post(["x"])).await;
    assert!(matches!(ended, Err(Error::NoLeader(_))), "{ended:?}");
    assert!(leaderless.seen().len() > 1, "tried until the deadline");
    let busy = Fake::start(|_| Answer::Later(429, "queue_full", 0)).await;
    let ended = limits(&busy).call(&Call::post(["x"])).await;
    assert!(matches!(ended, Err(Error::Unavailable(_))), "{ended:?}");
    let nobody = Client::builder().endpoint(closed_port().await).deadline(Duration::from_millis(300));
    let ended = nobody.clone().build().unwrap().call(&Call::post(["x"])).await;
    assert!(matches!(&ended, Err(Error::Unreachable { endpoints }) if endpoints.len() == 1), "{ended:?}");
    let ended = nobody.deadline(PATIENCE).fail_fast(true).build().unwrap().call(&Call::post(["x"])).await;
    assert!(matches!(ended, Err(Error::Unreachable { .. })), "{ended:?}");
}

#[tokio::test]
async fn retry_after_is_waited_for_and_a_reached_limit_is_final() {
    let busy_once = Fake::start(|seen| match seen.number {
        0 => Answer::Later(429, "queue_full", 1),
        _ => Answer::Json(200, ok()),
    })
    .await;
    client(&[&busy_once]).call(&Call::post(["x"])).await.unwrap();
    let seen = busy_once.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(1), "{seen:?}");
    let full = Fake::always(429, json!({"code": "limit_exceeded", "limit": "held_locks", "max": 5})).await;
    let ended = client(&[&full]).call(&Call::post(["x"])).await;
    assert!(matches!(ended, Err(Error::Limit { max: Some(5), .. })), "{ended:?}");
    assert_eq!(full.seen().len(), 1);
}

#[tokio::test]
async fn local_read_sees_what_this_client_wrote() {
    let (one, other) = (Fake::always(200, json!({"revision": "100"})).await, Fake::always(200, ok()).await);
    let writer = client(&[&one]);
    writer.kv().put("k", "v").send().await.unwrap();
    assert_eq!(writer.seen_index(), 100);
    let reader = client(&[&other]);
    reader.see_index(writer.seen_index());
    reader.kv().consistency(Consistency::Local).get("k").await.unwrap();
    reader.kv().get("k").await.unwrap();
    let asked: Vec<_> = other.seen().into_iter().map(|seen| (seen.path, seen.min_index)).collect();
    assert_eq!(asked[0].0, "/api/v1/cluster/kv/k?consistency=local");
    assert_eq!(asked[0].1.as_deref(), Some("100"));
    assert_eq!((asked[1].0.as_str(), &asked[1].1), ("/api/v1/cluster/kv/k?consistency=linearizable", &None));
}

#[tokio::test]
async fn grant_that_was_lost_before_it_was_heard_of_is_asked_for_anew() {
    let fake = Fake::start(|seen| match seen.number {
        0 => Answer::Json(409, json!({"code": "lock_lost", "fencing_token": "6"})),
        1 => Answer::Json(409, json!({"code": "wait_cancelled"})),
        _ => Answer::Json(200, json!({"key": "k", "fencing_token": "7", "ttl_ms": 30_000})),
    })
    .await;
    let lock = client(&[&fake]).lock("k").wait(PATIENCE).acquire().await.unwrap();
    assert_eq!((lock.fencing_token, lock.keys), (7, vec!["k".to_owned()]));
    let seen = fake.seen();
    assert!(seen[0].key != seen[1].key && seen[1].key != seen[2].key, "new requests: {seen:?}");
    assert_eq!(seen[2].body["secret"], lock.secret.as_str());
    // Without time to wait there is nothing to try again.
    let ended = client(&[&Fake::always(409, json!({"code": "lock_lost"})).await]).lock("k").acquire().await;
    assert!(matches!(ended, Err(Error::LockLost(_))), "{ended:?}");
}
