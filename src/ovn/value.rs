//! What a column holds: atoms, sets and maps of atoms, and their two forms in JSON.
//!
//! The *wire* form is RFC 7047's (`["set", [..]]`, `["uuid", ".."]`). The *plain* form is what people write: a scalar, null,
//! an array or an object. Only the plain form is checked against the constraints of the column; a server's own values are
//! taken as they are.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Number, Value as Json, json};
use uuid::Uuid;

use crate::schema::{AtomKind, BaseType, ColumnSchema};

/// A floating-point number with a total order (IEEE 754 totalOrder), so that sets of them can be sorted.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Real {}

impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// The smallest value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// A 64-bit integer.
    Integer(i64),
    /// A floating-point number.
    Real(Real),
    /// True or false.
    Boolean(bool),
    /// Text.
    String(Arc<str>),
    /// Names a row.
    Uuid(Uuid),
}

impl Atom {
    /// As text, if it is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// As a row's uuid, if it is one.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Self::Uuid(uuid) => Some(*uuid),
            _ => None,
        }
    }

    /// RFC 7047 section 5.1 `<atom>`.
    #[must_use]
    pub fn to_wire(&self) -> Json {
        match self {
            Self::Uuid(uuid) => json!(["uuid", uuid.to_string()]),
            other => other.to_plain(),
        }
    }

    /// As people write it.
    #[must_use]
    pub fn to_plain(&self) -> Json {
        match self {
            Self::Integer(number) => Json::from(*number),
            Self::Real(number) => Number::from_f64(number.0).map_or(Json::Null, Json::Number),
            Self::Boolean(flag) => Json::Bool(*flag),
            Self::String(text) => Json::from(&**text),
            Self::Uuid(uuid) => Json::from(uuid.to_string()),
        }
    }

    fn from_wire(value: &Json, kind: AtomKind) -> Result<Self, ValueError> {
        let text = match (kind, value) {
            (AtomKind::Uuid, Json::Array(pair)) => match pair.as_slice() {
                [Json::String(tag), Json::String(uuid)] if tag == "uuid" => uuid,
                _ => return Err(ValueError::wrong_type(kind, value)),
            },
            (AtomKind::Uuid, _) => return Err(ValueError::wrong_type(kind, value)),
            _ => return Self::from_plain_unchecked(value, kind),
        };
        text.parse().map(Self::Uuid).map_err(|_| ValueError::wrong_type(kind, value))
    }

    fn from_plain_unchecked(value: &Json, kind: AtomKind) -> Result<Self, ValueError> {
        let atom = match (kind, value) {
            (AtomKind::Integer, Json::Number(number)) => number.as_i64().map(Self::Integer),
            (AtomKind::Real, Json::Number(number)) => number.as_f64().map(Real).map(Self::Real),
            (AtomKind::Boolean, Json::Bool(flag)) => Some(Self::Boolean(*flag)),
            (AtomKind::String, Json::String(text)) => Some(Self::String(text.as_str().into())),
            (AtomKind::Uuid, Json::String(text)) => text.parse().ok().map(Self::Uuid),
            _ => None,
        };
        atom.ok_or_else(|| ValueError::wrong_type(kind, value))
    }

    fn from_plain(value: &Json, base: &BaseType) -> Result<Self, ValueError> {
        let atom = Self::from_plain_unchecked(value, base.kind)?;
        base.check(&atom)?;
        Ok(atom)
    }

    /// A key of a JSON object: every kind of atom is written as text there.
    fn from_key(text: &str, base: &BaseType) -> Result<Self, ValueError> {
        let wrong = |_| ValueError::wrong_type(base.kind, &Json::from(text));
        let atom = match base.kind {
            AtomKind::String => Self::String(text.into()),
            AtomKind::Integer => Self::Integer(text.parse().map_err(|_| wrong(()))?),
            AtomKind::Real => Self::Real(Real(text.parse().map_err(|_| wrong(()))?)),
            AtomKind::Boolean => Self::Boolean(text.parse().map_err(|_| wrong(()))?),
            AtomKind::Uuid => Self::Uuid(text.parse().map_err(|_| wrong(()))?),
        };
        base.check(&atom)?;
        Ok(atom)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(out, "{number}"),
            Self::Real(number) => write!(out, "{}", number.0),
            Self::Boolean(flag) => write!(out, "{flag}"),
            Self::String(text) => out.write_str(text),
            Self::Uuid(uuid) => write!(out, "{uuid}"),
        }
    }
}

impl From<&str> for Atom {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<Uuid> for Atom {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl From<i64> for Atom {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Atom {
    fn from(flag: bool) -> Self {
        Self::Boolean(flag)
    }
}

/// What one column of one row holds. Sets and maps are sorted and without duplicates, and a set of exactly one atom is
/// always [`Datum::Atom`]: equal values are equal in memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datum {
    /// Exactly one atom: a scalar, or a set of one.
    Atom(Atom),
    /// None, or more than one.
    Set(Box<[Atom]>),
    /// Pairs with distinct keys.
    Map(Box<[(Atom, Atom)]>),
}

impl Default for Datum {
    fn default() -> Self {
        Self::Set(Box::default())
    }
}

impl<A: Into<Atom>> From<A> for Datum {
    fn from(atom: A) -> Self {
        Self::Atom(atom.into())
    }
}

impl Datum {
    /// A set of these atoms, in any order.
    #[must_use]
    pub fn set(atoms: impl IntoIterator<Item = Atom>) -> Self {
        let mut atoms: Vec<_> = atoms.into_iter().collect();
        atoms.sort_unstable();
        atoms.dedup();
        match <[Atom; 1]>::try_from(atoms) {
            Ok([atom]) => Self::Atom(atom),
            Err(atoms) => Self::Set(atoms.into()),
        }
    }

    /// A map of these pairs, in any order. Of two pairs with one key the first stays.
    #[must_use]
    pub fn map(pairs: impl IntoIterator<Item = (Atom, Atom)>) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, first| later.0 == first.0);
        Self::Map(pairs.into())
    }

    /// The atoms of a scalar or a set; none of a map.
    #[must_use]
    pub fn atoms(&self) -> &[Atom] {
        match self {
            Self::Atom(atom) => std::slice::from_ref(atom),
            Self::Set(atoms) => atoms,
            Self::Map(_) => &[],
        }
    }

    /// The pairs of a map; none of a set.
    #[must_use]
    pub fn pairs(&self) -> &[(Atom, Atom)] {
        match self {
            Self::Map(pairs) => pairs,
            Self::Atom(_) | Self::Set(_) => &[],
        }
    }

    /// The text under this key of a map of texts.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.pairs();
        let found = pairs.binary_search_by(|(candidate, _)| match candidate {
            Atom::String(text) => (**text).cmp(key),
            // Keys of one map are of one kind: this map has none of text.
            other => other.cmp(&Atom::from("")),
        });
        pairs[found.ok()?].1.as_str()
    }

    /// The text of a scalar, or of a set of one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Atom(atom) => atom.as_str(),
            Self::Set(_) | Self::Map(_) => None,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of atoms or pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Atom(_) => 1,
            Self::Set(atoms) => atoms.len(),
            Self::Map(pairs) => pairs.len(),
        }
    }

    /// RFC 7047 section 5.1 `<value>`.
    #[must_use]
    pub fn to_wire(&self) -> Json {
        match self {
            Self::Atom(atom) => atom.to_wire(),
            Self::Set(atoms) => json!(["set", atoms.iter().map(Atom::to_wire).collect::<Vec<_>>()]),
            Self::Map(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(key, value)| json!([key.to_wire(), value.to_wire()])).collect();
                json!(["map", pairs])
            }
        }
    }

    /// From a server. Its own constraints are not checked again.
    pub fn from_wire(value: &Json, column: &ColumnSchema) -> Result<Self, ValueError> {
        if let Json::Array(tagged) = value
            && let [Json::String(tag), Json::Array(members)] = tagged.as_slice()
        {
            match (tag.as_str(), &column.value) {
                ("set", None) => {
                    let atoms = members.iter().map(|member| Atom::from_wire(member, column.key.kind));
                    return Ok(Self::set(atoms.collect::<Result<Vec<_>, _>>()?));
                }
                ("map", Some(base)) => {
                    let pair = |member: &Json| match member.as_array().map(Vec::as_slice) {
                        Some([key, value]) => {
                            Ok((Atom::from_wire(key, column.key.kind)?, Atom::from_wire(value, base.kind)?))
                        }
                        _ => Err(ValueError::Shape { expected: "a map of pairs", found: clipped(member) }),
                    };
                    return Ok(Self::map(members.iter().map(pair).collect::<Result<Vec<_>, _>>()?));
                }
                _ => {}
            }
        }
        if column.value.is_some() {
            return Err(ValueError::Shape { expected: "a map", found: clipped(value) });
        }
        Ok(Self::Atom(Atom::from_wire(value, column.key.kind)?))
    }

    /// As people read it: a scalar where there is exactly one, null or a scalar where there is at most one, else an array
    /// or an object.
    #[must_use]
    pub fn to_plain(&self, column: &ColumnSchema) -> Json {
        if column.is_map() {
            let pairs = self.pairs().iter().map(|(key, value)| (key.to_string(), value.to_plain()));
            return Json::Object(pairs.collect::<Map<_, _>>());
        }
        if column.max == 1 {
            return self.atoms().first().map_or(Json::Null, Atom::to_plain);
        }
        Json::Array(self.atoms().iter().map(Atom::to_plain).collect())
    }

    /// From people: checked against the type, the range, the values allowed and the number of members.
    pub fn from_plain(value: &Json, column: &ColumnSchema) -> Result<Self, ValueError> {
        let datum = match (&column.value, value) {
            (Some(base), Json::Object(pairs)) => {
                let pair = |(key, value): (&String, &Json)| {
                    Ok((Atom::from_key(key, &column.key)?, Atom::from_plain(value, base)?))
                };
                Self::map(pairs.iter().map(pair).collect::<Result<Vec<_>, _>>()?)
            }
            (Some(_), Json::Null) => Self::Map(Box::default()),
            (Some(_), other) => {
                return Err(ValueError::Shape { expected: "an object", found: clipped(other) });
            }
            (None, Json::Array(members)) if column.max > 1 => {
                let atoms = members.iter().map(|member| Atom::from_plain(member, &column.key));
                Self::set(atoms.collect::<Result<Vec<_>, _>>()?)
            }
            (None, Json::Null) if column.min == 0 => Self::default(),
            (None, Json::Array(_)) => {
                return Err(ValueError::wrong_type(column.key.kind, value));
            }
            (None, scalar) => Self::Atom(Atom::from_plain(scalar, &column.key)?),
        };
        if datum.len() < column.min || datum.len() > column.max {
            return Err(ValueError::Count { found: datum.len(), min: column.min, max: column.max });
        }
        Ok(datum)
    }
}

/// Longest piece of a wrong value that an error repeats, in characters.
const CLIPPED_CHARS_MAX: usize = 60;

fn clipped(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(CLIPPED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Why a value does not fit its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Another type.
    #[error("must be {expected}, not {found}")]
    Type {
        /// What the column takes.
        expected: &'static str,
        /// What was given, cut short.
        found: String,
    },
    /// Not a set, map or pair where there must be one.
    #[error("must be {expected}, not {found}")]
    Shape {
        /// What the column takes.
        expected: &'static str,
        /// What was given, cut short.
        found: String,
    },
    /// Outside the range.
    #[error("must be {expected}, not {found}")]
    Range {
        /// The range in words.
        expected: String,
        /// What was given, cut short.
        found: String,
    },
    /// None of those allowed.
    #[error("must be one of {allowed}, not {found}")]
    Enumeration {
        /// What is allowed.
        allowed: String,
        /// What was given, cut short.
        found: String,
    },
    /// Too many or too few members.
    #[error("must have between {min} and {max} members, not {found}")]
    Count {
        /// How many there are.
        found: usize,
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
}

impl ValueError {
    fn wrong_type(kind: AtomKind, found: &Json) -> Self {
        Self::Type { expected: kind.in_words(), found: clipped(found) }
    }

    pub(crate) fn range(expected: String, found: &Atom) -> Self {
        Self::Range { expected, found: clipped(&found.to_plain()) }
    }

    pub(crate) fn enumeration(allowed: &[Atom], found: &Atom) -> Self {
        let allowed: Vec<_> = allowed.iter().map(|atom| atom.to_plain().to_string()).collect();
        Self::Enumeration { allowed: allowed.join(", "), found: clipped(&found.to_plain()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(definition: Json) -> ColumnSchema {
        ColumnSchema::parse("column", &definition).unwrap()
    }

    #[test]
    fn both_forms_come_back() {
        let uuid = "3b7e8d8c-3f0a-4c0e-9a42-0d0e3f1a2b3c";
        for (definition, wire, plain) in [
            (json!({"type": "string"}), json!("a"), json!("a")),
            (json!({"type": {"key": "integer", "min": 0, "max": 1}}), json!(["set", []]), json!(null)),
            (json!({"type": {"key": "integer", "min": 0, "max": 1}}), json!(7), json!(7)),
            (
                json!({"type": {"key": "string", "min": 0, "max": "unlimited"}}),
                json!(["set", ["b", "a", "b"]]),
                json!(["a", "b"]),
            ),
            (json!({"type": {"key": "string", "min": 0, "max": "unlimited"}}), json!("a"), json!(["a"])),
            (
                json!({"type": {"key": {"type": "uuid", "refTable": "T"}, "min": 0, "max": "unlimited"}}),
                json!(["set", [["uuid", uuid]]]),
                json!([uuid]),
            ),
            (
                json!({"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}),
                json!(["map", [["b", "2"], ["a", "1"]]]),
                json!({"a": "1", "b": "2"}),
            ),
            (
                json!({"type": {"key": "integer", "value": "string", "min": 0, "max": "unlimited"}}),
                json!(["map", [[10, "x"], [9, "y"]]]),
                json!({"9": "y", "10": "x"}),
            ),
        ] {
            let column = column(definition);
            let datum = Datum::from_wire(&wire, &column).unwrap();
            assert_eq!(datum.to_plain(&column), plain);
            assert_eq!(Datum::from_plain(&plain, &column).unwrap(), datum);
            assert_eq!(Datum::from_wire(&datum.to_wire(), &column).unwrap(), datum);
        }
    }

    #[test]
    fn what_people_write_is_checked() {
        let range = column(json!({"type": {"key": {"type": "integer", "minInteger": 0, "maxInteger": 9}}}));
        let choice = column(json!({"type": {"key": {"type": "string", "enum": ["set", ["tcp", "udp"]]}}}));
        let pair = column(json!({"type": {"key": "string", "min": 1, "max": 2}}));
        for (column, wrong, says) in [
            (&range, json!(10), "must be an integer from 0 to 9, not 10"),
            (&range, json!("1"), "must be an integer, not \"1\""),
            (&range, json!(1.5), "must be an integer, not 1.5"),
            (&range, json!(null), "must be an integer, not null"),
            (&choice, json!("icmp"), "must be one of \"tcp\", \"udp\", not \"icmp\""),
            (&pair, json!([]), "must have between 1 and 2 members, not 0"),
            (&pair, json!({"a": 1}), "must be a string, not {\"a\":1}"),
        ] {
            assert_eq!(Datum::from_plain(&wrong, column).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn text_is_found_by_key() {
        let map = Datum::map([("b".into(), "2".into()), ("a".into(), "1".into())]);
        assert_eq!((map.get("a"), map.get("b"), map.get("c")), (Some("1"), Some("2"), None));
        assert_eq!(Datum::map([(Atom::Integer(1), "x".into())]).get("1"), None);
    }
}
