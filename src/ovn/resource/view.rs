//! A row as JSON, and its ETag.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::contents::{Contents, Row};
use crate::schema::ColumnSchema;
use crate::value::{Atom, Datum};

use super::catalogue::{ID_FIELD, Resource};

/// Bytes of the hash that an ETag shows. 128 bits: nobody meets two rows with one by chance.
const ETAG_BYTES: usize = 16;

/// A row of a resource, taken out of the replica together with what its JSON needs.
///
/// Serialises to an object: `id`, `name` (null for tables without names), one member per column in plain form, and one
/// per possible parent (`switch_id`: uuid or null; the smallest uuid where several hold it).
#[derive(Clone, Debug)]
pub struct View {
    /// What it is.
    pub resource: Arc<Resource>,
    /// As it was at one moment.
    pub row: Arc<Row>,
    /// Which of the resource's parents hold it.
    pub holders: Vec<(usize, Uuid)>,
    /// The members to show; all of them without a choice.
    pub selection: Option<Arc<Selection>>,
}

/// A choice of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub(crate) name: bool,
    pub(crate) columns: Vec<bool>,
    pub(crate) parents: Vec<bool>,
}

impl View {
    /// Of this row.
    #[must_use]
    pub fn new(resource: &Arc<Resource>, row: &Arc<Row>, contents: &Contents) -> Self {
        let holders = resource.holders(contents, row.uuid);
        Self { resource: Arc::clone(resource), row: Arc::clone(row), holders, selection: None }
    }

    /// As a JSON value.
    #[must_use]
    pub fn to_json(&self) -> Json {
        serde_json::to_value(self).expect("rows have keys of text and finite numbers or null")
    }

    /// Its ETag, without quotes.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(&self.resource, &self.row)
    }
}

/// The ETag of a row, without quotes: the same on every node, in every process and for every server that has the same
/// columns. It stands for the configuration, not for what OVN writes and not for the rows that it holds.
///
/// Columns with the default value do not count: a server that learns a new column keeps the ETags of old rows.
#[must_use]
pub fn etag(resource: &Resource, row: &Row) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    add(resource.table.name.as_bytes());
    add(row.uuid.as_bytes());
    for position in resource.configuration() {
        let column = &resource.table.columns[*position];
        let value = row.get(*position);
        if *value == column.default_value() {
            continue;
        }
        add(column.name.as_bytes());
        match value {
            Datum::Map(pairs) => {
                add(&(pairs.len() as u64).to_be_bytes());
                for (key, value) in pairs {
                    add(key.to_string().as_bytes());
                    add(value.to_string().as_bytes());
                }
            }
            Datum::Atom(_) | Datum::Set(_) => {
                add(&(value.len() as u64).to_be_bytes());
                for atom in value.atoms() {
                    add(atom.to_string().as_bytes());
                }
            }
        }
    }
    let digest = hash.finalize();
    digest[..ETAG_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Serialize for View {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (resource, selection) = (&*self.resource, self.selection.as_deref());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(ID_FIELD, &Uuids(&self.row.uuid))?;
        if resource.name_column().is_none() && selection.is_none_or(|selection| selection.name) {
            map.serialize_entry("name", &None::<&str>)?;
        }
        for (position, field) in resource.fields.iter().enumerate() {
            if selection.is_none_or(|selection| selection.columns[position]) {
                let column = &resource.table.columns[position];
                map.serialize_entry(&*field.name, &Plain { value: self.row.get(position), column })?;
            }
        }
        for (position, parent) in resource.parents.iter().enumerate() {
            if selection.is_none_or(|selection| selection.parents[position]) {
                let holder = self.holders.iter().find(|(held, _)| *held == position);
                map.serialize_entry(&*parent.field, &holder.map(|(_, uuid)| Uuids(uuid)))?;
            }
        }
        map.end()
    }
}

struct Uuids<'a>(&'a Uuid);

impl Serialize for Uuids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

/// The same as [`Datum::to_plain`], without the value in between.
struct Plain<'a> {
    value: &'a Datum,
    column: &'a ColumnSchema,
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.column.is_map() {
            let pairs = self.value.pairs();
            let mut map = serializer.serialize_map(Some(pairs.len()))?;
            for (key, value) in pairs {
                match key {
                    Atom::String(key) => map.serialize_entry(&**key, &One(value))?,
                    other => map.serialize_entry(&other.to_string(), &One(value))?,
                }
            }
            return map.end();
        }
        if self.column.max == 1 {
            return match self.value.atoms().first() {
                Some(atom) => One(atom).serialize(serializer),
                None => serializer.serialize_none(),
            };
        }
        let atoms = self.value.atoms();
        let mut list = serializer.serialize_seq(Some(atoms.len()))?;
        for atom in atoms {
            list.serialize_element(&One(atom))?;
        }
        list.end()
    }
}

struct One<'a>(&'a Atom);

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Atom::Integer(number) => serializer.serialize_i64(*number),
            Atom::Real(number) if number.0.is_finite() => serializer.serialize_f64(number.0),
            Atom::Real(_) => serializer.serialize_none(),
            Atom::Boolean(flag) => serializer.serialize_bool(*flag),
            Atom::String(text) => serializer.serialize_str(text),
            Atom::Uuid(uuid) => Uuids(uuid).serialize(serializer),
        }
    }
}
