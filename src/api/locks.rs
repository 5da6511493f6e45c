//! Locks over HTTP.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ovncp_state::command::LockMode;
use ovncp_state::view::{HolderView, LockView, WaiterView};
use ovncp_state::{FencingToken, LogIndex, Millis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{
    Admin, ConsistencyParam, Fresh, IdempotencyKey, JsonBody, Query, Segment, cut, from_text_cursor,
    page_limit,
};
use super::{App, At, INDEX, Shared};
use crate::services::elections;
use crate::services::idempotency::Retryable;
use crate::services::locks::{Ask, Held, WAIT_MS_MAX};
use crate::services::network;
use crate::services::secret::{SECRET_BYTES_MAX, SECRET_BYTES_MIN};
use crate::services::sessions::parse_id;
use crate::wall_clock;

/// Lease when none is asked for.
const TTL_MS_DEFAULT: u64 = 30_000;
/// Waiters shown of one lock.
const QUEUE_SHOWN_MAX: usize = 1_000;
/// Waiters shown of each lock in a list.
const QUEUE_LISTED_MAX: usize = 10;

/// The key of a lock of a user, from the path. Terms of office are locks too, but belong to their elections:
/// anybody may read them here, nobody may change them.
pub struct LockKey(String);

impl<S: Send + Sync> FromRequestParts<S> for LockKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Segment(key) = Segment::from_request_parts(parts, state).await?;
        check_key("key", &key)?;
        Ok(Self(key))
    }
}

fn check_key(field: &str, key: &str) -> Result<(), ApiError> {
    if key.starts_with(network::LOCK_PREFIX) {
        return Err(ApiError::invalid(field, format!("{key} belongs to ovncp itself")));
    }
    match elections::name_of(key) {
        Some(name) => Err(ApiError::invalid(field, format!("{key} belongs to the election {name:?}"))),
        None => Ok(()),
    }
}

/// Whether a lock may have several holders at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One holder.
    #[default]
    Exclusive,
    /// Any number of shared holders, no exclusive one.
    Shared,
}

impl From<Mode> for LockMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Exclusive => Self::Exclusive,
            Mode::Shared => Self::Shared,
        }
    }
}

impl From<LockMode> for Mode {
    fn from(mode: LockMode) -> Self {
        match mode {
            LockMode::Exclusive => Self::Exclusive,
            LockMode::Shared => Self::Shared,
        }
    }
}

pub(super) fn ttl_ms_default() -> u64 {
    TTL_MS_DEFAULT
}

/// How to acquire a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    /// Who asks, for people; 1 to 256 bytes.
    pub owner: String,
    /// Exclusive when left out.
    #[serde(default)]
    pub mode: Mode,
    /// Lease in milliseconds, 500 to 86,400,000.
    #[serde(default = "ttl_ms_default")]
    pub ttl_ms: u64,
    /// How long to wait, at most 40,000; 0 is try-lock.
    #[serde(default)]
    pub wait_ms: u64,
    /// Proof of holding brought by the client, 16 to 256 bytes; made here when left out.
    #[serde(default)]
    pub secret: Option<String>,
    /// Time from the grant that renewal cannot pass.
    #[serde(default)]
    pub max_hold_ms: Option<u64>,
    /// Secret id of a session whose end releases the lock.
    #[serde(default)]
    pub session_id: Option<String>,
    /// Any JSON, at most 4,096 bytes.
    #[serde(default)]
    pub metadata: Option<Value>,
}

/// How to acquire several locks, all or none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcquireManyRequest {
    /// 1 to 64 keys; one grant and one token cover all of them.
    pub keys: Vec<String>,
    /// As for one lock.
    pub owner: String,
    /// As for one lock.
    #[serde(default)]
    pub mode: Mode,
    /// As for one lock.
    #[serde(default = "ttl_ms_default")]
    pub ttl_ms: u64,
    /// As for one lock.
    #[serde(default)]
    pub wait_ms: u64,
    /// As for one lock.
    #[serde(default)]
    pub secret: Option<String>,
    /// As for one lock.
    #[serde(default)]
    pub max_hold_ms: Option<u64>,
    /// As for one lock.
    #[serde(default)]
    pub session_id: Option<String>,
    /// As for one lock.
    #[serde(default)]
    pub metadata: Option<Value>,
}

/// A lock that was granted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Acquired {
    /// Its key; of several, the first in order.
    pub key: String,
    /// Every key, when several were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Who holds it.
    pub owner: String,
    /// Proof of holding, for renew and release. Shown to nobody else, ever.
    pub secret: String,
    /// Higher than that of every earlier grant: pass it to what the lock protects.
    pub fencing_token: String,
    /// What remains of the lease.
    pub ttl_ms: u64,
    /// Time between request and grant.
    pub waited_ms: u64,
}

impl Acquired {
    fn new(held: Held, several: bool) -> At<Self> {
        let Held { mut grant, secret, index } = held;
        let key = if several { grant.keys[0].clone() } else { grant.keys.swap_remove(0) };
        let acquired = Self {
            key,
            keys: several.then_some(grant.keys),
            mode: grant.mode.into(),
            owner: grant.owner,
            secret,
            fencing_token: grant.token.to_string(),
            ttl_ms: grant.ttl.0,
            waited_ms: grant.waited.0,
        };
        At(index, acquired)
    }
}

impl AcquireRequest {
    pub(super) fn into_ask(self, keys: Vec<String>, retry: Option<Retryable>) -> Result<Ask, ApiError> {
        if self.wait_ms > WAIT_MS_MAX {
            return Err(ApiError::invalid(
                "wait_ms",
                format!("is {}; allowed are 0 to {WAIT_MS_MAX}", self.wait_ms),
            ));
        }
        if let Some(secret) =
            self.secret.as_ref().filter(|s| !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&s.len()))
        {
            let detail =
                format!("has {} bytes; allowed are {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}", secret.len());
            return Err(ApiError::invalid("secret", detail));
        }
        let session = match self.session_id.map(|text| parse_id(&text)) {
            None => None,
            Some(Some(id)) => Some(id),
            Some(None) => return Err(ApiError::new(Code::UnknownSession, "no such session")),
        };
        Ok(Ask {
            keys,
            mode: self.mode.into(),
            owner: self.owner,
            secret: self.secret,
            ttl: Millis(self.ttl_ms),
            wait: Millis(self.wait_ms),
            hold_max: self.max_hold_ms.map(Millis),
            metadata: self.metadata.map(|metadata| metadata.to_string()),
            session,
            retry,
        })
    }
}

/// Acquires a lock, waiting up to `wait_ms` for it. A client that hangs up while it waits leaves the queue.
#[utoipa::path(post, path = "/api/v1/cluster/locks/{key}/acquire", tag = "locks", operation_id = "acquire_lock",
    params(("key" = String, Path, description = "Percent-encoded key, 1 to 1,024 bytes")),
    request_body = AcquireRequest,
    responses((status = 200, body = Acquired, description = "Granted."),
        (status = 404, description = "`unknown_session`"),
        (status = 409, description = "`lock_held`, `lock_timeout` (both with `holder` and `queue_length`), `lock_lost`, `wait_cancelled`")))]
pub async fn acquire(
    State(app): State<Shared>,
    LockKey(key): LockKey,
    idempotency: IdempotencyKey,
    body: JsonBody<AcquireRequest>,
) -> Result<At<Acquired>, ApiError> {
    let retry = idempotency.bind(&[&body.raw]);
    let ask = body.value.into_ask(vec![key], retry)?;
    let held = app.unless_draining(ask.wait > Millis(0), app.locks.acquire(ask)).await?;
    Ok(Acquired::new(held, false))
}

/// Acquires several locks, all or none.
#[utoipa::path(post, path = "/api/v1/cluster/locks/acquire", tag = "locks", operation_id = "acquire_locks",
    request_body = AcquireManyRequest,
    responses((status = 200, body = Acquired, description = "All granted."),
        (status = 404, description = "`unknown_session`"),
        (status = 409, description = "`lock_held`, `lock_timeout` (both with `holder` and `queue_length`), `lock_lost`, `wait_cancelled`")))]
pub async fn acquire_many(
    State(app): State<Shared>,
    idempotency: IdempotencyKey,
    body: JsonBody<AcquireManyRequest>,
) -> Result<At<Acquired>, ApiError> {
    let retry = idempotency.bind(&[&body.raw]);
    let AcquireManyRequest { keys, owner, mode, ttl_ms, wait_ms, secret, max_hold_ms, session_id, metadata } =
        body.value;
    keys.iter().try_for_each(|key| check_key("keys", key))?;
    let one = AcquireRequest { owner, mode, ttl_ms, wait_ms, secret, max_hold_ms, session_id, metadata };
    let ask = one.into_ask(keys, retry)?;
    let held = app.unless_draining(ask.wait > Millis(0), app.locks.acquire(ask)).await?;
    Ok(Acquired::new(held, true))
}

/// How to renew a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Proof of holding.
    pub secret: String,
    /// New lease; as at the grant when left out.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
}

/// A lease that was extended.
#[derive(Debug, Serialize, ToSchema)]
pub struct RenewedLease {
    /// What the lease now has; less than asked when `max_hold_ms` cuts it.
    pub ttl_ms: u64,
    /// Token of the grant, unchanged.
    pub fencing_token: String,
}

/// Extends a lease.
#[utoipa::path(post, path = "/api/v1/cluster/locks/{key}/renew", tag = "locks", operation_id = "renew_lock",
    params(("key" = String, Path, description = "A key of the grant")), request_body = RenewRequest,
    responses((status = 200, body = RenewedLease, description = "Extended."), (status = 409, description = "`not_holder`")))]
pub async fn renew(
    State(app): State<Shared>,
    LockKey(key): LockKey,
    // A renewal may be repeated as it is: the key is only checked.
    _: IdempotencyKey,
    body: JsonBody<RenewRequest>,
) -> Result<axum::Json<RenewedLease>, ApiError> {
    let renewed = app.locks.renew(key, &body.value.secret, body.value.ttl_ms.map(Millis)).await?;
    Ok(axum::Json(RenewedLease { ttl_ms: renewed.ttl.0, fencing_token: renewed.token.to_string() }))
}

/// How to release a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Proof of holding.
    pub secret: String,
}

/// Gives a lock back; a grant over several keys whole.
#[utoipa::path(post, path = "/api/v1/cluster/locks/{key}/release", tag = "locks", operation_id = "release_lock",
    params(("key" = String, Path, description = "A key of the grant")), request_body = ReleaseRequest,
    responses((status = 204, description = "Released."), (status = 409, description = "`not_holder`")))]
pub async fn release(
    State(app): State<Shared>,
    LockKey(key): LockKey,
    idempotency: IdempotencyKey,
    body: JsonBody<ReleaseRequest>,
) -> Result<Response, ApiError> {
    let retry = idempotency.bind(&[&body.raw]);
    let (index, _) = app.locks.release(key, &body.value.secret, retry.map(|retry| retry.key)).await?;
    Ok(no_content(index))
}

pub(super) fn no_content(index: LogIndex) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(INDEX, HeaderValue::from(index.0));
    response
}

/// Why and what to release by force.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForceReleaseRequest {
    /// For the event that everybody sees; 1 to 1,024 bytes.
    pub reason: String,
    /// Ends only the grant with this token.
    #[serde(default)]
    pub fencing_token: Option<String>,
}

impl ForceReleaseRequest {
    pub(super) fn token(&self) -> Result<Option<FencingToken>, ApiError> {
        let token = self.fencing_token.as_ref().map(|token| token.parse().map(FencingToken)).transpose();
        token.map_err(|_| ApiError::invalid("fencing_token", "is not a number in a string"))
    }
}

/// Grants that were ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct ForceReleased {
    /// Their tokens.
    pub fencing_tokens: Vec<String>,
}

/// Ends every grant on a key. For administrators.
#[utoipa::path(delete, path = "/api/v1/cluster/locks/{key}", tag = "locks", operation_id = "force_release_lock",
    params(("key" = String, Path, description = "Percent-encoded key")), request_body = ForceReleaseRequest,
    security(("admin" = [])),
    responses((status = 200, body = ForceReleased, description = "Released."), (status = 404, description = "`unknown_lock`")))]
pub async fn force_release(
    _: Admin,
    State(app): State<Shared>,
    LockKey(key): LockKey,
    idempotency: IdempotencyKey,
    body: JsonBody<ForceReleaseRequest>,
) -> Result<At<ForceReleased>, ApiError> {
    let retry = idempotency.identity(&[&body.raw]);
    let token = body.value.token()?;
    let released = app.locks.force_release(key.clone(), body.value.reason, token, retry).await;
    let (index, tokens) = released.map_err(|error| unknown_instead_of_missing(error.into(), &key))?;
    tracing::warn!(key, ?tokens, "an administrator released a lock by force");
    Ok(At(index, ForceReleased { fencing_tokens: tokens.iter().map(ToString::to_string).collect() }))
}

fn unknown_instead_of_missing(error: ApiError, key: &str) -> ApiError {
    match error.code {
        Code::NotFound => unknown(key),
        _ => error,
    }
}

fn unknown(key: &str) -> ApiError {
    ApiError::new(Code::UnknownLock, format!("nobody holds or waits for {key}")).with("key", key)
}

/// A lock with its holders and its queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lock {
    /// Its key.
    pub key: String,
    /// One exclusive, or any number of shared ones, in the order of their tokens.
    pub holders: Vec<LockHolder>,
    /// Who waits, in order; only the first ones.
    pub queue: Vec<LockWaiter>,
    /// How many wait.
    pub queue_length: u64,
}

/// A holder.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockHolder {
    /// Who.
    pub owner: String,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Token of the grant.
    pub fencing_token: String,
    /// Every key of the grant.
    pub keys: Vec<String>,
    /// As given at acquire.
    pub metadata: Option<Value>,
    /// When it was granted.
    pub since: String,
    /// When its lease ends.
    pub expires: String,
    /// When renewal can no longer help.
    pub hold_deadline: Option<String>,
    /// How long it is held.
    pub held_ms: u64,
    /// What remains of the lease.
    pub ttl_ms: u64,
}

/// A waiter.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockWaiter {
    /// 0 is next.
    pub position: u64,
    /// Who.
    pub owner: String,
    /// Exclusive or shared.
    pub mode: Mode,
    /// The node whose client waits.
    pub node_id: String,
    /// When it began.
    pub since: String,
    /// When it gives up.
    pub deadline: String,
    /// How long it waits.
    pub waiting_ms: u64,
}

impl Lock {
    fn new(view: LockView, now: Millis, app: &App) -> Self {
        Self {
            key: view.key,
            holders: view.holders.into_iter().map(|holder| LockHolder::new(holder, now)).collect(),
            queue: view.queue.into_iter().map(|waiter| LockWaiter::new(waiter, now, app)).collect(),
            queue_length: view.queue_length,
        }
    }
}

impl LockHolder {
    pub(super) fn new(view: HolderView, now: Millis) -> Self {
        Self {
            owner: view.owner,
            mode: view.mode.into(),
            fencing_token: view.token.to_string(),
            keys: view.keys,
            metadata: view.metadata.and_then(|text| serde_json::from_str(&text).ok()),
            since: wall_clock::utc(view.since, now),
            expires: wall_clock::utc(view.expires, now),
            hold_deadline: view.hold_deadline.map(|at| wall_clock::utc(at, now)),
            held_ms: now.0.saturating_sub(view.since.0),
            ttl_ms: view.expires.0.saturating_sub(now.0),
        }
    }
}

impl LockWaiter {
    pub(super) fn new(view: WaiterView, now: Millis, app: &App) -> Self {
        Self {
            position: view.position,
            owner: view.owner,
            mode: view.mode.into(),
            node_id: app.locks.node_name(view.node).unwrap_or_else(|| view.node.to_string()),
            since: wall_clock::utc(view.since, now),
            deadline: wall_clock::utc(view.deadline, now),
            waiting_ms: now.0.saturating_sub(view.since.0),
        }
    }
}

/// Query of one lock.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LockQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Shows a lock that is held or waited for.
#[utoipa::path(get, path = "/api/v1/cluster/locks/{key}", tag = "locks", operation_id = "get_lock",
    params(("key" = String, Path, description = "Percent-encoded key"), LockQuery),
    responses((status = 200, body = Lock, description = "The lock."), (status = 404, description = "`unknown_lock`: it is free")))]
pub async fn get(
    State(app): State<Shared>,
    Segment(key): Segment,
    Query(query): Query<LockQuery>,
    fresh: Fresh,
) -> Result<At<Lock>, ApiError> {
    let freshness = fresh.with(query.consistency);
    let (index, (now, view)) = app.locks.get(&key, QUEUE_SHOWN_MAX, freshness).await?;
    let view = view.ok_or_else(|| unknown(&key))?;
    Ok(At(index, Lock::new(view, now, &app)))
}

/// Query of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LocksQuery {
    /// What keys begin with.
    pub prefix: Option<String>,
    /// At most so many, 1 to 1,000; 100 when left out.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// One page of locks.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockPage {
    /// Ascending by key.
    pub locks: Vec<Lock>,
    /// Length of this page.
    pub count: usize,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// Lists locks that are held or waited for.
#[utoipa::path(get, path = "/api/v1/cluster/locks", tag = "locks", operation_id = "list_locks", params(LocksQuery),
    responses((status = 200, body = LockPage, description = "One page.")))]
pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<LocksQuery>,
    fresh: Fresh,
) -> Result<At<LockPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let after = from_text_cursor(query.cursor.as_deref())?;
    let prefix = query.prefix.unwrap_or_default();
    let freshness = fresh.with(query.consistency);
    // One more than asked tells whether there is a next page.
    let (index, (now, mut views)) =
        app.locks.list(&prefix, after.as_deref(), limit + 1, QUEUE_LISTED_MAX, freshness).await?;
    let next_cursor = cut(&mut views, limit, |view| view.key.as_bytes());
    let locks: Vec<_> = views.into_iter().map(|view| Lock::new(view, now, &app)).collect();
    Ok(At(index, LockPage { count: locks.len(), locks, next_cursor }))
}

/// The lock that is called `acquire`: its path is also that of the multi-key acquire.
const NAMED_ACQUIRE: &str = "acquire";

/// `GET` of the lock called `acquire`.
pub async fn get_named_acquire(
    app: State<Shared>,
    query: Query<LockQuery>,
    fresh: Fresh,
) -> Result<At<Lock>, ApiError> {
    get(app, Segment(NAMED_ACQUIRE.to_owned()), query, fresh).await
}

/// `DELETE` of the lock called `acquire`.
pub async fn force_release_named_acquire(
    admin: Admin,
    app: State<Shared>,
    idempotency: IdempotencyKey,
    body: JsonBody<ForceReleaseRequest>,
) -> Result<At<ForceReleased>, ApiError> {
    force_release(admin, app, LockKey(NAMED_ACQUIRE.to_owned()), idempotency, body).await
}
