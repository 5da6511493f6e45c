//! A server whose schema changes under its clients.

use std::path::{Path, PathBuf};

use ovncp_ovn::changes::Step;
use ovncp_ovn::database::Database;
use ovncp_ovn::lab::{Members, Programs};

use crate::support::{PATIENCE, assert_like_fresh, endpoints, northbound, settings, switches, synced, until};

/// The installed schema with one more column, as a newer version.
fn newer_schema(folder: &Path) -> PathBuf {
    let installed = std::fs::read(Programs::find().unwrap().northbound_schema()).unwrap();
    let mut schema: serde_json::Value = serde_json::from_slice(&installed).unwrap();
    schema["version"] = "99.0.0".into();
    schema.as_object_mut().unwrap().remove("cksum");
    schema["tables"]["Logical_Switch"]["columns"]["colour"] = serde_json::json!({"type": "string"});
    let path = folder.join("newer.ovsschema");
    std::fs::write(&path, schema.to_string()).unwrap();
    path
}

fn has_colours(database: &Database) -> bool {
    let found = database.read(|contents| {
        let table = contents.table("Logical_Switch").unwrap();
        table.rows().all(|row| table.schema().value(row, "colour").is_some())
    });
    found == Some(true) && database.status().schema_version.as_deref() == Some("99.0.0")
}

#[tokio::test]
async fn a_server_comes_back_with_another_schema() {
    let Some((mut lab, directory)) = northbound(Members::Standalone).await else { return };
    lab.nbctl(&["ls-add", "a"]).await.unwrap();
    let database = synced(settings(endpoints(&lab))).await;
    let mut changes = database.subscribe(None);
    assert!(!has_colours(&database));
    lab.northbound_mut()[0].restart_with_schema(&newer_schema(directory.path())).await.unwrap();
    until("the new schema is used", || has_colours(&database)).await;
    assert_eq!(switches(&database), Some(1));
    let told = tokio::time::timeout(PATIENCE, changes.next()).await.unwrap();
    assert!(matches!(told, Some(Step::Reset { .. })), "rows have other columns now: {told:?}");
    assert_like_fresh(&database, settings(endpoints(&lab))).await;
}

#[tokio::test]
async fn a_cluster_changes_its_schema_while_it_runs() {
    let Some((lab, directory)) = northbound(Members::Clustered).await else { return };
    lab.nbctl(&["ls-add", "a"]).await.unwrap();
    let database = synced(settings(endpoints(&lab))).await;
    lab.northbound()[0].convert(&newer_schema(directory.path())).await.unwrap();
    until("the new schema is used", || has_colours(&database)).await;
    lab.nbctl(&["set", "logical_switch", "a", "external_ids:x=y"]).await.unwrap();
    database.wait_synced(PATIENCE).await.unwrap();
    assert_like_fresh(&database, settings(endpoints(&lab))).await;
}
