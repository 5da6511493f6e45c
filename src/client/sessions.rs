//! Sessions as operators see them, and emptying a node of its sessions.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::locks::number;
use super::{Call, Client, Cluster, Consistency, Error, Page};

const SESSIONS: [&str; 4] = ["api", "v1", "cluster", "sessions"];

/// The sessions of a cluster: [`Client::sessions`].
#[derive(Clone, Debug)]
pub struct Sessions {
    client: Client,
    consistency: Consistency,
}

/// Which sessions are listed.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Of this user only.
    pub user: Option<String>,
    /// On this node only.
    pub node: Option<String>,
}

/// A session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionView {
    /// Its number: public, and the same for as long as it lives.
    #[serde(deserialize_with = "number")]
    pub session: u64,
    /// Its secret id; shown to administrators, and to who names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Beginning of the hash of its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_hash: Option<String>,
    /// Whose.
    pub user_id: String,
    /// Where its socket is, was last, or where it was placed.
    pub node_id: String,
    /// `attached`, `detached`, `placed` or `migrating`.
    pub status: String,
    /// Counts its sockets.
    pub epoch: u64,
    /// When it was registered, in UTC.
    pub created_at: String,
    /// Last activity, within 30 s, in UTC.
    pub last_activity: String,
    /// When it ends unless somebody comes back, in UTC; absent while it has a socket.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// How long it outlives its socket.
    pub ttl_ms: u64,
    /// Everything before this offset was delivered.
    #[serde(deserialize_with = "number")]
    pub position: u64,
    /// Channels it listens to.
    #[serde(default)]
    pub channels: Vec<String>,
    /// What its client said of itself.
    #[serde(default)]
    pub metadata: Value,
}

#[derive(Deserialize)]
struct SessionsPage {
    sessions: Vec<SessionView>,
    next_cursor: Option<String>,
}

/// A node that is being emptied.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DrainView {
    /// Its name.
    pub node_id: String,
    /// Sessions that it had when the drain began.
    pub total: u64,
    /// Those that are left.
    pub left: u64,
    /// Those that are gone.
    pub moved: u64,
    /// Sessions per second that are asked to go.
    pub rate_per_s: u32,
    /// When it began, in UTC.
    #[serde(default)]
    pub since: Option<String>,
    /// How long the rest will take at this rate.
    #[serde(default)]
    pub eta_ms: Option<u64>,
    /// Whether the node has no sessions any more.
    pub done: bool,
}

impl Client {
    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions { client: self.clone(), consistency: Consistency::Linearizable }
    }
}

fn path<'a>(rest: &[&'a str]) -> impl Iterator<Item = &'a str> {
    SESSIONS.into_iter().chain(rest.to_vec())
}

/// A session is named by its secret id, or by administrators by its number.
impl Sessions {
    /// Reads as fresh as this.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// One page: at most `limit` (up to 1,000), from `cursor` on.
    pub async fn list(
        &self,
        filter: &SessionFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<SessionView>, Error> {
        let mut call = Call::get(path(&[])).consistency(self.consistency).query("limit", limit.to_string());
        for (name, value) in
            [("user", filter.user.as_deref()), ("node", filter.node.as_deref()), ("cursor", cursor)]
        {
            if let Some(value) = value {
                call = call.query(name, value);
            }
        }
        let page: SessionsPage = self.client.json(&call).await?;
        Ok(Page { items: page.sessions, next_cursor: page.next_cursor })
    }

    /// One session; absent when there is none.
    pub async fn get(&self, id: &str) -> Result<Option<SessionView>, Error> {
        match self.client.json(&Call::get(path(&[id])).consistency(self.consistency)).await {
            Ok(session) => Ok(Some(session)),
            Err(Error::NotFound(problem)) if problem.code == "unknown_session" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a session and releases the locks that are bound to it; answers whether there was one.
    pub async fn end(&self, id: &str) -> Result<bool, Error> {
        match self.client.call(&Call::delete(path(&[id]))).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(problem)) if problem.code == "unknown_session" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the client of a session to go to another node. It is there when its `node_id` says so.
    pub async fn migrate(&self, id: &str, target: &str) -> Result<(), Error> {
        let call = Call::post(path(&[id, "migrate"])).json(&json!({"target_node_id": target}));
        self.client.call(&call).await.map(drop)
    }

    /// Gives a session another id, which is answered. The old one works for a while.
    pub async fn rotate(&self, id: &str) -> Result<String, Error> {
        let answer: Value = self.client.json(&Call::post(path(&[id, "rotate"]))).await?;
        let next = answer["session_id"].as_str().map(str::to_owned);
        next.ok_or_else(|| Error::Protocol("the answer names no session".to_owned()))
    }
}

impl Cluster {
    /// Empties a node of its sessions, so many per second; asked again, it changes the rate. For administrators.
    pub async fn drain(&self, node: &str, rate_per_s: Option<u32>) -> Result<DrainView, Error> {
        let body = rate_per_s.map_or_else(|| json!({}), |rate| json!({"rate_per_s": rate}));
        self.client.json(&Call::post(Self::node_path(node, "drain")).json(&body)).await
    }

    /// How far the drain of a node is; absent when it is not being emptied.
    pub async fn drain_progress(&self, node: &str) -> Result<Option<DrainView>, Error> {
        match self.client.json(&Call::get(Self::node_path(node, "drain"))).await {
            Ok(drain) => Ok(Some(drain)),
            Err(Error::NotFound(problem)) if problem.code != "unknown_node" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets a drained node take sessions again. For administrators.
    pub async fn resume(&self, node: &str) -> Result<(), Error> {
        self.client.call(&Call::post(Self::node_path(node, "resume"))).await.map(drop)
    }
}
