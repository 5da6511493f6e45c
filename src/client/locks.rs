//! Locks: acquire, renew, release, look at.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::guard::Guard;
use super::lease::Lease;
use super::{Call, Client, Consistency, Error, Page, millis, random_id};

/// The server lets nobody wait longer in one request: proxies in front cut a silent request at 50 s.
const WAIT_CHUNK_MAX: Duration = Duration::from_secs(40);
/// Between two requests of one wait, when the first ended before its time.
const CHUNK_PAUSE: Duration = Duration::from_millis(100);
/// Lease when none is asked for.
const TTL_DEFAULT: Duration = Duration::from_secs(30);

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

/// A lease that was extended.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    /// The lease now.
    pub lease: Lease,
    /// Token of the grant, unchanged.
    pub fencing_token: u64,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    keys: Option<Vec<String>>,
    #[serde(deserialize_with = "number")]
    fencing_token: u64,
    ttl_ms: u64,
}

#[derive(Deserialize)]
struct RenewedLease {
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

fn path<'a>(key: &'a str, verb: &'a str) -> impl Iterator<Item = &'a str> {
    LOCKS.into_iter().chain([key, verb])
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
        self.renew_with(lock, lock.lease.ttl(), |call| call).await
    }

    pub(super) async fn renew_with(
        &self,
        lock: &Lock,
        ttl: Duration,
        adjust: impl FnOnce(Call) -> Call,
    ) -> Result<Renewed, Error> {
        let body = json!({"secret": lock.secret, "ttl_ms": millis(ttl)});
        let call = Call::post(path(&lock.key, "renew")).without_idempotency_key().json(&body);
        let answer = self.call(&adjust(call)).await?;
        let renewed: RenewedLease = answer.json()?;
        let lease = Lease::new(answer.sent, Duration::from_millis(renewed.ttl_ms));
        Ok(Renewed { lease, fencing_token: renewed.fencing_token })
    }

    /// Gives a lock back; a grant over several keys whole.
    pub async fn release(&self, lock: &Lock) -> Result<(), Error> {
        self.call(&release_call(lock)).await.map(drop)
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
        let tokens = answer["fencing_tokens"].as_array().into_iter().flatten();
        let tokens = tokens.map(|token| token.as_str()?.parse().ok()).collect::<Option<_>>();
        tokens.ok_or_else(|| Error::Protocol("a token is not a number in a string".to_owned()))
    }
}

pub(super) fn release_call(lock: &Lock) -> Call {
    Call::post(path(&lock.key, "release")).json(&json!({"secret": lock.secret}))
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
        let begun = Instant::now();
        let secret = self.secret.clone().unwrap_or_else(random_id);
        loop {
            let chunk = self.wait.saturating_sub(begun.elapsed()).min(WAIT_CHUNK_MAX);
            // Before the first try of this request: the grant may be that one's.
            let sent = Instant::now();
            let refused = match self.client.json::<Granted>(&self.call(&secret, chunk)).await {
                Ok(granted) => return Ok(self.granted(granted, secret, sent, begun)),
                Err(error) => error,
            };
            let again = match &refused {
                // Granted to an earlier try and gone before we heard of it: as good as not granted.
                Error::LockTimeout { .. } | Error::LockHeld { .. } | Error::LockLost(_) => true,
                // The node through which it waited was given up.
                Error::Refused(problem) => problem.code == "wait_cancelled",
                _ => false,
            };
            if !again || begun.elapsed() >= self.wait {
                return Err(refused);
            }
            if sent.elapsed() < chunk {
                tokio::time::sleep(CHUNK_PAUSE).await;
            }
        }
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
            [key] => Call::post(path(key, "acquire")),
            keys => {
                body["keys"] = keys.into();
                Call::post(LOCKS.into_iter().chain(["acquire"]))
            }
        };
        call.json(&body).waits(wait)
    }

    fn granted(self, granted: Granted, secret: String, sent: Instant, begun: Instant) -> Lock {
        let mut keys = granted.keys.unwrap_or(self.keys);
        let key = granted.key.or_else(|| keys.first().cloned()).unwrap_or_default();
        if keys.is_empty() {
            keys.push(key.clone());
        }
        Lock {
            key,
            keys,
            mode: self.mode,
            owner: self.owner,
            secret,
            fencing_token: granted.fencing_token,
            lease: Lease::new(sent, Duration::from_millis(granted.ttl_ms)),
            waited: begun.elapsed(),
        }
    }
}
