//! Several changes at once: all of them or none.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ovncp_ovn::resource::{Answer, Outcome, transaction};
use serde_json::{Value, json};

use super::resources::{WriteRequest, location, told, views};
use crate::api::Shared;
use crate::api::error::ApiError;

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
    let written = app
        .network
        .write(&request.write, |contents, catalogue, uuids| {
            transaction::plan(contents, catalogue, uuids, &request.body)
        })
        .await?;
    let results: Vec<Value> = written.answers.iter().map(result).collect();
    let rows = views(&app, &written.answers).await?;
    let body = json!({ "results": results, "rows": rows, "count": results.len() });
    Ok(told(&written, (StatusCode::OK, Json(body)).into_response()))
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
