//! How long a fresh client takes to hold a database, beside how long its server takes to send it.
//!
//! `cargo run --release -p ovncp-ovn --example cold_start [PORTS]` starts a private server, fills it with that many
//! ports (100,000), and prints both, three times in turn, and what the replica costs in memory. Before that it compares
//! the round trip of a small transaction through the client with one over a bare socket.

use std::error::Error;
use std::time::{Duration, Instant};

use ovncp_ovn::Uuid;
use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::lab::{Lab, LabSettings, Members};
use ovncp_ovn::operation::{Condition, Mutation, Mutator, Operation};
use ovncp_ovn::value::{Atom, Datum};
use ovncp_ovn::wire::endpoint::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORTS_PER_SWITCH: usize = 200;
const ROUNDS: usize = 3;
const ROUND_TRIPS: usize = 2_000;

fn settings(endpoint: Endpoint) -> DatabaseSettings {
    DatabaseSettings {
        name: "OVN_Northbound",
        endpoints: vec![endpoint],
        connect_timeout: Duration::from_secs(60),
        tls: None,
        leader_only: true,
        tables: None,
        probe_interval: Duration::from_secs(60),
    }
}

fn port(number: usize, uuid: Uuid) -> Operation {
    let text = |text: String| Datum::from(Atom::from(text.as_str()));
    let owner = Datum::map([(Atom::from("neutron:port_name"), Atom::from(format!("vm-{number}").as_str()))]);
    let addresses = format!(
        "0a:00:00:{:02x}:{:02x}:{:02x} 10.{}.{}.{}",
        number >> 16,
        number >> 8 & 255,
        number & 255,
        number >> 16,
        number >> 8 & 255,
        number & 255
    );
    let row = vec![
        ("name".into(), text(format!("port-{number:06}"))),
        ("addresses".into(), text(addresses.clone())),
        ("port_security".into(), text(addresses)),
        ("external_ids".into(), owner),
    ];
    Operation::Insert { table: "Logical_Switch_Port".into(), uuid, row }
}

async fn fill(database: &Database, ports: usize) -> Result<(), Box<dyn Error>> {
    for first in (0..ports).step_by(PORTS_PER_SWITCH) {
        let switch = Uuid::new_v4();
        let name = Datum::from(Atom::from(format!("switch-{first}").as_str()));
        let mut operations = vec![Operation::Insert {
            table: "Logical_Switch".into(),
            uuid: switch,
            row: vec![("name".into(), name)],
        }];
        let numbers = first..(first + PORTS_PER_SWITCH).min(ports);
        let uuids: Vec<_> = numbers.clone().map(|_| Uuid::new_v4()).collect();
        operations.extend(numbers.zip(&uuids).map(|(number, uuid)| port(number, *uuid)));
        operations.push(Operation::Mutate {
            table: "Logical_Switch".into(),
            condition: Condition::uuid(switch),
            mutations: vec![Mutation {
                column: "ports".into(),
                mutator: Mutator::Insert,
                value: Datum::set(uuids.iter().copied().map(Atom::Uuid)),
            }],
        });
        database.transact(operations).await?;
    }
    Ok(())
}

/// Time until the last byte of a dump is there, asked for as the client does, and its size.
async fn raw(
    path: &std::path::Path,
    columns: &serde_json::Value,
) -> Result<(Duration, usize), Box<dyn Error>> {
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    let params = serde_json::json!(["OVN_Northbound", "raw", columns, Uuid::nil().to_string()]);
    let call = serde_json::json!({"id": 1, "method": "monitor_cond_since", "params": params}).to_string();
    let begun_at = Instant::now();
    stream.write_all(call.as_bytes()).await?;
    let (mut buffer, mut bytes, mut tail) = (vec![0; 1 << 20], 0, Vec::new());
    // The answer ends with its id.
    while !tail.ends_with(b"\"error\":null}") && !tail.ends_with(b"\"id\":1}") {
        let count = stream.read(&mut buffer).await?;
        bytes += count;
        tail.extend_from_slice(&buffer[..count]);
        tail.drain(..tail.len().saturating_sub(64));
        if count == 0 {
            return Err("the server has closed the connection".into());
        }
    }
    Ok((begun_at.elapsed(), bytes))
}

/// Median and 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> (u128, u128) {
    times.sort_unstable();
    (times[times.len() / 2].as_micros(), times[times.len() * 99 / 100].as_micros())
}

async fn round_trips(database: &Database, path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    let (mut bare, mut client, mut buffer) = (Vec::new(), Vec::new(), vec![0; 65_536]);
    for _ in 0..ROUND_TRIPS {
        let uuid = Uuid::new_v4().to_string();
        let insert = serde_json::json!({"op": "insert", "table": "Logical_Switch", "uuid": uuid, "row": {"name": "bare"}});
        let call = serde_json::json!({"id": 1, "method": "transact", "params": ["OVN_Northbound", insert]});
        let begun_at = Instant::now();
        stream.write_all(call.to_string().as_bytes()).await?;
        // Small enough to come whole.
        if stream.read(&mut buffer).await? == 0 {
            return Err("the server has closed the connection".into());
        }
        bare.push(begun_at.elapsed());
        let row = vec![("name".into(), Datum::from(Atom::from("client")))];
        let insert = Operation::Insert { table: "Logical_Switch".into(), uuid: Uuid::new_v4(), row };
        let begun_at = Instant::now();
        database.transact(vec![insert]).await?;
        client.push(begun_at.elapsed());
    }
    let ((bare_50, bare_99), (client_50, client_99)) = (percentiles(bare), percentiles(client));
    println!(
        "create: bare socket p50 {bare_50} us, p99 {bare_99} us; client p50 {client_50} us, p99 {client_99} us"
    );
    Ok(())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let ports = std::env::args().nth(1).map_or(Ok(100_000), |ports| ports.parse())?;
    let directory = tempfile::Builder::new().prefix("cold").tempdir()?;
    let lab = Lab::start(LabSettings::northbound_only(directory.path(), Members::Standalone)).await?;
    let endpoint: Endpoint = lab.northbound()[0].unix_endpoint().parse()?;
    let filler = Database::open(settings(endpoint.clone()));
    filler.wait_synced(Duration::from_secs(60)).await?;
    let Endpoint::Unix(path) = &endpoint else { return Err("not a Unix socket".into()) };
    round_trips(&filler, path).await?;
    fill(&filler, ports).await?;
    let schema = filler.schema().ok_or("no schema")?;
    let columns: serde_json::Map<_, _> = schema
        .tables
        .iter()
        .map(|(name, table)| {
            let columns: Vec<_> = table.columns.iter().map(|column| column.name.to_string()).collect();
            (name.to_string(), serde_json::json!([{"columns": columns}]))
        })
        .collect();
    drop(filler);
    for _ in 0..ROUNDS {
        let (sent, bytes) = raw(path, &columns.clone().into()).await?;
        let (before, begun_at) = (resident_kib(), Instant::now());
        let database = Database::open(settings(endpoint.clone()));
        database.wait_synced(Duration::from_secs(120)).await?;
        let (held, after) = (begun_at.elapsed(), resident_kib());
        let rows = database.read(|contents| contents.tables().map(|table| table.len()).sum::<usize>());
        println!(
            "{} bytes: server {:.3} s, client in sync after {:.3} s ({:.2} x), {} rows, {} MiB more resident",
            bytes,
            sent.as_secs_f64(),
            held.as_secs_f64(),
            held.as_secs_f64() / sent.as_secs_f64(),
            rows.unwrap_or(0),
            after.saturating_sub(before) / 1024,
        );
    }
    lab.stop().await;
    Ok(())
}
