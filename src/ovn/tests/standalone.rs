//! The client against one real ovsdb-server.

mod support;

use ovncp_ovn::Uuid;
use ovncp_ovn::changes::Step;
use ovncp_ovn::database::Database;
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::operation::{Condition, Operation};
use ovncp_ovn::value::Datum;
use support::{PATIENCE, Server, assert_like_fresh, settings, synced, until};

fn insert(uuid: Uuid, name: &str) -> Operation {
    Operation::Insert { table: "Logical_Switch".into(), uuid, row: vec![("name".into(), Datum::from(name))] }
}

fn switches(database: &Database) -> Option<usize> {
    database.read(|contents| contents.table("Logical_Switch").map_or(0, |table| table.len()))
}

#[tokio::test]
async fn a_write_is_seen_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "nb");
    let database = synced(settings(vec![server.endpoint()])).await;
    let mut changes = database.subscribe(None);
    for number in 0..200_u128 {
        let uuid = Uuid::from_u128(number + 1);
        let results = database.transact(vec![insert(uuid, &format!("s{number}"))]).await.unwrap();
        assert_eq!(results[0].uuid, Some(uuid));
        let seen = database.read(|contents| contents.row("Logical_Switch", uuid).is_some());
        assert_eq!(seen, Some(true), "the reply comes after what it did");
    }
    let mut told = 0;
    while told < 200 {
        match changes.next().await {
            Some(Step::Changes(sets)) => told += sets.iter().map(|set| set.changes.len()).sum::<usize>(),
            other => panic!("changes are told, not {other:?}"),
        }
    }
    assert_like_fresh(&database, settings(vec![server.endpoint()])).await;
    let status = database.status();
    assert!(status.connected && status.in_sync && status.leader && !status.clustered && status.age.is_some());
    assert_eq!(database.metrics().transactions_committed.get(), 200);
}

#[tokio::test]
async fn a_refusal_says_what_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "nb");
    let database = synced(settings(vec![server.endpoint()])).await;
    let refusal = async |operations: Vec<Operation>| match database.transact(operations).await {
        Err(TransactError::Rejected(rejection)) => (rejection.operation, rejection.kind),
        other => panic!("a refusal, not {other:?}"),
    };
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    database.transact(vec![insert(first, "a")]).await.unwrap();
    let twice = vec![Operation::Comment("again".to_owned()), insert(first, "a")];
    assert_eq!(refusal(twice).await, (Some(1), RejectionKind::DuplicateUuid));
    let absent = vec![Operation::wait_absent("Logical_Switch", "name", "a"), insert(second, "a")];
    assert_eq!(refusal(absent).await, (Some(0), RejectionKind::WaitFailed));
    let dangling = Operation::Update {
        table: "Logical_Switch".into(),
        condition: Condition::uuid(first),
        row: vec![("ports".into(), Datum::from(second))],
    };
    assert_eq!(refusal(vec![dangling]).await, (None, RejectionKind::ReferentialIntegrity));
    let unknown = Operation::Delete { table: "Nope".into(), condition: Condition::default() };
    let (operation, _) = refusal(vec![unknown]).await;
    assert_eq!(operation, Some(0));
    assert_eq!(switches(&database), Some(1), "nothing of it happened");
}

#[tokio::test]
async fn without_a_server_writes_fail_at_once_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::standalone(folder.path(), "nb");
    let database = synced(settings(vec![server.endpoint()])).await;
    database.transact(vec![insert(Uuid::from_u128(1), "a")]).await.unwrap();
    let mut changes = database.subscribe(None);
    server.kill();
    until("the loss is seen", || !database.status().in_sync).await;
    let refused = database.transact(vec![insert(Uuid::from_u128(2), "b")]).await;
    assert!(matches!(refused, Err(TransactError::Unavailable { .. })), "{refused:?}");
    assert!(matches!(database.barrier().await, Err(TransactError::Unavailable { .. })));
    assert_eq!(switches(&database), Some(1));
    server.start();
    database.wait_synced(PATIENCE).await.unwrap();
    assert!(matches!(changes.next().await, Some(Step::Reset { .. })), "a standalone server has no history");
    database.transact(vec![insert(Uuid::from_u128(2), "b")]).await.unwrap();
    assert!(matches!(changes.next().await, Some(Step::Changes(_))));
    assert_like_fresh(&database, settings(vec![server.endpoint()])).await;
    assert_eq!(database.metrics().resyncs_full.get(), 2);
}
