//! From requests to one transaction.
//!
//! Every step is judged against the replica and against the steps before it, and what it relies on is put into the
//! transaction as a `wait`: that a parent is still there, that nobody has the name, that the row is what `If-Match` and the
//! checks have seen. So a replica that is behind can make a request fail, never make it do something else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value as Json;
use uuid::Uuid;

use crate::contents::{Contents, Row};
use crate::operation::{Columns, Condition, Mutation, Mutator, Operation};
use crate::value::{Atom, Datum};

use super::catalogue::{Catalogue, Parent, Resource, Role};
use super::guards::takes_along;
use super::plan::{Answer, IfMatch, Meaning, Outcome, Plan, Subject, What, stale};
use super::refusal::{Problems, Refusal, RefusalKind, quoted, step};
use super::view::etag;

/// Most steps (rows made, changed or deleted, those within others counted) of one transaction.
pub const STEPS_MAX: usize = 10_000;

/// Most operations that one transaction becomes. More than steps: each brings its waits and its parent.
pub const OPERATIONS_MAX: usize = 60_000;

/// Table of exactly one row, which the network cannot be without.
const ONLY_ROW: &str = "NB_Global";

/// Rows by the table, column and row that hold them, and the subject that was first about one of them.
type Held = BTreeMap<(Arc<str>, Arc<str>, Uuid), (usize, Vec<Uuid>)>;

/// Collects the steps of one request.
pub struct Planner<'a> {
    pub(super) contents: &'a Contents,
    pub(super) catalogue: &'a Catalogue,
    pub(super) fresh: &'a mut dyn FnMut() -> Uuid,
    pub(super) problems: Problems,
    pub(super) plan: Plan,
    /// Place of the present step in the body of the request.
    pub(super) pointer: String,
    /// Rows that the request makes, and their tables.
    pub(super) created: HashMap<Uuid, Arc<str>>,
    /// Rows that the request deletes.
    pub(super) deleted: HashSet<Uuid>,
    /// Rows that it changes.
    changed: HashSet<Uuid>,
    /// Rows that get new children.
    extended: HashSet<Uuid>,
    /// Names that the request gives, by table.
    pub(super) named: HashMap<(Arc<str>, Arc<str>), Uuid>,
    /// Rows whose old names it takes away.
    pub(super) renamed: HashSet<Uuid>,
    /// Rows of this request by the name that its steps use.
    pub(super) references: HashMap<String, Referenced>,
    /// Rows that are needed and that a `wait` looks after already.
    pub(super) needed: HashSet<Uuid>,
    /// New children by what holds them: one operation for all of a column, at the end.
    attached: Held,
    /// Children that go, likewise.
    detached: Held,
}

/// A row that another step of the request makes or means.
#[derive(Clone, Debug)]
pub(super) struct Referenced {
    pub(super) table: Arc<str>,
    pub(super) id: Uuid,
}

impl std::fmt::Debug for Planner<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Planner").field("operations", &self.plan.operations.len()).finish_non_exhaustive()
    }
}

impl<'a> Planner<'a> {
    /// For one request. `fresh` gives the uuids of new rows.
    #[must_use]
    pub fn new(contents: &'a Contents, catalogue: &'a Catalogue, fresh: &'a mut dyn FnMut() -> Uuid) -> Self {
        Self {
            contents,
            catalogue,
            fresh,
            problems: Problems::default(),
            plan: Plan::default(),
            pointer: String::new(),
            created: HashMap::new(),
            deleted: HashSet::new(),
            changed: HashSet::new(),
            extended: HashSet::new(),
            named: HashMap::new(),
            renamed: HashSet::new(),
            references: HashMap::new(),
            needed: HashSet::new(),
            attached: BTreeMap::new(),
            detached: BTreeMap::new(),
        }
    }

    /// Where the bodies of the next steps stand in the body of the request, as a JSON pointer.
    pub fn within(&mut self, pointer: impl Into<String>) {
        self.pointer = pointer.into();
    }

    /// Notes what is wrong with a step that could not even be tried.
    pub fn refuse(&mut self, refusal: Refusal) {
        let pointer = self.pointer.clone();
        self.problems.refuse(refusal, pointer);
    }

    /// A new row under a parent named by the path, or by its field in the body. The row's uuid, unless it was refused.
    pub fn create(
        &mut self,
        resource: &Arc<Resource>,
        parent: Option<(&Parent, &str)>,
        body: &Json,
    ) -> Option<Uuid> {
        let before = self.problems.count();
        let pointer = self.pointer.clone();
        self.keep_only_row(resource)?;
        let body = self.object(body, &pointer)?;
        let holder = self.holder(resource, parent, body);
        let subject = self.plan.subjects.len();
        let id = self.insert(resource, body, &pointer)?;
        if !resource.parents.is_empty() && holder.is_none() && self.problems.count() == before {
            let fields: Vec<_> = resource.parents.iter().map(|parent| &*parent.field).collect();
            let problem = format!("must name what holds the {}: {}", resource.title, fields.join(" or "));
            self.problems.add(step(&pointer, fields[0]), "parent_required", problem);
        }
        let (parent, holder) = match holder {
            Some(found) => found,
            None => return self.answered(resource, id, Outcome::Created, before),
        };
        self.extended.insert(holder);
        self.need(&parent.table, holder, subject);
        let held = (Arc::clone(&parent.table), Arc::clone(&parent.column), holder);
        self.attached.entry(held).or_insert_with(|| (subject, Vec::new())).1.push(id);
        self.answered(resource, id, Outcome::Created, before)
    }

    /// Sets the whole configuration of a row; what the body lacks gets its default. Rows that it holds stay unless the
    /// body names them.
    pub fn replace(
        &mut self,
        resource: &Arc<Resource>,
        id: &str,
        body: &Json,
        if_match: &IfMatch,
    ) -> Option<Uuid> {
        let before = self.problems.count();
        let pointer = self.pointer.clone();
        let row = self.existing(resource, id, if_match)?;
        let body = self.object(body, &pointer)?;
        let subject = self.subject(resource, row.uuid, pointer.clone(), if_match.clone());
        let mut change = self.read_body(resource, body, &pointer, Some(&row), true);
        self.missing(resource, body, &pointer);
        for (position, field) in resource.fields.iter().enumerate() {
            if field.role == Role::Configuration && !change.set.contains_key(&position) {
                change.set.insert(position, resource.table.columns[position].default_value());
            }
        }
        self.write(resource, &row, change, subject, if_match);
        self.answered(resource, row.uuid, Outcome::Replaced, before)
    }

    /// JSON merge patch (RFC 7396): what the body lacks stays, null takes away, and in maps so does every key.
    pub fn patch(
        &mut self,
        resource: &Arc<Resource>,
        id: &str,
        body: &Json,
        if_match: &IfMatch,
    ) -> Option<Uuid> {
        let before = self.problems.count();
        let pointer = self.pointer.clone();
        let row = self.existing(resource, id, if_match)?;
        let body = self.object(body, &pointer)?;
        let subject = self.subject(resource, row.uuid, pointer.clone(), if_match.clone());
        let change = self.read_body(resource, body, &pointer, Some(&row), false);
        self.write(resource, &row, change, subject, if_match);
        self.answered(resource, row.uuid, Outcome::Patched, before)
    }

    /// Deletes a row, and with it the rows that nothing else holds. Refused while something else needs it.
    pub fn delete(&mut self, resource: &Arc<Resource>, id: &str, if_match: &IfMatch) -> Option<Uuid> {
        let before = self.problems.count();
        self.keep_only_row(resource)?;
        let row = self.existing(resource, id, if_match)?;
        let subject = self.subject(resource, row.uuid, self.pointer.clone(), if_match.clone());
        if self.extended.contains(&row.uuid) {
            let problem = format!("deletes the {} that another step puts something into", resource.title);
            self.problems.add(self.pointer.clone(), "contradiction", problem);
        }
        self.deleted.insert(row.uuid);
        let columns = self.read_for(resource, if_match, &[]);
        self.wait_as_read(resource, &row, &columns, subject);
        for referrer in self.contents.referrers(row.uuid).to_vec() {
            if self.deleted.contains(&referrer.uuid) {
                continue;
            }
            let holds = |parent: &Parent| parent.table == referrer.table && parent.column == referrer.column;
            if resource.parents.iter().any(holds) {
                let held = (Arc::clone(&referrer.table), Arc::clone(&referrer.column), referrer.uuid);
                self.detached.entry(held).or_insert_with(|| (subject, Vec::new())).1.push(row.uuid);
            }
        }
        let delete = Operation::Delete {
            table: Arc::clone(&resource.table.name),
            condition: Condition::uuid(row.uuid),
        };
        self.push(delete, subject, What::ChangeOne);
        self.answered(resource, row.uuid, Outcome::Deleted, before)?;
        if let Some(answer) = self.plan.answers.last_mut() {
            answer.takes_along = takes_along(self.contents, self.catalogue, resource, &row);
        }
        Some(row.uuid)
    }

    /// Puts members into a set, whoever else does so at the same time.
    pub fn add_members(
        &mut self,
        resource: &Arc<Resource>,
        id: &str,
        column: usize,
        members: &Json,
    ) -> Option<Uuid> {
        self.change_members(resource, id, column, members, Mutator::Insert)
    }

    /// Takes members out of a set, if they are in it.
    pub fn remove_members(
        &mut self,
        resource: &Arc<Resource>,
        id: &str,
        column: usize,
        members: &Json,
    ) -> Option<Uuid> {
        self.change_members(resource, id, column, members, Mutator::Delete)
    }

    fn change_members(
        &mut self,
        resource: &Arc<Resource>,
        id: &str,
        column: usize,
        members: &Json,
        mutator: Mutator,
    ) -> Option<Uuid> {
        let before = self.problems.count();
        let pointer = self.pointer.clone();
        let row = self.existing(resource, id, &IfMatch::None)?;
        let subject = self.subject(resource, row.uuid, pointer.clone(), IfMatch::None);
        if !members.is_array() || resource.table.columns[column].is_map() {
            self.problems.add(pointer, "wrong_type", "must be an array");
            return None;
        }
        // The rules of the whole set hold for what it will be.
        let given = self.read_members(resource, column, members, &pointer)?;
        let old = row.get(column);
        let new = match mutator {
            Mutator::Insert => Datum::set(old.atoms().iter().chain(given.atoms()).cloned()),
            _ => Datum::set(old.atoms().iter().filter(|atom| !given.atoms().contains(atom)).cloned()),
        };
        if mutator == Mutator::Insert {
            self.check_value(resource, column, &new, members, &pointer);
        }
        let bounds = &resource.table.columns[column];
        if new.len() < bounds.min || new.len() > bounds.max {
            let problem = format!("would have {} members, not {} to {}", new.len(), bounds.min, bounds.max);
            self.problems.add(pointer, "wrong_count", problem);
        }
        self.wait_as_read(resource, &row, &[], subject);
        self.need_weakly(resource, column, &given, old, subject);
        let mutations = vec![mutation(&bounds.name, mutator, given)];
        let (table, condition) = (Arc::clone(&resource.table.name), Condition::uuid(row.uuid));
        self.push(Operation::Mutate { table, condition, mutations }, subject, What::ChangeOne);
        self.answered(resource, row.uuid, Outcome::Patched, before)
    }

    /// The plan, or everything that is wrong with the request.
    pub fn finish(mut self) -> Result<Plan, Refusal> {
        self.check_deleted();
        self.attach_and_detach();
        let operations = self.plan.operations.len();
        self.problems.finish()?;
        if operations > OPERATIONS_MAX {
            return Err(Refusal::too_large("the number of operations of a transaction", OPERATIONS_MAX));
        }
        if self.plan.subjects.len() > STEPS_MAX {
            return Err(Refusal::too_large("the number of rows that a transaction changes", STEPS_MAX));
        }
        Ok(self.plan)
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.count() == 0
    }

    /// Another step may say `{"ref": name}` for the row of the last one.
    pub fn refer(&mut self, name: &str, resource: &Resource, id: Uuid) {
        let referenced = Referenced { table: Arc::clone(&resource.table.name), id };
        self.references.insert(name.to_owned(), referenced);
        if let Some(answer) = self.plan.answers.last_mut().filter(|answer| answer.id == id) {
            answer.reference = Some(name.to_owned());
        }
    }

    fn answered(
        &mut self,
        resource: &Arc<Resource>,
        id: Uuid,
        outcome: Outcome,
        before: usize,
    ) -> Option<Uuid> {
        if self.problems.count() > before {
            return None;
        }
        let resource = Arc::clone(resource);
        self.plan.answers.push(Answer { resource, id, outcome, reference: None, takes_along: Vec::new() });
        Some(id)
    }

    fn keep_only_row(&mut self, resource: &Resource) -> Option<()> {
        if &*resource.table.name != ONLY_ROW {
            return Some(());
        }
        let detail = format!("{ONLY_ROW} has exactly one row: change it");
        self.refuse(Refusal::new(RefusalKind::Conflict, "only_row", detail));
        None
    }

    fn object<'body>(
        &mut self,
        body: &'body Json,
        pointer: &str,
    ) -> Option<&'body serde_json::Map<String, Json>> {
        if body.as_object().is_none() {
            self.problems.add(pointer, "wrong_type", "must be an object");
        }
        body.as_object()
    }

    /// The row that a step is about, not touched by another step.
    fn existing(&mut self, resource: &Arc<Resource>, id: &str, if_match: &IfMatch) -> Option<Arc<Row>> {
        let row = match resource.find(self.contents, id) {
            Ok(row) => row,
            Err(refusal) => {
                self.refuse(refusal);
                return None;
            }
        };
        if self.deleted.contains(&row.uuid) || !self.changed.insert(row.uuid) {
            let problem = format!(
                "changes {} {} that another step changes too: put it into one",
                resource.title,
                quoted(id)
            );
            self.problems.add(self.pointer.clone(), "changed_twice", problem);
            return None;
        }
        let current = etag(resource, &row);
        if !if_match.takes(&current) {
            self.refuse(stale(resource, current));
            return None;
        }
        Some(row)
    }

    pub(super) fn subject(
        &mut self,
        resource: &Arc<Resource>,
        id: Uuid,
        pointer: String,
        if_match: IfMatch,
    ) -> usize {
        self.plan.subjects.push(Subject { resource: Arc::clone(resource), id, pointer, if_match });
        self.plan.subjects.len() - 1
    }

    pub(super) fn push(&mut self, operation: Operation, subject: usize, what: What) {
        self.plan.operations.push(operation);
        self.plan.meanings.push(Meaning { subject, what });
    }

    /// Puts new rows where they are held, and takes deleted ones out.
    fn attach_and_detach(&mut self) {
        let attached = std::mem::take(&mut self.attached);
        let attached = attached.into_iter().map(|held| (held, Mutator::Insert, What::ChangeOne));
        let detached = std::mem::take(&mut self.detached);
        // Whoever held a deleted row may be gone by then: that is no reason to fail.
        let detached = detached.into_iter().map(|held| (held, Mutator::Delete, What::Detach));
        for (((table, column, holder), (subject, rows)), mutator, what) in attached.chain(detached) {
            if self.deleted.contains(&holder) {
                continue;
            }
            let members = Datum::set(rows.into_iter().map(Atom::from));
            let mutations = vec![mutation(&column, mutator, members)];
            let condition = Condition::uuid(holder);
            self.push(Operation::Mutate { table, condition, mutations }, subject, what);
        }
    }

    /// A new row, with the rows that stand within it.
    pub(super) fn insert(
        &mut self,
        resource: &Arc<Resource>,
        body: &serde_json::Map<String, Json>,
        pointer: &str,
    ) -> Option<Uuid> {
        if self.plan.subjects.len() >= STEPS_MAX {
            self.problems.refuse(
                Refusal::too_large("the number of rows that a transaction changes", STEPS_MAX),
                pointer,
            );
            return None;
        }
        let id = (self.fresh)();
        let subject = self.subject(resource, id, pointer.to_owned(), IfMatch::None);
        let change = self.read_body(resource, body, pointer, None, true);
        self.missing(resource, body, pointer);
        self.created.insert(id, Arc::clone(&resource.table.name));
        self.claim_name(resource, None, id, &change.set, subject, pointer);
        for (column, value) in &change.set {
            self.need_weakly(resource, *column, value, &Datum::default(), subject);
        }
        self.check_rules(resource, &change, None, pointer);
        let columns = &resource.table.columns;
        let row =
            change.set.into_iter().map(|(position, value)| (Arc::clone(&columns[position].name), value));
        let insert =
            Operation::Insert { table: Arc::clone(&resource.table.name), uuid: id, row: row.collect() };
        self.push(insert, subject, What::Insert);
        Some(id)
    }

    fn missing(&mut self, resource: &Resource, body: &serde_json::Map<String, Json>, pointer: &str) {
        for field in
            resource.fields.iter().filter(|field| field.required && field.role == Role::Configuration)
        {
            if !body.contains_key(&*field.name) {
                let problem = format!("is required for a {}", resource.title);
                self.problems.add(step(pointer, &field.name), "missing", problem);
            }
        }
        for (position, field) in resource.fields.iter().enumerate() {
            let column = &resource.table.columns[position];
            if field.role == Role::Children && column.min > 0 && !body.contains_key(&*field.name) {
                let problem = format!("is required: give at least {} as objects", column.min);
                self.problems.add(step(pointer, &field.name), "missing", problem);
            }
        }
    }

    /// Writes what a PUT or PATCH says.
    fn write(
        &mut self,
        resource: &Arc<Resource>,
        row: &Arc<Row>,
        change: Change,
        subject: usize,
        if_match: &IfMatch,
    ) {
        let pointer = self.plan.subjects[subject].pointer.clone();
        let mut read = self.check_rules(resource, &change, Some(row), &pointer);
        for column in change.children.keys() {
            read.push(*column);
        }
        if let Some(name) = resource.name_column()
            && change.set.get(&name) == Some(row.get(name))
            && resource.unique_name
        {
            // Keeps its name. Should it have lost it meanwhile, somebody else may have it.
            read.push(name);
        }
        read.sort_unstable();
        read.dedup();
        let columns = self.read_for(resource, if_match, &read);
        self.wait_as_read(resource, row, &columns, subject);
        self.claim_name(resource, Some(row), row.uuid, &change.set, subject, &pointer);
        for (column, value) in &change.set {
            self.need_weakly(resource, *column, value, row.get(*column), subject);
        }
        let names = &resource.table.columns;
        let (table, condition) = (Arc::clone(&resource.table.name), Condition::uuid(row.uuid));
        let set: Columns = change
            .set
            .into_iter()
            .filter(|(position, _)| names[*position].mutable)
            .map(|(position, value)| (Arc::clone(&names[position].name), value))
            .collect();
        if !set.is_empty() {
            let update =
                Operation::Update { table: Arc::clone(&table), condition: condition.clone(), row: set };
            self.push(update, subject, What::ChangeOne);
        }
        let mutations = mutations_of(resource, row, change.keys, change.children);
        if !mutations.is_empty() {
            self.push(Operation::Mutate { table, condition, mutations }, subject, What::ChangeOne);
        }
    }
}

/// Keys of a map: their new value, or none when they go.
pub(super) type KeyChanges = Vec<(Atom, Option<Atom>)>;

/// What a body says about a row.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Columns that get a value.
    pub(super) set: BTreeMap<usize, Datum>,
    /// Single keys of maps: their new value, or none when they go.
    pub(super) keys: BTreeMap<usize, KeyChanges>,
    /// Columns that hold children: all of them.
    pub(super) children: BTreeMap<usize, Datum>,
}

pub(super) fn mutation(column: &Arc<str>, mutator: Mutator, value: Datum) -> Mutation {
    Mutation { column: Arc::clone(column), mutator, value }
}

/// Changes of single keys of maps, and of what a row holds.
fn mutations_of(
    resource: &Resource,
    row: &Row,
    keys: BTreeMap<usize, KeyChanges>,
    children: BTreeMap<usize, Datum>,
) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for (position, keys) in keys {
        let column = &resource.table.columns[position].name;
        let touched = Datum::set(keys.iter().map(|(key, _)| key.clone()));
        mutations.push(mutation(column, Mutator::Delete, touched));
        let pairs: Vec<_> = keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        if !pairs.is_empty() {
            mutations.push(mutation(column, Mutator::Insert, Datum::map(pairs)));
        }
    }
    for (position, new) in children {
        let (old, column) = (row.get(position), &resource.table.columns[position].name);
        let gone = old.atoms().iter().filter(|atom| new.atoms().binary_search(atom).is_err()).cloned();
        let come = new.atoms().iter().filter(|atom| old.atoms().binary_search(atom).is_err()).cloned();
        let (gone, come) = (Datum::set(gone), Datum::set(come));
        for (mutator, members) in [(Mutator::Insert, come), (Mutator::Delete, gone)] {
            if !members.is_empty() {
                mutations.push(mutation(column, mutator, members));
            }
        }
    }
    mutations
}
