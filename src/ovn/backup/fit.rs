//! Whether a backup fits a server's schema, and what its rows are there.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;
use uuid::Uuid;

use super::{Backup, Columns, GLOBAL, SERVER_TABLES, is_kept, is_own};
use crate::contents::Row;
use crate::operation::Name;
use crate::schema::{BaseType, ColumnSchema, Schema, TableSchema};
use crate::value::{Atom, Datum};

/// Most misfits that are listed. There may be more.
const MISFITS_MAX: usize = 100;

/// One reason why a backup does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The table.
    pub table: String,
    /// The row, if it is about one.
    pub uuid: Option<Uuid>,
    /// The column, if it is about one.
    pub column: Option<String>,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.table)?;
        if let Some(column) = &self.column {
            write!(out, ".{column}")?;
        }
        if let Some(uuid) = self.uuid {
            write!(out, " of {uuid}")?;
        }
        write!(out, " {}", self.problem)
    }
}

/// Why a backup does not fit: at least one reason, and not all of very many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backup does not fit this database: {}{}", .listed[0], more(*.total))]
pub struct Misfits {
    /// The first ones.
    pub listed: Vec<Misfit>,
    /// How many there are.
    pub total: usize,
}

fn more(total: usize) -> String {
    match total {
        1 => String::new(),
        total => format!(" (and {} more)", total - 1),
    }
}

/// A backup in terms of a schema.
#[derive(Debug)]
pub struct Fitted {
    pub(super) tables: BTreeMap<Name, BTreeMap<Uuid, Row>>,
}

impl Backup {
    /// What it is in this schema.
    pub fn fit(&self, schema: &Schema) -> Result<Fitted, Misfits> {
        let mut fit = Fit::default();
        if self.database != *schema.name {
            let problem = format!("is the database of the backup; this is {}", schema.name);
            fit.misfit(&self.database, None, None, problem);
            return Err(fit.misfits());
        }
        let mut tables = BTreeMap::new();
        for (name, rows) in &self.tables {
            match schema.table(name) {
                Some(table) if !SERVER_TABLES.contains(&name.as_str()) => {
                    let rows = rows.iter().map(|(uuid, columns)| fit.row(table, *uuid, columns));
                    tables.insert(Arc::clone(&table.name), rows.map(|row| (row.uuid, row)).collect());
                }
                Some(_) => fit.misfit(name, None, None, "belongs to the database server".to_owned()),
                None => {
                    let problem = format!("is no table of this database's schema ({})", schema.version);
                    fit.misfit(name, None, None, problem);
                }
            }
        }
        if tables.get(GLOBAL).is_some_and(|rows: &BTreeMap<_, _>| rows.len() > 1) {
            fit.misfit(GLOBAL, None, None, "has more than one row".to_owned());
        }
        fit.references(schema, &tables);
        if fit.total == 0 { Ok(Fitted { tables }) } else { Err(fit.misfits()) }
    }
}

#[derive(Default)]
struct Fit {
    listed: Vec<Misfit>,
    total: usize,
    /// Columns that the schema does not have, told once each.
    unknown: HashSet<(Name, String)>,
}

impl Fit {
    fn misfit(&mut self, table: &str, uuid: Option<Uuid>, column: Option<&str>, problem: String) {
        self.total += 1;
        if self.listed.len() < MISFITS_MAX {
            let (table, column) = (table.to_owned(), column.map(str::to_owned));
            self.listed.push(Misfit { table, uuid, column, problem });
        }
    }

    fn misfits(self) -> Misfits {
        Misfits { listed: self.listed, total: self.total }
    }

    /// A row that does not fit is there all the same: what refers to it is not to blame.
    fn row(&mut self, table: &TableSchema, uuid: Uuid, columns: &Columns) -> Row {
        let mut values: Vec<_> = table.columns.iter().map(ColumnSchema::default_value).collect();
        for (name, value) in columns {
            let Some((position, column)) = table.column(name) else {
                if self.unknown.insert((Arc::clone(&table.name), name.clone())) {
                    let problem = "is no column of this database's schema".to_owned();
                    self.misfit(&table.name, None, Some(name), problem);
                }
                continue;
            };
            if !is_kept(&table.name, column) {
                let problem = "is written by OVN itself, or by the database server".to_owned();
                self.misfit(&table.name, Some(uuid), Some(name), problem);
                continue;
            }
            match restored(value, column) {
                Ok(datum) => values[position] = datum,
                Err(problem) => self.misfit(&table.name, Some(uuid), Some(name), problem),
            }
        }
        let row = Row::new(uuid, values);
        if is_own(table, &row) {
            let problem = "is a name of ovncp's own rows, which backups do not hold".to_owned();
            self.misfit(&table.name, Some(uuid), Some("name"), problem);
        }
        row
    }

    /// Whether every reference leads to a row of the backup, and every row that needs one is referred to.
    fn references(&mut self, schema: &Schema, tables: &BTreeMap<Name, BTreeMap<Uuid, Row>>) {
        let mut kept_alive = HashSet::new();
        for (name, rows) in tables {
            let Some(table) = schema.table(name) else { continue };
            for (position, column) in table.columns.iter().enumerate() {
                for row in rows.values() {
                    for (target_table, target, strong) in references(column, row.get(position)) {
                        if tables.get(target_table).is_none_or(|rows| !rows.contains_key(&target)) {
                            let problem =
                                format!("refers to {target_table} {target}, which is not in the backup");
                            self.misfit(name, Some(row.uuid), Some(&column.name), problem);
                        } else if strong {
                            kept_alive.insert(target);
                        }
                    }
                }
            }
        }
        for (name, rows) in tables {
            if schema.table(name).is_some_and(|table| !table.is_root) {
                for uuid in rows.keys().filter(|uuid| !kept_alive.contains(*uuid)) {
                    let problem = "is referred to by no row: the database would drop it".to_owned();
                    self.misfit(name, Some(*uuid), None, problem);
                }
            }
        }
    }
}

/// From plain form. A set of one may have become a scalar in a later schema, or the other way round.
fn restored(value: &Json, column: &ColumnSchema) -> Result<Datum, String> {
    let value = match value {
        Json::Array(members) if column.max == 1 && members.len() == 1 => &members[0],
        value => value,
    };
    Datum::from_plain(value, column).map_err(|error| error.to_string())
}

/// Rows that this value refers to: table, uuid, whether strongly.
fn references<'a>(
    column: &'a ColumnSchema,
    datum: &'a Datum,
) -> impl Iterator<Item = (&'a Name, Uuid, bool)> + use<'a> {
    let of = |base: Option<&'a BaseType>, atom: &Atom| {
        let base = base?;
        Some((base.ref_table.as_ref()?, atom.as_uuid()?, base.ref_strong))
    };
    let keys = datum.atoms().iter().chain(datum.pairs().iter().map(|(key, _)| key));
    let keys = keys.filter_map(move |key| of(Some(&column.key), key));
    keys.chain(datum.pairs().iter().filter_map(move |(_, value)| of(column.value.as_ref(), value)))
}
