//! openraft's own conformance suite, on the machine's disk and on the simulated one, with large and tiny
//! segments, in all writer modes.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use ovncp_storage::disk::{Disk, RealDisk, SimDisk};
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, Machine, StoreOptions, WriterMode, open};
use tempfile::TempDir;

struct Builder<D> {
    disk: D,
    root: std::path::PathBuf,
    options: StoreOptions,
    built: AtomicU64,
}

impl<D: Disk> StoreBuilder<TypeConfig, LogStore<D>, Machine<D>> for Builder<D> {
    async fn build(&self) -> Result<((), LogStore<D>, Machine<D>), StorageError<TypeConfig>> {
        let path = self.root.join(self.built.fetch_add(1, Ordering::Relaxed).to_string());
        let dir = DataDir::open(self.disk.clone(), path).unwrap();
        let mut store = open(dir, self.options.clone(), Arc::new(())).unwrap();
        store.machine.allow_gaps();
        Ok(((), store.log, store.machine))
    }
}

fn run<D: Disk>(disk: D, root: impl Into<std::path::PathBuf>, options: StoreOptions) {
    let builder = Builder { disk, root: root.into(), options, built: AtomicU64::new(0) };
    // The clock stands still but for the suite's own sleeps, which then cost nothing.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Suite::test_all(builder)).unwrap();
}

#[test]
fn suite_passes_on_the_machines_disk_with_a_writer_thread() {
    let root = TempDir::new().unwrap();
    let options = StoreOptions { segment_bytes: 64 * 1_024, ..StoreOptions::default() };
    run(RealDisk, root.path(), options);
}

#[test]
fn suite_passes_on_the_simulated_disk_in_a_task() {
    run(SimDisk::new(), "/data", StoreOptions::simulation());
}

#[test]
fn suite_passes_with_tiny_segments_and_no_cache() {
    let options = StoreOptions { writer: WriterMode::Task, segment_bytes: 4_096, cache_bytes: 0 };
    run(SimDisk::new(), "/data", options);
}
