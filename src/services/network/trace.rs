//! Traces: one supervised `ovn-trace` per node, made when it is first asked for.

use std::sync::Arc;

use ovncp_ovn::database::Database;
use ovncp_ovn::trace::{Freshness, Trace, TraceError, TraceRequest, TraceSettings, TraceTls, Tracer};
use tokio::sync::OnceCell;

use super::{Network, NetworkError};
use crate::config::Config;

/// The tracer and the folder of its sockets, which goes with it.
struct Running {
    tracer: Tracer,
    _folder: tempfile::TempDir,
}

/// What traces need.
pub(super) struct Traces {
    endpoints: String,
    tls: Option<TraceTls>,
    running: OnceCell<Running>,
}

impl Traces {
    pub(super) fn new(config: &Config) -> Self {
        let endpoints: Vec<_> =
            config.ovn.southbound.endpoints.iter().map(|endpoint| endpoint.0.as_str()).collect();
        Self {
            endpoints: endpoints.join(","),
            tls: super::settings::trace_tls(config),
            running: OnceCell::new(),
        }
    }

    async fn tracer(&self) -> Result<&Tracer, NetworkError> {
        let start = async || {
            let folder = tempfile::Builder::new().prefix("ovncp-trace").tempdir();
            let folder = folder.map_err(|error| NetworkError::Unavailable {
                reason: format!("a folder for ovn-trace cannot be made: {error}"),
            })?;
            let settings =
                TraceSettings { tls: self.tls.clone(), ..TraceSettings::new(&self.endpoints, folder.path()) };
            Ok::<_, NetworkError>(Running { tracer: Tracer::new(settings), _folder: folder })
        };
        Ok(&self.running.get_or_try_init(start).await?.tracer)
    }
}

impl Network {
    /// Traces a packet through what the southbound database held before this call.
    pub async fn trace(&self, request: &TraceRequest) -> Result<Trace, NetworkError> {
        let inner = self.inner()?;
        let freshness = match &inner.southbound {
            Some(southbound) => as_of(southbound).await,
            None => self.southbound().map(|_| Freshness::Now)?,
        };
        Ok(inner.traces.tracer().await?.trace(request, freshness).await?)
    }
}

/// The state of the database now; without a server in sync nothing is known, and the trace reads everything again.
async fn as_of(southbound: &Database) -> Freshness {
    if southbound.barrier().await.is_err() || !southbound.status().in_sync {
        return Freshness::Now;
    }
    let (number, position) = southbound.position();
    Freshness::AsOf(Arc::from(format!("{number} {position}")))
}

impl From<TraceError> for NetworkError {
    fn from(error: TraceError) -> Self {
        Self::Trace(Box::new(error))
    }
}
