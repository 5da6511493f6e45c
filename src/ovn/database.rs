//! The handle of one database: a replica to read, a way to write, and a stream of what changed.
//!
//! One connection to one server carries everything: the monitors that keep the replica, and all transactions. A server
//! tells a session what a transaction changed before it answers the transaction, and one task takes messages in order,
//! so when [`Database::transact`] returns, [`Database::read`] already shows what it did.
//!
//! # What can be relied on
//!
//! - The replica always shows the database as it was between two transactions, never half of one.
//! - It never goes back in time as long as the servers do not: a member of a cluster that is behind is not used.
//! - A transaction ends as committed, refused, never sent, or unknown; only the last leaves anything open.
//! - While no session is in sync, writes and barriers fail at once. Reads go on, from a replica that grows old:
//!   [`DatabaseStatus::age`] says how old.
//!
//! # Known limits
//!
//! - Servers must know `monitor_cond_since` and client-chosen uuids: OVS 2.13 and later. There is no way back to the
//!   older monitors.
//! - A standalone server keeps no history: each new session reads everything again.
//! - A cluster that is taken back to an earlier state under its old id is refused as being behind, until this process
//!   starts anew. A new cluster made from a backup has an id of its own and is taken.
//! - A leader that is cut off from its cluster believes in itself until its election timer has run out. Until then a
//!   [barrier](Database::barrier) is answered without what another leader may have committed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::changes::{Changes, History, Position, Subscribers};
use crate::contents::Contents;
use crate::error::TransactError;
use crate::metrics::DatabaseMetrics;
use crate::operation::{Operation, OperationResult};
use crate::schema::Schema;
use crate::session::selection::TableSelection;
use crate::session::transaction::{self, Ended, Transaction};
pub use crate::session::transaction::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX};
use crate::session::{self, Inbox};
use crate::wire::endpoint::Endpoint;
use crate::wire::tls::TlsSettings;
use crate::writer::Transact;

/// Most transactions that wait to be sent.
pub const TRANSACTIONS_WAITING_MAX: usize = 1024;
/// Most callers that wait for the next barrier to begin.
pub const BARRIERS_WAITING_MAX: usize = 16_384;

/// Which database, where, and how it is watched.
#[derive(Clone, Debug)]
pub struct DatabaseSettings {
    /// Its name, such as `OVN_Northbound`.
    pub name: &'static str,
    /// Where its servers listen: all members of a cluster. Not empty.
    pub endpoints: Vec<Endpoint>,
    /// How long a server may take to accept a connection, and again to say what it is.
    pub connect_timeout: Duration,
    /// Certificates for `ssl:` endpoints.
    pub tls: Option<TlsSettings>,
    /// Whether only the leader of a cluster will do. Writers and linearizable readers need it.
    pub leader_only: bool,
    /// Tables that are kept in memory; none for all of them.
    pub tables: Option<Vec<TableSelection>>,
    /// Silence after which a server is asked whether it is there; after twice as long it is left. Zero: never.
    pub probe_interval: Duration,
}

/// How a database is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatabaseStatus {
    /// Whether a server is connected, in sync or not.
    pub connected: bool,
    /// That server, or the one that is being tried.
    pub endpoint: Option<Endpoint>,
    /// Whether that server leads; a standalone one always does.
    pub leader: bool,
    /// Whether the database is served by a cluster.
    pub clustered: bool,
    /// Whether the replica follows the server.
    pub in_sync: bool,
    /// Time since the replica was last known to hold all that its server had told: while in sync, since the server was
    /// last heard. None before the first sync.
    pub age: Option<Duration>,
    /// Version of the server's schema.
    pub schema_version: Option<String>,
    /// Why the last session ended, or could not begin. Kept until one is in sync.
    pub problem: Option<String>,
}

/// What the session and the handles share.
pub(crate) struct Shared {
    pub(crate) settings: DatabaseSettings,
    pub(crate) contents: RwLock<Option<Contents>>,
    pub(crate) history: History,
    pub(crate) metrics: DatabaseMetrics,
    status: Mutex<DatabaseStatus>,
    schema: Mutex<Option<Arc<Schema>>>,
    synced: watch::Sender<bool>,
    opened_at: Instant,
    /// Milliseconds after `opened_at`, plus one; zero before the first sync.
    current_at: AtomicU64,
}

impl Shared {
    /// Changes the status; wakes those who wait for the sync when it changed.
    pub(crate) fn update_status(&self, change: impl FnOnce(&mut DatabaseStatus)) {
        let in_sync = {
            // Nothing panics while it is held; the same below.
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut status);
            status.in_sync
        };
        self.synced.send_if_modified(|synced| std::mem::replace(synced, in_sync) != in_sync);
    }

    /// Notes that the replica held everything at this moment.
    pub(crate) fn note_current(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.opened_at).as_millis();
        self.current_at.store(u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// Why there is no session.
    pub(crate) fn problem(&self) -> Option<String> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    pub(crate) fn set_schema(&self, schema: Arc<Schema>) {
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = Some(schema);
    }
}

struct Handle {
    shared: Arc<Shared>,
    subscribers: Subscribers,
    transactions: mpsc::Sender<Transaction>,
    barriers: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
}

/// A database. Clones are handles of the same one; when the last is dropped, its session ends.
#[derive(Clone)]
pub struct Database {
    handle: Arc<Handle>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Database").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Database {
    /// Starts the session on the current runtime.
    ///
    /// # Panics
    /// Without endpoints, and outside of a runtime.
    #[must_use]
    pub fn open(settings: DatabaseSettings) -> Self {
        assert!(!settings.endpoints.is_empty(), "a database has at least one endpoint");
        let (history, subscribers) = History::new();
        let shared = Arc::new(Shared {
            settings,
            contents: RwLock::new(None),
            history,
            metrics: DatabaseMetrics::default(),
            status: Mutex::default(),
            schema: Mutex::default(),
            synced: watch::Sender::new(false),
            opened_at: Instant::now(),
            current_at: AtomicU64::new(0),
        });
        let (transactions, waiting_transactions) = mpsc::channel(TRANSACTIONS_WAITING_MAX);
        let (barriers, waiting_barriers) = mpsc::channel(BARRIERS_WAITING_MAX);
        let inbox = Inbox { transactions: waiting_transactions, barriers: waiting_barriers };
        tokio::spawn(session::run(Arc::clone(&shared), inbox));
        Self { handle: Arc::new(Handle { shared, subscribers, transactions, barriers }) }
    }

    /// Its name, such as `OVN_Northbound`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.handle.shared.settings.name
    }

    /// Looks at the replica. None before the first sync. Updates wait for `look`: it takes what it needs (rows are
    /// `Arc`s) and leaves the rest for later.
    pub fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> Option<T> {
        // A writer that panicked may have left half of a transaction; the session is gone then, and no write follows.
        let contents = self.handle.shared.contents.read().unwrap_or_else(PoisonError::into_inner);
        contents.as_ref().map(look)
    }

    /// The schema of the server, of which the replica may hold a part. None before the first session.
    #[must_use]
    pub fn schema(&self) -> Option<Arc<Schema>> {
        self.handle.shared.schema.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> DatabaseStatus {
        let shared = &self.handle.shared;
        let mut status = shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.age = shared
            .current_at
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .map(|millis| shared.opened_at.elapsed().saturating_sub(Duration::from_millis(millis)));
        status
    }

    /// Waits until the replica follows a server.
    pub async fn wait_synced(&self, timeout: Duration) -> Result<(), TransactError> {
        let mut synced = self.handle.shared.synced.subscribe();
        let in_time = tokio::time::timeout(timeout, synced.wait_for(|synced| *synced)).await;
        // The sender lives as long as this handle.
        if matches!(in_time, Ok(Ok(_))) { Ok(()) } else { Err(self.unavailable()) }
    }

    /// Waits until the replica shows everything that was committed, on the server of the session, before this call.
    /// Callers share round trips.
    pub async fn barrier(&self) -> Result<(), TransactError> {
        let (done, wait) = oneshot::channel();
        match self.handle.barriers.try_send(done) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(TransactError::QueueFull { max: BARRIERS_WAITING_MAX });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.unavailable()),
        }
        match wait.await {
            Ok(result) => result.map_err(|reason| TransactError::Unavailable { reason }),
            Err(_) => Err(self.unavailable()),
        }
    }

    /// Runs one transaction of the database: all of it happens or nothing. A future that is dropped leaves open
    /// whether it happens.
    pub async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, TransactError> {
        let begun_at = Instant::now();
        let metrics = &self.handle.shared.metrics;
        let result = self.transact_uncounted(&operations).await;
        match &result {
            Ok(_) => metrics.transactions_committed.increment(),
            Err(TransactError::Rejected(_)) => metrics.transactions_rejected.increment(),
            Err(TransactError::OutcomeUnknown { .. }) => metrics.transactions_unknown.increment(),
            Err(_) => metrics.transactions_unavailable.increment(),
        }
        if matches!(result, Ok(_) | Err(TransactError::Rejected(_))) {
            metrics.transaction_micros.add(u64::try_from(begun_at.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        result
    }

    async fn transact_uncounted(
        &self,
        operations: &[Operation],
    ) -> Result<Vec<OperationResult>, TransactError> {
        let params = transaction::encode(self.name(), operations)?;
        let (ended, wait) = oneshot::channel();
        self.handle.transactions.try_send(Transaction { params, ended }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransactError::QueueFull { max: TRANSACTIONS_WAITING_MAX },
            mpsc::error::TrySendError::Closed(_) => self.unavailable(),
        })?;
        match wait.await {
            Ok(Ended::Answered(answer)) => transaction::decode(&answer, operations.len()),
            Ok(Ended::NotSent(reason)) => Err(TransactError::Unavailable { reason }),
            Ok(Ended::Unanswered(reason)) => Err(TransactError::OutcomeUnknown { reason }),
            // The runtime ends and drops the session with all that it holds.
            Err(_) => Err(TransactError::OutcomeUnknown { reason: "the session was stopped".to_owned() }),
        }
    }

    /// The stream of changes after `since`, or after now.
    #[must_use]
    pub fn subscribe(&self, since: Option<Position>) -> Changes {
        self.handle.subscribers.subscribe(since)
    }

    /// Where the stream of changes is now: number of the set that comes next, and the moment before it. Numbers grow, also
    /// when the stream is reset, and are this handle's own.
    #[must_use]
    pub fn position(&self) -> (u64, Position) {
        self.handle.subscribers.position()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &DatabaseMetrics {
        &self.handle.shared.metrics
    }

    fn unavailable(&self) -> TransactError {
        let status = self.status();
        let reason = status.problem.unwrap_or_else(|| "not in sync yet".to_owned());
        TransactError::Unavailable { reason }
    }
}

impl Transact for Database {
    fn transact(
        &self,
        operations: Vec<Operation>,
    ) -> impl Future<Output = Result<Vec<OperationResult>, TransactError>> + Send {
        Self::transact(self, operations)
    }
}
