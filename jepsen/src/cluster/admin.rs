//! What the harness itself asks a node: who leads, is it ready, how far is it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long one question may take. A node that takes longer is treated as one that does not answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// A node's own view of who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Term in which it is.
    pub term: u64,
    /// Whom it takes for the leader.
    pub leader_id: Option<String>,
    /// Whether it says that it leads itself.
    pub is_leader: bool,
    /// Who answers.
    pub node_id: String,
}

/// Speaks to one node after the other; never to a cluster as a whole.
#[derive(Clone, Debug)]
pub struct Admin {
    client: reqwest::Client,
    token: String,
}

impl Admin {
    pub(super) fn new(token: String) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_PATIENCE).build();
        Self { client: client.expect("no TLS and no proxy: nothing to fail"), token }
    }

    /// Bearer token of administrators.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The body of a successful GET.
    pub async fn get(&self, url: &str, path: &str) -> Option<Value> {
        let answer = self.client.get(format!("{url}{path}")).bearer_auth(&self.token).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// Who leads, as that node knows.
    pub async fn standing(&self, url: &str) -> Option<Standing> {
        let body = self.get(url, "/api/v1/cluster/leader?consistency=local").await?;
        // u64 may arrive as a decimal string.
        let term = body["term"].as_u64().or_else(|| body["term"].as_str()?.parse().ok())?;
        Some(Standing {
            term,
            leader_id: body["leader_id"].as_str().map(str::to_owned),
            is_leader: body["is_leader"].as_bool()?,
            node_id: body["node_id"].as_str()?.to_owned(),
        })
    }

    /// Whether the node answers its readiness probe.
    pub async fn is_ready(&self, url: &str) -> bool {
        let answer = self.client.get(format!("{url}/health/ready")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}
