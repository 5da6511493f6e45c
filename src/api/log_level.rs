//! What the asked node logs, changeable while it runs. It concerns this node alone: nothing is replicated.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Code};
use super::extract::{Admin, IdempotencyKey, JsonBody};
use crate::telemetry::logs::{self, LogControl, LogError, REVERT_AFTER_MAX};

/// Shortest time for a temporary change, in milliseconds.
const FOR_MS_MIN: u64 = 1_000;

/// What a node logs.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLevel {
    /// The filter in force, such as `info` or `info,ovncp_raft=debug`.
    pub filter: String,
    /// The filter of the configuration (`log.level`).
    pub configured: String,
    /// Milliseconds until it is the configured one again; null when it stays.
    pub reverts_in_ms: Option<u64>,
}

/// What a node shall log.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelRequest {
    /// `tracing` directives separated by commas, at most 1,024 bytes; null for the configured ones.
    pub filter: Option<String>,
    /// After so many milliseconds it is the configured one again: 1,000 to 86,400,000. Without it the change stays
    /// until the next one or a restart.
    pub for_ms: Option<u64>,
}

/// Shows what the answering node logs.
#[utoipa::path(get, path = "/api/v1/node/log-level", tag = "node", operation_id = "get_log_level", security(("admin" = [])),
    responses((status = 200, body = LogLevel, description = "What is logged."),
        (status = 409, description = "`conflict`: this process did not set up its log through ovncp")))]
pub async fn get(_: Admin) -> Result<Json<LogLevel>, ApiError> {
    Ok(Json(shown(control()?.level())))
}

/// Changes what the answering node logs, for good or for a while. Each node is changed by itself.
#[utoipa::path(put, path = "/api/v1/node/log-level", tag = "node", operation_id = "set_log_level",
    request_body = LogLevelRequest, security(("admin" = [])),
    responses((status = 200, body = LogLevel, description = "What is logged from now on."),
        (status = 409, description = "`conflict`: this process did not set up its log through ovncp")))]
pub async fn put(
    _: Admin,
    // A change may be repeated as it is: the key is only checked.
    _: IdempotencyKey,
    body: JsonBody<LogLevelRequest>,
) -> Result<Json<LogLevel>, ApiError> {
    let LogLevelRequest { filter, for_ms } = body.value;
    let longest = u64::try_from(REVERT_AFTER_MAX.as_millis()).unwrap_or(u64::MAX);
    if for_ms.is_some_and(|time| !(FOR_MS_MIN..=longest).contains(&time)) {
        return Err(ApiError::invalid("for_ms", format!("must be {FOR_MS_MIN} to {longest}")));
    }
    let control = control()?;
    let changed = control.change(filter.as_deref(), for_ms.map(Duration::from_millis));
    changed.map(shown).map(Json).map_err(|error| match error {
        LogError::Filter { .. } => ApiError::invalid("filter", error),
        LogError::Twice | LogError::Gone(_) => ApiError::new(Code::Conflict, error.to_string()),
    })
}

fn control() -> Result<&'static Arc<LogControl>, ApiError> {
    let missing = || ApiError::new(Code::Conflict, "this process did not set up its log through ovncp");
    logs::control().ok_or_else(missing)
}

fn shown(level: logs::LogLevel) -> LogLevel {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    LogLevel {
        filter: level.filter,
        configured: level.configured,
        reverts_in_ms: level.reverts_in.map(millis),
    }
}
