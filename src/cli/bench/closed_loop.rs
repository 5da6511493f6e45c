//! Clients that each do one thing after another: lock pairs, reads, writes.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinSet;

use super::report::Rate;
use super::target::{PREPARE_PATIENCE, PREPARE_PAUSE, Target};
use super::wire::{Connection, request};
use super::{BenchArgs, Scenario};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// What is written: as in the figures that others publish.
pub(super) const VALUE_BYTES: usize = 256;
/// One operation may take this long before it counts as an error.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error, before the next connection.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const PROGRESS_STEP: Duration = Duration::from_millis(100);
/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// What a step's answer must be.
#[derive(Clone, Debug)]
pub(super) enum Check {
    Status(u16),
    /// 200 with a fencing token larger than any before on this key.
    TokenGrows,
    /// 200 with exactly these bytes.
    Body(Vec<u8>),
}

/// The requests of one operation, in order.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) address: String,
    steps: Vec<(Vec<u8>, Check)>,
    last_token: u64,
}

impl Script {
    /// The operation of client `number`, on keys that no other client or run uses.
    pub(super) fn new(scenario: Scenario, run: &str, number: usize, address: &str) -> Script {
        let steps = match scenario {
            Scenario::Lock => lock_steps(run, number, address),
            Scenario::Read => vec![(get_value(run, number, address), Check::Body(value(number)))],
            _ => vec![put_value(run, number, address)],
        };
        Script { address: address.to_owned(), steps, last_token: 0 }
    }

    /// What must be there before: the value to read.
    pub(super) fn preparation(run: &str, number: usize, address: &str) -> Script {
        Script { address: address.to_owned(), steps: vec![put_value(run, number, address)], last_token: 0 }
    }

    /// Does it once.
    pub(super) async fn run(&mut self, connection: &mut Connection) -> io::Result<()> {
        for (bytes, check) in &self.steps {
            let reply = connection.send(bytes).await?;
            let right = match check {
                Check::Status(status) => reply.status == *status,
                Check::Body(body) => reply.status == 200 && reply.body == body.as_slice(),
                Check::TokenGrows => match (reply.status, token(reply.body)) {
                    (200, Some(token)) => std::mem::replace(&mut self.last_token, token) < token,
                    _ => false,
                },
            };
            if !right {
                let words = String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]);
                return Err(io::Error::other(format!("answer {}: {words}", reply.status)));
            }
        }
        Ok(())
    }
}

fn lock_steps(run: &str, number: usize, address: &str) -> Vec<(Vec<u8>, Check)> {
    let path = format!("/api/v1/cluster/locks/bench%3A{run}%3A{number}");
    // The client brings its own secret, so that every request of it is the same bytes.
    let secret = random_id();
    let acquire = format!(r#"{{"owner":"bench-{number}","ttl_ms":60000,"secret":"{secret}"}}"#);
    let release = format!(r#"{{"secret":"{secret}"}}"#);
    let post = |verb: &str, body: &str| {
        request("POST", address, &format!("{path}/{verb}"), "application/json", body.as_bytes())
    };
    vec![(post("acquire", &acquire), Check::TokenGrows), (post("release", &release), Check::Status(204))]
}

fn value(number: usize) -> Vec<u8> {
    let seed = format!("value of client {number}, ");
    seed.bytes().cycle().take(VALUE_BYTES).collect()
}

fn kv_path(run: &str, number: usize) -> String {
    format!("/api/v1/cluster/kv/bench%3A{run}%3A{number}")
}

fn get_value(run: &str, number: usize, address: &str) -> Vec<u8> {
    request("GET", address, &kv_path(run, number), "", &[])
}

fn put_value(run: &str, number: usize, address: &str) -> (Vec<u8>, Check) {
    (write_request(run, number, address), Check::Status(200))
}

/// Writes the register of client `number`.
pub(super) fn write_request(run: &str, number: usize, address: &str) -> Vec<u8> {
    request("PUT", address, &kv_path(run, number), "application/octet-stream", &value(number))
}

/// The fencing token of an acquire's answer.
pub(super) fn token(body: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value["fencing_token"].as_str()?.parse().ok()
}

pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .map_err(|e| Failure::new(Exit::Failure, format!("cannot make a histogram: {e}")))
}

pub(super) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LATENCY_US_MAX).max(1));
}

/// A bar on stderr, hidden when that is no terminal.
pub(super) fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg:28} [{bar:40}] {percent:>3}%  {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// When counting begins and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) to: Instant,
}

impl Window {
    pub(super) fn new(args: &BenchArgs) -> Window {
        let from = Instant::now() + args.warmup;
        Window { from, to: from + Duration::from_secs(args.seconds) }
    }

    pub(super) fn steps(args: &BenchArgs) -> u64 {
        let all = args.warmup + Duration::from_secs(args.seconds);
        u64::try_from(all.as_millis() / PROGRESS_STEP.as_millis()).unwrap_or(u64::MAX)
    }

    /// Moves the bar until the end.
    pub(super) async fn show(self, bar: &ProgressBar) {
        while Instant::now() < self.to {
            tokio::time::sleep(PROGRESS_STEP).await;
            bar.inc(1);
        }
    }
}

/// What one client saw.
struct Tally {
    latencies: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

pub(super) async fn run(
    args: &BenchArgs,
    steps: &[u16],
    addresses: &[String],
    target: &Target,
) -> Result<Vec<Rate>, Failure> {
    run_scenario(args, args.scenario, steps, addresses, target).await
}

pub(super) async fn run_scenario(
    args: &BenchArgs,
    scenario: Scenario,
    steps: &[u16],
    addresses: &[String],
    target: &Target,
) -> Result<Vec<Rate>, Failure> {
    let bar = progress(Window::steps(args) * steps.len() as u64);
    let mut rates = Vec::new();
    for clients in steps {
        bar.set_message(format!("{}, {clients} clients", scenario.name()));
        rates.push(measure(args, scenario, *clients, addresses, target, &bar).await?);
    }
    bar.finish_and_clear();
    Ok(rates)
}

async fn measure(
    args: &BenchArgs,
    scenario: Scenario,
    clients: u16,
    addresses: &[String],
    target: &Target,
    bar: &ProgressBar,
) -> Result<Rate, Failure> {
    let run = &random_id()[..8];
    let address = |number: usize| addresses[number % addresses.len()].as_str();
    if scenario == Scenario::Read {
        for number in 0..usize::from(clients) {
            prepare(Script::preparation(run, number, address(number))).await?;
        }
    }
    let window = Window::new(args);
    let mut tasks = JoinSet::new();
    for number in 0..usize::from(clients) {
        let script = Script::new(scenario, run, number, address(number));
        tasks.spawn(client(script, window, histogram()?));
    }
    tokio::time::sleep_until(window.from.into()).await;
    let meter = target.meter();
    window.show(bar).await;
    let used = meter.read(target);
    let mut all = Tally { latencies: histogram()?, errors: 0, first_error: None };
    while let Some(tally) = tasks.join_next().await {
        let tally = tally.map_err(|e| Failure::new(Exit::Failure, format!("a client failed: {e}")))?;
        all.errors += tally.errors;
        all.first_error = all.first_error.or(tally.first_error);
        all.latencies += tally.latencies;
    }
    let (count, seconds) = (all.latencies.len(), (window.to - window.from).as_secs_f64());
    let first_error = all.first_error.unwrap_or_else(|| "no answer in time".to_owned());
    if count == 0 {
        return Err(Failure::new(Exit::Failure, format!("not one operation succeeded: {first_error}")));
    }
    Ok(Rate {
        clients,
        target: args.target,
        operations: count,
        per_second: count as f64 / seconds,
        p50_ms: all.latencies.value_at_quantile(0.5) as f64 / 1_000.0,
        p99_ms: all.latencies.value_at_quantile(0.99) as f64 / 1_000.0,
        max_ms: all.latencies.max() as f64 / 1_000.0,
        errors: all.errors,
        first_error: (all.errors > 0).then_some(first_error),
        cost: used.per(count),
    })
}

/// Writes what is read later. Nothing is measured yet, so it is tried again.
async fn prepare(mut script: Script) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let done = async {
            let mut connection = Connection::open(&script.address.clone()).await?;
            script.run(&mut connection).await
        };
        match done.await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() >= PREPARE_PATIENCE => {
                return Err(Failure::io("write the value to read", &error));
            }
            Err(_) => tokio::time::sleep(PREPARE_PAUSE).await,
        }
    }
}

/// One thing after another until the end.
async fn client(mut script: Script, window: Window, latencies: Histogram<u64>) -> Tally {
    let mut tally = Tally { latencies, errors: 0, first_error: None };
    let mut connection = None;
    while Instant::now() < window.to {
        let begun = Instant::now();
        let operation = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&script.address.clone()).await?,
            };
            script.run(&mut open).await?;
            io::Result::Ok(open)
        };
        let done = tokio::time::timeout(OPERATION_TIMEOUT, operation).await;
        match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(open) => {
                connection = Some(open);
                let now = Instant::now();
                if now >= window.from && now <= window.to {
                    record(&mut tally.latencies, now - begun);
                }
            }
            Err(error) => {
                tally.errors += 1;
                tally.first_error.get_or_insert_with(|| error.to_string());
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_strictly() {
        assert_eq!(token(br#"{"fencing_token":"42"}"#), Some(42));
        assert_eq!(token(br#"{"fencing_token":42}"#), None, "u64 values are decimal strings");
        assert_eq!(token(b"fencing_token"), None);
    }

    #[test]
    fn values_have_the_promised_size_and_differ() {
        assert_eq!(value(1).len(), VALUE_BYTES);
        assert_ne!(value(1), value(2));
    }
}
