//! The published description of the network's resources, made from the catalogue: every path, body and answer.
//!
//! It shows the newest schema that is known; fields and resources that the servers here lack are answered with
//! `unsupported_by_schema`.

use std::sync::LazyLock;

use axum::http::Method;
use ovncp_ovn::resource::catalogue::reference;
use ovncp_ovn::resource::{Catalogue, Parent, Resource, Role};
use ovncp_ovn::schema::{AtomKind, BaseType, ColumnSchema};
use serde_json::{Map, Value as Json, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{HttpMethod, OpenApi, PathItem};

/// Prefix of every path.
pub(super) const BASE: &str = "/api/v1";

/// One published route of a resource.
pub(super) struct Published {
    /// Template of its path.
    pub(super) path: String,
    /// What it does, by method.
    operations: Vec<(Method, Json)>,
}

static NEWEST: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::new(reference()));

/// Every typed resource of the newest schema.
pub(super) fn resources() -> impl Iterator<Item = &'static Resource> {
    NEWEST.typed().map(|resource| &**resource)
}

/// Adds all routes of [`published`] and their schemas to the document.
pub(in crate::api) fn describe(openapi: &mut OpenApi) {
    for route in published() {
        let mut item = PathItem::default();
        for (method, operation) in route.operations {
            // Made from literals below: what cannot be read is a defect that every test of the document meets.
            let operation: Operation = serde_json::from_value(operation).expect("an operation of OpenAPI");
            item.merge_operations(PathItem::new(http_method(&method), operation));
        }
        openapi.paths.paths.insert(route.path, item);
    }
    let components = openapi.components.get_or_insert_default();
    for resource in resources() {
        for (name, schema) in [
            (schema_name(resource), answer(resource)),
            (format!("{}Input", schema_name(resource)), input(resource)),
        ] {
            let schema: utoipa::openapi::Schema =
                serde_json::from_value(schema).expect("a schema of OpenAPI");
            components.schemas.insert(name, schema.into());
        }
    }
}

fn http_method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

/// Routes of every typed resource: its collection, its rows, rows under a parent, and members of columns.
pub(super) fn published() -> Vec<Published> {
    let mut routes = Vec::new();
    for resource in resources() {
        let collection = format!("{BASE}/{}", resource.path);
        routes.push(Published {
            path: collection.clone(),
            operations: vec![(Method::GET, list(resource, None)), (Method::POST, create(resource, None))],
        });
        routes.push(Published {
            path: format!("{collection}/{{id}}"),
            operations: vec![
                (Method::GET, get(resource)),
                (Method::PUT, change(resource, "replace")),
                (Method::PATCH, change(resource, "patch")),
                (Method::DELETE, delete(resource)),
            ],
        });
        for parent in &resource.parents {
            routes.push(Published {
                path: format!("{BASE}/{}/{{id}}/{}", parent.path, parent.segment),
                operations: vec![
                    (Method::GET, list(resource, Some(parent))),
                    (Method::POST, create(resource, Some(parent))),
                ],
            });
        }
        for (segment, column) in &resource.members {
            routes.push(Published {
                path: format!("{collection}/{{id}}/{segment}"),
                operations: members(resource, segment, &resource.table.columns[*column]),
            });
        }
    }
    routes.push(Published {
        path: format!("{BASE}/ovn/tables/{{table}}"),
        operations: vec![
            (Method::GET, table_operation("list", "Lists the rows of a table.", Shape::Page)),
            (
                Method::POST,
                table_operation("create", "Makes a row, or all those of an array or none.", Shape::Made),
            ),
        ],
    });
    routes.push(Published {
        path: format!("{BASE}/ovn/tables/{{table}}/{{id}}"),
        operations: vec![
            (Method::GET, table_operation("get", "Shows a row.", Shape::Row)),
            (Method::PUT, table_operation("replace", "Sets all of a row.", Shape::Changed)),
            (
                Method::PATCH,
                table_operation("patch", "Sets some of a row (JSON merge patch).", Shape::Changed),
            ),
            (Method::DELETE, table_operation("delete", "Deletes a row.", Shape::Gone)),
        ],
    });
    routes
}

/// What a route of the generic API answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Page,
    Row,
    Made,
    Changed,
    Gone,
}

fn table_operation(verb: &str, summary: &str, shape: Shape) -> Json {
    let object = json!({"type": "object"});
    let mut parameters = vec![parameter(
        "path",
        "table",
        json!({"type": "string"}),
        "A table of the schema, such as `Meter`.",
    )];
    if !matches!(shape, Shape::Page | Shape::Made) {
        parameters.push(id("row"));
    }
    match shape {
        Shape::Page => parameters.extend(list_parameters()),
        Shape::Row => parameters.push(consistency()),
        Shape::Made => parameters.extend(write_parameters()),
        Shape::Changed | Shape::Gone => {
            parameters.push(if_match());
            parameters.extend(write_parameters());
        }
    }
    let (status, response) = match shape {
        Shape::Page => (
            "200",
            answered(
                "A page.",
                json!({"type": "object", "properties": {
            "rows": {"type": "array", "items": object}, "count": {"type": "integer"},
            "next_cursor": {"type": ["string", "null"]}}}),
            ),
        ),
        Shape::Row | Shape::Changed => ("200", answered("As it is.", object.clone())),
        Shape::Made => ("201", answered("It exists.", object.clone())),
        Shape::Gone => ("204", json!({"description": "It is gone."})),
    };
    let mut operation = json!({"tags": ["network"], "operationId": format!("{verb}_table_row"), "summary": summary,
        "description": "Any table of the northbound schema, by the same rules as the typed resources.",
        "parameters": parameters, "responses": {status: response, "404": {"description": ""}, "409": {"description": ""},
            "412": {"description": ""}}});
    match shape {
        Shape::Made => {
            operation["requestBody"] =
                body(json!({"oneOf": [object, {"type": "array", "items": object}]}), "application/json")
        }
        Shape::Changed => operation["requestBody"] = body(object, "application/json"),
        Shape::Page | Shape::Row | Shape::Gone => {}
    }
    operation
}

/// Whether this route is about members of a column, not about rows.
pub(super) fn is_members(path: &str) -> bool {
    resources().any(|resource| {
        let base = format!("{BASE}/{}/{{id}}/", resource.path);
        let segment = path.strip_prefix(&base);
        segment.is_some_and(|segment| resource.members.iter().any(|(member, _)| *member == segment))
    })
}

/// `static-routes` as part of an identifier: `static_routes`.
fn snake(path: &str) -> String {
    path.replace('-', "_")
}

/// `static-routes` as the name of a schema: `StaticRoutes`.
fn schema_name(resource: &Resource) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    };
    format!("Ovn{}", resource.path.split('-').map(word).collect::<String>())
}

fn reference_to(name: &str) -> Json {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn one(resource: &Resource) -> Json {
    reference_to(&schema_name(resource))
}

fn parameter(place: &str, name: &str, schema: Json, description: &str) -> Json {
    json!({"in": place, "name": name, "required": place == "path", "schema": schema, "description": description})
}

fn id(resource: &str) -> Json {
    let description = format!("The uuid, or the name where it is unique, of the {resource}.");
    parameter("path", "id", json!({"type": "string"}), &description)
}

fn consistency() -> Json {
    let description = "`linearizable` (default) sees every write that OVN had answered before the read began; `local` answers from \
        this node's replica at once, also while OVN is away, then with an `Age` header.";
    parameter("query", "consistency", reference_to("ConsistencyParam"), description)
}

fn write_parameters() -> Vec<Json> {
    let text = || json!({"type": "string"});
    let choice = json!({"type": "string", "enum": ["none", "sb", "hv"]});
    let number = json!({"type": "integer", "minimum": 1, "maximum": super::headers::WAIT_TIMEOUT_MS_MAX});
    vec![
        parameter(
            "query",
            "wait",
            choice,
            "How far to wait: the northbound database, ovn-northd, every hypervisor. \
            `X-Ovncp-Barrier: reached|open` in the answer tells whether it came so far; it is committed either way.",
        ),
        parameter("query", "wait_timeout_ms", number, "How long to wait; 10000 if absent."),
        parameter(
            "header",
            "Idempotency-Key",
            text(),
            "A retry with the same key and body happens once, on any node.",
        ),
        parameter("header", "X-Ovncp-Lock", text(), "Key of an exclusive lock that fences this write."),
        parameter(
            "header",
            "X-Ovncp-Fencing-Token",
            text(),
            "Token of its grant; a stale one gets 412 and nothing is written.",
        ),
    ]
}

fn if_match() -> Json {
    parameter(
        "header",
        "If-Match",
        json!({"type": "string"}),
        "Only if this is still its `ETag`; 412 otherwise.",
    )
}

fn answered(description: &str, schema: Json) -> Json {
    let headers =
        json!({"ETag": {"schema": {"type": "string"}, "description": "Stands for its configuration."}});
    json!({"description": description, "headers": headers, "content": {"application/json": {"schema": schema}}})
}

fn body(schema: Json, media_type: &str) -> Json {
    json!({"required": true, "content": {media_type: {"schema": schema}}})
}

fn page(resource: &Resource) -> Json {
    json!({"type": "object", "required": ["count", "next_cursor"], "properties": {
        snake(&resource.path): {"type": "array", "items": one(resource)},
        "count": {"type": "integer", "description": "Rows of this page."},
        "next_cursor": {"type": ["string", "null"], "description": "Where the next page begins."},
    }})
}

fn list_parameters() -> Vec<Json> {
    let text = || json!({"type": "string"});
    vec![
        consistency(),
        parameter(
            "query",
            "limit",
            json!({"type": "integer", "minimum": 1, "maximum": ovncp_ovn::resource::query::LIMIT_MAX}),
            "Rows of a page; 100 if absent.",
        ),
        parameter("query", "cursor", text(), "`next_cursor` of the page before."),
        parameter("query", "sort", text(), "A field; `-field` for descending."),
        parameter("query", "fields", text(), "Fields to answer, comma-separated; all if absent."),
        parameter(
            "query",
            "filter",
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "Any further parameter names a field and the value it must have; docs/network.md has the grammar.",
        ),
    ]
}

fn list(resource: &Resource, parent: Option<&Parent>) -> Json {
    let mut parameters = list_parameters();
    let mut operation_id = format!("list_{}", snake(&resource.path));
    if let Some(parent) = parent {
        parameters.insert(0, id(&parent.path));
        operation_id = format!("list_{}_of_{}", snake(&parent.segment), snake(&parent.path));
    }
    json!({"tags": ["network"], "operationId": operation_id, "summary": format!("Lists: {}", resource.title),
        "description": resource.about, "parameters": parameters,
        "responses": {"200": answered("A page.", page(resource)), "404": {"description": ""}}})
}

fn create(resource: &Resource, parent: Option<&Parent>) -> Json {
    let mut parameters = write_parameters();
    let mut operation_id = format!("create_{}", snake(&resource.path));
    if let Some(parent) = parent {
        parameters.insert(0, id(&parent.path));
        operation_id = format!("create_{}_of_{}", snake(&parent.segment), snake(&parent.path));
    }
    let input = reference_to(&format!("{}Input", schema_name(resource)));
    let either = json!({"oneOf": [input, {"type": "array", "items": input}]});
    let made = json!({"oneOf": [one(resource), page(resource)]});
    json!({"tags": ["network"], "operationId": operation_id, "summary": format!("Creates: {}", resource.title),
        "description": "An array creates all or none.", "parameters": parameters,
        "requestBody": body(either, "application/json"),
        "responses": {"201": answered("It exists.", made), "404": {"description": ""}, "409": {"description": ""},
            "412": {"description": ""}}})
}

fn get(resource: &Resource) -> Json {
    json!({"tags": ["network"], "operationId": format!("get_{}", snake(&resource.path)),
        "summary": format!("Shows: {}", resource.title), "description": resource.about,
        "parameters": [id(&resource.title), consistency()],
        "responses": {"200": answered("As it is.", one(resource)), "404": {"description": ""}, "409": {"description": ""}}})
}

fn change(resource: &Resource, verb: &str) -> Json {
    let (summary, description, media_type, schema) = match verb {
        "replace" => (
            "Replaces",
            "What the body leaves out gets its default; rows that it holds stay.",
            "application/json",
            reference_to(&format!("{}Input", schema_name(resource))),
        ),
        _ => (
            "Changes",
            "JSON merge patch (RFC 7396): a member of an object that is null goes, the others stay as they are.",
            "application/merge-patch+json",
            json!({"type": "object"}),
        ),
    };
    let mut parameters = vec![id(&resource.title), if_match()];
    parameters.extend(write_parameters());
    json!({"tags": ["network"], "operationId": format!("{verb}_{}", snake(&resource.path)),
        "summary": format!("{summary}: {}", resource.title), "description": description, "parameters": parameters,
        "requestBody": body(schema, media_type),
        "responses": {"200": answered("As it is now.", one(resource)), "404": {"description": ""},
            "409": {"description": ""}, "412": {"description": ""}}})
}

fn delete(resource: &Resource) -> Json {
    let mut parameters = vec![id(&resource.title), if_match()];
    parameters.extend(write_parameters());
    if &*resource.path == "switches" {
        let description = "Also the router ports that its ports lead to.";
        parameters.push(parameter("query", "router_ports", json!({"type": "boolean"}), description));
    }
    json!({"tags": ["network"], "operationId": format!("delete_{}", snake(&resource.path)),
        "summary": format!("Deletes: {}", resource.title),
        "description": "With the rows that only it holds. Refused while others refer to it.", "parameters": parameters,
        "responses": {"204": {"description": "It is gone."}, "404": {"description": ""}, "409": {"description": ""},
            "412": {"description": ""}}})
}

fn members(resource: &Resource, segment: &str, column: &ColumnSchema) -> Vec<(Method, Json)> {
    let name = format!("{}_of_{}", snake(segment), snake(&resource.path));
    let list = json!({"type": "object", "required": ["members", "count"], "properties": {
        "members": {"type": "array", "items": atom(&column.key)}, "count": {"type": "integer"}}});
    let operation = |verb: &str, summary: &str, body_too: bool| {
        let mut parameters = vec![id(&resource.title)];
        parameters.extend(if body_too { write_parameters() } else { vec![consistency()] });
        let mut operation = json!({"tags": ["network"], "operationId": format!("{verb}_{name}"),
            "summary": format!("{summary}: {segment} of a {}", resource.title), "parameters": parameters,
            "responses": {"200": answered("All of them.", list.clone()), "404": {"description": ""}}});
        if body_too {
            let members = json!({"type": "object", "required": ["members"], "properties": {
                "members": {"type": "array", "items": atom(&column.key)}}});
            operation["requestBody"] = body(members, "application/json");
            operation["responses"]["409"] = json!({"description": ""});
            operation["responses"]["412"] = json!({"description": ""});
        }
        operation
    };
    vec![
        (Method::GET, operation("list", "Lists", false)),
        (Method::POST, operation("add", "Adds", true)),
        (Method::DELETE, operation("remove", "Removes", true)),
    ]
}

fn answer(resource: &Resource) -> Json {
    let mut properties = Map::new();
    properties.insert(
        "id".to_owned(),
        json!({"type": "string", "format": "uuid", "description": "The row's uuid."}),
    );
    if resource.name_column().is_none() {
        properties.insert("name".to_owned(), json!({"type": "null"}));
    }
    for (field, column) in resource.fields.iter().zip(&resource.table.columns) {
        let mut schema = value(column);
        if field.role == Role::ReadOnly {
            schema["readOnly"] = json!(true);
        }
        properties.insert(field.name.to_string(), schema);
    }
    for parent in &resource.parents {
        let description = format!("Who holds it ({}).", parent.table);
        properties.insert(
            parent.field.to_string(),
            json!({"type": ["string", "null"], "format": "uuid", "description": description}),
        );
    }
    json!({"type": "object", "description": resource.about, "required": ["id"], "properties": properties})
}

fn input(resource: &Resource) -> Json {
    let writable = resource.fields.iter().zip(&resource.table.columns);
    let writable = writable.filter(|(field, _)| field.role != Role::ReadOnly);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (field, column) in writable {
        properties.insert(field.name.to_string(), value(column));
        if field.required {
            required.push(Json::from(&*field.name));
        }
    }
    for parent in &resource.parents {
        properties.insert(
            parent.field.to_string(),
            json!({"type": "string", "description": "Who shall hold it: uuid or name."}),
        );
    }
    json!({"type": "object", "description": resource.about, "required": required, "properties": properties,
        "additionalProperties": false})
}

/// Plain form of a column.
fn value(column: &ColumnSchema) -> Json {
    match &column.value {
        Some(values) => json!({"type": "object", "additionalProperties": atom(values)}),
        None if column.is_set() => json!({"type": "array", "items": atom(&column.key)}),
        None => {
            let mut schema = atom(&column.key);
            if column.is_optional() {
                schema["type"] = json!([schema["type"], "null"]);
            }
            schema
        }
    }
}

fn atom(base: &BaseType) -> Json {
    let mut schema = match base.kind {
        AtomKind::Integer => json!({"type": "integer"}),
        AtomKind::Real => json!({"type": "number"}),
        AtomKind::Boolean => json!({"type": "boolean"}),
        AtomKind::String => json!({"type": "string"}),
        AtomKind::Uuid => json!({"type": "string", "format": "uuid"}),
    };
    if let Some(table) = &base.ref_table {
        schema["description"] = json!(format!("A row of {table}."));
    }
    if !base.allowed.is_empty() {
        schema["enum"] = base.allowed.iter().map(ovncp_ovn::value::Atom::to_plain).collect();
    }
    if base.kind == AtomKind::Integer {
        for (bound, name) in [(&base.min, "minimum"), (&base.max, "maximum")] {
            if let Some(bound) = bound {
                schema[name] = bound.to_plain();
            }
        }
    }
    schema
}
