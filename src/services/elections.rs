//! Named elections: a term of office is an exclusive lock under a reserved key.
//!
//! So everything that locks promise holds for terms: one leader at a time, candidates in order, a fencing token
//! that grows with every term, a lease that ends by itself, and a candidate whose wait is over is never elected.
//! What a candidate has to say (its URL) is the metadata of the grant. There is no command of their own: see
//! docs/decisions/0022-elections-are-locks.md.

use ovncp_state::command::LockMode;
use ovncp_state::limits::LOCK_KEY_BYTES_MAX;
use ovncp_state::reply::Renewed;
use ovncp_state::view::LockView;
use ovncp_state::{FencingToken, LogIndex, Millis, RequestKey};

use super::ServiceError;
use super::locks::{Ask, Held, Locks};
use super::reads::Freshness;

/// What keys of elections begin with. Locks of users may not.
const KEY_PREFIX: &str = "ovncp.election:";
/// Bytes of an election's name.
pub const NAME_BYTES_MAX: usize = LOCK_KEY_BYTES_MAX - KEY_PREFIX.len();

/// The lock key of an election.
#[must_use]
pub fn key_of(name: &str) -> String {
    format!("{KEY_PREFIX}{name}")
}

/// The election of a lock key; none for a lock of a user.
#[must_use]
pub fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(KEY_PREFIX)
}

/// Elections of the group.
#[derive(Clone)]
pub struct Elections {
    locks: Locks,
}

impl Elections {
    /// Elections on top of locks.
    #[must_use]
    pub fn new(locks: Locks) -> Self {
        Self { locks }
    }

    /// Waits for a term of `name`. Of `ask` the owner is the candidate and the metadata its value; keys and mode are
    /// set here. Dropping the future is how a candidate goes away: see [`Locks::acquire`].
    pub async fn campaign(&self, name: &str, ask: Ask) -> Result<Held, ServiceError> {
        self.locks.acquire(Ask { keys: vec![key_of(name)], mode: LockMode::Exclusive, ..ask }).await
    }

    /// Extends a term.
    pub async fn renew(&self, name: &str, proof: &str, ttl: Option<Millis>) -> Result<Renewed, ServiceError> {
        self.locks.renew(key_of(name), proof, ttl).await
    }

    /// Ends a term by its leader.
    pub async fn resign(
        &self,
        name: &str,
        proof: &str,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, FencingToken), ServiceError> {
        self.locks.release(key_of(name), proof, retry).await
    }

    /// Ends a term by force.
    pub async fn depose(
        &self,
        name: &str,
        reason: String,
        token: Option<FencingToken>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, Vec<FencingToken>), ServiceError> {
        self.locks.force_release(key_of(name), reason, token, retry).await
    }

    /// The leader and the candidates, as a lock, with the cluster time of the look; absent when there are none.
    pub async fn get(
        &self,
        name: &str,
        candidates_max: usize,
        freshness: Freshness,
    ) -> Result<(LogIndex, (Millis, Option<LockView>)), ServiceError> {
        self.locks.get(&key_of(name), candidates_max, freshness).await
    }

    /// Elections with a leader or candidates whose names start with `prefix`, ascending, after `after`.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        candidates_max: usize,
        freshness: Freshness,
    ) -> Result<(LogIndex, (Millis, Vec<LockView>)), ServiceError> {
        let after = after.map(key_of);
        self.locks.list(&key_of(prefix), after.as_deref(), limit, candidates_max, freshness).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_belong_together() {
        assert_eq!(name_of(&key_of("a:b")), Some("a:b"));
        assert_eq!(name_of("ovncp.elections"), None);
        assert_eq!(key_of(&"n".repeat(NAME_BYTES_MAX)).len(), LOCK_KEY_BYTES_MAX);
    }
}
