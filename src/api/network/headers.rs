//! What a write to OVN carries beside its body: the etag it builds on, the lock it is fenced by, how far to wait.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use ovncp_ovn::resource::IfMatch;
use ovncp_state::FencingToken;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::problem::problem;
use crate::api::error::{ApiError, Code};
use crate::services::network::{FencedBy, Reach};

/// Key of the lock that fences a write.
pub const LOCK: HeaderName = HeaderName::from_static("x-ovncp-lock");
/// Token of its grant.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("x-ovncp-fencing-token");
/// Answer: how far the network has come with the write.
pub const BARRIER: HeaderName = HeaderName::from_static("x-ovncp-barrier");
/// Answer: an earlier try of the same request did it.
pub const REPLAYED: HeaderName = HeaderName::from_static("x-ovncp-replayed");
/// Answer of a read from the replica while OVN is away: seconds since it was last in sync.
pub const AGE: HeaderName = header::AGE;

/// Longest wait for a barrier, in milliseconds. Under the 50 s after which proxies give up.
pub(super) const WAIT_TIMEOUT_MS_MAX: u64 = 40_000;
/// Wait for a barrier when none is named, in milliseconds.
const WAIT_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// The `If-Match` of a request.
pub struct Conditional(pub IfMatch);

impl<S: Send + Sync> FromRequestParts<S> for Conditional {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = single(&parts.headers, &header::IF_MATCH)? else { return Ok(Self(IfMatch::None)) };
        Ok(Self(IfMatch::parse(value).map_err(problem)?))
    }
}

/// `X-Ovncp-Lock` with `X-Ovncp-Fencing-Token`.
#[derive(Debug, Default)]
pub struct Fenced(pub Option<FencedBy>);

impl<S: Send + Sync> FromRequestParts<S> for Fenced {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let lock = single(&parts.headers, &LOCK)?;
        let token = single(&parts.headers, &FENCING_TOKEN)?;
        match (lock, token) {
            (None, None) => Ok(Self(None)),
            (Some(""), _) => Err(malformed(&LOCK, "is empty")),
            (Some(lock), Some(token)) => {
                let wrong = |_| malformed(&FENCING_TOKEN, "is no fencing token");
                let token = FencingToken(token.parse().map_err(wrong)?);
                Ok(Self(Some(FencedBy { lock: lock.to_owned(), token })))
            }
            (Some(_), None) => Err(malformed(&FENCING_TOKEN, "is missing beside X-Ovncp-Lock")),
            (None, Some(_)) => Err(malformed(&LOCK, "is missing beside X-Ovncp-Fencing-Token")),
        }
    }
}

/// The only value of this header. Two that differ could mean either.
fn single<'headers>(
    headers: &'headers HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'headers str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed(name, "is there more than once"));
    }
    value.to_str().map(Some).map_err(|_| malformed(name, "is not ASCII"))
}

fn malformed(name: &HeaderName, problem: &str) -> ApiError {
    ApiError::new(Code::MalformedRequest, format!("{name} {problem}")).with("header", name.as_str())
}

/// How far a write waits, in the query.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// For the northbound database.
    #[default]
    None,
    /// Until ovn-northd has carried it into the southbound database.
    Sb,
    /// Until every hypervisor has it.
    Hv,
}

/// Query of a write.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// How far to wait. The header `X-Ovncp-Barrier` of the answer says `reached`, or `open` when the time was over first:
    /// the write is committed either way.
    pub wait: Wait,
    /// How long to wait, in milliseconds: 1 to 40000, 10000 if absent.
    pub wait_timeout_ms: Option<u64>,
    /// Of the deletion of a switch: also the router ports that its ports lead to.
    pub router_ports: bool,
}

impl WriteQuery {
    /// The barrier and how long to wait for it; none for `none`.
    pub fn barrier(&self) -> Result<Option<(Reach, Duration)>, ApiError> {
        let timeout = self.wait_timeout_ms.unwrap_or(WAIT_TIMEOUT_MS_DEFAULT);
        if !(1..=WAIT_TIMEOUT_MS_MAX).contains(&timeout) {
            let problem = format!("is {timeout}; allowed are 1 to {WAIT_TIMEOUT_MS_MAX}");
            return Err(ApiError::invalid("wait_timeout_ms", problem));
        }
        let timeout = Duration::from_millis(timeout);
        Ok(match self.wait {
            Wait::None => None,
            Wait::Sb => Some((Reach::Southbound, timeout)),
            Wait::Hv => Some((Reach::Hypervisors, timeout)),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WriteQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let crate::api::extract::Query(query) =
            crate::api::extract::Query::<Self>::from_request_parts(parts, state).await?;
        Ok(query)
    }
}
