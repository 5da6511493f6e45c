//! The southbound database, read only: what OVN made of the northbound one, and what hypervisors report.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use ovncp_ovn::Uuid;
use ovncp_ovn::contents::{Contents, Row, Table};
use ovncp_ovn::schema::{ColumnSchema, TableSchema};
use ovncp_ovn::value::Datum;
use serde_json::{Map, Value, json};

use super::resources::aged;
use crate::api::Shared;
use crate::api::error::{ApiError, Code};
use crate::api::extract::page_limit;
use crate::services::reads::Consistency;

/// Views and the tables behind them. Every other table goes by its own name.
const VIEWS: [(&str, &str); 10] = [
    ("chassis", "Chassis"),
    ("port-bindings", "Port_Binding"),
    ("datapaths", "Datapath_Binding"),
    ("flows", "Logical_Flow"),
    ("mac-bindings", "MAC_Binding"),
    ("multicast-groups", "Multicast_Group"),
    ("address-sets", "Address_Set"),
    ("port-groups", "Port_Group"),
    ("load-balancers", "Load_Balancer"),
    ("encaps", "Encap"),
];
/// Most columns that one request compares.
const FILTERS_MAX: usize = 8;

/// What a list is asked for.
#[derive(Default)]
struct Ask {
    limit: Option<usize>,
    after: Option<Uuid>,
    consistency: Consistency,
    filters: Vec<(String, String)>,
}

impl Ask {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let uri = format!("/?{query}").parse::<axum::http::Uri>();
        let uri = uri.map_err(|error| ApiError::new(Code::MalformedRequest, error.to_string()))?;
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
        let pairs = pairs.map_err(|error| ApiError::new(Code::MalformedRequest, error.body_text()))?.0;
        let mut ask = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "limit" => {
                    ask.limit = Some(value.parse().map_err(|_| ApiError::invalid("limit", "is no number"))?);
                }
                "cursor" => {
                    let wrong = |_| ApiError::invalid("cursor", "is none of our cursors");
                    ask.after = Some(value.parse().map_err(wrong)?);
                }
                "consistency" => {
                    ask.consistency = match value.as_str() {
                        "local" => Consistency::Local,
                        "linearizable" => Consistency::Linearizable,
                        _ => return Err(ApiError::invalid("consistency", "is linearizable or local")),
                    };
                }
                _ => ask.filters.push((name, value)),
            }
        }
        if ask.filters.len() > FILTERS_MAX {
            return Err(ApiError::invalid("query", format!("compares more than {FILTERS_MAX} columns")));
        }
        Ok(ask)
    }
}

/// A column, or one key of a map (`external_ids.name`), that must have a value.
struct Filter {
    position: usize,
    key: Option<String>,
    value: String,
}

impl Filter {
    fn parse(table: &TableSchema, name: &str, value: String) -> Result<Self, ApiError> {
        let (column, key) = match name.split_once('.') {
            Some((column, key)) => (column, Some(key.to_owned())),
            None => (name, None),
        };
        match table.column(column) {
            Some((position, schema)) if schema.is_map() == key.is_some() => Ok(Self { position, key, value }),
            Some((_, schema)) if schema.is_map() => {
                Err(ApiError::invalid(name, "is a map: compare one key of it, as in external_ids.name=x"))
            }
            Some(_) => Err(ApiError::invalid(name, "is no map: it has no keys")),
            None => Err(ApiError::invalid(name, format!("is no column of {}", table.name))),
        }
    }

    /// Equal as text; of a set any member.
    fn takes(&self, row: &Row) -> bool {
        let datum = row.get(self.position);
        match &self.key {
            Some(key) => datum.get(key) == Some(self.value.as_str()),
            None => datum.atoms().iter().any(|atom| atom.to_string() == self.value),
        }
    }
}

fn table_name(view: &str) -> &str {
    VIEWS.iter().find(|(name, _)| *name == view).map_or(view, |(_, table)| table)
}

fn find<'a>(contents: &'a Contents, view: &str) -> Result<&'a Table, ApiError> {
    contents.table(table_name(view)).ok_or_else(|| {
        let views: Vec<_> = VIEWS.iter().map(|(name, _)| *name).collect();
        let detail = format!("{view:?} is neither a view nor a table of the southbound database");
        ApiError::new(Code::UnknownTable, detail).with("views", views)
    })
}

fn shown(table: &TableSchema, row: &Row) -> Value {
    let columns = table.columns.iter().zip(row.values());
    let columns = columns
        .map(|(column, value): (&ColumnSchema, &Datum)| (column.name.to_string(), value.to_plain(column)));
    let mut shown = Map::from_iter([("id".to_owned(), Value::from(row.uuid.to_string()))]);
    shown.extend(columns);
    Value::Object(shown)
}

/// Lists rows of the southbound database: `chassis`, `port-bindings`, `datapaths`, `flows`, `mac-bindings`,
/// `multicast-groups`, `address-sets`, `port-groups`, `load-balancers`, `encaps`, or any of its tables by name. Further
/// parameters compare columns: `?pipeline=ingress`, `?external_ids.name=blue`. In the order of their ids.
#[utoipa::path(get, path = "/api/v1/ovn/sb/{view}", tag = "network", operation_id = "list_southbound",
    params(("view" = String, Path, description = "View or table."),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if absent."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("consistency" = Option<crate::api::extract::ConsistencyParam>, Query, description = "How fresh the read must be.")),
    responses((status = 200, body = Object, description = "`rows`, `count`, `next_cursor`."),
        (status = 404, description = "`unknown_table`")))]
pub(super) async fn list(
    State(app): State<Shared>,
    Path(view): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let ask = Ask::parse(query.as_deref().unwrap_or_default())?;
    let limit = page_limit(ask.limit)?;
    let look = |contents: &Contents| {
        let table = find(contents, &view)?;
        let filters =
            ask.filters.iter().map(|(name, value)| Filter::parse(table.schema(), name, value.clone()));
        let filters = filters.collect::<Result<Vec<_>, _>>()?;
        let after = ask.after.unwrap_or(Uuid::nil());
        let rows = table.rows_after(after).filter(|row| filters.iter().all(|filter| filter.takes(row)));
        let rows: Vec<Arc<Row>> = rows.take(limit + 1).cloned().collect();
        Ok::<_, ApiError>((Arc::clone(table.schema()), rows))
    };
    let seen = app.network.read_southbound(ask.consistency, look).await?;
    let (schema, mut rows) = seen.value?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.uuid.to_string());
    let rows: Vec<_> = rows.iter().map(|row| shown(&schema, row)).collect();
    let body = json!({"count": rows.len(), "rows": rows, "next_cursor": next});
    Ok(aged(seen.age, Json(body).into_response()))
}

/// Shows one row of the southbound database.
#[utoipa::path(get, path = "/api/v1/ovn/sb/{view}/{id}", tag = "network", operation_id = "get_southbound",
    params(("view" = String, Path, description = "View or table."), ("id" = String, Path, description = "The row's uuid."),
        ("consistency" = Option<crate::api::extract::ConsistencyParam>, Query, description = "How fresh the read must be.")),
    responses((status = 200, body = Object, description = "The row."),
        (status = 404, description = "`unknown_table` or `unknown_resource`")))]
pub(super) async fn get(
    State(app): State<Shared>,
    Path((view, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let ask = Ask::parse(query.as_deref().unwrap_or_default())?;
    let unknown = || ApiError::new(Code::UnknownResource, format!("there is no {view} {id:?}"));
    let uuid: Uuid = id.parse().map_err(|_| unknown())?;
    let look = |contents: &Contents| {
        let table = find(contents, &view)?;
        let row = table.row(uuid).ok_or_else(unknown)?;
        Ok::<_, ApiError>((Arc::clone(table.schema()), Arc::clone(row)))
    };
    let seen = app.network.read_southbound(ask.consistency, look).await?;
    let (schema, row) = seen.value?;
    Ok(aged(seen.age, Json(shown(&schema, &row)).into_response()))
}
