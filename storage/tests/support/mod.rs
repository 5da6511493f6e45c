//! Drives a log through openraft's traits beside a naive model of it.
// Each test binary uses a part.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, RaftLogReader};
use ovncp_state::{Millis, NodeId};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{Entry, LogId, Vote, WireLogId, WireVote};
use ovncp_storage::disk::{Disk, SimDisk};
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, StorageError, Store, StoreOptions, WriterMode, open};

pub const DATA: &str = "/data";

/// Tiny segments, so that they roll all the time, and nearly no cache, so that reads come from disk.
pub fn tiny() -> StoreOptions {
    StoreOptions { writer: WriterMode::Task, segment_bytes: 4_096, cache_bytes: 1_024 }
}

/// Runs on one thread with a clock that stands still.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

pub fn open_store<D: Disk>(
    disk: &D,
    path: impl AsRef<Path>,
    options: StoreOptions,
) -> Result<Store<D>, StorageError> {
    open(DataDir::open(disk.clone(), path.as_ref())?, options, Arc::new(()))
}

pub fn open_log<D: Disk>(
    disk: &D,
    path: impl AsRef<Path>,
    options: StoreOptions,
) -> Result<LogStore<D>, StorageError> {
    // Not `open`: these logs are purged without a snapshot.
    LogStore::open_alone(&DataDir::open(disk.clone(), path.as_ref())?, &options)
}

pub fn log_id(term: u64, index: u64) -> LogId {
    WireLogId { term, index }.into()
}

pub fn vote(term: u64, node: u64) -> Vote {
    WireVote { term, node, committed: false }.into()
}

/// An entry whose content tells its index, term and a salt.
pub fn entry(term: u64, index: u64, bytes: usize, salt: u8) -> Entry {
    let mut content = vec![(index as u8) ^ salt | 1; bytes];
    content.extend_from_slice(&index.to_le_bytes());
    normal_entry(term, index, Millis(index), NodeId(1), index, Bytes::from(content))
}

/// Appends and waits until it is durable.
pub async fn append<D: Disk>(log: &mut LogStore<D>, entries: Vec<Entry>) -> io::Result<()> {
    submit(log, entries).await?.await.map_err(io::Error::other)?
}

/// Appends; the receiver tells when it is durable.
pub async fn submit<D: Disk>(
    log: &mut LogStore<D>,
    entries: Vec<Entry>,
) -> io::Result<tokio::sync::oneshot::Receiver<io::Result<()>>> {
    let (sender, receiver) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    let (done, flushed) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let result = receiver.await.unwrap_or_else(|_| Err(io::Error::other("no answer")));
        let _ = done.send(result);
    });
    Ok(flushed)
}

/// What a log is to its user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub entries: BTreeMap<u64, Entry>,
}

impl Model {
    /// What a log says of itself.
    pub async fn of<D: Disk>(log: &mut LogStore<D>) -> io::Result<Self> {
        let state = log.get_log_state().await?;
        let mut reader = log.get_log_reader().await;
        let entries = reader.try_get_log_entries(..).await?;
        Ok(Self {
            vote: reader.read_vote().await?,
            purged: state.last_purged_log_id,
            last: state.last_log_id,
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
        })
    }

    pub fn next(&self) -> u64 {
        self.last.map_or(1, |id| id.index + 1)
    }

    pub fn append(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.entries.insert(entry.log_id.index, entry);
    }

    pub fn truncate_after(&mut self, after: Option<LogId>) {
        let _ = self.entries.split_off(&after.map_or(0, |id| id.index + 1));
        self.last = after;
    }

    pub fn purge(&mut self, upto: LogId) {
        self.entries = self.entries.split_off(&(upto.index + 1));
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }

    /// Log id of an entry or of the purged end.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.entries.get(&index).map(|entry| entry.log_id).or(self.purged.filter(|id| id.index == index))
    }
}

/// Everything the log was asked, in order, and up to where it answered.
#[derive(Clone, Debug)]
pub struct History {
    /// The log after each record.
    pub states: Vec<Model>,
    /// The first state that a restart may show: everything before it was acknowledged.
    pub acknowledged: usize,
    pub committed: Vec<LogId>,
}

/// One thing to ask.
#[derive(Clone, Debug)]
pub enum Op {
    /// Several appends, submitted before the first answer.
    Append { appends: u8, entries: u8, bytes: u16 },
    /// A vote of a new term.
    Vote,
    /// The last entry is committed.
    Commit,
    /// Removes some entries from the end.
    Truncate(u8),
    /// Purges some entries at the start, or (200 and more) beyond the end.
    Purge(u8),
}

impl Default for History {
    fn default() -> Self {
        Self { states: vec![Model::default()], acknowledged: 0, committed: Vec::new() }
    }
}

impl History {
    pub fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn term(&self) -> u64 {
        let vote = self.now().vote.map_or(1, |vote| vote.leader_id.term);
        vote.max(self.now().last.map_or(1, |id| id.leader_id.term))
    }

    fn step(&mut self, change: impl FnOnce(&mut Model)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.states.len() - 1;
    }

    /// After a restart: one of the possible states became the true one.
    pub fn restarted(&mut self, found: Model) {
        self.states = vec![found];
        self.acknowledged = 0;
        self.committed.retain(|id| Some(*id) <= self.states[0].last);
    }

    /// Does one operation on the log and the model.
    pub async fn ask<D: Disk>(&mut self, log: &mut LogStore<D>, op: &Op) -> io::Result<()> {
        match op {
            Op::Append { appends, entries, bytes } => self.append(log, *appends, *entries, *bytes).await,
            Op::Vote => {
                let vote = vote(self.term() + 1, 3);
                self.step(|model| model.vote = Some(vote));
                log.save_vote(&vote).await?;
                self.acknowledge();
                Ok(())
            }
            Op::Commit => {
                let Some(last) = self.now().last else { return Ok(()) };
                self.committed.push(last);
                log.save_committed(Some(last)).await
            }
            Op::Truncate(count) => {
                let model = self.now();
                // What is committed is never truncated.
                let first = self.committed.last().max(model.purged.as_ref()).map_or(0, |id| id.index);
                let Some(last) = model.last else { return Ok(()) };
                let after = model.id_at(last.index.saturating_sub(u64::from(*count)).max(first));
                self.step(|model| model.truncate_after(after));
                log.truncate_after(after).await?;
                self.acknowledge();
                Ok(())
            }
            Op::Purge(count) => {
                let model = self.now();
                let Some(last) = model.last else { return Ok(()) };
                let first = model.purged.map_or(0, |id| id.index);
                let upto = match count {
                    200.. => Some(log_id(self.term(), last.index + u64::from(*count - 199))),
                    _ => model.id_at((first + u64::from(*count)).min(last.index)),
                };
                let Some(upto) = upto.filter(|upto| model.purged < Some(*upto)) else { return Ok(()) };
                self.step(|model| model.purge(upto));
                log.purge(upto).await
            }
        }
    }

    async fn append<D: Disk>(
        &mut self,
        log: &mut LogStore<D>,
        appends: u8,
        entries: u8,
        bytes: u16,
    ) -> io::Result<()> {
        let term = self.term();
        let mut flushed = Vec::new();
        for salt in 0..appends {
            let next = self.now().next();
            let batch: Vec<_> =
                (0..u64::from(entries)).map(|n| entry(term, next + n, usize::from(bytes), salt)).collect();
            for entry in &batch {
                self.step(|model| model.append(entry.clone()));
            }
            flushed.push((submit(log, batch).await?, self.states.len() - 1));
        }
        for (flushed, upto) in flushed {
            flushed.await.map_err(io::Error::other)??;
            self.acknowledged = self.acknowledged.max(upto);
        }
        Ok(())
    }

    /// What a restarted log says must be one of the states that it may show.
    pub fn check(&self, found: &Model) {
        let possible = &self.states[self.acknowledged..];
        if !possible.contains(found) {
            let brief = |model: &Model| {
                let (first, last) = (model.entries.keys().next(), model.entries.keys().last());
                format!(
                    "vote {:?} purged {:?} last {:?} entries {first:?}..={last:?}",
                    model.vote, model.purged, model.last
                )
            };
            let possible: Vec<_> = possible.iter().map(brief).collect();
            panic!("found {}\nallowed {possible:#?}", brief(found));
        }
    }
}

/// The bytes of an entry's envelope.
pub fn envelope(entry: &Entry) -> &[u8] {
    match &entry.payload {
        EntryPayload::Normal(proposal) => &proposal.envelope,
        _ => &[],
    }
}

/// Segment files of a simulated disk.
pub fn segments(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    disk.files().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "wal")).collect()
}
