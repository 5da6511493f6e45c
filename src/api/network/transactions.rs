//! Several changes at once: all of them or none.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ovncp_ovn::resource::{Answer, Outcome, Planner, builtin, transaction};
use serde_json::{Value, json};

use super::resources::{WriteRequest, location, told, views};
use crate::api::error::{ApiError, Code};
use crate::api::{App, Shared};
use crate::services::network::Written;

/// Commits several changes at once. Later operations refer to rows that earlier ones make by `{"ref": "name"}`.
#[utoipa::path(post, path = "/api/v1/transactions", tag = "network", operation_id = "commit_transaction",
    description = "Body: `{\"operations\": [{\"op\": \"create\"|\"update\"|\"patch\"|\"delete\", \"resource\": \"switches\", \"ref\": \"s1\", \"id\": ..., \
        \"parent\": ..., \"body\": {...}, \"if_match\": ...}]}`; docs/network.md has all of it. All happen in one OVSDB transaction, or nothing does.",
    params(("wait" = Option<super::headers::Wait>, Query, description = "How far to wait."),
        ("wait_timeout_ms" = Option<u64>, Query, description = "How long to wait."),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key and body happens once."),
        ("X-Ovncp-Lock" = Option<String>, Header, description = "Key of an exclusive lock that fences this transaction."),
        ("X-Ovncp-Fencing-Token" = Option<String>, Header, description = "Token of its grant.")),
    request_body(content = Object, description = "The operations."),
    responses((status = 200, body = Object, description = "What became of each operation."),
        (status = 404, description = ""), (status = 409, description = ""), (status = 412, description = "")))]
pub(super) async fn commit(State(app): State<Shared>, request: WriteRequest) -> Result<Response, ApiError> {
    let operations = operations(&request.body)?;
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        transaction::plan(contents, catalogue, uuids, operations, "/operations")
    });
    answer(&app, &written.await?).await
}

/// `{"operations": [..]}` and nothing else.
fn operations(body: &Value) -> Result<&Value, ApiError> {
    let only = body.as_object().filter(|body| body.len() == 1);
    only.and_then(|body| body.get("operations")).ok_or_else(|| {
        ApiError::new(Code::InvalidBody, "the body is {\"operations\": [...]}").with("field", "operations")
    })
}

/// Connects a switch with a router: a port on each side that knows the other, made at once.
#[utoipa::path(post, path = "/api/v1/connections", tag = "network", operation_id = "connect_switch_and_router",
    description = "Body: `{\"switch\": id or name, \"router\": id or name, \"router_port\": {\"mac\": ..., \"networks\": [...]}, \"port\": {...}}`; \
        without names the ports are called `<router>-<switch>` and `<switch>-<router>`.",
    params(("wait" = Option<super::headers::Wait>, Query, description = "How far to wait."),
        ("wait_timeout_ms" = Option<u64>, Query, description = "How long to wait."),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key and body happens once."),
        ("X-Ovncp-Lock" = Option<String>, Header, description = "Key of an exclusive lock that fences this."),
        ("X-Ovncp-Fencing-Token" = Option<String>, Header, description = "Token of its grant.")),
    request_body(content = Object, description = "What is connected."),
    responses((status = 200, body = Object, description = "Both ports."),
        (status = 404, description = ""), (status = 409, description = ""), (status = 412, description = "")))]
pub(super) async fn connect(State(app): State<Shared>, request: WriteRequest) -> Result<Response, ApiError> {
    let written = app.network.write(&request.write, |contents, catalogue, uuids| {
        let mut planner = Planner::new(contents, catalogue, uuids);
        builtin::connect(&mut planner, &request.body)?;
        planner.finish()
    });
    answer(&app, &written.await?).await
}

async fn answer(app: &App, written: &Written) -> Result<Response, ApiError> {
    let results: Vec<Value> = written.answers.iter().map(result).collect();
    let rows = views(app, &written.answers).await?;
    let body = json!({ "results": results, "rows": rows, "count": results.len() });
    Ok(told(written, (StatusCode::OK, Json(body)).into_response()))
}

fn result(answer: &Answer) -> Value {
    let outcome = match answer.outcome {
        Outcome::Created => "created",
        Outcome::Replaced => "replaced",
        Outcome::Patched => "patched",
        Outcome::Deleted => "deleted",
    };
    json!({
        "outcome": outcome,
        "resource": &*answer.resource.path,
        "id": answer.id.to_string(),
        "ref": answer.reference,
        "location": location(answer),
    })
}
