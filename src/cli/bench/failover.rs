//! kill -9 of the leader under load: how long nobody can write.
//!
//! The open loop writes on nodes that survive; what fails is not counted, since the clients of the killed node
//! must fail.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::BenchArgs;
use super::closed_loop::progress;
use super::outage::{Writes, load, outage};
use super::report::Failover;
use super::target::Target;
use crate::cli::failure::{Exit, Failure};

pub(super) async fn run(args: &BenchArgs, clients: u16, target: &mut Target) -> Result<Failover, Failure> {
    let bar = progress(u64::from(args.runs));
    bar.set_message(format!("failover, {clients} clients"));
    bar.tick();
    let mut outages = Vec::new();
    for _ in 0..args.runs {
        outages.push(once(args, clients, target).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Failover::new(clients, &outages))
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
    let writes = Writes::default();
    let load = load(clients, &all, survivors, &writes);
    tokio::time::sleep(args.warmup).await;
    let killed = Instant::now();
    if let Some(cluster) = target.cluster() {
        cluster.signal(leader, Signal::KILL);
    }
    let outage = outage(&writes, killed).await;
    drop(load);
    restart(target, leader).await?;
    outage
}

async fn restart(target: &mut Target, index: usize) -> Result<(), Failure> {
    let Some(cluster) = target.cluster() else { return Ok(()) };
    while cluster.pid(index).is_some() {
        cluster.reap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.start(index).map(drop)
}
