//! The seeded scenarios, and their exact replay.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use ovncp_storage::disk::SimDisk;

use crate::nemesis::Trouble;
use crate::scenario::{Failure, Plan, Report, run};

/// Seeds per test without `SIM_SEEDS`.
const SEEDS: u64 = 16;
/// Replayed when no seed is asked for.
const REPLAYED: u64 = 10;
/// Stands before the hash of a replayed run.
const HASH_LINE: &str = "trace hash ";

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn fail(seed: u64, failure: &Failure) -> ! {
    eprintln!("{}", failure.tail);
    eprintln!("SIM_SEED={seed} cargo test -p ovncp-raft --test simulation -- replay --nocapture");
    panic!("seed {seed}: {}", failure.what);
}

/// Runs every fourth seed from `offset` on: four tests side by side.
fn quarter(offset: u64) {
    let (seeds, first) = (number("SIM_SEEDS").unwrap_or(SEEDS), number("SIM_FIRST").unwrap_or(0));
    let start = Instant::now();
    let mut sum = Report::default();
    let mut troubles: BTreeMap<Trouble, u64> = BTreeMap::new();
    for at in 0..seeds {
        let seed = first + 4 * at + offset;
        let report = run::<SimDisk>(seed, &Plan::default()).unwrap_or_else(|failure| fail(seed, &failure));
        for (kind, count) in report.troubles {
            *troubles.entry(kind).or_default() += count;
        }
        sum.virtual_time += report.virtual_time;
        sum.ok += report.ok;
        sum.unknown += report.unknown;
        sum.grants += report.grants;
        sum.waited += report.waited;
        sum.renewed += report.renewed;
        sum.cancelled += report.cancelled;
        sum.entries += report.entries;
        sum.terms += report.terms;
        sum.installs += report.installs;
    }
    println!("{seeds} seeds in {:?}: {sum:?} {troubles:?}", start.elapsed());
    // A run in which nothing happens proves nothing.
    assert!(sum.ok > 100 * seeds, "{sum:?}");
    let counts = [sum.unknown, sum.grants, sum.waited, sum.renewed, sum.cancelled, sum.installs];
    assert!(seeds < SEEDS || counts.iter().all(|count| *count > 0), "{sum:?}");
    assert!(sum.terms > seeds, "leaders changed: {sum:?}");
}

#[test]
fn clusters_keep_their_promises_first_quarter() {
    quarter(0);
}

#[test]
fn clusters_keep_their_promises_second_quarter() {
    quarter(1);
}

#[test]
fn clusters_keep_their_promises_third_quarter() {
    quarter(2);
}

#[test]
fn clusters_keep_their_promises_fourth_quarter() {
    quarter(3);
}

/// Replays `SIM_SEED`; without it, some seed.
#[test]
fn replay() {
    let seed = number("SIM_SEED").unwrap_or(REPLAYED);
    let report = run::<SimDisk>(seed, &Plan::default()).unwrap_or_else(|failure| fail(seed, &failure));
    println!("seed {seed}: {report:?}");
    println!("{HASH_LINE}{:016x}", report.trace_hash);
}

#[test]
fn a_seed_replays_exactly_in_this_process_and_in_another() {
    let run = |seed| run::<SimDisk>(seed, &Plan::default()).unwrap_or_else(|failure| fail(seed, &failure));
    let first = run(REPLAYED).trace_hash;
    assert_eq!(first, run(REPLAYED).trace_hash, "the same seed, the same events at the same times");
    assert_ne!(first, run(REPLAYED + 1).trace_hash, "another seed");

    let other = Command::new(std::env::current_exe().unwrap())
        .args(["seeds::replay", "--exact", "--nocapture"])
        .env("SIM_SEED", REPLAYED.to_string())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&other.stdout);
    let hash = output.lines().find_map(|line| line.strip_prefix(HASH_LINE));
    assert_eq!(hash, Some(format!("{first:016x}").as_str()), "{output}");
}
