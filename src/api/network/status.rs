//! How OVN is doing, as this node sees it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use ovncp_ovn::database::DatabaseStatus;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::Shared;

/// OVN behind the answering node.
#[derive(Debug, Serialize, ToSchema)]
pub struct OvnStatus {
    /// Whether servers are configured.
    pub configured: bool,
    /// `northbound` and, where configured, `southbound`.
    pub databases: BTreeMap<&'static str, DatabaseReport>,
}

/// One database.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatabaseReport {
    /// Whether a server is connected.
    pub connected: bool,
    /// Whether the replica of this node follows it.
    pub in_sync: bool,
    /// Whether that server leads; a standalone one always does.
    pub leader: bool,
    /// Whether a cluster serves it.
    pub clustered: bool,
    /// The server.
    pub endpoint: Option<String>,
    /// Version of its schema.
    pub schema_version: Option<String>,
    /// Milliseconds since the replica was known to be current.
    pub age_ms: Option<u64>,
    /// Why there is no session in sync.
    pub problem: Option<String>,
}

impl DatabaseReport {
    fn new(status: DatabaseStatus) -> Self {
        Self {
            connected: status.connected,
            in_sync: status.in_sync,
            leader: status.leader,
            clustered: status.clustered,
            endpoint: status.endpoint.map(|endpoint| endpoint.to_string()),
            schema_version: status.schema_version,
            age_ms: status.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            problem: status.problem,
        }
    }
}

/// Shows how the databases of OVN are doing, as this node sees them.
#[utoipa::path(get, path = "/api/v1/ovn", tag = "network", operation_id = "get_ovn",
    responses((status = 200, body = OvnStatus, description = "How they are doing.")))]
pub(super) async fn status(State(app): State<Shared>) -> Json<OvnStatus> {
    let databases = app.network.status().into_iter();
    let databases = databases.map(|(name, status)| (name, DatabaseReport::new(status))).collect();
    Json(OvnStatus { configured: app.network.is_configured(), databases })
}
