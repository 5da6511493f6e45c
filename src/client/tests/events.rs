//! Streams that are cut and go on elsewhere.

use serde_json::json;

use super::fake::{Answer, Fake, PATIENCE, client};
use crate::client::Error;

#[tokio::test]
async fn stream_goes_on_where_it_left_off_on_another_node() {
    let first = Fake::start(|seen| match seen.number {
        0 => Answer::Stream(
            ": hello\n\nid: 4\nevent: lock\ndata: {\"key\":\"a\"}\n\ndata: {}\n\nid: 5\n\nid: 6\nda",
        ),
        _ => Answer::Later(503, "draining", 1),
    })
    .await;
    let second = Fake::start(|_| Answer::Stream("id: 6\nevent: lock\ndata: {\"key\":\"b\"}\n\n")).await;
    let mut events = client(&[&first, &second]).events().since(3).types(["lock", "kv"]).open();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap();
        seen.push((event.offset, event.kind, event.data));
    }
    assert_eq!(seen[0], (Some(4), "lock".to_owned(), json!({"key": "a"})));
    assert_eq!(seen[1], (Some(4), "message".to_owned(), json!({})));
    assert_eq!(seen[2], (Some(6), "lock".to_owned(), json!({"key": "b"})), "the half event came again, once");
    let (asked, then) = (first.seen(), second.seen());
    assert_eq!(asked[0].path, "/api/v1/cluster/events?types=lock%2Ckv&since=3");
    assert_eq!(asked[0].last_event_id, None);
    assert_eq!(then[0].path, "/api/v1/cluster/events?types=lock%2Ckv");
    assert_eq!(then[0].last_event_id.as_deref(), Some("5"));
}

#[tokio::test]
async fn refusal_ends_the_stream() {
    let fake = Fake::always(400, json!({"code": "malformed_request", "detail": "no such type"})).await;
    let mut events = client(&[&fake]).events().types(["nonsense"]).open();
    let ended = tokio::time::timeout(PATIENCE, events.next()).await.expect("an answer");
    assert!(matches!(ended, Err(Error::Invalid(_))), "{ended:?}");
}
