//! What is held and how it is shown to be: a lock or a term of office, its secret, where it is renewed and given back.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::lease::Lease;
use super::locks::number;
use super::{Call, Client, Error, millis};

/// The server lets nobody wait longer in one request: proxies in front cut a silent request at 50 s.
const WAIT_CHUNK_MAX: Duration = Duration::from_secs(40);
/// Between two requests of one wait, when the first ended before its time.
const CHUNK_PAUSE: Duration = Duration::from_millis(100);

/// A lock or a term of office that was granted.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    /// Path of the lock or the election.
    pub(super) path: Vec<String>,
    /// Last segment of the path that ends it.
    pub(super) give_back: &'static str,
    /// Proof of holding.
    pub(super) secret: String,
    /// What was asked for: the grant may have been given less of it.
    pub(super) ttl: Duration,
}

/// A lease that was extended.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    /// The lease now.
    pub lease: Lease,
    /// Token of the grant, unchanged.
    pub fencing_token: u64,
}

/// What was granted after a wait.
pub(super) struct Granted<T> {
    pub(super) answer: T,
    /// Before the first try of the request that was answered: the grant may be that one's.
    pub(super) sent: Instant,
    /// How long it was waited for.
    pub(super) waited: Duration,
}

#[derive(Deserialize)]
struct RenewedLease {
    #[serde(deserialize_with = "number")]
    fencing_token: u64,
    ttl_ms: u64,
}

impl Tenure {
    fn call(&self, verb: &str) -> Call {
        Call::post(self.path.iter().map(String::as_str).chain([verb]))
    }

    /// It may be repeated as it is and carries no idempotency key: a repeated renewal shall renew again, not repeat
    /// an old answer.
    pub(super) fn renew_call(&self) -> Call {
        let body = json!({"secret": self.secret, "ttl_ms": millis(self.ttl)});
        self.call("renew").without_idempotency_key().json(&body)
    }

    pub(super) fn give_back_call(&self) -> Call {
        self.call(self.give_back).json(&json!({"secret": self.secret}))
    }
}

impl Client {
    /// Sends a renewal.
    pub(super) async fn extend(&self, call: &Call) -> Result<Renewed, Error> {
        let answer = self.call(call).await?;
        let renewed: RenewedLease = answer.json()?;
        let lease = Lease::new(answer.sent, Duration::from_millis(renewed.ttl_ms));
        Ok(Renewed { lease, fencing_token: renewed.fencing_token })
    }

    /// Asks until it is granted or the wait is over. `call` makes the request that waits so long.
    pub(super) async fn wait_for<T: DeserializeOwned>(
        &self,
        wait: Duration,
        call: impl Fn(Duration) -> Call,
    ) -> Result<Granted<T>, Error> {
        let begun = Instant::now();
        loop {
            let chunk = wait.saturating_sub(begun.elapsed()).min(WAIT_CHUNK_MAX);
            let sent = Instant::now();
            let refused = match self.json(&call(chunk).waits(chunk)).await {
                Ok(answer) => return Ok(Granted { answer, sent, waited: begun.elapsed() }),
                Err(error) => error,
            };
            if !refused.is_not_yet() || begun.elapsed() >= wait {
                return Err(refused);
            }
            if sent.elapsed() < chunk {
                tokio::time::sleep(CHUNK_PAUSE).await;
            }
        }
    }
}
