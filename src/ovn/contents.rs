//! The replica of one database: rows, indexes, and how a server's updates change them.
//!
//! Pure: no sockets, no locks, no time. Updates have the form of `update3` (ovsdb-server(7), "Update3 Notification"), which
//! sends the difference of a row, not the row.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::operation::Name;
use crate::schema::{AtomKind, ColumnSchema, Schema, TableSchema};
use crate::value::{Atom, Datum, Real, ValueError};

/// A row as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name, unique in the database.
    pub uuid: Uuid,
    values: Box<[Datum]>,
}

impl Row {
    /// A row with these values, in the order of the table's columns.
    #[must_use]
    pub fn new(uuid: Uuid, values: impl Into<Box<[Datum]>>) -> Self {
        Self { uuid, values: values.into() }
    }

    /// The value of the column at this position of its table's schema.
    #[must_use]
    pub fn get(&self, column: usize) -> &Datum {
        &self.values[column]
    }

    /// All values, in the order of the table's columns.
    #[must_use]
    pub fn values(&self) -> &[Datum] {
        &self.values
    }
}

impl TableSchema {
    /// The value of this column of a row of this table; none without such a column.
    #[must_use]
    pub fn value<'row>(&self, row: &'row Row, column: &str) -> Option<&'row Datum> {
        self.column(column).map(|(position, _)| row.get(position))
    }
}

/// One table.
#[derive(Debug)]
pub struct Table {
    schema: Arc<TableSchema>,
    rows: BTreeMap<Uuid, Arc<Row>>,
    /// Position of the column `name`, if there is one of text.
    name: Option<usize>,
    /// Rows by name. Names need not be unique.
    names: HashMap<Name, Vec<Uuid>>,
}

/// A row that refers to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its table.
    pub table: Name,
    /// The column that refers.
    pub column: Name,
    /// The row.
    pub uuid: Uuid,
}

/// What happened to one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// Its table.
    pub table: Arc<TableSchema>,
    /// The row.
    pub uuid: Uuid,
    /// As it was; none when it was made.
    pub old: Option<Arc<Row>>,
    /// As it is; none when it was deleted.
    pub new: Option<Arc<Row>>,
}

/// Why an update cannot be applied. The replica is wrong from then on and must be read anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentsError {
    /// A table that was not asked for.
    #[error("an update of the unknown table {0}")]
    UnknownTable(String),
    /// A column that is none of the table.
    #[error("an update of the unknown column {table}.{column}")]
    UnknownColumn {
        /// The table.
        table: Name,
        /// The column.
        column: String,
    },
    /// A value of another type than the schema says.
    #[error("{table}.{column} of {uuid} {problem}")]
    Value {
        /// The table.
        table: Name,
        /// The column.
        column: Name,
        /// The row.
        uuid: Uuid,
        /// What is wrong with it.
        problem: ValueError,
    },
    /// A change of a row that is not there.
    #[error("a change of {table} {uuid}, which is not there")]
    Missing {
        /// The table.
        table: Name,
        /// The row.
        uuid: Uuid,
    },
    /// Something else than rows by uuid.
    #[error("an update of {0} that names no rows")]
    NotRows(String),
    /// A row without a uuid.
    #[error("an update of the row {0:?}, which is no uuid")]
    NotUuid(String),
    /// None of `initial`, `insert`, `modify`, `delete`.
    #[error("an update of {table} {uuid} that is none")]
    Malformed {
        /// The table.
        table: Name,
        /// The row.
        uuid: Uuid,
    },
}

/// One database.
#[derive(Debug)]
pub struct Contents {
    schema: Arc<Schema>,
    tables: BTreeMap<Name, Table>,
    /// Strong references by the row that they keep alive.
    referrers: HashMap<Uuid, Vec<Referrer>>,
}

impl Contents {
    /// Without rows.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        let tables =
            schema.tables.iter().map(|(name, table)| (Arc::clone(name), Table::new(Arc::clone(table))));
        let tables = tables.collect();
        Self { schema, tables, referrers: HashMap::new() }
    }

    /// What it may hold.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The table of this name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }

    /// All tables, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// The row of this table with this uuid.
    #[must_use]
    pub fn row(&self, table: &str, uuid: Uuid) -> Option<&Arc<Row>> {
        self.table(table)?.row(uuid)
    }

    /// Who keeps this row alive, in no particular order. The same row appears once per column that refers.
    #[must_use]
    pub fn referrers(&self, uuid: Uuid) -> &[Referrer] {
        self.referrers.get(&uuid).map_or(&[], Vec::as_slice)
    }

    /// Applies a whole `<table-updates3>`: all rows that one transaction changed.
    pub fn apply(&mut self, updates: &Map<String, Json>) -> Result<Vec<RowChange>, ContentsError> {
        let mut changes = Vec::new();
        for (table, rows) in updates {
            let rows = rows.as_object().ok_or_else(|| ContentsError::NotRows(table.clone()))?;
            for (uuid, update) in rows {
                let uuid = uuid.parse().map_err(|_| ContentsError::NotUuid(uuid.clone()))?;
                changes.extend(self.apply_row(table, uuid, update)?);
            }
        }
        Ok(changes)
    }

    /// Applies one `<row-update3>`. None when nothing changed.
    pub fn apply_row(
        &mut self,
        table: &str,
        uuid: Uuid,
        update: &Json,
    ) -> Result<Option<RowChange>, ContentsError> {
        let Some(table) = self.tables.get(table) else {
            return Err(ContentsError::UnknownTable(table.to_owned()));
        };
        let old = table.rows.get(&uuid).cloned();
        let malformed = || ContentsError::Malformed { table: Arc::clone(&table.schema.name), uuid };
        let (kind, row) = update.as_object().and_then(|update| update.iter().next()).ok_or_else(malformed)?;
        let new = match (kind.as_str(), row) {
            ("initial" | "insert", Json::Object(row)) => {
                Some(Arc::new(table.schema.decode(uuid, None, row)?))
            }
            ("modify", Json::Object(row)) => {
                let missing = || ContentsError::Missing { table: Arc::clone(&table.schema.name), uuid };
                let old = old.as_ref().ok_or_else(missing)?;
                Some(Arc::new(table.schema.decode(uuid, Some(old), row)?))
            }
            ("delete", _) => None,
            _ => return Err(malformed()),
        };
        let schema = Arc::clone(&table.schema);
        Ok(self.replace(&schema, uuid, old, new))
    }

    /// Puts `new` where `old` is, in a table of this database. None when nothing changed.
    pub(crate) fn replace(
        &mut self,
        schema: &Arc<TableSchema>,
        uuid: Uuid,
        old: Option<Arc<Row>>,
        new: Option<Arc<Row>>,
    ) -> Option<RowChange> {
        if old == new {
            return None;
        }
        let table = self.tables.get_mut(&schema.name)?;
        table.put(uuid, old.as_deref(), new.as_ref());
        self.note_references(schema, uuid, old.as_deref(), new.as_deref());
        Some(RowChange { table: Arc::clone(schema), uuid, old, new })
    }

    /// What turns `self` into `other`, table by table.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<RowChange> {
        let mut changes = Vec::new();
        for table in other.tables.values() {
            let before = self.tables.get(&table.schema.name).filter(|before| before.schema == table.schema);
            let old = |uuid: &Uuid| before.and_then(|before| before.rows.get(uuid)).cloned();
            for (uuid, new) in &table.rows {
                let old = old(uuid);
                if old.as_ref() != Some(new) {
                    let (table, new) = (Arc::clone(&table.schema), Some(Arc::clone(new)));
                    changes.push(RowChange { table, uuid: *uuid, old, new });
                }
            }
        }
        for table in self.tables.values() {
            let after = other.tables.get(&table.schema.name);
            for (uuid, old) in &table.rows {
                if after.is_none_or(|after| !after.rows.contains_key(uuid)) {
                    let (table, old) = (Arc::clone(&table.schema), Some(Arc::clone(old)));
                    changes.push(RowChange { table, uuid: *uuid, old, new: None });
                }
            }
        }
        changes
    }

    fn note_references(&mut self, table: &TableSchema, uuid: Uuid, old: Option<&Row>, new: Option<&Row>) {
        for (position, column) in table.columns.iter().enumerate() {
            if !column.refers_strongly() {
                continue;
            }
            let (before, after) = (references(column, position, old), references(column, position, new));
            for gone in before.iter().filter(|target| after.binary_search(target).is_err()) {
                if let Some(referrers) = self.referrers.get_mut(gone) {
                    referrers.retain(|referrer| referrer.uuid != uuid || referrer.column != column.name);
                    if referrers.is_empty() {
                        self.referrers.remove(gone);
                    }
                }
            }
            for target in after.iter().filter(|target| before.binary_search(target).is_err()) {
                let (table, column) = (Arc::clone(&table.name), Arc::clone(&column.name));
                self.referrers.entry(*target).or_default().push(Referrer { table, column, uuid });
            }
        }
    }
}

/// Rows that this column of this row refers to, sorted.
fn references(column: &ColumnSchema, position: usize, row: Option<&Row>) -> Vec<Uuid> {
    let Some(row) = row else { return Vec::new() };
    let datum = row.get(position);
    let strong = |base: &crate::schema::BaseType| base.ref_table.is_some() && base.ref_strong;
    let mut found: Vec<_> = datum.atoms().iter().filter_map(Atom::as_uuid).collect();
    if strong(&column.key) {
        found.extend(datum.pairs().iter().filter_map(|(key, _)| key.as_uuid()));
    }
    if column.value.as_ref().is_some_and(strong) {
        found.extend(datum.pairs().iter().filter_map(|(_, value)| value.as_uuid()));
    }
    found.sort_unstable();
    found.dedup();
    found
}

impl Table {
    fn new(schema: Arc<TableSchema>) -> Self {
        let name = schema
            .column("name")
            .filter(|(_, column)| column.key.kind == AtomKind::String && !column.is_map());
        let name = name.map(|(position, _)| position);
        Self { schema, rows: BTreeMap::new(), name, names: HashMap::new() }
    }

    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row of this uuid.
    #[must_use]
    pub fn row(&self, uuid: Uuid) -> Option<&Arc<Row>> {
        self.rows.get(&uuid)
    }

    /// All rows, in the order of their uuids.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &Arc<Row>> {
        self.rows.values()
    }

    /// The rows after this uuid, in the order of their uuids.
    pub fn rows_after(&self, uuid: Uuid) -> impl DoubleEndedIterator<Item = &Arc<Row>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.rows.range((Excluded(uuid), Unbounded)).map(|(_, row)| row)
    }

    /// Rows of this name. Switches, routers and load balancers may share one.
    #[must_use]
    pub fn by_name(&self, name: &str) -> &[Uuid] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// Name of a row of this table, if the table has names and the row has one that is not empty.
    #[must_use]
    pub fn name_of<'row>(&self, row: &'row Row) -> Option<&'row str> {
        row.get(self.name?).as_str().filter(|name| !name.is_empty())
    }

    fn put(&mut self, uuid: Uuid, old: Option<&Row>, new: Option<&Arc<Row>>) {
        if let Some(name) = self.name {
            let (before, after) = (old.map(|row| row.get(name)), new.map(|row| row.get(name)));
            if before != after {
                if let Some(name) = before.and_then(Datum::as_str)
                    && let Some(rows) = self.names.get_mut(name)
                {
                    rows.retain(|row| *row != uuid);
                    if rows.is_empty() {
                        self.names.remove(name);
                    }
                }
                if let Some(Datum::Atom(Atom::String(name))) = after {
                    let rows = self.names.entry(Arc::clone(name)).or_default();
                    let position = rows.partition_point(|row| *row < uuid);
                    rows.insert(position, uuid);
                }
            }
        }
        match new {
            Some(new) => self.rows.insert(uuid, Arc::clone(new)),
            None => self.rows.remove(&uuid),
        };
    }
}

impl TableSchema {
    /// A new row, or `old` with what changed.
    fn decode(
        &self,
        uuid: Uuid,
        old: Option<&Arc<Row>>,
        update: &Map<String, Json>,
    ) -> Result<Row, ContentsError> {
        let mut values: Vec<Datum> = match old {
            Some(old) => old.values.to_vec(),
            None => self.columns.iter().map(ColumnSchema::default_value).collect(),
        };
        for (name, value) in update {
            let Some((position, column)) = self.column(name) else {
                return Err(ContentsError::UnknownColumn {
                    table: Arc::clone(&self.name),
                    column: name.clone(),
                });
            };
            let sent = Datum::from_wire(value, column).map_err(|problem| ContentsError::Value {
                table: Arc::clone(&self.name),
                column: Arc::clone(&column.name),
                uuid,
                problem,
            })?;
            let before = &mut values[position];
            *before = if old.is_some() && column.max > 1 { toggled(before, sent) } else { sent };
        }
        Ok(Row::new(uuid, values))
    }
}

impl ColumnSchema {
    /// What a server leaves out of an insert.
    #[must_use]
    pub fn default_value(&self) -> Datum {
        if self.is_map() {
            return Datum::Map(Box::default());
        }
        if self.min == 0 {
            return Datum::default();
        }
        // An enumeration has its own default, which a server sends.
        Datum::Atom(match self.key.kind {
            AtomKind::Integer => Atom::Integer(0),
            AtomKind::Real => Atom::Real(Real(0.0)),
            AtomKind::Boolean => Atom::Boolean(false),
            AtomKind::String => Atom::from(""),
            AtomKind::Uuid => Atom::Uuid(Uuid::nil()),
        })
    }

    fn refers_strongly(&self) -> bool {
        let strong = |base: &crate::schema::BaseType| base.ref_table.is_some() && base.ref_strong;
        strong(&self.key) || self.value.as_ref().is_some_and(strong)
    }
}

/// The value that differs from `before` by `difference`: a member of a set that is in both goes, one in neither comes. Of a
/// map, a pair that is in both goes, and a key with another value gets the new one.
pub(crate) fn toggled(before: &Datum, difference: Datum) -> Datum {
    if let (Datum::Map(before), Datum::Map(difference)) = (before, &difference) {
        let changed = |key: &Atom| difference.binary_search_by(|(candidate, _)| candidate.cmp(key)).ok();
        let kept = before.iter().filter(|(key, _)| changed(key).is_none());
        let old = |key: &Atom| before.binary_search_by(|(candidate, _)| candidate.cmp(key)).ok();
        let put = difference.iter().filter(|(key, value)| old(key).is_none_or(|at| before[at].1 != *value));
        return Datum::map(kept.chain(put).cloned());
    }
    let (before, difference) = (before.atoms(), difference.atoms());
    let kept = before.iter().filter(|atom| difference.binary_search(atom).is_err());
    let added = difference.iter().filter(|atom| before.binary_search(atom).is_err());
    Datum::set(kept.chain(added).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SWITCH: Uuid = Uuid::from_u128(1);
    const PORT: Uuid = Uuid::from_u128(2);
    const OTHER: Uuid = Uuid::from_u128(3);

    fn contents() -> Contents {
        let any = |key: Json| json!({"type": {"key": key, "min": 0, "max": "unlimited"}});
        let schema = json!({"name": "T", "version": "1", "tables": {
            "Switch": {"isRoot": true, "columns": {
                "name": {"type": "string"},
                "ports": any(json!({"type": "uuid", "refTable": "Port"})),
                "seen": any(json!({"type": "uuid", "refTable": "Port", "refType": "weak"})),
                "options": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
            }},
            "Port": {"columns": {
                "name": {"type": "string"},
                "tag": {"type": {"key": "integer", "min": 0, "max": 1}},
            }},
        }});
        Contents::new(Arc::new(Schema::parse(&schema).unwrap()))
    }

    fn apply(contents: &mut Contents, update: Json) -> Vec<RowChange> {
        contents.apply(update.as_object().unwrap()).unwrap()
    }

    fn uuids(uuids: &[Uuid]) -> Json {
        json!(["set", uuids.iter().map(|uuid| json!(["uuid", uuid.to_string()])).collect::<Vec<_>>()])
    }

    fn plain(contents: &Contents, table: &str, uuid: Uuid, column: &str) -> Json {
        let table = contents.table(table).unwrap();
        let (position, column) = table.schema().column(column).unwrap();
        table.row(uuid).unwrap().get(position).to_plain(column)
    }

    #[test]
    fn a_modify_is_a_difference() {
        let mut contents = contents();
        let map = |pairs: Json| json!(["map", pairs]);
        let insert =
            json!({"name": "s", "ports": uuids(&[PORT]), "options": map(json!([["a", "1"], ["b", "2"]]))});
        apply(&mut contents, json!({"Switch": {SWITCH.to_string(): {"insert": insert}}}));
        let modify = json!({"ports": uuids(&[PORT, OTHER]), "options": map(json!([["a", "1"], ["b", "3"], ["c", "4"]]))});
        let changes = apply(&mut contents, json!({"Switch": {SWITCH.to_string(): {"modify": modify}}}));
        assert_eq!(plain(&contents, "Switch", SWITCH, "ports"), json!([OTHER.to_string()]));
        assert_eq!(plain(&contents, "Switch", SWITCH, "options"), json!({"b": "3", "c": "4"}));
        assert_eq!(plain(&contents, "Switch", SWITCH, "name"), json!("s"));
        assert_eq!(changes.len(), 1);
        assert!(changes[0].old.is_some() && changes[0].new.is_some());
    }

    #[test]
    fn a_column_of_at_most_one_is_replaced() {
        let mut contents = contents();
        apply(&mut contents, json!({"Port": {PORT.to_string(): {"initial": {"name": "p", "tag": 5}}}}));
        apply(&mut contents, json!({"Port": {PORT.to_string(): {"modify": {"tag": 5}}}}));
        assert_eq!(plain(&contents, "Port", PORT, "tag"), json!(5));
        apply(&mut contents, json!({"Port": {PORT.to_string(): {"modify": {"tag": ["set", []]}}}}));
        assert_eq!(plain(&contents, "Port", PORT, "tag"), json!(null));
    }

    #[test]
    fn names_and_strong_references_are_found() {
        let mut contents = contents();
        let switch = json!({"name": "s", "ports": uuids(&[PORT]), "seen": uuids(&[OTHER])});
        apply(
            &mut contents,
            json!({"Switch": {SWITCH.to_string(): {"initial": switch}}, "Port": {PORT.to_string(): {"initial": {"name": "p"}}}}),
        );
        assert_eq!(contents.table("Port").unwrap().by_name("p"), [PORT]);
        let referrer = Referrer { table: "Switch".into(), column: "ports".into(), uuid: SWITCH };
        assert_eq!(contents.referrers(PORT), [referrer]);
        assert!(contents.referrers(OTHER).is_empty(), "a weak reference keeps nothing alive");
        apply(&mut contents, json!({"Port": {PORT.to_string(): {"modify": {"name": "q"}}}}));
        assert_eq!(contents.table("Port").unwrap().by_name("q"), [PORT]);
        assert!(contents.table("Port").unwrap().by_name("p").is_empty());
        apply(
            &mut contents,
            json!({"Switch": {SWITCH.to_string(): {"delete": null}}, "Port": {PORT.to_string(): {"delete": null}}}),
        );
        assert!(contents.referrers(PORT).is_empty());
        assert!(
            contents.table("Port").unwrap().is_empty()
                && contents.table("Port").unwrap().by_name("q").is_empty()
        );
    }

    #[test]
    fn the_difference_of_two_replicas_leads_from_one_to_the_other() {
        let (mut before, mut after) = (contents(), contents());
        apply(
            &mut before,
            json!({"Port": {PORT.to_string(): {"initial": {"name": "p"}}, SWITCH.to_string(): {"initial": {}}}}),
        );
        apply(
            &mut after,
            json!({"Port": {PORT.to_string(): {"initial": {"name": "q"}}, OTHER.to_string(): {"initial": {}}}}),
        );
        let changes = before.difference(&after);
        let kinds: Vec<_> =
            changes.iter().map(|change| (change.uuid, change.old.is_some(), change.new.is_some())).collect();
        assert_eq!(kinds, [(PORT, true, true), (OTHER, false, true), (SWITCH, true, false)]);
        assert!(before.difference(&before).is_empty());
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let mut contents = contents();
        for wrong in [
            json!({"Nope": {PORT.to_string(): {"insert": {}}}}),
            json!({"Port": {PORT.to_string(): {"insert": {"nope": 1}}}}),
            json!({"Port": {PORT.to_string(): {"insert": {"tag": "x"}}}}),
            json!({"Port": {PORT.to_string(): {"modify": {"tag": 1}}}}),
            json!({"Port": {PORT.to_string(): {}}}),
            json!({"Port": {PORT.to_string(): {"insert": 3}}}),
            json!({"Port": {"p": {"insert": {}}}}),
            json!({"Port": 3}),
        ] {
            assert!(contents.apply(wrong.as_object().unwrap()).is_err(), "{wrong}");
        }
    }
}
