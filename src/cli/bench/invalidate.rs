//! Invalidations at a fixed rate: how long from the moment one is sent until a subscriber of each node has it.
//!
//! Publishers are an open loop, spread over the nodes; one subscriber per node follows the stream of events. All of them
//! are this process, so there is one clock, and each pattern says when it was sent. How late that was is shown, too: a
//! timer wakes a millisecond late, and a publisher that still waits for its last answer later than that. Every entry must
//! come to every subscriber, once and in order. Measured twice per rate: quiet, and beside clients that take locks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ovncp::client::{Call, Client};
use serde_json::Value;
use tokio::task::JoinSet;

use super::closed_loop::{
    OPERATION_TIMEOUT, RECONNECT_PAUSE, Window, histogram, progress, record, run_scenario,
};
use super::report::Delivery;
use super::target::Target;
use super::wire::{Connection, request};
use super::{BenchArgs, Scenario};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

/// Invalidations per second.
const RATES: [u32; 2] = [100, 1_000];
/// Publishers: so many that none waits for its last answer when it is due again.
const PUBLISHERS: u64 = 48;
/// What was published is waited for so long.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(
    args: &BenchArgs,
    lock_clients: u16,
    addresses: &[String],
    target: &Target,
) -> Result<Vec<Delivery>, Failure> {
    let mut all = Vec::new();
    for rate in RATES {
        for lock_clients in [0, lock_clients] {
            all.push(measure(args, rate, lock_clients, addresses, target).await?);
        }
    }
    Ok(all)
}

async fn measure(
    args: &BenchArgs,
    rate: u32,
    lock_clients: u16,
    addresses: &[String],
    target: &Target,
) -> Result<Delivery, Failure> {
    let run = random_id()[..8].to_owned();
    let plan = Arc::new(Plan {
        prefix: format!("bench:{run}:"),
        begun: Instant::now(),
        window: Window::new(args),
        published: AtomicU64::new(u64::MAX),
    });
    let mut subscribers = JoinSet::new();
    for client in target.clients()? {
        let since = events_next(&client).await?;
        subscribers.spawn(subscribe(client, since, Arc::clone(&plan), histogram()?));
    }
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let address = addresses[usize::try_from(number).unwrap_or(0) % addresses.len()].clone();
        publishers.spawn(publish(number, rate, address, Arc::clone(&plan), histogram()?));
    }
    let meter = target.meter();
    let locks = async {
        match lock_clients {
            0 => {
                let bar = progress(Window::steps(args));
                bar.set_message(format!("invalidate, {rate}/s, quiet"));
                plan.window.show(&bar).await;
                bar.finish_and_clear();
                Ok(None)
            }
            clients => {
                let rates = run_scenario(args, Scenario::Lock, &[clients], addresses, target).await?;
                Ok::<_, Failure>(rates.into_iter().next().map(|rate| rate.per_second))
            }
        }
    };
    let lock_pairs_per_second = locks.await?;
    let (mut published, mut errors, mut first_error, mut late) = (0, 0, None, histogram()?);
    while let Some(done) = publishers.join_next().await {
        let done = done.map_err(|e| Failure::new(Exit::Failure, format!("a publisher failed: {e}")))?;
        published += done.published;
        errors += done.errors;
        late += done.late;
        first_error = first_error.or(done.first_error);
    }
    plan.published.store(published, Ordering::Relaxed);
    let (used, nodes) = (meter.read(target), subscribers.len());
    let (mut latencies, mut delivered) = (histogram()?, 0);
    while let Some(seen) = subscribers.join_next().await {
        let seen = seen.map_err(|e| Failure::new(Exit::Failure, format!("a subscriber failed: {e}")))??;
        latencies += seen.latencies;
        delivered += seen.delivered;
    }
    let quantile = |q: f64| latencies.value_at_quantile(q) as f64 / 1_000.0;
    Ok(Delivery {
        rate,
        lock_clients,
        lock_pairs_per_second,
        nodes,
        published,
        // Those whose answer was lost may come or not.
        missing: (published * nodes as u64).saturating_sub(delivered),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        max_ms: latencies.max() as f64 / 1_000.0,
        sent_late_p99_ms: late.value_at_quantile(0.99) as f64 / 1_000.0,
        errors,
        first_error,
        cost: used.per(published),
    })
}

/// What publishers and subscribers agree on.
struct Plan {
    /// Of every pattern; then comes the publisher's number, its count, and when it was sent in microseconds.
    prefix: String,
    begun: Instant,
    window: Window,
    /// How many there are, once it is known.
    published: AtomicU64,
}

async fn events_next(client: &Client) -> Result<u64, Failure> {
    let cluster: Value = client.json(&Call::get(["api", "v1", "cluster"])).await?;
    let next = cluster["events_next"].as_str().and_then(|next| next.parse().ok());
    next.ok_or_else(|| Failure::new(Exit::Failure, "the cluster does not say how many events there were"))
}

struct Published {
    published: u64,
    /// From when one was due until it was sent.
    late: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

/// Publishes its share of the rate, one after the other.
async fn publish(
    number: u64,
    rate: u32,
    address: String,
    plan: Arc<Plan>,
    late: Histogram<u64>,
) -> Published {
    let mut done = Published { published: 0, late, errors: 0, first_error: None };
    let mut connection = None;
    for count in 0_u64.. {
        let due =
            plan.begun + Duration::from_secs_f64((count * PUBLISHERS + number) as f64 / f64::from(rate));
        if due >= plan.window.to {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let sent = Instant::now();
        record(&mut done.late, sent.saturating_duration_since(due));
        let micros = (sent - plan.begun).as_micros();
        let body = format!(r#"{{"patterns":["{}{number}:{count}:{micros}"]}}"#, plan.prefix);
        let path = "/api/v1/cluster/invalidations";
        let bytes = request("POST", &address, path, "application/json", body.as_bytes());
        let answer = tokio::time::timeout(OPERATION_TIMEOUT, send(&mut connection, &address, &bytes)).await;
        match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) => done.published += 1,
            Err(error) => {
                done.errors += 1;
                done.first_error.get_or_insert_with(|| error.to_string());
                connection = None;
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    done
}

async fn send(connection: &mut Option<Connection>, address: &str, bytes: &[u8]) -> io::Result<()> {
    let open = match connection {
        Some(open) => open,
        closed => closed.insert(Connection::open(address).await?),
    };
    let reply = open.send(bytes).await?;
    match reply.status {
        200 => Ok(()),
        status => {
            let words = String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]);
            Err(io::Error::other(format!("answer {status}: {words}")))
        }
    }
}

struct Seen {
    latencies: Histogram<u64>,
    delivered: u64,
}

/// Follows one node until everything published has come.
async fn subscribe(
    client: Client,
    since: u64,
    plan: Arc<Plan>,
    latencies: Histogram<u64>,
) -> Result<Seen, Failure> {
    let mut events = client.events().types(["invalidation"]).since(since).open();
    let mut seen = Seen { latencies, delivered: 0 };
    let mut last = None;
    let give_up = plan.window.to + DELIVERY_PATIENCE;
    while seen.delivered < plan.published.load(Ordering::Relaxed) {
        // Looks at the goal now and then.
        let step = (Instant::now() + RECONNECT_PAUSE).min(give_up);
        let event = match tokio::time::timeout_at(step.into(), events.next()).await {
            Ok(event) => event?,
            Err(_) if Instant::now() >= give_up => break,
            Err(_) => continue,
        };
        let arrived = Instant::now();
        if event.offset <= last {
            return Err(Failure::new(Exit::Failure, format!("event {:?} after {last:?}", event.offset)));
        }
        last = event.offset;
        let pattern = event.data["patterns"][0].as_str().and_then(|text| text.strip_prefix(&plan.prefix));
        let micros = pattern.and_then(|text| text.rsplit(':').next()).and_then(|text| text.parse().ok());
        let Some(micros) = micros else { continue };
        seen.delivered += 1;
        let sent = plan.begun + Duration::from_micros(micros);
        if sent >= plan.window.from {
            record(&mut seen.latencies, arrived.saturating_duration_since(sent));
        }
    }
    Ok(seen)
}
