//! Reads the text of updates (`<table-updates2>`, ovsdb-server(7)) straight into the rows of a replica.
//!
//! A dump of 100,000 ports is 30 MB of text. As a tree of JSON values it would take ten times that for a moment, and
//! more time than its server needs to send it. Here each value goes from the text into its column.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::contents::{Contents, Row, RowChange, toggled};
use crate::schema::{AtomKind, ColumnSchema, TableSchema};
use crate::value::{Atom, Datum, Real};

/// Keys of maps that are shared between rows while one text is read; few are ever different.
const SHARED_KEYS_MAX: usize = 1024;

/// Applies updates and says what they changed. After an error the replica holds a part of them.
pub(crate) fn apply(contents: &mut Contents, text: &[u8]) -> Result<Vec<RowChange>, serde_json::Error> {
    let mut changes = Vec::new();
    read(contents, text, |change| changes.push(change))?;
    Ok(changes)
}

/// Applies updates to a replica that nobody knows yet.
pub(crate) fn load(contents: &mut Contents, text: &[u8]) -> Result<(), serde_json::Error> {
    read(contents, text, drop)
}

fn read(
    contents: &mut Contents,
    text: &[u8],
    mut changed: impl FnMut(RowChange),
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut keys = Keys::default();
    Tables { contents, keys: &mut keys, changed: &mut changed }.deserialize(&mut json)?;
    json.end()
}

/// Keys of maps, each kept once.
#[derive(Default)]
struct Keys(HashSet<Arc<str>>);

impl Keys {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        if self.0.len() < SHARED_KEYS_MAX {
            self.0.insert(Arc::clone(&new));
        }
        new
    }
}

/// `{table: rows}`
struct Tables<'a, F> {
    contents: &'a mut Contents,
    keys: &'a mut Keys,
    changed: &'a mut F,
}

impl<'de, F: FnMut(RowChange)> DeserializeSeed<'de> for Tables<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(RowChange)> Visitor<'de> for Tables<'_, F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("rows by table")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let schema = self.contents.table(&name).map(|table| Arc::clone(table.schema()));
            let schema =
                schema.ok_or_else(|| M::Error::custom(format!("an update of the unknown table {name}")))?;
            let defaults: Vec<_> = schema.columns.iter().map(ColumnSchema::default_value).collect();
            let (contents, keys, changed) = (&mut *self.contents, &mut *self.keys, &mut *self.changed);
            map.next_value_seed(Rows { contents, keys, changed, schema: &schema, defaults: &defaults })?;
        }
        Ok(())
    }
}

/// `{uuid: update}`
struct Rows<'a, F> {
    contents: &'a mut Contents,
    keys: &'a mut Keys,
    changed: &'a mut F,
    schema: &'a Arc<TableSchema>,
    /// What a server leaves out of a new row.
    defaults: &'a [Datum],
}

impl<'de, F: FnMut(RowChange)> DeserializeSeed<'de> for Rows<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(RowChange)> Visitor<'de> for Rows<'_, F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "rows of {} by uuid", self.schema.name)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(uuid) = map.next_key_seed(UuidText)? {
            let old = self.contents.row(&self.schema.name, uuid).cloned();
            let update = Update {
                schema: self.schema,
                defaults: self.defaults,
                uuid,
                old: old.as_deref(),
                keys: self.keys,
            };
            let new = map.next_value_seed(update)?.map(Arc::new);
            if let Some(change) = self.contents.replace(self.schema, uuid, old, new) {
                (self.changed)(change);
            }
        }
        Ok(())
    }
}

/// `{kind: columns}`: the row as it is afterwards, if there is one.
struct Update<'a> {
    schema: &'a TableSchema,
    defaults: &'a [Datum],
    uuid: Uuid,
    old: Option<&'a Row>,
    keys: &'a mut Keys,
}

impl<'de> DeserializeSeed<'de> for Update<'_> {
    type Value = Option<Row>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Update<'_> {
    type Value = Option<Row>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "an update of {} {}", self.schema.name, self.uuid)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let (schema, uuid) = (self.schema, self.uuid);
        let wrong = |what: &str| M::Error::custom(format!("{what} of {} {uuid}", schema.name));
        let kind = map.next_key::<String>()?.ok_or_else(|| wrong("an empty update"))?;
        let (before, differs) = match (kind.as_str(), self.old) {
            ("initial" | "insert", _) => (self.defaults, false),
            ("modify", Some(old)) => (old.values(), true),
            ("modify", None) => return Err(wrong("a change of what is not there")),
            ("delete", _) => {
                map.next_value::<IgnoredAny>()?;
                return Ok(None);
            }
            _ => return Err(wrong("an update of an unknown kind")),
        };
        let mut values = before.to_vec();
        map.next_value_seed(Columns { schema, differs, values: &mut values, keys: self.keys })?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(wrong("two updates in one"));
        }
        Ok(Some(Row::new(uuid, values)))
    }
}

/// `{column: value}`, put into `values`.
struct Columns<'a> {
    schema: &'a TableSchema,
    /// Whether columns of more than one member tell the difference.
    differs: bool,
    values: &'a mut [Datum],
    keys: &'a mut Keys,
}

impl<'de> DeserializeSeed<'de> for Columns<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Columns<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "columns of {}", self.schema.name)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(position) = map.next_key_seed(ColumnName(self.schema))? {
            let column = &self.schema.columns[position];
            let sent = map.next_value_seed(Value { column, keys: self.keys })?;
            let before = &mut self.values[position];
            *before = if self.differs && column.max > 1 { toggled(before, sent) } else { sent };
        }
        Ok(())
    }
}

/// The name of a column: its position.
struct ColumnName<'a>(&'a TableSchema);

impl<'de> DeserializeSeed<'de> for ColumnName<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ColumnName<'_> {
    type Value = usize;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a column of {}", self.0.name)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        let found = self.0.column(name).map(|(position, _)| position);
        found.ok_or_else(|| E::custom(format!("an update of the unknown column {}.{name}", self.0.name)))
    }
}

/// A uuid as text.
struct UuidText;

impl<'de> DeserializeSeed<'de> for UuidText {
    type Value = Uuid;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Uuid, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for UuidText {
    type Value = Uuid;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a uuid")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Uuid, E> {
        text.parse().map_err(E::custom)
    }
}

/// RFC 7047 `<value>`.
struct Value<'a> {
    column: &'a ColumnSchema,
    keys: &'a mut Keys,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Datum;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Datum, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Datum;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.column.is_map() { "pairs of " } else { "" };
        write!(out, "{what}{} for {}", self.column.key.kind.in_words(), self.column.name)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Datum, E> {
        self.scalar()?.visit_bool(value).map(Datum::Atom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Datum, E> {
        self.scalar()?.visit_i64(value).map(Datum::Atom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Datum, E> {
        self.scalar()?.visit_u64(value).map(Datum::Atom)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Datum, E> {
        self.scalar()?.visit_f64(value).map(Datum::Atom)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Datum, E> {
        self.scalar()?.visit_str(value).map(Datum::Atom)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Datum, S::Error> {
        let tag = seq.next_element::<Tag>()?.ok_or_else(|| S::Error::custom("an empty value"))?;
        let datum = match (tag, &self.column.value) {
            (Tag::Uuid, None) if self.column.key.kind == AtomKind::Uuid => {
                seq.next_element_seed(UuidText)?.map(|uuid| Datum::Atom(Atom::Uuid(uuid)))
            }
            (Tag::Set, None) => {
                let member = Scalar { kind: self.column.key.kind, keys: None };
                seq.next_element_seed(Members(member))?.map(Datum::set)
            }
            (Tag::Map, Some(value)) => {
                let pairs = Pairs { key: self.column.key.kind, value: value.kind, keys: self.keys };
                seq.next_element_seed(pairs)?.map(Datum::map)
            }
            _ => return Err(S::Error::custom(format!("a value of the wrong kind for {}", self.column.name))),
        };
        datum.ok_or_else(|| S::Error::custom("a value without members"))
    }
}

impl Value<'_> {
    /// What stands alone; a map never does.
    fn scalar<E: Error>(&self) -> Result<Scalar<'static>, E> {
        if self.column.is_map() {
            return Err(E::custom(format!("no map for {}", self.column.name)));
        }
        Ok(Scalar { kind: self.column.key.kind, keys: None })
    }
}

/// What an array begins with.
#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tag {
    Set,
    Map,
    Uuid,
}

/// RFC 7047 `<atom>`.
struct Scalar<'a> {
    kind: AtomKind,
    /// Where texts are shared, if they are keys.
    keys: Option<&'a mut Keys>,
}

impl<'de> DeserializeSeed<'de> for Scalar<'_> {
    type Value = Atom;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Atom, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar<'_> {
    type Value = Atom;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.kind.in_words())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Atom, E> {
        match self.kind {
            AtomKind::Boolean => Ok(Atom::Boolean(value)),
            _ => Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Atom, E> {
        match self.kind {
            AtomKind::Integer => Ok(Atom::Integer(value)),
            // As precise as the server itself is about it.
            AtomKind::Real => Ok(Atom::Real(Real(value as f64))),
            _ => Err(E::invalid_type(serde::de::Unexpected::Signed(value), &self)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Atom, E> {
        match (i64::try_from(value), self.kind) {
            (Ok(value), _) => self.visit_i64(value),
            (Err(_), AtomKind::Real) => Ok(Atom::Real(Real(value as f64))),
            (Err(_), _) => Err(E::invalid_type(serde::de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Atom, E> {
        match self.kind {
            AtomKind::Real => Ok(Atom::Real(Real(value))),
            _ => Err(E::invalid_type(serde::de::Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Atom, E> {
        match (self.kind, self.keys) {
            (AtomKind::String, None) => Ok(Atom::String(value.into())),
            (AtomKind::String, Some(keys)) => Ok(Atom::String(keys.share(value))),
            (kind, _) => Err(E::invalid_type(serde::de::Unexpected::Str(value), &kind.in_words())),
        }
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Atom, S::Error> {
        let uuid = match (seq.next_element::<Tag>()?, self.kind) {
            (Some(Tag::Uuid), AtomKind::Uuid) => seq.next_element_seed(UuidText)?,
            _ => None,
        };
        uuid.map(Atom::Uuid).ok_or_else(|| S::Error::invalid_type(serde::de::Unexpected::Seq, &self))
    }
}

/// The members of a set.
struct Members(Scalar<'static>);

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Vec<Atom>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Atom>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Vec<Atom>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the members of a set")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Vec<Atom>, S::Error> {
        let mut members = Vec::new();
        while let Some(atom) = seq.next_element_seed(Scalar { kind: self.0.kind, keys: None })? {
            members.push(atom);
        }
        Ok(members)
    }
}

/// The pairs of a map.
struct Pairs<'a> {
    key: AtomKind,
    value: AtomKind,
    keys: &'a mut Keys,
}

impl<'de> DeserializeSeed<'de> for Pairs<'_> {
    type Value = Vec<(Atom, Atom)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = Vec<(Atom, Atom)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the pairs of a map")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) =
            seq.next_element_seed(Pair { key: self.key, value: self.value, keys: self.keys })?
        {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// One pair of a map.
struct Pair<'a> {
    key: AtomKind,
    value: AtomKind,
    keys: &'a mut Keys,
}

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = (Atom, Atom);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_tuple(2, self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = (Atom, Atom);

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key and a value")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let key = seq.next_element_seed(Scalar { kind: self.key, keys: Some(self.keys) })?;
        let value = seq.next_element_seed(Scalar { kind: self.value, keys: None })?;
        key.zip(value).ok_or_else(|| S::Error::custom("a pair of less than two"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use serde_json::{Value as Json, json};

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn contents() -> Contents {
        let many = |key: Json| json!({"type": {"key": key, "min": 0, "max": "unlimited"}});
        let map = |key: &str, value: Json| json!({"type": {"key": key, "value": value, "min": 0, "max": "unlimited"}});
        let schema = json!({"name": "T", "version": "1", "tables": {"T": {"isRoot": true, "columns": {
            "name": {"type": "string"},
            "up": {"type": {"key": "boolean", "min": 0, "max": 1}},
            "tag": {"type": {"key": "integer", "min": 0, "max": 1}},
            "rate": {"type": "real"},
            "peer": {"type": {"key": {"type": "uuid", "refTable": "T"}, "min": 0, "max": 1}},
            "members": many(json!({"type": "uuid", "refTable": "T"})),
            "words": many(json!("string")),
            "options": map("string", json!("string")),
            "levels": map("integer", json!({"type": "uuid", "refTable": "T"})),
        }}}});
        Contents::new(Arc::new(Schema::parse(&schema).unwrap()))
    }

    fn updates() -> Vec<Json> {
        let uuid = |uuid: Uuid| json!(["uuid", uuid.to_string()]);
        let table = |rows: Json| json!({ "T": rows });
        vec![
            json!({}),
            table(json!({})),
            table(json!({
                A.to_string(): {"initial": {"name": "a \"\u{e9}\\", "up": true, "tag": -7, "rate": 3, "words": "one",
                    "options": ["map", [["k", "v"], ["l", ""]]], "levels": ["map", [[1, uuid(B)]]]}},
                B.to_string(): {"insert": {"name": "b", "rate": 1.5e3, "peer": uuid(A),
                    "members": ["set", [uuid(B), uuid(A)]], "words": ["set", []]}},
            })),
            table(json!({A.to_string(): {"modify": {"words": ["set", ["one", "two"]], "tag": ["set", []],
                "options": ["map", [["k", "v"], ["l", "w"], ["m", "x"]]]}}})),
            table(json!({B.to_string(): {"modify": {"members": uuid(B), "peer": ["set", []]}}})),
            table(json!({B.to_string(): {"modify": {"rate": 1500}}})),
            table(json!({A.to_string(): {"delete": null}, B.to_string(): {"insert": {}}})),
        ]
    }

    #[test]
    fn text_and_tree_are_read_alike() {
        let (mut from_text, mut from_tree) = (contents(), contents());
        for update in updates() {
            let told = apply(&mut from_text, update.to_string().as_bytes()).unwrap();
            assert_eq!(told, from_tree.apply(update.as_object().unwrap()).unwrap(), "{update}");
            assert!(
                from_text.difference(&from_tree).is_empty() && from_tree.difference(&from_text).is_empty()
            );
            for uuid in [A, B] {
                assert_eq!(from_text.referrers(uuid), from_tree.referrers(uuid));
            }
        }
    }

    #[test]
    fn keys_of_maps_are_kept_once() {
        let mut loaded = contents();
        let row = json!({"insert": {"options": ["map", [["key", "value"]]]}});
        load(&mut loaded, json!({"T": {A.to_string(): row, B.to_string(): row}}).to_string().as_bytes())
            .unwrap();
        let key = |uuid| {
            let row = loaded.row("T", uuid).unwrap();
            match loaded.table("T").unwrap().schema().value(row, "options").unwrap().pairs() {
                [(Atom::String(key), _)] => Arc::clone(key),
                other => panic!("{other:?}"),
            }
        };
        assert!(Arc::ptr_eq(&key(A), &key(B)));
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let row = |update: Json| json!({"T": {A.to_string(): update}}).to_string();
        let column = |value: &str| row(json!({ "insert": "@" })).replace("\"@\"", value);
        let mut wrong = vec![
            "[]".to_owned(),
            "{".to_owned(),
            "{} {}".to_owned(),
            json!({"Nope": {}}).to_string(),
            json!({"T": 3}).to_string(),
            json!({"T": {"x": {"insert": {}}}}).to_string(),
            row(json!({})),
            row(json!({"insert": 3})),
            row(json!({"replace": {}})),
            row(json!({"modify": {"name": "x"}})),
            row(json!({"insert": {}, "delete": null})),
        ];
        for value in [
            r#"{"nope":1}"#,
            r#"{"name":1}"#,
            r#"{"name":["set",["a",1]]}"#,
            r#"{"tag":"x"}"#,
            r#"{"tag":1.5}"#,
            r#"{"tag":18446744073709551615}"#,
            r#"{"up":1}"#,
            r#"{"up":null}"#,
            r#"{"rate":"1"}"#,
            r#"{"peer":"00000000-0000-0000-0000-000000000001"}"#,
            r#"{"peer":["uuid","x"]}"#,
            r#"{"peer":["uuid"]}"#,
            r#"{"peer":["uuid","00000000-0000-0000-0000-000000000001",1]}"#,
            r#"{"peer":["named-uuid","x"]}"#,
            r#"{"words":[]}"#,
            r#"{"words":["set"]}"#,
            r#"{"words":["map",[]]}"#,
            r#"{"options":["set",[]]}"#,
            r#"{"options":"x"}"#,
            r#"{"options":["map",[["k"]]]}"#,
            r#"{"options":["map",[["k","v","w"]]]}"#,
            r#"{"options":{"k":"v"}}"#,
        ] {
            wrong.push(column(value));
        }
        for text in wrong {
            assert!(apply(&mut contents(), text.as_bytes()).is_err(), "{text}");
        }
    }
}
