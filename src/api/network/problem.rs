//! What went wrong with OVN, as problems.

use ovncp_ovn::error::TransactError;
use ovncp_ovn::resource::{Refusal, RefusalKind};
use ovncp_ovn::trace::TraceError;
use serde_json::{Value as Json, json};

use crate::api::error::{ApiError, Code};
use crate::services::network::NetworkError;

/// A refusal with the places of the body and the rows that it names.
pub(super) fn problem(refusal: Refusal) -> ApiError {
    let code = Code::ALL.iter().copied().find(|code| code.as_str() == refusal.code);
    let code = code.unwrap_or(match refusal.kind {
        RefusalKind::Malformed => Code::MalformedRequest,
        RefusalKind::Invalid => Code::InvalidResource,
        RefusalKind::NotFound => Code::UnknownResource,
        RefusalKind::Conflict => Code::Conflict,
        RefusalKind::PreconditionFailed => Code::EtagMismatch,
        RefusalKind::TooLarge => Code::BodyTooLarge,
        RefusalKind::Unsupported => Code::UnsupportedBySchema,
        RefusalKind::Changed => Code::WriteConflict,
        RefusalKind::Database => Code::OvnRejected,
    });
    // A route that is not there is "not found" too: a row that is not there has a code of its own.
    let code = if code == Code::NotFound { Code::UnknownResource } else { code };
    let mut error = ApiError::new(code, refusal.detail);
    if refusal.code != code.as_str() {
        error = error.with("reason", refusal.code);
    }
    if !refusal.problems.is_empty() {
        let problems = refusal.problems.iter().map(
            |invalid| json!({"pointer": invalid.pointer, "problem": invalid.problem, "code": invalid.code}),
        );
        error = error.with("problems", problems.collect::<Vec<_>>());
    }
    if refusal.problems_left_out > 0 {
        error = error.with("problems_left_out", refusal.problems_left_out);
    }
    if !refusal.rows.is_empty() {
        let rows = refusal.rows.iter().map(|row| {
            json!({"table": row.table, "column": row.column, "id": row.id.to_string(), "name": row.name})
        });
        error = error.with("rows", rows.collect::<Vec<Json>>());
    }
    match refusal.current_etag {
        Some(etag) => error.with("current_etag", etag),
        None => error,
    }
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        let detail = error.to_string();
        match error {
            NetworkError::NotConfigured | NetworkError::Unavailable { .. } => {
                Self::new(Code::OvnUnavailable, detail)
            }
            NetworkError::Refused(refusal) => problem(*refusal),
            NetworkError::Transact(error) => transact(error, detail),
            NetworkError::Fenced { lock, token, .. } => {
                Self::new(Code::Fenced, detail).with("lock", lock).with("fencing_token", token.to_string())
            }
            NetworkError::KeyReused => Self::new(Code::IdempotencyKeyReused, detail),
            NetworkError::Contended { .. } => Self::new(Code::WriteConflict, detail),
            NetworkError::Trace(error) => trace(&error, detail),
            NetworkError::Service(error) => error.into(),
        }
    }
}

fn trace(error: &TraceError, detail: String) -> ApiError {
    match error {
        TraceError::Invalid(invalid) => ApiError::invalid(invalid.field, &invalid.reason),
        TraceError::Busy { max } => {
            ApiError::new(Code::LimitExceeded, detail).with("limit", "traces").with("max", *max)
        }
        TraceError::TooLarge { max } => {
            ApiError::new(Code::LimitExceeded, detail).with("limit", "trace_bytes").with("max", *max)
        }
        TraceError::Missing(_) | TraceError::Unavailable { .. } | TraceError::TimedOut { .. } => {
            ApiError::new(Code::OvnUnavailable, detail)
        }
    }
}

fn transact(error: TransactError, detail: String) -> ApiError {
    match error {
        TransactError::Unavailable { .. } => ApiError::new(Code::OvnUnavailable, detail),
        TransactError::OutcomeUnknown { .. } => ApiError::new(Code::OutcomeUnknown, detail),
        TransactError::Rejected(rejection) => ApiError::new(Code::OvnRejected, detail)
            .with("error", rejection.error)
            .with("ovn_details", rejection.details),
        TransactError::TooLarge { limit, max } => {
            ApiError::new(Code::BodyTooLarge, detail).with("limit", limit).with("max", max)
        }
        TransactError::QueueFull { max } => {
            ApiError::new(Code::QueueFull, detail).with("queue", "ovn_transactions").with("max", max)
        }
    }
}
