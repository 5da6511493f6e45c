//! The log through openraft's trait beside the least that any log must do, in the same run.
//!
//! Both minimal logs write a checksummed batch into a file of zeroes prepared before the run, and sync: no
//! index, no reader, no segments. The first does it on the caller's thread; the second behind a writer thread and
//! openraft's callback, as any log must that does not block the Raft core. Ours does all of that, rolls segments
//! and is purged as after snapshots. The logs take short turns, so that a noisy machine hits all alike; `of inline` is
//! the median of the ratios turn by turn. CPU is that of the whole process, user and system.
//!
//! The first batch of a turn finds threads, and perhaps a processor, that have slept through the turns of the others, which
//! a log at work does not: `first us` is its median, and `running` is the median of the ratios of turns without it.
//!
//! `cargo bench -p ovncp-storage --bench log [-- DIRECTORY]`; the directory must lie on a real disk. With
//! `--features sled` the log in sled takes its turns too.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use ovncp_state::{Millis, NodeId};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{Entry, WireLogId};
use ovncp_storage::disk::RealDisk;
use ovncp_storage::types::TypeConfig;
use ovncp_storage::{DataDir, LogStore, StoreOptions};
use tokio::sync::mpsc;

const ENTRY_BYTES: usize = 256;
/// The logs take turns of so many batches, so that a noisy machine hits all of them alike.
const TURN: u64 = 10;
/// Turns of each log.
const TURNS: u64 = 120;
/// Turns before the clock counts. The first segments after them may still be new ones: nothing is purged before
/// [`KEPT`] entries.
const WARM: u64 = 10;
/// Entries per batch.
const SHAPES: [u64; 3] = [1, 16, 128];
/// Purged once so many more have gathered, as after a snapshot.
const KEPT: u64 = 20_000;

fn main() {
    let root = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let root =
        tempfile::tempdir_in(root.map_or_else(std::env::temp_dir, PathBuf::from)).expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    println!(
        "{ENTRY_BYTES}-byte entries, every batch durable, one at a time, median of {TURNS} turns of {TURN}"
    );
    println!(
        "entries  log               batches/s  p10 us  p50 us  p99 us  first us  cpu us  of inline  running"
    );
    for entries in SHAPES {
        let dir = root.path().join(entries.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        runtime.block_on(compare(dir, entries));
    }
}

/// One log of the comparison.
enum Log {
    Inline(Minimal),
    Threaded(mpsc::Sender<(Vec<Entry>, IOFlushed<TypeConfig>)>),
    Ours(LogStore<RealDisk>),
    #[cfg(feature = "sled")]
    Sled(ovncp_storage::sled::SledLog),
}

impl Log {
    async fn write(&mut self, batch: Vec<Entry>) {
        let (sender, flushed) = TypeConfig::oneshot();
        let flush = IOFlushed::signal(sender);
        match self {
            Self::Inline(log) => return log.write(&batch),
            Self::Threaded(queue) => assert!(queue.send((batch, flush)).await.is_ok()),
            Self::Ours(log) => log.append(batch, flush).await.expect("appended"),
            #[cfg(feature = "sled")]
            Self::Sled(log) => log.append(batch, flush).await.expect("appended"),
        }
        flushed.await.expect("answered").expect("durable");
    }
}

#[derive(Default)]
struct Figures {
    turns: Vec<f64>,
    /// First batch of each turn.
    firsts: Vec<f64>,
    latencies: Vec<f64>,
    cpu: f64,
}

impl Figures {
    /// How long the batches after the first took together, turn by turn.
    fn running(&self) -> Vec<f64> {
        self.turns.iter().zip(&self.firsts).map(|(mean, first)| mean * TURN as f64 - first).collect()
    }
}

fn cpu() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

fn at(values: &mut [f64], part: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * part / 100).min(values.len() - 1)]
}

async fn compare(dir: PathBuf, entries: u64) {
    let ours = || {
        let dir = DataDir::open(RealDisk, dir.join("ours")).expect("a data directory");
        Log::Ours(LogStore::open_alone(&dir, &StoreOptions::default()).expect("a log"))
    };
    let batches = TURN * (TURNS + WARM);
    let mut logs = vec![
        ("minimal, inline", Log::Inline(Minimal::new(&dir.join("inline"), (entries, batches)))),
        (
            "minimal, threaded",
            Log::Threaded(threaded(Minimal::new(&dir.join("threaded"), (entries, batches)))),
        ),
        ("ours", ours()),
    ];
    logs.extend(sled(&dir));
    take_turns(logs, entries).await;
}

#[cfg(feature = "sled")]
fn sled(dir: &Path) -> Option<(&'static str, Log)> {
    let dir = DataDir::open(RealDisk, dir.join("sled")).expect("a data directory");
    Some(("sled", Log::Sled(ovncp_storage::sled::SledLog::open(dir).expect("a log"))))
}

#[cfg(not(feature = "sled"))]
fn sled(_: &Path) -> Option<(&'static str, Log)> {
    None
}

async fn take_turns(mut logs: Vec<(&str, Log)>, entries: u64) {
    let mut figures: Vec<Figures> = logs.iter().map(|_| Figures::default()).collect();
    let mut purged = 0;
    for turn in 0..TURNS + WARM {
        for ((_, log), figures) in logs.iter_mut().zip(&mut figures) {
            let (mut total, mut first) = (0.0, 0.0);
            for n in 0..TURN {
                let batch = batch(1 + (turn * TURN + n) * entries, entries);
                let (begun, used) = (Instant::now(), cpu());
                log.write(batch).await;
                let took = begun.elapsed().as_secs_f64() * 1e6;
                figures.cpu += cpu() - used;
                total += took;
                first = if n == 0 { took } else { first };
                figures.latencies.push(took);
            }
            figures.turns.push(total / TURN as f64);
            figures.firsts.push(first);
            if turn + 1 == WARM {
                *figures = Figures::default();
            }
        }
        let last = (turn + 1) * TURN * entries;
        if last - purged >= KEPT {
            purged = last;
            for (_, log) in &mut logs {
                let upto = WireLogId { term: 1, index: last }.into();
                match log {
                    Log::Ours(log) => log.purge(upto).await.expect("purged"),
                    #[cfg(feature = "sled")]
                    Log::Sled(log) => log.purge(upto).await.expect("purged"),
                    Log::Inline(_) | Log::Threaded(_) => {}
                }
            }
        }
    }
    print(logs.iter().map(|(name, _)| *name), figures, entries);
}

fn print<'a>(names: impl Iterator<Item = &'a str>, mut figures: Vec<Figures>, entries: u64) {
    let inline = (figures[0].turns.clone(), figures[0].running());
    let ratio = |inline: &[f64], own: &[f64]| {
        let mut ratios: Vec<f64> = inline.iter().zip(own).map(|(inline, own)| inline / own).collect();
        at(&mut ratios, 50)
    };
    for (name, figures) in names.zip(&mut figures) {
        let ratios = (ratio(&inline.0, &figures.turns), ratio(&inline.1, &figures.running()));
        println!(
            "{entries:7}  {name:17} {:9.0}  {:6.0}  {:6.0}  {:6.0}  {:8.0}  {:6.1}  {:9.3}  {:7.3}",
            1e6 / at(&mut figures.turns, 50),
            at(&mut figures.latencies, 10),
            at(&mut figures.latencies, 50),
            at(&mut figures.latencies, 99),
            at(&mut figures.firsts, 50),
            figures.cpu / figures.latencies.len() as f64,
            ratios.0,
            ratios.1,
        );
    }
}

fn threaded(mut log: Minimal) -> mpsc::Sender<(Vec<Entry>, IOFlushed<TypeConfig>)> {
    let (queue, mut work) = mpsc::channel::<(Vec<Entry>, IOFlushed<TypeConfig>)>(1_024);
    std::thread::spawn(move || {
        while let Some((batch, flushed)) = work.blocking_recv() {
            log.write(&batch);
            flushed.io_completed(Ok(()));
        }
    });
    queue
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
