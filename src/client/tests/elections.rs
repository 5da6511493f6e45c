//! Campaigns, terms that are kept or lost, and what observers are told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake::{Answer, Fake, PATIENCE, Seen, client};
use crate::client::{Change, Error, Lost};

/// Where the term must not be lost: long against any delay of a busy machine.
const LONG: Duration = Duration::from_secs(15);
/// Where it shall be lost.
const SHORT: Duration = Duration::from_secs(5);

/// As a node that lets everybody lead.
fn elect(seen: &Seen) -> Answer {
    match seen.path.rsplit('/').next() {
        Some("campaign" | "renew") => Answer::Json(
            200,
            json!({"name": "e", "candidate": "a", "secret": seen.body["secret"], "fencing_token": "42",
                "ttl_ms": seen.body["ttl_ms"], "waited_ms": 0}),
        ),
        _ => Answer::Json(204, Value::Null),
    }
}

#[tokio::test]
async fn term_is_renewed_until_its_leader_resigns() {
    let fake = Fake::start(elect).await;
    let campaign = client(&[&fake]).election("jobs/nightly").campaign().candidate("a").ttl(LONG);
    let leadership = campaign.value(json!({"url": "u"})).lead().await.unwrap();
    assert_eq!((leadership.fencing_token(), leadership.candidate()), (42, "a"));
    fake.until_asked("renew", 2).await;
    assert!(leadership.is_leading());
    let (campaign, renewals) = (&fake.asked("campaign")[0], fake.asked("renew"));
    assert_eq!(campaign.path, "/api/v1/cluster/elections/jobs%2Fnightly/campaign");
    assert_eq!((&campaign.body["candidate"], &campaign.body["value"]["url"]), (&json!("a"), &json!("u")));
    assert!(campaign.key.is_some(), "a retry must not campaign twice");
    // A repeated renewal must renew, not repeat an old answer.
    assert!(renewals.iter().all(|seen| seen.key.is_none() && seen.body["secret"] == campaign.body["secret"]));
    let signal = leadership.signal();
    leadership.resign().await.unwrap();
    assert_eq!(signal.lost().await, Lost::Released);
    let resigned = fake.asked("resign");
    assert_eq!((resigned.len(), &resigned[0].body["secret"]), (1, &campaign.body["secret"]));
}

#[tokio::test]
async fn dropped_leadership_resigns() {
    let fake = Fake::start(elect).await;
    drop(client(&[&fake]).election("e").campaign().ttl(LONG).lead().await.unwrap());
    fake.until_asked("resign", 1).await;
}

#[tokio::test]
async fn work_is_dropped_when_the_leader_is_deposed() {
    let fake = Fake::start(|seen| match seen.path.ends_with("renew") {
        true => Answer::Json(409, json!({"code": "not_leader", "detail": "deposed for maintenance"})),
        false => elect(seen),
    })
    .await;
    let leadership = client(&[&fake]).election("e").campaign().ttl(SHORT).lead().await.unwrap();
    // The end of the sender shows that the future was dropped.
    let (alive, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
    let work = async move {
        std::future::pending::<()>().await;
        drop(alive);
    };
    let lost = tokio::time::timeout(PATIENCE, leadership.run(work)).await.expect("it is noticed");
    assert!(matches!(&lost, Err(Lost::Taken { reason }) if reason.contains("deposed")), "{lost:?}");
    assert_eq!(dropped.recv().await, None);
    assert!(!leadership.is_leading() && leadership.run(async {}).await.is_err());
}

/// By the clock alone, counted from the sending of the last renewal that was acknowledged.
#[tokio::test]
async fn silence_ends_the_term_before_the_lease() {
    let fake = Fake::start(|seen| match seen.path.ends_with("renew") && seen.number > 1 {
        true => Answer::Silence,
        false => elect(seen),
    })
    .await;
    let leadership = client(&[&fake]).election("e").campaign().ttl(SHORT).lead().await.unwrap();
    let lost = tokio::time::timeout(PATIENCE, leadership.lost()).await.expect("the clock is enough");
    let (noticed, lease) = (Instant::now(), leadership.lease());
    assert!(matches!(lost, Lost::Expired { .. }), "{lost:?}");
    assert!(noticed >= lease.lost_at(), "not given up early");
    let renewals = fake.asked("renew");
    assert!(renewals.len() >= 2, "one was acknowledged, and it was tried again: {renewals:?}");
    // Sent before the fake saw it, answered after.
    assert!(lease.ends_at() <= renewals[0].at + SHORT, "counted from the sending");
}

#[tokio::test]
async fn campaign_goes_on_while_somebody_leads_and_ends_with_their_name() {
    let leader = json!({"candidate": "b", "fencing_token": "7", "ttl_ms": 1_000});
    let late = json!({"code": "election_timeout", "leader": leader, "queue_length": 2});
    let refused = late.clone();
    let fake = Fake::start(move |seen| match seen.number {
        0 => Answer::Json(409, refused.clone()),
        // The node through which it waited was given up; then won, and over before the answer came.
        1 => Answer::Json(409, json!({"code": "wait_cancelled"})),
        2 => Answer::Json(409, json!({"code": "term_lost"})),
        _ => elect(seen),
    })
    .await;
    let term = client(&[&fake]).election("e").campaign().ttl(LONG).wait(PATIENCE).win().await.unwrap();
    assert_eq!((term.fencing_token, fake.asked("campaign").len()), (42, 4));
    assert!(term.lease.ends_at() <= fake.asked("campaign")[3].at + LONG, "that of the last request");
    let fake = Fake::always(409, late).await;
    let ended = client(&[&fake]).election("e").campaign().win().await;
    assert!(
        matches!(&ended, Err(Error::ElectionTimeout { leader: Some(leader), queue_length: 2, .. })
            if leader.owner == "b" && leader.fencing_token == 7),
        "{ended:?}"
    );
}

const BEGINNING: &str = "id: 4\nevent: state\ndata: {\"type\":\"state\",\"name\":\"e\",\"leader\":null,\
    \"time\":\"t\"}\n\nid: 9\nevent: elected\ndata: {\"type\":\"elected\",\"name\":\"e\",\"leader\":\
    {\"candidate\":\"a\",\"value\":{\"url\":\"u\"},\"fencing_token\":\"42\"},\"time\":\"t\"}\n\nid: 11\nda";
const REST: &str = "id: 11\nevent: expired\ndata: {\"type\":\"expired\",\"name\":\"e\",\"leader\":null,\
    \"ended\":{\"candidate\":\"a\",\"fencing_token\":\"42\",\"held_ms\":5},\"time\":\"t\"}\n\n\
    id: 12\nevent: abolished\ndata: {\"type\":\"abolished\",\"name\":\"e\",\"leader\":null,\"time\":\"t\"}\n\n";

#[tokio::test]
async fn observer_sees_that_nobody_leads_and_goes_on_where_it_was() {
    let first = Fake::start(|seen| match seen.number {
        0 => Answer::Stream(BEGINNING),
        _ => Answer::Later(503, "draining", 1),
    })
    .await;
    let second = Fake::start(|_| Answer::Stream(REST)).await;
    let client = client(&[&first, &second]);
    let mut observation = client.election("e").observe();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(tokio::time::timeout(PATIENCE, observation.next()).await.expect("an event").unwrap());
    }
    let changes: Vec<_> = seen.iter().map(|one| (one.offset, one.change, one.leader.is_some())).collect();
    let expected = [
        (Some(4), Change::State, false),
        (Some(9), Change::Elected, true),
        (Some(11), Change::Expired, false),
        (Some(12), Change::Other, false),
    ];
    assert_eq!(changes, expected);
    let leader = seen[1].leader.as_ref().unwrap();
    assert_eq!((leader.fencing_token, &leader.value), (42, &Some(json!({"url": "u"}))));
    assert_eq!(seen[2].ended.as_ref().map(|ended| (ended.fencing_token, ended.held_ms)), Some((42, 5)));
    assert_eq!(second.seen()[0].last_event_id.as_deref(), Some("9"));

    // Another observer goes on behind what the first one saw.
    let third = Fake::start(|_| Answer::Stream(REST)).await;
    let mut resumed = super::fake::client(&[&third]).election("e").observe_after(9);
    let next = tokio::time::timeout(PATIENCE, resumed.next()).await.expect("an event").unwrap();
    assert_eq!(next, seen[2]);
    assert_eq!(third.seen()[0].path, "/api/v1/cluster/elections/e/observe?since=10");
}
