//! What a node waits for: opening a long log, taking and restoring a large snapshot.
//!
//! `cargo bench -p ovncp-storage --bench recovery [-- DIRECTORY]`; the directory must lie on a real disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use ovncp_state::command::{AcquireLock, FormCluster, JoinNode, LockMode, NodeInfo};
use ovncp_state::{ClusterId, Command, Incarnation, Millis, NodeId, Request, SecretHash, WaiterId};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{Entry, encode_request};
use ovncp_storage::disk::RealDisk;
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, Store, StoreOptions, open};

const ENTRIES: u64 = 1_000_000;
const LOCKS: u64 = 1_000_000;
const BATCH: u64 = 1_000;

fn main() {
    let root = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let root =
        tempfile::tempdir_in(root.map_or_else(std::env::temp_dir, PathBuf::from)).expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(long_log(&root.path().join("log")));
    runtime.block_on(large_state(&root.path().join("state")));
}

/// Runs something; how long it took, and how much CPU the process used meanwhile.
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let (begun, used) = (Instant::now(), cpu());
    let result = run();
    println!("{what:45} {:8.0} ms  {:8.0} ms CPU", millis(begun.elapsed()), millis(cpu() - used));
    result
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Each entry takes a lock, as real ones do.
fn entry(index: u64) -> Entry {
    let command = match index {
        1 => Command::FormCluster(FormCluster {
            cluster_id: ClusterId([1; 16]),
            formed_at_unix_ms: 0,
            voters_target: 1,
            nodes: vec![JoinNode {
                name: "a".into(),
                incarnation: Incarnation([1; 16]),
                info: NodeInfo::default(),
            }],
        }),
        index => {
            // Spread over the key space: neither keys nor waiters come in their order.
            let spread = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut waiter = [0; 16];
            waiter[..8].copy_from_slice(&spread.to_be_bytes());
            Command::AcquireLock(AcquireLock {
                keys: vec![format!("switch:{spread:016x}-0000-0000")],
                mode: LockMode::Exclusive,
                owner: "worker-on-some-host".into(),
                secret: SecretHash([1; 32]),
                salt: None,
                ttl: Millis(3_600_000),
                wait: Millis(0),
                hold_max: None,
                metadata: None,
                waiter: WaiterId(waiter),
                node: NodeId(1),
            })
        }
    };
    let envelope = encode_request(&Request::from(command));
    normal_entry(1, index, Millis(index), NodeId(1), index, envelope)
}

async fn long_log(path: &Path) {
    let dir = || DataDir::open(RealDisk, path).expect("a data directory");
    let mut log = LogStore::open_alone(&dir(), &StoreOptions::default()).expect("a log");
    for first in (1..=ENTRIES).step_by(BATCH as usize) {
        let (sender, flushed) = TypeConfig::oneshot();
        let batch: Vec<Entry> = (first..first + BATCH).map(entry).collect();
        log.append(batch, IOFlushed::signal(sender)).await.expect("appended");
        flushed.await.expect("answered").expect("durable");
    }
    drop(log);
    let opened = timed("open a log of 1,000,000 entries", || {
        LogStore::open_alone(&dir(), &StoreOptions::default()).expect("a log")
    });
    drop(opened);
}

async fn large_state(path: &Path) {
    let reopen = || -> Store<RealDisk> {
        let dir = DataDir::open(RealDisk, path).expect("a data directory");
        open(dir, StoreOptions::default(), Arc::new(())).expect("a store")
    };
    let mut store = reopen();
    let (begun, used) = (Instant::now(), cpu());
    let mut slowest = Duration::ZERO;
    for first in (1..=LOCKS).step_by(BATCH as usize) {
        slowest = slowest.max(apply(&mut store, first).await);
    }
    let each = |duration: Duration| duration.as_secs_f64() * 1e6 / LOCKS as f64;
    println!(
        "apply 1,000,000 acquisitions: {:.2} us each ({:.2} us CPU), slowest {BATCH} took {:.1} ms",
        each(begun.elapsed()),
        each(cpu() - used),
        millis(slowest)
    );
    let mut builder = timed("copy the state for a snapshot (apply waits)", || {
        futures_util::FutureExt::now_or_never(store.machine.get_snapshot_builder()).expect("no wait")
    });
    let begun = Instant::now();
    let building = tokio::spawn(async move { builder.build_snapshot().await.map(drop) });
    let (mut next, mut slowest) = (LOCKS + 1, Duration::ZERO);
    while !building.is_finished() {
        slowest = slowest.max(apply(&mut store, next).await);
        next += BATCH;
    }
    building.await.expect("built").expect("a snapshot");
    let figures = store.stats.read().snapshot.expect("built above");
    println!(
        "snapshot of 1,000,000 locks: {:.0} ms, {} MB; applied {} entries meanwhile, slowest {BATCH} took {:.1} ms",
        millis(begun.elapsed()),
        figures.bytes / 1_000_000,
        next - LOCKS - 1,
        millis(slowest)
    );
    drop(store);
    timed("start with a snapshot of 1,000,000 locks", reopen);
}

async fn apply(store: &mut Store<RealDisk>, first: u64) -> Duration {
    let entries: Vec<_> = (first..first + BATCH).map(|index| Ok((entry(index), None))).collect();
    let begun = Instant::now();
    store.machine.apply(stream::iter(entries)).await.expect("applied");
    begun.elapsed()
}
