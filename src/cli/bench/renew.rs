//! Many holders that renew: what it costs, and how late renewals are answered.
//!
//! Each holder is due at a third of its TTL, spread evenly. A renewal is answered once the entry that carries it is
//! applied; entries carry many of them, so the log grows far slower than renewals come. Too few connections make
//! them late by themselves: each carries one at a time, and collecting renewals takes up to 50 ms.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::BenchArgs;
use super::closed_loop::{OPERATION_TIMEOUT, RECONNECT_PAUSE, Window, histogram, progress, record};
use super::held::{HeldLock, hold};
use super::report::Renewals;
use super::target::Target;
use super::wire::Connection;
use crate::cli::failure::{Exit, Failure};

/// Holders, when none are asked for.
pub(super) const HOLDERS_DEFAULT: u32 = 10_000;
/// Holders renew after this share of their TTL, as the library does.
const RENEW_SHARE: u32 = 3;

/// What one connection saw.
struct Tally {
    /// Between the moment a renewal was due and its answer.
    lateness: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

pub(super) async fn run(
    args: &BenchArgs,
    connections: u16,
    addresses: &[String],
    target: &mut Target,
) -> Result<Renewals, Failure> {
    let holders = if args.held == 0 { HOLDERS_DEFAULT } else { args.held };
    let ttl_ms = u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX);
    let held = hold(holders, Some(ttl_ms), addresses).await?;
    let bar = progress(Window::steps(args));
    bar.set_message(format!("renew, {holders} holders"));
    let period = args.ttl / RENEW_SHARE;
    let begun = Instant::now();
    let window = Window::new(args);
    let mut parts: Vec<Vec<(Duration, HeldLock)>> = vec![Vec::new(); usize::from(connections)];
    for (number, lock) in held.into_iter().enumerate() {
        let phase = period.mul_f64(number as f64 / f64::from(holders));
        parts[number % usize::from(connections)].push((phase, lock));
    }
    let mut tasks = JoinSet::new();
    for part in parts {
        let renewer = Renewer { addresses: addresses.to_vec(), part, period, begun, window };
        tasks.spawn(renewer.run(histogram()?));
    }
    tokio::time::sleep_until(window.from.into()).await;
    let (meter, (term, index)) = (target.meter(), target.progress().await?);
    window.show(&bar).await;
    let (used, (term_then, index_then)) = (meter.read(target), target.progress().await?);
    bar.finish_and_clear();
    let mut all = Tally { lateness: histogram()?, errors: 0, first_error: None };
    while let Some(tally) = tasks.join_next().await {
        let tally = tally.map_err(|e| Failure::new(Exit::Failure, format!("a client failed: {e}")))?;
        all.lateness += tally.lateness;
        all.errors += tally.errors;
        all.first_error = all.first_error.or(tally.first_error);
    }
    let (seconds, count) = ((window.to - window.from).as_secs_f64(), all.lateness.len());
    if count == 0 {
        let first = all.first_error.unwrap_or_else(|| "none was due".to_owned());
        return Err(Failure::new(Exit::Failure, format!("not one renewal succeeded: {first}"))
            .help("measure longer with --seconds, or shorten --ttl"));
    }
    let quantile = |q: f64| all.lateness.value_at_quantile(q) as f64 / 1_000.0;
    Ok(Renewals {
        holders,
        ttl_ms,
        connections,
        renewals: count,
        per_second: count as f64 / seconds,
        entries_per_second: index_then.saturating_sub(index) as f64 / seconds,
        late_p50_ms: quantile(0.5),
        late_p99_ms: quantile(0.99),
        late_max_ms: all.lateness.max() as f64 / 1_000.0,
        elections: term_then.saturating_sub(term),
        errors: all.errors,
        first_error: all.first_error,
        cost: used.per(count),
    })
}

/// One thing after another: the renewals of some holders.
struct Renewer {
    addresses: Vec<String>,
    /// By the moment within the period at which they are due.
    part: Vec<(Duration, HeldLock)>,
    period: Duration,
    begun: Instant,
    window: Window,
}

impl Renewer {
    async fn run(self, lateness: Histogram<u64>) -> Tally {
        let mut tally = Tally { lateness, errors: 0, first_error: None };
        let mut connections: Vec<Option<Connection>> = self.addresses.iter().map(|_| None).collect();
        for round in 0.. {
            for (phase, lock) in &self.part {
                let due = self.begun + self.period * round + *phase;
                if due >= self.window.to {
                    return tally;
                }
                tokio::time::sleep_until(due.into()).await;
                let renewed = renew(lock, &self.addresses[lock.node], &mut connections[lock.node]);
                let renewed = tokio::time::timeout(OPERATION_TIMEOUT, renewed).await;
                match renewed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(()) if due >= self.window.from => record(&mut tally.lateness, due.elapsed()),
                    Ok(()) => {}
                    Err(error) => {
                        tally.errors += 1;
                        tally.first_error.get_or_insert_with(|| error.to_string());
                        connections[lock.node] = None;
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                    }
                }
            }
            if self.part.is_empty() {
                break;
            }
        }
        tally
    }
}

async fn renew(lock: &HeldLock, address: &str, connection: &mut Option<Connection>) -> io::Result<()> {
    let open = match connection {
        Some(open) => open,
        closed => closed.insert(Connection::open(address).await?),
    };
    let reply = open.send(&lock.renewal).await?;
    match reply.status {
        200 => Ok(()),
        status => {
            let words = String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]);
            Err(io::Error::other(format!("answer {status}: {words}")))
        }
    }
}
