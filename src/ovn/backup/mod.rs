//! A northbound database as a document, and the way back.
//!
//! A backup holds what people and their tools configured: every table with the uuids of its rows and the references between
//! them. It leaves out what the database server or OVN itself writes ([`is_kept`]) and ovncp's own rows
//! ([`is_own`]). Columns with the default of their type are left out too, so that a backup fits another version of the
//! schema as long as nothing is lost.
//!
//! - [`Snapshot`] is the rows, taken quickly under a lock; [`Backup::of`] makes the document at leisure.
//! - [`Backup::parse`] takes a document back: format, checksum, counts.
//! - [`Backup::fit`] says what it is in the schema of a server, or every reason why it does not fit.
//! - [`Fitted::difference`] is what a restore would change; [`Difference::operations`] changes it in one transaction.
//!
//! A restore keeps uuids, so references from outside (to `external_ids` of other systems, say) stay true.

mod canonical;
mod difference;
mod fit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::contents::{Contents, Row};
use crate::operation::Name;
use crate::schema::{ColumnSchema, Schema, TableSchema};
pub use difference::{Change, ColumnChange, Difference, OPERATIONS_MAX, TooLarge};
pub use fit::{Fitted, Misfit, Misfits};

/// What `format` of a document says.
pub const FORMAT: &str = "ovncp-ovn-backup";
/// The one version of the format so far.
pub const FORMAT_VERSION: u64 = 1;
/// Names of address sets that are ovncp's own begin so: fences and markers of requests.
pub const OWN_PREFIX: &str = "ovncp_";

/// The table with one row that always exists. A restore changes it and never replaces it.
const GLOBAL: &str = "NB_Global";
const ADDRESS_SET: &str = "Address_Set";
/// How clients reach the database server is its own business: a restore must not cut off who restores.
const SERVER_TABLES: [&str; 2] = ["Connection", "SSL"];
/// What OVN reports there, or the server's own: it is not configuration, though the schema keeps it on the disk.
const STATUS: [(&str, &str); 12] = [
    (GLOBAL, "nb_cfg"),
    (GLOBAL, "nb_cfg_timestamp"),
    (GLOBAL, "sb_cfg"),
    (GLOBAL, "sb_cfg_timestamp"),
    (GLOBAL, "hv_cfg"),
    (GLOBAL, "hv_cfg_timestamp"),
    (GLOBAL, "connections"),
    (GLOBAL, "ssl"),
    ("Logical_Switch_Port", "up"),
    ("Logical_Router_Port", "ipv6_prefix"),
    ("Logical_Router_Port", "status"),
    ("BFD", "status"),
];

/// Whether backups hold this column.
#[must_use]
pub fn is_kept(table: &str, column: &ColumnSchema) -> bool {
    !column.ephemeral && !STATUS.contains(&(table, &*column.name))
}

/// Whether this row is ovncp's own: a fence or a marker.
#[must_use]
pub fn is_own(table: &TableSchema, row: &Row) -> bool {
    &*table.name == ADDRESS_SET
        && table
            .value(row, "name")
            .and_then(|name| name.as_str())
            .is_some_and(|name| name.starts_with(OWN_PREFIX))
}

/// The rows that a backup is about, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    schema: Arc<Schema>,
    tables: BTreeMap<Name, BTreeMap<Uuid, Arc<Row>>>,
}

impl Snapshot {
    /// As they are now. Copies references, not rows.
    #[must_use]
    pub fn of(contents: &Contents) -> Self {
        let kept = contents.tables().filter(|table| !SERVER_TABLES.contains(&&*table.schema().name));
        let tables = kept.map(|table| {
            let rows = table.rows().filter(|row| !is_own(table.schema(), row));
            let rows = rows.map(|row| (row.uuid, Arc::clone(row))).collect();
            (Arc::clone(&table.schema().name), rows)
        });
        Self { schema: Arc::clone(contents.schema()), tables: tables.collect() }
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }
}

type Columns = Map<String, Json>;

/// A document. Its values are in plain form.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    database: String,
    schema_version: String,
    taken_at: String,
    tables: BTreeMap<String, BTreeMap<Uuid, Columns>>,
}

/// Why something is no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// A member that is missing or of another type.
    #[error("{0} is missing or malformed: this is no backup of ovncp")]
    Member(String),
    /// Of another version of the format.
    #[error("format_version {found} is not known here: the newest one is {FORMAT_VERSION}")]
    Version {
        /// What it says.
        found: u64,
    },
    /// It was changed, or part of it is lost.
    #[error("the checksum is {stated}, but the content has {computed}: it was changed or is not complete")]
    Checksum {
        /// What it says.
        stated: String,
        /// What is true.
        computed: String,
    },
    /// Its parts contradict each other.
    #[error("counts say {stated} rows of {table}, but there are {found}")]
    Count {
        /// The table.
        table: String,
        /// What it says.
        stated: u64,
        /// What is true.
        found: usize,
    },
    /// Two rows of one uuid.
    #[error("two rows have the uuid {0}")]
    DuplicateUuid(Uuid),
}

impl Backup {
    /// The document of these rows. `taken_at` is for people.
    #[must_use]
    pub fn of(snapshot: &Snapshot, taken_at: String) -> Self {
        let tables =
            snapshot.tables.iter().filter(|(_, rows)| !rows.is_empty()).filter_map(|(name, rows)| {
                let schema = snapshot.schema.table(name)?;
                let rows = rows.iter().map(|(uuid, row)| (*uuid, columns(schema, row))).collect();
                Some((name.to_string(), rows))
            });
        Self {
            database: snapshot.schema.name.to_string(),
            schema_version: snapshot.schema.version.clone(),
            taken_at,
            tables: tables.collect(),
        }
    }

    /// How many rows each table has.
    pub fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tables.iter().map(|(table, rows)| (table.as_str(), rows.len()))
    }

    /// When it was taken, as it says.
    #[must_use]
    pub fn taken_at(&self) -> &str {
        &self.taken_at
    }

    /// As JSON, with its checksum: SHA-256 of the document without the member `checksum`, without white space and with the
    /// members of every object sorted.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let tables = self.tables.iter().map(|(table, rows)| {
            let rows = rows.iter().map(|(uuid, columns)| {
                let mut row = Map::from_iter([("_uuid".to_owned(), Json::from(uuid.to_string()))]);
                row.extend(columns.clone());
                Json::Object(row)
            });
            (table.clone(), rows.collect())
        });
        let counts = self.counts().map(|(table, rows)| (table.to_owned(), Json::from(rows)));
        let mut document = Map::from_iter([
            ("format".to_owned(), Json::from(FORMAT)),
            ("format_version".to_owned(), Json::from(FORMAT_VERSION)),
            ("database".to_owned(), Json::from(self.database.as_str())),
            ("schema_version".to_owned(), Json::from(self.schema_version.as_str())),
            ("taken_at".to_owned(), Json::from(self.taken_at.as_str())),
            ("counts".to_owned(), Json::Object(counts.collect())),
            ("tables".to_owned(), Json::Object(tables.collect())),
        ]);
        document.insert("checksum".to_owned(), Json::from(canonical::checksum(&document)));
        Json::Object(document)
    }

    /// From JSON. White space and the order of members do not matter.
    pub fn parse(document: &Json) -> Result<Self, BackupError> {
        let member = |name: &str| BackupError::Member(name.to_owned());
        let text = |name: &str| document[name].as_str().map(str::to_owned).ok_or_else(|| member(name));
        let members = document.as_object().ok_or_else(|| member("the object"))?;
        if text("format")? != FORMAT {
            return Err(member("format"));
        }
        let version = document["format_version"].as_u64().ok_or_else(|| member("format_version"))?;
        if version != FORMAT_VERSION {
            return Err(BackupError::Version { found: version });
        }
        let (stated, computed) = (text("checksum")?, canonical::checksum(members));
        if stated != computed {
            return Err(BackupError::Checksum { stated, computed });
        }
        let tables = document["tables"].as_object().ok_or_else(|| member("tables"))?;
        let tables = tables.iter().map(|(table, rows)| Ok((table.clone(), parse_rows(table, rows)?)));
        let backup = Self {
            database: text("database")?,
            schema_version: text("schema_version")?,
            taken_at: text("taken_at")?,
            tables: tables.collect::<Result<_, _>>()?,
        };
        backup.check_counts(document["counts"].as_object().ok_or_else(|| member("counts"))?)?;
        Ok(backup)
    }

    fn check_counts(&self, counts: &Map<String, Json>) -> Result<(), BackupError> {
        let found = |table: &str| self.tables.get(table).map_or(0, BTreeMap::len);
        for table in self.tables.keys().chain(counts.keys()) {
            let stated = counts.get(table).and_then(Json::as_u64);
            let stated = stated.ok_or_else(|| BackupError::Member(format!("counts.{table}")))?;
            if usize::try_from(stated).ok() != Some(found(table)) {
                return Err(BackupError::Count { table: table.clone(), stated, found: found(table) });
            }
        }
        let mut seen = std::collections::HashSet::new();
        let mut uuids = self.tables.values().flat_map(BTreeMap::keys);
        uuids.find(|uuid| !seen.insert(**uuid)).map_or(Ok(()), |uuid| Err(BackupError::DuplicateUuid(*uuid)))
    }
}

fn parse_rows(table: &str, rows: &Json) -> Result<BTreeMap<Uuid, Columns>, BackupError> {
    let rows = rows.as_array().ok_or_else(|| BackupError::Member(format!("tables.{table}")))?;
    let mut parsed = BTreeMap::new();
    for (position, row) in rows.iter().enumerate() {
        let malformed = || BackupError::Member(format!("tables.{table}[{position}]"));
        let mut columns = row.as_object().ok_or_else(malformed)?.clone();
        let uuid =
            columns.remove("_uuid").and_then(|uuid| uuid.as_str()?.parse().ok()).ok_or_else(malformed)?;
        if parsed.insert(uuid, columns).is_some() {
            return Err(BackupError::DuplicateUuid(uuid));
        }
    }
    Ok(parsed)
}

/// What a backup holds of a row.
fn columns(table: &TableSchema, row: &Row) -> Columns {
    let kept = table
        .columns
        .iter()
        .zip(row.values())
        .filter(|(column, value)| is_kept(&table.name, column) && **value != column.default_value());
    kept.map(|(column, value)| (column.name.to_string(), value.to_plain(column))).collect()
}
