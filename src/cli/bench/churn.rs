//! What comes and goes for an hour, and what of it stays: names that are used once, leases that nobody ends, waits that
//! time out, registers with a time to live, terms of office, watchers that connect and leave.
//!
//! Each node should end as it was after the first minutes, since the replicated state is as large at the end as it was
//! then. So the load has a fixed rate below what the cluster can do, and what is looked at is each node's memory, log
//! and snapshot over time, beside how much the state holds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use ovncp::client::{Call, Client, Consistency};
use serde_json::Value;
use tokio::task::JoinSet;

use super::BenchArgs;
use super::closed_loop::{OPERATION_TIMEOUT, RECONNECT_PAUSE, progress, token};
use super::report::{Churn, ChurnCounts, Growth, Held, NodeSample, Sample};
use super::target::Target;
use super::wire::{Connection, keyed, request};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// Connections that share the rate.
pub(super) const CLIENTS_DEFAULT: u16 = 64;
/// How long it goes on, when nothing else is asked for.
const TIME_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// Samples of one run, unless that makes them closer than a second.
const SAMPLES: u32 = 120;
const SAMPLE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Watchers at any time, over all nodes.
const WATCHERS: usize = 16;
/// A watcher stays for so long at most.
const WATCH_TIME_MAX: Duration = Duration::from_secs(10);
/// One watcher in so many asks for everything that is kept.
const WATCH_ALL_SHARE: u64 = 8;
/// Keys that are wanted by more clients than can have them.
const WANTED_KEYS: u64 = 8;
/// Lease of what nobody gives back.
const LEFT_TTL_MS: u64 = 1_000;
/// A wait that is often over before the lease is.
const WAIT_MS: u64 = 100;
/// A node that does not answer in this time is left out of a sample.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Share of the samples at the beginning and at the end of which the medians are compared.
const ENDS_SHARE: usize = 10;

/// What all clients did together.
#[derive(Default)]
struct Counters {
    pairs: AtomicU64,
    left: AtomicU64,
    waits_granted: AtomicU64,
    waits_timed_out: AtomicU64,
    registers: AtomicU64,
    terms: AtomicU64,
    watchers: AtomicU64,
    events: AtomicU64,
    errors: AtomicU64,
    first_error: std::sync::OnceLock<String>,
}

impl Counters {
    fn failed(&self, error: &impl ToString) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.first_error.get_or_init(|| error.to_string());
    }

    fn read(&self) -> ChurnCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ChurnCounts {
            lock_pairs: read(&self.pairs),
            leases_left_to_end: read(&self.left),
            waits_granted: read(&self.waits_granted),
            waits_timed_out: read(&self.waits_timed_out),
            registers: read(&self.registers),
            terms: read(&self.terms),
            watchers: read(&self.watchers),
            events_seen: read(&self.events),
        }
    }
}

pub(super) async fn run(
    args: &BenchArgs,
    clients: u16,
    addresses: &[String],
    target: &mut Target,
) -> Result<Churn, Failure> {
    let time = args.time.unwrap_or(TIME_DEFAULT);
    let to = Instant::now() + time;
    let (counters, term) = (Arc::new(Counters::default()), target.progress().await?.0);
    let every = Duration::from_secs_f64(f64::from(clients) / f64::from(args.rate));
    let run = random_id()[..8].to_owned();
    let mut tasks = JoinSet::new();
    for number in 0..usize::from(clients) {
        let address = addresses[number % addresses.len()].clone();
        let client = Churner { run: run.clone(), number, address, done: 0, counters: Arc::clone(&counters) };
        tasks.spawn(client.run(every, to));
    }
    for number in 0..WATCHERS {
        let endpoint = format!("http://{}", addresses[number % addresses.len()]);
        tasks.spawn(watch(endpoint, to, Arc::clone(&counters)));
    }
    let pause = (time / SAMPLES).max(SAMPLE_PAUSE_MIN);
    let bar = progress(u64::try_from(time.as_millis() / pause.as_millis()).unwrap_or(u64::MAX));
    bar.set_message("churn");
    let samples = sample_until(to, pause, target, &bar).await?;
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Failure::new(Exit::Failure, format!("a client failed: {e}")))?;
    }
    bar.finish_and_clear();
    Ok(Churn {
        seconds: time.as_secs_f64(),
        clients,
        rate: args.rate,
        counts: counters.read(),
        elections: target.progress().await?.0.saturating_sub(term),
        errors: counters.errors.load(Ordering::Relaxed),
        first_error: counters.first_error.get().cloned(),
        growth: growth(&samples),
        samples,
    })
}

/// One thing after another, each when it is due.
struct Churner {
    run: String,
    number: usize,
    address: String,
    /// Makes every name of this client a new one.
    done: u64,
    counters: Arc<Counters>,
}

impl Churner {
    async fn run(mut self, every: Duration, to: Instant) {
        let mut connection = None;
        let mut due = Instant::now() + every.mul_f64(rand::random());
        while due < to {
            tokio::time::sleep_until(due.into()).await;
            let operation = async {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => Connection::open(&self.address).await?,
                };
                self.operate(&mut open).await?;
                io::Result::Ok(open)
            };
            let done = tokio::time::timeout(OPERATION_TIMEOUT, operation).await;
            match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(open) => connection = Some(open),
                Err(error) => {
                    self.counters.failed(&error);
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
            // What could not be begun in time is not made up for.
            due = (due + every).max(Instant::now());
        }
    }

    async fn operate(&mut self, open: &mut Connection) -> io::Result<()> {
        self.done += 1;
        let counters = Arc::clone(&self.counters);
        let counted = match rand::random_range(0..100_u8) {
            0..40 => self.pair(open).await.map(|()| &counters.pairs),
            40..55 => self.leave(open).await.map(|()| &counters.left),
            55..70 => match self.wait(open).await? {
                true => Ok(&counters.waits_granted),
                false => Ok(&counters.waits_timed_out),
            },
            70..95 => self.register(open).await.map(|()| &counters.registers),
            _ => self.term(open).await.map(|()| &counters.terms),
        };
        counted?.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A name that was never used before and never will be again.
    fn name(&self) -> String {
        format!("churn%3A{}%3A{}%3A{}", self.run, self.number, self.done)
    }

    fn post(&self, path: &str, body: &str) -> Vec<u8> {
        request("POST", &self.address, path, "application/json", body.as_bytes())
    }

    /// Acquires and releases. With an idempotency key, so that kept answers come and go too.
    async fn pair(&self, open: &mut Connection) -> io::Result<()> {
        let path = format!("/api/v1/cluster/locks/{}", self.name());
        let secret = random_id();
        let acquire = format!(r#"{{"owner":"churn","ttl_ms":60000,"secret":"{secret}"}}"#);
        let acquire = keyed(self.post(&format!("{path}/acquire"), &acquire), &secret);
        granted(open, &acquire).await?;
        let release = self.post(&format!("{path}/release"), &format!(r#"{{"secret":"{secret}"}}"#));
        expect(open, &release, 204).await
    }

    /// Acquires and goes away.
    async fn leave(&self, open: &mut Connection) -> io::Result<()> {
        let path = format!("/api/v1/cluster/locks/{}/acquire", self.name());
        granted(open, &self.post(&path, &format!(r#"{{"owner":"churn","ttl_ms":{LEFT_TTL_MS}}}"#))).await
    }

    /// Waits for a key that others want too. Whether it was granted; then nobody gives it back.
    async fn wait(&self, open: &mut Connection) -> io::Result<bool> {
        let key = format!("churn%3A{}%3Awanted%3A{}", self.run, rand::random_range(0..WANTED_KEYS));
        let body = format!(r#"{{"owner":"churn","ttl_ms":{LEFT_TTL_MS},"wait_ms":{WAIT_MS}}}"#);
        let reply = open.send(&self.post(&format!("/api/v1/cluster/locks/{key}/acquire"), &body)).await?;
        match reply.status {
            200 => Ok(true),
            409 => Ok(false),
            status => Err(unexpected(status, reply.body)),
        }
    }

    /// Writes a register that ends by itself, or is deleted.
    async fn register(&self, open: &mut Connection) -> io::Result<()> {
        let path = format!("/api/v1/cluster/kv/{}", self.name());
        let value = [b'v'; super::closed_loop::VALUE_BYTES];
        let ends = self.done.is_multiple_of(2);
        let query = if ends { format!("?ttl_ms={LEFT_TTL_MS}") } else { String::new() };
        let put =
            request("PUT", &self.address, &format!("{path}{query}"), "application/octet-stream", &value);
        expect(open, &put, 200).await?;
        if ends {
            return Ok(());
        }
        expect(open, &request("DELETE", &self.address, &path, "application/json", &[]), 204).await
    }

    /// Leads an election that nobody else knows, and resigns.
    async fn term(&self, open: &mut Connection) -> io::Result<()> {
        let path = format!("/api/v1/cluster/elections/{}", self.name());
        let secret = random_id();
        let campaign = format!(r#"{{"candidate":"churn","ttl_ms":60000,"secret":"{secret}"}}"#);
        granted(open, &self.post(&format!("{path}/campaign"), &campaign)).await?;
        expect(open, &self.post(&format!("{path}/resign"), &format!(r#"{{"secret":"{secret}"}}"#)), 204).await
    }
}

fn unexpected(status: u16, body: &[u8]) -> io::Error {
    let words = String::from_utf8_lossy(&body[..body.len().min(300)]);
    io::Error::other(format!("answer {status}: {words}"))
}

async fn expect(open: &mut Connection, bytes: &[u8], status: u16) -> io::Result<()> {
    let reply = open.send(bytes).await?;
    if reply.status == status { Ok(()) } else { Err(unexpected(reply.status, reply.body)) }
}

async fn granted(open: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    let reply = open.send(bytes).await?;
    match (reply.status, token(reply.body)) {
        (200, Some(_)) => Ok(()),
        (status, _) => Err(unexpected(status, reply.body)),
    }
}

/// One watcher after another, each for a few seconds; some ask for all events that are kept.
async fn watch(endpoint: String, to: Instant, counters: Arc<Counters>) {
    while Instant::now() < to {
        let Ok(client) = Client::builder().endpoint(&endpoint).build() else { return };
        let all = rand::random_range(0..WATCH_ALL_SHARE) == 0;
        let request = if all { client.events().since(0) } else { client.events() };
        let mut events = request.open();
        let leaves = (Instant::now() + WATCH_TIME_MAX.mul_f64(rand::random())).min(to);
        counters.watchers.fetch_add(1, Ordering::Relaxed);
        let looked = tokio::time::timeout_at(leaves.into(), async {
            loop {
                match events.next().await {
                    Ok(_) => counters.events.fetch_add(1, Ordering::Relaxed),
                    Err(error) => break error,
                };
            }
        });
        if let Ok(error) = looked.await {
            counters.failed(&error);
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

/// Looks at every node until the end, and says so line by line where no bar is shown: an hour is long.
async fn sample_until(
    to: Instant,
    pause: Duration,
    target: &Target,
    bar: &ProgressBar,
) -> Result<Vec<Sample>, Failure> {
    let nodes = target.clients()?;
    let begun = Instant::now();
    let mut samples = Vec::new();
    loop {
        let due = begun + pause * u32::try_from(samples.len()).unwrap_or(u32::MAX);
        if due > to {
            return Ok(samples);
        }
        tokio::time::sleep_until(due.into()).await;
        let sample = sample(begun.elapsed(), &nodes, target).await;
        bar.inc(1);
        if bar.is_hidden() {
            eprintln!("{}", sample.line());
        }
        samples.push(sample);
    }
}

async fn sample(at: Duration, nodes: &[Client], target: &Target) -> Sample {
    let views = futures_util::future::join_all(nodes.iter().map(look)).await;
    let number = |view: &Value, field: &str| {
        let value = &view[field];
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    };
    // Nodes are a moment apart; the one that is furthest speaks for all.
    let newest = views.iter().flatten().max_by_key(|view| number(view, "applied_index"));
    let held = newest.map(|view| {
        let of = |field: &str| number(view, field).unwrap_or(0);
        Held {
            locks: of("locks_held"),
            waiters: of("waiters"),
            registers: of("kv_keys"),
            events: of("events_next").saturating_sub(of("events_first")),
        }
    });
    let nodes = views.iter().enumerate().map(|(position, view)| NodeSample {
        applied_index: view.as_ref().and_then(|view| number(view, "applied_index")),
        sizes: target.sizes(position),
    });
    Sample { at_s: at.as_secs_f64(), held, nodes: nodes.collect() }
}

/// What a node says of itself, without asking the leader.
async fn look(node: &Client) -> Option<Value> {
    let call = Call::get(["api", "v1", "cluster"]).consistency(Consistency::Local).deadline(SAMPLE_TIMEOUT);
    node.json(&call).await.ok()
}

/// Median memory of each node at the beginning (behind the very first samples, where caches fill) and at the end.
fn growth(samples: &[Sample]) -> Vec<Growth> {
    let share = (samples.len() / ENDS_SHARE).max(1);
    let nodes = samples.first().map_or(0, |sample| sample.nodes.len());
    let memory = |part: &[Sample], node: usize| -> Vec<f64> {
        let mut all: Vec<f64> =
            part.iter().filter_map(|sample| sample.nodes.get(node)?.sizes.memory_mb).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let median = |part: &[Sample], node: usize| {
        let sorted = memory(part, node);
        sorted.get(sorted.len() / 2).copied()
    };
    let first = &samples[share.min(samples.len() - 1)..(2 * share).min(samples.len())];
    let last = &samples[samples.len().saturating_sub(share)..];
    let of = |node: usize| Growth {
        node: node + 1,
        first_mb: median(first, node),
        last_mb: median(last, node),
        max_mb: memory(samples, node).last().copied(),
    };
    (0..nodes).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::target::Sizes;
    use super::*;

    fn sample(at_s: f64, memory_mb: f64) -> Sample {
        let sizes = Sizes { memory_mb: Some(memory_mb), ..Sizes::default() };
        Sample { at_s, held: None, nodes: vec![NodeSample { applied_index: None, sizes }] }
    }

    #[test]
    fn growth_compares_the_beginning_behind_the_first_moments_with_the_end() {
        let memory = |at: u32| if at < 10 { 1.0 } else { 100.0 + f64::from(at) };
        let samples: Vec<_> = (0..100).map(|at| sample(f64::from(at), memory(at))).collect();
        let growth = &growth(&samples)[0];
        assert_eq!(growth.node, 1);
        assert_eq!((growth.first_mb, growth.last_mb, growth.max_mb), (Some(115.0), Some(195.0), Some(199.0)));
        // However few there are.
        for count in 1..4 {
            let few = &super::growth(&samples[20..20 + count])[0];
            assert!(few.first_mb.is_some() && few.last_mb >= few.first_mb, "{count}");
        }
    }
}
