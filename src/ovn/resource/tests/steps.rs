use serde_json::json;

use super::super::planner::STEPS_MAX;
use super::super::{RefusalKind, builtin, transaction};
use super::*;

fn run(world: &World, steps: &Json) -> Result<Plan, Refusal> {
    let mut next = 1000;
    let mut fresh = || {
        next += 1;
        id(next - 1)
    };
    transaction::plan(&world.contents, &world.catalogue, &mut fresh, steps, "/operations")
}

#[test]
fn steps_refer_to_one_another() {
    let world = World::new();
    let plan = run(
        &world,
        &json!([
            {"op": "create", "resource": "switches", "ref": "s", "body": {"name": "green"}},
            {"op": "create", "resource": "ports", "ref": "p", "parent": {"ref": "s"}, "body": {"name": "vm9"}},
            {"op": "create", "resource": "port-groups", "ref": "g", "body": {"name": "db", "ports": [{"ref": "p"}, "vm1"]}},
            {"op": "create", "resource": "acls", "parent": {"ref": "g"},
                "body": {"direction": "to-lport", "priority": 1, "match": "outport == @db", "action": "drop"}},
            {"op": "patch", "table": "Logical_Switch", "id": "red", "body": {"external_ids": {"a": "b"}}},
            {"op": "add", "resource": "address-sets", "id": "hosts", "field": "addresses", "members": ["10.0.0.9"]},
            {"op": "delete", "resource": "router-ports", "id": "edge-blue"},
        ]),
    )
    .unwrap();
    let references: Vec<_> = plan.answers.iter().map(|answer| answer.reference.as_deref()).collect();
    assert_eq!(references, [Some("s"), Some("p"), Some("g"), None, None, None, None]);
    let group = wire(&plan)
        .into_iter()
        .find(|operation| operation["table"] == "Port_Group" && operation["op"] == "insert");
    assert_eq!(group.unwrap()["row"]["ports"], rows(&[11, 1001]));
}

#[test]
fn every_wrong_step_is_told_with_its_place() {
    let world = World::new();
    let refusal = run(
        &world,
        &json!([
            {"op": "create", "resource": "switches", "ref": "s", "body": {"name": "blue"}},
            {"op": "create", "resource": "ports", "parent": {"ref": "s"}, "body": {"name": "vm1"}},
            {"op": "create", "resource": "ports", "parent": {"ref": "t"}, "body": {"name": "x"}},
            {"op": "crate", "resource": "ports"},
            {"op": "delete", "resource": "unicorns", "id": "x"},
            {"op": "delete", "resource": "switches", "id": "green"},
            {"op": "patch", "resource": "ports", "id": "vm1", "body": {"tag": "x"}},
            {"op": "create", "resource": "switches", "body": {"name": "new"}, "colour": 1},
            {"op": "create", "resource": "switches", "ref": "s", "body": {"name": "other"}},
            7,
        ]),
    )
    .unwrap_err();
    assert_eq!(
        problems(&refusal),
        [
            ("/operations/0/body/name", "duplicate_name"),
            ("/operations/1/body/name", "duplicate_name"),
            ("/operations/2/body/switch_id", "unknown_reference"),
            ("/operations/3", "malformed_operation"),
            ("/operations/4", "not_found"),
            ("/operations/5", "not_found"),
            ("/operations/6/body/tag", "wrong_type"),
            ("/operations/7", "malformed_operation"),
            ("/operations/8", "malformed_operation"),
            ("/operations/9", "malformed_operation"),
        ]
    );
}

#[test]
fn contradictions_are_refused() {
    let world = World::new();
    for (steps, code) in [
        (
            json!([{"op": "create", "resource": "switches", "body": {"name": "a"}},
            {"op": "create", "resource": "switches", "body": {"name": "a"}}]),
            "duplicate_name",
        ),
        (
            json!([{"op": "patch", "resource": "switches", "id": "red", "body": {}},
            {"op": "delete", "resource": "switches", "id": text(2)}]),
            "changed_twice",
        ),
        (
            json!([{"op": "delete", "resource": "switches", "id": "red"},
            {"op": "create", "resource": "ports", "body": {"name": "a", "switch_id": text(2)}}]),
            "unknown_reference",
        ),
        (
            json!([{"op": "create", "resource": "ports", "body": {"name": "a", "switch_id": "red"}},
            {"op": "delete", "resource": "switches", "id": "red"}]),
            "contradiction",
        ),
        (
            json!([{"op": "create", "resource": "switches", "ref": "s", "body": {"name": "a"}},
            {"op": "patch", "resource": "switches", "id": {"ref": "s"}, "body": {}}]),
            "malformed_operation",
        ),
    ] {
        let refusal = run(&world, &steps).unwrap_err();
        assert!(refusal.problems.iter().any(|problem| problem.code == code), "{code}: {refusal:?}");
    }
    // A name that is given up is free.
    run(
        &world,
        &json!([{"op": "delete", "resource": "switches", "id": "red"},
            {"op": "create", "resource": "switches", "body": {"name": "red"}}]),
    )
    .unwrap();
}

#[test]
fn transactions_are_bounded() {
    let world = World::new();
    let step = |number: usize| json!({"op": "create", "resource": "switches", "body": {"name": format!("s{number}")}});
    let plan = run(&world, &(0..STEPS_MAX).map(step).collect()).unwrap();
    assert_eq!(plan.answers.len(), STEPS_MAX);
    let refusal = run(&world, &(0..=STEPS_MAX).map(step).collect()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    let ports: Vec<_> = (0..=STEPS_MAX).map(|number| json!({"name": format!("p{number}")})).collect();
    let refusal = world.create("switches", &json!({"name": "s", "ports": ports})).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    assert_eq!(run(&world, &json!([])).unwrap_err().kind, RefusalKind::Malformed);
}

#[test]
fn built_in_requests_are_one_transaction() {
    let world = World::new();
    let body = json!({"router": "edge", "switch": "red", "router_port": {"mac": "0a:00:00:00:02:01", "networks": ["10.0.2.1/24"]}});
    let plan = world.plan(|planner| builtin::connect(planner, &body).unwrap()).unwrap();
    let operations = wire(&plan);
    let port = operations.iter().find(|operation| operation["table"] == "Logical_Switch_Port").unwrap();
    assert_eq!(port["row"]["options"], json!(["map", [["router-port", "edge-red"]]]));
    assert_eq!(port["row"]["name"], "red-edge");
    let wrong = json!({"router": "edge", "switch": "red", "router_port": {"mac": "x"}});
    let refusal = world.plan(|planner| builtin::connect(planner, &wrong).unwrap()).unwrap_err();
    assert_eq!(
        problems(&refusal),
        [("/router_port/mac", "invalid_mac"), ("/router_port/networks", "missing")]
    );
    let plan =
        world.plan(|planner| builtin::delete_switch(planner, "blue", &IfMatch::None).unwrap()).unwrap();
    let deleted: Vec<_> = plan.answers.iter().map(|answer| answer.id).collect();
    assert_eq!(deleted, [id(1), id(31)]);
}
