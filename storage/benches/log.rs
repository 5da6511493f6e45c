//! The log through openraft's trait beside the least that any log must do, in the same run.
//!
//! The minimal log writes a checksummed batch into a file of zeroes prepared before the run, and syncs: no
//! threads, no index, no reader, no preparation of segments while it runs. Ours does all of that. The rounds of
//! the two alternate, so that a noisy disk hits both; the ratio of the medians is the result.
//!
//! `cargo bench -p ovncp-storage --bench log [-- DIRECTORY]`; the directory must lie on a real disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use ovncp_state::{Millis, NodeId};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{Entry, WireLogId};
use ovncp_storage::disk::RealDisk;
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, StoreOptions};

const ENTRY_BYTES: usize = 256;
const ROUNDS: usize = 7;
/// Entries per batch, batches per round. The last one rolls a segment about every 200 batches.
const SHAPES: [(u64, u64); 3] = [(1, 1_500), (16, 1_500), (128, 1_000)];

fn main() {
    let root = std::env::args()
        .nth(1)
        .filter(|arg| !arg.starts_with('-'))
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let root = tempfile::tempdir_in(root).expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    println!("{ENTRY_BYTES}-byte entries, every batch durable, one at a time, in {}", root.path().display());
    println!("entries  log        batches/s  p50 us  p99 us  ratio");
    for (entries, batches) in SHAPES {
        let mut minimal = Vec::new();
        let mut ours = Vec::new();
        for round in 0..ROUNDS {
            minimal.push(run_minimal(
                &root.path().join(format!("minimal-{entries}-{round}")),
                entries,
                batches,
            ));
            let path = root.path().join(format!("ours-{entries}-{round}"));
            ours.push(runtime.block_on(run_ours(&path, entries, batches)));
        }
        let (minimal, ours) = (median(minimal), median(ours));
        println!("{entries:7}  minimal    {minimal}");
        println!("{entries:7}  ours       {ours}  {:.3}", ours.rate / minimal.rate);
    }
}

struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

impl Round {
    fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort();
        let at = |part: usize| latencies[(latencies.len() * part / 100).min(latencies.len() - 1)];
        Self { rate: latencies.len() as f64 / elapsed.as_secs_f64(), p50: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:9.0}  {:6}  {:6}", self.rate, self.p50.as_micros(), self.p99.as_micros())
    }
}

fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = rounds.len() / 2;
    rounds.swap_remove(middle)
}

fn run_minimal(path: &Path, entries: u64, batches: u64) -> Round {
    let record = 8 + ENTRY_BYTES;
    let batch = record * entries as usize;
    let file = File::create_new(path).expect("a new file");
    let zeroes = vec![0; 1 << 20];
    for at in 0..=(batch * batches as usize) >> 20 {
        file.write_all_at(&zeroes, (at << 20) as u64).expect("written");
    }
    file.sync_all().expect("synced");
    let payload = [7; ENTRY_BYTES];
    let mut buffer = Vec::with_capacity(batch);
    let mut offset = 0;
    let mut latencies = Vec::with_capacity(batches as usize);
    let start = Instant::now();
    for _ in 0..batches {
        let begun = Instant::now();
        buffer.clear();
        for _ in 0..entries {
            buffer.extend_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
            buffer.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            buffer.extend_from_slice(&payload);
        }
        file.write_all_at(&buffer, offset).expect("written");
        file.sync_data().expect("synced");
        offset += buffer.len() as u64;
        latencies.push(begun.elapsed());
    }
    Round::new(latencies, start.elapsed())
}

async fn run_ours(path: &Path, entries: u64, batches: u64) -> Round {
    let dir = DataDir::open(RealDisk, path).expect("a data directory");
    let mut log = LogStore::open_alone(&dir, &StoreOptions::default()).expect("a log");
    let envelope = Bytes::from(vec![7; ENTRY_BYTES]);
    let mut index = 0;
    let mut latencies = Vec::with_capacity(batches as usize);
    let start = Instant::now();
    for _ in 0..batches {
        let begun = Instant::now();
        let batch: Vec<Entry> = (0..entries)
            .map(|_| {
                index += 1;
                normal_entry(1, index, Millis(index), NodeId(1), index, envelope.clone())
            })
            .collect();
        append(&mut log, batch).await;
        latencies.push(begun.elapsed());
    }
    let round = Round::new(latencies, start.elapsed());
    log.purge(WireLogId { term: 1, index }.into()).await.expect("purged");
    round
}

async fn append(log: &mut LogStore<RealDisk>, batch: Vec<Entry>) {
    let (sender, flushed) = TypeConfig::oneshot();
    log.append(batch, IOFlushed::signal(sender)).await.expect("appended");
    flushed.await.expect("answered").expect("durable");
}
