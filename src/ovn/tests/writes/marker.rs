//! A keyed request happens once.

use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::lab::Members;
use ovncp_ovn::marker::{Keyed, MARKER_ROWS, Markers, Seen, Submitted};
use ovncp_ovn::operation::Operation;
use ovncp_ovn::writer::{Writer, WriterSettings};

use super::{directory, northbound, open, switch, switches};

const SECRET: &[u8] = b"of the cluster";
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// 2026-11-22, a second before midnight.
const BEFORE_MIDNIGHT: Duration = Duration::from_secs(1_795_391_999);

fn keyed(key: &str, body: &str) -> Keyed {
    Keyed::new(SECRET, "POST /switches", key, body.as_bytes())
}

/// Creates a switch with a name that nobody else's has, and one with an id that follows from the key.
fn operations(keyed: &Keyed) -> Vec<Operation> {
    vec![switch(Uuid::new_v4(), "counted"), switch(keyed.uuid(0), "derived")]
}

fn before(note: &str) -> Submitted {
    Submitted::Seen(Seen::Before { note: Some(note.to_owned()) })
}

#[tokio::test]
async fn fifty_tries_at_once_around_midnight_happen_once() {
    let directory = directory();
    let lab = northbound(&directory, Members::Clustered).await;
    let writers = [
        Writer::new(open(&lab).await, WriterSettings::default()),
        Writer::new(open(&lab).await, WriterSettings { requests_max: 8, ..WriterSettings::default() }),
        Writer::new(open(&lab).await, WriterSettings { in_flight_max: 1, ..WriterSettings::default() }),
    ];
    let request = keyed("k", "body");
    let mut tries = tokio::task::JoinSet::new();
    for number in 0..50_u64 {
        let markers = Markers::new(writers[number as usize % writers.len()].clone());
        let request = request.clone();
        // Some clocks are a day ahead, some behind.
        let now = BEFORE_MIDNIGHT + Duration::from_secs(number % 4) * 3_600;
        tries.spawn(async move { markers.submit(&request, operations(&request), Some("note"), now).await });
    }
    let answers: Vec<_> = tries.join_all().await.into_iter().map(Result::unwrap).collect();
    let now = answers.iter().filter(|answer| matches!(answer, Submitted::Now(_))).count();
    assert_eq!(now, 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == before("note")).count(), 49, "{answers:?}");

    let database = open(&lab).await;
    assert_eq!(switches(&database, "counted").len(), 1);
    assert_eq!(switches(&database, "derived"), [request.uuid(0)]);
    let seen = database.read(|contents| request.look(contents)).unwrap();
    assert_eq!(seen, Some(Seen::Before { note: Some("note".to_owned()) }));
    let reused = keyed("k", "another body");
    assert_eq!(database.read(|contents| reused.look(contents)).unwrap(), Some(Seen::KeyReused));
    let markers = Markers::new(database);
    assert_eq!(markers.find(&request).await.unwrap(), seen);
    let answer = markers.submit(&reused, operations(&reused), None, BEFORE_MIDNIGHT).await;
    assert_eq!(answer, Ok(Submitted::Seen(Seen::KeyReused)));
}

#[tokio::test]
async fn a_request_that_fails_leaves_no_marker() {
    let directory = directory();
    let lab = northbound(&directory, Members::Standalone).await;
    let database = open(&lab).await;
    let markers = Markers::new(database.clone());
    let request = keyed("k", "body");
    let taken = Uuid::from_u128(1);
    database.transact(vec![switch(taken, "taken")]).await.unwrap();
    let failing = vec![Operation::Comment("first".to_owned()), switch(taken, "again")];
    match markers.submit(&request, failing, None, BEFORE_MIDNIGHT).await {
        Err(TransactError::Rejected(rejection)) => {
            assert_eq!((rejection.operation, rejection.kind), (Some(1), RejectionKind::DuplicateUuid));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(database.read(|contents| request.look(contents)).unwrap(), None);
    let answer = markers.submit(&request, operations(&request), None, BEFORE_MIDNIGHT).await;
    assert!(matches!(answer, Ok(Submitted::Now(results)) if results.len() == 2));
}

#[tokio::test]
async fn old_markers_go_and_young_ones_stay() {
    let directory = directory();
    let lab = northbound(&directory, Members::Standalone).await;
    let markers = Markers::new(open(&lab).await);
    let comment = || vec![Operation::Comment("nothing".to_owned())];
    let many = MARKER_ROWS * 2;
    for number in 0..many {
        let request = keyed(&number.to_string(), "body");
        let now = BEFORE_MIDNIGHT + if number % 2 == 0 { Duration::ZERO } else { DAY };
        let answer = markers.submit(&request, comment(), Some("note"), now).await;
        assert!(matches!(answer, Ok(Submitted::Now(_))), "{answer:?}");
    }
    assert_eq!(markers.clean(BEFORE_MIDNIGHT + DAY, DAY).await, Ok(0));
    let later = BEFORE_MIDNIGHT + DAY + Duration::from_secs(2 * 3_600);
    assert_eq!(markers.clean(later, DAY).await, Ok(many / 2));
    for number in 0..many {
        let request = keyed(&number.to_string(), "body");
        let answer = markers.submit(&request, comment(), None, later).await.unwrap();
        assert_eq!(answer == before("note"), number % 2 == 1, "{number}: {answer:?}");
    }
}
