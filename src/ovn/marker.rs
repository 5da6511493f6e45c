//! Exactly once: a request that is sent again with the same key does not happen again, whichever client it goes through.
//!
//! The database itself remembers. Every keyed transaction begins with three operations on a row of markers, an
//! `Address_Set` without addresses (`fence.rs` says why): the row must not hold our key with our fingerprint (else this
//! very request has happened); insert both (a key that is there keeps its value); the row must now hold them (else the
//! key is there with something else). Marker and work are one transaction, so neither is there without the other. A note of the
//! caller stands beside the marker, for the answer to a repeated request.
//!
//! The rows that a request makes get [uuids that follow from its key](Keyed::uuid).
//!
//! The marker of a key is in the same row whatever the time is; its age stands in the value and is only looked at when
//! old ones are [dropped](Markers::clean). So clocks that differ, or a new day, let nothing happen twice.
//!
//! [`Markers::submit`] is the whole exchange. Those who put a transaction together themselves use
//! [`Keyed::look`], [`Keyed::operations`] and [`Markers::judge`].

use std::collections::BTreeMap;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::contents::Contents;
use crate::error::{Rejection, RejectionKind, TransactError};
use crate::fence::{COLUMN, TABLE, change, ensure_row, hex, pairs_in, row_uuid, select, uuid_of};
use crate::operation::{Condition, Function, Mutator, Operation, OperationResult, Until};
use crate::value::{Atom, Datum};
use crate::writer::Transact;

/// Rows that the markers are spread over: a server copies the map of a row when it changes, so none should become long,
/// and ovn-northd copies each (empty) row to the southbound database, so there should not be many.
pub const MARKER_ROWS: usize = 64;
/// Markers in one row after [`Markers::clean`]: of more, the oldest are dropped before their time.
pub const MARKERS_PER_ROW_MAX: usize = 4_096;
/// Bytes of markers and notes in one row after [`Markers::clean`]; beyond, the oldest are dropped before their time.
pub const MARKER_BYTES_PER_ROW_MAX: usize = 1 << 20;
/// Longest note.
pub const NOTE_BYTES_MAX: usize = 4_096;
/// Operations of a marker, which stand right before those of the request.
pub const MARKER_OPERATIONS: usize = 3;
/// Pairs that one transaction drops.
const DROPPED_PER_TRANSACTION_MAX: usize = 1_000;
/// Times that a row of markers is made anew while a request waits for it.
const ATTEMPTS_MAX: usize = 4;
/// Bytes of the name and of the fingerprint of a request in its marker.
const DIGEST_BYTES: usize = 16;

const KEY_PREFIX: &str = "ovncp:req:";
const NOTE_PREFIX: &str = "ovncp:ans:";

type HmacSha256 = Hmac<Sha256>;

/// A request that must happen at most once.
#[derive(Clone, Debug)]
pub struct Keyed {
    mac: HmacSha256,
    /// In hexadecimal digits.
    name: String,
    fingerprint: String,
    shard: u8,
}

/// What the marker of a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The request has happened.
    Before {
        /// What its caller noted.
        note: Option<String>,
    },
    /// The key was used for another request.
    KeyReused,
}

/// What came of a keyed request.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    /// It has happened now.
    Now(Vec<OperationResult>),
    /// Nothing happened now.
    Seen(Seen),
}

/// What a rejection means for a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Its operations did not fail.
    NotMine,
    /// The request has happened, or another one with its key.
    Seen(Seen),
    /// The row of markers was missing and is there now: send the same again.
    Again,
}

impl Keyed {
    /// The request with this key of this scope (caller, method and path), whose content is `body`. `secret` is the same in
    /// every client of the database and known to nobody else: without it nobody can choose the uuids of a request.
    #[must_use]
    pub fn new(secret: &[u8], scope: &str, key: &str, body: &[u8]) -> Self {
        let mac = HmacSha256::new_from_slice(secret)
            .unwrap_or_else(|_| unreachable!("a key of any length will do"));
        // The length keeps scope and key apart.
        let mac = mac.chain_update((scope.len() as u64).to_be_bytes()).chain_update(scope).chain_update(key);
        let name = mac.clone().chain_update(b"\0name").finalize().into_bytes();
        let fingerprint = hex(&Sha256::digest(body)[..DIGEST_BYTES]);
        let shard = name[DIGEST_BYTES] % MARKER_ROWS as u8;
        Self { mac, name: hex(&name[..DIGEST_BYTES]), fingerprint, shard }
    }

    /// The uuid of the row that the request makes in this place.
    #[must_use]
    pub fn uuid(&self, place: u32) -> Uuid {
        let mac = self.mac.clone().chain_update(b"\0uuid").chain_update(place.to_be_bytes());
        uuid_of(&mac.finalize().into_bytes())
    }

    /// What a replica says about the request. None is no proof that it has not happened: the transaction decides.
    #[must_use]
    pub fn look(&self, contents: &Contents) -> Option<Seen> {
        let table = contents.table(TABLE)?;
        let row = table.row(*table.by_name(&self.row_name()).first()?)?;
        let map = table.schema().value(row, COLUMN)?;
        self.judge(|key| map.get(key).map(str::to_owned))
    }

    /// The [`MARKER_OPERATIONS`] that stand before the operations of the request. A note beyond
    /// [`NOTE_BYTES_MAX`] is left out. `now` is the time since 1970.
    #[must_use]
    pub fn operations(&self, note: Option<&str>, now: Duration) -> Vec<Operation> {
        let row = row_uuid(&self.row_name());
        let marker = (Atom::from(self.key().as_str()), Atom::from(self.value(now).as_str()));
        let note = note.filter(|note| note.len() <= NOTE_BYTES_MAX);
        let note = note.map(|note| (Atom::from(self.note_key().as_str()), Atom::from(note)));
        let held = Datum::map([marker.clone()]);
        let condition = Condition::uuid(row).and(COLUMN, Function::Includes, held);
        let absent = Operation::Wait {
            table: TABLE.into(),
            condition: condition.clone(),
            columns: vec!["_uuid".into()],
            until: Until::Equal,
            rows: Vec::new(),
        };
        let both = Datum::map([marker].into_iter().chain(note));
        vec![absent, change(row, Mutator::Insert, both), Operation::wait_present(TABLE, row, condition)]
    }

    fn judge(&self, get: impl Fn(&str) -> Option<String>) -> Option<Seen> {
        let value = get(&self.key())?;
        let same = Marker::parse(&value).is_some_and(|marker| marker.fingerprint == self.fingerprint);
        Some(if same { Seen::Before { note: get(&self.note_key()) } } else { Seen::KeyReused })
    }

    fn key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.name)
    }

    fn note_key(&self) -> String {
        format!("{NOTE_PREFIX}{}", self.name)
    }

    fn value(&self, now: Duration) -> String {
        format!("{}.{}", hour(now), self.fingerprint)
    }

    fn row_name(&self) -> String {
        row_name(usize::from(self.shard))
    }
}

fn row_name(shard: usize) -> String {
    format!("ovncp_requests_{shard}")
}

/// What a marker says.
struct Marker<'a> {
    /// Hours since 1970.
    hour: u64,
    fingerprint: &'a str,
}

impl<'a> Marker<'a> {
    fn parse(value: &'a str) -> Option<Self> {
        let (hour, fingerprint) = value.split_once('.')?;
        Some(Self { hour: hour.parse().ok()?, fingerprint })
    }
}

fn hour(now: Duration) -> u64 {
    now.as_secs() / 3_600
}

/// The markers in one database.
#[derive(Clone, Debug)]
pub struct Markers<T> {
    database: T,
}

impl<T: Transact> Markers<T> {
    /// Markers in this database.
    #[must_use]
    pub fn new(database: T) -> Self {
        Self { database }
    }

    /// Runs the operations unless the request has happened before. `now` is the time since 1970. Rejections
    /// count the caller's operations only.
    ///
    /// # Errors
    /// As the database says. When the outcome is unknown, submit the same again.
    pub async fn submit(
        &self,
        request: &Keyed,
        operations: Vec<Operation>,
        note: Option<&str>,
        now: Duration,
    ) -> Result<Submitted, TransactError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut all = request.operations(note, now);
            all.extend(operations.iter().cloned());
            let rejection = match self.database.transact(all).await {
                Ok(mut results) => return Ok(Submitted::Now(results.split_off(MARKER_OPERATIONS))),
                Err(TransactError::Rejected(rejection)) => rejection,
                Err(error) => return Err(error),
            };
            match self.judge(request, 0, &rejection).await? {
                Judgement::Seen(seen) => return Ok(Submitted::Seen(seen)),
                Judgement::Again => {}
                Judgement::NotMine => {
                    let own =
                        rejection.operation.map(|operation| operation.saturating_sub(MARKER_OPERATIONS));
                    return Err(Rejection { operation: own, ..rejection }.into());
                }
            }
        }
        Err(TransactError::Unavailable { reason: format!("the row {} comes and goes", request.row_name()) })
    }

    /// What the database says about the request at this moment.
    ///
    /// # Errors
    /// As the database says.
    pub async fn find(&self, request: &Keyed) -> Result<Option<Seen>, TransactError> {
        let results = self.database.transact(vec![select(row_uuid(&request.row_name()))]).await?;
        let rows = results.first().and_then(|result| result.rows.as_deref()).unwrap_or_default();
        let get = |wanted: &str| {
            let mut pairs = rows.iter().flat_map(|row| pairs_in(&row[COLUMN]));
            pairs.find(|(key, _)| *key == wanted).map(|(_, value)| value.to_owned())
        };
        Ok(request.judge(get))
    }

    /// What a rejection means for the marker whose operations stand behind `before` others.
    ///
    /// # Errors
    /// As the database says when it is asked for the marker.
    pub async fn judge(
        &self,
        request: &Keyed,
        before: usize,
        rejection: &Rejection,
    ) -> Result<Judgement, TransactError> {
        let own = rejection.operation.and_then(|operation| operation.checked_sub(before));
        if rejection.kind != RejectionKind::WaitFailed || own.is_none_or(|own| own >= MARKER_OPERATIONS) {
            return Ok(Judgement::NotMine);
        }
        if let Some(seen) = self.find(request).await? {
            return Ok(Judgement::Seen(seen));
        }
        let name = request.row_name();
        let made = row_uuid(&name);
        if ensure_row(&self.database, &name).await? == made {
            return Ok(Judgement::Again);
        }
        // Two rows of a name cannot be, and we only ever look into the one with our uuid.
        let reason = format!("the row {name} is not ours: it must have the uuid {made}");
        Err(TransactError::Unavailable { reason })
    }

    /// Drops markers that are older than `keep`, and of the others the oldest when a row has too many. Says how many it dropped.
    /// One client at a time does well to call it from time to time; several do no harm.
    ///
    /// # Errors
    /// As the database says; some may be dropped already.
    pub async fn clean(&self, now: Duration, keep: Duration) -> Result<usize, TransactError> {
        let oldest = hour(now.saturating_sub(keep));
        let mut dropped = 0;
        for shard in 0..MARKER_ROWS {
            let find = Operation::Select {
                table: TABLE.into(),
                condition: Condition::equal("name", row_name(shard).as_str()),
                columns: Some(vec!["_uuid".into(), COLUMN.into()]),
            };
            let results = self.database.transact(vec![find]).await?;
            let rows = results.first().and_then(|result| result.rows.as_deref()).unwrap_or_default();
            let Some(found) = rows.first() else { continue };
            let Some(row) = found["_uuid"].get(1).and_then(|uuid| uuid.as_str()?.parse().ok()) else {
                continue;
            };
            let old = old_pairs(pairs_in(&found[COLUMN]), oldest);
            for some in old.chunks(DROPPED_PER_TRANSACTION_MAX) {
                // With their values: a marker that was made anew meanwhile stays.
                let pairs = some.iter().map(|(key, value)| ((*key).into(), (*value).into()));
                let drop = change(row, Mutator::Delete, Datum::map(pairs));
                self.database.transact(vec![drop]).await?;
                dropped += some.iter().filter(|(key, _)| key.starts_with(KEY_PREFIX)).count();
            }
        }
        Ok(dropped)
    }
}

/// Markers made before the hour `oldest` and their notes, and the oldest of those beyond the bounds. What is no marker
/// under our prefixes counts as old.
fn old_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, oldest: u64) -> Vec<(&'a str, &'a str)> {
    // By name of the request: when it was, and its pairs.
    let mut requests = BTreeMap::<&str, (u64, Vec<(&str, &str)>)>::new();
    for (key, value) in pairs {
        let is_marker = key.strip_prefix(KEY_PREFIX);
        let Some(name) = is_marker.or_else(|| key.strip_prefix(NOTE_PREFIX)) else { continue };
        let (hour, pairs) = requests.entry(name).or_default();
        pairs.push((key, value));
        if let Some(marker) = is_marker.and_then(|_| Marker::parse(value)) {
            *hour = marker.hour;
        }
    }
    let mut requests: Vec<_> = requests.into_values().collect();
    requests.sort_by_key(|(hour, _)| std::cmp::Reverse(*hour));
    let (mut old, mut count, mut bytes) = (Vec::new(), 0, 0);
    for (hour, pairs) in requests {
        count += 1;
        bytes += pairs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if hour < oldest || count > MARKERS_PER_ROW_MAX || bytes > MARKER_BYTES_PER_ROW_MAX {
            old.extend(pairs);
        }
    }
    old
}
