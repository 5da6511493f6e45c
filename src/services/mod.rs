//! What ovncp does, in domain words: between the edges and the group.
//!
//! A service takes checked values, proposes at most one command per request and answers with views of the
//! state. It knows neither HTTP nor status codes; those belong to [`crate::api`].

pub mod elections;
pub mod error;
pub mod events;
pub mod idempotency;
pub mod invalidations;
pub mod leader_task;
pub mod locks;
pub mod membership;
pub mod network;
pub mod reads;
pub mod registers;
pub mod report;
pub mod secret;
pub mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ovncp_raft::group::{Committed, Group};
use ovncp_state::{Command, NodeId, Request, RequestKey};

pub use error::ServiceError;

/// How long services wait for the group.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a write to be applied here.
    pub propose: Duration,
    /// For a read to be confirmed.
    pub read: Duration,
}

/// What every service stands on.
#[derive(Clone)]
pub struct Core {
    /// This node's part in the group.
    pub group: Group,
    /// How long to wait for it.
    pub patience: Patience,
    /// The Raft id once it is known, else 0: it is asked for by every lock request and never changes.
    node_id: Arc<AtomicU64>,
}

impl Core {
    /// Services on top of a started group.
    #[must_use]
    pub fn new(group: Group, patience: Patience) -> Self {
        Self { group, patience, node_id: Arc::default() }
    }

    /// This node's Raft id.
    pub fn node_id(&self) -> Result<NodeId, ServiceError> {
        match self.node_id.load(Ordering::Relaxed) {
            0 => {
                let id = self.group.identity().node_id.ok_or(ServiceError::NotMember)?;
                self.node_id.store(id.0, Ordering::Relaxed);
                Ok(id)
            }
            id => Ok(NodeId(id)),
        }
    }

    async fn propose(
        &self,
        idempotency: Option<RequestKey>,
        command: Command,
    ) -> Result<Committed, ServiceError> {
        Ok(self.group.propose(Request { idempotency, command }, self.patience.propose).await?)
    }
}
