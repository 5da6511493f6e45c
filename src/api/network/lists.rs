//! Lists of rows: filtered, sorted, paged.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ovncp_ovn::contents::Contents;
use ovncp_ovn::resource::{Catalogue, Page, Query as RowQuery, Refusal, Resource};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::problem::problem;
use super::resources::{OneQuery, aged, answer, plural};
use super::route::{Kind, Route};
use crate::api::Shared;
use crate::api::error::{ApiError, Code};
use crate::api::extract::{ConsistencyParam, Query};
use crate::services::reads::Consistency;

/// Longest query string, in bytes.
const QUERY_BYTES_MAX: usize = 8_192;

/// Rows of a resource or table, or those under one of its rows.
pub(super) async fn list(
    State(app): State<Shared>,
    route: Route,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (pairs, consistency) = pairs(query.as_deref().unwrap_or_default())?;
    let look = |contents: &Contents, catalogue: &Arc<Catalogue>| {
        let (resource, parent) = route.collection(catalogue)?;
        let query = RowQuery::parse(resource, &pairs)?;
        let views = match parent {
            None => query.collect(resource, contents)?,
            Some(parent) => {
                let holder =
                    route.resource(catalogue)?.find(contents, route.id.as_deref().unwrap_or_default())?;
                query.collect_held(resource, parent, &holder, contents)?
            }
        };
        Ok::<_, Refusal>((Arc::clone(resource), query, views))
    };
    let ((resource, query, views), age) = answer(app.network.read(consistency, look).await?)?;
    // Sorted and cut without holding the replica.
    let page = query.page(views).map_err(problem)?;
    let name = match &route.kind {
        Kind::Typed(_) => plural(&resource),
        Kind::Table(_) => "rows".to_owned(),
    };
    Ok(aged(age, Json(ListBody { name, page }).into_response()))
}

/// A page, written without a tree of values in between: it may have ten thousand rows.
struct ListBody {
    name: String,
    page: Page,
}

impl Serialize for ListBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry(&self.name, &self.page.items)?;
        map.serialize_entry("count", &self.page.items.len())?;
        map.serialize_entry("next_cursor", &self.page.next_cursor)?;
        map.end()
    }
}

/// The parameters of a query, without `consistency`.
fn pairs(query: &str) -> Result<(Vec<(String, String)>, Consistency), ApiError> {
    if query.len() > QUERY_BYTES_MAX {
        let detail = format!("the query is longer than {QUERY_BYTES_MAX} bytes");
        return Err(ApiError::new(Code::MalformedRequest, detail));
    }
    let uri = format!("/?{query}").parse::<axum::http::Uri>();
    let uri = uri.map_err(|error| ApiError::new(Code::MalformedRequest, error.to_string()))?;
    let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    let parsed = parsed.map_err(|error| ApiError::new(Code::MalformedRequest, error.body_text()))?;
    let mut consistency = Consistency::default();
    let mut rest = Vec::new();
    for (name, value) in parsed.0 {
        if name != "consistency" {
            rest.push((name, value));
            continue;
        }
        consistency = match value.as_str() {
            "linearizable" => ConsistencyParam::Linearizable.into(),
            "local" => ConsistencyParam::Local.into(),
            _ => {
                let detail = "consistency is linearizable or local";
                return Err(ApiError::new(Code::MalformedRequest, detail).with("field", "consistency"));
            }
        };
    }
    Ok((rest, consistency))
}

/// One table of the schema.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableSummary {
    /// Its name.
    pub name: String,
    /// Rows in it.
    pub rows: usize,
    /// Whether its rows live without being referred to.
    pub is_root: bool,
    /// Its columns.
    pub columns: Vec<String>,
    /// Path of the typed resource of the same table, if there is one.
    pub resource: Option<String>,
}

/// The tables of the northbound database.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tables {
    /// Version of the server's schema.
    pub schema_version: String,
    /// By name.
    pub tables: Vec<TableSummary>,
    /// How many there are.
    pub count: usize,
}

/// Lists the tables of the northbound database as its servers have them.
#[utoipa::path(get, path = "/api/v1/ovn/tables", tag = "network", operation_id = "list_tables",
    params(("consistency" = Option<ConsistencyParam>, Query, description = "How fresh the read must be.")),
    responses((status = 200, body = Tables, description = "All of them.")))]
pub(super) async fn tables(
    State(app): State<Shared>,
    Query(query): Query<OneQuery>,
) -> Result<Response, ApiError> {
    let look = |contents: &Contents, catalogue: &Arc<Catalogue>| {
        let summary = |resource: &Arc<Resource>| TableSummary {
            name: resource.table.name.to_string(),
            rows: contents.table(&resource.table.name).map_or(0, ovncp_ovn::contents::Table::len),
            is_root: resource.table.is_root,
            columns: resource.fields.iter().map(|field| field.name.to_string()).collect(),
            resource: catalogue
                .typed()
                .find(|typed| typed.table.name == resource.table.name)
                .map(|typed| format!("/api/v1/{}", typed.path)),
        };
        let tables: Vec<_> = catalogue.generic().map(summary).collect();
        let count = tables.len();
        Tables { schema_version: contents.schema().version.clone(), tables, count }
    };
    let seen = app.network.read(query.consistency(), look).await?;
    Ok(aged(seen.age, (StatusCode::OK, Json(seen.value)).into_response()))
}
