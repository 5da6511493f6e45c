//! The HTTP edge: JSON over HTTP/1.1, with one file per resource.
//!
//! A handler is three moves: take extractors, call one service method, map the answer. [`edge`] wraps the
//! whole router once: request id, limit of concurrent requests, panics, problems, counters. [`server`] is the
//! listener under it. The published description ([`openapi`]) is made from the handlers.

pub mod cluster;
pub mod config;
pub mod drain;
pub mod edge;
pub mod elections;
pub mod error;
pub mod events;
pub mod extract;
pub mod health;
mod impatient;
pub mod invalidations;
pub mod kv;
pub mod locks;
pub mod log_level;
pub mod messages;
pub mod metrics;
pub mod network;
pub mod openapi;
pub mod pulse;
pub mod server;
pub mod sessions;
pub mod sse;
pub mod ws;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use ovncp_state::LogIndex;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::value::Secret;
use crate::services::ServiceError;
use crate::services::elections::Elections;
use crate::services::events::Events;
use crate::services::invalidations::Invalidations;
use crate::services::locks::Locks;
use crate::services::membership::Membership;
use crate::services::network::Network;
use crate::services::registers::Registers;
use crate::services::sessions::Sessions;
use crate::telemetry::metrics::SessionMetrics;
use error::{ApiError, Code};
use health::Health;

/// Index of the state that an answer was read from or written at.
pub const INDEX: HeaderName = HeaderName::from_static("x-ovncp-index");

/// What handlers share.
pub struct App {
    /// Name of this node.
    pub node_name: String,
    /// Locks.
    pub locks: Locks,
    /// Registers.
    pub registers: Registers,
    /// Elections.
    pub elections: Elections,
    /// What happens.
    pub events: Events,
    /// Which cached values are no longer true.
    pub invalidations: Invalidations,
    /// Sessions of WebSocket clients.
    pub sessions: Sessions,
    /// What their sockets count.
    pub session_metrics: Arc<SessionMetrics>,
    /// OVN.
    pub network: Network,
    /// Nodes and the leader.
    pub membership: Membership,
    /// Probes.
    pub health: Health,
    /// Token of administrators.
    pub admin_token: Option<Secret>,
    /// Time to send a body.
    pub body_timeout: Duration,
    /// Becomes true when this node begins to stop.
    pub draining: watch::Receiver<bool>,
}

impl App {
    /// A client that waits is told that this node stops, instead of being cut off at the end of it.
    async fn unless_draining<T>(
        &self,
        waits: bool,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ApiError> {
        if !waits {
            return Ok(work.await?);
        }
        let mut draining = self.draining.clone();
        tokio::select! {
            biased;
            done = work => Ok(done?),
            _ = draining.wait_for(|draining| *draining) => {
                Err(ApiError::new(Code::Draining, "this node stops: ask another one"))
            }
        }
    }

    /// What would last longer than this node is begun elsewhere.
    fn refuse_when_draining(&self) -> Result<(), ApiError> {
        if *self.draining.borrow() {
            return Err(ApiError::new(Code::Draining, "this node stops: ask another one"));
        }
        Ok(())
    }
}

/// State of the router.
pub type Shared = Arc<App>;

/// A JSON answer with the index it holds at.
pub struct At<T>(pub LogIndex, pub T);

impl<T: Serialize> IntoResponse for At<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.1).into_response();
        response.headers_mut().insert(INDEX, HeaderValue::from(self.0.0));
        response
    }
}
