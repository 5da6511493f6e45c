//! What a plan relies on, put into the transaction or judged before it: that names are free, that rows are as they were read,
//! that what is needed stays and what is needed elsewhere is not deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::contents::{Contents, Row};
use crate::operation::{Condition, Function, Operation, Until};
use crate::value::{Atom, Datum};

use super::catalogue::{Catalogue, Parent, ROWS_NAMED_MAX, Resource, Role, named};
use super::plan::{IfMatch, Outcome, What};
use super::planner::Planner;
use super::refusal::{Refusal, RefusalKind, quoted, step};

/// Tables whose rows need names that none of the other has: ovn-nb(5), Logical_Switch_Port, name.
const PORT_TABLES: [(&str, &str); 2] =
    [("Logical_Switch_Port", "Logical_Router_Port"), ("Logical_Router_Port", "Logical_Switch_Port")];

impl Planner<'_> {
    /// The columns that a step has relied on: all of the configuration with an ETag, else those that rules have read.
    pub(super) fn read_for(&self, resource: &Resource, if_match: &IfMatch, read: &[usize]) -> Vec<usize> {
        match if_match {
            IfMatch::Of(_) => {
                let mut columns = resource.configuration().to_vec();
                columns.extend(read.iter().filter(|column| !resource.configuration().contains(column)));
                columns
            }
            IfMatch::None | IfMatch::Any => read.to_vec(),
        }
    }

    pub(super) fn wait_as_read(&mut self, resource: &Resource, row: &Row, columns: &[usize], subject: usize) {
        let table = Arc::clone(&resource.table.name);
        let operation = if columns.is_empty() {
            Operation::wait_present(table, row.uuid, Condition::uuid(row.uuid))
        } else {
            let name = |column: &usize| Arc::clone(&resource.table.columns[*column].name);
            Operation::Wait {
                table,
                condition: Condition::uuid(row.uuid),
                columns: columns.iter().map(name).collect(),
                until: Until::Equal,
                rows: vec![columns.iter().map(|column| (name(column), row.get(*column).clone())).collect()],
            }
        };
        self.push(operation, subject, What::RowAsRead);
    }

    /// Makes sure that a row is still there at the commit.
    pub(super) fn need(&mut self, table: &Arc<str>, id: Uuid, subject: usize) {
        if self.created.contains_key(&id) || !self.needed.insert(id) {
            return;
        }
        let operation = Operation::wait_present(Arc::clone(table), id, Condition::uuid(id));
        self.push(operation, subject, What::Needed(id));
    }

    /// The database drops weak references to rows that do not exist without a word: so the rows must be there.
    pub(super) fn need_weakly(
        &mut self,
        resource: &Resource,
        column: usize,
        value: &Datum,
        old: &Datum,
        subject: usize,
    ) {
        let base = &resource.table.columns[column].key;
        let Some(table) = base.ref_table.as_ref().filter(|_| !base.ref_strong).cloned() else { return };
        let new = value.atoms().iter().filter(|atom| old.atoms().binary_search(atom).is_err());
        for id in new.filter_map(Atom::as_uuid).collect::<Vec<_>>() {
            if self.contents.row(&table, id).is_some() {
                self.need(&table, id, subject);
            }
        }
    }

    /// Names are checked against the replica and against the request; where the schema does not keep them apart, the
    /// transaction does.
    pub(super) fn claim_name(
        &mut self,
        resource: &Arc<Resource>,
        row: Option<&Row>,
        id: Uuid,
        set: &BTreeMap<usize, Datum>,
        subject: usize,
        pointer: &str,
    ) {
        let Some(column) = resource.name_column() else { return };
        let Some(Datum::Atom(Atom::String(name))) = set.get(&column) else { return };
        if row.is_some_and(|row| row.get(column).as_str() == Some(name)) {
            return;
        }
        self.renamed.extend(row.map(|row| row.uuid));
        let table = &resource.table.name;
        let pointer = step(pointer, "name");
        if resource.reserves(name) {
            self.problems.add(
                pointer,
                "reserved_name",
                "is reserved: names that start with ovncp_ are ovncp's own",
            );
            return;
        }
        let in_schema = resource.table.indexes.iter().any(|index| *index == [column]);
        if !in_schema && !resource.unique_name || name.is_empty() {
            return;
        }
        if let Some(other) = self.named.insert((Arc::clone(table), Arc::clone(name)), id) {
            let problem = format!("is given to two rows of this request ({other} too)");
            self.problems.add(pointer, "duplicate_name", problem);
            return;
        }
        // OVN knows ports of switches and of routers by their names alone, whatever the schema says.
        let twin = PORT_TABLES.iter().find(|(one, _)| *one == &**table).map(|(_, other)| *other);
        let twins =
            twin.and_then(|twin| self.contents.table(twin)).map_or(&[][..], |rows| rows.by_name(name));
        let twins = twins.iter().filter(|twin| !self.deleted.contains(twin) && !self.renamed.contains(twin));
        let twin_here = twin.and_then(|twin| self.named.get(&(Arc::from(twin), Arc::clone(name))));
        if let (Some(twin), Some(other)) = (twin, twins.chain(twin_here).next()) {
            let detail =
                format!("is the name of a row of {twin}: ports need names of their own: {}", quoted(name));
            let refusal = Refusal::new(RefusalKind::Conflict, "duplicate_name", detail);
            let rows = vec![named(self.contents, twin, *other)];
            self.problems.refuse(refusal.with_rows(rows), pointer);
            return;
        }
        let rows = self.contents.table(table).map_or(&[][..], |rows| rows.by_name(name));
        let others: Vec<_> = rows
            .iter()
            .filter(|other| !self.deleted.contains(other) && !self.renamed.contains(other) && **other != id)
            .map(|other| named(self.contents, table, *other))
            .collect();
        if !others.is_empty() {
            let detail = format!("is the name of another {}: {}", resource.title, quoted(name));
            let refusal = Refusal::new(RefusalKind::Conflict, "duplicate_name", detail).with_rows(others);
            self.problems.refuse(refusal, pointer);
        } else if !in_schema {
            let condition = Condition::equal("name", &**name).and("_uuid", Function::NotEqual, id);
            let (table, columns) = (Arc::clone(table), vec!["_uuid".into()]);
            let free = Operation::Wait { table, condition, columns, until: Until::Equal, rows: Vec::new() };
            self.push(free, subject, What::NameFree);
        }
    }

    /// Rows that others need may not go, unless the others go too.
    pub(super) fn check_deleted(&mut self) {
        let deleted: Vec<_> =
            self.plan.answers.iter().filter(|answer| answer.outcome == Outcome::Deleted).cloned().collect();
        for answer in deleted {
            let resource = &answer.resource;
            let in_the_way = self.contents.referrers(answer.id).iter().filter(|referrer| {
                let holds =
                    |parent: &Parent| parent.table == referrer.table && parent.column == referrer.column;
                !resource.parents.iter().any(holds) && !self.goes(referrer.uuid)
            });
            let rows: Vec<_> = in_the_way
                .take(ROWS_NAMED_MAX)
                .map(|referrer| {
                    let mut row = named(self.contents, &referrer.table, referrer.uuid);
                    row.column = Some(referrer.column.to_string());
                    row
                })
                .collect();
            if let Some(first) = rows.first() {
                let detail = format!(
                    "the {} is in use by {first} (column {}){}",
                    resource.title,
                    first.column.as_deref().unwrap_or_default(),
                    if rows.len() > 1 { " and others" } else { "" }
                );
                let refusal = Refusal::new(RefusalKind::Conflict, "in_use", detail).with_rows(rows);
                let subject = self.plan.subjects.iter().find(|subject| subject.id == answer.id);
                let pointer = subject.map_or_else(String::new, |subject| subject.pointer.clone());
                self.problems.refuse(refusal, pointer);
            }
        }
    }

    /// Whether a row goes with this request: deleted, or held by nothing that stays.
    pub(super) fn goes(&self, id: Uuid) -> bool {
        if self.deleted.contains(&id) {
            return true;
        }
        let holders = self.contents.referrers(id);
        !holders.is_empty() && holders.iter().all(|holder| self.deleted.contains(&holder.uuid))
    }
}

/// Rows that only this one holds, counted by resource.
pub(super) fn takes_along(
    contents: &Contents,
    catalogue: &Catalogue,
    resource: &Resource,
    row: &Row,
) -> Vec<(Arc<str>, usize)> {
    let mut found = BTreeMap::new();
    count_children(contents, catalogue, resource, row, &mut found);
    found.into_iter().collect()
}

fn count_children(
    contents: &Contents,
    catalogue: &Catalogue,
    resource: &Resource,
    row: &Row,
    found: &mut BTreeMap<Arc<str>, usize>,
) {
    for (position, field) in resource.fields.iter().enumerate() {
        let target = resource.table.columns[position].key.ref_table.as_ref();
        let (Role::Children, Some(target)) = (field.role, target) else { continue };
        let Some(child) = catalogue.of_table(target).filter(|child| !child.table.is_root) else { continue };
        for id in row.get(position).atoms().iter().filter_map(Atom::as_uuid) {
            let alone = contents.referrers(id).iter().all(|referrer| referrer.uuid == row.uuid);
            if let Some(held) = contents.row(target, id).filter(|_| alone) {
                *found.entry(Arc::clone(&child.path)).or_default() += 1;
                count_children(contents, catalogue, child, held, found);
            }
        }
    }
}
