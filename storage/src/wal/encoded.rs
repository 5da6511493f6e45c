//! Entries as they stand in records and in the cache.
//!
//! Whoever appends encodes them, beside the writer's wait for the disk. The entries of one append share one piece
//! of memory, for the writer and for the cache: keeping them costs no allocation each, and forgetting them none.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::record::payload_crc;
use crate::codec::entry::weight;
use crate::codec::{Entry, LogId, encode_entry_into};

/// The entries of one append.
pub(super) struct Encoded {
    entries: Vec<EncodedEntry>,
    bytes: usize,
    /// Given back when the writer has taken them.
    room: Option<OwnedSemaphorePermit>,
}

/// One of them.
pub(super) struct EncodedEntry {
    pub(super) log_id: LogId,
    pub(super) payload: Bytes,
    /// Of the payload, as it stands in the record.
    pub(super) crc: u32,
}

impl Encoded {
    /// Encodes entries, none of which may have more than `bytes_max`.
    pub(super) fn new(entries: Vec<Entry>, salt: u32, bytes_max: usize) -> Result<Self, String> {
        let mut payloads = Vec::with_capacity(entries.iter().map(weight).sum());
        let mut ends = Vec::with_capacity(entries.len());
        for entry in entries {
            let start = payloads.len();
            encode_entry_into(&entry, &mut payloads);
            if payloads.len() - start > bytes_max {
                return Err(format!("entry {} has more than {bytes_max} bytes", entry.log_id.index));
            }
            ends.push((entry.log_id, start..payloads.len(), payload_crc(salt, &payloads[start..])));
        }
        let payloads = Bytes::from(payloads);
        let entry = |(log_id, range, crc)| EncodedEntry { log_id, payload: payloads.slice(range), crc };
        Ok(Self { bytes: payloads.len(), entries: ends.into_iter().map(entry).collect(), room: None })
    }

    pub(super) fn entries(&self) -> &[EncodedEntry] {
        &self.entries
    }

    /// Bytes of all payloads.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Waits until the writer has taken enough of what waits before it.
    pub(super) async fn wait_for_room(&mut self, room: &Arc<Semaphore>, bytes_max: usize) {
        let permits = u32::try_from(self.bytes.min(bytes_max)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        self.room = Arc::clone(room).acquire_many_owned(permits).await.ok();
    }
}
