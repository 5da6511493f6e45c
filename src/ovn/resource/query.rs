//! Lists: which rows, in what order, which page, which members.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `name=x` | the field, as text, is `x`; of a set: one of its members is; `null` or empty: it is empty |
//! | `name=a&name=b` | one of both |
//! | `name~=web` | contains, without regard to case |
//! | `name^=web` | starts with |
//! | `priority>=5`, `>`, `<`, `<=` | a number, or a text, in that order |
//! | `name!=x` | none of the above equals |
//! | `external_ids.key=v` | the value under this key of a map (the part after the first dot is the key) |
//! | `external_ids.key` | the map has the key |
//! | `switch_id=..` | what holds the row: id or name |
//! | `sort=name,-priority` | by these fields, `-` for descending; then by id |
//! | `fields=name,addresses` | only these, and `id` |
//! | `limit=100`, `cursor=..` | one page |
//!
//! In a URL the parameter's name takes all up to the `=`: `name~=web` has the name `name~`.

use std::cmp::Ordering;
use std::sync::Arc;

use uuid::Uuid;

use crate::contents::{Contents, Row};
use crate::value::{Atom, Datum, Real};

use super::catalogue::{ID_FIELD, Parent, Resource};
use super::refusal::{Problems, Refusal, RefusalKind, quoted};
use super::view::{Selection, View};

/// Rows of a page when the client does not say.
pub const LIMIT_DEFAULT: usize = 100;

/// Most rows of a page.
pub const LIMIT_MAX: usize = 10_000;

/// Most conditions of one list.
pub const CONDITIONS_MAX: usize = 32;

/// Most fields that a list is sorted by.
pub const SORT_FIELDS_MAX: usize = 4;

/// Longest parameter, in bytes.
pub const PARAMETER_BYTES_MAX: usize = 4_096;

/// Bytes of a cursor in text: a uuid and a hash of the question in hexadecimal.
const CURSOR_BYTES: usize = 48;

/// What a list is asked for.
#[derive(Clone, Debug)]
pub struct Query {
    conditions: Vec<Condition>,
    sort: Vec<(Key, bool)>,
    selection: Option<Arc<Selection>>,
    limit: usize,
    after: Option<Uuid>,
    /// Stands for conditions and order, so that a cursor is not used with others.
    fingerprint: u64,
}

/// One page.
#[derive(Debug)]
pub struct Page {
    /// Its rows.
    pub items: Vec<View>,
    /// How many rows there are on all pages.
    pub total: usize,
    /// For the next page; none on the last one.
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug)]
struct Condition {
    key: Key,
    comparison: Comparison,
    /// One of these.
    values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Id,
    Column(usize),
    Entry(usize, String),
    Parent(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Exists,
}

/// Parameters that are not conditions on fields, and not ours: the caller's own.
const FOREIGN: &[&str] = &["consistency", "wait", "timeout_ms"];

impl Query {
    /// From the parameters of a URL, decoded.
    pub fn parse(resource: &Resource, parameters: &[(String, String)]) -> Result<Self, Refusal> {
        let mut query = Self {
            conditions: Vec::new(),
            sort: Vec::new(),
            selection: None,
            limit: LIMIT_DEFAULT,
            after: None,
            fingerprint: 0,
        };
        let mut problems = Problems::default();
        let mut cursor = None;
        let mut asked = String::new();
        for (name, value) in parameters {
            if name.len() + value.len() > PARAMETER_BYTES_MAX {
                let problem = format!("is longer than {PARAMETER_BYTES_MAX} bytes");
                problems.add(quoted(name), "too_long", problem);
                continue;
            }
            let (name, value) = (name.as_str(), value.as_str());
            let result = match name {
                "limit" => query.parse_limit(value),
                "cursor" => {
                    cursor = Some(value);
                    Ok(())
                }
                "sort" => query.parse_sort(resource, value),
                "fields" => query.parse_fields(resource, value),
                name if FOREIGN.contains(&name) => continue,
                name => query.parse_condition(resource, name, value),
            };
            if let Err(problem) = result {
                problems.add(name, "invalid_parameter", problem);
            }
            if !matches!(name, "limit" | "cursor" | "fields") {
                asked += &format!("{}:{name}{}:{value}", name.len(), value.len());
            }
        }
        query.fingerprint = fingerprint(&resource.path, &asked);
        if let Some(cursor) = cursor
            && let Err(problem) = query.parse_cursor(cursor)
        {
            problems.add("cursor", "invalid_cursor", problem);
        }
        problems.finish().map(|()| query).map_err(|mut refusal| {
            refusal.kind = RefusalKind::Malformed;
            refusal.code = "invalid_parameter";
            refusal
        })
    }

    /// The rows that fulfil the conditions, in the order of their ids. To be called with the replica at hand: it does
    /// only what needs it.
    pub fn collect(&self, resource: &Arc<Resource>, contents: &Contents) -> Result<Vec<View>, Refusal> {
        let table = resource.rows(contents)?;
        let view = |row: &Arc<Row>| View::new(resource, row, contents);
        // One name is found without looking through all of them.
        let by_name = self.conditions.iter().find_map(|condition| {
            let name = Key::Column(resource.name_column()?);
            let found = condition.key == name && condition.comparison == Comparison::Equal;
            found.then_some(condition.values.as_slice())
        });
        let keep = |row: &Arc<Row>| !resource.hides(row) && self.holds(resource, contents, row);
        let views = match by_name {
            Some([name]) if !name.is_empty() && name != "null" => {
                let rows = table.by_name(name).iter().filter_map(|id| table.row(*id));
                rows.filter(|row| keep(row)).map(view).collect()
            }
            _ => table.rows().filter(|row| keep(row)).map(view).collect(),
        };
        Ok(views)
    }

    /// Only the rows that one parent holds, likewise.
    pub fn collect_held(
        &self,
        resource: &Arc<Resource>,
        parent: &Parent,
        holder: &Row,
        contents: &Contents,
    ) -> Result<Vec<View>, Refusal> {
        let table = resource.rows(contents)?;
        let held =
            contents.table(&parent.table).and_then(|holders| holders.schema().value(holder, &parent.column));
        let ids = held.into_iter().flat_map(|held| held.atoms().iter().filter_map(Atom::as_uuid));
        let rows = ids.filter_map(|id| table.row(id));
        let rows = rows.filter(|row| !resource.hides(row) && self.holds(resource, contents, row));
        Ok(rows.map(|row| View::new(resource, row, contents)).collect())
    }

    /// Sorts, and cuts out one page. Needs no replica.
    pub fn page(&self, mut views: Vec<View>) -> Result<Page, Refusal> {
        views.sort_unstable_by(|a, b| self.compare(a, b));
        let total = views.len();
        let start = match self.after {
            None => 0,
            Some(after) => match views.iter().position(|view| view.row.uuid == after) {
                Some(position) => position + 1,
                // In the order of the ids there is a place for one that is gone.
                None if self.sort.is_empty() => views.partition_point(|view| view.row.uuid < after),
                None => {
                    let detail = "the last row of the page before is gone or no longer fits: list from the start again";
                    return Err(Refusal::new(RefusalKind::Conflict, "cursor_expired", detail));
                }
            },
        };
        let mut items: Vec<_> = views.drain(start..total.min(start + self.limit)).collect();
        let more = start + items.len() < total;
        let next_cursor = items.last().filter(|_| more).map(|last| self.cursor(last.row.uuid));
        for view in &mut items {
            view.selection.clone_from(&self.selection);
        }
        Ok(Page { items, total, next_cursor })
    }

    /// Whether more than the members of rows is asked for.
    #[must_use]
    pub fn selection(&self) -> Option<&Arc<Selection>> {
        self.selection.as_ref()
    }

    fn parse_limit(&mut self, value: &str) -> Result<(), String> {
        let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        self.limit =
            limit.ok_or_else(|| format!("must be a number from 1 to {LIMIT_MAX}, not {}", quoted(value)))?;
        Ok(())
    }

    fn parse_cursor(&mut self, value: &str) -> Result<(), String> {
        let wrong = || "must be the next_cursor of the page before".to_owned();
        if value.len() != CURSOR_BYTES || !value.is_ascii() {
            return Err(wrong());
        }
        let (id, fingerprint) = value.split_at(32);
        let id = Uuid::try_parse(id).map_err(|_| wrong())?;
        let fingerprint = u64::from_str_radix(fingerprint, 16).map_err(|_| wrong())?;
        if fingerprint != self.fingerprint {
            return Err(
                "belongs to a list with other conditions or another order: repeat those too".to_owned()
            );
        }
        self.after = Some(id);
        Ok(())
    }

    fn cursor(&self, last: Uuid) -> String {
        format!("{}{:016x}", last.simple(), self.fingerprint)
    }

    fn parse_sort(&mut self, resource: &Resource, value: &str) -> Result<(), String> {
        for word in value.split(',').filter(|word| !word.is_empty()) {
            let (name, descending) = match word.strip_prefix('-') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let key = key(resource, name)?;
            if self.sort.len() == SORT_FIELDS_MAX {
                return Err(format!("must name at most {SORT_FIELDS_MAX} fields"));
            }
            self.sort.push((key, descending));
        }
        Ok(())
    }

    fn parse_fields(&mut self, resource: &Resource, value: &str) -> Result<(), String> {
        let mut selection = Selection {
            name: false,
            columns: vec![false; resource.fields.len()],
            parents: vec![false; resource.parents.len()],
        };
        for name in value.split(',').filter(|name| !name.is_empty()) {
            if name == "name" && resource.name_column().is_none() {
                selection.name = true;
                continue;
            }
            match key(resource, name)? {
                Key::Id => {}
                Key::Column(column) => selection.columns[column] = true,
                Key::Parent(parent) => selection.parents[parent] = true,
                Key::Entry(..) => return Err(format!("{} is part of a field: name the field", quoted(name))),
            }
        }
        self.selection = Some(Arc::new(selection));
        Ok(())
    }

    fn parse_condition(&mut self, resource: &Resource, name: &str, value: &str) -> Result<(), String> {
        const SIGNS: &[(char, Comparison)] = &[
            ('!', Comparison::NotEqual),
            ('~', Comparison::Contains),
            ('^', Comparison::StartsWith),
            ('<', Comparison::AtMost),
            ('>', Comparison::AtLeast),
        ];
        let signed =
            SIGNS.iter().find_map(|(sign, comparison)| Some((name.strip_suffix(*sign)?, *comparison)));
        let (field, comparison, value) = match signed {
            Some((field, comparison)) => (field, comparison, value),
            // `priority>5` is a name without a value.
            None => match name.split_once(['<', '>']) {
                Some((field, bound)) if value.is_empty() => {
                    let comparison = if name[field.len()..].starts_with('<') {
                        Comparison::Less
                    } else {
                        Comparison::Greater
                    };
                    (field, comparison, bound)
                }
                _ => (name, Comparison::Equal, value),
            },
        };
        let key = key(resource, field)?;
        let comparison = match (&key, comparison) {
            (Key::Entry(..), Comparison::Equal) if value.is_empty() => Comparison::Exists,
            (_, comparison) => comparison,
        };
        if let Key::Column(column) = key
            && resource.table.columns[column].is_map()
        {
            return Err(format!("must name a key of the map, as in {field}.key"));
        }
        let same = |known: &&mut Condition| known.key == key && known.comparison == comparison;
        if let Some(known) = self.conditions.iter_mut().find(same) {
            known.values.push(value.to_owned());
        } else {
            self.conditions.push(Condition { key, comparison, values: vec![value.to_owned()] });
        }
        let count: usize = self.conditions.iter().map(|condition| condition.values.len()).sum();
        if count > CONDITIONS_MAX {
            Err(format!("is one condition too many: at most {CONDITIONS_MAX}"))
        } else {
            Ok(())
        }
    }

    fn holds(&self, resource: &Resource, contents: &Contents, row: &Row) -> bool {
        self.conditions.iter().all(|condition| match &condition.key {
            Key::Id => condition.holds_for(&[Atom::Uuid(row.uuid)]),
            Key::Column(column) => condition.holds_for(row.get(*column).atoms()),
            Key::Entry(column, key) => {
                let pairs = row.get(*column).pairs();
                let value = pairs.iter().find(|(found, _)| match found {
                    Atom::String(found) => **found == **key,
                    other => other.to_string() == *key,
                });
                condition.holds_for(value.map_or(&[], |(_, value)| std::slice::from_ref(value)))
            }
            Key::Parent(parent) => {
                let holders = resource.holders(contents, row.uuid);
                let table = contents.table(&resource.parents[*parent].table);
                let mut names = Vec::new();
                for (_, holder) in holders.iter().filter(|(held, _)| held == parent) {
                    names.push(Atom::Uuid(*holder));
                    let name = table.and_then(|table| table.name_of(table.row(*holder)?));
                    names.extend(name.map(Atom::from));
                }
                condition.holds_for(&names)
            }
        })
    }

    fn compare(&self, a: &View, b: &View) -> Ordering {
        let mut order = Ordering::Equal;
        for (key, descending) in &self.sort {
            order = match key {
                Key::Id => a.row.uuid.cmp(&b.row.uuid),
                Key::Column(column) => compare_data(a.row.get(*column), b.row.get(*column)),
                Key::Entry(column, key) => a.row.get(*column).get(key).cmp(&b.row.get(*column).get(key)),
                Key::Parent(parent) => {
                    let holder =
                        |view: &View| view.holders.iter().find(|(held, _)| held == parent).map(|(_, id)| *id);
                    holder(a).cmp(&holder(b))
                }
            };
            if *descending {
                order = order.reverse();
            }
            if order != Ordering::Equal {
                return order;
            }
        }
        order.then_with(|| a.row.uuid.cmp(&b.row.uuid))
    }
}

/// Nothing comes first, then values.
fn compare_data(a: &Datum, b: &Datum) -> Ordering {
    a.atoms().cmp(b.atoms()).then_with(|| a.pairs().cmp(b.pairs()))
}

impl Condition {
    fn holds_for(&self, atoms: &[Atom]) -> bool {
        let any = |test: &dyn Fn(&Atom, &str) -> bool| {
            self.values.iter().any(|value| atoms.iter().any(|atom| test(atom, value)))
        };
        let equal = || {
            let empty = |value: &String| atoms.is_empty() && (value.is_empty() || value == "null");
            any(&equals) || self.values.iter().any(empty)
        };
        match self.comparison {
            Comparison::Exists => !atoms.is_empty(),
            Comparison::Equal => equal(),
            Comparison::NotEqual => !equal(),
            Comparison::Contains => {
                any(&|atom, value| atom.to_string().to_lowercase().contains(&value.to_lowercase()))
            }
            Comparison::StartsWith => any(&|atom, value| match atom {
                Atom::String(text) => text.starts_with(value),
                other => other.to_string().starts_with(value),
            }),
            Comparison::Less => any(&|atom, value| order(atom, value).is_some_and(Ordering::is_lt)),
            Comparison::AtMost => any(&|atom, value| order(atom, value).is_some_and(Ordering::is_le)),
            Comparison::Greater => any(&|atom, value| order(atom, value).is_some_and(Ordering::is_gt)),
            Comparison::AtLeast => any(&|atom, value| order(atom, value).is_some_and(Ordering::is_ge)),
        }
    }
}

fn equals(atom: &Atom, value: &str) -> bool {
    match atom {
        Atom::String(text) => **text == *value,
        Atom::Uuid(id) => Uuid::try_parse(value).is_ok_and(|value| value == *id),
        Atom::Integer(number) => value.parse() == Ok(*number),
        Atom::Real(number) => value.parse().is_ok_and(|value: f64| Real(value) == *number),
        Atom::Boolean(flag) => value.parse() == Ok(*flag),
    }
}

fn order(atom: &Atom, value: &str) -> Option<Ordering> {
    match atom {
        Atom::Integer(number) => Some(number.cmp(&value.parse().ok()?)),
        Atom::Real(number) => Some(number.cmp(&Real(value.parse().ok()?))),
        Atom::String(text) => Some((**text).cmp(value)),
        Atom::Uuid(_) | Atom::Boolean(_) => None,
    }
}

fn key(resource: &Resource, name: &str) -> Result<Key, String> {
    if name == ID_FIELD {
        return Ok(Key::Id);
    }
    if let Some(column) = resource.field(name) {
        return Ok(Key::Column(column));
    }
    if let Some(parent) = resource.parents.iter().position(|parent| *parent.field == *name) {
        return Ok(Key::Parent(parent));
    }
    if let Some((field, entry)) = name.split_once('.')
        && let Some(column) = resource.field(field)
    {
        if resource.table.columns[column].is_map() {
            return Ok(Key::Entry(column, entry.to_owned()));
        }
        return Err(format!("{} is no map: it has no keys", quoted(field)));
    }
    Err(format!("{} is no field of a {}", quoted(name), resource.title))
}

/// FNV-1a: stable between processes, and nothing depends on it being hard to guess.
fn fingerprint(path: &str, asked: &str) -> u64 {
    let bytes = path.bytes().chain([0]).chain(asked.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
