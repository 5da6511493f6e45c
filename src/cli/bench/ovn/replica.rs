//! What a replica in memory gives and costs: a list of 10,000 ports, a cold start with 100,000, and how late events are.

use std::path::Path;
use std::time::{Duration, Instant};

use ovncp_ovn::Uuid;
use ovncp_ovn::changes::Step;
use ovncp_ovn::database::Database;
use ovncp_ovn::lab::{Lab, Members};
use ovncp_ovn::resource::catalogue::Catalogue;
use ovncp_ovn::resource::view::View;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, median, new_port, new_switch, open, start};
use crate::cli::bench::BenchArgs;
use crate::cli::bench::closed_loop::progress;
use crate::cli::failure::{Exit, Failure};

/// Ports that are listed.
const LISTED: usize = 10_000;
/// Ports in the database of a cold start.
const COLD: usize = 100_000;
/// Ports of one switch.
const PORTS_PER_SWITCH: usize = 100;
/// Switches that one transaction fills.
const SWITCHES_PER_TRANSACTION: usize = 10;
/// Events that are timed in one run.
const EVENTS: usize = 200;
/// Time from one of them to the next.
const EVENT_EVERY: Duration = Duration::from_millis(5);

/// The figures.
#[derive(Serialize)]
pub(super) struct Replica {
    list_ports: usize,
    /// As JSON of the API, from the replica.
    list_ms: f64,
    list_bytes: usize,
    cold_ports: usize,
    /// Until the replica is in sync.
    cold_ms: f64,
    /// The same bytes, read and thrown away.
    cold_raw_ms: f64,
    cold_bytes: u64,
    /// Growth of this process.
    cold_memory_mb: Option<f64>,
    /// From the begin of a write until a subscriber on another connection has it.
    event_p50_ms: f64,
    event_p99_ms: f64,
    event_clustered_p50_ms: f64,
    event_clustered_p99_ms: f64,
}

impl Replica {
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "list",
                format!(
                    "{} ports as JSON ({} bytes) in {:.1} ms",
                    self.list_ports, self.list_bytes, self.list_ms
                ),
            ),
            (
                "cold start",
                format!(
                    "{} ports in {:.0} ms; their {} bytes alone take {:.0} ms: {:.2} x; memory {} MB",
                    self.cold_ports,
                    self.cold_ms,
                    self.cold_bytes,
                    self.cold_raw_ms,
                    self.cold_ms / self.cold_raw_ms,
                    self.cold_memory_mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.0}")),
                ),
            ),
            ("event, 1 server", format!("p50 {:.2} ms, p99 {:.2} ms", self.event_p50_ms, self.event_p99_ms)),
            (
                "event, 3 servers",
                format!(
                    "p50 {:.2} ms, p99 {:.2} ms",
                    self.event_clustered_p50_ms, self.event_clustered_p99_ms
                ),
            ),
        ]
    }
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, e.to_string())
}

pub(super) async fn run(args: &BenchArgs, dir: &Path) -> Result<Replica, Failure> {
    let (mut event, mut event_clustered) = ((0.0, 0.0), (0.0, 0.0));
    for (members, place, figures) in [
        (Members::Standalone, "events-one", &mut event),
        (Members::Clustered, "events-three", &mut event_clustered),
    ] {
        let lab = start(&dir.join(place), members).await?;
        let mut runs = Vec::new();
        for _ in 0..args.runs {
            runs.push(events(&lab).await?);
        }
        lab.stop().await;
        *figures = (
            median(runs.iter().map(|(p50, _)| *p50).collect()),
            median(runs.iter().map(|(_, p99)| *p99).collect()),
        );
    }

    let lab = start(&dir.join("replica"), Members::Standalone).await?;
    let filler = open(&lab, None).await?;
    fill(&filler, LISTED).await?;
    let (list_ms, list_bytes) = list(args, &filler)?;
    fill(&filler, COLD - LISTED).await?;
    drop(filler);
    let cold = cold(args, &lab).await?;
    lab.stop().await;
    Ok(Replica {
        list_ports: LISTED,
        list_ms,
        list_bytes,
        cold_ports: COLD,
        cold_ms: cold.ms,
        cold_raw_ms: cold.raw_ms,
        cold_bytes: cold.bytes,
        cold_memory_mb: cold.memory_mb,
        event_p50_ms: event.0,
        event_p99_ms: event.1,
        event_clustered_p50_ms: event_clustered.0,
        event_clustered_p99_ms: event_clustered.1,
    })
}

async fn fill(database: &Database, ports: usize) -> Result<(), Failure> {
    let switches = ports / PORTS_PER_SWITCH;
    let bar = progress(switches as u64);
    bar.set_message("fills a database");
    for some in (0..switches).collect::<Vec<_>>().chunks(SWITCHES_PER_TRANSACTION) {
        let mut operations = Vec::new();
        for _ in some {
            let switch = Uuid::new_v4();
            operations.push(new_switch(switch, &format!("switch-{switch}")));
            for _ in 0..PORTS_PER_SWITCH {
                operations.extend(new_port(switch, &format!("port-{}", Uuid::new_v4())));
            }
        }
        database.transact(operations).await.map_err(failed)?;
        bar.inc(some.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

/// Median time and size of a list of all ports as JSON.
fn list(args: &BenchArgs, database: &Database) -> Result<(f64, usize), Failure> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..args.runs {
        let begun = Instant::now();
        let views = database.read(|contents| -> Result<Vec<View>, Failure> {
            let catalogue = Catalogue::new(contents.schema());
            let ports = catalogue.by_path("ports").map_err(|refusal| failed(&refusal.detail))?;
            let table = contents.table(&ports.table.name).into_iter();
            Ok(table.flat_map(|table| table.rows()).map(|row| View::new(ports, row, contents)).collect())
        });
        let views = views.ok_or_else(|| failed("the replica is empty"))??;
        let text = serde_json::to_vec(&views).map_err(failed)?;
        times.push(milliseconds(begun));
        bytes = text.len();
    }
    Ok((median(times), bytes))
}

struct Cold {
    ms: f64,
    raw_ms: f64,
    bytes: u64,
    memory_mb: Option<f64>,
}

async fn cold(args: &BenchArgs, lab: &Lab) -> Result<Cold, Failure> {
    let (mut times, mut raw_times, mut bytes, mut memory_mb) = (Vec::new(), Vec::new(), 0, None);
    let bar = progress(u64::from(args.runs));
    bar.set_message("cold starts");
    for run in 0..args.runs {
        let before = resident_mb();
        let begun = Instant::now();
        let database = open(lab, None).await?;
        times.push(milliseconds(begun));
        if run == 0 {
            // Later ones find memory that this one has given back.
            memory_mb = resident_mb().zip(before).map(|(after, before)| after - before);
        }
        let tables = tables(&database)?;
        drop(database);
        let begun = Instant::now();
        bytes = tokio::time::timeout(PATIENCE, raw(lab, &tables)).await.map_err(failed)??;
        raw_times.push(milliseconds(begun));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Cold { ms: median(times), raw_ms: median(raw_times), bytes, memory_mb })
}

/// What a monitor of everything asks for.
fn tables(database: &Database) -> Result<Value, Failure> {
    let names = database.read(|contents| {
        let tables = contents.schema().tables.keys();
        tables.map(|name| (name.to_string(), json!([{}]))).collect::<Map<_, _>>()
    });
    names.map(Value::Object).ok_or_else(|| failed("the replica is empty"))
}

/// Asks for everything as the client does and reads until the answer is whole.
async fn raw(lab: &Lab, tables: &Value) -> Result<u64, Failure> {
    let io = |e: std::io::Error| Failure::io("read the database", &e);
    let endpoint = lab.northbound()[0].tcp_endpoint();
    let mut stream = TcpStream::connect(endpoint.trim_start_matches("tcp:")).await.map_err(io)?;
    let call = json!({"id": 0, "method": "monitor_cond_since",
        "params": ["OVN_Northbound", 0, tables, Uuid::nil().to_string()]});
    stream.write_all(call.to_string().as_bytes()).await.map_err(io)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut depth, mut in_text, mut escaped) = (0, 0_u32, false, false);
    loop {
        let read = stream.read(&mut buffer).await.map_err(io)?;
        if read == 0 {
            return Err(failed("the server closed the connection"));
        }
        bytes += read as u64;
        for byte in &buffer[..read] {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = !in_text,
                b'{' if !in_text => depth += 1,
                b'}' if !in_text => depth -= 1,
                _ => {}
            }
        }
        if depth == 0 {
            return Ok(bytes);
        }
    }
}

/// Memory of this process.
fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / 1_024.0)
}

/// p50 and p99 of the time from the begin of a write until another connection's subscriber has it.
async fn events(lab: &Lab) -> Result<(f64, f64), Failure> {
    let (writer, watcher) = (open(lab, None).await?, open(lab, None).await?);
    let mut changes = watcher.subscribe(None);
    let mut times = Vec::new();
    for _ in 0..EVENTS {
        tokio::time::sleep(EVENT_EVERY).await;
        let uuid = Uuid::new_v4();
        let begun = Instant::now();
        let written = writer.transact(vec![new_switch(uuid, &uuid.to_string())]);
        let seen = async {
            loop {
                match changes.next().await {
                    Some(Step::Changes(sets)) => {
                        if sets.iter().flat_map(|set| &set.changes).any(|change| change.uuid == uuid) {
                            return Ok(milliseconds(begun));
                        }
                    }
                    Some(Step::Reset { .. }) => {}
                    None => return Err(failed("the subscription ended")),
                }
            }
        };
        let both = async { tokio::join!(written, seen) };
        let (written, seen) = tokio::time::timeout(PATIENCE, both).await.map_err(failed)?;
        written.map_err(failed)?;
        times.push(seen?);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}
