//! Every change of the northbound database as a stream, whoever made it.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use ovncp_ovn::changes::Position;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::api::Shared;
use crate::api::error::{ApiError, Code};
use crate::api::extract::Query;
use crate::api::sse::{self, KEEP_ALIVE};
use crate::services::network::{Change, Network, Told, Watcher};

const LAST_EVENT_ID: &str = "last-event-id";
/// Most tables that one stream names.
const TABLES_MAX: usize = 64;

/// Where to begin and what to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NetworkEventsQuery {
    /// Position of the last change seen: the stream begins behind it. Left out: what happens from now on. `Last-Event-ID`
    /// wins over it.
    pub since: Option<String>,
    /// Comma-separated tables of the northbound database, such as `Logical_Switch,ACL`. All when left out.
    pub tables: Option<String>,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was made.
    Insert,
    /// It has other values.
    Update,
    /// It is gone.
    Delete,
}

/// `data:` of one block: one row that changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct NetworkEvent {
    /// Table of the northbound database.
    pub table: String,
    /// What happened; also the `event:` of the block.
    pub op: ChangeKind,
    /// The row's uuid.
    pub id: String,
    /// Its name, if it has one: the last one it had.
    pub name: Option<String>,
    /// Columns that changed; of a new row those that are set.
    pub columns: Vec<String>,
    /// The transaction: the same for all rows that it changed.
    pub position: String,
}

/// `data:` of a block `reset`.
#[derive(Debug, Serialize, ToSchema)]
pub struct NetworkReset {
    /// The stream goes on behind this position.
    pub position: String,
}

impl NetworkEvent {
    /// As it is shown.
    #[must_use]
    pub fn new(change: &Change) -> Self {
        let row = change.row();
        let (old, new) = (row.old.as_deref(), row.new.as_deref());
        let op = match (old, new) {
            (None, _) => ChangeKind::Insert,
            (_, Some(_)) => ChangeKind::Update,
            (_, None) => ChangeKind::Delete,
        };
        let differs = |position: usize, default: &dyn Fn() -> ovncp_ovn::value::Datum| match (old, new) {
            (Some(old), Some(new)) => old.get(position) != new.get(position),
            (None, Some(new)) => *new.get(position) != default(),
            (_, None) => false,
        };
        let columns = row.table.columns.iter().enumerate();
        let columns = columns.filter(|(position, column)| differs(*position, &|| column.default_value()));
        let name = new.or(old).and_then(|shown| row.table.value(shown, "name")?.as_str());
        Self {
            table: row.table.name.to_string(),
            op,
            id: row.uuid.to_string(),
            name: name.filter(|name| !name.is_empty()).map(str::to_owned),
            columns: columns.map(|(_, column)| column.name.to_string()).collect(),
            position: change.position().to_string(),
        }
    }
}

impl ChangeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// A position as clients write it.
pub(in crate::api) fn parse_position(text: &str) -> Result<Position, ApiError> {
    text.parse().map_err(|_| ApiError::invalid("since", "is no position (a uuid)"))
}

fn tables(network: &Network, tables: Option<&str>) -> Result<Option<BTreeSet<String>>, ApiError> {
    let Some(tables) = tables else { return Ok(None) };
    let tables: BTreeSet<String> = tables.split(',').map(|table| table.trim().to_owned()).collect();
    if tables.len() > TABLES_MAX {
        return Err(ApiError::invalid("tables", format!("names more than {TABLES_MAX} tables")));
    }
    let schema = network.northbound()?.schema();
    let unknown = |table: &&String| schema.as_ref().is_some_and(|schema| schema.table(table).is_none());
    match tables.iter().find(unknown) {
        Some(unknown) => {
            Err(ApiError::invalid("tables", format!("{unknown:?} is no table of the northbound database")))
        }
        None => Ok(Some(tables)),
    }
}

/// Watches the northbound database, as Server-Sent Events: every row that changes, whoever changed it.
///
/// `id:` is the position; a client that reconnects with `Last-Event-ID` misses nothing. With a clustered database it may go
/// on at any node. A transaction of several rows moves the id with its last row: who goes away within it is told all of
/// it again. When the position is no longer kept (16,384 transactions), or nobody knows it (a standalone database keeps none
/// beyond a session), a block `reset` says so: read anew what you follow. What was cached on the node before a change is
/// cleared before the change is told.
#[utoipa::path(get, path = "/api/v1/ovn/events", tag = "network", operation_id = "watch_ovn",
    params(NetworkEventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "Position of the last block seen.")),
    responses((status = 200, body = NetworkEvent, content_type = "text/event-stream", description = "Blocks `insert`, `update`, `delete` and `reset`.")))]
pub(super) async fn watch_network(
    State(app): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<NetworkEventsQuery>,
) -> Result<Response, ApiError> {
    app.refuse_when_draining()?;
    // Empty: a browser that has seen no id yet.
    let last = headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty());
    let last = last.map(|last| last.to_str().ok().and_then(|text| text.parse().ok()));
    let since = match last {
        Some(Some(position)) => Some(position),
        Some(None) => {
            let error = ApiError::new(Code::MalformedRequest, "Last-Event-ID is none of our positions");
            return Err(error.with("header", "Last-Event-ID"));
        }
        None => query.since.as_deref().map(parse_position).transpose()?,
    };
    let tables = tables(&app.network, query.tables.as_deref())?;
    let watcher = app.network.feed()?.watch(since)?;
    let stream = Stream {
        watcher,
        tables,
        draining: app.draining.clone(),
        waiting: VecDeque::new(),
        sent: Instant::now(),
        begun: false,
    };
    let chunks = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.chunk().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    });
    Ok(sse::streamed(axum::body::Body::from_stream(chunks)))
}

struct Stream {
    watcher: Watcher,
    tables: Option<BTreeSet<String>>,
    draining: watch::Receiver<bool>,
    waiting: VecDeque<Bytes>,
    sent: Instant,
    begun: bool,
}

impl Stream {
    /// The next chunk; none at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            return Some(format!("retry: {}\nid: {}\n\n", sse::RETRY_MS, self.watcher.position()).into());
        }
        loop {
            if let Some(chunk) = self.waiting.pop_front() {
                self.sent = Instant::now();
                return Some(chunk);
            }
            // In this order: many changes that nobody wants must keep off neither the end nor a sign of life.
            let told = tokio::select! {
                biased;
                _ = self.draining.wait_for(|draining| *draining) => return None,
                () = tokio::time::sleep_until(self.sent + KEEP_ALIVE) => {
                    self.waiting.push_back(format!(": alive\nid: {}\n\n", self.watcher.position()).into());
                    continue;
                }
                told = self.watcher.next() => told?,
            };
            self.waiting.extend(self.render(&told));
        }
    }

    fn render(&self, told: &Told) -> Option<Bytes> {
        let mut text = String::new();
        match told {
            Told::Changes(changes) => {
                let wanted = |change: &&Change| match &self.tables {
                    Some(tables) => tables.contains(&*change.row().table.name),
                    None => true,
                };
                for change in changes.iter().filter(wanted) {
                    let event = NetworkEvent::new(change);
                    block(&mut text, change.resume, event.op.name(), &event);
                }
            }
            Told::Reset(position) => {
                block(&mut text, *position, "reset", &NetworkReset { position: position.to_string() });
            }
        }
        (!text.is_empty()).then(|| text.into())
    }
}

fn block(out: &mut String, id: Position, event: &str, data: &impl Serialize) {
    use std::fmt::Write;
    // JSON from our own structs: it cannot fail, and has no line break.
    let data = serde_json::to_string(data).unwrap_or_default();
    let _ = write!(out, "id: {id}\nevent: {event}\ndata: {data}\n\n");
}
