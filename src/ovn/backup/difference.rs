//! What a restore changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{Fitted, GLOBAL, Snapshot, is_kept};
use crate::contents::Row;
use crate::operation::{Columns, Condition, Name, Operation};
use crate::schema::TableSchema;
use crate::value::Datum;

/// Most operations of a restore. All of it is one transaction, which the server takes whole.
pub const OPERATIONS_MAX: usize = 500_000;

/// A restore that changes more rows than one transaction may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the restore changes {found} rows; at most {OPERATIONS_MAX} fit into one transaction")]
pub struct TooLarge {
    /// How many.
    pub found: usize,
}

/// A column with another value.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnChange {
    /// Which.
    pub column: Name,
    /// In the database.
    pub before: Datum,
    /// In the backup.
    pub after: Datum,
}

/// What happens to one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is made, with these values and otherwise defaults.
    Create {
        /// Its table.
        table: Arc<TableSchema>,
        /// Its uuid, as it was.
        uuid: Uuid,
        /// Its values.
        row: Columns,
    },
    /// It gets other values.
    Update {
        /// Its table.
        table: Arc<TableSchema>,
        /// The row.
        uuid: Uuid,
        /// In these columns.
        columns: Vec<ColumnChange>,
    },
    /// It goes.
    Delete {
        /// Its table.
        table: Arc<TableSchema>,
        /// The row.
        uuid: Uuid,
        /// As it is.
        row: Arc<Row>,
    },
}

impl Change {
    /// Its table.
    #[must_use]
    pub fn table(&self) -> &Arc<TableSchema> {
        match self {
            Self::Create { table, .. } | Self::Update { table, .. } | Self::Delete { table, .. } => table,
        }
    }

    /// The row.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::Create { uuid, .. } | Self::Update { uuid, .. } | Self::Delete { uuid, .. } => *uuid,
        }
    }

    fn operation(&self) -> Operation {
        let name = Arc::clone(&self.table().name);
        match self {
            Self::Create { uuid, row, .. } => {
                Operation::Insert { table: name, uuid: *uuid, row: row.clone() }
            }
            Self::Update { uuid, columns, .. } => {
                let row = columns.iter().map(|change| (Arc::clone(&change.column), change.after.clone()));
                Operation::Update { table: name, condition: Condition::uuid(*uuid), row: row.collect() }
            }
            Self::Delete { uuid, .. } => Operation::Delete { table: name, condition: Condition::uuid(*uuid) },
        }
    }
}

/// Everything that a restore changes, by table and uuid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Row by row.
    pub changes: Vec<Change>,
}

impl Difference {
    /// How many rows are made, changed and deleted.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        self.changes.iter().fold((0, 0, 0), |(created, updated, deleted), change| match change {
            Change::Create { .. } => (created + 1, updated, deleted),
            Change::Update { .. } => (created, updated + 1, deleted),
            Change::Delete { .. } => (created, updated, deleted + 1),
        })
    }

    /// The operations of one transaction that makes the changes. References are checked at its end, so their order does not
    /// matter to the server.
    pub fn operations(&self) -> Result<Vec<Operation>, TooLarge> {
        if self.changes.len() > OPERATIONS_MAX {
            return Err(TooLarge { found: self.changes.len() });
        }
        Ok(self.changes.iter().map(Change::operation).collect())
    }
}

impl Fitted {
    /// What has to change for the database to be as the backup says.
    #[must_use]
    pub fn difference(&self, snapshot: &Snapshot) -> Difference {
        let none = BTreeMap::new();
        let mut changes = Vec::new();
        for (name, table) in &snapshot.schema.tables {
            let Some(present) = snapshot.tables.get(name) else { continue };
            let wanted = self.tables.get(name).unwrap_or(&none);
            if &**name == GLOBAL {
                changes.extend(global(table, wanted, present));
                continue;
            }
            for (uuid, row) in wanted {
                match present.get(uuid) {
                    Some(before) => changes.extend(changed(table, before, row)),
                    None => changes.push(created(table, row)),
                }
            }
            for (uuid, row) in present.iter().filter(|(uuid, _)| !wanted.contains_key(*uuid)) {
                changes.push(Change::Delete { table: Arc::clone(table), uuid: *uuid, row: Arc::clone(row) });
            }
        }
        Difference { changes }
    }
}

/// The one row is the same one everywhere, whatever its uuid. A backup without it leaves it as it is.
fn global(
    table: &Arc<TableSchema>,
    wanted: &BTreeMap<Uuid, Row>,
    present: &BTreeMap<Uuid, Arc<Row>>,
) -> Option<Change> {
    let wanted = wanted.values().next()?;
    match present.values().next() {
        Some(before) => changed(table, before, wanted),
        None => Some(created(table, wanted)),
    }
}

fn created(table: &Arc<TableSchema>, row: &Row) -> Change {
    let given =
        table.columns.iter().zip(row.values()).filter(|(column, value)| **value != column.default_value());
    let row_columns = given.map(|(column, value)| (Arc::clone(&column.name), value.clone())).collect();
    Change::Create { table: Arc::clone(table), uuid: row.uuid, row: row_columns }
}

fn changed(table: &Arc<TableSchema>, before: &Row, after: &Row) -> Option<Change> {
    let kept = table.columns.iter().enumerate().filter(|(_, column)| is_kept(&table.name, column));
    let differ = kept.filter(|(position, _)| before.get(*position) != after.get(*position));
    let columns: Vec<_> = differ
        .map(|(position, column)| ColumnChange {
            column: Arc::clone(&column.name),
            before: before.get(position).clone(),
            after: after.get(position).clone(),
        })
        .collect();
    let (table, uuid) = (Arc::clone(table), before.uuid);
    (!columns.is_empty()).then_some(Change::Update { table, uuid, columns })
}
