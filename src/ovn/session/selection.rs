//! The part of a database that is kept in memory.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use crate::operation::Name;
use crate::schema::{Schema, TableSchema};

/// A table that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSelection {
    /// Its name. A server without it is taken as it is.
    pub table: Name,
    /// Columns that are kept, as far as the server has them; none for all.
    pub columns: Option<Vec<Name>>,
}

impl TableSelection {
    /// All columns of a table.
    pub fn whole(table: impl Into<Name>) -> Self {
        Self { table: table.into(), columns: None }
    }
}

/// A schema with only what is kept.
pub(super) fn project(schema: &Arc<Schema>, selection: Option<&[TableSelection]>) -> Arc<Schema> {
    let Some(selection) = selection else { return Arc::clone(schema) };
    let tables = selection.iter().filter_map(|selected| {
        let table = schema.table(&selected.table)?;
        let table = match &selected.columns {
            None => Arc::clone(table),
            Some(columns) => Arc::new(project_table(table, columns)),
        };
        Some((Arc::clone(&table.name), table))
    });
    Arc::new(Schema {
        name: Arc::clone(&schema.name),
        version: schema.version.clone(),
        tables: tables.collect(),
    })
}

fn project_table(table: &TableSchema, kept: &[Name]) -> TableSchema {
    let columns: Vec<_> =
        table.columns.iter().filter(|column| kept.contains(&column.name)).cloned().collect();
    let moved = |position: &usize| {
        let name = &table.columns[*position].name;
        columns.binary_search_by(|candidate| candidate.name.cmp(name)).ok()
    };
    // An index of which a column is missing says nothing about the others.
    let indexes = table.indexes.iter().filter_map(|index| index.iter().map(moved).collect()).collect();
    TableSchema { name: Arc::clone(&table.name), is_root: table.is_root, columns, indexes }
}

/// Parameters of the call that asks for the contents from `since` on. `id` names the monitor.
pub(super) fn monitor_params(schema: &Schema, id: &str, since: Uuid) -> Vec<u8> {
    let tables = schema.tables.iter().map(|(name, table)| {
        let columns: Vec<_> = table.columns.iter().map(|column| &*column.name).collect();
        (name.to_string(), json!([{ "columns": columns }]))
    });
    let tables: Map<String, Json> = tables.collect();
    json!([&*schema.name, id, tables, since.to_string()]).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Arc<Schema> {
        let schema = json!({"name": "N", "version": "1.0.0", "tables": {
            "A": {"columns": {"x": {"type": "string"}, "y": {"type": "string"}, "z": {"type": "string"}},
                "indexes": [["y"], ["x", "z"]]},
            "B": {"columns": {"x": {"type": "string"}}},
        }});
        Arc::new(Schema::parse(&schema).unwrap())
    }

    #[test]
    fn what_is_not_selected_is_left_out() {
        let whole = schema();
        assert_eq!(project(&whole, None), whole);
        let selection = [
            TableSelection { table: "A".into(), columns: Some(vec!["z".into(), "y".into(), "nope".into()]) },
            TableSelection::whole("C"),
        ];
        let part = project(&whole, Some(&selection));
        assert_eq!(part.tables.len(), 1, "B is not selected, the server has no C");
        let table = part.table("A").unwrap();
        let names: Vec<_> = table.columns.iter().map(|column| &*column.name).collect();
        assert_eq!(names, ["y", "z"]);
        assert_eq!(table.indexes, [vec![0]], "positions are those of the projection");
        assert_eq!(part.version, "1.0.0");
    }

    #[test]
    fn the_monitor_names_each_column() {
        let params: Json = serde_json::from_slice(&monitor_params(&schema(), "m", Uuid::nil())).unwrap();
        let tables = json!({"A": [{"columns": ["x", "y", "z"]}], "B": [{"columns": ["x"]}]});
        assert_eq!(params, json!(["N", "m", tables, "00000000-0000-0000-0000-000000000000"]));
    }
}
