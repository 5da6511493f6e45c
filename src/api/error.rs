//! Problems (RFC 9457): the only place that picks a status code.
//!
//! A handler answers an [`ApiError`]; the edge adds the request id and writes the body as its last step, so
//! that every error of every route has the same shape, those of the router itself included.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use ovncp_raft::error::{MembershipError, ProposeError, ReadError};
use ovncp_state::Refusal;
use ovncp_state::reply::Holder;
use serde_json::{Map, Value, json};

use crate::services::ServiceError;

/// Media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Seconds after which a refused request is worth another try.
const RETRY_SECONDS: u16 = 1;

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $status:literal $code:literal; )*) => {
        /// What is wrong, stable for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $( $(#[doc = $doc])+ $variant, )*
        }

        impl Code {
            /// Every code, for the documentation and its tests.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// Its name in JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $code, )* }
            }

            /// The status it travels with.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let status = match self { $( Self::$variant => $status, )* };
                StatusCode::from_u16(status).expect("the table below holds valid codes")
            }

            /// One sentence for people.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+).trim(), )* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    MalformedJson = 400 "malformed_json";
    /// The path, the query or a header cannot be understood.
    MalformedRequest = 400 "malformed_request";
    /// A session cannot go to that node: it is unknown, not active, or has the session already.
    InvalidTarget = 400 "invalid_target";
    /// The call needs the administrator's token.
    Unauthorized = 401 "unauthorized";
    /// Without a configured token this call is accepted from loopback only.
    Forbidden = 403 "forbidden";
    /// The token of the migration is none of this session, was used, or came too late.
    InvalidToken = 403 "invalid_token";
    /// There is no such route.
    NotFound = 404 "not_found";
    /// Nobody holds or waits for this lock.
    UnknownLock = 404 "unknown_lock";
    /// There is no such node.
    UnknownNode = 404 "unknown_node";
    /// There is no such register.
    UnknownKey = 404 "unknown_key";
    /// Nobody leads.
    UnknownElection = 404 "unknown_election";
    /// There is no such session.
    UnknownSession = 404 "unknown_session";
    /// There is no such row of this kind.
    UnknownResource = 404 "unknown_resource";
    /// This server's schema has no such table.
    UnknownTable = 404 "unknown_table";
    /// The node is not being emptied.
    NotDraining = 404 "not_draining";
    /// The route does not take this method.
    MethodNotAllowed = 405 "method_not_allowed";
    /// The request did not arrive in time.
    RequestTimeout = 408 "request_timeout";
    /// The lock is held or waited for.
    LockHeld = 409 "lock_held";
    /// The lock was not free in time.
    LockTimeout = 409 "lock_timeout";
    /// The lock was granted to this request and has been lost since.
    LockLost = 409 "lock_lost";
    /// The secret is not that of a holder: it was released, it expired, or it is another's.
    NotHolder = 409 "not_holder";
    /// Somebody leads, or others wait to lead.
    ElectionHeld = 409 "election_held";
    /// The election was not won in time.
    ElectionTimeout = 409 "election_timeout";
    /// This request was elected and has lost its term since.
    TermLost = 409 "term_lost";
    /// The secret is not that of the leader: the term has ended, or it is another's.
    NotLeader = 409 "not_leader";
    /// Another socket has taken the session over.
    SessionMoved = 409 "session_moved";
    /// The wait was cancelled.
    WaitCancelled = 409 "wait_cancelled";
    /// The change would leave no healthy majority.
    WouldLoseQuorum = 409 "would_lose_quorum";
    /// Several rows have this name: use the id.
    AmbiguousName = 409 "ambiguous_name";
    /// A row of this name exists.
    DuplicateName = 409 "duplicate_name";
    /// Others refer to the row.
    InUse = 409 "in_use";
    /// Somebody else changed what this request builds on, again and again.
    WriteConflict = 409 "write_conflict";
    /// Something that the request refers to was deleted meanwhile.
    ReferenceGone = 409 "reference_gone";
    /// A row with the same values exists.
    Duplicate = 409 "duplicate";
    /// The OVN database refuses, for a reason of its own.
    OvnRejected = 409 "ovn_rejected";
    /// Another change of members is under way.
    MembershipBusy = 409 "membership_change_in_progress";
    /// The target cannot lead.
    Unfit = 409 "unfit_target";
    /// Not every member is new enough for it.
    ClusterVersion = 409 "cluster_version";
    /// The state of the cluster does not allow it.
    Conflict = 409 "conflict";
    /// What was asked for is no longer kept, or of another epoch: forget what you keep and go on with `first`.
    Reset = 410 "reset";
    /// The register has another revision than asked.
    RevisionMismatch = 412 "revision_mismatch";
    /// The row is not as it was when its `ETag` was read.
    EtagMismatch = 412 "etag_mismatch";
    /// The fencing token is stale: the lock has another holder since. Nothing was written.
    Fenced = 412 "fenced";
    /// The body is larger than allowed.
    BodyTooLarge = 413 "body_too_large";
    /// The body has another media type than this route takes.
    UnsupportedMediaType = 415 "unsupported_media_type";
    /// The JSON has a field that this route does not know.
    UnknownField = 422 "unknown_field";
    /// The JSON lacks a field, or one has the wrong type.
    InvalidBody = 422 "invalid_body";
    /// A value can never be right.
    InvalidArgument = 422 "invalid_argument";
    /// The resource cannot be as the body says; `problems` names each field.
    InvalidResource = 422 "invalid_resource";
    /// A row that the body refers to does not exist.
    UnknownReference = 422 "unknown_reference";
    /// The database's schema forbids it.
    ConstraintViolation = 422 "constraint_violation";
    /// The OVN servers here are too old to have this.
    UnsupportedBySchema = 422 "unsupported_by_schema";
    /// The idempotency key was used for another request.
    IdempotencyKeyReused = 422 "idempotency_key_reused";
    /// The route is a WebSocket: connect with one.
    UpgradeRequired = 426 "upgrade_required";
    /// A named limit is reached.
    LimitExceeded = 429 "limit_exceeded";
    /// A bounded queue is full.
    QueueFull = 429 "queue_full";
    /// A defect of this program.
    Internal = 500 "internal_error";
    /// Fewer than a majority of the voters can be reached.
    NoLeader = 503 "no_leader";
    /// This node lags behind the asked index.
    Lagging = 503 "lagging";
    /// This node takes no sessions: it stops, is being emptied, or the others count it as inactive.
    Draining = 503 "draining";
    /// This node takes in as many clients at once as it can.
    Busy = 503 "busy";
    /// This node's storage or agreement has failed.
    NodeStopped = 503 "node_stopped";
    /// The OVN database cannot be reached, or none is configured.
    OvnUnavailable = 503 "ovn_unavailable";
    /// It may have happened: retry with the same idempotency key.
    OutcomeUnknown = 504 "outcome_unknown";
}

/// A problem on its way to the edge.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// What is wrong.
    pub code: Code,
    /// What is wrong here, for people.
    pub detail: String,
    /// Fields of the case.
    pub fields: Map<String, Value>,
    /// Seconds after which another try is worth it, when refused; else `RETRY_SECONDS`.
    pub retry_after: Option<u16>,
}

impl ApiError {
    /// A problem with a sentence about this case.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), fields: Map::new(), retry_after: None }
    }

    /// Adds a field of the case.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Says when to come back. Callers that come in a crowd get different answers.
    #[must_use]
    pub fn retry_after(mut self, seconds: u16) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// A value that can never be right.
    #[must_use]
    pub fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(Code::InvalidArgument, format!("{field}: {problem}")).with("field", field)
    }

    /// The whole response.
    #[must_use]
    pub fn render(self, request_id: &str) -> Response<Body> {
        let status = self.code.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(request_id, detail = self.detail, "internal error");
        }
        let mut problem = self.fields;
        problem.insert("type".to_owned(), format!("urn:ovncp:problem:{}", self.code.as_str()).into());
        problem.insert("title".to_owned(), self.code.title().into());
        problem.insert("status".to_owned(), status.as_u16().into());
        problem.insert("detail".to_owned(), self.detail.into());
        problem.insert("code".to_owned(), self.code.as_str().into());
        problem.insert("request_id".to_owned(), request_id.into());
        let mut response = Response::new(Body::from(Value::Object(problem).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if matches!(status.as_u16(), 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after.unwrap_or(RETRY_SECONDS)));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// Carries the problem to the edge, which knows the request id and writes the body.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Refused(refusal) => refusal.into(),
            ServiceError::Propose(error) => error.into(),
            ServiceError::Read(error) => read(error),
            ServiceError::Membership(error) => membership(error),
            ServiceError::TooMany { limit, max } => {
                Self::new(Code::LimitExceeded, error.to_string()).with("limit", limit).with("max", max)
            }
            ServiceError::NotMember => Self::new(Code::NoLeader, error.to_string()),
            ServiceError::WaitUnknown => Self::new(Code::OutcomeUnknown, error.to_string()),
            ServiceError::UnexpectedReply { .. } => Self::new(Code::Internal, error.to_string()),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let error = |code| Self::new(code, detail.clone());
        match refusal {
            Refusal::InvalidArgument { field, problem } => Self::invalid(&edge_name(&field), problem),
            Refusal::LimitExceeded { limit, max } => {
                error(Code::LimitExceeded).with("limit", limit).with("max", max)
            }
            Refusal::LockHeld { key, holder, queue_length } => {
                in_the_way(error(Code::LockHeld), key, holder, queue_length)
            }
            Refusal::LockTimeout { key, holder, queue_length } => {
                in_the_way(error(Code::LockTimeout), key, holder, queue_length)
            }
            Refusal::WaitCancelled => error(Code::WaitCancelled),
            Refusal::NotHolder { key } => error(Code::NotHolder).with("key", key),
            Refusal::LockLost { token } => error(Code::LockLost).with("fencing_token", token.to_string()),
            Refusal::IdempotencyKeyReused => error(Code::IdempotencyKeyReused),
            Refusal::RevisionMismatch { key, current } => error(Code::RevisionMismatch)
                .with("key", String::from_utf8_lossy(&key).into_owned())
                .with("current_revision", current.map(|revision| revision.to_string())),
            Refusal::NotFound => error(Code::NotFound),
            Refusal::NotFormed => error(Code::NoLeader),
            Refusal::AlreadyFormed
            | Refusal::NameTaken { .. }
            | Refusal::StaleIncarnation
            | Refusal::StaleGeneration
            | Refusal::Outdated { .. } => error(Code::Conflict),
            Refusal::SessionNotFound => error(Code::UnknownSession),
            Refusal::SessionMoved { epoch, .. } => error(Code::SessionMoved).with("epoch", epoch),
            Refusal::InvalidToken => error(Code::InvalidToken),
            Refusal::InvalidTarget => error(Code::InvalidTarget),
            Refusal::Draining => error(Code::Draining),
        }
    }
}

/// The state names fields of commands; clients know those of the bodies.
fn edge_name(field: &str) -> String {
    match field {
        "ttl" | "wait" => format!("{field}_ms"),
        "hold_max" => "max_hold_ms".to_owned(),
        other => other.to_owned(),
    }
}

fn in_the_way(error: ApiError, key: String, holder: Option<Holder>, queue_length: u64) -> ApiError {
    let holder = holder.map(|holder| {
        json!({
            "owner": holder.owner,
            "fencing_token": holder.token.to_string(),
            "ttl_ms": holder.ttl.0,
        })
    });
    error.with("key", key).with("holder", holder).with("queue_length", queue_length)
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        let detail = error.to_string();
        match error {
            ProposeError::NoLeader { .. } => Self::new(Code::NoLeader, detail),
            ProposeError::Busy { queue } => Self::new(Code::QueueFull, detail).with("queue", queue),
            ProposeError::Unknown => Self::new(Code::OutcomeUnknown, detail),
            ProposeError::TooLarge { max, .. } => {
                Self::new(Code::BodyTooLarge, detail).with("max_bytes", max)
            }
            ProposeError::NotYet { needs, cluster, .. } => Self::new(Code::ClusterVersion, detail)
                .with("needs", needs.to_string())
                .with("cluster_version", cluster.to_string()),
            ProposeError::Stopped { .. } => Self::new(Code::NodeStopped, detail),
        }
    }
}

fn read(error: ReadError) -> ApiError {
    let detail = error.to_string();
    match error {
        ReadError::NoLeader { .. } => ApiError::new(Code::NoLeader, detail),
        ReadError::Lagging => ApiError::new(Code::Lagging, detail),
        ReadError::Busy { queue } => ApiError::new(Code::QueueFull, detail).with("queue", queue),
        ReadError::Stopped { .. } => ApiError::new(Code::NodeStopped, detail),
    }
}

fn membership(error: MembershipError) -> ApiError {
    let detail = error.to_string();
    match error {
        MembershipError::UnknownNode => ApiError::new(Code::UnknownNode, detail),
        MembershipError::WouldLoseQuorum { .. } => ApiError::new(Code::WouldLoseQuorum, detail),
        MembershipError::InProgress => ApiError::new(Code::MembershipBusy, detail),
        MembershipError::Unfit { .. } => ApiError::new(Code::Unfit, detail),
        MembershipError::Propose(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_titled() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.title().ends_with('.')));
    }

    #[test]
    fn busy_and_leaderless_say_when_to_come_back() {
        for error in [
            ApiError::from(ProposeError::Busy { queue: "proposals" }),
            ApiError::from(ProposeError::NoLeader { last_known: None }),
        ] {
            let response = error.render("r");
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
        let unknown = ApiError::from(ProposeError::Unknown).render("r");
        assert_eq!(unknown.status(), StatusCode::GATEWAY_TIMEOUT);
        assert!(!unknown.headers().contains_key(header::RETRY_AFTER));
    }
}
