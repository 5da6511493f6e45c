//! Locks: acquire, renew, release, look at.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::guard::Guard;
use super::lease::Lease;
use super::tenure::{Granted, Renewed, Tenure};
use super::{Call, Client, Consistency, Error, Page, millis, random_id};

/// Lease when none is asked for.
pub(super) const TTL_DEFAULT: Duration = Duration::from_secs(30);

const LOCKS: [&str; 4] = ["api", "v1", "cluster", "locks"];

/// Whether a lock may have several holders at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One holder.
    #[default]
    Exclusive,
    /// Any number of shared holders, no exclusive one.
    Shared,
}

/// A lock request being put together: [`Client::lock`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `acquire` or `guard`"]
pub struct LockRequest {
    client: Client,
    keys: Vec<String>,
    owner: String,
    mode: Mode,
    ttl: Duration,
    wait: Duration,
    secret: Option<String>,
    max_hold: Option<Duration>,
    metadata: Option<Value>,
}

/// A lock that was granted. Nobody renews it: [`LockRequest::guard`] does.
#[derive(Clone, Debug)]
pub struct Lock {
    /// Its key; of several, the first in order.
    pub key: String,
    /// Every key of the grant.
    pub keys: Vec<String>,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Who holds it.
    pub owner: String,
    /// Proof of holding.
    pub secret: String,
    /// Higher than that of every earlier grant: pass it to what the lock protects.
    pub fencing_token: u64,
    /// What this process knows of the lease.
    pub lease: Lease,
    /// How long it was waited for, as this process saw it.
    pub waited: Duration,
}

#[derive(Deserialize)]
struct GrantedLock {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    keys: Option<Vec<String>>,
    #[serde(deserialize_with = "number")]
    fencing_token: u64,
    ttl_ms: u64,
}

/// A lock with its holders and its queue, as everybody may see it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LockView {
    /// Its key.
    pub key: String,
    /// One exclusive, or any number of shared ones, in the order of their tokens.
    pub holders: Vec<HolderView>,
    /// The first of those that wait, in order.
    pub queue: Vec<WaiterView>,
    /// How many wait.
    pub queue_length: u64,
}

/// A holder.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HolderView {
    /// Who.
    pub owner: String,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Token of the grant.
    #[serde(deserialize_with = "number")]
    pub fencing_token: u64,
    /// Every key of the grant.
    #[serde(default)]
    pub keys: Vec<String>,
    /// As given at acquire.
    #[serde(default)]
    pub metadata: Option<Value>,
    /// When it was granted, in UTC.
    pub since: String,
    /// When its lease ends, in UTC.
    pub expires: String,
    /// How long it is held.
    pub held_ms: u64,
    /// What remains of the lease.
    pub ttl_ms: u64,
}

/// A waiter.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WaiterView {
    /// 0 is next.
    pub position: u64,
    /// Who.
    pub owner: String,
    /// Exclusive or shared.
    pub mode: Mode,
    /// The node whose client waits.
    pub node_id: String,
    /// When it began, in UTC.
    pub since: String,
    /// How long it waits.
    pub waiting_ms: u64,
}

#[derive(Deserialize)]
struct LockPage {
    locks: Vec<LockView>,
    next_cursor: Option<String>,
}

/// u64 values travel as decimal strings, since JSON numbers lose digits in many languages.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Lock {
    /// What proves it and keeps it, when so much TTL was asked for.
    pub(super) fn tenure(&self, ttl: Duration) -> Tenure {
        let path = LOCKS.into_iter().chain([self.key.as_str()]).map(str::to_owned).collect();
        Tenure { path, give_back: "release", secret: self.secret.clone(), ttl }
    }
}

impl Client {
    /// Begins a request for one lock.
    pub fn lock(&self, key: impl Into<String>) -> LockRequest {
        self.lock_all([key])
    }

    /// Begins a request for several locks, all or none. They are one grant with one token: renewed, released
    /// and lost together.
    pub fn lock_all<T: Into<String>>(&self, keys: impl IntoIterator<Item = T>) -> LockRequest {
        LockRequest {
            client: self.clone(),
            keys: keys.into_iter().map(Into::into).collect(),
            owner: self.inner.owner.clone(),
            mode: Mode::Exclusive,
            ttl: TTL_DEFAULT,
            wait: Duration::ZERO,
            secret: None,
            max_hold: None,
            metadata: None,
        }
    }

    /// Extends a lease to its whole TTL. It may be repeated as it is and carries no idempotency key: a repeated
    /// renewal shall renew again, not repeat an old answer.
    pub async fn renew(&self, lock: &Lock) -> Result<Renewed, Error> {
        self.extend(&lock.tenure(lock.lease.ttl()).renew_call()).await
    }

    /// Gives a lock back; a grant over several keys whole.
    pub async fn release(&self, lock: &Lock) -> Result<(), Error> {
        self.call(&lock.tenure(lock.lease.ttl()).give_back_call()).await.map(drop)
    }

    /// Shows a lock that is held or waited for; absent when it is free.
    pub async fn inspect(&self, key: &str) -> Result<Option<LockView>, Error> {
        self.inspect_with(key, Consistency::Linearizable).await
    }

    /// As [`inspect`](Self::inspect), with the freshness that is asked for.
    pub async fn inspect_with(&self, key: &str, consistency: Consistency) -> Result<Option<LockView>, Error> {
        let call = Call::get(LOCKS.into_iter().chain([key])).consistency(consistency);
        match self.json(&call).await {
            Ok(view) => Ok(Some(view)),
            Err(Error::NotFound(problem)) if problem.code == "unknown_lock" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of the locks whose keys begin with `prefix`: at most `limit` (up to 1,000), from `cursor` on.
    pub async fn locks(
        &self,
        prefix: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<LockView>, Error> {
        let mut call = Call::get(LOCKS).query("prefix", prefix).query("limit", limit.to_string());
        if let Some(cursor) = cursor {
            call = call.query("cursor", cursor);
        }
        let page: LockPage = self.json(&call).await?;
        Ok(Page { items: page.locks, next_cursor: page.next_cursor })
    }

    /// Ends every grant on a key, or only the one with `fencing_token`. For administrators. Answers the tokens
    /// of the grants that were ended.
    pub async fn force_release(
        &self,
        key: &str,
        reason: &str,
        fencing_token: Option<u64>,
    ) -> Result<Vec<u64>, Error> {
        let mut body = json!({"reason": reason});
        if let Some(token) = fencing_token {
            body["fencing_token"] = token.to_string().into();
        }
        let answer: Value = self.json(&Call::delete(LOCKS.into_iter().chain([key])).json(&body)).await?;
        ended_tokens(&answer)
    }
}

/// The tokens of what an administrator ended.
pub(super) fn ended_tokens(answer: &Value) -> Result<Vec<u64>, Error> {
    let tokens = answer["fencing_tokens"].as_array().into_iter().flatten();
    let tokens = tokens.map(|token| token.as_str()?.parse().ok()).collect::<Option<_>>();
    tokens.ok_or_else(|| Error::Protocol("a token is not a number in a string".to_owned()))
}

impl LockRequest {
    /// Who asks, for people.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Shares the lock with other shared holders.
    pub fn shared(self) -> Self {
        self.mode(Mode::Shared)
    }

    /// Exclusive or shared.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How long the lock outlives a holder that is gone; 500 ms to 24 h, 30 s when left out.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait in the queue; not at all when left out. Beyond 40 s the request begins anew, at the end
    /// of the queue: that is the longest time that one request may be silent.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Proof of holding, 16 to 256 bytes; random when left out.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// Time from the grant that renewal cannot pass.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// Any JSON, at most 4,096 bytes, for those who look at the lock.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Acquires, waiting as long as [`wait`](Self::wait) says. Nothing renews the lock afterwards.
    ///
    /// Dropped before it is done, it leaves the queue: the server takes a request whose client is gone out of
    /// it, after the 10 s that it leaves to retries.
    pub async fn acquire(self) -> Result<Lock, Error> {
        let secret = self.secret.clone().unwrap_or_else(random_id);
        let granted = self.client.wait_for(self.wait, |wait| self.call(&secret, wait)).await?;
        Ok(self.granted(granted, secret))
    }

    /// Acquires, and keeps the lock until the guard is released or dropped.
    pub async fn guard(self) -> Result<Guard, Error> {
        let client = self.client.clone();
        let ttl = self.ttl;
        let lock = self.acquire().await?;
        Guard::begin(client, lock, ttl).await
    }

    fn call(&self, secret: &str, wait: Duration) -> Call {
        let mut body = json!({
            "owner": self.owner,
            "mode": self.mode,
            "ttl_ms": millis(self.ttl),
            "wait_ms": millis(wait),
            "secret": secret,
        });
        if let Some(max_hold) = self.max_hold {
            body["max_hold_ms"] = millis(max_hold).into();
        }
        if let Some(metadata) = &self.metadata {
            body["metadata"] = metadata.clone();
        }
        let call = match self.keys.as_slice() {
            [key] => Call::post(LOCKS.into_iter().chain([key.as_str(), "acquire"])),
            keys => {
                body["keys"] = keys.into();
                Call::post(LOCKS.into_iter().chain(["acquire"]))
            }
        };
        call.json(&body)
    }

    fn granted(self, granted: Granted<GrantedLock>, secret: String) -> Lock {
        let Granted { answer, sent, waited } = granted;
        let mut keys = answer.keys.unwrap_or(self.keys);
        let key = answer.key.or_else(|| keys.first().cloned()).unwrap_or_default();
        if keys.is_empty() {
            keys.push(key.clone());
        }
        Lock {
            key,
            keys,
            mode: self.mode,
            owner: self.owner,
            secret,
            fencing_token: answer.fencing_token,
            lease: Lease::new(sent, Duration::from_millis(answer.ttl_ms)),
            waited,
        }
    }
}
