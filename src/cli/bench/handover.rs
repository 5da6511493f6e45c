//! Planned hand-overs under load: how long nobody can write, and which requests fail. None should: what cannot be
//! served for a moment waits.

use super::closed_loop::progress;
use super::outage::{Writes, load, outage};
use super::report::{Failover, Handover};
use super::target::Target;
use super::{Aim, BenchArgs};
use crate::cli::failure::Failure;

pub(super) async fn run(args: &BenchArgs, clients: u16, target: &mut Target) -> Result<Handover, Failure> {
    let bar = progress(u64::from(args.runs));
    bar.set_message(format!("handover, {clients} clients"));
    bar.tick();
    target.until_ready().await?;
    let all = target.addresses(Aim::All).await?;
    let writes = Writes::default();
    let load = load(clients, &all, all.clone(), &writes);
    tokio::time::sleep(args.warmup).await;
    let meter = target.meter();
    let before = writes.sum();
    let (mut outages, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        let begun = target.hand_over().await?;
        calls.push(begun.elapsed());
        outages.push(outage(&writes, begun).await?);
        bar.inc(1);
    }
    let used = meter.read(target);
    let sum = writes.sum();
    drop(load);
    bar.finish_and_clear();
    Ok(Handover {
        outages: Failover::new(clients, &outages),
        calls: Failover::new(clients, &calls),
        writes: sum.successes,
        failed: sum.failures,
        first_error: sum.first_failure,
        cost: used.per(sum.successes - before.successes),
    })
}
