//! The routes and their published description, from one list.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use super::error::{ApiError, Code, PROBLEM_JSON};
use super::extract::ConsistencyParam;
use super::{
    Shared, cluster, drain, elections, events, health, invalidations, kv, locks, log_level, messages,
    network, sessions, ws,
};

/// An error of any route (RFC 9457), with further fields of the case.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what ApiError::render writes")]
struct Problem {
    /// `urn:ovncp:problem:` and the code.
    r#type: String,
    /// What is wrong, the same for every problem of this code.
    title: String,
    /// HTTP status.
    status: u16,
    /// What is wrong here.
    detail: String,
    /// Stable, for programs.
    code: String,
    /// Names this request in the log of the node that answered.
    request_id: String,
}

const DESCRIPTION: &str = "\
Coordination without Redis or etcd: locks, registers, sessions and membership, replicated by Raft. Any node takes any request.

Durations are milliseconds (`_ms`), times RFC 3339 UTC, tokens, offsets, indexes and revisions decimal strings.
Every write takes an `Idempotency-Key` (1 to 255 visible ASCII characters); a retry with the same key and body gets the same
answer. Reads take `?consistency=linearizable|local` and `X-Ovncp-Min-Index`. Every answer carries `X-Request-ID` and
`X-Ovncp-Node`, and where it holds at an index, `X-Ovncp-Index`. 429 and 503 carry `Retry-After`.";

/// Paths of the document and of its user interface.
const DOCUMENT_PATH: &str = "/api/openapi.json";
const DOCS_PATH: &str = "/api/docs";

fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(base())
        .routes(routes!(health::summary))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::startup))
        .routes(routes!(cluster::cluster))
        .routes(routes!(cluster::nodes))
        .routes(routes!(cluster::node, cluster::remove))
        .routes(routes!(cluster::leader))
        .routes(routes!(cluster::transfer))
        .routes(routes!(events::watch))
        .routes(routes!(invalidations::list, invalidations::append))
        .routes(routes!(locks::list))
        .routes(routes!(locks::acquire_many))
        .routes(routes!(locks::get, locks::force_release))
        .routes(routes!(locks::acquire))
        .routes(routes!(locks::renew))
        .routes(routes!(locks::release))
        .routes(routes!(elections::list))
        .routes(routes!(elections::get, elections::depose))
        .routes(routes!(elections::campaign))
        .routes(routes!(elections::renew))
        .routes(routes!(elections::resign))
        .routes(routes!(elections::observe))
        .routes(routes!(kv::list))
        .routes(routes!(kv::get, kv::put, kv::delete))
        .routes(routes!(ws::connect))
        .routes(routes!(sessions::list, sessions::register))
        .routes(routes!(sessions::list_of_user))
        .routes(routes!(sessions::get, sessions::end))
        .routes(routes!(sessions::migrate))
        .routes(routes!(sessions::put_metadata))
        .routes(routes!(sessions::rotate))
        .routes(routes!(sessions::placement))
        .routes(routes!(messages::publish))
        .routes(routes!(drain::drain, drain::progress))
        .routes(routes!(drain::resume))
        .routes(routes!(log_level::get, log_level::put))
        .merge(network::described())
}

fn base() -> OpenApi {
    let mut openapi = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("ovncp")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .build(),
        )
        .build();
    network::describe(&mut openapi);
    let components = openapi.components.get_or_insert_default();
    // Known by reference only: from queries, and from `complete`.
    components.schemas.insert("Problem".to_owned(), Problem::schema());
    components.schemas.insert("ConsistencyParam".to_owned(), ConsistencyParam::schema());
    components.schemas.insert("ReadyFor".to_owned(), health::ReadyFor::schema());
    components.schemas.insert("Wait".to_owned(), network::Wait::schema());
    components
        .security_schemes
        .insert("admin".to_owned(), RefOr::T(SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer))));
    openapi
}

/// The published document.
#[must_use]
pub fn document() -> OpenApi {
    let (_, mut openapi) = described().split_for_parts();
    complete(&mut openapi);
    openapi
}

/// Templates of all routes, for counting: the published ones and the pages about them.
#[must_use]
pub fn templates() -> Vec<String> {
    let described = document().paths.paths.into_keys();
    described.chain([DOCUMENT_PATH.to_owned(), format!("{DOCS_PATH}/{{file}}")]).collect()
}

/// Every route of the edge, with its state.
pub fn router(app: Shared) -> Router {
    let (router, mut openapi) = described().split_for_parts();
    complete(&mut openapi);
    let document = Arc::new(openapi);
    let config = utoipa_swagger_ui::Config::from(DOCUMENT_PATH);
    router
        .merge(network::router())
        .route(
            "/api/v1/cluster/locks/acquire",
            get(locks::get_named_acquire).delete(locks::force_release_named_acquire),
        )
        .route(DOCUMENT_PATH, get(move || std::future::ready(Json(Arc::clone(&document)))))
        .merge(SwaggerUi::new(DOCS_PATH).config(config))
        .method_not_allowed_fallback(|| {
            std::future::ready(ApiError::new(Code::MethodNotAllowed, Code::MethodNotAllowed.title()))
        })
        .fallback(no_route)
        .with_state(app)
}

async fn no_route(uri: axum::http::Uri) -> ApiError {
    let path = uri.path();
    // An empty key makes an empty segment, which no route has.
    if path.contains("//")
        || path == "/api/v1/cluster/locks/"
        || path == "/api/v1/cluster/elections/"
        || path == "/api/v1/cluster/kv/"
    {
        return ApiError::invalid("key", "is empty; it must have at least 1 byte");
    }
    ApiError::new(Code::NotFound, "no such route; /api/openapi.json lists all of them")
}

/// Adds to each operation the errors that any route of its kind can answer.
fn complete(openapi: &mut OpenApi) {
    for (path, item) in &mut openapi.paths.paths {
        if path.starts_with("/health") {
            for operation in item.get.iter_mut() {
                add(operation, &[400, 500]);
            }
            continue;
        }
        for operation in item.get.iter_mut() {
            add(operation, &[400, 422, 429, 500, 503]);
            if operation.security.is_some() {
                add(operation, &[401, 403]);
            }
        }
        for operation in
            [&mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
        {
            add(operation, &[400, 422, 429, 500, 503, 504]);
            if operation.request_body.is_some() {
                add(operation, &[408, 413]);
            }
            if operation.request_body.is_some() && !path.contains("/kv/") {
                add(operation, &[415]);
            }
            if operation.security.is_some() {
                add(operation, &[401, 403]);
            }
        }
    }
}

fn add(operation: &mut Operation, statuses: &[u16]) {
    let responses = &mut operation.responses.responses;
    for status in statuses {
        let codes = Code::ALL.iter().filter(|code| code.status().as_u16() == *status);
        let named: Vec<_> = codes.map(|code| format!("`{}`", code.as_str())).collect();
        responses.entry(status.to_string()).or_insert_with(|| RefOr::T(Response::new(named.join(", "))));
    }
    // Whatever is an error is a problem.
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if status.as_str() >= "400" && response.content.is_empty() {
            let schema = Ref::from_schema_name("Problem");
            response.content.insert(PROBLEM_JSON.to_owned(), RefOr::T(Content::new(Some(schema))));
        }
    }
}
