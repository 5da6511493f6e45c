//! All clients want one key: how fast it changes hands, how long the unluckiest waits, and whether it is fair.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::BenchArgs;
use super::closed_loop::{RECONNECT_PAUSE, Window, histogram, progress, record, token};
use super::report::Contention;
use super::target::{Target, Used};
use super::wire::{Connection, request};
use crate::cli::failure::{Exit, Failure};
use crate::cli::random_id;

const WAIT_MS: u64 = 30_000;

/// What one client saw.
struct Tally {
    waits: Histogram<u64>,
    /// Tokens in the order that this client got them.
    tokens: Vec<u64>,
    errors: u64,
    first_error: Option<String>,
}

pub(super) async fn run(
    args: &BenchArgs,
    steps: &[u16],
    addresses: &[String],
    target: &Target,
) -> Result<Vec<Contention>, Failure> {
    let bar = progress(Window::steps(args) * steps.len() as u64);
    let mut results = Vec::new();
    for clients in steps {
        bar.set_message(format!("contended, {clients} clients"));
        let key = format!("bench%3A{}", &random_id()[..8]);
        let window = Window::new(args);
        let mut tasks = JoinSet::new();
        for number in 0..usize::from(*clients) {
            let address = addresses[number % addresses.len()].clone();
            tasks.spawn(client(key.clone(), number, address, window, histogram()?));
        }
        tokio::time::sleep_until(window.from.into()).await;
        let meter = target.meter();
        window.show(&bar).await;
        let used = meter.read(target);
        let mut tallies = Vec::new();
        while let Some(tally) = tasks.join_next().await {
            tallies.push(tally.map_err(|e| Failure::new(Exit::Failure, format!("a client failed: {e}")))?);
        }
        results.push(sum(*clients, window, tallies, used)?);
    }
    bar.finish_and_clear();
    Ok(results)
}

async fn client(key: String, number: usize, address: String, window: Window, waits: Histogram<u64>) -> Tally {
    let mut tally = Tally { waits, tokens: Vec::new(), errors: 0, first_error: None };
    while Instant::now() < window.to {
        if let Err(error) = session(&key, number, &address, window, &mut tally).await {
            tally.errors += 1;
            tally.first_error.get_or_insert_with(|| error.to_string());
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
    tally
}

/// Acquires and releases over one connection until the end or an error.
async fn session(
    key: &str,
    number: usize,
    address: &str,
    window: Window,
    tally: &mut Tally,
) -> io::Result<()> {
    let path = format!("/api/v1/cluster/locks/{key}");
    let secret = random_id();
    let acquire =
        format!(r#"{{"owner":"bench-{number}","ttl_ms":60000,"wait_ms":{WAIT_MS},"secret":"{secret}"}}"#);
    let release = format!(r#"{{"secret":"{secret}"}}"#);
    let post = |verb: &str, body: &str| {
        request("POST", address, &format!("{path}/{verb}"), "application/json", body.as_bytes())
    };
    let (acquire, release) = (post("acquire", &acquire), post("release", &release));
    let mut connection = Connection::open(address).await?;
    while Instant::now() < window.to {
        let begun = Instant::now();
        let reply = connection.send(&acquire).await?;
        let granted = Instant::now();
        let token = token(reply.body).filter(|_| reply.status == 200);
        let token = token.ok_or_else(|| io::Error::other(format!("acquire answered {}", reply.status)))?;
        if granted >= window.from && granted <= window.to {
            record(&mut tally.waits, granted - begun);
            tally.tokens.push(token);
        }
        let reply = connection.send(&release).await?;
        if reply.status != 204 {
            return Err(io::Error::other(format!("release answered {}", reply.status)));
        }
    }
    Ok(())
}

fn sum(clients: u16, window: Window, tallies: Vec<Tally>, used: Used) -> Result<Contention, Failure> {
    let counts: Vec<u64> = tallies.iter().map(|tally| tally.tokens.len() as u64).collect();
    let mut waits = histogram()?;
    let (mut tokens, mut errors, mut first_error) = (Vec::new(), 0, None);
    for tally in tallies {
        waits += &tally.waits;
        errors += tally.errors;
        first_error = first_error.or(tally.first_error);
        // A later grant of one client must carry a larger token.
        errors += tally.tokens.windows(2).filter(|pair| pair[0] >= pair[1]).count() as u64;
        tokens.extend(tally.tokens);
    }
    let handovers = tokens.len() as u64;
    if handovers == 0 {
        let why = first_error.unwrap_or_else(|| "no answer in time".to_owned());
        return Err(Failure::new(Exit::Failure, format!("the lock was never granted: {why}")));
    }
    // No two grants may carry one token.
    tokens.sort_unstable();
    errors += tokens.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    let seconds = (window.to - window.from).as_secs_f64();
    Ok(Contention {
        clients,
        handovers,
        per_second: handovers as f64 / seconds,
        wait_p50_ms: waits.value_at_quantile(0.5) as f64 / 1_000.0,
        wait_p99_ms: waits.value_at_quantile(0.99) as f64 / 1_000.0,
        wait_max_ms: Duration::from_micros(waits.max()).as_secs_f64() * 1_000.0,
        jain: jain(&counts),
        errors,
        first_error,
        cost: used.per(handovers),
    })
}

/// Jain's index: 1 when all got the same, 1/n when one got everything.
fn jain(counts: &[u64]) -> f64 {
    let sum: f64 = counts.iter().map(|n| *n as f64).sum();
    let squares: f64 = counts.iter().map(|n| (*n as f64).powi(2)).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (counts.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_index_tells_fair_from_unfair() {
        assert!((jain(&[10, 10, 10, 10]) - 1.0).abs() < 1e-9);
        assert!((jain(&[40, 0, 0, 0]) - 0.25).abs() < 1e-9);
    }
}
