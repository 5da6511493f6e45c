//! Members of one column of a row: addresses of a set, ports of a group, load balancers of a switch.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use ovncp_ovn::contents::{Contents, Row};
use ovncp_ovn::resource::{Catalogue, Planner, Refusal, RefusalKind, Resource};
use serde_json::{Value, json};

use super::resources::{OneQuery, WriteRequest, aged, answer, told};
use super::route::Route;
use crate::api::error::{ApiError, Code};
use crate::api::extract::Query;
use crate::api::{App, Shared};
use crate::services::reads::Consistency;

/// The column that the route is about.
fn column(route: &Route, resource: &Resource) -> Result<usize, Refusal> {
    let segment = route.under.as_deref().unwrap_or_default();
    let found = resource.members.iter().find(|(member, _)| *member == segment);
    found.map(|(_, column)| *column).ok_or_else(|| {
        let detail = format!("the OVN servers here have no {segment} of a {}", resource.title);
        Refusal::new(RefusalKind::Unsupported, "unsupported_by_schema", detail)
    })
}

fn shown(resource: &Resource, row: &Row, column: usize) -> Response {
    let members = row.get(column).to_plain(&resource.table.columns[column]);
    let count = row.get(column).len();
    Json(json!({ "members": members, "count": count })).into_response()
}

/// All of them.
pub(super) async fn list(
    State(app): State<Shared>,
    route: Route,
    Query(query): Query<OneQuery>,
) -> Result<Response, ApiError> {
    let look = |contents: &Contents, catalogue: &Arc<Catalogue>| {
        let resource = route.resource(catalogue)?;
        let column = column(&route, resource)?;
        let row = resource.find(contents, route.id.as_deref().unwrap_or_default())?;
        Ok::<_, Refusal>((Arc::clone(resource), row, column))
    };
    let ((resource, row, column), age) = answer(app.network.read(query.consistency(), look).await?)?;
    Ok(aged(age, shown(&resource, &row, column)))
}

/// Puts members in; those that are in already stay.
pub(super) async fn add(
    State(app): State<Shared>,
    route: Route,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    change(&app, &route, request, true).await
}

/// Takes members out; those that are not in are no error.
pub(super) async fn remove(
    State(app): State<Shared>,
    route: Route,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    change(&app, &route, request, false).await
}

/// `{"members": [..]}` and nothing else.
fn members(body: &Value) -> Result<&Value, ApiError> {
    let only = body.as_object().filter(|body| body.len() == 1);
    let members = only.and_then(|body| body.get("members")).filter(|members| members.is_array());
    members.ok_or_else(|| {
        ApiError::new(Code::InvalidBody, "the body is {\"members\": [...]}").with("field", "members")
    })
}

async fn change(app: &App, route: &Route, request: WriteRequest, adds: bool) -> Result<Response, ApiError> {
    let members = members(&request.body)?;
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        let resource = route.resource(catalogue)?;
        let column = column(route, resource)?;
        let id = route.id.as_deref().unwrap_or_default();
        let mut planner = Planner::new(contents, catalogue, uuids);
        planner.within("/members");
        if adds {
            planner.add_members(resource, id, column, members);
        } else {
            planner.remove_members(resource, id, column, members);
        }
        planner.finish()
    });
    let written = written.await?;
    let look = |contents: &Contents, catalogue: &Arc<Catalogue>| {
        let resource = route.resource(catalogue)?;
        let column = column(route, resource)?;
        let found = written.answers.first().and_then(|answer| contents.row(&resource.table.name, answer.id));
        let row = match found {
            Some(row) => Arc::clone(row),
            None => resource.find(contents, route.id.as_deref().unwrap_or_default())?,
        };
        Ok::<_, Refusal>((Arc::clone(resource), row, column))
    };
    let ((resource, row, column), _) = answer(app.network.read(Consistency::Local, look).await?)?;
    Ok(told(&written, shown(&resource, &row, column)))
}
