//! Sessions over HTTP. A session is named by its secret id, which is proof enough, or by its public number, which is for
//! administrators.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::Response;
use ovncp_state::sessions::view::SessionView;
use ovncp_state::{Millis, SessionId, SessionNumber};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{
    Admin, ConsistencyParam, Fresh, IdempotencyKey, IsAdmin, JsonBody, OptionalJson, Query, Segment,
    from_text_cursor, page_limit,
};
use super::locks::no_content;
use super::{App, At, Shared};
use crate::services::ServiceError;
use crate::services::reads::Freshness;
use crate::services::sessions::{Named, ROTATION_OVERLAP};
use crate::wall_clock;
use ovncp_raft::error::MembershipError;

/// Hexadecimal digits of the hash that others see instead of an id.
const HASH_DIGITS: usize = 16;

/// A session from the path, named by one who may name it so.
pub struct SessionRef {
    named: Named,
    text: String,
}

impl FromRequestParts<Shared> for SessionRef {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, ApiError> {
        // The first of two segments too: /sessions/{id}/metadata.
        let Segment(text) = Segment::from_request_parts(parts, app).await?;
        let named = Named::parse(&text).ok_or_else(|| unknown(&text))?;
        if matches!(named, Named::Number(_)) {
            Admin::from_request_parts(parts, app).await?;
        }
        Ok(Self { named, text })
    }
}

impl SessionRef {
    async fn find(&self, app: &App) -> Result<SessionView, ApiError> {
        let (_, (_, session)) = app.sessions.get(self.named, Freshness::default()).await?;
        session.ok_or_else(|| unknown(&self.text))
    }
}

fn unknown(text: &str) -> ApiError {
    // What was given may be somebody's id: it is not repeated.
    let problem = if text.len() == 32 { "no session has this id" } else { "no session has this number" };
    ApiError::new(Code::UnknownSession, problem)
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// It has a socket.
    Attached,
    /// It has a socket whose client was asked to go elsewhere.
    Migrating,
    /// It had a socket; it ends at `expires_at` unless its client comes back.
    Detached,
    /// It had no socket yet.
    Placed,
}

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    /// Its number: public, and the same for its whole life.
    pub session: String,
    /// Its secret id; only for administrators, and for those who named it themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// For everybody else: the beginning of the SHA-256 of the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_hash: Option<String>,
    /// Whose.
    pub user_id: String,
    /// The node that has its socket, had it last, or was chosen for it.
    pub node_id: String,
    /// Where it is in its life.
    pub status: SessionStatus,
    /// Counts its sockets; 0 before the first one.
    pub epoch: u64,
    /// When it was registered.
    pub created_at: String,
    /// When its client last gave a sign of life, within half a minute.
    pub last_activity: String,
    /// When it ends unless its client comes back; null while it has a socket.
    pub expires_at: Option<String>,
    /// How long it outlives its socket.
    pub ttl_ms: u64,
    /// Messages before this offset have arrived for sure.
    pub position: String,
    /// Channels that it listens to.
    pub channels: Vec<String>,
    /// As given.
    pub metadata: Option<Value>,
}

impl Session {
    fn new(view: SessionView, now: Millis, app: &App, with_id: bool) -> Self {
        let status = match (view.attached, &view.migration, view.epoch) {
            (true, Some(_), _) => SessionStatus::Migrating,
            (true, None, _) => SessionStatus::Attached,
            (false, _, 0) => SessionStatus::Placed,
            (false, ..) => SessionStatus::Detached,
        };
        Self {
            session: view.number.to_string(),
            session_id: with_id.then(|| view.id.to_string()),
            session_hash: (!with_id).then(|| hash(&view.id)),
            user_id: view.user,
            node_id: app.sessions.node_name(view.node),
            status,
            epoch: view.epoch,
            created_at: wall_clock::utc(view.created_at, now),
            last_activity: wall_clock::utc(view.last_activity, now),
            expires_at: view.expires.map(|at| wall_clock::utc(at, now)),
            ttl_ms: view.ttl.0,
            position: view.position.to_string(),
            channels: view.channels,
            metadata: view.metadata.and_then(|text| serde_json::from_str(&text).ok()),
        }
    }
}

fn hash(id: &SessionId) -> String {
    let digest = Sha256::digest(id.to_string().as_bytes());
    digest.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// Query of the lists.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionsQuery {
    /// Sessions of this user only.
    pub user: Option<String>,
    /// Sessions of this node only.
    pub node: Option<String>,
    /// Sessions of the node that answers only.
    pub local: Option<bool>,
    /// At most so many, 1 to 1,000; 100 when left out.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// One page of sessions.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionPage {
    /// In the order of their numbers.
    pub sessions: Vec<Session>,
    /// Length of this page.
    pub count: usize,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// Lists the sessions of the whole cluster.
#[utoipa::path(get, path = "/api/v1/cluster/sessions", tag = "sessions", operation_id = "list_sessions",
    params(SessionsQuery),
    responses((status = 200, body = SessionPage, description = "One page."), (status = 404, description = "`unknown_node`")))]
pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<SessionsQuery>,
    admin: IsAdmin,
    fresh: Fresh,
) -> Result<At<SessionPage>, ApiError> {
    page(&app, query, &admin, fresh).await
}

/// Lists the sessions of a user.
#[utoipa::path(get, path = "/api/v1/cluster/sessions/user/{user}", tag = "sessions", operation_id = "list_sessions_of_user",
    params(("user" = String, Path, description = "Percent-encoded name"), SessionsQuery),
    responses((status = 200, body = SessionPage, description = "One page."), (status = 404, description = "`unknown_node`")))]
pub async fn list_of_user(
    State(app): State<Shared>,
    Segment(user): Segment,
    Query(mut query): Query<SessionsQuery>,
    admin: IsAdmin,
    fresh: Fresh,
) -> Result<At<SessionPage>, ApiError> {
    if query.user.as_ref().is_some_and(|other| *other != user) {
        return Err(ApiError::invalid("user", "differs from the one in the path"));
    }
    query.user = Some(user);
    page(&app, query, &admin, fresh).await
}

async fn page(
    app: &App,
    query: SessionsQuery,
    admin: &IsAdmin,
    fresh: Fresh,
) -> Result<At<SessionPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let after = from_text_cursor(query.cursor.as_deref())?;
    let after = after.map(|text| text.parse().map(SessionNumber)).transpose().map_err(|_| {
        ApiError::new(Code::MalformedRequest, "the cursor is none of ours").with("field", "cursor")
    })?;
    let node = match (query.node.as_deref(), query.local) {
        (node, Some(true)) if node.is_none_or(|node| node == app.node_name) => Some(app.node_name.as_str()),
        (Some(_), Some(true)) => return Err(ApiError::invalid("node", "is not the node that answers")),
        (node, _) => node,
    };
    let freshness = fresh.with(query.consistency);
    // One more than asked tells whether there is a next page.
    let (index, (now, found)) =
        app.sessions.list(after, limit + 1, query.user.as_deref(), node, freshness).await?;
    let mut views = found.ok_or(ServiceError::Membership(MembershipError::UnknownNode))?;
    let more = views.len() > limit;
    views.truncate(limit);
    let mut last: Vec<String> =
        views.last().filter(|_| more).map(|view| view.number.to_string()).into_iter().collect();
    let next_cursor = last.pop().map(|number| super::extract::cursor(number.as_bytes()));
    let sessions: Vec<_> = views.into_iter().map(|view| Session::new(view, now, app, admin.0)).collect();
    Ok(At(index, SessionPage { count: sessions.len(), sessions, next_cursor }))
}

/// Query of one session.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Shows a session. By its number for administrators only.
#[utoipa::path(get, path = "/api/v1/cluster/sessions/{id}", tag = "sessions", operation_id = "get_session",
    params(("id" = String, Path, description = "Secret id, or the number"), SessionQuery), security((), ("admin" = [])),
    responses((status = 200, body = Session, description = "The session."), (status = 404, description = "`unknown_session`")))]
pub async fn get(
    State(app): State<Shared>,
    session: SessionRef,
    Query(query): Query<SessionQuery>,
    fresh: Fresh,
) -> Result<At<Session>, ApiError> {
    let (index, (now, found)) = app.sessions.get(session.named, fresh.with(query.consistency)).await?;
    let view = found.ok_or_else(|| unknown(&session.text))?;
    Ok(At(index, Session::new(view, now, &app, true)))
}

/// Whose session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// 1 to 256 bytes.
    pub user_id: String,
    /// Any JSON, at most 4,096 bytes.
    #[serde(default)]
    pub metadata: Option<Value>,
}

/// A session that waits for its socket.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisteredSession {
    /// Its number.
    pub session: String,
    /// Its secret id.
    pub session_id: String,
    /// The node that was chosen for it.
    pub node_id: String,
    /// Where to open the socket.
    pub url: String,
}

/// Registers a session without a socket: the cluster chooses a node for it.
#[utoipa::path(post, path = "/api/v1/cluster/sessions", tag = "sessions", operation_id = "register_session",
    request_body = RegisterRequest,
    responses((status = 200, body = RegisteredSession, description = "Registered.")))]
pub async fn register(
    State(app): State<Shared>,
    idempotency: IdempotencyKey,
    body: JsonBody<RegisterRequest>,
) -> Result<At<RegisteredSession>, ApiError> {
    let retry = idempotency.identity(&[&body.raw]);
    let metadata = body.value.metadata.map(|metadata| metadata.to_string());
    let registered = app.sessions.register(body.value.user_id, metadata, false, retry).await?;
    let grant = registered.grant;
    let node = app.sessions.node(grant.node);
    let (node_id, url) = match &node {
        Some(node) => (node.name.clone(), app.sessions.url(&grant.id, Some((&node.name, &node.info, "")))),
        None => (grant.node.to_string(), app.sessions.url(&grant.id, None)),
    };
    let (session, session_id) = (grant.number.to_string(), grant.id.to_string());
    Ok(At(registered.index, RegisteredSession { session, session_id, node_id, url }))
}

/// Where to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// Name of an active node; the cluster chooses one when left out.
    #[serde(default)]
    pub target_node_id: Option<String>,
}

/// A session whose client is asked to go elsewhere.
#[derive(Debug, Serialize, ToSchema)]
pub struct MigratingSession {
    /// Its number.
    pub session: String,
    /// Where it is until its client has gone.
    pub node_id: String,
    /// Where it goes.
    pub target_node_id: String,
}

/// Asks the client of a session to go to another node, without losing a message.
#[utoipa::path(post, path = "/api/v1/cluster/sessions/{id}/migrate", tag = "sessions", operation_id = "migrate_session",
    params(("id" = String, Path, description = "Secret id, or the number")), request_body = MigrateRequest,
    security((), ("admin" = [])),
    responses((status = 200, body = MigratingSession, description = "Asked."),
        (status = 404, description = "`unknown_session`"),
        (status = 409, description = "`session_moved`: it went elsewhere meanwhile")))]
pub async fn migrate(
    State(app): State<Shared>,
    session: SessionRef,
    idempotency: IdempotencyKey,
    body: OptionalJson<MigrateRequest>,
) -> Result<At<MigratingSession>, ApiError> {
    let target = body.value.target_node_id;
    let retry = idempotency.identity(&[target.as_deref().unwrap_or_default().as_bytes()]);
    let view = session.find(&app).await?;
    let moving = app.sessions.migrate(&view, target.as_deref(), retry).await;
    let (index, moving) = moving.map_err(|error| match (ApiError::from(error), &target) {
        (error, Some(target)) if error.code == Code::InvalidTarget => {
            error.with("target_node_id", target.as_str())
        }
        (error, _) => error,
    })?;
    let answer = MigratingSession {
        session: moving.number.to_string(),
        node_id: moving.node,
        target_node_id: moving.target,
    };
    Ok(At(index, answer))
}

/// Replaces the metadata of a session. The body is the metadata, any JSON of at most 4,096 bytes; `null` removes it.
#[utoipa::path(put, path = "/api/v1/cluster/sessions/{id}/metadata", tag = "sessions", operation_id = "put_session_metadata",
    params(("id" = String, Path, description = "Secret id, or the number")), request_body = Value,
    security((), ("admin" = [])),
    responses((status = 204, description = "Replaced."), (status = 404, description = "`unknown_session`")))]
pub async fn put_metadata(
    State(app): State<Shared>,
    session: SessionRef,
    idempotency: IdempotencyKey,
    body: JsonBody<Value>,
) -> Result<Response, ApiError> {
    let retry = idempotency.identity(&[&body.raw]);
    let number = session.find(&app).await?.number;
    let metadata = Some(body.value).filter(|value| !value.is_null()).map(|value| value.to_string());
    Ok(no_content(app.sessions.describe(number, metadata, retry).await?))
}

/// Ends a session for good: its socket is closed, its locks are released.
#[utoipa::path(delete, path = "/api/v1/cluster/sessions/{id}", tag = "sessions", operation_id = "end_session",
    params(("id" = String, Path, description = "Secret id, or the number")), security((), ("admin" = [])),
    responses((status = 204, description = "Ended."), (status = 404, description = "`unknown_session`")))]
pub async fn end(
    State(app): State<Shared>,
    session: SessionRef,
    idempotency: IdempotencyKey,
) -> Result<Response, ApiError> {
    let retry = idempotency.identity(&[]);
    let number = session.find(&app).await?.number;
    Ok(no_content(app.sessions.end(number, None, retry).await?))
}

/// The next id of a session.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotatedSession {
    /// Secret id from now on.
    pub session_id: String,
    /// How long the one before goes on working.
    pub overlap_ms: u64,
}

/// Gives a session another id. The one before works for another minute, or until the next rotation: a session has one
/// former id at a time.
#[utoipa::path(post, path = "/api/v1/cluster/sessions/{id}/rotate", tag = "sessions", operation_id = "rotate_session",
    params(("id" = String, Path, description = "Secret id, or the number")), security((), ("admin" = [])),
    responses((status = 200, body = RotatedSession, description = "Rotated."), (status = 404, description = "`unknown_session`")))]
pub async fn rotate(
    State(app): State<Shared>,
    session: SessionRef,
    idempotency: IdempotencyKey,
) -> Result<At<RotatedSession>, ApiError> {
    let retry = idempotency.identity(&[]);
    let id = match session.named {
        Named::Id(id) => id,
        Named::Number(_) => session.find(&app).await?.id,
    };
    let (index, next) = app.sessions.rotate(id, retry).await?;
    let answer = RotatedSession { session_id: next.to_string(), overlap_ms: ROTATION_OVERLAP.0 };
    Ok(At(index, answer))
}

/// Which session.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlacementQuery {
    /// Secret id of a session, or the id that one is going to have; any when left out.
    pub session: Option<String>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Where a session is, or should go.
#[derive(Debug, Serialize, ToSchema)]
pub struct Placement {
    /// The node.
    pub node_id: String,
    /// Where to open the socket.
    pub url: String,
    /// Whether there is such a session.
    pub known: bool,
    /// Whether it has a socket there.
    pub attached: bool,
}

/// Tells where a session is, or where it should go.
#[utoipa::path(get, path = "/api/v1/cluster/placement", tag = "sessions", operation_id = "get_placement",
    params(PlacementQuery), responses((status = 200, body = Placement, description = "The node.")))]
pub async fn placement(
    State(app): State<Shared>,
    Query(query): Query<PlacementQuery>,
    fresh: Fresh,
) -> Result<At<Placement>, ApiError> {
    let id = match query.session.as_deref() {
        None => SessionId(rand::random()),
        Some(text) => crate::services::sessions::parse_id(text)
            .ok_or_else(|| ApiError::invalid("session", "is no id of a session: 32 hexadecimal digits"))?,
    };
    let (index, (session, node)) = app.sessions.place(id, fresh.with(query.consistency)).await?;
    let node = node.ok_or_else(|| ApiError::new(Code::Draining, "no node takes sessions at this moment"))?;
    let mut url = app.sessions.url(&id, Some((&node.name, &node.info, "")));
    if query.session.is_none() {
        url = url.replacen(&format!("session={id}&"), "", 1);
    }
    let attached = session.as_ref().is_some_and(|session| session.attached);
    Ok(At(index, Placement { node_id: node.name, url, known: session.is_some(), attached }))
}
