//! From a JSON body to values of columns: types by the schema, texts by their checks, references by what exists.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::contents::Row;
use crate::schema::{AtomKind, ColumnSchema};
use crate::value::{Atom, Datum, ValueError};

use super::catalogue::{ID_FIELD, Lookup, Parent, Resource, Role};
use super::expression::{self, Names};
use super::planner::{Change, KeyChanges, Planner};
use super::refusal::{quoted, step};
use super::syntax::Check;

/// Member of an object that names another step of the same request instead of a row.
pub const REFERENCE: &str = "ref";

impl<'a> Planner<'a> {
    /// Reads a body. `row` is what it changes; `whole` when it is all of a row and not a patch.
    pub(super) fn read_body(
        &mut self,
        resource: &Arc<Resource>,
        body: &Map<String, Json>,
        pointer: &str,
        row: Option<&Arc<Row>>,
        whole: bool,
    ) -> Change {
        let mut change = Change::default();
        for (key, value) in body {
            let at = step(pointer, key);
            let Some(column) = resource.field(key) else {
                self.read_other(resource, key, value, &at, row);
                continue;
            };
            let schema = &resource.table.columns[column];
            match resource.fields[column].role {
                Role::ReadOnly => {
                    let same = whole && row.is_some_and(|row| row.get(column).to_plain(schema) == *value);
                    if !same {
                        self.problems.add(at, "read_only", "is written by OVN: leave it out");
                    }
                }
                Role::Configuration if schema.is_map() && !whole && value.is_object() => {
                    if let Some(row) = row {
                        let keys = self.read_keys(resource, column, value, row, &at);
                        change.keys.insert(column, keys);
                    }
                }
                role => {
                    let value = match value {
                        Json::Null => self.default_of(schema, &at),
                        value => self.read_members(resource, column, value, &at),
                    };
                    let Some(value) = value else { continue };
                    self.check_value(resource, column, &value, &body[key], &at);
                    let immutable = row.is_some_and(|row| !schema.mutable && *row.get(column) != value);
                    if immutable {
                        self.problems.add(
                            at,
                            "immutable",
                            "cannot change: delete the row and make a new one",
                        );
                    } else if role == Role::Children && row.is_some() {
                        change.children.insert(column, value);
                    } else {
                        change.set.insert(column, value);
                    }
                }
            }
        }
        change
    }

    /// What null stands for: the value of a column that nobody wrote.
    fn default_of(&mut self, schema: &ColumnSchema, at: &str) -> Option<Datum> {
        if schema.min > 0 && (schema.key.ref_table.is_some() || !schema.key.allowed.is_empty()) {
            self.problems.add(at, "wrong_type", format!("must be {}, not null", schema.key.kind.in_words()));
            return None;
        }
        Some(schema.default_value())
    }

    /// A member of the body that is no column.
    fn read_other(&mut self, resource: &Resource, key: &str, value: &Json, at: &str, row: Option<&Arc<Row>>) {
        if key == ID_FIELD {
            match row {
                Some(row) if value.as_str() == Some(row.uuid.to_string().as_str()) => {}
                Some(_) => self.problems.add(at, "immutable", "cannot change"),
                None => self.problems.add(at, "read_only", "is chosen by ovncp: leave it out"),
            }
            return;
        }
        if key == "name" && resource.name_column().is_none() && value.is_null() {
            return;
        }
        let parent = resource.parents.iter().position(|parent| *parent.field == *key);
        match (parent, row) {
            // Read by `holder`.
            (Some(_), None) => {}
            (Some(parent), Some(row)) => {
                let holders = resource.holders(self.contents, row.uuid);
                let mut held = holders.iter().filter(|(position, _)| *position == parent);
                let same = match value {
                    Json::Null => held.next().is_none(),
                    Json::String(text) => {
                        held.any(|(_, holder)| self.is_called(&resource.parents[parent], *holder, text))
                    }
                    _ => false,
                };
                if !same {
                    self.problems.add(at, "immutable", "cannot change: delete it and make a new one there");
                }
            }
            (None, _) => {
                let mut problem = format!("is no field of a {}", resource.title);
                if let Some(close) = closest(key, resource) {
                    problem += &format!(": did you mean {close:?}?");
                }
                self.problems.add(at, "unknown_field", problem);
            }
        }
    }

    fn is_called(&self, parent: &Parent, id: Uuid, text: &str) -> bool {
        let by_name =
            || self.contents.table(&parent.table).is_some_and(|table| table.by_name(text).contains(&id));
        Uuid::try_parse(text).is_ok_and(|uuid| uuid == id) || by_name()
    }

    /// What holds a new row: as the path says, or as the body says, not both differently.
    pub(super) fn holder<'parent>(
        &mut self,
        resource: &'parent Resource,
        path: Option<(&'parent Parent, &str)>,
        body: &Map<String, Json>,
    ) -> Option<(&'parent Parent, Uuid)> {
        let mut found = None;
        if let Some((parent, id)) = path {
            let holder = self.catalogue.of_table(&parent.table).map(|holder| holder.find(self.contents, id));
            match holder {
                Some(Ok(row)) => found = Some((parent, row.uuid)),
                Some(Err(refusal)) => self.refuse(refusal),
                None => {}
            }
        }
        for parent in &resource.parents {
            let Some(value) = body.get(&*parent.field).filter(|value| !value.is_null()) else { continue };
            let at = step(&self.pointer, &parent.field);
            let Some(id) = self.read_reference(&parent.table, value, &at) else { continue };
            match found {
                Some((_, already)) if already != id => {
                    let problem = "contradicts what else says where it belongs: one row holds it";
                    self.problems.add(at, "contradiction", problem);
                }
                _ => found = Some((parent, id)),
            }
        }
        if let Some((_, id)) = found
            && self.deleted.contains(&id)
        {
            let problem = "is put into a row that another step deletes";
            self.problems.add(self.pointer.clone(), "contradiction", problem);
        }
        found
    }

    /// The value of one column. Rows may be named, and rows that this one holds may stand in it as objects.
    pub(super) fn read_members(
        &mut self,
        resource: &Arc<Resource>,
        column: usize,
        value: &Json,
        at: &str,
    ) -> Option<Datum> {
        let schema = &resource.table.columns[column];
        let before = self.problems.count();
        let datum = match (&schema.key.ref_table, schema.is_map()) {
            (Some(table), false) => {
                let single = std::slice::from_ref(value);
                let members = match value {
                    Json::Array(members) if schema.max > 1 => members.as_slice(),
                    _ => single,
                };
                let children = resource.fields[column].role == Role::Children;
                let mut ids = Vec::with_capacity(members.len());
                for (position, member) in members.iter().enumerate() {
                    let at = if value.is_array() { step(at, &position.to_string()) } else { at.to_owned() };
                    let id = match member {
                        Json::Object(body) if children && !body.contains_key(REFERENCE) => {
                            self.read_child(table, body, &at)
                        }
                        member => self.read_reference(table, member, &at),
                    };
                    ids.extend(id.map(Atom::from));
                }
                Ok(Datum::set(ids))
            }
            _ => Datum::from_plain(value, schema),
        };
        if self.problems.count() > before {
            return None;
        }
        match datum {
            Ok(datum) if datum.len() < schema.min || datum.len() > schema.max => {
                let problem =
                    format!("must have {} to {} members, not {}", schema.min, schema.max, datum.len());
                self.problems.add(at, "wrong_count", problem);
                None
            }
            Ok(datum) => Some(datum),
            Err(error) => {
                self.problems.add(at, code_of(&error), error.to_string());
                None
            }
        }
    }

    fn read_child(&mut self, table: &str, body: &Map<String, Json>, at: &str) -> Option<Uuid> {
        let child = Arc::clone(self.catalogue.of_table(table)?);
        for parent in &child.parents {
            if body.contains_key(&*parent.field) {
                let problem = "is said by where it stands: leave it out";
                self.problems.add(step(at, &parent.field), "contradiction", problem);
            }
        }
        self.insert(&child, body, at)
    }

    /// A row by its uuid, its name, or the step of this request that makes it.
    fn read_reference(&mut self, table: &Arc<str>, value: &Json, at: &str) -> Option<Uuid> {
        let title = self
            .catalogue
            .of_table(table)
            .map_or_else(|| Arc::clone(table), |found| Arc::clone(&found.title));
        if let Some(reference) = value.get(REFERENCE) {
            let name = reference.as_str().unwrap_or_default();
            let found = self.references.get(name).cloned();
            return match found {
                Some(found) if found.table == *table => Some(found.id),
                Some(found) => {
                    let problem = format!("{} is a row of {}, not a {title}", quoted(name), found.table);
                    self.problems.add(at, "wrong_reference", problem);
                    None
                }
                None => {
                    let problem =
                        format!("{} is no ref of an earlier operation of this request", quoted(name));
                    self.problems.add(at, "unknown_reference", problem);
                    None
                }
            };
        }
        let Some(text) = value.as_str() else {
            self.problems.add(at, "wrong_type", format!("must be the id or the name of a {title}"));
            return None;
        };
        match self.find_reference(table, text) {
            Ok(id) => Some(id),
            Err(problem) => {
                self.problems.add(at, "unknown_reference", problem.replace("{title}", &title));
                None
            }
        }
    }

    fn find_reference(&self, table: &Arc<str>, text: &str) -> Result<Uuid, String> {
        let rows = self.contents.table(table);
        if let Ok(id) = Uuid::try_parse(text) {
            let made_here = self.created.get(&id).is_some_and(|made| made == table);
            // A table that the replica does not keep is judged by the server.
            let exists = rows.is_none_or(|rows| rows.row(id).is_some()) && !self.deleted.contains(&id);
            if made_here || exists {
                return Ok(id);
            }
        }
        if let Some(id) = self.named.get(&(Arc::clone(table), Arc::from(text))) {
            return Ok(*id);
        }
        let named = rows.map_or(&[][..], |rows| rows.by_name(text));
        let named: Vec<_> = named.iter().filter(|id| !self.deleted.contains(id)).collect();
        match named.as_slice() {
            [one] => Ok(**one),
            [] => Err(format!("{} names no {{title}}: make it first", quoted(text))),
            several => Err(format!("{} names {} of {{title}}: use the id", quoted(text), several.len())),
        }
    }

    /// Single keys of a map: a value, or none to take the key away.
    fn read_keys(
        &mut self,
        resource: &Arc<Resource>,
        column: usize,
        value: &Json,
        row: &Arc<Row>,
        at: &str,
    ) -> KeyChanges {
        let schema = &resource.table.columns[column];
        let mut keys = Vec::new();
        let (mut gone, mut set) = (Map::new(), Map::new());
        for (key, value) in value.as_object().into_iter().flatten() {
            let atom = Atom::from(key.as_str());
            match (value, schema.key.kind) {
                // Also a key that the replica does not show: the database decides whether it is there.
                (Json::Null, AtomKind::String) => {
                    let possible = schema.key.allowed.is_empty() || schema.key.allowed.contains(&atom);
                    keys.extend(possible.then_some((atom, None)));
                }
                // What it holds now stands in for a value of the right type.
                (Json::Null, _) => {
                    let old = row.get(column).to_plain(schema);
                    gone.extend(old.get(key).map(|old| (key.clone(), old.clone())));
                }
                (value, _) => drop(set.insert(key.clone(), value.clone())),
            }
        }
        for (pairs, stays) in [(gone, false), (set, true)] {
            let whole = Json::Object(pairs);
            match Datum::from_plain(&whole, schema) {
                Ok(datum) => {
                    if stays {
                        self.check_value(resource, column, &datum, &whole, at);
                    }
                    let pairs = datum.pairs().iter();
                    keys.extend(pairs.map(|(key, value)| (key.clone(), stays.then(|| value.clone()))));
                }
                Err(error) => self.problems.add(at, code_of(&error), error.to_string()),
            }
        }
        keys
    }

    /// Checks of one column beyond its type.
    pub(super) fn check_value(
        &mut self,
        resource: &Resource,
        column: usize,
        value: &Datum,
        given: &Json,
        at: &str,
    ) {
        match resource.fields[column].check {
            None => {}
            Some(Check::OptionalMatch) if value.as_str() == Some("") => {}
            Some(Check::Match | Check::OptionalMatch) => self.check_match(value, at),
            Some(check) => {
                for (member, code, problem) in check.run(value) {
                    let at = match (given, member) {
                        (Json::Array(members), Some(member)) => {
                            let position = members.iter().position(|given| *given == *member);
                            position.map_or_else(|| at.to_owned(), |position| step(at, &position.to_string()))
                        }
                        (Json::Object(_), Some(member)) => step(at, &member),
                        _ => at.to_owned(),
                    };
                    self.problems.add(at, code, problem);
                }
            }
        }
    }

    fn check_match(&mut self, value: &Datum, at: &str) {
        let Some(text) = value.as_str() else { return };
        let names = RequestNames(self);
        let problem = expression::check(text, &names).err();
        if let Some(error) = problem {
            self.problems.add(at, error.code(), error.to_string());
        }
    }

    /// Rules of the row as it will be. The columns that they have read and that the request does not set, so that the
    /// transaction can make sure of them.
    pub(super) fn check_rules(
        &mut self,
        resource: &Resource,
        change: &Change,
        row: Option<&Arc<Row>>,
        pointer: &str,
    ) -> Vec<usize> {
        let mut merged: Vec<(usize, Datum)> = Vec::new();
        for (column, keys) in &change.keys {
            let Some(row) = row else { continue };
            let stays = |key: &Atom| keys.iter().all(|(changed, _)| changed != key);
            let old = row.get(*column).pairs().iter().filter(|(key, _)| stays(key)).cloned();
            let new = keys.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
            merged.push((*column, Datum::map(old.chain(new))));
        }
        let columns = &resource.table.columns;
        let mut lookup = Lookup::new();
        if let Some(row) = row {
            lookup.extend(columns.iter().zip(row.values()).map(|(column, value)| (&*column.name, value)));
        }
        let set = change
            .set
            .iter()
            .chain(&change.children)
            .chain(merged.iter().map(|(column, value)| (column, value)));
        let mut touched = Vec::new();
        for (column, value) in set {
            lookup.insert(&columns[*column].name, value);
            touched.push(*column);
        }
        let mut read = Vec::new();
        for rule in resource.rules {
            let positions = rule.columns().iter().filter_map(|column| Some(resource.table.column(column)?.0));
            let positions: Vec<_> = positions.collect();
            if row.is_some() && !positions.iter().any(|position| touched.contains(position)) {
                continue;
            }
            if let Some((column, code, problem)) = rule.check(&lookup) {
                self.problems.add(step(pointer, column), code, problem);
            }
            if row.is_some() && positions.len() > 1 {
                // A map of which single keys are set is read like one that is not set.
                read.extend(positions.into_iter().filter(|position| {
                    !change.set.contains_key(position)
                        && resource.fields[*position].role == Role::Configuration
                }));
            }
        }
        read
    }
}

/// Sets and groups that a match can name: those that are there, and those of the request.
struct RequestNames<'a, 'b>(&'a Planner<'b>);

impl Names for RequestNames<'_, '_> {
    fn has_address_set(&self, name: &str) -> bool {
        let group = name.strip_suffix("_ip4").or_else(|| name.strip_suffix("_ip6"));
        self.has("Address_Set", name) || group.is_some_and(|group| self.has_port_group(group))
    }

    fn has_port_group(&self, name: &str) -> bool {
        self.has("Port_Group", name)
    }
}

impl RequestNames<'_, '_> {
    fn has(&self, table: &str, name: &str) -> bool {
        let planner = self.0;
        let made = planner.named.contains_key(&(Arc::from(table), Arc::from(name)));
        // A table that the replica does not keep is not judged.
        made || planner
            .contents
            .table(table)
            .is_none_or(|rows| rows.by_name(name).iter().any(|id| !planner.deleted.contains(id)))
    }
}

fn code_of(error: &ValueError) -> &'static str {
    match error {
        ValueError::Type { .. } | ValueError::Shape { .. } => "wrong_type",
        ValueError::Range { .. } => "out_of_range",
        ValueError::Enumeration { .. } => "not_allowed",
        ValueError::Count { .. } => "wrong_count",
    }
}

/// A field that may be meant by a misspelled one.
fn closest<'resource>(key: &str, resource: &'resource Resource) -> Option<&'resource str> {
    if key.len() > 64 {
        return None;
    }
    let fields = resource.fields.iter().map(|field| &*field.name);
    let fields = fields.chain(resource.parents.iter().map(|parent| &*parent.field));
    let (distance, field) = fields.map(|field| (distance(key, field), field)).min()?;
    (distance <= 2 && distance < key.len()).then_some(field)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (position, left) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], position + 1);
        for (column, right) in b.iter().enumerate() {
            let change = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}
