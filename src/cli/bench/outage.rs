//! Writers that tell how long nobody could write, and what failed: for fail-overs and hand-overs.
//!
//! Two kinds of them run: clients that do one thing after another, as load, and an open loop that starts a fresh
//! write every few milliseconds, so that a write which is stuck somewhere does not hide that new ones succeed.
//! The outage is the longest time between two successful writes around the event, whoever made them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Scenario;
use super::closed_loop::{RECONNECT_PAUSE, Script};
use super::wire::Connection;
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// One write, before its client tries another node.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between the starts of two open-loop writes: the resolution of the result.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// Open-loop writes that may be under way at once.
const PROBES_MAX: usize = 256;
/// An outage that takes longer is reported as a failure.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
/// Success for so long ends a run.
const CALM_AFTER: Duration = Duration::from_millis(500);
/// Successes that are remembered.
const SUCCESSES_MAX: usize = 1_000_000;

/// What became of the writes.
#[derive(Clone, Default)]
pub(super) struct Writes(Arc<Mutex<Tally>>);

#[derive(Default)]
struct Tally {
    /// When writes succeeded.
    succeeded: VecDeque<Instant>,
    successes: u64,
    failures: u64,
    first_failure: Option<String>,
}

/// What became of all of them.
pub(super) struct Sum {
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) first_failure: Option<String>,
}

impl Writes {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        let mut tally = self.lock();
        if tally.succeeded.len() == SUCCESSES_MAX {
            tally.succeeded.pop_front();
        }
        tally.succeeded.push_back(Instant::now());
        tally.successes += 1;
    }

    fn failed(&self, error: &io::Error) {
        let mut tally = self.lock();
        tally.failures += 1;
        tally.first_failure.get_or_insert_with(|| error.to_string());
    }

    fn since(&self, from: Instant) -> Vec<Instant> {
        self.lock().succeeded.iter().copied().filter(|at| *at >= from).collect()
    }

    pub(super) fn sum(&self) -> Sum {
        let tally = self.lock();
        let first_failure = tally.first_failure.clone();
        Sum { successes: tally.successes, failures: tally.failures, first_failure }
    }
}

/// Starts the writers: `clients` of them on all nodes, and the open loop on some.
pub(super) fn load(clients: u16, all: &[String], probed: Vec<String>, writes: &Writes) -> JoinSet<()> {
    let mut load = JoinSet::new();
    let run = random_id()[..8].to_owned();
    for number in 0..usize::from(clients) {
        load.spawn(client(run.clone(), number, all.to_vec(), writes.clone()));
    }
    load.spawn(probes(format!("{run}-probe"), probed, writes.clone()));
    load
}

/// The longest time between two successes from shortly before `event` until writes flow again.
pub(super) async fn outage(writes: &Writes, event: Instant) -> Result<Duration, Failure> {
    let before = event.checked_sub(Duration::from_millis(100)).unwrap_or(event);
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let times = writes.since(before);
        if let Some(longest) = calm(&times, event) {
            return Ok(longest);
        }
        if event.elapsed() > OUTAGE_MAX {
            let message = format!("no write succeeded for {} s", OUTAGE_MAX.as_secs());
            return Err(Failure::new(Exit::NoQuorum, message));
        }
    }
}

/// The longest gap, once writes flowed without another such gap for [`CALM_AFTER`].
fn calm(times: &[Instant], event: Instant) -> Option<Duration> {
    let longest = times.windows(2).max_by_key(|pair| pair[1] - pair[0])?;
    let recovered = longest[1].max(event);
    (*times.last()? >= recovered + CALM_AFTER).then(|| longest[1] - longest[0])
}

/// One write after another, on the next node after an error.
async fn client(run: String, number: usize, addresses: Vec<String>, writes: Writes) {
    for turn in number.. {
        let address = &addresses[turn % addresses.len()];
        let mut script = Script::new(Scenario::Write, &run, number, address);
        let session = async {
            let mut connection = Connection::open(address).await?;
            loop {
                let written = tokio::time::timeout(WRITE_TIMEOUT, script.run(&mut connection)).await;
                written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                writes.succeeded();
            }
        };
        // Ends by an error only.
        let ended: io::Result<()> = session.await;
        if let Err(error) = ended {
            writes.failed(&error);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// A fresh write every few milliseconds, whatever became of the others.
async fn probes(run: String, addresses: Vec<String>, writes: Writes) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    let mut under_way = JoinSet::new();
    for number in 0.. {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= PROBES_MAX {
            continue;
        }
        let (run, writes) = (run.clone(), writes.clone());
        let address = addresses[number % addresses.len()].clone();
        under_way.spawn(async move {
            let write = async {
                let mut connection = Connection::open(&address).await?;
                // A few keys, so that the registers of many runs stay few.
                Script::new(Scenario::Write, &run, number % 16, &address).run(&mut connection).await
            };
            let written = tokio::time::timeout(WRITE_TIMEOUT, write).await;
            match written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => writes.succeeded(),
                Err(error) => writes.failed(&error),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_is_the_longest_gap_once_writes_flow_again() {
        let event = Instant::now();
        let at = |ms: u64| event + Duration::from_millis(ms);
        let mut times = vec![at(0), at(2), at(352), at(354)];
        assert_eq!(calm(&times, event), None, "not calm yet");
        times.push(at(600));
        times.push(at(860));
        assert_eq!(calm(&times, event), Some(Duration::from_millis(350)));
        assert_eq!(calm(&[], event), None);
    }
}
