//! openraft's own conformance suite on the log in sled, and that it survives a restart.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftLogReader, StorageError};
use ovncp_storage::disk::RealDisk;
use ovncp_storage::sled::SledLog;
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, Machine, StoreOptions, open};
use support::{entry, log_id, vote};
use tempfile::TempDir;

struct Builder {
    root: TempDir,
    built: AtomicU64,
}

impl StoreBuilder<TypeConfig, SledLog, Machine<RealDisk>> for Builder {
    async fn build(&self) -> Result<((), SledLog, Machine<RealDisk>), StorageError<TypeConfig>> {
        let path = self.root.path().join(self.built.fetch_add(1, Ordering::Relaxed).to_string());
        let log = SledLog::open(DataDir::open(RealDisk, path.join("log")).unwrap()).unwrap();
        let dir = DataDir::open(RealDisk, path.join("state")).unwrap();
        let mut machine = open(dir, StoreOptions::default(), Arc::new(())).unwrap().machine;
        machine.allow_gaps();
        Ok(((), log, machine))
    }
}

#[test]
fn suite_passes_on_sled() {
    let builder = Builder { root: TempDir::new().unwrap(), built: AtomicU64::new(0) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Suite::test_all(builder)).unwrap();
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let root = TempDir::new().unwrap();
    let reopen = || SledLog::open(DataDir::open(RealDisk, root.path()).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The last one is a file of its own to sled.
    let entries = || {
        (1..=20).map(|index| entry(1, index, if index == 20 { 1 << 20 } else { 300 }, 0)).collect::<Vec<_>>()
    };
    runtime.block_on(async {
        let mut log = reopen();
        log.save_vote(&vote(3, 2)).await.unwrap();
        let (sender, flushed) = TypeConfig::oneshot();
        log.append(entries(), IOFlushed::signal(sender)).await.unwrap();
        flushed.await.unwrap().unwrap();
        log.purge(log_id(1, 4)).await.unwrap();
    });
    runtime.block_on(async {
        let mut log = reopen();
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 4)), Some(log_id(1, 20))));
        let mut reader = log.get_log_reader().await;
        assert_eq!(reader.read_vote().await.unwrap(), Some(vote(3, 2)));
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries()[4..]);
    });
}
