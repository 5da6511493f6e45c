//! What handlers take: bodies, queries, keys and headers, each checked once and refused in one shape.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, header};
use futures_util::StreamExt;
use ovncp_state::{LogIndex, RequestKey};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::App;
use super::error::{ApiError, Code};
use crate::services::idempotency::{IDEMPOTENCY_KEY_BYTES_MAX, Retryable};
use crate::services::reads::{Consistency, Freshness};
use crate::services::secret::{base64url, from_base64url};

/// Largest JSON body.
pub const JSON_BYTES_MAX: usize = 1_024 * 1_024;
/// Of a body that is too large so much is still read, so that its sender gets the answer and not a reset.
const DISCARDED_BYTES_MAX: usize = 32 * 1_024 * 1_024;
/// Longest page of a list.
pub const LIMIT_MAX: usize = 1_000;
/// Page of a list when none is asked for.
pub const LIMIT_DEFAULT: usize = 100;

/// See [`Fresh`].
pub const MIN_INDEX: HeaderName = HeaderName::from_static("x-ovncp-min-index");
/// See [`IdempotencyKey`].
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type State = Arc<App>;

/// A JSON body, and its bytes for the identity of a retry.
pub struct JsonBody<T> {
    /// The value.
    pub value: T,
    /// What was sent.
    pub raw: Bytes,
}

impl<T: DeserializeOwned> FromRequest<State> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &State) -> Result<Self, ApiError> {
        check_json(request.headers())?;
        let raw = read_body(request, JSON_BYTES_MAX, app.body_timeout).await?;
        let value = parse_json(&raw)?;
        Ok(Self { value, raw })
    }
}

/// A JSON body that may be left out.
pub struct OptionalJson<T> {
    /// The value, or its default.
    pub value: T,
}

impl<T: DeserializeOwned + Default> FromRequest<State> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &State) -> Result<Self, ApiError> {
        let typed = request.headers().contains_key(header::CONTENT_TYPE);
        let checked = check_json(request.headers());
        let raw = read_body(request, JSON_BYTES_MAX, app.body_timeout).await?;
        if raw.is_empty() && !typed {
            return Ok(Self { value: T::default() });
        }
        checked?;
        Ok(Self { value: if raw.is_empty() { T::default() } else { parse_json(&raw)? } })
    }
}

pub(super) fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let media_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5
            && essence.is_char_boundary(essence.len() - 5)
            && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"));
    if is_json {
        return Ok(());
    }
    let detail = match essence {
        "" => "the Content-Type header is missing; this route takes application/json".to_owned(),
        other => format!("{other:?} is not supported; this route takes application/json"),
    };
    Err(ApiError::new(Code::UnsupportedMediaType, detail))
}

pub(super) fn parse_json<T: DeserializeOwned>(raw: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(raw).map_err(|error| {
        let text = error.to_string();
        let code = match error.classify() {
            serde_json::error::Category::Data if text.starts_with("unknown field") => Code::UnknownField,
            serde_json::error::Category::Data => Code::InvalidBody,
            _ => Code::MalformedJson,
        };
        let problem =
            ApiError::new(code, text.clone()).with("line", error.line()).with("column", error.column());
        match (code, text.split('`').nth(1)) {
            (Code::UnknownField, Some(field)) => problem.with("field", field),
            _ => problem,
        }
    })
}

/// A whole body of at most `bytes_max`, within the time that the configuration allows.
pub(super) async fn read_body(
    request: Request,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    let too_large = announced.is_some_and(|length| length > bytes_max as u64);
    let reading = collect(request.into_body(), bytes_max, too_large);
    tokio::time::timeout(timeout, reading)
        .await
        .map_err(|_| ApiError::new(Code::RequestTimeout, "the body did not arrive in time"))?
}

async fn collect(body: Body, bytes_max: usize, mut too_large: bool) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut whole = Bytes::new();
    let mut grown: Vec<u8> = Vec::new();
    let mut seen = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::new(Code::MalformedRequest, "the body ended early"))?;
        seen += chunk.len();
        too_large |= seen > bytes_max;
        if too_large {
            if seen > DISCARDED_BYTES_MAX {
                break;
            }
        } else if whole.is_empty() && grown.is_empty() {
            // Nearly always the only chunk: no copy.
            whole = chunk;
        } else {
            if grown.is_empty() {
                grown.extend_from_slice(&whole);
            }
            grown.extend_from_slice(&chunk);
        }
    }
    if too_large {
        let detail = format!("the body is larger than {bytes_max} bytes");
        return Err(ApiError::new(Code::BodyTooLarge, detail).with("max_bytes", bytes_max));
    }
    Ok(if grown.is_empty() { whole } else { grown.into() })
}

/// One percent-decoded path segment.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(ApiError::new(Code::MalformedRequest, error.body_text()))
            }
            Err(error) => Err(ApiError::new(Code::Internal, error.body_text())),
        }
    }
}

/// The last path segment as bytes: keys of registers need not be UTF-8.
pub struct BinarySegment(pub Vec<u8>);

impl<S: Send + Sync> FromRequestParts<S> for BinarySegment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let segment = parts.uri.path().rsplit('/').next().unwrap_or_default();
        percent_decode(segment)
            .map(Self)
            .ok_or_else(|| ApiError::new(Code::MalformedRequest, "the path has a wrong percent-encoding"))
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

/// The query. Unknown parameters are refused: a misspelt one must not silently do nothing.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::new(Code::MalformedRequest, error.body_text())),
        }
    }
}

/// `?consistency=`.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyParam {
    /// Sees every write that was answered anywhere before the read began.
    #[default]
    Linearizable,
    /// Whatever the asked node has applied; works without a leader.
    Local,
}

/// The least index that a read must see: header `X-Ovncp-Min-Index`.
pub struct Fresh(Option<LogIndex>);

impl Fresh {
    /// Together with `?consistency=`.
    #[must_use]
    pub fn with(self, consistency: Option<ConsistencyParam>) -> Freshness {
        let consistency = match consistency.unwrap_or_default() {
            ConsistencyParam::Linearizable => Consistency::Linearizable,
            ConsistencyParam::Local => Consistency::Local,
        };
        Freshness { consistency, min_index: self.0 }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Fresh {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(MIN_INDEX) else { return Ok(Self(None)) };
        let index = value.to_str().ok().and_then(|text| text.parse().ok());
        match index {
            Some(index) => Ok(Self(Some(LogIndex(index)))),
            None => Err(ApiError::new(Code::MalformedRequest, "X-Ovncp-Min-Index is not a number")
                .with("header", "X-Ovncp-Min-Index")),
        }
    }
}

/// `?limit=` within its bounds.
pub fn page_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        limit => Err(ApiError::invalid("limit", format!("is {limit}; allowed are 1 to {LIMIT_MAX}"))),
    }
}

/// An opaque position in a list: where the last page ended.
#[must_use]
pub fn cursor(last: &[u8]) -> String {
    base64url(last)
}

/// The reverse of [`cursor`].
pub fn from_cursor(cursor: Option<&str>) -> Result<Option<Vec<u8>>, ApiError> {
    cursor
        .map(|text| {
            let decoded = from_base64url(text).filter(|key| !key.is_empty());
            decoded.ok_or_else(|| {
                ApiError::new(Code::MalformedRequest, "the cursor is none of ours").with("field", "cursor")
            })
        })
        .transpose()
}

/// A [`cursor`] that is text.
pub fn from_text_cursor(cursor: Option<&str>) -> Result<Option<String>, ApiError> {
    from_cursor(cursor)?.map(String::from_utf8).transpose().map_err(|_| {
        ApiError::new(Code::MalformedRequest, "the cursor is none of ours").with("field", "cursor")
    })
}

/// Cuts off the one more than `limit` that was asked for; says where the next page begins, if there is one.
pub fn cut<T>(found: &mut Vec<T>, limit: usize, name: impl FnOnce(&T) -> &[u8]) -> Option<String> {
    let more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| more).map(|last| cursor(name(last)))
}

/// `Idempotency-Key`, with the caller, method and path it is scoped by.
pub struct IdempotencyKey(Option<Box<Scoped>>);

struct Scoped {
    caller: Vec<u8>,
    method: Method,
    path: String,
    text: String,
}

impl IdempotencyKey {
    /// Bound to the content of the request.
    #[must_use]
    pub fn bind(self, body: &[&[u8]]) -> Option<Retryable> {
        let scoped = self.0?;
        Some(Retryable::new(&scoped.caller, scoped.method.as_str(), &scoped.path, &scoped.text, body))
    }

    /// The same of a request that has no secret to show again: its identity alone.
    #[must_use]
    pub fn identity(self, body: &[&[u8]]) -> Option<RequestKey> {
        self.bind(body).map(|retry| retry.key)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else { return Ok(Self(None)) };
        let visible = value.as_bytes().iter().all(u8::is_ascii_graphic);
        if !visible || !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&value.len()) {
            let detail = format!(
                "Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
            );
            return Err(ApiError::new(Code::MalformedRequest, detail).with("header", "Idempotency-Key"));
        }
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let caller = parts.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        Ok(Self(Some(Box::new(Scoped {
            caller: caller.unwrap_or_default(),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            text,
        }))))
    }
}

/// Where a request came from; the server adds it to each one.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

/// Proof that the caller may do what only administrators may.
pub struct Admin;

/// Whether the caller may do what only administrators may; asked where others get less to see.
pub struct IsAdmin(pub bool);

impl FromRequestParts<State> for IsAdmin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &State) -> Result<Self, Self::Rejection> {
        Ok(Self(Admin::from_request_parts(parts, app).await.is_ok()))
    }
}

/// Headers that a proxy adds: a request with one of them did not begin on this machine for sure.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

impl FromRequestParts<State> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &State) -> Result<Self, ApiError> {
        let Some(expected) = &app.admin_token else {
            let loopback = parts
                .extensions
                .get::<Remote>()
                .is_some_and(|remote| remote.0.ip().to_canonical().is_loopback());
            let proxied = PROXY_HEADERS.iter().any(|name| parts.headers.contains_key(*name));
            return if loopback && !proxied {
                Ok(Self)
            } else {
                Err(ApiError::new(Code::Forbidden, "set OVNCP_ADMIN_TOKEN to allow this from other machines"))
            };
        };
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match given {
            Some((_, token)) if same(token.trim(), expected.reveal()) => Ok(Self),
            Some(_) => Err(ApiError::new(Code::Unauthorized, "the token is not that of an administrator")),
            None => Err(ApiError::new(Code::Unauthorized, "send Authorization: Bearer <OVNCP_ADMIN_TOKEN>")),
        }
    }
}

/// Compares by hash and without an early end, so that the time tells nothing about the token.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a.as_bytes()), Sha256::digest(b.as_bytes()));
    a.iter().zip(b.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_bytes() {
        assert_eq!(percent_decode("a%3Ab%2F%ff").as_deref(), Some(&b"a:b/\xff"[..]));
        for wrong in ["%", "%4", "%zz", "%4g"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn json_errors_tell_malformed_from_impossible() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only parsed")]
        struct Body {
            ttl_ms: u64,
        }
        let error = |text: &str| parse_json::<Body>(text.as_bytes()).unwrap_err();
        let malformed = error("{\"ttl_ms\":\n 1,}");
        assert_eq!((malformed.code, &malformed.fields["line"]), (Code::MalformedJson, &2.into()));
        assert_eq!(error("").code, Code::MalformedJson);
        let unknown = error("{\"ttl\":1}");
        assert_eq!((unknown.code, &unknown.fields["field"]), (Code::UnknownField, &"ttl".into()));
        assert_eq!(error("{\"ttl_ms\":\"x\"}").code, Code::InvalidBody);
        assert_eq!(error("{}").code, Code::InvalidBody);
    }

    #[test]
    fn page_ends_where_the_next_begins() {
        let mut found = vec!["a", "b", "c"];
        assert_eq!(cut(&mut found, 2, |name| name.as_bytes()), Some(cursor(b"b")));
        assert_eq!(
            (found.as_slice(), cut(&mut found.clone(), 2, |name| name.as_bytes())),
            (&["a", "b"][..], None)
        );
    }

    #[test]
    fn cursors_come_back_or_are_refused() {
        assert_eq!(from_cursor(Some(&cursor(b"a:b\xff"))).unwrap().as_deref(), Some(&b"a:b\xff"[..]));
        assert!(from_cursor(Some("")).is_err());
        assert!(from_cursor(Some("!")).is_err());
        assert!(from_text_cursor(Some(&cursor(b"\xff"))).unwrap_err().fields.contains_key("field"));
        assert_eq!(from_cursor(None).unwrap(), None);
    }
}
