//! Events of the cluster as a stream: identical and in the same order on every node.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use ovncp_state::EventKind;
use ovncp_state::command::SessionEnd;
use ovncp_state::event::ReleaseCause;
use ovncp_state::view::EventsReset;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::cluster::{Role, Status};
use super::error::ApiError;
use super::extract::Query;
use super::locks::Mode;
use super::sse::{self, LastEventId, Lens, Text};
use crate::services::elections;
use crate::services::events::{Kept, Watcher};
use crate::wall_clock;

/// Every type that can be asked for, with the types it stands for.
const TYPES: [(&str, &[Kind]); 18] = [
    ("node_join", &[Kind::NodeJoin]),
    ("node_leave", &[Kind::NodeLeave]),
    ("node_update", &[Kind::NodeUpdate]),
    ("node", &[Kind::NodeJoin, Kind::NodeLeave, Kind::NodeUpdate]),
    ("leader_change", &[Kind::LeaderChange]),
    ("lock_acquired", &[Kind::LockAcquired]),
    ("lock_released", &[Kind::LockReleased]),
    ("lock", &[Kind::LockAcquired, Kind::LockReleased]),
    ("election_won", &[Kind::ElectionWon]),
    ("election_ended", &[Kind::ElectionEnded]),
    ("election", &[Kind::ElectionWon, Kind::ElectionEnded]),
    ("session_registered", &[Kind::SessionRegistered]),
    ("session_attached", &[Kind::SessionAttached]),
    ("session_detached", &[Kind::SessionDetached]),
    ("session_migrating", &[Kind::SessionMigrating]),
    ("session_ended", &[Kind::SessionEnded]),
    (
        "session",
        &[
            Kind::SessionRegistered,
            Kind::SessionAttached,
            Kind::SessionDetached,
            Kind::SessionMigrating,
            Kind::SessionEnded,
        ],
    ),
    ("invalidation", &[Kind::Invalidation]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NodeJoin,
    NodeLeave,
    NodeUpdate,
    LeaderChange,
    LockAcquired,
    LockReleased,
    ElectionWon,
    ElectionEnded,
    SessionRegistered,
    SessionAttached,
    SessionDetached,
    SessionMigrating,
    SessionEnded,
    Invalidation,
}

/// The election that a grant is a term of.
fn election(keys: &[String]) -> Option<&str> {
    match keys {
        [key] => elections::name_of(key),
        _ => None,
    }
}

impl Kind {
    fn of(kind: &EventKind) -> Self {
        match kind {
            EventKind::NodeJoin { .. } => Self::NodeJoin,
            EventKind::NodeLeave { .. } => Self::NodeLeave,
            EventKind::NodeUpdate { .. } => Self::NodeUpdate,
            EventKind::LeaderChange { .. } => Self::LeaderChange,
            EventKind::LockAcquired { keys, .. } if election(keys).is_some() => Self::ElectionWon,
            EventKind::LockAcquired { .. } => Self::LockAcquired,
            EventKind::LockReleased { keys, .. } if election(keys).is_some() => Self::ElectionEnded,
            EventKind::LockReleased { .. } => Self::LockReleased,
            EventKind::SessionRegistered { .. } => Self::SessionRegistered,
            EventKind::SessionAttached { .. } => Self::SessionAttached,
            EventKind::SessionDetached { .. } => Self::SessionDetached,
            EventKind::SessionMigrating { .. } => Self::SessionMigrating,
            EventKind::SessionEnded { .. } => Self::SessionEnded,
            EventKind::Invalidated { .. } => Self::Invalidation,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::NodeJoin => "node_join",
            Self::NodeLeave => "node_leave",
            Self::NodeUpdate => "node_update",
            Self::LeaderChange => "leader_change",
            Self::LockAcquired => "lock_acquired",
            Self::LockReleased => "lock_released",
            Self::ElectionWon => "election_won",
            Self::ElectionEnded => "election_ended",
            Self::SessionRegistered => "session_registered",
            Self::SessionAttached => "session_attached",
            Self::SessionDetached => "session_detached",
            Self::SessionMigrating => "session_migrating",
            Self::SessionEnded => "session_ended",
            Self::Invalidation => "invalidation",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Where to begin and what to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Offset of the first event to send; left out: what happens from now on. `Last-Event-ID` wins over it.
    pub since: Option<String>,
    /// Comma-separated: `node_join`, `node_leave`, `node_update`, `leader_change`, `lock_acquired`,
    /// `lock_released`, `election_won`, `election_ended`, `session_registered`, `session_attached`,
    /// `session_detached`, `session_migrating`, `session_ended`, `invalidation`; `node`, `lock`, `election` and
    /// `session` stand for all of theirs.
    /// All types when left out.
    pub types: Option<String>,
}

/// `data:` of one block.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterEvent {
    /// Dense position, the same on every node; also the `id:` of the block.
    pub offset: String,
    /// When, in milliseconds of cluster time.
    pub cluster_ms: u64,
    /// About when, by the clock of the node that answers. The only field that differs between nodes.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// What can happen; `type` is also the `event:` of the block.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Change {
    /// A node became a member.
    NodeJoin {
        /// Its name.
        node_id: String,
        /// Its Raft id.
        raft_id: String,
        /// `voter` or `learner`.
        role: Role,
    },
    /// A member left for good.
    NodeLeave {
        /// Its name.
        node_id: String,
        /// Its Raft id.
        raft_id: String,
        /// Why.
        reason: String,
    },
    /// A member's status, role, address or version changed.
    NodeUpdate {
        /// Its name.
        node_id: String,
        /// Its Raft id.
        raft_id: String,
        /// Status after the change.
        status: Status,
        /// Role after the change.
        role: Role,
    },
    /// A leader took office.
    LeaderChange {
        /// Its name.
        leader_id: String,
        /// Its Raft id.
        raft_id: String,
        /// Its term.
        term: u64,
    },
    /// A lock was granted.
    LockAcquired {
        /// Every key of the grant.
        keys: Vec<String>,
        /// Exclusive or shared.
        mode: Mode,
        /// Who holds it.
        owner: String,
        /// Token of the grant.
        fencing_token: String,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// A grant ended.
    LockReleased {
        /// Every key of the grant.
        keys: Vec<String>,
        /// Who held it.
        owner: String,
        /// Token of the grant.
        fencing_token: String,
        /// How it ended.
        cause: Cause,
        /// How long it was held.
        held_ms: u64,
        /// Given by the administrator who forced it.
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// A term of office began.
    ElectionWon {
        /// The election.
        name: String,
        /// Who leads.
        candidate: String,
        /// Token of the term.
        fencing_token: String,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// A term of office ended: nobody leads.
    ElectionEnded {
        /// The election.
        name: String,
        /// Who led.
        candidate: String,
        /// Token of the term.
        fencing_token: String,
        /// How it ended.
        cause: Cause,
        /// How long it was.
        held_ms: u64,
        /// Given by the administrator who forced it.
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// A session was registered.
    SessionRegistered {
        /// Its number: public, unlike its id.
        session: String,
        /// The node that has its socket, or where it was placed.
        node_id: String,
    },
    /// A socket took a session over.
    SessionAttached {
        /// Its number.
        session: String,
        /// The node that has it now.
        node_id: String,
        /// Counts its sockets.
        epoch: u64,
        /// The node that had it before, if another one.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// A session lost its socket or its node; its time to live runs.
    SessionDetached {
        /// Its number.
        session: String,
        /// The node that had it.
        node_id: String,
        /// The epoch that ended.
        epoch: u64,
    },
    /// The client of a session is asked to go elsewhere.
    SessionMigrating {
        /// Its number.
        session: String,
        /// The node that has it.
        node_id: String,
        /// Its epoch there.
        epoch: u64,
        /// The node that shall take it.
        target: String,
    },
    /// A session is over; its locks are released.
    SessionEnded {
        /// Its number.
        session: String,
        /// The node that had it last.
        node_id: String,
        /// The epoch that ended.
        epoch: u64,
        /// How it ended.
        cause: SessionCause,
    },
    /// An entry was appended to the invalidation log.
    Invalidation {
        /// Its place there. It has a meaning only beside the epoch, which `GET .../invalidations` tells.
        log_offset: String,
        /// As asked for.
        patterns: Vec<String>,
        /// As asked for.
        tags: Vec<String>,
        /// The node where it was asked for.
        origin: String,
    },
}

/// How a session ended.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionCause {
    /// Its client closed it for good, or somebody deleted it.
    Closed,
    /// Nobody came back in time, or it was idle for too long.
    Expired,
}

impl From<SessionEnd> for SessionCause {
    fn from(cause: SessionEnd) -> Self {
        match cause {
            SessionEnd::Closed => Self::Closed,
            SessionEnd::Expired => Self::Expired,
        }
    }
}

/// `data:` of the block `reset`: events between what was asked for and `first` are no longer kept. Read anew what
/// is followed here; the stream goes on with `first`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reset {
    /// First offset that is kept.
    pub first: String,
    /// Offset that the next event will get.
    pub next: String,
}

impl From<EventsReset> for Reset {
    fn from(reset: EventsReset) -> Self {
        Self { first: reset.first.to_string(), next: reset.next.to_string() }
    }
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its holder gave it back.
    Released,
    /// Its lease ended.
    Expired,
    /// An administrator ended it.
    Forced,
    /// Its client went away before it learned of the grant.
    Cancelled,
    /// The session it was bound to ended.
    SessionEnded,
}

impl From<ReleaseCause> for Cause {
    fn from(cause: ReleaseCause) -> Self {
        match cause {
            ReleaseCause::Released => Self::Released,
            ReleaseCause::Expired => Self::Expired,
            ReleaseCause::Forced => Self::Forced,
            ReleaseCause::Cancelled => Self::Cancelled,
            ReleaseCause::SessionEnded => Self::SessionEnded,
        }
    }
}

impl Change {
    fn new(kind: &EventKind) -> Self {
        match kind.clone() {
            EventKind::NodeJoin { id, name, role } => {
                Self::NodeJoin { node_id: name, raft_id: id.to_string(), role: role.into() }
            }
            EventKind::NodeLeave { id, name, reason } => {
                Self::NodeLeave { node_id: name, raft_id: id.to_string(), reason }
            }
            EventKind::NodeUpdate { id, name, status, role } => Self::NodeUpdate {
                node_id: name,
                raft_id: id.to_string(),
                status: status.into(),
                role: role.into(),
            },
            EventKind::LeaderChange { id, name, term } => {
                Self::LeaderChange { leader_id: name, raft_id: id.to_string(), term }
            }
            EventKind::LockAcquired { keys, mode, owner, token, waited } => {
                Self::acquired(keys, mode.into(), owner, token.to_string(), waited.0)
            }
            EventKind::LockReleased { keys, owner, token, cause, held, reason } => {
                Self::released(keys, owner, token.to_string(), cause.into(), held.0, reason)
            }
            EventKind::SessionRegistered { number, node } => {
                Self::SessionRegistered { session: number.to_string(), node_id: node.name }
            }
            EventKind::SessionAttached { number, node, epoch, from } => Self::SessionAttached {
                session: number.to_string(),
                node_id: node.name,
                epoch,
                from: from.map(|from| from.name),
            },
            EventKind::SessionDetached { number, node, epoch } => {
                Self::SessionDetached { session: number.to_string(), node_id: node.name, epoch }
            }
            EventKind::SessionMigrating { number, node, epoch, target } => Self::SessionMigrating {
                session: number.to_string(),
                node_id: node.name,
                epoch,
                target: target.name,
            },
            EventKind::SessionEnded { number, node, epoch, cause } => Self::SessionEnded {
                session: number.to_string(),
                node_id: node.name,
                epoch,
                cause: cause.into(),
            },
            EventKind::Invalidated { offset, patterns, tags, origin } => {
                Self::Invalidation { log_offset: offset.to_string(), patterns, tags, origin: origin.name }
            }
        }
    }

    fn acquired(keys: Vec<String>, mode: Mode, owner: String, fencing_token: String, waited_ms: u64) -> Self {
        match election(&keys).map(str::to_owned) {
            Some(name) => Self::ElectionWon { name, candidate: owner, fencing_token, waited_ms },
            None => Self::LockAcquired { keys, mode, owner, fencing_token, waited_ms },
        }
    }

    fn released(
        keys: Vec<String>,
        owner: String,
        fencing_token: String,
        cause: Cause,
        held_ms: u64,
        reason: String,
    ) -> Self {
        match election(&keys).map(str::to_owned) {
            Some(name) => {
                Self::ElectionEnded { name, candidate: owner, fencing_token, cause, held_ms, reason }
            }
            None => Self::LockReleased { keys, owner, fencing_token, cause, held_ms, reason },
        }
    }
}

/// Shows events of some types.
struct Filter {
    kinds: u32,
}

impl Filter {
    fn parse(types: Option<&str>) -> Result<Self, ApiError> {
        let Some(types) = types else { return Ok(Self { kinds: u32::MAX }) };
        let mut kinds = 0;
        let mut unknown = Vec::new();
        for name in types.split(',').map(str::trim) {
            match TYPES.iter().find(|(known, _)| *known == name) {
                Some((_, members)) => kinds |= members.iter().fold(0, |bits, kind| bits | kind.bit()),
                None => unknown.push(name),
            }
        }
        if unknown.is_empty() {
            return Ok(Self { kinds });
        }
        let known: Vec<_> = TYPES.iter().map(|(name, _)| *name).collect();
        let problem = format!("{} is no type of event; there are {}", unknown.join(", "), known.join(", "));
        Err(ApiError::invalid("types", problem).with("unknown", unknown).with("known", known))
    }
}

impl ClusterEvent {
    /// As it is shown.
    #[must_use]
    pub fn new(kept: &Kept) -> Self {
        Self {
            offset: kept.event.offset.to_string(),
            cluster_ms: kept.event.at.0,
            time: wall_clock::utc(kept.event.at, kept.now),
            change: Change::new(&kept.event.kind),
        }
    }
}

fn block(kind: Kind, kept: &Kept) -> Bytes {
    let data = ClusterEvent::new(kept);
    let mut text = Text::default();
    text.block(Some(kept.event.offset), kind.name(), &data);
    text.into_bytes()
}

impl Lens for Filter {
    fn show(&mut self, kept: &Kept, out: &mut Text) {
        let kind = Kind::of(&kept.event.kind);
        if self.kinds & kind.bit() != 0 {
            out.raw(kept.text.get_or_init(|| block(kind, kept)));
        }
    }

    fn show_reset(&mut self, reset: EventsReset, _: &mut Watcher, out: &mut Text) {
        out.block(sse::id_before(reset.first), "reset", &Reset::from(reset));
    }
}

/// Watches what happens in the cluster, as Server-Sent Events.
///
/// Every node sends the same events with the same offsets in the same order, so a client may go on at another node.
/// `id:` is the offset; a client that reconnects with `Last-Event-ID` misses nothing and sees nothing twice, as long
/// as its place is kept (65,536 events, 32 MiB). Else, or when the offset was never given in this cluster, a block
/// `reset` names the first kept offset and the stream goes on there. Without `since` and `Last-Event-ID` it begins
/// with what happens after the answer began; the first block carries the id of the place. A silent stream shows a
/// sign of life every 15 s, which moves the id past what `types` leaves out. The stream ends when the node stops.
#[utoipa::path(get, path = "/api/v1/cluster/events", tag = "cluster", operation_id = "watch_events",
    params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last block that was seen")),
    responses((status = 200, body = ClusterEvent, content_type = "text/event-stream",
        description = "A stream of blocks `id`, `event`, `data` (JSON); also `reset` with `first` and `next`.")))]
pub async fn watch(
    State(app): State<Shared>,
    Query(query): Query<EventsQuery>,
    last: LastEventId,
) -> Result<Response, ApiError> {
    let since = last.or_since(query.since.as_deref())?;
    let filter = Filter::parse(query.types.as_deref())?;
    app.refuse_when_draining()?;
    let (watcher, index, ()) = app.events.watch(since, |_| ())?;
    Ok(sse::response(watcher, index, Text::default(), filter, app.draining.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    use ovncp_state::{Event, EventOffset, Millis};

    fn kept(offset: u64, kind: EventKind) -> Kept {
        let event = Event { offset: EventOffset(offset), at: Millis(5), kind };
        Kept { event, now: Millis(5), text: OnceLock::new() }
    }

    #[test]
    fn every_kind_has_a_type_that_selects_it_alone() {
        let kinds = [
            Kind::NodeJoin,
            Kind::NodeLeave,
            Kind::NodeUpdate,
            Kind::LeaderChange,
            Kind::LockAcquired,
            Kind::LockReleased,
            Kind::ElectionWon,
            Kind::ElectionEnded,
            Kind::SessionRegistered,
            Kind::SessionAttached,
            Kind::SessionDetached,
            Kind::SessionMigrating,
            Kind::SessionEnded,
            Kind::Invalidation,
        ];
        for kind in kinds {
            assert_eq!(Filter::parse(Some(kind.name())).unwrap().kinds, kind.bit(), "{kind:?}");
        }
        let all =
            Filter::parse(Some("node,leader_change, lock,election,session, invalidation")).unwrap().kinds;
        assert_eq!(all, kinds.iter().fold(0, |bits, kind| bits | kind.bit()));
        let problem = Filter::parse(Some("lock,Lock,,sessions")).err().unwrap();
        assert_eq!(problem.fields["unknown"], serde_json::json!(["Lock", "", "sessions"]));
    }

    #[test]
    fn a_block_is_one_event_whatever_the_texts_hold() {
        let kind = EventKind::LockReleased {
            keys: vec!["a\nevent: reset\ndata: {}\n\n".to_owned()],
            owner: "o\r\n".to_owned(),
            token: ovncp_state::FencingToken(7),
            cause: ReleaseCause::Forced,
            held: Millis(3),
            reason: "because".to_owned(),
        };
        let mut text = Text::default();
        Filter { kinds: u32::MAX }.show(&kept(12, kind), &mut text);
        let bytes = text.into_bytes();
        let text = std::str::from_utf8(&bytes).unwrap();
        let lines: Vec<_> = text.split('\n').collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!((lines[0], lines[1], lines[3], lines[4]), ("id: 12", "event: lock_released", "", ""));
        let data: serde_json::Value = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&data["type"], &data["cause"]), (&"lock_released".into(), &"forced".into()));
        assert_eq!((&data["offset"], &data["fencing_token"]), (&"12".into(), &"7".into()));
        assert_eq!(data["keys"][0], "a\nevent: reset\ndata: {}\n\n");
    }
}
