//! Guards: renewed in the background, lost by an answer or by silence, given back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake::{Answer, Fake, PATIENCE, Seen, client};
use crate::client::{Client, Error, Guard, Lease, Lock, Lost};

/// Where the lock must not be lost: long against any delay of a busy machine.
const LONG: Duration = Duration::from_secs(15);
/// Where it shall be lost.
const SHORT: Duration = Duration::from_secs(5);

/// As a node that lets the lock be held.
fn grant(seen: &Seen) -> Answer {
    match seen.path.rsplit('/').next() {
        Some("acquire" | "renew") => {
            Answer::Json(200, json!({"key": "k", "fencing_token": "42", "ttl_ms": seen.body["ttl_ms"]}))
        }
        _ => Answer::Json(204, Value::Null),
    }
}

#[tokio::test]
async fn guard_renews_until_it_is_released() {
    let fake = Fake::start(grant).await;
    let guard = client(&[&fake]).lock("k").ttl(LONG).guard().await.unwrap();
    assert_eq!(guard.fencing_token(), 42);
    fake.until_asked("renew", 2).await;
    assert!(guard.is_held());
    // A repeated renewal must renew, not repeat an old answer.
    assert!(fake.asked("renew").iter().all(|seen| seen.key.is_none()));
    let signal = guard.signal();
    guard.release().await.unwrap();
    assert_eq!(signal.lost().await, Lost::Released);
    let (release, renewals) = (fake.asked("release"), fake.asked("renew"));
    assert_eq!((release.len(), &release[0].body["secret"]), (1, &renewals[0].body["secret"]));
    assert!(release[0].key.is_some());
}

#[tokio::test]
async fn dropped_guard_gives_the_lock_back() {
    let fake = Fake::start(grant).await;
    drop(client(&[&fake]).lock("k").ttl(LONG).guard().await.unwrap());
    fake.until_asked("release", 1).await;
}

#[tokio::test]
async fn work_is_dropped_when_the_cluster_says_that_the_lock_is_gone() {
    let fake = Fake::start(|seen| match seen.path.ends_with("renew") {
        true => Answer::Json(409, json!({"code": "not_holder", "detail": "released by force"})),
        false => grant(seen),
    })
    .await;
    let guard = client(&[&fake]).lock("k").ttl(SHORT).guard().await.unwrap();
    // The end of the sender shows that the future was dropped.
    let (alive, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
    let work = async move {
        std::future::pending::<()>().await;
        drop(alive);
    };
    let lost = tokio::time::timeout(PATIENCE, guard.run(work)).await.expect("the loss is noticed");
    assert!(matches!(&lost, Err(Lost::Taken { reason }) if reason.contains("by force")), "{lost:?}");
    assert_eq!(dropped.recv().await, None);
    assert!(!guard.is_held());
    // What is lost is lost for whatever comes after.
    assert!(guard.run(async {}).await.is_err());
}

#[tokio::test]
async fn silence_loses_the_lock_before_the_lease_ends() {
    let fake = Fake::start(|seen| match seen.path.ends_with("renew") {
        true => Answer::Silence,
        false => grant(seen),
    })
    .await;
    let guard = client(&[&fake]).lock("k").ttl(SHORT).guard().await.unwrap();
    let lease = guard.lease();
    let lost = tokio::time::timeout(PATIENCE, guard.lost()).await.expect("the clock is enough");
    let noticed = Instant::now();
    assert!(matches!(lost, Lost::Expired { .. }), "{lost:?}");
    assert!(noticed >= lease.lost_at(), "not given up early");
    assert_eq!(guard.lease(), lease, "nothing was acknowledged");
    assert!(!fake.asked("renew").is_empty(), "it was tried");
}

#[tokio::test]
async fn renewal_fails_over_while_the_lease_lasts() {
    let hung = Fake::start(|seen| match seen.path.ends_with("renew") {
        true => Answer::Silence,
        false => grant(seen),
    })
    .await;
    let good = Fake::start(grant).await;
    let guard = client(&[&hung, &good]).lock("k").ttl(LONG).guard().await.unwrap();
    good.until_asked("renew", 1).await;
    assert!(guard.is_held());
    assert_eq!(hung.asked("renew").len(), 1);
}

/// As after a long wait: the sending of the request proves nothing any more.
async fn waited_for(client: &Client, fake: &Fake) -> Lock {
    let mut lock = client.lock("k").ttl(LONG).acquire().await.unwrap();
    assert!(lock.lease.ends_at() <= fake.asked("acquire")[0].at + LONG, "counted from the sending");
    lock.lease = Lease::new(Instant::now().checked_sub(LONG).unwrap(), LONG);
    lock
}

#[tokio::test]
async fn grant_after_a_long_wait_is_renewed_before_it_counts() {
    let fake = Fake::start(grant).await;
    let client = client(&[&fake]);
    let guard = Guard::begin(client.clone(), waited_for(&client, &fake).await, LONG).await.unwrap();
    assert!(guard.is_held());
    // Sent before the fake saw it, answered after.
    assert!(guard.lease().ends_at() <= fake.asked("renew")[0].at + LONG, "counted from the sending");
    // If it cannot be proven it is not handed out, and given back.
    let fake = Fake::start(|seen| match seen.path.ends_with("renew") {
        true => Answer::Json(409, json!({"code": "not_holder"})),
        false => grant(seen),
    })
    .await;
    let client = super::fake::client(&[&fake]);
    let ended = Guard::begin(client.clone(), waited_for(&client, &fake).await, LONG).await;
    assert!(matches!(ended, Err(Error::NotHolder(_))), "{:?}", ended.err());
    fake.until_asked("release", 1).await;
}

/// A caller under `select!` or a time limit must not leave a lock behind that nobody knows of.
#[tokio::test]
async fn nobody_waits_any_more_for_a_guard_and_the_lock_is_given_back() {
    let fake = Fake::start(|seen| match seen.path.ends_with("renew") {
        true => Answer::Silence,
        false => grant(seen),
    })
    .await;
    let client = client(&[&fake]);
    let lock = waited_for(&client, &fake).await;
    let begun = tokio::spawn(Guard::begin(client.clone(), lock, LONG));
    fake.until_asked("renew", 1).await;
    begun.abort();
    fake.until_asked("release", 1).await;
}
