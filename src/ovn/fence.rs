//! Fencing: writes under a lock that has passed to somebody else never happen.
//!
//! OVSDB's own locks are kept by each server for itself, so they protect nothing in a cluster. Instead the token of a lock
//! (a number that grows with each grant) stands in the database itself: the holder *claims* its resource by writing the
//! token, and every transaction begins with a [guard](Guard::operation) that fails unless the token is still that one. A
//! holder that was paused and has lost its lock meanwhile finds the token of its successor, and nothing of its
//! transaction is committed.
//!
//! The order of work: acquire the lock, claim, plan on what [`Database::read`](crate::database::Database::read) shows,
//! write with the guard first. A claim is in the replica when it returns, and so is everything that the former holder
//! had committed before it.
//!
//! Tokens are kept in the `external_ids` of a few `Address_Set` rows without addresses, since a change there makes no work for
//! ovn-northd. A resource stays there for ever, so that its token never falls.
//!
//! # Caveats
//!
//! It protects those who use it from each other: `ovn-nbctl` writes as before. Whoever deletes a fence row by hand lets
//! the next claim begin anew.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{Rejection, RejectionKind, TransactError};
use crate::operation::{Condition, Function, Mutation, Mutator, Operation};
use crate::value::{Atom, Datum};
use crate::writer::Transact;

/// Rows that the resources are spread over.
pub const FENCE_ROWS: usize = 16;
/// Longest name of a resource.
pub const RESOURCE_BYTES_MAX: usize = 1_024;
/// Times that a claim or a row is tried again because somebody else was faster.
const ATTEMPTS_MAX: usize = 16;

pub(crate) const TABLE: &str = "Address_Set";
pub(crate) const COLUMN: &str = "external_ids";
const KEY_PREFIX: &str = "ovncp:fence:";

/// What came of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// The resource is ours until somebody claims it with a higher token.
    Claimed(Guard),
    /// Somebody holds it with a higher token.
    Stale {
        /// That token.
        current: u64,
    },
}

/// Proof that a claim was made, to be carried by every transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    row: Uuid,
    key: String,
    token: u64,
}

impl Guard {
    /// The first operation of a fenced transaction.
    #[must_use]
    pub fn operation(&self) -> Operation {
        let held = Datum::map([(self.key.as_str().into(), self.token.to_string().as_str().into())]);
        let condition = Condition::uuid(self.row).and(COLUMN, Function::Includes, held);
        Operation::wait_present(TABLE, self.row, condition)
    }

    /// The token that was claimed.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }
}

/// Whether a transaction that begins with a guard failed because of it.
#[must_use]
pub fn is_fenced(error: &TransactError) -> bool {
    let TransactError::Rejected(rejection) = error else { return false };
    rejection.operation == Some(0) && rejection.kind == RejectionKind::WaitFailed
}

/// The fences of one database. All clients of a database must spread the resources in the same way.
#[derive(Debug)]
pub struct Fence<T> {
    database: T,
    /// Rows that are known to exist.
    rows: Mutex<[Option<Uuid>; FENCE_ROWS]>,
}

impl<T: Transact> Fence<T> {
    /// Fences in this database.
    #[must_use]
    pub fn new(database: T) -> Self {
        Self { database, rows: Mutex::default() }
    }

    /// The row that keeps the token of this resource, made if need be.
    ///
    /// # Errors
    /// As the database says.
    pub async fn ensure_row(&self, resource: &str) -> Result<Uuid, TransactError> {
        let shard = usize::from(Sha256::digest(resource)[0]) % FENCE_ROWS;
        if let Some(row) = self.rows.lock().unwrap_or_else(PoisonError::into_inner)[shard] {
            return Ok(row);
        }
        let row = ensure_row(&self.database, &format!("ovncp_fence_{shard}")).await?;
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)[shard] = Some(row);
        Ok(row)
    }

    /// Claims the resource with the token of a lock. To claim again with the same token changes nothing.
    ///
    /// # Errors
    /// As the database says. When the outcome is unknown, claim again.
    pub async fn claim(&self, resource: &str, token: u64) -> Result<Claim, TransactError> {
        if resource.len() > RESOURCE_BYTES_MAX {
            return Err(TransactError::TooLarge { limit: "resource_bytes", max: RESOURCE_BYTES_MAX });
        }
        let key = format!("{KEY_PREFIX}{resource}");
        for _ in 0..ATTEMPTS_MAX {
            let row = self.ensure_row(resource).await?;
            let Some(held) = self.held(row, &key).await? else {
                // Somebody deleted it, or it has no token for this resource yet.
                self.forget(row);
                continue;
            };
            let current = held.parse::<u64>().map_err(|_| strange(&key, &held))?;
            match current {
                current if current > token => return Ok(Claim::Stale { current }),
                current if current == token => return Ok(Claim::Claimed(Guard { row, key, token })),
                _ => {}
            }
            let advance = vec![
                Guard { row, key: key.clone(), token: current }.operation(),
                change(row, Mutator::Delete, Atom::from(key.as_str()).into()),
                change(row, Mutator::Insert, pair(&key, &token.to_string())),
            ];
            match self.database.transact(advance).await {
                Ok(_) => return Ok(Claim::Claimed(Guard { row, key, token })),
                Err(error) if is_fenced(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let reason = format!("{ATTEMPTS_MAX} others claimed {resource} in the meantime");
        Err(TransactError::Unavailable { reason })
    }

    /// The first operation of a transaction under a claim that was made before, perhaps by another client.
    ///
    /// # Errors
    /// As the database says.
    pub async fn guard(&self, resource: &str, token: u64) -> Result<Operation, TransactError> {
        let row = self.ensure_row(resource).await?;
        Ok(Guard { row, key: format!("{KEY_PREFIX}{resource}"), token }.operation())
    }

    /// The token in the row as text, `"0"` if the resource had none. None when there is no such row.
    async fn held(&self, row: Uuid, key: &str) -> Result<Option<String>, TransactError> {
        let operations = vec![change(row, Mutator::Insert, pair(key, "0")), select(row)];
        // A key that is there keeps its value, and a mutation without effect is not written.
        let results = self.database.transact(operations).await?;
        let rows = results.get(1).and_then(|result| result.rows.as_deref()).unwrap_or_default();
        let Some(found) = rows.first() else { return Ok(None) };
        Ok(pairs_in(&found[COLUMN])
            .find(|(candidate, _)| *candidate == key)
            .map(|(_, value)| value.to_owned()))
    }

    fn forget(&self, row: Uuid) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter_mut().filter(|known| **known == Some(row)).for_each(|known| *known = None);
    }
}

fn strange(key: &str, held: &str) -> Rejection {
    Rejection {
        operation: None,
        kind: RejectionKind::Other,
        error: "not a token".to_owned(),
        details: format!("{key} is {held:?}"),
    }
}

/// The row of this name in our table without addresses, made if need be. Every client makes it with the same uuid, but takes
/// any that has the name.
pub(crate) async fn ensure_row(database: &impl Transact, name: &str) -> Result<Uuid, TransactError> {
    let made = row_uuid(name);
    for _ in 0..ATTEMPTS_MAX {
        let find = Operation::Select {
            table: TABLE.into(),
            condition: Condition::equal("name", name),
            columns: Some(vec!["_uuid".into()]),
        };
        let results = database.transact(vec![find]).await?;
        let rows = results.first().and_then(|result| result.rows.as_deref()).unwrap_or_default();
        let uuid = |row: &Json| row["_uuid"].get(1).and_then(Json::as_str)?.parse().ok();
        if let Some(found) = rows.first().and_then(uuid) {
            return Ok(found);
        }
        let row = vec![("name".into(), name.into())];
        match database.transact(vec![Operation::Insert { table: TABLE.into(), uuid: made, row }]).await {
            Ok(_) => return Ok(made),
            // Another client was faster, with this uuid or with this name.
            Err(TransactError::Rejected(rejection))
                if matches!(
                    rejection.kind,
                    RejectionKind::DuplicateUuid | RejectionKind::ConstraintViolation
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Err(TransactError::Unavailable { reason: format!("the row {name} comes and goes") })
}

pub(crate) fn row_uuid(name: &str) -> Uuid {
    let digest = Sha256::new().chain_update("ovncp row\0").chain_update(name).finalize();
    uuid_of(&digest)
}

/// A uuid (version 8) of the first bytes of a digest.
pub(crate) fn uuid_of(digest: &[u8]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = *digest);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn pair(key: &str, value: &str) -> Datum {
    Datum::map([(key.into(), value.into())])
}

/// Changes the map of one of our rows.
pub(crate) fn change(row: Uuid, mutator: Mutator, value: Datum) -> Operation {
    let mutations = vec![Mutation { column: COLUMN.into(), mutator, value }];
    Operation::Mutate { table: TABLE.into(), condition: Condition::uuid(row), mutations }
}

/// Reads the map of one of our rows.
pub(crate) fn select(row: Uuid) -> Operation {
    let columns = Some(vec![COLUMN.into()]);
    Operation::Select { table: TABLE.into(), condition: Condition::uuid(row), columns }
}

/// The pairs of a map of texts as a server sends it.
pub(crate) fn pairs_in(map: &Json) -> impl Iterator<Item = (&str, &str)> {
    let pairs = map.get(1).and_then(Json::as_array).into_iter().flatten();
    pairs.filter_map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)))
}
