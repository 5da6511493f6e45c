//! The invalidation log over HTTP: append, read, wait for what comes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use ovncp_state::Millis;
use ovncp_state::invalidations::Invalidation;
use ovncp_state::limits::PATTERNS_PER_INVALIDATION_MAX;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::extract::{ConsistencyParam, Fresh, IdempotencyKey, JsonBody, Query, page_limit};
use super::{At, Shared};
use crate::cache::{PATTERN_BYTES_MAX, Pattern};
use crate::services::invalidations::{Appended, Ask, Page, Position, Wait};
use crate::services::reads::{Consistency, Freshness};
use crate::wall_clock;

/// How long an answer waits for other nodes unless it is told otherwise.
const TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// How long it waits at most, for nodes or for the next entry: the guide's proxies cut at 50 s.
const WAIT_MS_MAX: u64 = 40_000;
/// Bytes of patterns and tags in one page, roughly; it has one entry at least.
const PAGE_BYTES_MAX: usize = 1_024 * 1_024;

/// Body of an invalidation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvalidateRequest {
    /// Keys that are no longer true: exact, `prefix*`, or a glob (`*` any run of characters, `?` one, `\` quotes the
    /// next). At most 256 with the tags, each 1 to 1,024 bytes.
    #[serde(default)]
    pub patterns: Vec<String>,
    /// Tags, exact.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Who must have cleared its caches before the answer.
    #[serde(default)]
    pub wait: WaitFor,
    /// How long to wait for them, 5,000 when left out, at most 40,000.
    pub timeout_ms: Option<u64>,
}

/// Who is waited for.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// The node that answers.
    #[default]
    None,
    /// A majority of the voters.
    Quorum,
    /// Every member that has not been inactive for a while.
    All,
}

impl From<WaitFor> for Wait {
    fn from(wait: WaitFor) -> Self {
        match wait {
            WaitFor::None => Self::None,
            WaitFor::Quorum => Self::Quorum,
            WaitFor::All => Self::All,
        }
    }
}

/// An entry that is in the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invalidated {
    /// Restore epoch.
    pub epoch: u16,
    /// Its place in the log of this epoch.
    pub offset: String,
    /// Whether those who were waited for have cleared it. If not, they will: it is in the log.
    pub complete: bool,
    /// Nodes that have cleared it, as far as the answering one knows.
    pub applied_by: Vec<String>,
    /// Nodes that have not yet.
    pub missing: Vec<String>,
}

impl From<Appended> for Invalidated {
    fn from(appended: Appended) -> Self {
        Self {
            epoch: appended.position.epoch,
            offset: appended.position.offset.to_string(),
            complete: appended.barrier.complete,
            applied_by: appended.barrier.applied_by,
            missing: appended.barrier.missing,
        }
    }
}

/// Where to begin, and how long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// `epoch:offset` of the first entry; left out: the oldest one that is kept.
    pub since: Option<String>,
    /// Entries of the page, 100 when left out, at most 1,000.
    pub limit: Option<usize>,
    /// How long to wait for an entry when there is none, at most 40,000.
    pub wait_ms: Option<u64>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// A page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvalidationPage {
    /// In order, without a gap.
    pub invalidations: Vec<InvalidationEntry>,
    /// How many.
    pub count: usize,
    /// `since` of the next page: right behind the last entry.
    pub next_since: String,
    /// The first entry that is kept, as `epoch:offset`.
    pub first: String,
    /// Where the next entry goes, as `epoch:offset`.
    pub next: String,
    /// How far each member has cleared its caches.
    pub nodes: Vec<InvalidationProgress>,
}

/// One entry of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvalidationEntry {
    /// Restore epoch.
    pub epoch: u16,
    /// Dense within the epoch, the same on every node.
    pub offset: String,
    /// When, in milliseconds of cluster time.
    pub cluster_ms: u64,
    /// About when, by the clock of the node that answers. The only field that differs between nodes.
    pub time: String,
    /// As asked for.
    pub patterns: Vec<String>,
    /// As asked for.
    pub tags: Vec<String>,
    /// The node where it was asked for.
    pub origin: String,
}

impl InvalidationEntry {
    /// As every edge shows it; `now` is the cluster clock.
    #[must_use]
    pub fn new(epoch: u16, entry: &Invalidation, origin: String, now: Millis) -> Self {
        Self {
            epoch,
            offset: entry.offset.to_string(),
            cluster_ms: entry.at.0,
            time: wall_clock::utc(entry.at, now),
            patterns: entry.patterns.clone(),
            tags: entry.tags.clone(),
            origin,
        }
    }
}

/// How far one member is.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvalidationProgress {
    /// Its name.
    pub node_id: String,
    /// Everything before this offset is cleared there, as it last reported: at once where somebody waits, else at most
    /// once per second.
    pub cleared: String,
    /// Entries behind.
    pub lag: u64,
}

/// Says that cached values are no longer true.
///
/// The entry is in the log when this answers 200, whatever `complete` says, and every node will clear it. The node that
/// answers has, unless it is far behind. With `wait` the answer names those who have not yet. It comes at the latest
/// `timeout_ms` after the request, or `server.propose_timeout` if that is longer.
#[utoipa::path(post, path = "/api/v1/cluster/invalidations", tag = "invalidations", operation_id = "invalidate",
    request_body = InvalidateRequest,
    responses((status = 200, body = Invalidated, description = "It is in the log."),
        (status = 409, description = "`cluster_version`: not every member knows invalidations")))]
pub async fn append(
    State(app): State<Shared>,
    idempotency: IdempotencyKey,
    body: JsonBody<InvalidateRequest>,
) -> Result<At<Invalidated>, ApiError> {
    let retry = idempotency.identity(&[&body.raw]);
    let request = body.value;
    check(&request)?;
    let timeout = Duration::from_millis(wait_ms("timeout_ms", request.timeout_ms, TIMEOUT_MS_DEFAULT)?);
    let ask =
        Ask { patterns: request.patterns, tags: request.tags, wait: request.wait.into(), timeout, retry };
    let appended = app.invalidations.invalidate(ask).await?;
    Ok(At(appended.index, appended.into()))
}

/// What the state would refuse, and more kindly.
fn check(request: &InvalidateRequest) -> Result<(), ApiError> {
    let count = request.patterns.len() + request.tags.len();
    if !(1..=PATTERNS_PER_INVALIDATION_MAX).contains(&count) {
        let allowed = format!("has {count} with the tags; allowed are 1 to {PATTERNS_PER_INVALIDATION_MAX}");
        return Err(ApiError::invalid("patterns", allowed));
    }
    for (place, pattern) in request.patterns.iter().enumerate() {
        Pattern::parse(pattern)
            .map_err(|problem| ApiError::invalid("patterns", format!("[{place}] {problem}")))?;
    }
    for (place, tag) in request.tags.iter().enumerate() {
        if !(1..=PATTERN_BYTES_MAX).contains(&tag.len()) {
            let problem = format!("[{place}] has {} bytes; allowed are 1 to {PATTERN_BYTES_MAX}", tag.len());
            return Err(ApiError::invalid("tags", problem));
        }
    }
    Ok(())
}

fn wait_ms(field: &str, asked: Option<u64>, default: u64) -> Result<u64, ApiError> {
    match asked.unwrap_or(default) {
        ms @ 0..=WAIT_MS_MAX => Ok(ms),
        ms => Err(ApiError::invalid(field, format!("is {ms}; at most {WAIT_MS_MAX} is allowed"))),
    }
}

/// Reads the log, or waits for what comes.
///
/// Entries come in the order that is the same on every node. `next_since` is where the next page begins, on any node; a
/// reader that goes on with it misses nothing and sees nothing twice. With `wait_ms` a page without entries waits for
/// one; it is empty when none came. The newest 65,536 entries (32 MiB, one hour) are kept: who is further behind, or
/// comes with a position of another epoch, gets 410 `reset` with `first` and `next`, and must forget what it keeps.
#[utoipa::path(get, path = "/api/v1/cluster/invalidations", tag = "invalidations", operation_id = "list_invalidations",
    params(LogQuery),
    responses((status = 200, body = InvalidationPage, description = "One page."),
        (status = 410, description = "`reset` with `first` and `next`")))]
pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<LogQuery>,
    fresh: Fresh,
) -> Result<At<InvalidationPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let wait = Duration::from_millis(wait_ms("wait_ms", query.wait_ms, 0)?);
    let since = query.since.as_deref().map(str::parse::<Position>).transpose();
    let since = since.map_err(|problem| ApiError::invalid("since", problem))?;
    let freshness = fresh.with(query.consistency);
    let at = match page(&app, since, limit, freshness).await {
        // This node may only lag behind the one that told the position.
        Err(problem) if problem.code == Code::Reset && freshness.consistency == Consistency::Local => {
            page(&app, since, limit, Freshness::default()).await?
        }
        other => other?,
    };
    if at.1.count > 0 || wait.is_zero() {
        return Ok(at);
    }
    let since = Some(at.1.next_since.parse::<Position>().expect("shown by ourselves"));
    app.refuse_when_draining()?;
    let mut following = app.invalidations.subscribe(since)?;
    let mut draining = app.draining.clone();
    tokio::select! {
        biased;
        // A stopping node answers what it has: nothing.
        _ = draining.wait_for(|draining| *draining) => {}
        _ = tokio::time::timeout(wait, following.next()) => {}
    }
    // What was read for the first answer is fresh enough: this node has only moved on.
    let fresh_enough = Freshness { consistency: Consistency::Local, min_index: None };
    page(&app, since, limit, fresh_enough).await
}

async fn page(
    app: &Shared,
    since: Option<Position>,
    limit: usize,
    freshness: Freshness,
) -> Result<At<InvalidationPage>, ApiError> {
    let (index, page) = app.invalidations.page(since, limit, freshness).await?;
    let Page { first, next, now, entries, nodes } = page;
    let Some(entries) = entries else {
        let asked = since.unwrap_or(first);
        let detail = format!("{asked} is no longer kept or of another epoch; {first} to {next} are");
        let problem = ApiError::new(Code::Reset, detail);
        return Err(problem.with("first", first.to_string()).with("next", next.to_string()));
    };
    let mut bytes = 0;
    let fits = |(entry, _): &(Arc<Invalidation>, String)| {
        let before = bytes;
        bytes += entry.patterns.iter().chain(&entry.tags).map(String::len).sum::<usize>();
        before == 0 || bytes <= PAGE_BYTES_MAX
    };
    let shown = entries.into_iter().take_while(fits);
    let invalidations: Vec<_> = shown
        .map(|(entry, origin)| (entry.offset, InvalidationEntry::new(first.epoch, &entry, origin, now)))
        .collect();
    let last = invalidations.last().map(|(offset, _)| Position { epoch: first.epoch, offset: *offset });
    let next_since = last.map_or(since.unwrap_or(next), Position::next);
    let nodes = nodes.into_iter().map(|node| InvalidationProgress {
        node_id: node.name,
        cleared: node.cleared.to_string(),
        lag: node.lag,
    });
    let page = InvalidationPage {
        count: invalidations.len(),
        invalidations: invalidations.into_iter().map(|(_, entry)| entry).collect(),
        next_since: next_since.to_string(),
        first: first.to_string(),
        next: next.to_string(),
        nodes: nodes.collect(),
    };
    Ok(At(index, page))
}
