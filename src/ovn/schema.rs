//! What a database may hold, as its server says at run time (RFC 7047 section 3.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::value::{Atom, Real, ValueError};

/// A database.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// Its name, such as `OVN_Northbound`.
    pub name: Arc<str>,
    /// Version of the schema.
    pub version: String,
    /// By name.
    pub tables: BTreeMap<Arc<str>, Arc<TableSchema>>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    /// Its name.
    pub name: Arc<str>,
    /// Whether rows live without being referred to.
    pub is_root: bool,
    /// Sorted by name. A [`Row`](crate::contents::Row) holds its values in this order.
    pub columns: Vec<ColumnSchema>,
    /// Columns whose values no two rows share, by position.
    pub indexes: Vec<Vec<usize>>,
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSchema {
    /// Its name.
    pub name: Arc<str>,
    /// Type of its members, or of the keys of a map.
    pub key: BaseType,
    /// Type of the values of a map.
    pub value: Option<BaseType>,
    /// Fewest members: 0 or 1.
    pub min: usize,
    /// Most members.
    pub max: usize,
    /// Whether it is lost when the server ends.
    pub ephemeral: bool,
    /// Whether it may change after the row is made.
    pub mutable: bool,
}

/// Kinds of atoms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomKind {
    /// 64-bit integer.
    Integer,
    /// Floating-point number.
    Real,
    /// True or false.
    Boolean,
    /// Text.
    String,
    /// Name of a row.
    Uuid,
}

impl AtomKind {
    /// For errors.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Integer => "an integer",
            Self::Real => "a number",
            Self::Boolean => "true or false",
            Self::String => "a string",
            Self::Uuid => "a uuid",
        }
    }
}

/// Type of an atom, with its constraints.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseType {
    /// What it is.
    pub kind: AtomKind,
    /// Table that a uuid names a row of.
    pub ref_table: Option<Arc<str>>,
    /// Whether that reference keeps the row alive (a weak one vanishes with it).
    pub ref_strong: bool,
    /// Smallest and largest value of a number, shortest and longest text in characters.
    pub min: Option<Atom>,
    /// See `min`.
    pub max: Option<Atom>,
    /// The only values allowed, unless empty.
    pub allowed: Vec<Atom>,
}

/// What is wrong with a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schema: {place}: {problem}")]
pub struct SchemaError {
    /// Where.
    pub place: String,
    /// What.
    pub problem: &'static str,
}

fn wrong(place: impl Into<String>, problem: &'static str) -> SchemaError {
    SchemaError { place: place.into(), problem }
}

impl Schema {
    /// From the answer of `get_schema`, or from an `.ovsschema` file.
    pub fn parse(schema: &Json) -> Result<Self, SchemaError> {
        let name = schema["name"].as_str().ok_or_else(|| wrong("database", "has no name"))?;
        let tables = schema["tables"].as_object().ok_or_else(|| wrong(name, "has no tables"))?;
        let tables = tables.iter().map(|(name, table)| {
            let table = TableSchema::parse(name, table)?;
            Ok((Arc::clone(&table.name), Arc::new(table)))
        });
        Ok(Self {
            name: name.into(),
            version: schema["version"].as_str().unwrap_or_default().to_owned(),
            tables: tables.collect::<Result<_, _>>()?,
        })
    }

    /// The table of this name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Arc<TableSchema>> {
        self.tables.get(name)
    }
}

impl TableSchema {
    fn parse(name: &str, table: &Json) -> Result<Self, SchemaError> {
        let columns = table["columns"].as_object().ok_or_else(|| wrong(name, "has no columns"))?;
        let mut columns = columns
            .iter()
            .map(|(column, definition)| {
                ColumnSchema::parse(column, definition).map_err(|mut error| {
                    error.place = format!("{name}.{}", error.place);
                    error
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        let position = |column: &Json| {
            let name = column.as_str()?;
            columns.binary_search_by(|candidate| (*candidate.name).cmp(name)).ok()
        };
        let indexes = table["indexes"].as_array().into_iter().flatten().map(|index| {
            let positions = index.as_array().into_iter().flatten().map(position).collect::<Option<Vec<_>>>();
            positions.ok_or_else(|| wrong(name, "has an index over no column"))
        });
        let indexes = indexes.collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), is_root: table["isRoot"].as_bool().unwrap_or(false), columns, indexes })
    }

    /// The column of this name and its position.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<(usize, &ColumnSchema)> {
        let position = self.columns.binary_search_by(|candidate| (*candidate.name).cmp(name)).ok()?;
        Some((position, &self.columns[position]))
    }
}

impl ColumnSchema {
    /// From its definition.
    pub fn parse(name: &str, definition: &Json) -> Result<Self, SchemaError> {
        let kind = &definition["type"];
        let (key, value, min, max) = match kind {
            Json::String(_) => (BaseType::parse(name, kind)?, None, 1, 1),
            Json::Object(members) => {
                let key = members.get("key").ok_or_else(|| wrong(name, "has a type without key"))?;
                let value = members.get("value").map(|value| BaseType::parse(name, value)).transpose()?;
                let count = |bound: &str| match members.get(bound) {
                    None => Ok(1),
                    Some(Json::String(text)) if text == "unlimited" => Ok(usize::MAX),
                    Some(number) => number
                        .as_u64()
                        .and_then(|number| usize::try_from(number).ok())
                        .ok_or_else(|| wrong(name, "has a strange number of members")),
                };
                (BaseType::parse(name, key)?, value, count("min")?, count("max")?)
            }
            _ => return Err(wrong(name, "has no type")),
        };
        Ok(Self {
            name: name.into(),
            key,
            value,
            min,
            max,
            ephemeral: definition["ephemeral"].as_bool().unwrap_or(false),
            mutable: definition["mutable"].as_bool().unwrap_or(true),
        })
    }

    /// Whether it holds pairs.
    #[must_use]
    pub fn is_map(&self) -> bool {
        self.value.is_some()
    }

    /// Whether it holds exactly one atom.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        self.value.is_none() && self.min == 1 && self.max == 1
    }

    /// Whether it holds one atom or nothing.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.value.is_none() && self.min == 0 && self.max == 1
    }

    /// Whether it may hold more than one atom.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.value.is_none() && self.max > 1
    }
}

impl BaseType {
    fn parse(column: &str, definition: &Json) -> Result<Self, SchemaError> {
        let name = definition.as_str().or_else(|| definition["type"].as_str());
        let kind = match name {
            Some("integer") => AtomKind::Integer,
            Some("real") => AtomKind::Real,
            Some("boolean") => AtomKind::Boolean,
            Some("string") => AtomKind::String,
            Some("uuid") => AtomKind::Uuid,
            _ => return Err(wrong(column, "has an unknown type")),
        };
        let bound = |integer: &str, real: &str, length: &str| match kind {
            AtomKind::Integer => definition[integer].as_i64().map(Atom::Integer),
            AtomKind::Real => definition[real].as_f64().map(|number| Atom::Real(Real(number))),
            AtomKind::String => definition[length].as_i64().map(Atom::Integer),
            AtomKind::Boolean | AtomKind::Uuid => None,
        };
        let allowed = match &definition["enum"] {
            Json::Null => Vec::new(),
            values => {
                let one = ColumnSchema {
                    name: column.into(),
                    key: Self::plain(kind),
                    value: None,
                    min: 0,
                    max: usize::MAX,
                    ephemeral: false,
                    mutable: true,
                };
                let datum = crate::value::Datum::from_wire(values, &one);
                datum.map_err(|_| wrong(column, "has a strange enum"))?.atoms().to_vec()
            }
        };
        Ok(Self {
            min: bound("minInteger", "minReal", "minLength"),
            max: bound("maxInteger", "maxReal", "maxLength"),
            ref_table: definition["refTable"].as_str().map(Into::into),
            ref_strong: definition["refType"].as_str() != Some("weak"),
            allowed,
            kind,
        })
    }

    fn plain(kind: AtomKind) -> Self {
        Self { kind, ref_table: None, ref_strong: true, min: None, max: None, allowed: Vec::new() }
    }

    /// Whether a value that people wrote keeps to the constraints. Its kind is right already.
    pub(crate) fn check(&self, atom: &Atom) -> Result<(), ValueError> {
        if !self.allowed.is_empty() && !self.allowed.contains(atom) {
            return Err(ValueError::enumeration(&self.allowed, atom));
        }
        let length;
        let measured = match atom {
            Atom::String(text) => {
                length = Atom::Integer(i64::try_from(text.chars().count()).unwrap_or(i64::MAX));
                &length
            }
            other => other,
        };
        let below = self.min.as_ref().is_some_and(|min| measured < min);
        let above = self.max.as_ref().is_some_and(|max| measured > max);
        if below || above {
            return Err(ValueError::range(self.range_in_words(), atom));
        }
        Ok(())
    }

    fn range_in_words(&self) -> String {
        let what = match self.kind {
            AtomKind::String => "a string with a length",
            other => other.in_words(),
        };
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => format!("{what} from {min} to {max}"),
            (Some(min), None) => format!("{what} of at least {min}"),
            (None, Some(max)) => format!("{what} of at most {max}"),
            (None, None) => what.to_owned(),
        }
    }
}
