//! Fences: a holder shuts out those who held the lock before it, ahead of its first write.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::extract::{JsonBody, Segment};
use crate::services::network::FencedBy;
use ovncp_state::FencingToken;

/// Which grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// Token of the grant, as acquire answered it.
    pub fencing_token: String,
}

/// Shuts out every earlier holder of the lock: from this answer on none of their fenced writes is committed. Claim before
/// you read what you build on; a fenced write claims by itself, too.
#[utoipa::path(post, path = "/api/v1/ovn/fences/{key}/claim", tag = "network", operation_id = "claim_fence",
    params(("key" = String, Path, description = "Key of an exclusive lock.")), request_body = ClaimRequest,
    responses((status = 204, description = "Claimed."), (status = 412, description = "")))]
pub(super) async fn claim(
    State(app): State<Shared>,
    Segment(lock): Segment,
    body: JsonBody<ClaimRequest>,
) -> Result<StatusCode, ApiError> {
    let token = body.value.fencing_token.parse();
    let token = token.map_err(|_| ApiError::invalid("fencing_token", "is no fencing token"))?;
    app.network.claim(&FencedBy { lock, token: FencingToken(token) }).await?;
    Ok(StatusCode::NO_CONTENT)
}
