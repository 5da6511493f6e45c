//! The resources that a server has: the typed ones of [`SPECS`], and one for every table of its schema.
//!
//! Both are the same [`Resource`]; the generic one of a table that is also typed keeps its checks and who writes its columns,
//! so that nothing can be done through the back door.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use uuid::Uuid;

use crate::contents::{Contents, Row, Table};
use crate::schema::{AtomKind, ColumnSchema, Schema, TableSchema};
use crate::value::Datum;

use super::refusal::{Named, Refusal, RefusalKind, quoted};
use super::rules::Rule;
use super::specs::{SPECS, Spec};
use super::syntax::Check;

/// Names in `Address_Set` that start so are ours: fences and markers, not configuration of the network.
pub const OWN_NAMES: &str = "ovncp_";

/// Table of the names of [`OWN_NAMES`].
pub const OWN_NAMES_TABLE: &str = "Address_Set";

/// Most rows that a refusal names.
pub const ROWS_NAMED_MAX: usize = 20;

/// Field of the row's uuid in the JSON of every resource.
pub const ID_FIELD: &str = "id";

/// How a column whose name is [`ID_FIELD`] is called.
const ID_COLUMN_FIELD: &str = "id_column";

/// Who writes a column, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Configuration: clients write it, and the ETag stands for it.
    Configuration,
    /// Holds rows that are resources of their own. Writable, but not part of the ETag, and kept by a PUT that does
    /// not name it.
    Children,
    /// OVN or the server writes it.
    ReadOnly,
}

/// A column of a resource.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON: the column's, but for a column called `id`.
    pub name: Arc<str>,
    /// Who writes it.
    pub role: Role,
    /// Whether a new row needs it.
    pub required: bool,
    /// How its values are checked beyond the schema.
    pub check: Option<Check>,
}

/// Who may hold rows of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Path of the parent's resource; its table for a generic one.
    pub path: Arc<str>,
    /// Field in the child's JSON that names the parent: `switch_id`.
    pub field: Arc<str>,
    /// The parent's table.
    pub table: Arc<str>,
    /// The parent's column that holds the children.
    pub column: Arc<str>,
    /// Segment under the parent: `/switches/{id}/<segment>`.
    pub segment: Arc<str>,
}

/// One kind of things that the API serves: a table with what is known about it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Segment of its path, or its table for a generic one.
    pub path: Arc<str>,
    /// One of them, for people.
    pub title: Arc<str>,
    /// What it is.
    pub about: &'static str,
    /// Its table.
    pub table: Arc<TableSchema>,
    /// Its columns, in the order of the table's.
    pub fields: Vec<Field>,
    /// Who may hold it; empty for rows that live on their own.
    pub parents: Vec<Parent>,
    /// Whether names are kept unique although the schema does not say so.
    pub unique_name: bool,
    /// Checks of several columns together.
    pub rules: &'static [Rule],
    /// Segments of its own under `/{id}/` and the columns whose members they hold.
    pub members: Vec<(&'static str, usize)>,
    name: Option<usize>,
    configuration: Vec<usize>,
}

/// All resources of one server.
#[derive(Debug)]
pub struct Catalogue {
    typed: BTreeMap<&'static str, Arc<Resource>>,
    generic: BTreeMap<Arc<str>, Arc<Resource>>,
    version: String,
}

impl Catalogue {
    /// What a server with this schema has.
    #[must_use]
    pub fn new(schema: &Schema) -> Self {
        let typed = SPECS.iter().filter_map(|spec| {
            let table = schema.table(spec.table)?;
            Some((spec.path, Arc::new(Resource::new(schema, table, spec.path, Some(spec)))))
        });
        let generic = schema.tables.iter().map(|(name, table)| {
            let spec = SPECS.iter().find(|spec| spec.table == &**name);
            (Arc::clone(name), Arc::new(Resource::new(schema, table, name, spec)))
        });
        Self { typed: typed.collect(), generic: generic.collect(), version: schema.version.clone() }
    }

    /// Typed resources that this server has, by path.
    pub fn typed(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.typed.values()
    }

    /// One resource per table of this server, by name.
    pub fn generic(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.generic.values()
    }

    /// The typed resource of this path.
    pub fn by_path(&self, path: &str) -> Result<&Arc<Resource>, Refusal> {
        if let Some(resource) = self.typed.get(path) {
            return Ok(resource);
        }
        match SPECS.iter().find(|spec| spec.path == path) {
            Some(spec) => Err(self.unsupported(spec.table)),
            None => Err(Refusal::not_found("resource", path)),
        }
    }

    /// The resource of any table.
    pub fn by_table(&self, table: &str) -> Result<&Arc<Resource>, Refusal> {
        if let Some(resource) = self.generic.get(table) {
            return Ok(resource);
        }
        match SPECS.iter().find(|spec| spec.table == table) {
            Some(spec) => Err(self.unsupported(spec.table)),
            None => Err(Refusal::not_found("table", table)),
        }
    }

    /// The typed resource of this table if there is one, else the generic one.
    #[must_use]
    pub fn of_table(&self, table: &str) -> Option<&Arc<Resource>> {
        let spec = SPECS.iter().find(|spec| spec.table == table);
        spec.and_then(|spec| self.typed.get(spec.path)).or_else(|| self.generic.get(table))
    }

    /// The resource under `/{parent}/{id}/{segment}` whose rows that parent holds.
    #[must_use]
    pub fn child(&self, parent: &str, segment: &str) -> Option<(&Arc<Resource>, &Parent)> {
        self.typed.values().find_map(|resource| {
            let held =
                resource.parents.iter().find(|held| &*held.path == parent && &*held.segment == segment);
            held.map(|held| (resource, held))
        })
    }

    fn unsupported(&self, table: &str) -> Refusal {
        let detail = format!(
            "the OVN servers here have schema {}, which has no table {table}: it needs a newer OVN",
            self.version
        );
        Refusal::new(RefusalKind::Unsupported, "unsupported_by_schema", detail)
    }
}

impl Resource {
    /// A typed resource, unless the schema lacks its table.
    pub fn typed(schema: &Schema, spec: &'static Spec) -> Option<Self> {
        Some(Self::new(schema, schema.table(spec.table)?, spec.path, Some(spec)))
    }

    /// The resource of any table. Columns, parents and checks of the typed one of that table, if there is one.
    #[must_use]
    pub fn generic(schema: &Schema, table: &Arc<TableSchema>) -> Self {
        let spec = SPECS.iter().find(|spec| spec.table == &*table.name);
        Self::new(schema, table, &table.name, spec)
    }

    fn new(schema: &Schema, table: &Arc<TableSchema>, path: &str, spec: Option<&'static Spec>) -> Self {
        let fields: Vec<_> = table.columns.iter().map(|column| Field::new(schema, column, spec)).collect();
        let configuration =
            (0..fields.len()).filter(|position| fields[*position].role == Role::Configuration);
        let configuration = configuration.collect();
        let name = table.column("name");
        let name = name.filter(|(_, column)| column.key.kind == AtomKind::String && column.max == 1);
        let parents = match spec {
            Some(spec) => typed_parents(schema, spec),
            None => derived_parents(schema, table),
        };
        let members = spec.map_or(&[][..], |spec| spec.members);
        let members =
            members.iter().filter_map(|(segment, column)| Some((*segment, table.column(column)?.0)));
        Self {
            path: path.into(),
            title: spec.map_or(&*table.name, |spec| spec.title).into(),
            about: spec.map_or("A table of the schema without a resource of its own.", |spec| spec.about),
            parents,
            unique_name: spec.is_some_and(|spec| spec.unique_name),
            rules: spec.map_or(&[], |spec| spec.rules),
            members: members.collect(),
            name: name.map(|(position, _)| position),
            configuration,
            fields,
            table: Arc::clone(table),
        }
    }

    /// Position of the column of this field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<usize> {
        // Fields are in the order of the columns, and but for one their names are the columns'.
        let column = if name == ID_COLUMN_FIELD { ID_FIELD } else { name };
        let (position, _) = self.table.column(column)?;
        (*self.fields[position].name == *name).then_some(position)
    }

    /// Position of the column that holds the name, if rows have names.
    #[must_use]
    pub fn name_column(&self) -> Option<usize> {
        self.name
    }

    /// Name of a row, if it has one.
    #[must_use]
    pub fn name_of<'row>(&self, row: &'row Row) -> Option<&'row str> {
        row.get(self.name?).as_str().filter(|name| !name.is_empty())
    }

    /// Positions of the columns that the ETag stands for.
    #[must_use]
    pub fn configuration(&self) -> &[usize] {
        &self.configuration
    }

    /// Whether a name may not be used, because it is ours.
    #[must_use]
    pub fn reserves(&self, name: &str) -> bool {
        &*self.table.name == OWN_NAMES_TABLE && name.starts_with(OWN_NAMES)
    }

    /// Whether the row is ours and not shown.
    #[must_use]
    pub fn hides(&self, row: &Row) -> bool {
        self.name_of(row).is_some_and(|name| self.reserves(name))
    }

    /// The rows of this resource, as they are.
    pub fn rows<'contents>(&self, contents: &'contents Contents) -> Result<&'contents Table, Refusal> {
        contents.table(&self.table.name).ok_or_else(|| {
            let detail = format!("the OVN servers here have no table {}", self.table.name);
            Refusal::new(RefusalKind::Unsupported, "unsupported_by_schema", detail)
        })
    }

    /// The row that a path names: by its uuid, or by its name if that is unique.
    pub fn find(&self, contents: &Contents, id: &str) -> Result<Arc<Row>, Refusal> {
        let rows = self.rows(contents)?;
        let by_uuid = Uuid::try_parse(id).ok().and_then(|uuid| rows.row(uuid));
        let found = match (by_uuid, rows.by_name(id)) {
            (Some(row), _) => Some(row),
            (None, [one]) => rows.row(*one),
            (None, []) => None,
            (None, several) if !self.reserves(id) => {
                let detail =
                    format!("{} {} have the name {}: use the id", several.len(), self.title, quoted(id));
                let rows =
                    several.iter().take(ROWS_NAMED_MAX).map(|uuid| named(contents, &self.table.name, *uuid));
                return Err(
                    Refusal::new(RefusalKind::Conflict, "ambiguous_name", detail).with_rows(rows.collect())
                );
            }
            _ => None,
        };
        found.filter(|row| !self.hides(row)).cloned().ok_or_else(|| Refusal::not_found(&self.title, id))
    }

    /// The rows that hold this one: which of [`parents`](Self::parents), and the row.
    #[must_use]
    pub fn holders(&self, contents: &Contents, uuid: Uuid) -> Vec<(usize, Uuid)> {
        if self.parents.is_empty() {
            return Vec::new();
        }
        let mut holders: Vec<_> = contents
            .referrers(uuid)
            .iter()
            .filter_map(|referrer| {
                let parent = self
                    .parents
                    .iter()
                    .position(|parent| parent.table == referrer.table && parent.column == referrer.column);
                Some((parent?, referrer.uuid))
            })
            .collect();
        holders.sort_unstable();
        holders
    }
}

impl Field {
    fn new(schema: &Schema, column: &ColumnSchema, spec: Option<&'static Spec>) -> Self {
        let named = |columns: &[&str]| columns.contains(&&*column.name);
        let name = if &*column.name == ID_FIELD { ID_COLUMN_FIELD.into() } else { Arc::clone(&column.name) };
        let role = if column.ephemeral || spec.is_some_and(|spec| named(spec.read_only)) {
            Role::ReadOnly
        } else if holds_children(schema, column, spec) {
            Role::Children
        } else {
            Role::Configuration
        };
        let check = spec.and_then(|spec| spec.checks.iter().find(|(checked, _)| *checked == &*column.name));
        Self {
            name,
            role,
            required: role != Role::ReadOnly
                && (spec.is_some_and(|spec| named(spec.required)) || !has_default(column)),
            check: check.map(|(_, check)| *check),
        }
    }
}

/// Whether the value that an insert gives a column that it does not name is one that the column may have.
fn has_default(column: &ColumnSchema) -> bool {
    column.min == 0
        || match column.default_value() {
            Datum::Atom(atom) => column.key.ref_table.is_none() && column.key.check(&atom).is_ok(),
            Datum::Set(_) | Datum::Map(_) => false,
        }
}

/// Whether the rows that this column refers to live because of it, and are not meant to be shared.
fn holds_children(schema: &Schema, column: &ColumnSchema, spec: Option<&Spec>) -> bool {
    let Some(target) = column.key.ref_table.as_ref().filter(|_| column.key.ref_strong) else { return false };
    let dependent = || schema.table(target).is_some_and(|target| !target.is_root);
    let child = SPECS.iter().find(|child| child.table == &**target);
    match (spec, child) {
        (Some(spec), Some(child)) => {
            child.parents.iter().any(|parent| parent.path == spec.path && parent.column == &*column.name)
        }
        // A PUT that does not know of them must not delete them: the listeners of the server in `NB_Global.connections`.
        _ => dependent(),
    }
}

fn typed_parents(schema: &Schema, spec: &Spec) -> Vec<Parent> {
    let parent = |held: &super::specs::ParentSpec| {
        let holder = SPECS.iter().find(|holder| holder.path == held.path)?;
        let table = schema.table(holder.table)?;
        let (_, column) = table.column(held.column)?;
        Some(Parent {
            path: holder.path.into(),
            field: format!("{}_id", holder.singular).into(),
            table: Arc::clone(&table.name),
            column: Arc::clone(&column.name),
            segment: held.segment.into(),
        })
    };
    spec.parents.iter().filter_map(parent).collect()
}

/// For a table without a typed resource: every column that refers to it strongly, if its rows need that to live.
fn derived_parents(schema: &Schema, table: &TableSchema) -> Vec<Parent> {
    if table.is_root {
        return Vec::new();
    }
    let mut parents = Vec::new();
    for holder in schema.tables.values() {
        let holds = |column: &&ColumnSchema| {
            column.value.is_none()
                && column.key.ref_strong
                && column.key.ref_table.as_ref() == Some(&table.name)
        };
        for column in holder.columns.iter().filter(holds) {
            parents.push(Parent {
                path: Arc::clone(&holder.name),
                field: format!("{}.{}", holder.name, column.name).into(),
                table: Arc::clone(&holder.name),
                column: Arc::clone(&column.name),
                segment: Arc::clone(&column.name),
            });
        }
    }
    parents
}

/// A row, for people.
pub(crate) fn named(contents: &Contents, table: &str, uuid: Uuid) -> Named {
    let name = contents.table(table).and_then(|rows| rows.name_of(rows.row(uuid)?).map(str::to_owned));
    Named { table: table.to_owned(), column: None, id: uuid, name }
}

/// A schema of OVN 26.03 or later, which knows more tables than any server tried here: what documents and the description of
/// the API are made from. (`ovn-nb.ovsschema` of <https://github.com/ovn-org/ovn>, Apache-2.0, as it is there.)
#[must_use]
pub fn reference() -> &'static Arc<Schema> {
    static NEWEST: LazyLock<Arc<Schema>> =
        LazyLock::new(|| parsed(include_str!("../schemas/ovn-nb-7.19.0.ovsschema")));
    &NEWEST
}

/// The schema of OVN 23.03, the oldest that is supported. From the same place.
#[must_use]
pub fn oldest_reference() -> &'static Arc<Schema> {
    static OLDEST: LazyLock<Arc<Schema>> =
        LazyLock::new(|| parsed(include_str!("../schemas/ovn-nb-7.0.0.ovsschema")));
    &OLDEST
}

fn parsed(text: &str) -> Arc<Schema> {
    let parsed = serde_json::from_str(text).ok().and_then(|json| Schema::parse(&json).ok());
    Arc::new(parsed.expect("the schemas that are part of the source are well formed"))
}

/// Values of several columns, for rules.
pub(crate) type Lookup<'a> = HashMap<&'a str, &'a Datum>;
