//! OVN as a node serves it: reads from the replica, writes that are fenced, keyed and coalesced.
//!
//! A write is planned from the replica and carries in its transaction what the plan relies on, so that what others changed
//! meanwhile refuses it; then it is planned anew. Nothing is decided here that another writer of OVN could not undercut: the
//! database decides.

pub mod feed;
mod fenced;
mod restore;
mod settings;
mod southbound;
mod topology;
mod trace;
pub mod upkeep;
mod write;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ovncp_ovn::barrier::Barrier;
use ovncp_ovn::contents::Contents;
use ovncp_ovn::database::{Database, DatabaseStatus};
use ovncp_ovn::error::TransactError;
use ovncp_ovn::fence::Fence;
use ovncp_ovn::marker::Markers;
use ovncp_ovn::resource::{Catalogue, Refusal};
use ovncp_ovn::schema::Schema;
use ovncp_ovn::trace::TraceError;
use ovncp_ovn::writer::{Writer, WriterSettings};

use super::invalidations::Invalidations;
use super::locks::Locks;
use super::reads::Consistency;
use super::{Core, ServiceError};

use trace::Traces;

pub use feed::{Change, Feed, Told, Watcher};
pub use fenced::FencedBy;
pub use ovncp_ovn::barrier::Reach;
pub use restore::{LOCK_PREFIX, RestoreError, Restored};
pub use write::{Reached, Write, Written};

/// Why the network cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configuration names no servers.
    #[error("no OVN is configured: set OVN_NORTHBOUND_DB (ovn.northbound.endpoints)")]
    NotConfigured,
    /// The replica has never been in sync, or a read that must be fresh finds no server.
    #[error("OVN is out of reach: {reason}")]
    Unavailable {
        /// What keeps it away.
        reason: String,
    },
    /// The request cannot be done; nothing happened.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The database did not take it, or left it open whether it did.
    #[error(transparent)]
    Transact(TransactError),
    /// The fencing token is stale; nothing happened.
    #[error("the fencing token {token} of lock {lock} is stale: {why}")]
    Fenced {
        /// Key of the lock.
        lock: String,
        /// The token that was shown.
        token: u64,
        /// What is known about who holds the lock instead.
        why: String,
    },
    /// The idempotency key was used for another body.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Others changed what the request builds on, every time it was tried.
    #[error("others changed what this request builds on, {attempts} times in a row: try again")]
    Contended {
        /// How often it was planned.
        attempts: usize,
    },
    /// A packet could not be traced.
    #[error(transparent)]
    Trace(Box<TraceError>),
    /// Locks could not be asked.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<Refusal> for NetworkError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<TransactError> for NetworkError {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::Unavailable { reason } => Self::Unavailable { reason },
            other => Self::Transact(other),
        }
    }
}

/// What was read, and how old it may be.
#[derive(Debug)]
pub struct Seen<T> {
    /// It.
    pub value: T,
    /// Time since the replica was last in sync; none while it is.
    pub age: Option<Duration>,
}

struct Inner {
    northbound: Database,
    southbound: Option<Database>,
    writer: Writer,
    /// Not through the writer: a claim is of nobody's company.
    fence: Fence<Database>,
    markers: Markers<Writer>,
    barrier: Barrier,
    core: Core,
    locks: Locks,
    traces: Traces,
    feed: Feed,
    graphs: topology::Graphs,
    /// Of the schema that it was made from.
    catalogue: Mutex<Option<(Arc<Schema>, Arc<Catalogue>)>>,
}

/// OVN behind this node. Cheap to clone; without endpoints every call answers [`NetworkError::NotConfigured`].
#[derive(Clone)]
pub struct Network(Option<Arc<Inner>>);

impl Network {
    /// Without servers.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// With the databases of the configuration, if it names any. They connect in the background.
    #[must_use]
    pub fn open(config: &crate::config::Config, core: Core, locks: Locks, caches: &Invalidations) -> Self {
        let Some(northbound) = settings::northbound(config) else { return Self::none() };
        let northbound = Database::open(northbound);
        let southbound = settings::southbound(config).map(Database::open);
        let writer = Writer::new(northbound.clone(), WriterSettings::default());
        Self(Some(Arc::new(Inner {
            fence: Fence::new(northbound.clone()),
            markers: Markers::new(writer.clone()),
            barrier: Barrier::new(northbound.clone()),
            feed: Feed::new(northbound.clone(), caches.clone(), config.server.connections_max),
            graphs: topology::graphs(caches),
            writer,
            northbound,
            southbound,
            core,
            locks,
            traces: Traces::new(config),
            catalogue: Mutex::default(),
        })))
    }

    /// Whether servers are configured.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.0.is_some()
    }

    /// The northbound database.
    pub fn northbound(&self) -> Result<&Database, NetworkError> {
        Ok(&self.inner()?.northbound)
    }

    /// The southbound database.
    pub fn southbound(&self) -> Result<&Database, NetworkError> {
        let southbound = self.inner()?.southbound.as_ref();
        southbound.ok_or_else(|| NetworkError::Unavailable {
            reason: "no southbound database is configured: set OVN_SOUTHBOUND_DB (ovn.southbound.endpoints)"
                .to_owned(),
        })
    }

    /// The databases that are configured, by name.
    #[must_use]
    pub fn databases(&self) -> Vec<(&'static str, &Database)> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let southbound = inner.southbound.as_ref().map(|database| ("southbound", database));
        [("northbound", &inner.northbound)].into_iter().chain(southbound).collect()
    }

    /// Every change of the northbound database.
    pub fn feed(&self) -> Result<&Feed, NetworkError> {
        Ok(&self.inner()?.feed)
    }

    /// What all writes go through.
    pub fn writer(&self) -> Result<&Writer, NetworkError> {
        Ok(&self.inner()?.writer)
    }

    fn markers(&self) -> Result<&Markers<Writer>, NetworkError> {
        Ok(&self.inner()?.markers)
    }

    /// How the databases are doing: northbound, southbound.
    #[must_use]
    pub fn status(&self) -> Vec<(&'static str, DatabaseStatus)> {
        self.databases().into_iter().map(|(name, database)| (name, database.status())).collect()
    }

    /// Looks at the northbound replica, once it is as fresh as asked. `look` keeps updates waiting: sort and filter later.
    pub async fn read<T>(
        &self,
        consistency: Consistency,
        look: impl FnOnce(&Contents, &Arc<Catalogue>) -> T,
    ) -> Result<Seen<T>, NetworkError> {
        let inner = self.inner()?;
        if consistency == Consistency::Linearizable {
            inner.fresh().await?;
        }
        inner.look(look)
    }

    fn inner(&self) -> Result<&Arc<Inner>, NetworkError> {
        self.0.as_ref().ok_or(NetworkError::NotConfigured)
    }
}

impl Inner {
    /// The replica shows what was committed before this call, or OVN is away.
    async fn fresh(&self) -> Result<(), NetworkError> {
        self.pass(&self.northbound).await
    }

    async fn pass(&self, database: &Database) -> Result<(), NetworkError> {
        let patience = self.core.patience.read;
        match tokio::time::timeout(patience, database.barrier()).await {
            Ok(passed) => Ok(passed?),
            Err(_) => Err(NetworkError::Unavailable {
                reason: format!("its server did not answer within {} ms", patience.as_millis()),
            }),
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Contents, &Arc<Catalogue>) -> T) -> Result<Seen<T>, NetworkError> {
        let status = self.northbound.status();
        let value = self.northbound.read(|contents| look(contents, &self.catalogue(contents.schema())));
        let Some(value) = value else {
            let reason = status.problem.unwrap_or_else(|| "its contents are still being read".to_owned());
            return Err(NetworkError::Unavailable { reason });
        };
        Ok(Seen { value, age: if status.in_sync { None } else { status.age } })
    }

    /// What the servers have; made anew when they come back with another schema.
    fn catalogue(&self, schema: &Arc<Schema>) -> Arc<Catalogue> {
        // Nothing panics while it is held.
        let mut kept = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, catalogue)) = &*kept
            && Arc::ptr_eq(of, schema)
        {
            return Arc::clone(catalogue);
        }
        let catalogue = Arc::new(Catalogue::new(schema));
        *kept = Some((Arc::clone(schema), Arc::clone(&catalogue)));
        catalogue
    }
}
