//! The topology as this node serves it: made once per change, and cached until the next one.

use std::sync::Arc;

use ovncp_ovn::contents::Contents;
use ovncp_ovn::topology::{Graph, Rows};

use super::{Inner, Network, NetworkError, Seen};
use crate::cache::{Cache, CacheOptions, Loaded};
use crate::services::invalidations::Invalidations;
use crate::services::reads::Consistency;

/// What the whole graph is kept under.
const FULL: &str = "topology:full";
/// There is one graph; a second one while it is replaced.
const ENTRIES_MAX: usize = 2;

/// Where graphs are kept.
pub(super) type Graphs = Cache<str, Arc<Graph>>;

/// A cache of graphs that the feed and the invalidation log clear.
pub(super) fn graphs(invalidations: &Invalidations) -> Graphs {
    invalidations.cache(CacheOptions::new("topology").entries_max(ENTRIES_MAX))
}

/// The making of a graph failed: the replica is gone, or the runtime ends.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct NoGraph(String);

impl Network {
    /// How everything hangs together.
    pub async fn topology(&self, consistency: Consistency) -> Result<Seen<Arc<Graph>>, NetworkError> {
        let inner = self.inner()?;
        if consistency == Consistency::Linearizable {
            inner.fresh().await?;
        }
        // Before the cache is asked, so that it is not asked for something older.
        let seen = inner.look(|_, _| ())?;
        let graph = match inner.feed.current().await {
            true => {
                inner.graphs.get_or_load(FULL, || inner.load_graph()).await.map_err(|error| error.to_string())
            }
            false => inner.graph().await.map_err(|error| error.to_string()),
        };
        let graph = graph.map_err(|reason| NetworkError::Unavailable { reason })?;
        Ok(Seen { value: graph, age: seen.age })
    }
}

impl Inner {
    async fn load_graph(&self) -> Result<Loaded<Arc<Graph>>, NoGraph> {
        Ok(Loaded::new(self.graph().await?))
    }

    async fn graph(&self) -> Result<Arc<Graph>, NoGraph> {
        let rows = self
            .look(|contents: &Contents, _| Rows::of(contents))
            .map_err(|error| NoGraph(error.to_string()))?;
        // 100,000 ports take a while: not on a thread that serves others.
        let made = tokio::task::spawn_blocking(move || Arc::new(Graph::of(&rows.value))).await;
        made.map_err(|error| NoGraph(error.to_string()))
    }
}
