//! What a request touches: whether two of them may stand in one transaction, and whether one can be to blame for what
//! another one sees.

use std::collections::HashSet;

use uuid::Uuid;

use crate::operation::{Condition, Function, Name, Operation};
use crate::value::{Atom, Datum};

/// Bytes that an operation takes beside its values: names, brackets.
const OPERATION_BYTES: usize = 96;
/// Bytes that an atom takes beside its text.
const ATOM_BYTES: usize = 8;
/// Bytes of `["uuid","..."]`.
const UUID_BYTES: usize = 48;

/// What one request touches.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    /// Rows that it makes or deletes, by uuid.
    owned: Vec<Uuid>,
    /// Rows that it names anywhere, those included.
    named: Vec<Uuid>,
    /// Tables that it names.
    tables: Vec<Name>,
    /// Tables of which it deletes rows that it does not name.
    swept: Vec<Name>,
    /// About as many bytes as it has on the wire.
    pub(super) bytes: usize,
}

/// What the requests of one transaction touch together.
#[derive(Debug, Default)]
pub(super) struct Company<'a> {
    owned: HashSet<Uuid>,
    named: HashSet<Uuid>,
    tables: HashSet<&'a str>,
    swept: HashSet<&'a str>,
}

impl Footprint {
    pub(super) fn of(operations: &[Operation]) -> Self {
        let mut footprint = Self::default();
        for operation in operations {
            footprint.add(operation);
        }
        for uuids in [&mut footprint.owned, &mut footprint.named] {
            uuids.sort_unstable();
            uuids.dedup();
        }
        for tables in [&mut footprint.tables, &mut footprint.swept] {
            tables.sort_unstable();
            tables.dedup();
        }
        footprint
    }

    fn add(&mut self, operation: &Operation) {
        self.bytes += OPERATION_BYTES;
        match operation {
            Operation::Insert { table, uuid, row } => {
                self.tables.push(table.clone());
                self.owned.push(*uuid);
                self.named.push(*uuid);
                self.bytes += UUID_BYTES;
                row.iter().for_each(|(column, value)| self.value(column, value));
            }
            Operation::Update { table, condition, row } => {
                self.condition(table, condition);
                row.iter().for_each(|(column, value)| self.value(column, value));
            }
            Operation::Mutate { table, condition, mutations } => {
                self.condition(table, condition);
                mutations.iter().for_each(|mutation| self.value(&mutation.column, &mutation.value));
            }
            Operation::Delete { table, condition } => {
                self.condition(table, condition);
                match row_of(condition) {
                    Some(uuid) => self.owned.push(uuid),
                    None => self.swept.push(table.clone()),
                }
            }
            Operation::Select { table, condition, .. } => self.condition(table, condition),
            Operation::Wait { table, condition, rows, .. } => {
                self.condition(table, condition);
                rows.iter().flatten().for_each(|(column, value)| self.value(column, value));
            }
            Operation::Comment(comment) => self.bytes += comment.len(),
        }
    }

    fn condition(&mut self, table: &Name, condition: &Condition) {
        self.tables.push(table.clone());
        condition.0.iter().for_each(|clause| self.value(&clause.column, &clause.value));
    }

    fn value(&mut self, column: &Name, value: &Datum) {
        self.bytes += column.len() + ATOM_BYTES;
        let pairs = value.pairs().iter().flat_map(|(key, value)| [key, value]);
        for atom in value.atoms().iter().chain(pairs) {
            self.bytes += match atom {
                Atom::Uuid(uuid) => {
                    self.named.push(*uuid);
                    UUID_BYTES
                }
                Atom::String(text) => ATOM_BYTES + text.len(),
                Atom::Integer(_) | Atom::Real(_) | Atom::Boolean(_) => 2 * ATOM_BYTES,
            };
        }
    }

    /// Whether the request names this row.
    pub(super) fn names(&self, uuid: Uuid) -> bool {
        self.named.binary_search(&uuid).is_ok()
    }
}

impl<'a> Company<'a> {
    pub(super) fn add(&mut self, footprint: &'a Footprint) {
        self.owned.extend(&footprint.owned);
        self.named.extend(&footprint.named);
        self.tables.extend(footprint.tables.iter().map(|table| &**table));
        self.swept.extend(footprint.swept.iter().map(|table| &**table));
    }

    /// Whether the request may join. A row that one of them makes or deletes is named by no other: only the commit checks
    /// references, drops rows that nobody refers to and frees the uuids of deleted rows. Two such requests could have
    /// a result together that they have in no order one after the other.
    pub(super) fn takes(&self, footprint: &Footprint) -> bool {
        let swept = |table: &Name| self.swept.contains(&**table);
        let touched = |table: &Name| self.tables.contains(&**table);
        !footprint.owned.iter().any(|uuid| self.named.contains(uuid))
            && !footprint.named.iter().any(|uuid| self.owned.contains(uuid))
            && !footprint.tables.iter().any(swept)
            && !footprint.swept.iter().any(touched)
    }
}

/// Whether any of `earlier` may change what one of `later` finds in its tables. (What only a commit checks is another
/// matter.)
pub(super) fn may_influence<'a>(
    earlier: impl IntoIterator<Item = &'a Operation>,
    later: &'a [Operation],
) -> bool {
    let looks: Vec<_> = later.iter().filter_map(look).collect();
    earlier.into_iter().filter(|operation| writes(operation)).filter_map(look).any(|(table, row)| {
        let meets = |other: Option<Uuid>| row.is_none() || other.is_none() || row == other;
        looks.iter().any(|(other_table, other)| *other_table == table && meets(*other))
    })
}

fn writes(operation: &Operation) -> bool {
    match operation {
        Operation::Insert { .. }
        | Operation::Update { .. }
        | Operation::Mutate { .. }
        | Operation::Delete { .. } => true,
        Operation::Select { .. } | Operation::Wait { .. } | Operation::Comment(_) => false,
    }
}

/// The table that an operation looks into, and the row if it is only one.
fn look(operation: &Operation) -> Option<(&str, Option<Uuid>)> {
    match operation {
        Operation::Insert { table, uuid, .. } => Some((table, Some(*uuid))),
        Operation::Update { table, condition, .. }
        | Operation::Mutate { table, condition, .. }
        | Operation::Delete { table, condition }
        | Operation::Select { table, condition, .. }
        | Operation::Wait { table, condition, .. } => Some((table, row_of(condition))),
        Operation::Comment(_) => None,
    }
}

/// The one row that can fulfil this condition, if it names one.
fn row_of(condition: &Condition) -> Option<Uuid> {
    condition.0.iter().find_map(|clause| match (&*clause.column, clause.function, &clause.value) {
        ("_uuid", Function::Equal, Datum::Atom(Atom::Uuid(uuid))) => Some(*uuid),
        _ => None,
    })
}
