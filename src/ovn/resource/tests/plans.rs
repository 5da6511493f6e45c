use serde_json::json;

use super::super::plan::Outcome;
use super::*;
use crate::error::{Rejection, RejectionKind};
use crate::operation::OperationResult;

fn on_row(number: u128) -> Json {
    json!([["_uuid", "==", ["uuid", text(number)]]])
}

fn present(table: &str, number: u128) -> Json {
    json!({"op": "wait", "timeout": 0, "table": table, "where": on_row(number), "columns": ["_uuid"], "until": "==",
        "rows": [{"_uuid": ["uuid", text(number)]}]})
}

#[test]
fn a_switch_waits_for_its_name() {
    let world = World::new();
    let plan = world.create("switches", &json!({"name": "green", "external_ids": {"a": "b"}})).unwrap();
    assert_eq!(
        wire(&plan),
        [
            json!({"op": "wait", "timeout": 0, "table": "Logical_Switch",
                "where": [["name", "==", "green"], ["_uuid", "!=", ["uuid", text(1000)]]],
                "columns": ["_uuid"], "until": "==", "rows": []}),
            json!({"op": "insert", "table": "Logical_Switch", "uuid": text(1000),
                "row": {"name": "green", "external_ids": ["map", [["a", "b"]]]}}),
        ]
    );
    assert_eq!((plan.answers[0].id, plan.answers[0].outcome), (id(1000), Outcome::Created));
}

#[test]
fn children_hang_on_their_parent_in_one_operation() {
    let world = World::new();
    let ports = world.catalogue.by_path("ports").unwrap();
    let plan = world
        .plan(|planner| {
            for name in ["a", "b"] {
                planner.create(ports, Some((&ports.parents[0], "blue")), &json!({"name": name}));
            }
        })
        .unwrap();
    let operations = wire(&plan);
    assert_eq!(operations[1], present("Logical_Switch", 1));
    assert_eq!(operations.iter().filter(|operation| operation["op"] == "wait").count(), 1);
    assert_eq!(
        operations.last().unwrap(),
        &json!({"op": "mutate", "table": "Logical_Switch", "where": on_row(1),
            "mutations": [["ports", "insert", rows(&[1000, 1001])]]})
    );
}

#[test]
fn rows_within_rows_are_made_together() {
    let world = World::new();
    let body = json!({"name": "m", "unit": "kbps", "bands": [{"action": "drop", "rate": 5}, {"action": "drop", "rate": 9}]});
    let plan = world.create("meters", &body).unwrap();
    let operations = wire(&plan);
    assert_eq!(operations.len(), 3);
    let meter = operations.iter().find(|operation| operation["table"] == "Meter").unwrap();
    assert_eq!(meter["row"]["bands"], rows(&[1001, 1002]));
    assert_eq!(plan.answers.len(), 1);
    let refusal =
        world.create("meters", &json!({"name": "m", "unit": "kbps", "bands": [{"rate": 0}]})).unwrap_err();
    assert_eq!(problems(&refusal), [("/bands/0/rate", "out_of_range"), ("/bands/0/action", "missing")]);
}

#[test]
fn single_keys_of_maps_are_changed_alone() {
    let world = World::new();
    let body = json!({"external_ids": {"tier": null, "owner": "you", "new": "1", "gone": null}});
    let plan = world.patch("switches", "blue", &body).unwrap();
    assert_eq!(
        wire(&plan),
        [
            present("Logical_Switch", 1),
            json!({"op": "mutate", "table": "Logical_Switch", "where": on_row(1), "mutations": [
                ["external_ids", "delete", ["set", ["gone", "new", "owner", "tier"]]],
                ["external_ids", "insert", ["map", [["new", "1"], ["owner", "you"]]]],
            ]}),
        ]
    );
    let plan = world.patch("switches", "blue", &json!({"external_ids": null})).unwrap();
    assert_eq!(wire(&plan)[1]["row"], json!({"external_ids": ["map", []]}));
}

#[test]
fn a_put_sets_everything_but_the_rows_it_holds() {
    let world = World::new();
    let plan = world.replace("switches", "blue", &json!({"name": "azure"})).unwrap();
    let operations = wire(&plan);
    let row = &operations.iter().find(|operation| operation["op"] == "update").unwrap()["row"];
    assert_eq!((&row["name"], &row["external_ids"]), (&json!("azure"), &json!(["map", []])));
    assert_eq!((row.get("ports"), row.get("acls")), (None, None));
    assert!(operations.iter().any(|operation| operation["where"][0] == json!(["name", "==", "azure"])));
    // Rows that it names are the rows that it holds, as long as they are those that were seen.
    let plan = world
        .replace("switches", "blue", &json!({"name": "blue", "ports": [text(11), {"name": "vm2"}]}))
        .unwrap();
    let operations = wire(&plan);
    let wait = operations.iter().find(|operation| operation["op"] == "wait").unwrap();
    assert_eq!(wait["rows"][0]["ports"], rows(&[11, 12]));
    let mutate = operations.iter().find(|operation| operation["op"] == "mutate").unwrap();
    assert_eq!(
        mutate["mutations"],
        json!([["ports", "insert", ["uuid", text(1000)]], ["ports", "delete", ["uuid", text(12)]]])
    );
}

#[test]
fn a_put_of_the_settings_keeps_the_listeners() {
    let mut world = World::new();
    let rows = json!({"NB_Global": {text(50): {"insert": {"connections": rows(&[51])}}},
        "Connection": {text(51): {"insert": {"target": "ptcp:6641"}}}});
    world.contents.apply(rows.as_object().unwrap()).unwrap();
    for path in ["nb-global", "NB_Global"] {
        let found = world.catalogue.by_path(path).or_else(|_| world.catalogue.by_table(path)).unwrap();
        let plan = world.plan(|planner| {
            planner.replace(found, &text(50), &json!({"name": "x"}), &IfMatch::None);
        });
        let operations = wire(&plan.unwrap());
        assert_eq!(operations[1]["row"].get("connections"), None);
        assert!(operations.iter().all(|operation| operation["op"] != "mutate"));
    }
}

#[test]
fn a_patch_makes_sure_of_what_its_rules_have_read() {
    let world = World::new();
    let plan = world.patch("ports", "to-edge", &json!({"type": ""})).unwrap();
    let wait = &wire(&plan)[0];
    assert_eq!(wait["columns"], json!(["options", "parent_name", "tag_request"]));
}

#[test]
fn weak_references_are_waited_for() {
    let world = World::new();
    let plan = world.create("port-groups", &json!({"name": "db", "ports": ["vm1"]})).unwrap();
    assert_eq!(wire(&plan)[0], present("Logical_Switch_Port", 11));
}

#[test]
fn deletion_takes_the_row_from_all_that_hold_it() {
    let world = World::new();
    let plan = world.delete("acls", &text(21)).unwrap();
    let operations = wire(&plan);
    assert_eq!(operations[0], present("ACL", 21));
    assert_eq!(operations[1], json!({"op": "delete", "table": "ACL", "where": on_row(21)}));
    let tables: Vec<_> =
        operations[2..].iter().map(|operation| operation["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["Logical_Switch", "Port_Group"]);
    let plan = world.delete("switches", "blue").unwrap();
    // The ACL is the port group's too, and stays.
    assert_eq!(plan.answers[0].takes_along, [("ports".into(), 2)]);
}

#[test]
fn members_of_sets_come_and_go() {
    let world = World::new();
    let sets = world.catalogue.by_path("address-sets").unwrap();
    let column = sets.members[0].1;
    let plan = world
        .plan(|planner| {
            planner.add_members(sets, "hosts", column, &json!(["10.0.0.6", "10.0.0.4"]));
        })
        .unwrap();
    assert_eq!(
        wire(&plan)[1]["mutations"],
        json!([["addresses", "insert", ["set", ["10.0.0.4", "10.0.0.6"]]]])
    );
    let refused = world.plan(|planner| {
        planner.add_members(sets, "hosts", column, &json!(["fd00::1"]));
    });
    assert_eq!(problems(&refused.unwrap_err()), [("", "invalid_address")]);
    let plan = world
        .plan(|planner| {
            planner.remove_members(sets, "hosts", column, &json!(["10.0.0.4"]));
        })
        .unwrap();
    assert_eq!(wire(&plan)[1]["mutations"], json!([["addresses", "delete", "10.0.0.4"]]));
}

#[test]
fn results_are_read() {
    let world = World::new();
    let plan = world.create("ports", &json!({"name": "a", "switch_id": "blue"})).unwrap();
    let done = |count: u64| {
        vec![
            OperationResult { uuid: Some(id(1000)), ..OperationResult::default() },
            OperationResult::default(),
            OperationResult { count: Some(count), ..OperationResult::default() },
        ]
    };
    assert_eq!(plan.verify(&done(1)), Ok(()));
    assert!(plan.verify(&done(0)).is_err());
    assert!(plan.verify(&done(1)[..2]).is_err());
}

fn rejection(operation: Option<usize>, kind: RejectionKind, details: &str) -> Rejection {
    Rejection { operation, kind, error: "no".to_owned(), details: details.to_owned() }
}

#[test]
fn rejections_are_told_in_the_words_of_the_request() {
    let world = World::new();
    let plan = world.create("switches", &json!({"name": "green"})).unwrap();
    let refusal = plan.explain(&rejection(Some(3), RejectionKind::WaitFailed, ""), 3, &world.contents);
    assert_eq!((refusal.code, problems(&refusal)), ("duplicate_name", vec![("/name", "duplicate_name")]));
    let plan = world.create("ports", &json!({"name": "a", "switch_id": "blue"})).unwrap();
    let refusal = plan.explain(&rejection(Some(1), RejectionKind::WaitFailed, ""), 0, &world.contents);
    assert_eq!(refusal.code, "reference_gone");
    let details = format!(
        "Transaction causes multiple rows in \"Logical_Switch_Port\" table to have identical values (a) for index on \
         column \"name\".  First row, with UUID {}, was inserted by this transaction.  Second row, with UUID {}, existed",
        text(1000),
        text(77)
    );
    let refusal =
        plan.explain(&rejection(None, RejectionKind::ConstraintViolation, &details), 0, &world.contents);
    assert_eq!((refusal.code, problems(&refusal)), ("duplicate_name", vec![("/name", "duplicate_name")]));
    assert_eq!(refusal.rows[0].id, id(77));
    let plan = world.delete("switches", "blue").unwrap();
    let details = format!("cannot delete Logical_Switch row {} because of 1 remaining reference(s)", text(1));
    let refusal =
        plan.explain(&rejection(None, RejectionKind::ReferentialIntegrity, &details), 0, &world.contents);
    assert_eq!(refusal.code, "in_use");
    let refusal = plan.explain(&rejection(Some(0), RejectionKind::WaitFailed, ""), 0, &world.contents);
    assert_eq!(refusal.code, "changed_meanwhile");
}
