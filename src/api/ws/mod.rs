//! `/ws`: the WebSocket edge. Here a client comes in; `socket.rs` serves it; `frames.rs` is what they say to each other.
//!
//! The session is registered or taken over before the answer, so that a refusal is an HTTP answer that balancers
//! understand. Only what concerns the session itself (it is over, its token is not valid) is told by a close code:
//! browsers show their pages no status of an upgrade.
//!
//! An upgraded connection holds no place among the requests in progress, but keeps its place among the connections.

pub(super) mod frames;
mod socket;
mod tails;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ovncp_state::{MessageOffset, Refusal};
use serde::Deserialize;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use utoipa::IntoParams;

use super::error::{ApiError, Code};
use super::extract::Query;
use super::server::Place;
use super::{App, Shared};
use crate::services::ServiceError;
use crate::services::sessions::{Attached, Registered, Standing, parse_id, token};
use socket::{Close, Socket};

/// Id of the session, for the tables of load balancers.
pub const SESSION: HeaderName = HeaderName::from_static("x-ovncp-session");

/// Largest message of a client.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1_024;
/// First read buffer of a socket.
const READ_BUFFER_BYTES: usize = 2 * 1_024;
/// A write goes out when so much is collected, or when nothing follows.
const WRITE_BUFFER_BYTES: usize = 4 * 1_024;
/// What a socket may hold that its client has not taken yet, beside its queue.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1_024;
/// How long a client waits for a node that has just started.
const START_WAIT: Duration = Duration::from_secs(2);
/// How users are called who do not say who they are.
const ANONYMOUS: &str = "anonymous";
/// Clients that are refused are asked to come back after one second to so many.
const RETRY_SECONDS_MAX: u16 = 5;

/// Who comes, and from where it goes on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WsQuery {
    /// Secret id of the session to resume; a new one is registered when left out.
    pub session: Option<String>,
    /// Whose session a new one is; a user of its own, `anonymous-` and random digits, when left out.
    pub user: Option<String>,
    /// First message to send; where the session was when left out.
    pub since: Option<String>,
    /// Token of a migration.
    pub token: Option<String>,
    /// Name of a node, for load balancers: not looked at here.
    pub node: Option<String>,
}

/// A request that can become a WebSocket.
pub struct Upgrade {
    key: HeaderValue,
    on_upgrade: OnUpgrade,
    place: Option<Place>,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        let asked = parts.method == Method::GET
            && has_token(headers, &header::CONNECTION, "upgrade")
            && has_token(headers, &header::UPGRADE, "websocket");
        if !asked {
            let detail = "connect with a WebSocket: the headers Upgrade and Connection are missing";
            return Err(ApiError::new(Code::UpgradeRequired, detail));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(ApiError::new(Code::MalformedRequest, "Sec-WebSocket-Version must be 13"));
        }
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).cloned() else {
            return Err(ApiError::new(Code::MalformedRequest, "Sec-WebSocket-Key is missing"));
        };
        let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(ApiError::new(Code::Internal, "this connection cannot be upgraded"));
        };
        Ok(Self { key, on_upgrade, place: parts.extensions.remove::<Place>() })
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// What comes of a client that was let in.
enum Entry {
    /// It is served.
    Attached(Box<Attached>),
    /// It is told why not.
    Closed(Close),
}

/// Opens a WebSocket: a new session, or the resume of one.
///
/// docs/websocket.md describes frames and close codes. A session that does not exist, or a token that is not valid, is
/// told by the close codes 4009 and 4003 after the upgrade. A node that stops, is being emptied, reaches no majority or
/// takes in too many clients at this moment answers 503 before it; `Retry-After` then differs from client to client.
#[utoipa::path(get, path = "/ws", tag = "sessions", operation_id = "open_websocket", params(WsQuery),
    responses((status = 101, description = "The protocol is WebSocket from here on. `X-Ovncp-Session` is the id of the session."),
        (status = 426, description = "`upgrade_required`")))]
pub async fn connect(
    State(app): State<Shared>,
    Query(query): Query<WsQuery>,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let since = match query.since.as_deref().map(str::parse).transpose() {
        Ok(since) => since.map(MessageOffset),
        Err(_) => return Err(ApiError::invalid("since", "is not an offset (a decimal number)")),
    };
    app.sessions.announced(START_WAIT).await;
    refuse_when_closed(&app)?;
    let resumed = query.session.is_some();
    let entry = match enter(&app, &query).await {
        Ok(registered) => Entry::Attached(Box::new(app.sessions.serve(registered, since))),
        Err(Refused::Close(close)) => Entry::Closed(close),
        Err(Refused::Answer(error)) => return Err(error),
    };
    let id = match &entry {
        Entry::Attached(attached) => Some(attached.grant().id.to_string()),
        Entry::Closed(_) => None,
    };
    let Upgrade { key, on_upgrade, place } = upgrade;
    tokio::spawn(serve(app, on_upgrade, place, entry, resumed));
    Ok(switching(&key, id))
}

fn refuse_when_closed(app: &App) -> Result<(), ApiError> {
    let (code, detail) = match app.sessions.standing() {
        _ if *app.draining.borrow() => (Code::Draining, "this node stops: connect to another one"),
        Standing::Open => return Ok(()),
        Standing::Starting => (Code::Draining, "this node has just started: connect to another one"),
        Standing::Draining => (Code::Draining, "this node is being emptied: connect to another one"),
        Standing::Stopping => (Code::Draining, "this node stops: connect to another one"),
        Standing::CutOff => (Code::NoLeader, "this node reaches no majority: connect to another one"),
    };
    Err(later(ApiError::new(code, detail)))
}

/// Many come at once after a node was lost; they come back spread over some seconds.
fn later(error: ApiError) -> ApiError {
    match error.code.status() {
        StatusCode::SERVICE_UNAVAILABLE => error.retry_after(rand::random_range(1..=RETRY_SECONDS_MAX)),
        _ => error,
    }
}

enum Refused {
    Close(Close),
    Answer(ApiError),
}

/// A user for one session. One for all of them would reach the limit of sessions per user for everybody.
fn anonymous() -> String {
    format!("{ANONYMOUS}-{:016x}", rand::random::<u64>())
}

async fn enter(app: &App, query: &WsQuery) -> Result<Registered, Refused> {
    let busy = || {
        let detail = "too many clients come in at this moment";
        Refused::Answer(later(ApiError::new(Code::Busy, detail)))
    };
    let entered = match &query.session {
        None => {
            let _place = app.sessions.admit().ok_or_else(busy)?;
            let user = query.user.clone().unwrap_or_else(anonymous);
            app.sessions.register(user, None, true, None).await
        }
        Some(session) => {
            let Some(id) = parse_id(session) else { return Err(Refused::Close(Close::Ended)) };
            let token = query.token.as_deref();
            if token.is_some_and(|token| token.len() > token::TOKEN_TEXT_BYTES_MAX) {
                return Err(Refused::Close(Close::InvalidToken));
            }
            let _place = app.sessions.admit().ok_or_else(busy)?;
            app.sessions.attach(id, token).await
        }
    };
    entered.map_err(|error| match error {
        ServiceError::Refused(Refusal::SessionNotFound) => Refused::Close(Close::Ended),
        ServiceError::Refused(Refusal::InvalidToken) => Refused::Close(Close::InvalidToken),
        error => Refused::Answer(later(error.into())),
    })
}

async fn serve(app: Arc<App>, on_upgrade: OnUpgrade, place: Option<Place>, entry: Entry, resumed: bool) {
    // Dropped with the socket; the session is then reported as detached.
    let _place = place;
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a client went away before its socket was open"),
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
    match entry {
        Entry::Attached(attached) => Socket::new(app, stream, *attached).serve(resumed).await,
        Entry::Closed(close) => socket::refuse(&app, stream, close).await,
    }
}

fn switching(key: &HeaderValue, id: Option<String>) -> Response {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.expect("base64 is a valid header value"));
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(&id).ok()) {
        headers.insert(SESSION, id);
    }
    response
}
