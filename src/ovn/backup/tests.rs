use serde_json::json;

use super::*;
use crate::operation::Operation;

fn schema() -> Schema {
    let map = json!({"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}});
    let set = |table: &str, kind: &str| json!({"type": {"key": {"type": "uuid", "refTable": table, "refType": kind}, "min": 0, "max": "unlimited"}});
    let text = json!({"type": "string"});
    let schema = json!({"name": "OVN_Northbound", "version": "7.0.0", "tables": {
        "NB_Global": {"isRoot": true, "maxRows": 1, "columns": {"options": map, "nb_cfg": {"type": "integer"},
            "connections": set("Connection", "strong")}},
        "Connection": {"columns": {"target": text, "is_connected": {"type": "boolean", "ephemeral": true}}},
        "Address_Set": {"isRoot": true, "columns": {"name": text, "external_ids": map}},
        "Logical_Switch": {"isRoot": true, "columns": {"name": text, "other_config": map,
            "ports": set("Logical_Switch_Port", "strong"), "dns_records": set("DNS", "weak")}},
        "Logical_Switch_Port": {"columns": {"name": text, "up": {"type": {"key": "boolean", "min": 0, "max": 1}},
            "tag": {"type": {"key": {"type": "integer", "minInteger": 1, "maxInteger": 4095}, "min": 0, "max": 1}}}},
        "DNS": {"isRoot": true, "columns": {"records": map}},
    }});
    Schema::parse(&schema).unwrap()
}

const GLOBAL_ROW: Uuid = Uuid::from_u128(1);
const SWITCH: Uuid = Uuid::from_u128(2);
const PORT: Uuid = Uuid::from_u128(3);
const DNS: Uuid = Uuid::from_u128(4);
const OTHER: Uuid = Uuid::from_u128(5);

fn apply(contents: &mut Contents, table: &str, uuid: Uuid, update: Json) {
    contents.apply_row(table, uuid, &update).unwrap();
}

fn reference(uuid: Uuid) -> Json {
    json!(["uuid", uuid.to_string()])
}

fn network() -> Contents {
    let mut contents = Contents::new(Arc::new(schema()));
    let rows = [
        ("NB_Global", GLOBAL_ROW, json!({"nb_cfg": 7, "connections": reference(OTHER)})),
        ("Connection", OTHER, json!({"target": "ptcp:6641"})),
        ("Address_Set", Uuid::from_u128(6), json!({"name": "ovncp_fence_1"})),
        (
            "Logical_Switch",
            SWITCH,
            json!({"name": "s", "ports": reference(PORT), "dns_records": reference(DNS)}),
        ),
        ("Logical_Switch_Port", PORT, json!({"name": "p", "up": true, "tag": 9})),
        ("DNS", DNS, json!({"records": ["map", [["a", "10.0.0.1"]]]})),
    ];
    for (table, uuid, row) in rows {
        apply(&mut contents, table, uuid, json!({"insert": row}));
    }
    contents
}

fn backup(contents: &Contents) -> Backup {
    Backup::of(&Snapshot::of(contents), "2026-11-22T23:00:00Z".to_owned())
}

/// The document with `edit` made and a true checksum again.
fn edited(edit: impl FnOnce(&mut Json)) -> Json {
    let mut document = backup(&network()).to_json();
    edit(&mut document);
    document["checksum"] = canonical::checksum(document.as_object().unwrap()).into();
    document
}

#[test]
fn a_document_holds_what_was_configured_and_comes_back() {
    let taken = backup(&network());
    let document = taken.to_json();
    assert_eq!(
        document["counts"],
        json!({"DNS": 1, "Logical_Switch": 1, "Logical_Switch_Port": 1, "NB_Global": 1})
    );
    assert_eq!(document["tables"]["NB_Global"], json!([{"_uuid": GLOBAL_ROW.to_string()}]));
    let port = json!([{"_uuid": PORT.to_string(), "name": "p", "tag": 9}]);
    assert_eq!(document["tables"]["Logical_Switch_Port"], port);
    // Written down by whatever tool, in whatever order.
    let text = serde_json::to_string_pretty(&document).unwrap();
    let read = Backup::parse(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(read, taken);
    let fitted = read.fit(&schema()).unwrap();
    assert_eq!(fitted.difference(&Snapshot::of(&network())).changes, []);
}

#[test]
fn the_checksum_does_not_depend_on_how_it_was_made() {
    // Made with Python: hashlib.sha256(json.dumps(d, sort_keys=True, separators=(",", ":")).encode()).
    let document = json!({"b": [1, null, true, "x\ny\"z"], "a": {"d": 2, "c": {}}, "checksum": "gone"});
    let checksum = canonical::checksum(document.as_object().unwrap());
    assert_eq!(checksum, "sha256:e76688f850ced27a8108654bf100e2bafe697cb36344c44363664a8422158474");
}

#[test]
fn a_restore_creates_changes_and_deletes_with_the_same_uuids() {
    let fitted = backup(&network()).fit(&schema()).unwrap();
    let mut later = network();
    apply(
        &mut later,
        "Logical_Switch",
        SWITCH,
        json!({"modify": {"name": "renamed", "ports": reference(PORT)}}),
    );
    apply(&mut later, "Logical_Switch_Port", PORT, json!({"delete": null}));
    apply(&mut later, "DNS", OTHER, json!({"insert": {}}));
    apply(
        &mut later,
        "NB_Global",
        GLOBAL_ROW,
        json!({"modify": {"nb_cfg": 9, "options": ["map", [["x", "y"]]]}}),
    );
    let difference = fitted.difference(&Snapshot::of(&later));
    assert_eq!(difference.counts(), (1, 2, 1));
    let wire: Vec<_> = difference.operations().unwrap().iter().map(Operation::to_wire).collect();
    let condition = |uuid: Uuid| json!([["_uuid", "==", reference(uuid)]]);
    assert_eq!(
        wire,
        [
            json!({"op": "delete", "table": "DNS", "where": condition(OTHER)}),
            json!({"op": "update", "table": "Logical_Switch", "where": condition(SWITCH),
                "row": {"name": "s", "ports": reference(PORT)}}),
            json!({"op": "insert", "table": "Logical_Switch_Port", "uuid": PORT.to_string(),
                "row": {"name": "p", "tag": 9}}),
            json!({"op": "update", "table": "NB_Global", "where": condition(GLOBAL_ROW),
                "row": {"options": ["map", []]}}),
        ]
    );
}

#[test]
fn another_database_has_another_global_row_and_keeps_it() {
    let fitted = backup(&network()).fit(&schema()).unwrap();
    let mut other = Contents::new(Arc::new(schema()));
    apply(&mut other, "NB_Global", OTHER, json!({"insert": {"nb_cfg": 1}}));
    let difference = fitted.difference(&Snapshot::of(&other));
    assert_eq!(difference.counts(), (3, 0, 0));
    assert!(difference.changes.iter().all(|change| &*change.table().name != "NB_Global"));
}

#[test]
fn what_is_no_whole_backup_is_refused() {
    let document = backup(&network()).to_json();
    let with = |edit: &dyn Fn(&mut Json)| {
        let mut document = document.clone();
        edit(&mut document);
        Backup::parse(&document).unwrap_err().to_string()
    };
    let changed = with(&|document| document["tables"]["Logical_Switch"][0]["name"] = "t".into());
    assert!(changed.starts_with("the checksum is sha256:"), "{changed}");
    let cut = with(&|document| drop(document["tables"].as_object_mut().unwrap().remove("DNS")));
    assert!(cut.contains("is not complete"), "{cut}");
    let none = with(&|document| drop(document.as_object_mut().unwrap().remove("checksum")));
    assert!(none.starts_with("checksum is missing"), "{none}");
    for (document, says) in [
        (json!([]), "the object is missing"),
        (json!({"format": "something"}), "format is missing or malformed"),
        (edited(|document| document["format_version"] = 2.into()), "format_version 2 is not known"),
        (
            edited(|document| document["counts"]["DNS"] = 3.into()),
            "counts say 3 rows of DNS, but there are 1",
        ),
        (edited(|document| document["counts"] = json!({})), "counts.DNS is missing"),
        (edited(|document| document["tables"]["DNS"][0]["_uuid"] = "x".into()), "tables.DNS[0] is missing"),
        (edited(|document| document["tables"]["DNS"] = "x".into()), "tables.DNS is missing"),
        (
            edited(|document| document["tables"]["DNS"][0]["_uuid"] = PORT.to_string().into()),
            "two rows have the uuid 00000000-0000-0000-0000-000000000003",
        ),
    ] {
        let error = Backup::parse(&document).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let misfits = |edit: &dyn Fn(&mut Json)| {
        let mut document = edited(edit);
        document["checksum"] = canonical::checksum(document.as_object().unwrap()).into();
        let misfits = Backup::parse(&document).unwrap().fit(&schema()).unwrap_err();
        assert_eq!(misfits.total, misfits.listed.len());
        misfits.listed.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let row = |name: &str, n: u128| format!("{name} of {}", Uuid::from_u128(n));
    assert_eq!(
        misfits(&|document| document["database"] = "OVN_Southbound".into()),
        ["OVN_Southbound is the database of the backup; this is OVN_Northbound"]
    );
    let unknown_column = |document: &mut Json| document["tables"]["DNS"][0]["ttl"] = 5.into();
    assert_eq!(misfits(&unknown_column), ["DNS.ttl is no column of this database's schema"]);
    let status = |document: &mut Json| document["tables"]["Logical_Switch_Port"][0]["up"] = true.into();
    let expected = row("Logical_Switch_Port.up", 3) + " is written by OVN itself, or by the database server";
    assert_eq!(misfits(&status), [expected]);
    let wrong_value = |document: &mut Json| document["tables"]["Logical_Switch_Port"][0]["tag"] = 5000.into();
    let expected = row("Logical_Switch_Port.tag", 3) + " must be an integer from 1 to 4095, not 5000";
    assert_eq!(misfits(&wrong_value), [expected]);
    let unknown_table = |document: &mut Json| {
        document["tables"]["Teapot"] = json!([]);
        document["counts"]["Teapot"] = 0.into();
    };
    assert_eq!(misfits(&unknown_table), ["Teapot is no table of this database's schema (7.0.0)"]);
    let unreferred = |document: &mut Json| {
        document["tables"]["Logical_Switch"][0].as_object_mut().unwrap().remove("ports");
    };
    let expected = row("Logical_Switch_Port", 3) + " is referred to by no row: the database would drop it";
    assert_eq!(misfits(&unreferred), [expected]);
    let dangling = |document: &mut Json| {
        document["tables"]["DNS"] = json!([]);
        document["counts"]["DNS"] = 0.into();
    };
    let expected = row("Logical_Switch.dns_records", 2);
    assert_eq!(misfits(&dangling), [format!("{expected} refers to DNS {DNS}, which is not in the backup")]);
    let fence = |document: &mut Json| {
        document["tables"]["Address_Set"] = json!([{"_uuid": OTHER.to_string(), "name": "ovncp_fence_9"}]);
        document["counts"]["Address_Set"] = 1.into();
    };
    assert_eq!(misfits(&fence).len(), 1);
}

#[test]
fn very_many_misfits_are_counted() {
    let document = edited(|document| {
        let rows: Vec<_> = (100..400).map(|n| json!({"_uuid": Uuid::from_u128(n).to_string()})).collect();
        document["counts"]["Logical_Switch_Port"] = rows.len().into();
        document["tables"]["Logical_Switch_Port"] = rows.into();
    });
    let misfits = Backup::parse(&document).unwrap().fit(&schema()).unwrap_err();
    assert_eq!((misfits.listed.len(), misfits.total), (100, 301));
    assert!(misfits.to_string().ends_with("(and 300 more)"), "{misfits}");
}
