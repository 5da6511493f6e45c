use serde_json::json;

use super::super::RefusalKind;
use super::*;

#[test]
fn everything_wrong_with_a_body_is_told_at_once() {
    let world = World::new();
    let body = json!({
        "switch_id": "blue", "name": "", "type": "routr", "addresses": ["unknown", "10.0.0.4"], "tag": 5000,
        "up": true, "adresses": [], "dhcpv4_options": "nobody", "external_ids": {"a": 1}, "enabled": "yes", "id": text(1),
    });
    let refusal = world.create("ports", &body).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(
        problems(&refusal),
        [
            ("/addresses/1", "invalid_address"),
            ("/adresses", "unknown_field"),
            ("/dhcpv4_options", "unknown_reference"),
            ("/enabled", "wrong_type"),
            ("/external_ids", "wrong_type"),
            ("/id", "read_only"),
            ("/name", "invalid_name"),
            ("/tag", "out_of_range"),
            ("/type", "unknown_type"),
            ("/up", "read_only"),
        ]
    );
    let problem = &refusal.problems[1].problem;
    assert!(problem.contains("did you mean \"addresses\"?"), "{problem}");
}

#[test]
fn every_resource_says_what_it_needs() {
    let world = World::new();
    for resource in world.catalogue.typed().filter(|resource| &*resource.path != "nb-global") {
        let required: Vec<_> =
            resource.fields.iter().filter(|field| field.required).map(|field| &field.name).collect();
        let result = world.create(&resource.path, &json!({}));
        let needs = !required.is_empty() || !resource.parents.is_empty();
        assert_eq!(result.is_err(), needs || &*resource.path == "qos", "{}", resource.path);
        if let Err(refusal) = result {
            for field in required {
                let at = format!("/{field}");
                assert!(
                    problems(&refusal).contains(&(&at, "missing")),
                    "{} {field}: {refusal:?}",
                    resource.path
                );
            }
        }
    }
}

#[test]
fn parents_are_needed_and_must_exist() {
    let world = World::new();
    let refusal = world.create("ports", &json!({"name": "p"})).unwrap_err();
    assert_eq!(problems(&refusal), [("/switch_id", "parent_required")]);
    let refusal = world.create("ports", &json!({"name": "p", "switch_id": "green"})).unwrap_err();
    assert_eq!(problems(&refusal)[0], ("/switch_id", "unknown_reference"));
    let ports = world.catalogue.by_path("ports").unwrap();
    let refusal = world
        .plan(|planner| {
            planner.create(ports, Some((&ports.parents[0], "green")), &json!({"name": "p"}));
        })
        .unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::NotFound, "not_found"));
    let both = json!({"name": "p", "switch_id": "red"});
    let refusal = world
        .plan(|planner| {
            planner.create(ports, Some((&ports.parents[0], "blue")), &both);
        })
        .unwrap_err();
    assert_eq!(problems(&refusal), [("/switch_id", "contradiction")]);
}

#[test]
fn names_are_unique_and_ours_are_hidden() {
    let world = World::new();
    for (path, body) in [
        ("switches", json!({"name": "blue"})),
        ("ports", json!({"name": "vm1", "switch_id": "red"})),
        ("routers", json!({"name": "twin"})),
        ("address-sets", json!({"name": "hosts"})),
        ("ports", json!({"name": "edge-blue", "switch_id": "red"})),
        (
            "router-ports",
            json!({"name": "vm1", "router_id": "edge", "mac": "0a:00:00:00:09:01", "networks": ["10.9.0.1/24"]}),
        ),
    ] {
        let refusal = world.create(path, &body).unwrap_err();
        assert_eq!((refusal.kind, refusal.code), (RefusalKind::Conflict, "duplicate_name"), "{path}");
        assert_eq!(problems(&refusal), [("/name", "duplicate_name")]);
        assert!(!refusal.rows.is_empty());
    }
    let refusal = world.create("address-sets", &json!({"name": "ovncp_fence_9"})).unwrap_err();
    assert_eq!(problems(&refusal), [("/name", "reserved_name")]);
    let sets = world.catalogue.by_table("Address_Set").unwrap();
    for id in ["ovncp_fence_0", &text(6)] {
        assert_eq!(sets.find(&world.contents, id).unwrap_err().kind, RefusalKind::NotFound);
    }
    let refusal = world.delete("routers", "twin").unwrap_err();
    assert_eq!((refusal.code, refusal.rows.len()), ("ambiguous_name", 2));
    world.delete("routers", &text(7)).unwrap();
}

#[test]
fn rows_that_are_needed_stay() {
    let world = World::new();
    let refusal = world.delete("load-balancer-groups", "lbs").unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::Conflict, "in_use"));
    assert_eq!(refusal.rows[0].name.as_deref(), Some("blue"));
    assert_eq!(refusal.rows[0].column.as_deref(), Some("load_balancer_group"));
    // With the switch it may go.
    let (switches, groups) = (
        world.catalogue.by_path("switches").unwrap(),
        world.catalogue.by_path("load-balancer-groups").unwrap(),
    );
    let plan = world.plan(|planner| {
        planner.delete(groups, "lbs", &IfMatch::None);
        planner.delete(switches, "blue", &IfMatch::None);
    });
    assert_eq!(plan.unwrap().answers.len(), 2);
}

#[test]
fn the_only_row_stays_the_only_one() {
    let world = World::new();
    for result in [world.create("nb-global", &json!({})), world.delete("nb-global", &text(99))] {
        assert_eq!(result.unwrap_err().code, "only_row");
    }
}

#[test]
fn what_cannot_change_is_told() {
    let world = World::new();
    let refusal =
        world.patch("ports", "vm1", &json!({"switch_id": "red", "id": text(2), "up": false})).unwrap_err();
    assert_eq!(problems(&refusal), [("/id", "immutable"), ("/switch_id", "immutable"), ("/up", "read_only")]);
    // What a GET has shown may be sent back.
    let body =
        json!({"id": text(11), "switch_id": text(1), "up": true, "name": "vm1", "addresses": ["unknown"]});
    world.replace("ports", "vm1", &body).unwrap();
    let refusal = world.replace("ports", "vm1", &json!({"addresses": []})).unwrap_err();
    assert_eq!(problems(&refusal), [("/name", "missing")]);
}

#[test]
fn rules_see_the_row_as_it_will_be() {
    let world = World::new();
    let refusal = world.patch("ports", "to-edge", &json!({"options": {"router-port": null}})).unwrap_err();
    assert_eq!(problems(&refusal), [("/options", "router_port_missing")]);
    world.patch("ports", "to-edge", &json!({"options": {"router-port": null}, "type": ""})).unwrap();
    let refusal = world.patch("ports", "vm1", &json!({"type": "router"})).unwrap_err();
    assert_eq!(problems(&refusal), [("/options", "router_port_missing")]);
}

#[test]
fn matches_name_what_exists() {
    let world = World::new();
    let body = |text: &str| json!({"switch_id": "blue", "direction": "to-lport", "priority": 5, "action": "drop", "match": text});
    world.create("acls", &body("ip4.src == $hosts && outport == @web && ip4.dst == $web_ip4")).unwrap();
    let refusal = world.create("acls", &body("ip4.src == $nobody")).unwrap_err();
    assert_eq!(problems(&refusal), [("/match", "unknown_reference")]);
    let refusal = world.create("acls", &body("ip4.srcc == 1.2.3.4")).unwrap_err();
    assert_eq!(problems(&refusal), [("/match", "invalid_match")]);
    assert!(refusal.detail.contains("at character 1"), "{refusal}");
}

#[test]
fn what_the_schema_lacks_is_said() {
    let world = World::new();
    for result in [world.catalogue.by_path("dhcp-relays"), world.catalogue.by_table("DHCP_Relay")] {
        let refusal = result.unwrap_err();
        assert_eq!((refusal.kind, refusal.code), (RefusalKind::Unsupported, "unsupported_by_schema"));
        assert!(refusal.detail.contains("7.0.0"), "{refusal}");
    }
    assert_eq!(world.catalogue.by_path("unicorns").unwrap_err().kind, RefusalKind::NotFound);
    let refusal = world.create("port-groups", &json!({"name": "x", "tier": 1})).unwrap_err();
    assert_eq!(problems(&refusal), [("/tier", "unknown_field")]);
}

#[test]
fn etags_are_checked_against_the_replica() {
    let world = World::new();
    let ports = world.catalogue.by_path("ports").unwrap();
    let etag = super::super::etag(ports, world.contents.row("Logical_Switch_Port", id(11)).unwrap());
    let patch = |etag: &str| {
        let if_match = IfMatch::parse(&format!("\"{etag}\"")).unwrap();
        world.plan(|planner| {
            planner.patch(ports, "vm1", &json!({"enabled": true}), &if_match);
        })
    };
    let refusal = patch("0123").unwrap_err();
    assert_eq!(
        (refusal.kind, refusal.current_etag.as_deref()),
        (RefusalKind::PreconditionFailed, Some(&*etag))
    );
    let plan = patch(&etag).unwrap();
    let wait = &wire(&plan)[0];
    assert_eq!(wait["columns"].as_array().unwrap().len(), ports.configuration().len());
    assert_eq!(wait["rows"][0]["name"], "vm1");
    assert_eq!(wait["rows"][0].get("up"), None);
    for wrong in ["", "abc", "W/\"abc\"", "\"a\", b", "\"\""] {
        assert_eq!(IfMatch::parse(wrong).unwrap_err().kind, RefusalKind::Malformed, "{wrong}");
    }
}
