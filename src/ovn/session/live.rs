//! One connection, from hand-shake to end.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::selection::{self, project};
use super::server::{self, Fit, SERVER, ServerView, Wanted};
use super::sync::{self, Synced};
use super::transaction::{Ended, TRANSACTION_BYTES_MAX, Transaction};
use super::{Ending, Inbox, Memory, refuse};
use crate::changes::ChangeSet;
use crate::database::{BARRIERS_WAITING_MAX, DatabaseSettings};
use crate::schema::Schema;
use crate::wire::connection::{Connection, ConnectionError, Event, OUTPUT_BYTES_MAX, Patience};
use crate::wire::message::Answer;

/// Most transactions whose answers are awaited. The writer keeps to fewer; this holds for those beside it.
pub(crate) const TRANSACTIONS_IN_FLIGHT_MAX: usize = 32;

/// No transaction is taken while more than this waits to be written.
const BACKLOG_BYTES_MAX: usize = TRANSACTION_BYTES_MAX;

// What we send ourselves never makes the connection overflow.
const _: () = assert!(BACKLOG_BYTES_MAX + 2 * TRANSACTION_BYTES_MAX < OUTPUT_BYTES_MAX);

/// How long a server may be silent while it puts the whole contents together. ovsdb-server does nothing else then:
/// 100,000 ports take it five seconds.
const SYNC_SILENCE_MAX: Duration = Duration::from_secs(120);

/// How long a server that will no longer do is given to answer what it was sent.
const PARTING_MAX: Duration = Duration::from_secs(1);

/// Silence that is borne until the server has said what it is.
pub(super) fn greeting_patience(settings: &DatabaseSettings) -> Patience {
    Patience { probe_after: settings.connect_timeout / 2, leave_after: settings.connect_timeout }
}

/// What a call was for.
pub(super) enum Purpose {
    /// The server is told that databases may change under us; the answer says nothing.
    Aware,
    /// `_Server`.
    Server,
    /// The contents.
    Contents,
    Transaction(oneshot::Sender<Ended>),
    Barrier(Vec<oneshot::Sender<Result<(), String>>>),
}

enum Phase {
    /// Nothing is known of the server.
    Greeting,
    /// The contents are on their way.
    Syncing { schema: Arc<Schema>, text: Arc<str>, asked_at: Instant },
    /// The replica follows.
    InSync,
    /// The server will no longer do; answers are still awaited, until then.
    Parting { reason: String, until: tokio::time::Instant },
}

pub(super) struct Live<'a> {
    memory: &'a mut Memory,
    connection: Connection<Purpose>,
    phase: Phase,
    server: ServerView,
    fit: Option<Fit>,
    transactions_in_flight: usize,
    barrier_in_flight: bool,
    barriers_waiting: Vec<oneshot::Sender<Result<(), String>>>,
    synced_at: Option<Instant>,
    traffic: (u64, u64),
}

/// Why a connection is left by us.
enum Leave {
    /// Because of this.
    Reason(String),
    /// Nobody is left who needs it.
    Unused,
}

impl From<ConnectionError> for Leave {
    fn from(error: ConnectionError) -> Self {
        Self::Reason(error.to_string())
    }
}

impl From<sync::SyncError> for Leave {
    fn from(error: sync::SyncError) -> Self {
        Self::Reason(error.to_string())
    }
}

impl<'a> Live<'a> {
    pub(super) fn new(memory: &'a mut Memory, mut connection: Connection<Purpose>) -> Self {
        connection.call("set_db_change_aware", b"[true]", Purpose::Aware);
        connection.call("monitor_cond_since", &server::monitor_params(), Purpose::Server);
        memory.shared.update_status(|status| status.connected = true);
        Self {
            memory,
            connection,
            phase: Phase::Greeting,
            server: ServerView::default(),
            fit: None,
            transactions_in_flight: 0,
            barrier_in_flight: false,
            barriers_waiting: Vec::new(),
            synced_at: None,
            traffic: (0, 0),
        }
    }

    /// Serves until the connection is lost or left.
    pub(super) async fn run(mut self, inbox: &mut Inbox) -> Ending {
        let leave = loop {
            if let Err(leave) = self.step(inbox).await {
                break leave;
            }
        };
        self.count_traffic();
        let reason = match leave {
            Leave::Reason(reason) => Some(reason),
            Leave::Unused => None,
        };
        let told = reason.clone().unwrap_or_else(|| "the database was closed".to_owned());
        for waiting in self.barriers_waiting {
            let _ = waiting.send(Err(told.clone()));
        }
        for call in self.connection.into_unanswered() {
            match call.token {
                Purpose::Transaction(ended) if call.sent => drop(ended.send(Ended::Unanswered(told.clone()))),
                Purpose::Transaction(ended) => drop(ended.send(Ended::NotSent(told.clone()))),
                Purpose::Barrier(waiting) => {
                    waiting.into_iter().for_each(|waiting| drop(waiting.send(Err(told.clone()))));
                }
                Purpose::Aware | Purpose::Server | Purpose::Contents => {}
            }
        }
        Ending { reason, synced_at: self.synced_at }
    }

    /// Waits for one thing and does what it asks for.
    async fn step(&mut self, inbox: &mut Inbox) -> Result<(), Leave> {
        let takes_transactions = !matches!(self.phase, Phase::InSync)
            || (self.transactions_in_flight < TRANSACTIONS_IN_FLIGHT_MAX
                && self.connection.backlog() <= BACKLOG_BYTES_MAX);
        let takes_barriers = self.barriers_waiting.len() < BARRIERS_WAITING_MAX;
        let parting_until = match &self.phase {
            Phase::Parting { reason, .. } if self.transactions_in_flight == 0 => {
                return Err(Leave::Reason(reason.clone()));
            }
            Phase::Parting { until, .. } => Some(*until),
            _ => None,
        };
        tokio::select! {
            event = self.connection.next() => {
                let event = event?;
                self.count_traffic();
                self.take(event).await
            }
            transaction = inbox.transactions.recv(), if takes_transactions => {
                self.send(transaction.ok_or(Leave::Unused)?);
                Ok(())
            }
            barrier = inbox.barriers.recv(), if takes_barriers => {
                self.wait_for_barrier(barrier.ok_or(Leave::Unused)?);
                Ok(())
            }
            () = sleep_until(parting_until), if parting_until.is_some() => match &self.phase {
                Phase::Parting { reason, .. } => Err(Leave::Reason(reason.clone())),
                _ => Ok(()),
            },
        }
    }

    async fn take(&mut self, event: Event<Purpose>) -> Result<(), Leave> {
        match event {
            Event::Alive => {}
            Event::Reply { token, answer } => self.take_reply(token, answer).await?,
            Event::Notification { method, params } if method == "update3" => self.take_update(&params)?,
            Event::Notification { method, params } if method == "monitor_canceled" => {
                let monitor: Vec<Json> = serde_json::from_slice(&params).unwrap_or_default();
                self.part(format!(
                    "the server has stopped to tell about {}",
                    monitor.first().unwrap_or(&Json::Null)
                ));
            }
            Event::Notification { method, .. } => {
                tracing::debug!(method, "a notification that is not known");
                self.memory.shared.metrics.notifications_unknown.increment();
            }
        }
        if matches!(self.phase, Phase::InSync) {
            self.memory.shared.note_current(self.connection.heard_at().into_std());
        }
        Ok(())
    }

    async fn take_reply(&mut self, purpose: Purpose, answer: Answer) -> Result<(), Leave> {
        match (purpose, answer) {
            (Purpose::Aware, _) => Ok(()),
            (Purpose::Server, Answer::Result(reply)) => {
                let reply: Json = serde_json::from_slice(&reply).map_err(ConnectionError::from)?;
                self.take_server(&reply[2])
            }
            (Purpose::Contents, Answer::Result(reply)) => self.take_contents(reply).await,
            (Purpose::Server | Purpose::Contents, Answer::Error(error)) => {
                // Perhaps because of what we asked to go on from.
                self.memory.last = Uuid::nil();
                let error = String::from_utf8_lossy(&error);
                Err(Leave::Reason(format!("the server does not tell its contents: {error}")))
            }
            (Purpose::Transaction(ended), answer) => {
                self.transactions_in_flight -= 1;
                let _ = ended.send(Ended::Answered(answer));
                Ok(())
            }
            (Purpose::Barrier(waiting), answer) => {
                self.end_barrier(waiting, &answer);
                Ok(())
            }
        }
    }

    /// What the server says about itself decides whether it is stayed with.
    fn take_server(&mut self, updates: &Json) -> Result<(), Leave> {
        let unreadable = || Leave::Reason("what the server says about itself cannot be read".to_owned());
        self.server.apply(updates).ok_or_else(unreadable)?;
        let shared = Arc::clone(&self.memory.shared);
        let settings = &shared.settings;
        let wanted =
            Wanted { database: settings.name, leader_only: settings.leader_only, seen: self.memory.seen };
        let fit = match self.server.judge(&wanted) {
            Ok(fit) => fit,
            Err(reason) => {
                self.part(reason);
                return Ok(());
            }
        };
        self.memory.seen = fit.seen;
        shared.update_status(|status| (status.leader, status.clustered) = (fit.leader, fit.clustered));
        match &self.fit {
            None => self.ask_for_contents(&fit.schema)?,
            Some(before) if before.schema != fit.schema => self.part("the schema has changed".to_owned()),
            Some(_) => {}
        }
        self.fit = Some(fit);
        Ok(())
    }

    fn ask_for_contents(&mut self, text: &Arc<str>) -> Result<(), Leave> {
        let shared = &self.memory.shared;
        let schema = serde_json::from_str(text).map_err(|error| error.to_string());
        let schema = schema.and_then(|schema| Schema::parse(&schema).map_err(|error| error.to_string()));
        let schema = Arc::new(schema.map_err(Leave::Reason)?);
        shared.set_schema(Arc::clone(&schema));
        shared.update_status(|status| status.schema_version = Some(schema.version.clone()));
        let kept = project(&schema, shared.settings.tables.as_deref());
        // Rows of another schema are no start.
        let since = if self.memory.schema.as_ref() == Some(text) { self.memory.last } else { Uuid::nil() };
        let params = selection::monitor_params(&kept, shared.settings.name, since);
        self.connection.call("monitor_cond_since", &params, Purpose::Contents);
        let probe_after = shared.settings.probe_interval;
        self.connection
            .set_patience(Patience { probe_after, leave_after: SYNC_SILENCE_MAX.max(probe_after * 2) });
        self.phase = Phase::Syncing { schema: kept, text: Arc::clone(text), asked_at: Instant::now() };
        Ok(())
    }

    async fn take_contents(&mut self, reply: Bytes) -> Result<(), Leave> {
        let Phase::Syncing { schema, text, asked_at } = &self.phase else { return Ok(()) };
        let (schema, text, asked_at) = (Arc::clone(schema), Arc::clone(text), *asked_at);
        let shared = Arc::clone(&self.memory.shared);
        match sync::read_reply(reply, schema).await? {
            Synced::Fast { last, rows } => {
                self.apply(last, &rows)?;
                shared.metrics.resyncs_fast.increment();
            }
            Synced::Full { last, contents } => {
                let position = self.memory.advance(last);
                let before = {
                    let mut replica = shared.contents.write().unwrap_or_else(PoisonError::into_inner);
                    // Under the lock, here and below: nobody sees what the history does not tell yet.
                    shared.history.reset(position);
                    replica.replace(*contents)
                };
                sync::free(before);
                self.memory.schema = Some(text);
                shared.metrics.resyncs_full.increment();
                shared
                    .metrics
                    .resync_micros
                    .add(u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        }
        let probe_after = shared.settings.probe_interval;
        self.connection.set_patience(Patience { probe_after, leave_after: probe_after * 2 });
        self.phase = Phase::InSync;
        self.synced_at = Some(Instant::now());
        shared.metrics.sessions.increment();
        shared.note_current(self.connection.heard_at().into_std());
        shared.update_status(|status| (status.in_sync, status.problem) = (true, None));
        tracing::info!(database = shared.settings.name, "in sync");
        Ok(())
    }

    fn take_update(&mut self, params: &Bytes) -> Result<(), Leave> {
        let (monitor, last, rows) = sync::read_update(params)?;
        if monitor == SERVER {
            let rows = serde_json::from_slice(&rows).map_err(ConnectionError::from)?;
            return self.take_server(&rows);
        }
        self.memory.shared.metrics.updates.increment();
        self.apply(last, &rows)
    }

    /// Applies changes to the replica and tells subscribers.
    fn apply(&mut self, last: Uuid, rows: &[u8]) -> Result<(), Leave> {
        let shared = Arc::clone(&self.memory.shared);
        let mut replica = shared.contents.write().unwrap_or_else(PoisonError::into_inner);
        let Some(contents) = replica.as_mut() else {
            return Err(Leave::Reason("the server tells of changes of nothing".to_owned()));
        };
        let changes = match sync::apply(contents, rows) {
            Ok(changes) => changes,
            Err(error) => {
                // Half of it may be in the replica: nobody shall see that, and the next session reads everything.
                sync::free(replica.take());
                (self.memory.last, self.memory.schema) = (Uuid::nil(), None);
                return Err(error.into());
            }
        };
        shared.metrics.rows_changed.add(changes.len() as u64);
        if !changes.is_empty() {
            let position = self.memory.advance(last);
            shared.history.push(ChangeSet { position, changes });
        } else if !last.is_nil() {
            self.memory.last = last;
        }
        Ok(())
    }

    fn send(&mut self, transaction: Transaction) {
        match self.why_not() {
            Some(reason) => refuse(transaction, reason),
            // Nobody waits for it any more, so it need not happen.
            None if transaction.ended.is_closed() => {}
            None => {
                self.transactions_in_flight += 1;
                self.connection.call(
                    "transact",
                    &transaction.params,
                    Purpose::Transaction(transaction.ended),
                );
            }
        }
    }

    /// A barrier that begins now serves everybody who waits; who comes later waits for the next.
    fn wait_for_barrier(&mut self, waiting: oneshot::Sender<Result<(), String>>) {
        if let Some(reason) = self.why_not() {
            let _ = waiting.send(Err(reason));
            return;
        }
        self.barriers_waiting.push(waiting);
        self.begin_barrier();
    }

    fn begin_barrier(&mut self) {
        if self.barrier_in_flight || self.barriers_waiting.is_empty() {
            return;
        }
        self.barrier_in_flight = true;
        // An empty transaction, not an echo: before it answers a transaction, a server tells what was committed.
        let params = Json::from(vec![self.memory.shared.settings.name]).to_string();
        let waiting = std::mem::take(&mut self.barriers_waiting);
        self.connection.call("transact", params.as_bytes(), Purpose::Barrier(waiting));
        self.memory.shared.metrics.barriers.increment();
    }

    fn end_barrier(&mut self, waiting: Vec<oneshot::Sender<Result<(), String>>>, answer: &Answer) {
        self.barrier_in_flight = false;
        let result = match (self.why_not(), answer) {
            (Some(reason), _) => Err(reason),
            (None, Answer::Result(_)) => Ok(()),
            (None, Answer::Error(error)) => Err(String::from_utf8_lossy(error).into_owned()),
        };
        for waiting in waiting {
            let _ = waiting.send(result.clone());
        }
        self.begin_barrier();
    }

    /// Why nothing can be sent.
    fn why_not(&self) -> Option<String> {
        match &self.phase {
            Phase::InSync => None,
            Phase::Greeting | Phase::Syncing { .. } => Some("not in sync yet".to_owned()),
            Phase::Parting { reason, .. } => Some(reason.clone()),
        }
    }

    /// Takes leave: nothing is sent any more, and what was sent is given a moment to be answered.
    fn part(&mut self, reason: String) {
        if matches!(self.phase, Phase::Parting { .. }) {
            return;
        }
        for waiting in self.barriers_waiting.drain(..) {
            let _ = waiting.send(Err(reason.clone()));
        }
        self.memory.shared.update_status(|status| (status.in_sync, status.leader) = (false, false));
        self.phase = Phase::Parting { reason, until: tokio::time::Instant::now() + PARTING_MAX };
    }

    fn count_traffic(&mut self) {
        let (sent, received) = self.connection.traffic();
        let metrics = &self.memory.shared.metrics;
        metrics.bytes_sent.add(sent - self.traffic.0);
        metrics.bytes_received.add(received - self.traffic.1);
        self.traffic = (sent, received);
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
