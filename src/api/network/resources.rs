//! The rows of OVN's northbound database over HTTP: one set of handlers for every resource and table.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, RequestExt};
use ovncp_ovn::contents::Contents;
use ovncp_ovn::resource::{Answer, Catalogue, Outcome, Parent, Planner, Refusal, Resource, View, builtin};
use serde_json::{Value, json};

use super::headers::{self, Conditional, Fenced, WriteQuery};
use super::problem::problem;
use super::route::{Kind, Route};
use crate::api::error::{ApiError, Code};
use crate::api::extract::{self, ConsistencyParam, IdempotencyKey, Query};
use crate::api::{App, Shared};
use crate::services::network::{Reached, Seen, Write, Written};
use crate::services::reads::Consistency;

/// Largest body of a write of one resource, or of an array of them.
const BODY_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// Media type of a patch.
const MERGE_PATCH: &str = "application/merge-patch+json";

impl From<ConsistencyParam> for Consistency {
    fn from(asked: ConsistencyParam) -> Self {
        match asked {
            ConsistencyParam::Linearizable => Self::Linearizable,
            ConsistencyParam::Local => Self::Local,
        }
    }
}

/// Query of a read of one thing.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneQuery {
    consistency: Option<ConsistencyParam>,
}

impl OneQuery {
    pub(super) fn consistency(&self) -> Consistency {
        self.consistency.unwrap_or_default().into()
    }
}

impl Route {
    /// The resource of the first segment.
    pub(super) fn resource<'a>(&self, catalogue: &'a Catalogue) -> Result<&'a Arc<Resource>, Refusal> {
        match &self.kind {
            Kind::Typed(path) => catalogue.by_path(path),
            Kind::Table(table) => catalogue.by_table(table),
        }
    }

    /// What the request lists or creates: the rows of the first segment, or those under one of them.
    pub(super) fn collection<'a>(
        &self,
        catalogue: &'a Catalogue,
    ) -> Result<(&'a Arc<Resource>, Option<&'a Parent>), Refusal> {
        let resource = self.resource(catalogue)?;
        let Some(under) = &self.under else { return Ok((resource, None)) };
        match catalogue.child(&resource.path, under) {
            Some((child, parent)) => Ok((child, Some(parent))),
            // Routes are made from the newest schema: the server's is older.
            None => Err(catalogue.by_path(under).err().unwrap_or_else(|| unsupported(under))),
        }
    }

    fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }
}

fn unsupported(what: &str) -> Refusal {
    let detail = format!("the OVN servers here have no {what}: it needs a newer OVN");
    Refusal::new(ovncp_ovn::resource::RefusalKind::Unsupported, "unsupported_by_schema", detail)
}

/// What every write has beside its body.
pub(super) struct WriteRequest {
    pub(super) write: Write,
    pub(super) body: Value,
    /// `?router_ports=true`.
    router_ports: bool,
}

impl FromRequest<Shared> for WriteRequest {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &Shared) -> Result<Self, ApiError> {
        app.refuse_when_draining()?;
        let query: WriteQuery = request.extract_parts_with_state(app).await?;
        let Fenced(fenced) = request.extract_parts_with_state(app).await?;
        let key: IdempotencyKey = request.extract_parts_with_state(app).await?;
        let takes_body = request.method() != axum::http::Method::DELETE || has_body(request.headers());
        if takes_body {
            extract::check_json(request.headers())?;
        }
        let raw_query = request.uri().query().unwrap_or_default().to_owned();
        let raw = extract::read_body(request, BODY_BYTES_MAX, app.body_timeout).await?;
        let body = if takes_body { extract::parse_json(&raw)? } else { Value::Null };
        let retry = key.bind(&[&raw, raw_query.as_bytes()]).map(|retry| retry.key);
        let router_ports = query.router_ports;
        Ok(Self { write: Write { retry, fenced, barrier: query.barrier()? }, body, router_ports })
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_TYPE)
}

/// One row.
pub(super) async fn get(
    State(app): State<Shared>,
    route: Route,
    Query(query): Query<OneQuery>,
) -> Result<Response, ApiError> {
    let look = |contents: &Contents, catalogue: &Arc<Catalogue>| {
        let resource = route.resource(catalogue)?;
        let row = resource.find(contents, route.id())?;
        Ok(View::new(resource, &row, contents))
    };
    let seen = app.network.read(query.consistency(), look).await?;
    let age = seen.age;
    let view = seen.value.map_err(problem)?;
    Ok(aged(age, shown(StatusCode::OK, &view)))
}

/// Makes one row, or all those of an array or none.
pub(super) async fn create(
    State(app): State<Shared>,
    route: Route,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    let many = request.body.is_array();
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        let (resource, parent) = route.collection(catalogue)?;
        let parent = parent.map(|parent| (parent, route.id()));
        let mut planner = Planner::new(contents, catalogue, uuids);
        match &request.body {
            Value::Array(bodies) => {
                for (position, body) in bodies.iter().enumerate() {
                    planner.within(format!("/{position}"));
                    planner.create(resource, parent, body);
                }
            }
            body => {
                planner.create(resource, parent, body);
            }
        }
        planner.finish()
    });
    let written = written.await?;
    let response = match (many, written.answers.as_slice()) {
        (false, [answer]) => one(&app, StatusCode::CREATED, answer).await?,
        _ => {
            let name = app.network.read(Consistency::Local, |_, catalogue| {
                route.collection(catalogue).map(|(resource, _)| Arc::clone(resource))
            });
            let resource = name.await?.value.map_err(problem)?;
            let views = views(&app, &written.answers).await?;
            let count = views.len();
            let body = json!({ plural(&resource): views, "count": count, "next_cursor": null });
            (StatusCode::CREATED, Json(body)).into_response()
        }
    };
    Ok(told(&written, response))
}

/// Sets all of a row.
pub(super) async fn replace(
    State(app): State<Shared>,
    route: Route,
    Conditional(if_match): Conditional,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        let mut planner = Planner::new(contents, catalogue, uuids);
        planner.replace(route.resource(catalogue)?, route.id(), &request.body, &if_match);
        planner.finish()
    });
    changed(&app, written.await?).await
}

/// Sets some of a row.
pub(super) async fn patch(
    State(app): State<Shared>,
    route: Route,
    Conditional(if_match): Conditional,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        let mut planner = Planner::new(contents, catalogue, uuids);
        planner.patch(route.resource(catalogue)?, route.id(), &request.body, &if_match);
        planner.finish()
    });
    let mut response = changed(&app, written.await?).await?;
    response.headers_mut().insert("accept-patch", HeaderValue::from_static(MERGE_PATCH));
    Ok(response)
}

/// Deletes a row, with what only it holds.
pub(super) async fn delete(
    State(app): State<Shared>,
    route: Route,
    Conditional(if_match): Conditional,
    request: WriteRequest,
) -> Result<Response, ApiError> {
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        let mut planner = Planner::new(contents, catalogue, uuids);
        if request.router_ports && route.kind == Kind::Typed("switches".to_owned()) {
            builtin::delete_switch(&mut planner, route.id(), &if_match)?;
        } else {
            planner.delete(route.resource(catalogue)?, route.id(), &if_match);
        }
        planner.finish()
    });
    Ok(told(&written.await?, StatusCode::NO_CONTENT.into_response()))
}

async fn changed(app: &App, written: Written) -> Result<Response, ApiError> {
    let Some(answer) = written.answers.first() else {
        return Err(ApiError::new(Code::Internal, "a change without an answer"));
    };
    let response = one(app, StatusCode::OK, answer).await?;
    Ok(told(&written, response))
}

/// The row of an answer, as the replica shows it now.
async fn one(app: &App, status: StatusCode, answer: &Answer) -> Result<Response, ApiError> {
    let views = views(app, std::slice::from_ref(answer)).await?;
    match views.as_slice() {
        [view] => {
            let mut response = shown(status, view);
            if status == StatusCode::CREATED
                && let Ok(location) = HeaderValue::from_str(&location(answer))
            {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
        _ => Err(ApiError::new(
            Code::UnknownResource,
            format!("the {} was written, and somebody has deleted it since", answer.resource.title),
        )
        .with("id", answer.id.to_string())),
    }
}

/// Where a row is found.
pub(super) fn location(answer: &Answer) -> String {
    let resource = &answer.resource;
    let base =
        if *resource.path == *resource.table.name { "/api/v1/ovn/tables" } else { super::description::BASE };
    format!("{base}/{}/{}", resource.path, answer.id)
}

/// The rows of answers, without those that are gone.
pub(super) async fn views(app: &App, answers: &[Answer]) -> Result<Vec<View>, ApiError> {
    let look = |contents: &Contents, _: &Arc<Catalogue>| {
        let row = |answer: &Answer| {
            if answer.outcome == Outcome::Deleted {
                return None;
            }
            let row = contents.row(&answer.resource.table.name, answer.id)?;
            Some(View::new(&answer.resource, row, contents))
        };
        answers.iter().filter_map(row).collect()
    };
    Ok(app.network.read(Consistency::Local, look).await?.value)
}

/// Name of a list of them: `static_routes`.
pub(super) fn plural(resource: &Resource) -> String {
    resource.path.replace('-', "_")
}

/// A row with its etag.
pub(super) fn shown(status: StatusCode, view: &View) -> Response {
    let mut response = (status, Json(view)).into_response();
    // Hexadecimal digits in quotes: always a header value.
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", view.etag())) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// Says how old the answer may be, while OVN is away.
pub(super) fn aged(age: Option<std::time::Duration>, mut response: Response) -> Response {
    if let Some(age) = age {
        response.headers_mut().insert(headers::AGE, HeaderValue::from(age.as_secs()));
    }
    response
}

/// Says how far the write came.
pub(super) fn told(written: &Written, mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Some(reached) = written.reached {
        let text = match reached {
            Reached::Yes => "reached",
            Reached::NotYet => "open",
        };
        headers.insert(headers::BARRIER, HeaderValue::from_static(text));
    }
    if written.replayed {
        headers.insert(headers::REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// What was seen, with its age.
pub(super) fn answer<T>(
    seen: Seen<Result<T, Refusal>>,
) -> Result<(T, Option<std::time::Duration>), ApiError> {
    Ok((seen.value.map_err(problem)?, seen.age))
}
