//! When requests share a transaction, and when they do not.

use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::operation::{Condition, Operation};
use ovncp_ovn::value::Datum;
use ovncp_ovn::writer::{Writer, WriterSettings};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fake::{Fake, Fate};

const ROUND_TRIP: Duration = Duration::from_millis(10);

fn slow(fates: Vec<Fate>) -> Arc<Fake> {
    Arc::new(Fake::new(fates, vec![(ROUND_TRIP, Duration::ZERO)]))
}

fn create(number: u32, name: &str) -> Vec<Operation> {
    let uuid = Uuid::from_u128(u128::from(number) + 1);
    let row = vec![("name".into(), Datum::from(name))];
    vec![Operation::Insert { table: "Root".into(), uuid, row }]
}

fn one_in_flight() -> WriterSettings {
    WriterSettings { in_flight_max: 1, ..WriterSettings::default() }
}

/// Submits all at once; the answers in that order.
async fn all(
    writer: &Writer<Arc<Fake>>,
    requests: impl IntoIterator<Item = Vec<Operation>>,
) -> Vec<Result<(), TransactError>> {
    let mut calls = JoinSet::new();
    for (position, request) in requests.into_iter().enumerate() {
        let writer = writer.clone();
        calls.spawn(async move { (position, writer.submit(request).await.map(drop)) });
    }
    let mut answers = calls.join_all().await;
    answers.sort_by_key(|(position, _)| *position);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Submits all while the only transaction under way is that of a request which was there before.
async fn all_behind_another(
    fake: &Fake,
    writer: &Writer<Arc<Fake>>,
    requests: impl IntoIterator<Item = Vec<Operation>>,
) -> Vec<Result<(), TransactError>> {
    let first = tokio::spawn({
        let writer = writer.clone();
        async move { writer.submit(create(u32::MAX, "first")).await }
    });
    while fake.sent() == 0 {
        tokio::task::yield_now().await;
    }
    let answers = all(writer, requests).await;
    first.await.unwrap().unwrap();
    answers
}

#[tokio::test(start_paused = true)]
async fn a_single_request_is_sent_at_once() {
    let writer = Writer::new(slow(Vec::new()), WriterSettings::default());
    let before = Instant::now();
    writer.submit(create(0, "a")).await.unwrap();
    assert_eq!(before.elapsed(), ROUND_TRIP);
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_while_one_is_under_way_share_a_transaction() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), one_in_flight());
    let requests = (0..100).map(|number| create(number, &number.to_string()));
    let answers = all_behind_another(&fake, &writer, requests).await;
    assert!(answers.iter().all(Result::is_ok));

    assert_eq!(fake.log().iter().map(|one| one.operations.len()).collect::<Vec<_>>(), [1, 64, 36]);
}

#[tokio::test(start_paused = true)]
async fn company_is_awaited_for_two_milliseconds_when_a_seat_is_free() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), WriterSettings::default());
    let before = Instant::now();
    let requests = (0..5).map(|number| create(number, &number.to_string()));
    let answers = all_behind_another(&fake, &writer, requests).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(before.elapsed(), ROUND_TRIP + Duration::from_millis(2));
    assert_eq!(fake.version(), 2);
    assert_eq!(fake.in_flight_most(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_bad_request_costs_the_others_one_transaction() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), one_in_flight());
    let mut requests: Vec<_> = (0..40).map(|number| create(number, &number.to_string())).collect();
    requests[20].insert(0, Operation::wait_present("Root", Uuid::nil(), Condition::uuid(Uuid::nil())));
    let answers = all_behind_another(&fake, &writer, requests).await;
    for (position, answer) in answers.iter().enumerate() {
        match answer {
            Err(TransactError::Rejected(rejection)) => {
                assert_eq!((position, rejection.operation), (20, Some(0)));
                assert_eq!(rejection.kind, RejectionKind::WaitFailed);
            }
            other => assert!(other.is_ok() && position != 20, "{position}: {other:?}"),
        }
    }
    assert_eq!(fake.sent(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_finds_the_one_at_fault() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), one_in_flight());
    let name = |number: u32| if number == 33 { "first".to_owned() } else { number.to_string() };
    let requests = (0..64).map(|number| create(number, &name(number)));
    let answers = all_behind_another(&fake, &writer, requests).await;
    for (position, answer) in answers.iter().enumerate() {
        match answer {
            Err(TransactError::Rejected(rejection)) => {
                assert_eq!((position, rejection.operation), (33, None));
                assert_eq!(rejection.kind, RejectionKind::ConstraintViolation);
            }
            other => assert!(other.is_ok() && position != 33, "{position}: {other:?}"),
        }
    }
    // The one before; all, which fails; the one that the error names; the others.
    assert_eq!(fake.sent(), 4);
}

#[tokio::test(start_paused = true)]
async fn many_bad_requests_cost_a_few_transactions_each() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), one_in_flight());
    let request = |number: u32| {
        let mut operations = create(number, &number.to_string());
        if number % 4 == 3 {
            operations.insert(0, Operation::wait_present("Root", Uuid::nil(), Condition::uuid(Uuid::nil())));
        }
        operations
    };
    let answers = all_behind_another(&fake, &writer, (0..64).map(request)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 16);
    assert!(fake.sent() <= 2 + 3 * 16, "{} transactions", fake.sent());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_sent_is_taken_out_with_its_caller() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), one_in_flight());
    let first = tokio::spawn({
        let writer = writer.clone();
        async move { writer.submit(create(0, "first")).await }
    });
    tokio::time::sleep(ROUND_TRIP / 2).await;
    let gone = tokio::time::timeout(ROUND_TRIP / 4, writer.submit(create(1, "gone"))).await;
    assert!(gone.is_err());
    assert_eq!(writer.waiting(), 0);
    first.await.unwrap().unwrap();
    writer.submit(create(2, "later")).await.unwrap();
    assert_eq!(fake.version(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let settings = WriterSettings { queue_requests_max: 3, ..one_in_flight() };
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), settings);
    let answers =
        all_behind_another(&fake, &writer, (0..10).map(|number| create(number, &number.to_string()))).await;
    let refused =
        answers.iter().filter(|answer| **answer == Err(TransactError::QueueFull { max: 3 })).count();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    assert_eq!((refused, writer.metrics().refused()), (7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_its_bounds_is_refused() {
    let settings = WriterSettings { request_operations_max: 2, request_bytes_max: 1_000, ..one_in_flight() };
    let writer = Writer::new(slow(Vec::new()), settings);
    let three = (0..3).flat_map(|number| create(number, &number.to_string())).collect();
    let refused = TransactError::TooLarge { limit: "request_operations", max: 2 };
    assert_eq!(writer.submit(three).await, Err(refused));
    let refused = TransactError::TooLarge { limit: "request_bytes", max: 1_000 };
    assert_eq!(writer.submit(create(0, &"x".repeat(1_000))).await, Err(refused));
    assert_eq!(writer.metrics().submitted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_too_long_says_whether_it_was_sent() {
    let settings = WriterSettings { timeout: ROUND_TRIP / 2, ..one_in_flight() };
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), settings);
    let sent = tokio::spawn({
        let writer = writer.clone();
        async move { writer.submit(create(0, "sent")).await }
    });
    while fake.sent() == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = writer.submit(create(1, "waiting")).await;
    assert!(matches!(waiting, Err(TransactError::Unavailable { .. })), "{waiting:?}");
    let sent = sent.await.unwrap();
    assert!(matches!(sent, Err(TransactError::OutcomeUnknown { .. })), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn no_leader_is_tried_again_until_the_time_out() {
    let fake = slow(vec![Fate::NotLeader, Fate::NotLeader, Fate::Executed]);
    let writer = Writer::new(Arc::clone(&fake), WriterSettings::default());
    writer.submit(create(0, "a")).await.unwrap();
    assert_eq!((fake.sent(), writer.metrics().retried()), (3, 2));

    let fake = slow(vec![Fate::NotLeader]);
    let writer = Writer::new(Arc::clone(&fake), WriterSettings::default());
    let answer = writer.submit(create(0, "a")).await;
    assert!(matches!(answer, Err(TransactError::Unavailable { .. } | TransactError::OutcomeUnknown { .. })));
    assert_eq!(fake.version(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_one_of_them_makes_another_one_does_not_name() {
    let fake = slow(Vec::new());
    let writer = Writer::new(Arc::clone(&fake), one_in_flight());
    let again = |name: &str| create(1, name);
    let delete =
        vec![Operation::Delete { table: "Root".into(), condition: Condition::uuid(Uuid::from_u128(2)) }];
    let answers = all_behind_another(&fake, &writer, [again("x"), delete, again("y")]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fake.version(), 4);
}
