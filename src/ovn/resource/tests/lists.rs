use proptest::prelude::*;
use serde_json::json;

use super::super::query::{LIMIT_MAX, Query};
use super::super::{RefusalKind, View};
use super::*;

fn query(world: &World, path: &str, parameters: &[(&str, &str)]) -> Result<Query, Refusal> {
    let parameters: Vec<_> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Query::parse(world.catalogue.by_path(path)?, &parameters)
}

fn list(world: &World, path: &str, parameters: &[(&str, &str)]) -> Vec<String> {
    let resource = world.catalogue.by_path(path).unwrap();
    let query = query(world, path, parameters).unwrap();
    let page = query.page(query.collect(resource, &world.contents).unwrap()).unwrap();
    page.items.iter().map(|view| resource.name_of(&view.row).unwrap_or("?").to_owned()).collect()
}

#[test]
fn conditions_choose_rows() {
    let world = World::new();
    for (path, parameters, names) in [
        ("ports", &[][..], &["vm1", "to-edge"][..]),
        ("ports", &[("name", "vm1")], &["vm1"]),
        ("ports", &[("name", "vm1"), ("name", "to-edge")], &["vm1", "to-edge"]),
        ("ports", &[("name~", "EDGE")], &["to-edge"]),
        ("ports", &[("name^", "vm")], &["vm1"]),
        ("ports", &[("type", "router")], &["to-edge"]),
        ("ports", &[("type!", "router")], &["vm1"]),
        ("ports", &[("up", "true")], &["vm1"]),
        ("ports", &[("up", "null")], &["to-edge"]),
        ("ports", &[("addresses~", "10.0.0.4")], &["vm1"]),
        ("ports", &[("options.router-port", "edge-blue")], &["to-edge"]),
        ("ports", &[("switch_id", "blue")], &["vm1", "to-edge"]),
        ("ports", &[("switch_id", "red")], &[]),
        ("switches", &[("external_ids.owner", "me")], &["blue"]),
        ("switches", &[("external_ids.owner", "")], &["blue"]),
        ("switches", &[("external_ids.owner!", "me")], &["red"]),
        ("switches", &[("sort", "-name")], &["red", "blue"]),
        ("acls", &[("priority>5", "")], &[]),
        ("acls", &[("priority>", "5")], &["?"]),
        ("address-sets", &[], &["hosts"]),
        ("address-sets", &[("name", "ovncp_fence_0")], &[]),
    ] {
        assert_eq!(list(&world, path, parameters), names, "{path} {parameters:?}");
    }
}

#[test]
fn wrong_parameters_are_told() {
    let world = World::new();
    for (name, value) in [
        ("colour", "red"),
        ("external_ids", "x"),
        ("name.x", "y"),
        ("limit", "0"),
        ("limit", "many"),
        ("sort", "colour"),
        ("fields", "colour"),
        ("cursor", "x"),
        ("cursor", "00000000000000000000000000000000000000000000000é"),
    ] {
        let refusal = query(&world, "switches", &[(name, value)]).unwrap_err();
        assert_eq!(
            (refusal.kind, refusal.code),
            (RefusalKind::Malformed, "invalid_parameter"),
            "{name}={value}"
        );
        assert_eq!(refusal.problems[0].pointer, name);
    }
}

#[test]
fn fields_are_chosen() {
    let world = World::new();
    let ports = world.catalogue.by_path("ports").unwrap();
    let query = query(&world, "ports", &[("fields", "name,switch_id"), ("name", "vm1")]).unwrap();
    let page = query.page(query.collect(ports, &world.contents).unwrap()).unwrap();
    assert_eq!(page.items[0].to_json(), json!({"id": text(11), "name": "vm1", "switch_id": text(1)}));
}

#[test]
fn json_is_the_plain_form_of_the_row() {
    let world = World::new();
    for resource in world.catalogue.generic() {
        for row in resource.rows(&world.contents).unwrap().rows() {
            let json = View::new(resource, row, &world.contents).to_json();
            for (column, field) in resource.table.columns.iter().zip(&resource.fields) {
                let (position, _) = resource.table.column(&column.name).unwrap();
                assert_eq!(json[&*field.name], row.get(position).to_plain(column), "{}", column.name);
            }
            assert_eq!(json["id"], row.uuid.to_string());
        }
    }
    let ports = world.catalogue.by_path("ports").unwrap();
    let vm1 = ports.find(&world.contents, "vm1").unwrap();
    let json = View::new(ports, &vm1, &world.contents).to_json();
    assert_eq!(
        (&json["switch_id"], &json["addresses"]),
        (&json!(text(1)), &json!(["0a:00:00:00:00:01 10.0.0.4"]))
    );
}

/// What an ETag is must not change with the version of ovncp: other nodes compare it.
#[test]
fn etags_are_what_they_were() {
    let world = World::new();
    let etag = |path: &str, name: &str| {
        let resource = world.catalogue.by_path(path).unwrap();
        super::super::etag(resource, &resource.find(&world.contents, name).unwrap())
    };
    assert_eq!(etag("switches", "blue"), "2dc56b5dccff424d9c9b3d5a55288ac0");
    assert_eq!(etag("ports", "vm1"), "5258406d937de13c6714101dc13e7aac");
}

#[test]
fn etags_stand_for_the_configuration() {
    let mut world = World::new();
    let etag = |world: &World| {
        let ports = world.catalogue.by_path("ports").unwrap();
        let generic = world.catalogue.by_table("Logical_Switch_Port").unwrap();
        let row = ports.find(&world.contents, "vm1").unwrap();
        assert_eq!(super::super::etag(ports, &row), super::super::etag(generic, &row));
        super::super::etag(ports, &row)
    };
    let first = etag(&world);
    let mut change = |row: Json| {
        world.contents.apply_row("Logical_Switch_Port", id(11), &json!({"modify": row})).unwrap();
        etag(&world)
    };
    assert_eq!(
        change(json!({"up": ["set", [true]], "dynamic_addresses": "0a:00:00:00:00:01 10.0.0.9"})),
        first
    );
    assert_ne!(change(json!({"enabled": true})), first);
    let newer = Catalogue::new(super::super::catalogue::reference());
    assert!(!newer.by_path("ports").unwrap().configuration().is_empty());
}

fn many(names: &[u8]) -> World {
    let mut world = World::new();
    for (number, name) in names.iter().enumerate() {
        let row = json!({"insert": {"name": format!("p{name}"), "options": ["map", [["n", format!("{}", name % 3)]]]}});
        world.contents.apply_row("Logical_Switch_Port", id(5000 + number as u128), &row).unwrap();
    }
    world
}

proptest! {
    /// Pages are the whole list, in its order, each row once, whatever the order and the size of a page.
    #[test]
    fn pages_are_the_list(
        names in prop::collection::vec(0..20_u8, 0..40),
        limit in 1..10_usize,
        sort in prop::sample::select(vec!["", "name", "-name", "options.n,name", "-options.n", "switch_id,-id"]),
    ) {
        let world = many(&names);
        let ports = world.catalogue.by_path("ports").unwrap();
        let all = query(&world, "ports", &[("sort", sort), ("limit", &LIMIT_MAX.to_string())]).unwrap();
        let all = all.page(all.collect(ports, &world.contents).unwrap()).unwrap();
        let all: Vec<_> = all.items.iter().map(|view| view.row.uuid).collect();
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let limit = limit.to_string();
            let mut parameters = vec![("sort", sort), ("limit", &limit)];
            if let Some(cursor) = &cursor {
                parameters.push(("cursor", cursor));
            }
            let query = query(&world, "ports", &parameters).unwrap();
            let page = query.page(query.collect(ports, &world.contents).unwrap()).unwrap();
            prop_assert_eq!(page.total, names.len() + 2);
            seen.extend(page.items.iter().map(|view| view.row.uuid));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
            prop_assert!(seen.len() <= all.len());
        }
        prop_assert_eq!(seen, all);
    }
}

#[test]
fn a_cursor_belongs_to_its_list() {
    let world = World::new();
    let ports = world.catalogue.by_path("ports").unwrap();
    let first = query(&world, "ports", &[("limit", "1"), ("sort", "name")]).unwrap();
    let page = first.page(first.collect(ports, &world.contents).unwrap()).unwrap();
    let cursor = page.next_cursor.unwrap();
    query(&world, "ports", &[("sort", "name"), ("cursor", &cursor)]).unwrap();
    query(&world, "ports", &[("sort", "-name"), ("cursor", &cursor)]).unwrap_err();
    query(&world, "switches", &[("sort", "name"), ("cursor", &cursor)]).unwrap_err();
}
