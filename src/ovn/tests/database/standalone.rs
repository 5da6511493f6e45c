//! One server.

use ovncp_ovn::TableSelection;
use ovncp_ovn::Uuid;
use ovncp_ovn::changes::Step;
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::lab::Members;
use ovncp_ovn::operation::{Condition, Operation};
use ovncp_ovn::schema::Schema;
use ovncp_ovn::value::Datum;

use crate::support::{
    PATIENCE, assert_like_fresh, endpoints, has_switch, insert, next_changes, northbound, settings, switches,
    synced, until,
};

#[tokio::test]
async fn a_write_is_seen_when_it_returns() {
    let Some((lab, _directory)) = northbound(Members::Standalone).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
    let mut changes = database.subscribe(None);
    for number in 0..200_u128 {
        let uuid = Uuid::from_u128(number + 1);
        let results = database.transact(vec![insert(uuid, &format!("s{number}"))]).await.unwrap();
        assert_eq!(results[0].uuid, Some(uuid));
        assert!(has_switch(&database, uuid), "the reply comes after what it did");
    }
    let mut told = 0;
    while told < 200 {
        told += next_changes(&mut changes).await.len();
    }
    assert_like_fresh(&database, settings(endpoints(&lab))).await;
    let status = database.status();
    assert!(status.connected && status.in_sync && status.leader && !status.clustered && status.age.is_some());
    assert_eq!(database.metrics().transactions_committed.get(), 200);
}

#[tokio::test]
async fn a_refusal_says_what_and_where() {
    let Some((lab, _directory)) = northbound(Members::Standalone).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
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
    let Some((mut lab, _directory)) = northbound(Members::Standalone).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
    database.transact(vec![insert(Uuid::from_u128(1), "a")]).await.unwrap();
    let mut changes = database.subscribe(None);
    lab.northbound_mut()[0].kill();
    until("the loss is seen", || !database.status().in_sync).await;
    let refused = database.transact(vec![insert(Uuid::from_u128(2), "b")]).await;
    assert!(matches!(refused, Err(TransactError::Unavailable { .. })), "{refused:?}");
    assert!(matches!(database.barrier().await, Err(TransactError::Unavailable { .. })));
    assert_eq!(switches(&database), Some(1));
    lab.northbound_mut()[0].start().await.unwrap();
    database.wait_synced(PATIENCE).await.unwrap();
    assert!(matches!(changes.next().await, Some(Step::Reset { .. })), "a standalone server has no history");
    database.transact(vec![insert(Uuid::from_u128(2), "b")]).await.unwrap();
    assert!(matches!(changes.next().await, Some(Step::Changes(_))));
    assert_like_fresh(&database, settings(endpoints(&lab))).await;
    assert_eq!(database.metrics().resyncs_full.get(), 2);
}

#[tokio::test]
async fn what_others_write_is_seen_after_a_barrier() {
    let Some((lab, _directory)) = northbound(Members::Standalone).await else { return };
    let (writer, reader) = (synced(settings(endpoints(&lab))).await, synced(settings(endpoints(&lab))).await);
    for number in 1..=300_u128 {
        let uuid = Uuid::from_u128(number);
        writer.transact(vec![insert(uuid, "s")]).await.unwrap();
        reader.barrier().await.unwrap();
        assert!(has_switch(&reader, uuid), "a barrier shows all that was committed before it: {number}");
    }
    let before = reader.metrics().barriers.get();
    let together = (0..500).map(|_| {
        let reader = reader.clone();
        tokio::spawn(async move { reader.barrier().await })
    });
    for waiting in together.collect::<Vec<_>>() {
        waiting.await.unwrap().unwrap();
    }
    let shared = reader.metrics().barriers.get() - before;
    assert!(shared < 500, "500 callers took {shared} round trips");
    lab.nbctl(&["ls-add", "by-hand"]).await.unwrap();
    reader.barrier().await.unwrap();
    let seen = reader.read(|contents| contents.table("Logical_Switch").unwrap().by_name("by-hand").len());
    assert_eq!(seen, Some(1));
}

#[tokio::test]
async fn only_what_is_selected_is_kept() {
    let Some((lab, _directory)) = northbound(Members::Standalone).await else { return };
    let selection = vec![
        TableSelection { table: "Logical_Switch".into(), columns: Some(vec!["name".into()]) },
        TableSelection::whole("No_Such_Table"),
    ];
    let mut part = settings(endpoints(&lab));
    part.tables = Some(selection);
    let database = synced(part).await;
    lab.nbctl(&["ls-add", "a", "--", "lr-add", "b", "--", "set", "logical_switch", "a", "external_ids:x=y"])
        .await
        .unwrap();
    database.barrier().await.unwrap();
    let kept = database.read(|contents| {
        let table = contents.table("Logical_Switch").unwrap();
        let row = table.rows().next().unwrap();
        (
            contents.tables().count(),
            row.values().to_vec(),
            table.schema().value(row, "external_ids").is_none(),
        )
    });
    assert_eq!(kept, Some((1, vec![Datum::from("a")], true)));
    let whole = database.schema().unwrap();
    assert!(Schema::table(&whole, "Logical_Router").is_some(), "the schema of the server is whole");
}

#[tokio::test]
async fn the_last_handle_ends_the_session() {
    let Some((lab, _directory)) = northbound(Members::Standalone).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
    let mut changes = database.subscribe(None);
    let second = database.clone();
    drop(database);
    second.barrier().await.unwrap();
    drop(second);
    let told = tokio::time::timeout(PATIENCE, changes.next()).await.expect("the stream ends");
    assert_eq!(told, None);
}
