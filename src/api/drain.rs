//! Emptying a node of its sessions, over HTTP.

use std::time::Duration;

use axum::extract::State;
use ovncp_state::Millis;
use ovncp_state::sessions::view::DrainView;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{Admin, ConsistencyParam, Fresh, IdempotencyKey, OptionalJson, Query, Segment};
use super::{At, Shared};
use crate::services::reads::Freshness;
use crate::wall_clock;

/// Sessions per second when nobody says how many.
const RATE_PER_S_DEFAULT: u32 = 50;

/// How fast.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Sessions per second to move, 1 to 10,000; 50 when left out.
    #[serde(default)]
    pub rate_per_s: Option<u32>,
}

/// How far a node has emptied itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct Drain {
    /// The node.
    pub node_id: String,
    /// Sessions with a socket there when it began.
    pub total: u64,
    /// Those that are left.
    pub left: u64,
    /// Those that went.
    pub moved: u64,
    /// Sessions per second to move.
    pub rate_per_s: u32,
    /// When it began.
    pub since: String,
    /// About how long it will take, at this rate.
    pub eta_ms: u64,
    /// Whether none is left: the node may be stopped.
    pub done: bool,
}

impl Drain {
    fn new(node_id: String, view: &DrainView, now: Millis) -> Self {
        let left = Duration::from_secs_f64(view.left as f64 / f64::from(view.rate_per_s.max(1)));
        Self {
            node_id,
            total: view.total,
            left: view.left,
            moved: view.total.saturating_sub(view.left),
            rate_per_s: view.rate_per_s,
            since: wall_clock::utc(view.since, now),
            eta_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            done: view.left == 0,
        }
    }
}

fn not_draining(name: &str) -> ApiError {
    ApiError::new(Code::NotDraining, format!("{name} is not being emptied")).with("node_id", name)
}

/// Empties a node: it takes no new sessions and asks the clients that it has to go elsewhere. For administrators.
///
/// Asked again, it changes the rate. The node stays so through a restart, until `resume`.
#[utoipa::path(post, path = "/api/v1/cluster/nodes/{id}/drain", tag = "cluster", operation_id = "drain_node",
    params(("id" = String, Path, description = "Name of the node")), request_body = DrainRequest,
    security(("admin" = [])),
    responses((status = 200, body = Drain, description = "It does."),
        (status = 404, description = "`unknown_node`")))]
pub async fn drain(
    _: Admin,
    State(app): State<Shared>,
    Segment(name): Segment,
    idempotency: IdempotencyKey,
    body: OptionalJson<DrainRequest>,
) -> Result<At<Drain>, ApiError> {
    let rate = body.value.rate_per_s.unwrap_or(RATE_PER_S_DEFAULT);
    let retry = idempotency.identity(&[&rate.to_le_bytes()]);
    app.sessions.drain(&name, rate, retry).await?;
    tracing::warn!(node = name, rate, "an administrator empties a node");
    shown(&app, name, Freshness::default()).await
}

/// Query of the progress.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DrainQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Tells how far a node has emptied itself. For administrators.
#[utoipa::path(get, path = "/api/v1/cluster/nodes/{id}/drain", tag = "cluster", operation_id = "get_drain",
    params(("id" = String, Path, description = "Name of the node"), DrainQuery), security(("admin" = [])),
    responses((status = 200, body = Drain, description = "Its progress."),
        (status = 404, description = "`unknown_node`, `not_draining`")))]
pub async fn progress(
    _: Admin,
    State(app): State<Shared>,
    Segment(name): Segment,
    Query(query): Query<DrainQuery>,
    fresh: Fresh,
) -> Result<At<Drain>, ApiError> {
    shown(&app, name, fresh.with(query.consistency)).await
}

async fn shown(app: &super::App, name: String, freshness: Freshness) -> Result<At<Drain>, ApiError> {
    let (index, (now, view)) = app.sessions.drained(&name, freshness).await?;
    let view = view.ok_or_else(|| not_draining(&name))?;
    Ok(At(index, Drain::new(name, &view, now)))
}

/// A node that takes sessions again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Resumed {
    /// The node.
    pub node_id: String,
}

/// Takes a drain back: the node takes sessions again. For administrators.
#[utoipa::path(post, path = "/api/v1/cluster/nodes/{id}/resume", tag = "cluster", operation_id = "resume_node",
    params(("id" = String, Path, description = "Name of the node")), security(("admin" = [])),
    responses((status = 200, body = Resumed, description = "It does."), (status = 404, description = "`unknown_node`")))]
pub async fn resume(
    _: Admin,
    State(app): State<Shared>,
    Segment(name): Segment,
    idempotency: IdempotencyKey,
) -> Result<At<Resumed>, ApiError> {
    let retry = idempotency.identity(&[]);
    let index = app.sessions.resume(&name, retry).await?;
    tracing::warn!(node = name, "an administrator takes a node back into service");
    Ok(At(index, Resumed { node_id: name }))
}
