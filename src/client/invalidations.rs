//! The invalidation log: append to it, and follow it without a gap.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::locks::number;
use super::{Call, Client, Consistency, Error, millis};

const INVALIDATIONS: [&str; 4] = ["api", "v1", "cluster", "invalidations"];
/// How long one look of a follower waits for the next entry.
const LOOK_TIME: Duration = Duration::from_secs(20);
/// Entries of one look.
const LOOK_ENTRIES_MAX: usize = 1_000;

/// An invalidation being put together: [`Client::invalidate`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `send`"]
pub struct InvalidateRequest {
    client: Client,
    patterns: Vec<String>,
    tags: Vec<String>,
    wait: Cleared,
    timeout: Duration,
}

/// Who must have cleared its caches before an invalidation is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleared {
    /// The node that answers.
    #[default]
    Here,
    /// A majority of the voters.
    Quorum,
    /// Every member that has not been inactive for a while.
    All,
}

/// An entry that is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Invalidated {
    /// Restore epoch.
    pub epoch: u16,
    /// Its place in the log of this epoch.
    #[serde(deserialize_with = "number")]
    pub offset: u64,
    /// Whether those who were waited for have cleared it. If not, they will.
    pub complete: bool,
    /// Nodes that have cleared it.
    pub applied_by: Vec<String>,
    /// Nodes that have not yet.
    pub missing: Vec<String>,
}

/// A page of the log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InvalidationPage {
    /// In order, without a gap.
    pub invalidations: Vec<Invalidation>,
    /// Where the next page begins.
    pub next_since: String,
    /// The first entry that is kept.
    pub first: String,
    /// Where the next entry goes.
    pub next: String,
    /// How far each member has cleared its caches.
    pub nodes: Vec<InvalidationProgress>,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Invalidation {
    /// Restore epoch.
    pub epoch: u16,
    /// Dense within the epoch, the same on every node.
    #[serde(deserialize_with = "number")]
    pub offset: u64,
    /// When, in milliseconds of cluster time.
    pub cluster_ms: u64,
    /// As asked for.
    pub patterns: Vec<String>,
    /// As asked for.
    pub tags: Vec<String>,
    /// The node where it was asked for.
    pub origin: String,
}

/// How far one member is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct InvalidationProgress {
    /// Its name.
    pub node_id: String,
    /// Everything before this offset is cleared there.
    #[serde(deserialize_with = "number")]
    pub cleared: u64,
    /// Entries behind.
    pub lag: u64,
}

/// Follows the log: [`Client::follow_invalidations`].
#[derive(Clone, Debug)]
pub struct Follower {
    client: Client,
    since: Option<String>,
}

/// What a follower learns next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Entries in order, right behind those before; none when nothing came for a while.
    Entries(Vec<Invalidation>),
    /// Entries were lost, or this is another epoch: forget whatever is kept. It goes on with `first`.
    Reset {
        /// The first entry that comes next, as `epoch:offset`.
        first: String,
    },
}

impl Client {
    /// Begins an invalidation. A pattern is a key, `prefix*`, or a glob: `*` is any run of characters, `?` one, and `\`
    /// quotes the next.
    ///
    /// Write to the database first: who loads after the invalidation must find the new value there.
    pub fn invalidate<T: Into<String>>(&self, patterns: impl IntoIterator<Item = T>) -> InvalidateRequest {
        InvalidateRequest {
            client: self.clone(),
            patterns: patterns.into_iter().map(Into::into).collect(),
            tags: Vec::new(),
            wait: Cleared::Here,
            timeout: Duration::from_secs(5),
        }
    }

    /// Follows the log from a position on (`next` of a page, or where an earlier follower was), or from now on.
    #[must_use]
    pub fn follow_invalidations(&self, since: Option<String>) -> Follower {
        Follower { client: self.clone(), since }
    }

    /// At most `limit` entries (up to 1,000) from `since` on, or the oldest that are kept; without any it waits for one.
    pub async fn invalidations(
        &self,
        since: Option<&str>,
        limit: usize,
        wait: Duration,
        consistency: Consistency,
    ) -> Result<InvalidationPage, Error> {
        let mut call = Call::get(INVALIDATIONS).query("limit", limit.to_string()).consistency(consistency);
        if let Some(since) = since {
            call = call.query("since", since);
        }
        if !wait.is_zero() {
            call = call.query("wait_ms", millis(wait).to_string()).waits(wait);
        }
        self.json(&call).await
    }
}

impl InvalidateRequest {
    /// Also what carries this tag.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Waits for others, for at most this long. A time-out is no error: see [`Invalidated::complete`].
    pub fn wait(mut self, wait: Cleared, timeout: Duration) -> Self {
        (self.wait, self.timeout) = (wait, timeout);
        self
    }

    /// Appends it. When this returns, the node that answered has cleared its caches.
    pub async fn send(self) -> Result<Invalidated, Error> {
        let wait = match self.wait {
            Cleared::Here => "none",
            Cleared::Quorum => "quorum",
            Cleared::All => "all",
        };
        let body = json!({
            "patterns": self.patterns,
            "tags": self.tags,
            "wait": wait,
            "timeout_ms": millis(self.timeout),
        });
        let call = Call::post(INVALIDATIONS).json(&body);
        let call = if self.wait == Cleared::Here { call } else { call.waits(self.timeout) };
        self.client.json(&call).await
    }
}

impl Follower {
    /// Where the next entry comes from, to go on there later; unknown before the first [`next`](Self::next).
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// Waits for what comes next, on whatever endpoint answers, for about 20 s. Cancel-safe: what was not returned
    /// comes again. After an error it may be called again.
    pub async fn next(&mut self) -> Result<Followed, Error> {
        let since = match &self.since {
            Some(since) => since.clone(),
            None => self.end().await?,
        };
        // Offsets are the same everywhere, so any node's copy will do: it lags, at worst.
        let look = self.client.invalidations(Some(&since), LOOK_ENTRIES_MAX, LOOK_TIME, Consistency::Local);
        match look.await {
            Ok(page) => {
                self.since = Some(page.next_since);
                Ok(Followed::Entries(page.invalidations))
            }
            Err(Error::Refused(problem)) if problem.code == "reset" => {
                let first = problem.fields.get("first").and_then(Value::as_str).map(str::to_owned);
                let first =
                    first.ok_or_else(|| Error::Protocol("a reset without a first entry".to_owned()))?;
                self.since = Some(first.clone());
                Ok(Followed::Reset { first })
            }
            Err(error) => Err(error),
        }
    }

    async fn end(&mut self) -> Result<String, Error> {
        let page = self.client.invalidations(None, 1, Duration::ZERO, Consistency::Linearizable).await?;
        self.since = Some(page.next.clone());
        Ok(page.next)
    }
}
