//! How long the checks take: `cargo bench -p ovncp-jepsen`, with other numbers of operations as arguments.
//!
//! Histories are made up from a seed, of 16 clients under 30 faults, five operations in a thousand of unknown outcome.
//! The second register history is a bad one: every thousandth read is stale, so that each key has a witness to find.

use std::time::{Duration, Instant};

use ovncp_jepsen::checker::synthetic::{Locks, Registers, Shape, play};
use ovncp_jepsen::checker::{PlanFacts, check};
use ovncp_jepsen::history::{History, Kind};
use ovncp_jepsen::report;

const OPERATIONS: [u64; 2] = [60_000, 100_000];
const STALE_EVERY: usize = 1_000;

fn main() {
    let asked: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if asked.is_empty() { OPERATIONS.to_vec() } else { asked };
    println!(
        "{:>10} {:28} {:>8} {:>9} {:>9} {:>9}",
        "operations", "history", "verdict", "check", "report", "page"
    );
    for operations in sizes {
        let shape = Shape { operations, clients: 16, groups: 4, faults: 30, ..Shape::default() };
        let registers = play(&shape, &mut Registers::new(shape.groups));
        let mut stale = registers.clone();
        spoil(&mut stale);
        measure(operations, "register", "registers", &registers);
        measure(operations, "register", "registers, stale reads", &stale);
        measure(operations, "fifo", "locks, queues, a fence", &play(&shape, &mut Locks::new(8)));
    }
}

/// Makes every so many reads show what its register was long before.
fn spoil(history: &mut History) {
    let reads: Vec<usize> = (0..history.events.len())
        .filter(|&at| history.events[at].f == "read" && history.events[at].kind == Kind::Ok)
        .collect();
    for at in reads.into_iter().step_by(STALE_EVERY) {
        let key = history.events[at].key.clone();
        let old = history.events[..at].iter().find(|event| event.kind == Kind::Ok && event.key == key);
        if let Some(value) = old.map(|event| event.value.clone()).filter(|value| value.get("value").is_some())
        {
            history.events[at].value = value;
        }
    }
}

fn measure(operations: u64, workload: &str, name: &str, history: &History) {
    let facts = PlanFacts { workload: workload.to_owned(), ..PlanFacts::default() };
    let began = Instant::now();
    let results = check(&facts, history);
    let checked = began.elapsed();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let began = Instant::now();
    let files = report::write(dir.path(), &facts, history, &results).expect("a report is written");
    let reported = began.elapsed();
    let bytes = std::fs::metadata(&files[0]).map_or(0, |page| page.len());
    println!(
        "{operations:>10} {name:28} {:>8} {:>9} {:>9} {:>6} MB",
        results.verdict.name(),
        seconds(checked),
        seconds(reported),
        bytes / 1_000_000,
    );
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
