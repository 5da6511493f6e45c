//! The log through openraft's trait beside the least that any log must do, in the same run.
//!
//! Both minimal logs write a checksummed batch into a file of zeroes prepared before the run, and sync: no
//! index, no reader, no preparation of segments while it runs. The first does it on the caller's thread; the
//! second behind a writer thread and openraft's callback, as any log must that does not block the Raft core.
//! Ours does all of that and prepares segments. The rounds alternate, so that a noisy disk hits all three; the
//! ratios of the medians are the result.
//!
//! `cargo bench -p ovncp-storage --bench log [-- DIRECTORY]`; the directory must lie on a real disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use ovncp_state::{Millis, NodeId};
use ovncp_storage::codec::Entry;
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::disk::RealDisk;
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, StoreOptions};
use tokio::sync::mpsc;

const ENTRY_BYTES: usize = 256;
const ROUNDS: usize = 9;
/// Entries per batch, batches per round. With the last one a segment rolls every 200 batches.
const SHAPES: [(u64, u64); 3] = [(1, 1_500), (16, 1_500), (128, 1_000)];

fn main() {
    let root = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let root =
        tempfile::tempdir_in(root.map_or_else(std::env::temp_dir, PathBuf::from)).expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    println!("{ENTRY_BYTES}-byte entries, every batch durable, one at a time, median of {ROUNDS} rounds");
    println!("entries  log               batches/s  p50 us  p99 us  ours / it");
    for shape in SHAPES {
        let (mut inline, mut threaded, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let path = |log: &str| root.path().join(format!("{log}-{}-{round}", shape.0));
            inline.push(run_inline(&path("inline"), shape));
            threaded.push(runtime.block_on(run_threaded(&path("threaded"), shape)));
            ours.push(runtime.block_on(run_ours(&path("ours"), shape)));
        }
        let ours = median(ours);
        for (name, rounds) in [("minimal, inline", inline), ("minimal, threaded", threaded)] {
            let minimal = median(rounds);
            println!("{:7}  {name:17} {minimal}  {:.3}", shape.0, ours.rate / minimal.rate);
        }
        println!("{:7}  {:17} {ours}", shape.0, "ours");
    }
}

struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

impl Round {
    fn new(mut latencies: Vec<Duration>) -> Self {
        let total: Duration = latencies.iter().sum();
        latencies.sort();
        let at = |part: usize| latencies[(latencies.len() * part / 100).min(latencies.len() - 1)];
        Self { rate: latencies.len() as f64 / total.as_secs_f64(), p50: at(50), p99: at(99) }
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

fn batch(first: u64, entries: u64) -> Vec<Entry> {
    let entry = |index| {
        normal_entry(1, index, Millis(index), NodeId(1), index, Bytes::from(vec![index as u8; ENTRY_BYTES]))
    };
    (first..first + entries).map(entry).collect()
}

/// A file of zeroes, and where to go on in it.
struct Minimal {
    file: File,
    offset: u64,
    buffer: Vec<u8>,
}

impl Minimal {
    fn new(path: &Path, (entries, batches): (u64, u64)) -> Self {
        let file = File::create_new(path).expect("a new file");
        let zeroes = vec![0; 1 << 20];
        for at in 0..=((8 + ENTRY_BYTES as u64) * entries * batches) >> 20 {
            file.write_all_at(&zeroes, at << 20).expect("written");
        }
        file.sync_all().expect("synced");
        Self { file, offset: 0, buffer: Vec::new() }
    }

    fn write(&mut self, batch: &[Entry]) {
        self.buffer.clear();
        for entry in batch {
            let EntryPayload::Normal(proposal) = &entry.payload else { continue };
            self.buffer.extend_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
            self.buffer.extend_from_slice(&crc32fast::hash(&proposal.envelope).to_le_bytes());
            self.buffer.extend_from_slice(&proposal.envelope);
        }
        self.file.write_all_at(&self.buffer, self.offset).expect("written");
        self.file.sync_data().expect("synced");
        self.offset += self.buffer.len() as u64;
    }
}

fn run_inline(path: &Path, shape: (u64, u64)) -> Round {
    let mut log = Minimal::new(path, shape);
    let (entries, batches) = shape;
    let write = |n| {
        let batch = batch(1 + n * entries, entries);
        let begun = Instant::now();
        log.write(&batch);
        begun.elapsed()
    };
    Round::new((0..batches).map(write).collect())
}

async fn run_threaded(path: &Path, shape: (u64, u64)) -> Round {
    let mut log = Minimal::new(path, shape);
    let (queue, mut work) = mpsc::channel::<(Vec<Entry>, IOFlushed<TypeConfig>)>(1_024);
    let writer = std::thread::spawn(move || {
        while let Some((batch, flushed)) = work.blocking_recv() {
            log.write(&batch);
            flushed.io_completed(Ok(()));
        }
    });
    let (entries, batches) = shape;
    let mut latencies = Vec::new();
    for n in 0..batches {
        let batch = batch(1 + n * entries, entries);
        let begun = Instant::now();
        let (sender, flushed) = TypeConfig::oneshot();
        assert!(queue.send((batch, IOFlushed::signal(sender))).await.is_ok());
        flushed.await.expect("answered").expect("durable");
        latencies.push(begun.elapsed());
    }
    drop(queue);
    writer.join().expect("the writer ends");
    Round::new(latencies)
}

async fn run_ours(path: &Path, (entries, batches): (u64, u64)) -> Round {
    let dir = DataDir::open(RealDisk, path).expect("a data directory");
    let mut log = LogStore::open_alone(&dir, &StoreOptions::default()).expect("a log");
    let mut latencies = Vec::new();
    for n in 0..batches {
        let batch = batch(1 + n * entries, entries);
        let begun = Instant::now();
        let (sender, flushed) = TypeConfig::oneshot();
        log.append(batch, IOFlushed::signal(sender)).await.expect("appended");
        flushed.await.expect("answered").expect("durable");
        latencies.push(begun.elapsed());
    }
    Round::new(latencies)
}
