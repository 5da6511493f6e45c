//! Sessions of WebSocket clients: where each one is, what it missed, and where it goes when a node is emptied or dies.
//!
//! The state decides: which node has a session, which socket is the newest (the epoch), what was published in which
//! order. Here is what a node does with that. [`Sessions`] proposes and looks up; [`Attached`] is one socket's view;
//! [`hub`] hands messages to the sockets of this node; `reports.rs` tells the others of lost sockets, activity and
//! positions; [`drain`] empties this node.
//!
//! A socket that this node serves although another one has the session is told so by the entry that took it over. Until
//! it is applied here, both may receive messages; neither can make the state believe it: reports carry the epoch.

mod attached;
pub mod drain;
pub mod hub;
mod registry;
mod reports;
mod slot;
pub mod token;

use std::sync::Arc;
use std::time::Duration;

use ovncp_raft::status::GroupStatus;
use ovncp_state::command::NodeInfo;
use ovncp_state::sessions::view::SessionView;
use ovncp_state::{MessageOffset, Millis, NodeId, SessionId, SessionNumber};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::Core;
pub use attached::{Attached, Step, Subscription};
use hub::{Hub, verdict};
pub use registry::{MIGRATION_VALID, Moving, ROTATION_OVERLAP, Registered};
use reports::Reports;
pub use slot::{End, Kept, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};
use slot::{Order, Slot};

/// Registrations and take-overs of sockets under way at once; more are asked to come back later. After the death of a
/// node thousands of clients come at once: they are let in at the speed at which the log takes them.
pub const ADMISSION_MAX: usize = 256;
/// Messages of the log that the hub fetches in one go.
const FETCH_MESSAGES_MAX: usize = 256;
/// How often this node looks at its own state, besides whenever something changes there: draining, cut off.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Silence of the leader (of the quorum, on the leader) after which the contact counts as lost.
const CONTACT_SILENCE_MAX: Duration = Duration::from_secs(3);

/// What sessions of this node go by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a session outlives its socket.
    pub ttl: Millis,
    /// Silence after which the others take this node for dead.
    pub node_timeout: Duration,
    /// Where clients reach any node, if there is such a place.
    pub public_url: Option<String>,
}

/// Sessions of the cluster, and the sockets of this node.
#[derive(Clone)]
pub struct Sessions {
    core: Core,
    hub: Arc<Hub>,
    reports: Arc<Reports>,
    admission: Arc<Semaphore>,
    standing: watch::Sender<Standing>,
    settings: Arc<Settings>,
}

/// Whether this node takes sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The state does not know of this start yet: with the one before, all sockets of this node were lost, and what came
    /// in now would be counted among them.
    Starting,
    /// It does.
    Open,
    /// It is being emptied: present sockets are moved, new ones refused.
    Draining,
    /// It stops: the same, and what is left in the end is closed.
    Stopping,
    /// It has heard of no majority for so long that others may take its sessions over.
    CutOff,
}

/// Where a client is asked to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationTarget {
    /// Name of the node.
    pub node: String,
    /// Its token for the session.
    pub token: String,
    /// Address to open the socket at.
    pub url: String,
}

impl Sessions {
    /// Sessions of the group, with the sockets of `hub`.
    #[must_use]
    pub fn new(core: Core, hub: Arc<Hub>, settings: Settings) -> Self {
        Self {
            core,
            hub,
            reports: Arc::default(),
            admission: Arc::new(Semaphore::new(ADMISSION_MAX)),
            standing: watch::Sender::new(Standing::Starting),
            settings: Arc::new(settings),
        }
    }

    /// Works for ever: hands out messages, reports, watches over this node.
    pub async fn run(self) {
        tokio::join!(
            follow(self.clone()),
            reports::run(self.clone()),
            watch_over(self.clone()),
            drain::run(self.clone()),
        );
    }

    /// Whether this node takes sockets.
    #[must_use]
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// The same, for those who follow it.
    #[must_use]
    pub fn standing_watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Waits, at most so long, until the state knows of this start of the node.
    pub async fn announced(&self, timeout: Duration) {
        let mut standing = self.standing.subscribe();
        let announced = standing.wait_for(|standing| *standing != Standing::Starting);
        // In vain is what the standing then says.
        let _ = tokio::time::timeout(timeout, announced).await;
    }

    fn is_announced(&self) -> bool {
        let identity = self.core.group.identity();
        let look = |state: &ovncp_state::State| state.node(identity.node_id?).map(|node| node.boot);
        self.core.group.read(look).1 == Some(identity.boot)
    }

    /// A place among those who come in at this moment.
    #[must_use]
    pub fn admit(&self) -> Option<SemaphorePermit<'_>> {
        self.admission.try_acquire().ok()
    }

    /// Sockets of this node.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.hub.len()
    }

    /// What this node goes by.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Serves a session by a socket of this node, from `since` on or from where it was.
    #[must_use]
    pub fn serve(&self, registered: Registered, since: Option<MessageOffset>) -> Attached {
        Attached::new(self.clone(), registered.grant, since)
    }

    /// Holds one socket against the state, and against what this node does.
    fn check(&self, slot: &Slot) {
        // It was let in before, and may have missed the order that went to all.
        if matches!(self.standing(), Standing::Stopping | Standing::CutOff) {
            slot.order(Order::End(End::Restart));
        }
        let Ok(own) = self.core.node_id() else { return };
        let session = self.core.group.read(|state| state.session(slot.number)).1;
        if let Some(order) = verdict(slot, own, session.as_ref()) {
            slot.order(order);
        }
    }

    /// Where the client of a socket is asked to go, if it still is.
    fn migration_of(&self, slot: &Slot) -> Option<MigrationTarget> {
        let look = |state: &ovncp_state::State| {
            let session = state.session(slot.number)?;
            let migration = session.migration?;
            Some((session, migration, state.node(migration.target)?))
        };
        let (session, migration, target) = self.core.group.read(look).1?;
        if session.epoch != slot.epoch {
            return None;
        }
        let key = self.core.group.cluster_key()?;
        let purpose = token::Purpose {
            number: session.number,
            epoch: session.epoch,
            target: migration.target,
            salt: migration.salt,
        };
        let token = token::derived(&key, &purpose);
        let url = self.url(&session.id, Some((&target.name, &target.info, &token)));
        Some(MigrationTarget { node: target.name, token, url })
    }

    /// Where a session is resumed: at one node, or wherever the way in leads.
    #[must_use]
    pub fn url(&self, id: &SessionId, target: Option<(&str, &NodeInfo, &str)>) -> String {
        let base = match (&self.settings.public_url, target) {
            (Some(public), _) => socket_scheme(public),
            (None, Some((_, info, _))) => format!("ws://{}", host_port(&info.ip, info.http_port)),
            (None, None) => String::new(),
        };
        let mut url = format!("{base}/ws?session={id}");
        if let Some((node, _, token)) = target {
            for (name, value) in [("token", token), ("node", node)] {
                if !value.is_empty() {
                    url.push_str(&format!("&{name}={}", encoded(value)));
                }
            }
        }
        url
    }

    /// Where a client of this node comes back to: by whichever way it came, and for those who route by what the URL
    /// says, to the node of this name.
    #[must_use]
    pub fn resume_url(&self, id: &SessionId, node: &str) -> String {
        format!("{}&node={}", self.url(id, None), encoded(node))
    }

    /// Whether the state says that this node is being emptied.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        let Ok(own) = self.core.node_id() else { return false };
        self.core.group.read(|state| state.drain(own).is_some()).1
    }

    /// Empties this node before it stops: asks every client to go elsewhere, closes within `grace` what has not gone, and
    /// reports what is left. Others take the sessions over at once.
    pub async fn leave(&self, grace: Duration) {
        self.standing.send_replace(Standing::Stopping);
        if !self.hub.is_empty() {
            drain::leave(self, grace).await;
        }
        self.hub.order_all(Order::End(End::Restart));
    }

    /// Waits, at most so long, until every socket has gone and every lost one is reported.
    pub async fn settled(&self, timeout: Duration) {
        let settled = async {
            while !self.hub.is_empty() || !self.reports.is_empty() {
                let clear = self.reports.clear.notified();
                let _ = tokio::time::timeout(WATCH_INTERVAL / 5, clear).await;
            }
        };
        if tokio::time::timeout(timeout, settled).await.is_err() {
            tracing::warn!(sockets = self.hub.len(), "some sessions are left to the node time-out");
        }
    }
}

/// Hands messages out as they are applied.
async fn follow(sessions: Sessions) {
    let (group, hub) = (&sessions.core.group, &sessions.hub);
    let mut wake = group.messages_watch();
    loop {
        // Before the look: what is applied after it wakes us again.
        wake.borrow_and_update();
        let next = group.read(|state| state.messages_kept().1).1;
        if !hub.skip(next) {
            hand_out(&sessions).await;
        }
        tokio::select! {
            changed = wake.changed() => {
                if changed.is_err() {
                    // The group is gone, and with it everything that could be handed out.
                    return;
                }
            }
            () = hub.recheck.notified() => {
                if let Ok(own) = sessions.core.node_id() {
                    reports::check_all(&sessions, own);
                }
            }
        }
    }
}

async fn hand_out(sessions: &Sessions) {
    loop {
        let since = sessions.hub.position();
        match sessions.core.group.read(|state| state.messages(since, FETCH_MESSAGES_MAX)).1 {
            Ok(page) if page.is_empty() => return,
            Ok(page) => page.iter().for_each(|message| sessions.hub.hand_out(message)),
            Err(reset) => sessions.hub.lost(reset.next),
        }
        tokio::task::yield_now().await;
    }
}

/// Follows what this node may do: closes its sockets while others may take them for lost.
async fn watch_over(sessions: Sessions) {
    let limit = sessions.settings.node_timeout / 2;
    let mut contact = Instant::now();
    let mut announced = false;
    // Among other things the record of this node.
    let mut members = sessions.core.group.cleared_watch();
    let mut due = tokio::time::interval(WATCH_INTERVAL);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            // The clock goes on when the group is gone.
            Ok(()) = members.changed() => {}
        }
        announced = announced || sessions.is_announced();
        if let Some(age) = contact_age(&sessions.core.group.status()) {
            contact = contact.max(Instant::now().checked_sub(age).unwrap_or(contact));
        }
        let standing = match sessions.standing() {
            Standing::Stopping => Standing::Stopping,
            _ if contact.elapsed() >= limit => Standing::CutOff,
            _ if !announced => Standing::Starting,
            _ if sessions.is_draining() => Standing::Draining,
            _ => Standing::Open,
        };
        let before = sessions.standing();
        // Not over a stop that began meanwhile.
        sessions.standing.send_if_modified(|present| {
            let changes = *present != Standing::Stopping && *present != standing;
            if changes {
                *present = standing;
            }
            changes
        });
        if standing == Standing::CutOff {
            if before != Standing::CutOff {
                tracing::warn!(sockets = sessions.hub.len(), "no majority in reach: sockets are closed");
            }
            sessions.hub.order_all(Order::End(End::Restart));
        }
    }
}

/// How long ago this node was in contact with a majority, if it is at all.
fn contact_age(status: &GroupStatus) -> Option<Duration> {
    status.leader?;
    let age = Duration::from_millis(status.quorum_ack_age_ms.unwrap_or(0));
    (age < CONTACT_SILENCE_MAX).then_some(age)
}

/// `http` becomes `ws`, and no slash at the end.
fn socket_scheme(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.strip_prefix("http") {
        Some(rest) if rest.starts_with("://") || rest.starts_with("s://") => format!("ws{rest}"),
        _ => url.to_owned(),
    }
}

fn host_port(host: &str, port: u16) -> String {
    crate::config::value::join_host_port(host, port)
}

/// A value in a query.
fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A session by what a caller named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its secret id, or the one before the last rotation.
    Id(SessionId),
    /// By its public number.
    Number(SessionNumber),
}

impl Named {
    /// 32 hexadecimal digits are an id, a decimal number a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match parse_id(text) {
            Some(id) => Some(Self::Id(id)),
            None => text.parse().ok().map(|number| Self::Number(SessionNumber(number))),
        }
    }

    fn find(self, state: &ovncp_state::State) -> Option<SessionView> {
        match self {
            Self::Id(id) => state.session_by_id(&id),
            Self::Number(number) => state.session(number),
        }
    }
}

/// 32 hexadecimal digits.
#[must_use]
pub fn parse_id(text: &str) -> Option<SessionId> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(SessionId(id))
}

/// A node as people know it.
#[must_use]
pub fn node_name(state: &ovncp_state::State, id: NodeId) -> String {
    state.node(id).map_or_else(|| id.to_string(), |node| node.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_numbers_are_told_apart() {
        let id = "0123456789abcdef0123456789ABCDEF";
        assert!(matches!(Named::parse(id), Some(Named::Id(_))));
        assert_eq!(parse_id(id).unwrap().to_string(), id.to_lowercase());
        assert_eq!(Named::parse("17"), Some(Named::Number(SessionNumber(17))));
        for wrong in [
            "",
            "x",
            "-1",
            "+1x",
            &id[1..],
            "0123456789abcdef0123456789abcdeg",
            "é23456789abcdef0123456789abcdef",
        ] {
            assert_eq!(Named::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn urls_are_of_sockets() {
        for (given, made) in [
            ("http://a:1", "ws://a:1"),
            ("https://a/", "wss://a"),
            ("wss://a/x", "wss://a/x"),
            ("httpd://a", "httpd://a"),
        ] {
            assert_eq!(socket_scheme(given), made);
        }
        assert_eq!(encoded("a b&c=%é"), "a%20b%26c%3D%25%C3%A9");
    }

    #[test]
    fn contact_is_with_a_leader_that_was_heard_of() {
        let status = |leader, age| GroupStatus {
            node_id: Some(NodeId(1)),
            phase: ovncp_raft::status::Phase::Serving,
            term: 1,
            leader,
            is_leader: false,
            quorum_ack_age_ms: age,
            last_log: ovncp_state::LogIndex(1),
            committed: ovncp_state::LogIndex(1),
            applied: ovncp_state::LogIndex(1),
            snapshot: ovncp_state::LogIndex(0),
            voters: Vec::new(),
            learners: Vec::new(),
            peers: Vec::new(),
            state_hash: None,
            integrity: ovncp_raft::status::Integrity::Unchecked,
        };
        assert_eq!(contact_age(&status(None, Some(1))), None);
        assert_eq!(contact_age(&status(Some(NodeId(2)), Some(40))), Some(Duration::from_millis(40)));
        assert_eq!(contact_age(&status(Some(NodeId(2)), Some(3_000))), None);
    }
}
