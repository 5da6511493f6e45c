//! kill -9 of the leader under load: how long nobody can write.
//!
//! Two kinds of writers run: clients that do one thing after another, as load, and an open loop that starts a
//! fresh write every few milliseconds on a node that survives, so that a write which is stuck in the old leader
//! does not hide that new ones succeed. The outage is the longest time between two successful writes around
//! the kill, whoever made them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::closed_loop::{RECONNECT_PAUSE, Script, progress};
use super::report::Failover;
use super::target::Target;
use super::wire::Connection;
use super::{BenchArgs, Scenario};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// One write, before its client tries another node.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between the starts of two open-loop writes: the resolution of the result.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// Open-loop writes that may be under way at once.
const PROBES_MAX: usize = 256;
/// A fail-over that takes longer is reported as a failure.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
/// Success for so long ends a run.
const CALM_AFTER: Duration = Duration::from_millis(500);
/// Successes that are remembered.
const SUCCESSES_MAX: usize = 1_000_000;

/// When writes succeeded.
#[derive(Clone, Default)]
struct Successes(Arc<Mutex<VecDeque<Instant>>>);

impl Successes {
    fn add(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == SUCCESSES_MAX {
            all.pop_front();
        }
        all.push_back(Instant::now());
    }

    fn since(&self, from: Instant) -> Vec<Instant> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().copied().filter(|at| *at >= from).collect()
    }
}

pub(super) async fn run(args: &BenchArgs, clients: u16, target: &mut Target) -> Result<Failover, Failure> {
    let bar = progress(u64::from(args.runs));
    bar.set_message(format!("failover, {clients} clients"));
    bar.tick();
    let mut outages_ms = Vec::new();
    for _ in 0..args.runs {
        let outage = once(args, clients, target).await?;
        outages_ms.push(outage.as_secs_f64() * 1_000.0);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut sorted = outages_ms.clone();
    sorted.sort_by(f64::total_cmp);
    Ok(Failover {
        clients,
        median_ms: sorted[sorted.len() / 2],
        max_ms: sorted[sorted.len() - 1],
        outages_ms,
    })
}

async fn once(args: &BenchArgs, clients: u16, target: &mut Target) -> Result<Duration, Failure> {
    target.until_ready().await?;
    let leader = target.leader().await?;
    let mut survivors = target.addresses(super::Aim::All).await?;
    let all = survivors.clone();
    survivors.remove(leader);
    if survivors.len() < 2 {
        return Err(Failure::new(Exit::Usage, "a fail-over needs at least 3 nodes").help("raise --nodes"));
    }
    let successes = Successes::default();
    let mut load = JoinSet::new();
    let run = random_id()[..8].to_owned();
    for number in 0..usize::from(clients) {
        load.spawn(client(run.clone(), number, all.clone(), successes.clone()));
    }
    load.spawn(probes(format!("{run}-probe"), survivors, successes.clone()));
    tokio::time::sleep(args.warmup).await;
    let killed = Instant::now();
    if let Some(cluster) = target.cluster() {
        cluster.signal(leader, Signal::KILL);
    }
    let outage = outage(&successes, killed).await;
    drop(load);
    restart(target, leader).await?;
    outage
}

/// The longest time between two successes from shortly before the kill until writes flow again.
async fn outage(successes: &Successes, killed: Instant) -> Result<Duration, Failure> {
    let before = killed.checked_sub(Duration::from_millis(100)).unwrap_or(killed);
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let times = successes.since(before);
        if let Some(longest) = calm(&times, killed) {
            return Ok(longest);
        }
        if killed.elapsed() > OUTAGE_MAX {
            let message =
                format!("no write succeeded for {} s after the leader was killed", OUTAGE_MAX.as_secs());
            return Err(Failure::new(Exit::NoQuorum, message));
        }
    }
}

/// The longest gap, once writes flowed without another such gap for [`CALM_AFTER`].
fn calm(times: &[Instant], killed: Instant) -> Option<Duration> {
    let longest = times.windows(2).max_by_key(|pair| pair[1] - pair[0])?;
    let recovered = longest[1].max(killed);
    (*times.last()? >= recovered + CALM_AFTER).then(|| longest[1] - longest[0])
}

async fn restart(target: &mut Target, index: usize) -> Result<(), Failure> {
    let Some(cluster) = target.cluster() else { return Ok(()) };
    while cluster.pid(index).is_some() {
        cluster.reap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.start(index).map(drop)
}

/// One write after another, on the next node after an error.
async fn client(run: String, number: usize, addresses: Vec<String>, successes: Successes) {
    for turn in number.. {
        let address = &addresses[turn % addresses.len()];
        let mut script = Script::new(Scenario::Write, &run, number, address);
        let session = async {
            let mut connection = Connection::open(address).await?;
            loop {
                let written = tokio::time::timeout(WRITE_TIMEOUT, script.run(&mut connection)).await;
                written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                successes.add();
            }
        };
        // Ends by an error only.
        let _: io::Result<()> = session.await;
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// A fresh write every few milliseconds, whatever became of the others.
async fn probes(run: String, addresses: Vec<String>, successes: Successes) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    let mut under_way = JoinSet::new();
    for number in 0.. {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= PROBES_MAX {
            continue;
        }
        let (run, successes) = (run.clone(), successes.clone());
        let address = addresses[number % addresses.len()].clone();
        under_way.spawn(async move {
            let write = async {
                let mut connection = Connection::open(&address).await?;
                // A few keys, so that the registers of many runs stay few.
                Script::new(Scenario::Write, &run, number % 16, &address).run(&mut connection).await
            };
            if let Ok(Ok(())) = tokio::time::timeout(WRITE_TIMEOUT, write).await {
                successes.add();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_is_the_longest_gap_once_writes_flow_again() {
        let killed = Instant::now();
        let at = |ms: u64| killed + Duration::from_millis(ms);
        let mut times = vec![at(0), at(2), at(352), at(354)];
        assert_eq!(calm(&times, killed), None, "not calm yet");
        times.push(at(600));
        times.push(at(860));
        assert_eq!(calm(&times, killed), Some(Duration::from_millis(350)));
        assert_eq!(calm(&[], killed), None);
    }
}
