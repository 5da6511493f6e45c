//! Many steps as one transaction, with names for the rows that it makes.
//!
//! ```json
//! [{"op": "create", "resource": "switches", "ref": "s", "body": {"name": "blue"}},
//!  {"op": "create", "resource": "ports", "parent": {"ref": "s"}, "body": {"name": "vm1", "addresses": ["unknown"]}},
//!  {"op": "patch", "resource": "port-groups", "id": "web", "body": {"external_ids": {"owner": "me"}}},
//!  {"op": "delete", "table": "ACL", "id": "5f0e…", "if_match": "3c44…"}]
//! ```
//!
//! A `ref` stands for a row wherever an id could, in this and in every later step. All of it happens, or nothing: everything
//! that is wrong with any step is told at once.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::contents::Contents;

use super::catalogue::{Catalogue, Parent, Resource};
use super::plan::{IfMatch, Plan};
use super::planner::{Planner, STEPS_MAX};
use super::refusal::{Refusal, RefusalKind, quoted, step};
use super::values::REFERENCE;

/// Longest name that steps use for a row, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 255;

/// What a step may say.
const MEMBERS: &[&str] =
    &["op", "resource", "table", "ref", "id", "parent", "body", "if_match", "field", "members"];

/// The plan of these steps. `pointer` is where they stand in the body of the request.
pub fn plan(
    contents: &Contents,
    catalogue: &Catalogue,
    fresh: &mut dyn FnMut() -> Uuid,
    steps: &Json,
    pointer: &str,
) -> Result<Plan, Refusal> {
    let malformed = |problem: &str| Refusal::new(RefusalKind::Malformed, "malformed", problem).at(pointer);
    let steps = steps.as_array().ok_or_else(|| malformed("the operations must be an array"))?;
    if steps.is_empty() {
        return Err(malformed("there must be at least one operation"));
    }
    if steps.len() > STEPS_MAX {
        return Err(Refusal::too_large("the number of operations of a transaction", STEPS_MAX));
    }
    let mut planner = Planner::new(contents, catalogue, fresh);
    for (position, body) in steps.iter().enumerate() {
        let at = step(pointer, &position.to_string());
        if let Err(refusal) = one(&mut planner, body, &at) {
            planner.within(at);
            planner.refuse(refusal);
        }
    }
    planner.finish()
}

fn malformed(problem: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, "malformed_operation", problem)
}

/// One step. An error is about the step as a whole; what is wrong with its parts is noted in the planner.
fn one(planner: &mut Planner<'_>, body: &Json, at: &str) -> Result<(), Refusal> {
    let said = body.as_object().ok_or_else(|| malformed("must be an object"))?;
    if let Some(unknown) = said.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(malformed(format!(
            "has the unknown member {}: known are {}",
            quoted(unknown),
            MEMBERS.join(", ")
        )));
    }
    let resource = resource_of(planner, said)?;
    let if_match = if_match_of(said)?;
    let nothing = Json::Object(Map::new());
    let content = said.get("body");
    planner.within(step(at, "body"));
    let op = said.get("op").and_then(Json::as_str).unwrap_or_default();
    let id = match op {
        "create" => {
            if said.contains_key("id") || said.contains_key("if_match") {
                return Err(malformed("makes a new row: id and if_match have no meaning"));
            }
            let whole = with_parent(planner, &resource, said, content.unwrap_or(&nothing))?;
            planner.create(&resource, None, &whole)
        }
        "update" | "replace" | "patch" => {
            let id = id_of(planner, said)?;
            let content = content.ok_or_else(|| malformed("needs a body"))?;
            if op == "patch" {
                planner.patch(&resource, &id, content, &if_match)
            } else {
                planner.replace(&resource, &id, content, &if_match)
            }
        }
        "delete" => {
            let id = id_of(planner, said)?;
            planner.within(at);
            planner.delete(&resource, &id, &if_match)
        }
        "add" | "remove" => {
            let id = id_of(planner, said)?;
            let field = said.get("field").and_then(Json::as_str).unwrap_or_default();
            let column = resource.field(field).filter(|column| resource.table.columns[*column].is_set());
            let column = column.ok_or_else(|| {
                malformed(format!("needs field, a set of a {}, not {}", resource.title, quoted(field)))
            })?;
            let members = said.get("members").ok_or_else(|| malformed("needs members, an array"))?;
            planner.within(step(at, "members"));
            if op == "add" {
                planner.add_members(&resource, &id, column, members)
            } else {
                planner.remove_members(&resource, &id, column, members)
            }
        }
        _ => return Err(malformed("needs op: create, update, patch, delete, add or remove")),
    };
    if let Some(name) = said.get(REFERENCE) {
        refer(planner, name, &resource, id)?;
    }
    Ok(())
}

fn refer(
    planner: &mut Planner<'_>,
    name: &Json,
    resource: &Resource,
    id: Option<Uuid>,
) -> Result<(), Refusal> {
    let name = name.as_str().filter(|name| !name.is_empty() && name.len() <= REFERENCE_BYTES_MAX);
    let name = name.ok_or_else(|| malformed(format!("needs a ref of 1 to {REFERENCE_BYTES_MAX} bytes")))?;
    if planner.references.contains_key(name) {
        return Err(malformed(format!("has the ref {} that an earlier operation has", quoted(name))));
    }
    // A step that was refused still has a name: later steps that use it are not wrong for that.
    planner.refer(name, resource, id.unwrap_or_default());
    Ok(())
}

fn resource_of(planner: &Planner<'_>, said: &Map<String, Json>) -> Result<Arc<Resource>, Refusal> {
    let text = |key: &str| said.get(key).map(|value| value.as_str().unwrap_or_default());
    match (text("resource"), text("table")) {
        (Some(path), None) => planner.catalogue.by_path(path).cloned(),
        (None, Some(table)) => planner.catalogue.by_table(table).cloned(),
        _ => Err(malformed(
            "needs either resource, such as \"switches\", or table, such as \"Logical_Switch\"",
        )),
    }
}

fn if_match_of(said: &Map<String, Json>) -> Result<IfMatch, Refusal> {
    match said.get("if_match") {
        None | Some(Json::Null) => Ok(IfMatch::None),
        Some(Json::String(etag)) if etag == "*" => Ok(IfMatch::Any),
        // With or without the quotes of the header.
        Some(Json::String(etag)) if !etag.starts_with('"') && !etag.is_empty() => {
            Ok(IfMatch::Of(vec![etag.clone()]))
        }
        Some(Json::String(header)) => IfMatch::parse(header),
        Some(_) => Err(malformed("needs if_match as a string: an ETag")),
    }
}

fn id_of(planner: &Planner<'_>, said: &Map<String, Json>) -> Result<String, Refusal> {
    let id = said.get("id").ok_or_else(|| malformed("needs id: of a row, its name, or {\"ref\": ..}"))?;
    if let Some(id) = id.as_str() {
        return Ok(id.to_owned());
    }
    let name = id.get(REFERENCE).and_then(Json::as_str).unwrap_or_default();
    let found = planner.references.get(name);
    let found =
        found.ok_or_else(|| malformed(format!("has the id of no earlier operation: {}", quoted(name))))?;
    if planner.created.contains_key(&found.id) {
        return Err(malformed(format!("changes what {} makes: put it into its body", quoted(name))));
    }
    Ok(found.id.to_string())
}

/// The body with the field of the parent that the step names.
fn with_parent(
    planner: &Planner<'_>,
    resource: &Resource,
    said: &Map<String, Json>,
    content: &Json,
) -> Result<Json, Refusal> {
    let mut whole = content.clone();
    let Some(given) = said.get("parent") else { return Ok(whole) };
    let parent = parent_of(planner, resource, given)?;
    if let Some(body) = whole.as_object_mut() {
        if body.get(&*parent.field).is_some_and(|other| other != given) {
            return Err(malformed(format!("names two parents: {} in the body and parent", parent.field)));
        }
        body.insert(parent.field.to_string(), given.clone());
    }
    Ok(whole)
}

fn parent_of<'resource>(
    planner: &Planner<'_>,
    resource: &'resource Resource,
    given: &Json,
) -> Result<&'resource Parent, Refusal> {
    let parents = &resource.parents;
    let found = match (parents.as_slice(), given.get(REFERENCE).and_then(Json::as_str), given.as_str()) {
        ([], _, _) => return Err(malformed(format!("makes a {}, which has no parent", resource.title))),
        ([only], _, _) => Some(only),
        (_, Some(name), _) => {
            let table = planner.references.get(name).map(|found| &found.table);
            parents.iter().find(|parent| Some(&parent.table) == table)
        }
        (_, None, Some(text)) => parents.iter().find(|parent| {
            let holder = planner.catalogue.of_table(&parent.table);
            holder.is_some_and(|holder| holder.find(planner.contents, text).is_ok())
        }),
        (_, None, None) => None,
    };
    let kinds: Vec<_> = parents.iter().map(|parent| &*parent.path).collect();
    found.ok_or_else(|| malformed(format!("needs a parent that exists, of {}: {given}", kinds.join(" or "))))
}
