//! Reads what a monitor tells into the replica.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::contents::{Contents, RowChange};
use crate::schema::Schema;
use crate::updates;

/// Larger answers are read by a thread that may take its time.
const PARSED_INLINE_BYTES_MAX: usize = 256 << 10;

/// Why what a monitor told cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("the server's update cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("reading the contents was stopped")]
    Stopped,
}

/// The answer of `monitor_cond_since`: whether the transaction that was asked for is known, the last one, and rows.
#[derive(Deserialize)]
struct SinceReply<'a>(bool, Uuid, #[serde(borrow)] &'a RawValue);

/// The parameters of `update3`: which monitor, the last transaction, and rows.
#[derive(Deserialize)]
struct Update3<'a>(&'a str, Uuid, #[serde(borrow)] &'a RawValue);

/// What the answer of `monitor_cond_since` comes to.
pub(super) enum Synced {
    /// What was missed is in `rows`.
    Fast { last: Uuid, rows: Bytes },
    /// Everything.
    Full { last: Uuid, contents: Box<Contents> },
}

/// Reads the answer of `monitor_cond_since`.
pub(super) async fn read_reply(reply: Bytes, schema: Arc<Schema>) -> Result<Synced, SyncError> {
    if reply.len() <= PARSED_INLINE_BYTES_MAX {
        return read_reply_now(&reply, schema);
    }
    let work = tokio::task::spawn_blocking(move || read_reply_now(&reply, schema));
    work.await.unwrap_or(Err(SyncError::Stopped))
}

fn read_reply_now(reply: &Bytes, schema: Arc<Schema>) -> Result<Synced, SyncError> {
    let SinceReply(found, last, rows) = serde_json::from_slice(reply)?;
    if found {
        return Ok(Synced::Fast { last, rows: reply.slice_ref(rows.get().as_bytes()) });
    }
    let mut contents = Contents::new(schema);
    updates::load(&mut contents, rows.get().as_bytes())?;
    Ok(Synced::Full { last, contents: Box::new(contents) })
}

/// Reads the parameters of `update3`: the monitor, the last transaction, and the text of the rows.
pub(super) fn read_update(params: &Bytes) -> Result<(String, Uuid, Bytes), SyncError> {
    let Update3(monitor, last, rows) = serde_json::from_slice(params)?;
    Ok((monitor.to_owned(), last, params.slice_ref(rows.get().as_bytes())))
}

/// Applies the text of a `<table-updates2>`.
pub(super) fn apply(contents: &mut Contents, rows: &[u8]) -> Result<Vec<RowChange>, SyncError> {
    Ok(updates::apply(contents, rows)?)
}

/// Frees what may be large, without holding anybody up.
pub(super) fn free(contents: Option<Contents>) {
    if let Some(contents) = contents {
        tokio::task::spawn_blocking(move || drop(contents));
    }
}
