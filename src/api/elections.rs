//! Elections over HTTP: locks under reserved keys, in the words of candidates and terms.

use axum::extract::State;
use axum::response::Response;
use ovncp_state::view::{EventsReset, LockView};
use ovncp_state::{EventKind, FencingToken, LogIndex, Millis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code};
use super::events::Cause;
use super::extract::{
    Admin, ConsistencyParam, Fresh, IdempotencyKey, JsonBody, Query, Segment, cut, from_text_cursor,
    page_limit,
};
use super::locks::{
    AcquireRequest, ForceReleaseRequest, ForceReleased, LockHolder, LockWaiter, Mode, ReleaseRequest,
    RenewRequest, RenewedLease, no_content, ttl_ms_default,
};
use super::sse::{self, LastEventId, Lens, Text};
use super::{App, At, Shared};
use crate::services::elections::{NAME_BYTES_MAX, key_of, name_of};
use crate::services::events::{Kept, Watcher};
use crate::services::locks::Held;
use crate::wall_clock;

/// Candidates shown of one election.
const CANDIDATES_SHOWN_MAX: usize = 1_000;
/// Candidates shown of each election in a list.
const CANDIDATES_LISTED_MAX: usize = 10;

/// The name of an election from the path.
fn checked(name: String) -> Result<String, ApiError> {
    match name.len() {
        1..=NAME_BYTES_MAX => Ok(name),
        bytes => {
            Err(ApiError::invalid("name", format!("has {bytes} bytes; allowed are 1 to {NAME_BYTES_MAX}")))
        }
    }
}

/// Says in the words of elections what locks refuse.
fn refused(error: ApiError, name: &str) -> ApiError {
    let ApiError { code, detail, mut fields, retry_after } = error;
    let (code, detail) = match code {
        Code::LockHeld => (Code::ElectionHeld, format!("somebody leads or waits to lead {name}")),
        Code::LockTimeout => (Code::ElectionTimeout, format!("the election {name} was not won in time")),
        Code::NotHolder => (Code::NotLeader, format!("this secret is not that of the leader of {name}")),
        Code::LockLost => (Code::TermLost, detail),
        Code::NotFound => (Code::UnknownElection, format!("nobody leads {name}")),
        Code::InvalidArgument => {
            let field = fields.get("field").and_then(Value::as_str).unwrap_or_default();
            let ours = match field {
                "keys" => "name",
                "owner" => "candidate",
                "metadata" => "value",
                "max_hold_ms" => "max_term_ms",
                other => other,
            };
            let detail = detail.replacen(field, ours, 1);
            let ours = Value::from(ours);
            fields.insert("field".to_owned(), ours);
            return ApiError { code, detail, fields, retry_after };
        }
        code => return ApiError { code, detail, fields, retry_after },
    };
    fields.remove("key");
    if let Some(mut leader) = fields.remove("holder") {
        if let Some(leader) = leader.as_object_mut()
            && let Some(owner) = leader.remove("owner")
        {
            leader.insert("candidate".to_owned(), owner);
        }
        fields.insert("leader".to_owned(), leader);
    }
    ApiError { code, detail, fields, retry_after }.with("name", name)
}

/// How to campaign.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignRequest {
    /// Who wants to lead, for people; 1 to 256 bytes.
    pub candidate: String,
    /// Any JSON, at most 4,096 bytes: what others should know of the leader, such as its URL.
    #[serde(default)]
    pub value: Option<Value>,
    /// Lease of the term in milliseconds, 500 to 86,400,000; it ends when it is not renewed in time.
    #[serde(default = "ttl_ms_default")]
    pub ttl_ms: u64,
    /// How long to wait for the term before to end, at most 40,000; 0 tries once.
    #[serde(default)]
    pub wait_ms: u64,
    /// Proof of leading brought by the candidate, 16 to 256 bytes; made here when left out.
    #[serde(default)]
    pub secret: Option<String>,
    /// Length of the term that renewal cannot pass.
    #[serde(default)]
    pub max_term_ms: Option<u64>,
}

/// A term of office.
#[derive(Debug, Serialize, ToSchema)]
pub struct Term {
    /// The election.
    pub name: String,
    /// Who leads.
    pub candidate: String,
    /// Proof of leading, for renew and resign. Shown to nobody else, ever.
    pub secret: String,
    /// Higher than that of every earlier term: pass it to what the leader writes to.
    pub fencing_token: String,
    /// What remains of the lease.
    pub ttl_ms: u64,
    /// Time between campaign and election.
    pub waited_ms: u64,
}

impl Term {
    fn new(name: String, held: Held) -> At<Self> {
        let Held { grant, secret, index } = held;
        let term = Self {
            name,
            candidate: grant.owner,
            secret,
            fencing_token: grant.token.to_string(),
            ttl_ms: grant.ttl.0,
            waited_ms: grant.waited.0,
        };
        At(index, term)
    }
}

/// Campaigns: waits up to `wait_ms` to lead. A candidate that hangs up while it waits leaves the queue.
#[utoipa::path(post, path = "/api/v1/cluster/elections/{name}/campaign", tag = "elections", operation_id = "campaign",
    params(("name" = String, Path, description = "Percent-encoded name of the election, 1 to 1,009 bytes")),
    request_body = CampaignRequest,
    responses((status = 200, body = Term, description = "Elected."),
        (status = 409, description = "`election_held`, `election_timeout` (both with `leader` and `queue_length`), `term_lost`, `wait_cancelled`")))]
pub async fn campaign(
    State(app): State<Shared>,
    Segment(name): Segment,
    idempotency: IdempotencyKey,
    body: JsonBody<CampaignRequest>,
) -> Result<At<Term>, ApiError> {
    let name = checked(name)?;
    let retry = idempotency.bind(&[&body.raw]);
    let CampaignRequest { candidate, value, ttl_ms, wait_ms, secret, max_term_ms } = body.value;
    // Checked as a lock is, since it is one.
    let ask = AcquireRequest {
        owner: candidate,
        mode: Mode::Exclusive,
        ttl_ms,
        wait_ms,
        secret,
        max_hold_ms: max_term_ms,
        session_id: None,
        metadata: value,
    };
    let ask = ask.into_ask(Vec::new(), retry)?;
    let waits = ask.wait > Millis(0);
    let campaign = app.elections.campaign(&name, ask);
    let held = app.unless_draining(waits, campaign).await.map_err(|error| refused(error, &name))?;
    Ok(Term::new(name, held))
}

/// Extends a term.
#[utoipa::path(post, path = "/api/v1/cluster/elections/{name}/renew", tag = "elections", operation_id = "renew_term",
    params(("name" = String, Path, description = "Percent-encoded name of the election")), request_body = RenewRequest,
    responses((status = 200, body = RenewedLease, description = "Extended."), (status = 409, description = "`not_leader`")))]
pub async fn renew(
    State(app): State<Shared>,
    Segment(name): Segment,
    // A renewal may be repeated as it is: the key is only checked.
    _: IdempotencyKey,
    body: JsonBody<RenewRequest>,
) -> Result<axum::Json<RenewedLease>, ApiError> {
    let name = checked(name)?;
    let renewed = app.elections.renew(&name, &body.value.secret, body.value.ttl_ms.map(Millis)).await;
    let renewed = renewed.map_err(|error| refused(error.into(), &name))?;
    Ok(axum::Json(RenewedLease { ttl_ms: renewed.ttl.0, fencing_token: renewed.token.to_string() }))
}

/// Ends a term; the next candidate is elected at once.
#[utoipa::path(post, path = "/api/v1/cluster/elections/{name}/resign", tag = "elections", operation_id = "resign",
    params(("name" = String, Path, description = "Percent-encoded name of the election")), request_body = ReleaseRequest,
    responses((status = 204, description = "Resigned."), (status = 409, description = "`not_leader`")))]
pub async fn resign(
    State(app): State<Shared>,
    Segment(name): Segment,
    idempotency: IdempotencyKey,
    body: JsonBody<ReleaseRequest>,
) -> Result<Response, ApiError> {
    let name = checked(name)?;
    let retry = idempotency.identity(&[&body.raw]);
    let resigned = app.elections.resign(&name, &body.value.secret, retry).await;
    let (index, _) = resigned.map_err(|error| refused(error.into(), &name))?;
    Ok(no_content(index))
}

/// Deposes a leader. For administrators.
#[utoipa::path(delete, path = "/api/v1/cluster/elections/{name}", tag = "elections", operation_id = "depose",
    params(("name" = String, Path, description = "Percent-encoded name of the election")),
    request_body = ForceReleaseRequest, security(("admin" = [])),
    responses((status = 200, body = ForceReleased, description = "Deposed."), (status = 404, description = "`unknown_election`: nobody leads")))]
pub async fn depose(
    _: Admin,
    State(app): State<Shared>,
    Segment(name): Segment,
    idempotency: IdempotencyKey,
    body: JsonBody<ForceReleaseRequest>,
) -> Result<At<ForceReleased>, ApiError> {
    let name = checked(name)?;
    let retry = idempotency.identity(&[&body.raw]);
    let token = body.value.token()?;
    let deposed = app.elections.depose(&name, body.value.reason, token, retry).await;
    let (index, tokens) = deposed.map_err(|error| refused(error.into(), &name))?;
    tracing::warn!(election = name, ?tokens, "an administrator deposed a leader");
    Ok(At(index, ForceReleased { fencing_tokens: tokens.iter().map(ToString::to_string).collect() }))
}

/// An election as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Election {
    /// Its name.
    pub name: String,
    /// Who leads; null when nobody does.
    pub leader: Option<Leader>,
    /// Who waits to lead, in order; only the first ones.
    pub candidates: Vec<Candidate>,
    /// How many wait.
    pub candidates_count: u64,
}

/// Who leads.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leader {
    /// Who.
    pub candidate: String,
    /// As given at the campaign.
    pub value: Option<Value>,
    /// Token of the term.
    pub fencing_token: String,
    /// When the term began.
    pub since: String,
    /// When it ends if it is not renewed.
    pub expires: String,
    /// Length of the term so far.
    pub held_ms: u64,
    /// What remains of the lease.
    pub ttl_ms: u64,
}

/// Who waits to lead.
#[derive(Debug, Serialize, ToSchema)]
pub struct Candidate {
    /// 0 is next.
    pub position: u64,
    /// Who.
    pub candidate: String,
    /// The node whose client waits.
    pub node_id: String,
    /// When it began.
    pub since: String,
    /// When it gives up.
    pub deadline: String,
    /// How long it waits.
    pub waiting_ms: u64,
}

impl Leader {
    fn of(view: &LockView, now: Millis) -> Option<Self> {
        let holder = LockHolder::new(view.holders.first()?.clone(), now);
        let LockHolder { owner, fencing_token, metadata, since, expires, held_ms, ttl_ms, .. } = holder;
        Some(Self { candidate: owner, value: metadata, fencing_token, since, expires, held_ms, ttl_ms })
    }
}

impl Candidate {
    fn new(waiter: LockWaiter) -> Self {
        let LockWaiter { position, owner, node_id, since, deadline, waiting_ms, .. } = waiter;
        Self { position, candidate: owner, node_id, since, deadline, waiting_ms }
    }
}

impl Election {
    fn new(name: &str, view: Option<LockView>, now: Millis, app: &App) -> Self {
        let leader = view.as_ref().and_then(|view| Leader::of(view, now));
        let candidates_count = view.as_ref().map_or(0, |view| view.queue_length);
        let queue = view.into_iter().flat_map(|view| view.queue);
        let candidates = queue.map(|waiter| Candidate::new(LockWaiter::new(waiter, now, app))).collect();
        Self { name: name.to_owned(), leader, candidates, candidates_count }
    }
}

/// Query of one election.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ElectionQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Shows who leads, or that nobody does.
#[utoipa::path(get, path = "/api/v1/cluster/elections/{name}", tag = "elections", operation_id = "get_election",
    params(("name" = String, Path, description = "Percent-encoded name of the election"), ElectionQuery),
    responses((status = 200, body = Election, description = "The election; `leader` is null when nobody leads.")))]
pub async fn get(
    State(app): State<Shared>,
    Segment(name): Segment,
    Query(query): Query<ElectionQuery>,
    fresh: Fresh,
) -> Result<At<Election>, ApiError> {
    let name = checked(name)?;
    let freshness = fresh.with(query.consistency);
    let (index, (now, view)) = app.elections.get(&name, CANDIDATES_SHOWN_MAX, freshness).await?;
    Ok(At(index, Election::new(&name, view, now, &app)))
}

/// Query of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ElectionsQuery {
    /// What names begin with.
    pub prefix: Option<String>,
    /// At most so many, 1 to 1,000; 100 when left out.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// One page of elections.
#[derive(Debug, Serialize, ToSchema)]
pub struct ElectionPage {
    /// Ascending by name.
    pub elections: Vec<Election>,
    /// Length of this page.
    pub count: usize,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// Lists elections that have a leader or candidates.
#[utoipa::path(get, path = "/api/v1/cluster/elections", tag = "elections", operation_id = "list_elections",
    params(ElectionsQuery),
    responses((status = 200, body = ElectionPage, description = "One page.")))]
pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<ElectionsQuery>,
    fresh: Fresh,
) -> Result<At<ElectionPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let after = from_text_cursor(query.cursor.as_deref())?;
    let prefix = query.prefix.unwrap_or_default();
    let freshness = fresh.with(query.consistency);
    // One more than asked tells whether there is a next page.
    let found =
        app.elections.list(&prefix, after.as_deref(), limit + 1, CANDIDATES_LISTED_MAX, freshness).await?;
    let (index, (now, mut views)) = found;
    let next_cursor = cut(&mut views, limit, |view| name_of(&view.key).unwrap_or_default().as_bytes());
    let elections: Vec<_> = views
        .into_iter()
        .filter_map(|view| {
            let name = name_of(&view.key)?.to_owned();
            Some(Election::new(&name, Some(view), now, &app))
        })
        .collect();
    Ok(At(index, ElectionPage { count: elections.len(), elections, next_cursor }))
}

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ObserveQuery {
    /// Offset of the first event to send; left out: the present state, then what changes. `Last-Event-ID` wins over it.
    pub since: Option<String>,
}

/// `data:` of one block; `type` is also the `event:` of the block.
#[derive(Debug, Serialize, ToSchema)]
pub struct ElectionEvent {
    /// `state` at the beginning; `elected`; `resigned`, `expired`, `deposed` or `withdrawn` when nobody leads any more.
    pub r#type: ElectionEventType,
    /// The election.
    pub name: String,
    /// Who leads after it; null when nobody does.
    pub leader: Option<ObservedLeader>,
    /// The term that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<EndedTerm>,
    /// About when, by the clock of the node that answers.
    pub time: String,
}

/// What an observer learns.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ElectionEventType {
    /// What holds at the beginning of the stream, or where it goes on after a gap.
    State,
    /// A term began.
    Elected,
    /// The leader gave its term back.
    Resigned,
    /// The leader did not renew in time.
    Expired,
    /// An administrator ended the term.
    Deposed,
    /// The candidate went away before it learned that it leads.
    Withdrawn,
}

impl ElectionEventType {
    fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Elected => "elected",
            Self::Resigned => "resigned",
            Self::Expired => "expired",
            Self::Deposed => "deposed",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl From<Cause> for ElectionEventType {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Released => Self::Resigned,
            Cause::Expired | Cause::SessionEnded => Self::Expired,
            Cause::Forced => Self::Deposed,
            Cause::Cancelled => Self::Withdrawn,
        }
    }
}

/// A leader in an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct ObservedLeader {
    /// Who.
    pub candidate: String,
    /// As given at the campaign; null also when the term is over already on the node that answers.
    pub value: Option<Value>,
    /// Token of the term.
    pub fencing_token: String,
}

/// A term that ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndedTerm {
    /// Who led.
    pub candidate: String,
    /// Token of the term.
    pub fencing_token: String,
    /// How long it was.
    pub held_ms: u64,
    /// Given by the administrator who ended it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Shows the events of one election.
struct Observer {
    app: Shared,
    name: String,
    key: String,
}

impl Observer {
    /// What was given at the campaign of the term with this token, as long as it lasts.
    fn value(&self, token: FencingToken) -> Option<Value> {
        let view = self.app.events.look(|state| state.lock(&self.key, 0))?;
        let holder = view.holders.into_iter().find(|holder| holder.token == token)?;
        serde_json::from_str(&holder.metadata?).ok()
    }

    fn state(&self, view: Option<&LockView>, now: Millis) -> ElectionEvent {
        let leader = view.and_then(|view| Leader::of(view, now)).map(|leader| ObservedLeader {
            candidate: leader.candidate,
            value: leader.value,
            fencing_token: leader.fencing_token,
        });
        let (r#type, time) = (ElectionEventType::State, wall_clock::utc(now, now));
        ElectionEvent { r#type, name: self.name.clone(), leader, ended: None, time }
    }

    fn is_ours(&self, keys: &[String]) -> bool {
        matches!(keys, [key] if *key == self.key)
    }

    fn event(&self, kept: &Kept) -> Option<ElectionEvent> {
        let (r#type, leader, ended) = match &kept.event.kind {
            EventKind::LockAcquired { keys, owner, token, .. } if self.is_ours(keys) => {
                let (candidate, fencing_token) = (owner.clone(), token.to_string());
                let leader = ObservedLeader { candidate, value: self.value(*token), fencing_token };
                (ElectionEventType::Elected, Some(leader), None)
            }
            EventKind::LockReleased { keys, owner, token, cause, held, reason } if self.is_ours(keys) => {
                let ended = EndedTerm {
                    candidate: owner.clone(),
                    fencing_token: token.to_string(),
                    held_ms: held.0,
                    reason: reason.clone(),
                };
                (Cause::from(*cause).into(), None, Some(ended))
            }
            _ => return None,
        };
        let time = wall_clock::utc(kept.event.at, kept.now);
        Some(ElectionEvent { r#type, name: self.name.clone(), leader, ended, time })
    }
}

impl Lens for Observer {
    fn show(&mut self, kept: &Kept, out: &mut Text) {
        if let Some(event) = self.event(kept) {
            out.block(Some(kept.event.offset), event.r#type.name(), &event);
        }
    }

    /// The present state is all that an observer needs to go on.
    fn show_reset(&mut self, _: EventsReset, watcher: &mut Watcher, out: &mut Text) {
        let (now, view) = watcher.skip(|state| (state.now(), state.lock(&self.key, 0)));
        let event = self.state(view.as_ref(), now);
        out.block(sse::id_before(watcher.position()), event.r#type.name(), &event);
    }
}

/// Observes an election, as Server-Sent Events.
///
/// The stream begins with `state`, the leader of the moment or null, and goes on with `elected`, `resigned`, `expired`,
/// `deposed` and `withdrawn`; after each of the last four nobody leads until the next `elected`. Ids are offsets of the
/// cluster's events: a client goes on at any node with `Last-Event-ID`, without `state` unless its place is no longer
/// kept. A silent stream shows a sign of life every 15 s.
#[utoipa::path(get, path = "/api/v1/cluster/elections/{name}/observe", tag = "elections", operation_id = "observe_election",
    params(("name" = String, Path, description = "Percent-encoded name of the election"), ObserveQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last block that was seen")),
    responses((status = 200, body = ElectionEvent, content_type = "text/event-stream",
        description = "A stream of blocks `id`, `event`, `data` (JSON).")))]
pub async fn observe(
    State(app): State<Shared>,
    Segment(name): Segment,
    Query(query): Query<ObserveQuery>,
    last: LastEventId,
) -> Result<Response, ApiError> {
    let name = checked(name)?;
    let since = last.or_since(query.since.as_deref())?;
    app.refuse_when_draining()?;
    let key = key_of(&name);
    let look = |state: &ovncp_state::State| (state.now(), state.lock(&key, 0));
    let (watcher, index, (now, view)): (_, LogIndex, _) = app.events.watch(since, look)?;
    let observer = Observer { app: app.clone(), name, key };
    let mut first = Text::default();
    if since.is_none() {
        let event = observer.state(view.as_ref(), now);
        first.block(sse::id_before(watcher.position()), event.r#type.name(), &event);
    }
    Ok(sse::response(watcher, index, first, observer, app.draining.clone()))
}
