//! Registers over HTTP: the body is the value, the `ETag` its revision.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use ovncp_state::command::KvExpect;
use ovncp_state::limits::KV_VALUE_BYTES_MAX;
use ovncp_state::view::KvMeta;
use ovncp_state::{LogIndex, Millis, Revision};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{
    BinarySegment, ConsistencyParam, Fresh, IdempotencyKey, Query, cut, from_cursor, page_limit, read_body,
};
use super::{At, INDEX, Shared};
use crate::services::registers::Value;
use crate::services::secret::base64url;
use crate::wall_clock;

/// Media type of a value that was stored without one.
const DEFAULT_MEDIA_TYPE: &str = "application/octet-stream";

/// Query of one register.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Query of a write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// The register goes by itself after this time.
    pub ttl_ms: Option<u64>,
}

/// Query of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// What keys begin with.
    pub prefix: Option<String>,
    /// At most so many, 1 to 1,000; 100 when left out.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// A register that was stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stored {
    /// Its new revision.
    pub revision: String,
}

/// One page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct KvPage {
    /// Ascending by key.
    pub keys: Vec<KvEntry>,
    /// Length of this page.
    pub count: usize,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// A register without its value.
#[derive(Debug, Serialize, ToSchema)]
pub struct KvEntry {
    /// Its key; bytes that are not UTF-8 are shown as U+FFFD.
    pub key: String,
    /// The key in base64url, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Its revision.
    pub revision: String,
    /// Bytes of its value.
    pub size: u64,
    /// Media type it was stored with.
    pub content_type: Option<String>,
    /// When it goes by itself.
    pub expires: Option<String>,
}

impl KvEntry {
    fn new(meta: KvMeta, now: Millis) -> Self {
        let key_base64 = std::str::from_utf8(&meta.key).is_err().then(|| base64url(&meta.key));
        Self {
            key: String::from_utf8_lossy(&meta.key).into_owned(),
            key_base64,
            revision: meta.revision.to_string(),
            size: meta.size,
            content_type: meta.content_type,
            expires: meta.expires.map(|at| wall_clock::utc(at, now)),
        }
    }
}

/// Reads a register: its bytes, with their media type and the revision as `ETag`.
#[utoipa::path(get, path = "/api/v1/cluster/kv/{key}", tag = "registers", operation_id = "get_register",
    params(("key" = String, Path, description = "Percent-encoded key"), ReadQuery),
    responses((status = 200, description = "The value.", content_type = "*/*", body = Vec<u8>),
        (status = 404, description = "`unknown_key`")))]
pub async fn get(
    State(app): State<Shared>,
    BinarySegment(key): BinarySegment,
    Query(query): Query<ReadQuery>,
    fresh: Fresh,
) -> Result<Response<Body>, ApiError> {
    let (index, found) = app.registers.get(&key, fresh.with(query.consistency)).await?;
    let Some((meta, value)) = found else {
        return Err(unknown(&key));
    };
    let media_type = meta.content_type.as_deref().unwrap_or(DEFAULT_MEDIA_TYPE);
    let mut response = Response::new(Body::from(value));
    let headers = response.headers_mut();
    let media_type =
        HeaderValue::from_str(media_type).unwrap_or(HeaderValue::from_static(DEFAULT_MEDIA_TYPE));
    headers.insert(header::CONTENT_TYPE, media_type);
    // A stored page must not run as one of ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    tag(headers, index, meta.revision);
    Ok(response)
}

fn unknown(key: &[u8]) -> ApiError {
    let key = String::from_utf8_lossy(key);
    ApiError::new(Code::UnknownKey, format!("no register {key}")).with("key", key.into_owned())
}

fn tag(headers: &mut HeaderMap, index: LogIndex, revision: Revision) {
    headers.insert(INDEX, HeaderValue::from(index.0));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        headers.insert(header::ETAG, etag);
    }
}

/// Stores a register. `If-Match: "<revision>"` (or `*`) and `If-None-Match: *` make it compare-and-set.
#[utoipa::path(put, path = "/api/v1/cluster/kv/{key}", tag = "registers", operation_id = "put_register",
    params(("key" = String, Path, description = "Percent-encoded key"), WriteQuery,
        ("If-Match" = Option<String>, Header, description = "Only if this is its revision; `*`: only if it exists"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if it does not exist")),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The value, at most 64 KiB"),
    responses((status = 200, body = Stored, description = "Stored; the revision is the `ETag` too."),
        (status = 412, description = "`revision_mismatch` with `current_revision`"),
        (status = 413, description = "`body_too_large`")))]
pub async fn put(
    State(app): State<Shared>,
    BinarySegment(key): BinarySegment,
    Query(query): Query<WriteQuery>,
    idempotency: IdempotencyKey,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let expect = expectation(request.headers())?;
    let content_type = content_type(request.headers())?;
    let bytes = read_body(request, KV_VALUE_BYTES_MAX, app.body_timeout).await?;
    let retry = idempotency.bind(&[
        &bytes,
        content_type.as_deref().unwrap_or_default().as_bytes(),
        &query.ttl_ms.unwrap_or(u64::MAX).to_le_bytes(),
        format!("{expect:?}").as_bytes(),
    ]);
    let value = Value { bytes: bytes.into(), content_type, ttl: query.ttl_ms.map(Millis) };
    let (index, revision) = app.registers.put(key, value, expect, retry.map(|retry| retry.key)).await?;
    let mut response = At(index, Stored { revision: revision.to_string() }).into_response();
    tag(response.headers_mut(), index, revision);
    Ok(response)
}

fn content_type(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => {
            Err(ApiError::new(Code::MalformedRequest, "Content-Type is not ASCII")
                .with("header", "Content-Type"))
        }
    }
}

/// Removes a register, with the same conditions.
#[utoipa::path(delete, path = "/api/v1/cluster/kv/{key}", tag = "registers", operation_id = "delete_register",
    params(("key" = String, Path, description = "Percent-encoded key"),
        ("If-Match" = Option<String>, Header, description = "Only if this is its revision; `*`: only if it exists")),
    responses((status = 204, description = "Removed."), (status = 404, description = "`unknown_key`"),
        (status = 412, description = "`revision_mismatch` with `current_revision`")))]
pub async fn delete(
    State(app): State<Shared>,
    BinarySegment(key): BinarySegment,
    idempotency: IdempotencyKey,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let expect = expectation(&headers)?;
    let retry = idempotency.bind(&[format!("{expect:?}").as_bytes()]);
    let (index, existed) = app.registers.delete(key.clone(), expect, retry.map(|retry| retry.key)).await?;
    if !existed {
        return Err(unknown(&key));
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(INDEX, HeaderValue::from(index.0));
    Ok(response)
}

/// `If-Match` and `If-None-Match`, of which one is possible at a time.
fn expectation(headers: &HeaderMap) -> Result<Option<KvExpect>, ApiError> {
    let wrong = |header: &str, allowed: &str| {
        ApiError::new(Code::MalformedRequest, format!("{header} must be {allowed}")).with("header", header)
    };
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("").trim());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(ApiError::new(Code::MalformedRequest, "If-Match and If-None-Match exclude each other"))
        }
        (None, Some("*")) => Ok(Some(KvExpect::Absent)),
        (None, Some(_)) => Err(wrong("If-None-Match", "*")),
        (Some("*"), None) => Ok(Some(KvExpect::Exists)),
        (Some(tag), None) => {
            let revision = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            match revision.and_then(|revision| revision.parse().ok()) {
                Some(revision) => Ok(Some(KvExpect::Revision(Revision(revision)))),
                None => Err(wrong("If-Match", "* or one quoted revision, such as \"17\"")),
            }
        }
    }
}

/// Lists keys, revisions and sizes.
#[utoipa::path(get, path = "/api/v1/cluster/kv", tag = "registers", operation_id = "list_registers", params(ListQuery),
    responses((status = 200, body = KvPage, description = "One page.")))]
pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<ListQuery>,
    fresh: Fresh,
) -> Result<At<KvPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let after = from_cursor(query.cursor.as_deref())?;
    let prefix = query.prefix.unwrap_or_default();
    let freshness = fresh.with(query.consistency);
    // One more than asked tells whether there is a next page.
    let (index, (now, mut metas)) =
        app.registers.list(prefix.as_bytes(), after.as_deref(), limit + 1, freshness).await?;
    let next_cursor = cut(&mut metas, limit, |meta| &meta.key);
    let keys: Vec<_> = metas.into_iter().map(|meta| KvEntry::new(meta, now)).collect();
    Ok(At(index, KvPage { count: keys.len(), keys, next_cursor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn conditions_are_read_strictly() {
        assert_eq!(expectation(&HeaderMap::new()).unwrap(), None);
        assert_eq!(expectation(&headers(header::IF_MATCH, "*")).unwrap(), Some(KvExpect::Exists));
        let revision = expectation(&headers(header::IF_MATCH, "\"17\"")).unwrap();
        assert_eq!(revision, Some(KvExpect::Revision(Revision(17))));
        assert_eq!(expectation(&headers(header::IF_NONE_MATCH, "*")).unwrap(), Some(KvExpect::Absent));
        for wrong in ["17", "\"x\"", "\"1\", \"2\"", "W/\"17\"", ""] {
            assert!(expectation(&headers(header::IF_MATCH, wrong)).is_err(), "{wrong}");
        }
        assert!(expectation(&headers(header::IF_NONE_MATCH, "\"17\"")).is_err());
    }
}
