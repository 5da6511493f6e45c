//! What tests of a database share.

// Each test binary uses a part of it.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::time::{Duration, Instant};

use ovncp_ovn::Uuid;
use ovncp_ovn::changes::{Changes, Step};
use ovncp_ovn::contents::RowChange;
use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::lab::{Lab, LabSettings, Members, Programs};
use ovncp_ovn::operation::Operation;
use ovncp_ovn::value::Datum;
use ovncp_ovn::wire::endpoint::Endpoint;

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A northbound database and the directory that it lives in; none where OVN is not installed, which is said.
pub(crate) async fn northbound(members: Members) -> Option<(Lab, tempfile::TempDir)> {
    northbound_with(members, |_| {}).await
}

/// The same, with other settings.
pub(crate) async fn northbound_with(
    members: Members,
    change: impl FnOnce(&mut LabSettings),
) -> Option<(Lab, tempfile::TempDir)> {
    if let Err(missing) = Programs::find() {
        eprintln!("skipped: {missing}");
        return None;
    }
    let directory = tempfile::Builder::new().prefix("db").tempdir_in("/tmp").unwrap();
    let mut settings = LabSettings::northbound_only(directory.path(), members);
    change(&mut settings);
    Some((Lab::start(settings).await.unwrap(), directory))
}

/// Where the servers listen, all of them.
pub(crate) fn endpoints(lab: &Lab) -> Vec<Endpoint> {
    lab.northbound().iter().map(|server| server.unix_endpoint().parse().unwrap()).collect()
}

/// Settings for the northbound database.
pub(crate) fn settings(endpoints: Vec<Endpoint>) -> DatabaseSettings {
    DatabaseSettings {
        name: "OVN_Northbound",
        endpoints,
        connect_timeout: Duration::from_secs(20),
        tls: None,
        leader_only: true,
        tables: None,
        probe_interval: Duration::from_secs(20),
    }
}

/// A database in sync.
pub(crate) async fn synced(settings: DatabaseSettings) -> Database {
    let database = Database::open(settings);
    let in_sync = database.wait_synced(PATIENCE).await;
    assert_eq!(in_sync, Ok(()), "{:?}", database.status());
    database
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun_at = Instant::now();
    while !holds() {
        assert!(begun_at.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes a switch.
pub(crate) fn insert(uuid: Uuid, name: &str) -> Operation {
    Operation::Insert { table: "Logical_Switch".into(), uuid, row: vec![("name".into(), Datum::from(name))] }
}

/// Makes a switch, however often the session is lost on the way: members of a cluster may hold an election at any time.
pub(crate) async fn commit(database: &Database, uuid: Uuid, name: &str) {
    let begun_at = Instant::now();
    loop {
        match database.transact(vec![insert(uuid, name)]).await {
            Ok(_) => return,
            Err(TransactError::Rejected(rejection)) => {
                assert_eq!(rejection.kind, RejectionKind::DuplicateUuid, "only an earlier try is in the way");
                return;
            }
            Err(error) => assert!(begun_at.elapsed() < PATIENCE, "never committed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the replica shows all that was committed, however often the session is lost on the way.
pub(crate) async fn catch_up(database: &Database) {
    let begun_at = Instant::now();
    while let Err(error) = database.barrier().await {
        assert!(begun_at.elapsed() < PATIENCE, "no session: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Number of switches in the replica; none before the first sync.
pub(crate) fn switches(database: &Database) -> Option<usize> {
    database.read(|contents| contents.table("Logical_Switch").map_or(0, |table| table.len()))
}

/// Whether the replica has this switch.
pub(crate) fn has_switch(database: &Database, uuid: Uuid) -> bool {
    database.read(|contents| contents.row("Logical_Switch", uuid).is_some()).unwrap_or(false)
}

/// Checks that the replica is what a fresh session reads, and returns that one.
pub(crate) async fn assert_like_fresh(database: &Database, settings: DatabaseSettings) -> Database {
    let fresh = synced(settings).await;
    catch_up(database).await;
    catch_up(&fresh).await;
    let difference = database.read(|replica| fresh.read(|fresh| replica.difference(fresh)));
    assert_eq!(difference, Some(Some(Vec::new())), "the replica is not what is in the database");
    fresh
}

/// The next changes; anything else is a failure.
pub(crate) async fn next_changes(changes: &mut Changes) -> Vec<RowChange> {
    match tokio::time::timeout(PATIENCE, changes.next()).await.expect("something is told") {
        Some(Step::Changes(sets)) => sets.iter().flat_map(|set| set.changes.iter().cloned()).collect(),
        other => panic!("changes are told, not {other:?}"),
    }
}
