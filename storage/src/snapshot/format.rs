//! The bytes of a snapshot file.
//!
//! ```text
//! magic  8  "OVNCPSN1"
//! blocks    length (4), CRC32 of position and content (4), content: kind (1), payload
//! ```

use std::path::Path;

use ovncp_state::{Record, State, StateBuilder, StateHash};
use serde::{Deserialize, Serialize};

use super::SnapshotMeta;
use crate::codec::{CodecError, WireLogId, WireStoredMembership, append, decode};
use crate::disk::File;
use crate::error::StorageError;

/// Version of the snapshot format.
pub const SNAPSHOT_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"OVNCPSN1";
const HEADER: u8 = 1;
const RECORDS: u8 = 2;
const TRAILER: u8 = 3;
const BLOCK_HEAD_BYTES: usize = 8;
/// A block is closed once it has this many bytes.
const BLOCK_BYTES: usize = 64 * 1_024;
/// A block is larger only by its last record; more is damage.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + 64 * 1_024 * 1_024;
/// Written bytes are synced in pieces, so that the log's own syncs are not held up by one large flush.
const SYNC_BYTES: u64 = 2 * 1_024 * 1_024;

/// What a snapshot is: its first block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    format: u32,
    last_log_id: Option<WireLogId>,
    membership: WireStoredMembership,
    state_hash: StateHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trailer {
    records: u64,
    blocks: u64,
}

impl Header {
    pub(crate) fn new(meta: &SnapshotMeta, state_hash: StateHash) -> Self {
        Self {
            format: SNAPSHOT_FORMAT,
            last_log_id: meta.last_log_id.map(WireLogId::from),
            membership: (&meta.last_membership).into(),
            state_hash,
        }
    }

    fn meta(&self) -> Result<SnapshotMeta, CodecError> {
        let last_membership = self.membership.clone().try_into()?;
        Ok(SnapshotMeta { last_log_id: self.last_log_id.map(Into::into), last_membership })
    }
}

/// Writes a snapshot file block by block.
pub(crate) struct Writer<'a, F: File> {
    file: &'a F,
    offset: u64,
    synced: u64,
    blocks: u64,
    records: u64,
    block: Vec<u8>,
}

impl<'a, F: File> Writer<'a, F> {
    pub(crate) fn new(file: &'a F, header: &Header) -> std::io::Result<Self> {
        file.write_at(MAGIC, 0)?;
        let offset = MAGIC.len() as u64;
        let mut writer = Self { file, offset, synced: 0, blocks: 0, records: 0, block: Vec::new() };
        writer.begin(HEADER);
        writer.put(header);
        writer.end()?;
        writer.begin(RECORDS);
        Ok(writer)
    }

    /// Takes a record; whether a block was written, which is a good moment to let others run.
    pub(crate) fn push(&mut self, record: &Record) -> std::io::Result<bool> {
        self.put(record);
        self.records += 1;
        if self.block.len() < BLOCK_BYTES {
            return Ok(false);
        }
        self.end()?;
        self.begin(RECORDS);
        Ok(true)
    }

    /// Closes the file and syncs it.
    pub(crate) fn finish(mut self) -> std::io::Result<()> {
        if self.block.len() > BLOCK_HEAD_BYTES + 1 {
            self.end()?;
        }
        let trailer = Trailer { records: self.records, blocks: self.blocks + 1 };
        self.begin(TRAILER);
        self.put(&trailer);
        self.end()?;
        self.file.sync_data()
    }

    fn begin(&mut self, kind: u8) {
        self.block.clear();
        self.block.extend_from_slice(&[0; BLOCK_HEAD_BYTES]);
        self.block.push(kind);
    }

    fn put<T: Serialize>(&mut self, value: &T) {
        self.block = append(std::mem::take(&mut self.block), value);
    }

    fn end(&mut self) -> std::io::Result<()> {
        let (head, content) = self.block.split_at_mut(BLOCK_HEAD_BYTES);
        let len = u32::try_from(content.len()).map_err(std::io::Error::other)?;
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..].copy_from_slice(&block_crc(self.blocks, content).to_le_bytes());
        self.file.write_at(&self.block, self.offset)?;
        self.offset += self.block.len() as u64;
        self.blocks += 1;
        if self.offset - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }
}

fn block_crc(position: u64, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&position.to_le_bytes());
    crc.update(content);
    crc.finalize()
}

/// Reads and checks a whole snapshot file.
pub(crate) fn load<F: File>(file: &F, path: &Path) -> Result<(SnapshotMeta, State), StorageError> {
    let mut reader = Reader::new(file, path)?;
    let header: Header = match reader.next()? {
        (HEADER, payload) => decode("snapshot header", &payload).map_err(|source| reader.codec(source))?,
        _ => return Err(reader.corrupt("the first block is not a header")),
    };
    if header.format != SNAPSHOT_FORMAT {
        let what = format!("snapshot has format {}, this version reads {SNAPSHOT_FORMAT}", header.format);
        return Err(reader.corrupt(what));
    }
    let mut builder = StateBuilder::new();
    let mut records = 0;
    let trailer = loop {
        let (kind, payload) = reader.next()?;
        if kind == TRAILER {
            break decode::<Trailer>("snapshot trailer", &payload).map_err(|source| reader.codec(source))?;
        }
        if kind != RECORDS {
            return Err(reader.corrupt("block is of an unknown kind"));
        }
        let mut rest = payload.as_slice();
        while !rest.is_empty() {
            // The block's checksum matches.
            let (record, after) = postcard::take_from_bytes::<Record>(rest)
                .map_err(|source| reader.codec(CodecError::Payload { what: "snapshot record", source }))?;
            builder
                .push(record)
                .map_err(|error| reader.corrupt(format!("record {records} does not fit: {error}")))?;
            records += 1;
            rest = after;
        }
    };
    if trailer != (Trailer { records, blocks: reader.blocks }) || reader.offset != reader.len {
        return Err(reader.corrupt("the trailer does not match what was read"));
    }
    let state = builder
        .finish(header.state_hash)
        .map_err(|error| StorageError::corrupt(path, 0, error.to_string()))?;
    let meta = header.meta().map_err(|source| reader.codec(source))?;
    Ok((meta, state))
}

struct Reader<'a, F> {
    file: &'a F,
    path: &'a Path,
    len: u64,
    offset: u64,
    /// Where the last block begins.
    at: u64,
    blocks: u64,
}

impl<'a, F: File> Reader<'a, F> {
    fn new(file: &'a F, path: &'a Path) -> Result<Self, StorageError> {
        let len = file.len().map_err(StorageError::io("read", path))?;
        let mut reader = Self { file, path, len, offset: 0, at: 0, blocks: 0 };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(reader.corrupt("not a snapshot file"));
        }
        Ok(reader)
    }

    /// The next block's kind and payload.
    fn next(&mut self) -> Result<(u8, Vec<u8>), StorageError> {
        self.at = self.offset;
        let head = self.take(BLOCK_HEAD_BYTES)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len, crc) = (word(0) as usize, word(4));
        if len == 0 || len > BLOCK_BYTES_MAX {
            return Err(self.corrupt(format!("a block cannot have {len} bytes")));
        }
        let mut content = self.take(len)?;
        if block_crc(self.blocks, &content) != crc {
            return Err(self.corrupt("block checksum does not match"));
        }
        self.blocks += 1;
        let kind = content.remove(0);
        Ok((kind, content))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, StorageError> {
        if self.len - self.offset < count as u64 {
            return Err(self.corrupt("the file ends too early"));
        }
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, self.offset).map_err(StorageError::io("read", self.path))?;
        self.offset += count as u64;
        Ok(bytes)
    }

    fn corrupt(&self, what: impl Into<String>) -> StorageError {
        StorageError::corrupt(self.path, self.at, what)
    }

    fn codec(&self, source: CodecError) -> StorageError {
        StorageError::Codec { file: self.path.to_path_buf(), source }
    }
}
