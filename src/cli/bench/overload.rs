//! Far more requests than the cluster can serve: what is still done, what is refused, and whether it stays calm.
//!
//! First a closed loop measures what the cluster can do. Then requests are due on a schedule of their own, a multiple of
//! that, whatever became of the earlier ones. One that is due while every connection still waits for an answer is not
//! sent, and counts as held back: that is how a node that is overloaded slows its clients down. With
//! `--split-cores` own nodes and the load run on different cores, so that what the load costs is not taken for what
//! overload costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::closed_loop::{
    self, OPERATION_TIMEOUT, RECONNECT_PAUSE, Window, histogram, progress, record, write_request,
};
use super::report::{Overload, Overloads};
use super::target::Target;
use super::wire::Connection;
use super::{BenchArgs, Scenario};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// Requests in progress that each node of the own cluster takes, when nothing else is asked for: fewer than the
/// connections of the load, so that there is something to refuse.
pub(super) const REQUESTS_MAX: u32 = 512;
/// Clients that find out the capacity.
const CAPACITY_CLIENTS: u16 = 256;

/// What one connection saw.
struct Tally {
    answers: BTreeMap<u16, u64>,
    held_back: u64,
    succeeded: Histogram<u64>,
    refused: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            answers: BTreeMap::new(),
            held_back: 0,
            succeeded: histogram()?,
            refused: histogram()?,
            errors: 0,
            first_error: None,
        })
    }
}

pub(super) async fn run(
    args: &BenchArgs,
    steps: &[u16],
    addresses: &[String],
    target: &mut Target,
) -> Result<Overloads, Failure> {
    let capacity =
        closed_loop::run_scenario(args, Scenario::Write, &[CAPACITY_CLIENTS], addresses, target).await?;
    let capacity = capacity.first().map_or(0.0, |rate| rate.per_second);
    let memory_mb_before = target.memory_mb();
    let bar = progress(Window::steps(args) * steps.len() as u64);
    let mut results = Vec::new();
    for connections in steps {
        bar.set_message(format!("overload, {connections} connections"));
        let term = target.progress().await?.0;
        let window = Window::new(args);
        let every = Duration::from_secs_f64(f64::from(*connections) / (capacity * args.factor).max(1.0));
        let run = random_id()[..8].to_owned();
        let mut tasks = JoinSet::new();
        for number in 0..usize::from(*connections) {
            let address = addresses[number % addresses.len()].clone();
            tasks.spawn(client(run.clone(), number, address, every, window, Tally::new()?));
        }
        tokio::time::sleep_until(window.from.into()).await;
        let meter = target.meter();
        window.show(&bar).await;
        let used = meter.read(target);
        let mut all = Tally::new()?;
        while let Some(tally) = tasks.join_next().await {
            let tally = tally.map_err(|e| Failure::new(Exit::Failure, format!("a client failed: {e}")))?;
            all.succeeded += tally.succeeded;
            all.refused += tally.refused;
            all.errors += tally.errors;
            all.held_back += tally.held_back;
            for (status, count) in tally.answers {
                *all.answers.entry(status).or_default() += count;
            }
            all.first_error = all.first_error.or(tally.first_error);
        }
        // Asked once it is calm again: overload must not decide whether the answer comes.
        let elections = target.progress().await?.0.saturating_sub(term);
        let seconds = (window.to - window.from).as_secs_f64();
        let (good, refused) = (all.succeeded.len(), all.refused.len());
        let quantile = |of: &Histogram<u64>, q| of.value_at_quantile(q) as f64 / 1_000.0;
        results.push(Overload {
            connections: *connections,
            due_per_second: capacity * args.factor,
            sent_per_second: (good + refused + all.errors) as f64 / seconds,
            held_back_per_second: all.held_back as f64 / seconds,
            answers: all.answers,
            goodput_per_second: good as f64 / seconds,
            refused_per_second: refused as f64 / seconds,
            p50_ms: quantile(&all.succeeded, 0.5),
            p99_ms: quantile(&all.succeeded, 0.99),
            refused_p99_ms: quantile(&all.refused, 0.99),
            elections,
            errors: all.errors,
            first_error: all.first_error,
            cost: used.per(good),
        });
    }
    bar.finish_and_clear();
    Ok(Overloads {
        capacity_per_second: capacity,
        factor: args.factor,
        cores: target.cores(),
        memory_mb_before,
        steps: results,
    })
}

/// One write after another, each when it is due or as soon as the one before it is answered.
async fn client(
    run: String,
    number: usize,
    address: String,
    every: Duration,
    window: Window,
    mut tally: Tally,
) -> Tally {
    let bytes = write_request(&run, number, &address);
    let mut connection = None;
    // Spread over the first interval, so that not all begin at once.
    let mut due = Instant::now() + every.mul_f64(rand::random());
    while due < window.to && Instant::now() < window.to {
        tokio::time::sleep_until(due.into()).await;
        let begun = Instant::now();
        let exchange = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&address).await?,
            };
            let status = open.send(&bytes).await?.status;
            std::io::Result::Ok((open, status))
        };
        let counts = begun >= window.from && begun < window.to;
        let exchanged = tokio::time::timeout(OPERATION_TIMEOUT, exchange).await;
        match exchanged.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok((open, status)) => {
                connection = Some(open);
                if counts {
                    *tally.answers.entry(status).or_default() += 1;
                }
                match status {
                    200 if counts => record(&mut tally.succeeded, begun.elapsed()),
                    429 | 503 if counts => record(&mut tally.refused, begun.elapsed()),
                    200 | 429 | 503 => {}
                    _ if !counts => {}
                    status => {
                        tally.errors += 1;
                        tally.first_error.get_or_insert_with(|| format!("answer {status}"));
                    }
                }
            }
            Err(error) => {
                if counts {
                    tally.errors += 1;
                    tally.first_error.get_or_insert_with(|| error.to_string());
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
        // What could not be sent in time is not made up for: that would only pile up here.
        due += every;
        let late = Instant::now().min(window.to).saturating_duration_since(due);
        if !late.is_zero() {
            // Part of an interval is due as much as all of it, on average.
            let missed = late.as_secs_f64() / every.as_secs_f64();
            due += every.mul_f64(missed);
            if counts {
                tally.held_back += missed.round() as u64;
            }
        }
    }
    tally
}
