//! Ports created one after the other by 1, 16 and 64 clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ovncp_ovn::Uuid;
use ovncp_ovn::database::Database;
use ovncp_ovn::lab::{Lab, Members};
use ovncp_ovn::operation::{Condition, Operation};
use ovncp_ovn::writer::{Writer, WriterSettings};
use serde::Serialize;
use tokio::task::JoinSet;

use super::others::{Daemon, Nbctl, Python};
use super::{addresses, median, new_port, new_switch, open};
use crate::cli::bench::BenchArgs;
use crate::cli::bench::closed_loop::progress;
use crate::cli::failure::{Exit, Failure};

/// Numbers of clients, when none are asked for.
const CLIENTS: [u16; 3] = [1, 16, 64];
/// Ports are spread over as many switches, so that none becomes unlike those of users.
const SWITCHES: usize = 64;
/// Transactions in flight that are tried; the last is the default.
const IN_FLIGHT: [usize; 3] = [1, 2, 4];
/// Operations in one transaction that only clears up.
const CLEARED_PER_TRANSACTION: usize = 8;

/// Of one writer with one number of clients.
#[derive(Serialize)]
pub(super) struct Creates {
    /// 1 or 3.
    pub(super) servers: usize,
    pub(super) writer: String,
    pub(super) clients: u16,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Of each run.
    pub(super) runs_per_second: Vec<f64>,
}

/// What one run gave.
#[derive(Default)]
pub(super) struct Sample {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// Who writes.
#[derive(Clone)]
enum Way {
    /// One transaction for each port.
    Direct(Database),
    Coalesced(Writer),
    Nbctl(Arc<Nbctl>),
    NbctlDaemon(Arc<Daemon>),
    Python(Arc<Python>),
}

impl Way {
    async fn create(&self, switch: (Uuid, &str), port: &str) -> Result<(), String> {
        match self {
            Way::Direct(database) => {
                let created = database.transact(new_port(switch.0, port)).await;
                created.map(drop).map_err(|e| e.to_string())
            }
            Way::Coalesced(writer) => {
                let created = writer.submit(new_port(switch.0, port)).await;
                created.map(drop).map_err(|e| e.to_string())
            }
            Way::Nbctl(nbctl) => nbctl.run(&["lsp-add", switch.1, port]).await,
            Way::NbctlDaemon(daemon) => daemon.run(&["lsp-add", switch.1, port]).await,
            Way::Python(_) => Err("it creates by itself".to_owned()),
        }
    }
}

pub(super) async fn run(
    args: &BenchArgs,
    lab: &Lab,
    members: Members,
    missing: &mut Vec<String>,
) -> Result<Vec<Creates>, Failure> {
    let clients = if args.clients.is_empty() { CLIENTS.to_vec() } else { args.clients.clone() };
    let ways = ways(lab, missing).await?;
    let bar = progress((ways.len() * clients.len() * usize::from(args.runs)) as u64);
    let servers = if members == Members::Standalone { 1 } else { 3 };
    bar.set_message(format!("creates, {servers} servers"));
    let mut samples: Vec<Vec<Sample>> = Vec::new();
    samples.resize_with(ways.len() * clients.len(), Vec::new);
    // In turn, so that a slow minute of the machine meets all of them.
    for _ in 0..args.runs {
        for (position, samples) in samples.iter_mut().enumerate() {
            let (way, clients) = (&ways[position / clients.len()].1, clients[position % clients.len()]);
            samples.push(one(args, lab, way, clients).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let summed = |(position, samples): (usize, Vec<Sample>)| {
        let all = |of: fn(&Sample) -> f64| median(samples.iter().map(of).collect());
        Creates {
            servers,
            writer: ways[position / clients.len()].0.clone(),
            clients: clients[position % clients.len()],
            per_second: all(|sample| sample.per_second),
            p50_ms: all(|sample| sample.p50_ms),
            p99_ms: all(|sample| sample.p99_ms),
            errors: samples.iter().map(|sample| sample.errors).sum(),
            first_error: samples.iter().find_map(|sample| sample.first_error.clone()),
            runs_per_second: samples.iter().map(|sample| sample.per_second).collect(),
        }
    };
    Ok(samples.into_iter().enumerate().map(summed).collect())
}

/// Everybody who can write here, by name.
async fn ways(lab: &Lab, missing: &mut Vec<String>) -> Result<Vec<(String, Way)>, Failure> {
    let mut ways = vec![("transaction each".to_owned(), Way::Direct(open(lab, None).await?))];
    for in_flight_max in IN_FLIGHT {
        let settings = WriterSettings { in_flight_max, ..WriterSettings::default() };
        let writer = Writer::new(open(lab, None).await?, settings);
        ways.push((format!("coalesced, {in_flight_max} in flight"), Way::Coalesced(writer)));
    }
    let addresses = addresses(lab);
    ways.push(("ovn-nbctl process".to_owned(), Way::Nbctl(Arc::new(Nbctl::new(&addresses)))));
    match Daemon::start(&addresses, lab.dir()).await {
        Ok(daemon) => ways.push(("ovn-nbctl daemon".to_owned(), Way::NbctlDaemon(Arc::new(daemon)))),
        Err(why) => missing.push(format!("ovn-nbctl as a daemon: {why}")),
    }
    match Python::find(&addresses).await {
        Ok(python) => ways.push(("Python ovsdbapp".to_owned(), Way::Python(Arc::new(python)))),
        Err(why) if missing.contains(&why) => {}
        Err(why) => missing.push(why),
    }
    Ok(ways)
}

/// One run on switches of its own, which are deleted behind it.
async fn one(args: &BenchArgs, lab: &Lab, way: &Way, clients: u16) -> Result<Sample, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failure, format!("prepare switches: {e}"));
    let database = open(lab, None).await?;
    let switches: Vec<_> =
        (0..SWITCHES).map(|_| Uuid::new_v4()).map(|uuid| (uuid, format!("bench-{uuid}"))).collect();
    let made = switches.iter().map(|(uuid, name)| new_switch(*uuid, name)).collect();
    database.transact(made).await.map_err(|e| failed(&e))?;
    let sample = match way {
        Way::Python(python) => {
            let names: Vec<_> = switches.iter().map(|(_, name)| name.as_str()).collect();
            python.create(&names, clients, args.seconds).await.unwrap_or_else(|error| Sample {
                errors: 1,
                first_error: Some(error),
                ..Sample::default()
            })
        }
        way => closed_loop(args, way, &switches, clients).await,
    };
    for some in switches.chunks(CLEARED_PER_TRANSACTION) {
        let delete = |uuid: Uuid| Operation::Delete {
            table: "Logical_Switch".into(),
            condition: Condition::uuid(uuid),
        };
        let cleared = database.transact(some.iter().map(|(uuid, _)| delete(*uuid)).collect()).await;
        cleared.map_err(|e| failed(&e))?;
    }
    Ok(sample)
}

async fn closed_loop(args: &BenchArgs, way: &Way, switches: &[(Uuid, String)], clients: u16) -> Sample {
    let (counting, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let errors = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..usize::from(clients) {
        let (way, switch) = (way.clone(), switches[client % switches.len()].clone());
        let (counting, stopped, errors) = (Arc::clone(&counting), Arc::clone(&stopped), Arc::clone(&errors));
        tasks.spawn(async move {
            let (mut times, mut first_error) = (Vec::new(), None);
            while !stopped.load(Ordering::Relaxed) {
                let (begun, counted) = (Instant::now(), counting.load(Ordering::Relaxed));
                let created = way.create((switch.0, &switch.1), &Uuid::new_v4().to_string()).await;
                match created {
                    Ok(()) if counted && !stopped.load(Ordering::Relaxed) => times.push(begun.elapsed()),
                    Ok(()) => {}
                    Err(error) => {
                        errors.fetch_add(1, Ordering::Relaxed);
                        first_error.get_or_insert(error);
                    }
                }
            }
            (times, first_error)
        });
    }
    tokio::time::sleep(args.warmup).await;
    counting.store(true, Ordering::Relaxed);
    let from = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    stopped.store(true, Ordering::Relaxed);
    let seconds = from.elapsed().as_secs_f64();
    let (mut times, mut first_error) = (Vec::new(), None);
    for (some, error) in tasks.join_all().await {
        times.extend(some);
        first_error = first_error.or(error);
    }
    times.sort_unstable();
    let at = |share: f64| {
        let position = (times.len() as f64 * share) as usize;
        times.get(position).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    };
    let errors = errors.load(Ordering::Relaxed);
    Sample {
        per_second: times.len() as f64 / seconds,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        errors,
        first_error,
    }
}
