//! OVN: what writers get from a northbound database through this client and through others, and what its replica costs.
//!
//! It starts private servers, standalone and three members, and needs no nodes. Every figure is the median of several runs, and
//! stands beside what the same servers give to others: a transaction per write, `ovn-nbctl` as a process and as a
//! daemon, Python's ovsdbapp, and a reader that throws away what it reads.

mod creates;
mod others;
mod replica;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::lab::{Lab, LabSettings, Members};
use ovncp_ovn::operation::{Condition, Mutation, Mutator, Operation};
use ovncp_ovn::value::Datum;
use ovncp_ovn::wire::endpoint::Endpoint;
use ovncp_ovn::{TableSelection, Uuid};
use serde::Serialize;

use self::creates::Creates;
use self::replica::Replica;
use super::BenchArgs;
use super::environment::Environment;
use super::report::{Report, Results};
use super::target::scratch_dir;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{Format, fields, table};

/// Longest time until servers answer and replicas are in sync.
const PATIENCE: Duration = Duration::from_secs(120);

/// All figures.
#[derive(Serialize)]
pub(super) struct Figures {
    runs: u8,
    creates: Vec<Creates>,
    replica: Replica,
    /// Whom these figures do not stand beside, and why.
    missing: Vec<String>,
}

pub(super) async fn run(args: &BenchArgs, format: Format) -> Outcome {
    let made;
    let dir = match &args.data_dir {
        Some(dir) => dir.as_path(),
        None => {
            made = scratch_dir().map_err(|e| Failure::io("make a temporary directory", &e))?;
            made.path()
        }
    };
    let environment = Environment::look(Some(dir));
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let figures = tokio::select! {
        figures = measure(args, dir) => figures?,
        () = interrupted => return Err(Failure::new(Exit::Failure, "interrupted")),
    };
    let results = Results::Ovn(figures);
    Report { scenario: args.scenario, held: 0, environment, results }.print(format)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &BenchArgs, dir: &Path) -> Result<Figures, Failure> {
    let (mut creates, mut missing) = (Vec::new(), Vec::new());
    for members in [Members::Standalone, Members::Clustered] {
        let place = dir.join(if members == Members::Standalone { "one" } else { "three" });
        let lab = start(&place, members).await?;
        creates.extend(creates::run(args, &lab, members, &mut missing).await?);
        lab.stop().await;
    }
    let replica = replica::run(args, dir).await?;
    Ok(Figures { runs: args.runs, creates, replica, missing })
}

async fn start(dir: &Path, members: Members) -> Result<Lab, Failure> {
    std::fs::create_dir_all(dir).map_err(|e| Failure::io("make a directory", &e))?;
    let lab = Lab::start(LabSettings::northbound_only(dir, members)).await;
    let lab = lab.map_err(|e| Failure::new(Exit::Failure, e.to_string()))?;
    lab.nbctl(&["init"]).await.map_err(|e| Failure::new(Exit::Failure, e.to_string()))?;
    Ok(lab)
}

/// Where the servers are, as OVN's programs take it.
fn addresses(lab: &Lab) -> String {
    let all: Vec<_> = lab.northbound().iter().map(|server| server.tcp_endpoint()).collect();
    all.join(",")
}

async fn open(lab: &Lab, tables: Option<Vec<TableSelection>>) -> Result<Database, Failure> {
    let endpoints = Endpoint::parse_list(&addresses(lab));
    let database = Database::open(DatabaseSettings {
        name: "OVN_Northbound",
        endpoints: endpoints.map_err(|e| Failure::new(Exit::Failure, e.to_string()))?,
        connect_timeout: Duration::from_secs(10),
        tls: None,
        leader_only: true,
        tables,
        // Large databases keep a server busy for seconds.
        probe_interval: Duration::from_secs(60),
    });
    database.wait_synced(PATIENCE).await.map_err(|e| Failure::new(Exit::Failure, e.to_string()))?;
    Ok(database)
}

fn new_switch(uuid: Uuid, name: &str) -> Operation {
    Operation::Insert { table: "Logical_Switch".into(), uuid, row: vec![("name".into(), name.into())] }
}

/// A port as its users have it: a row of its own, and a reference from its switch.
fn new_port(switch: Uuid, name: &str) -> Vec<Operation> {
    let uuid = Uuid::new_v4();
    let row = vec![("name".into(), Datum::from(name))];
    let refer = Mutation { column: "ports".into(), mutator: Mutator::Insert, value: uuid.into() };
    vec![
        Operation::Insert { table: "Logical_Switch_Port".into(), uuid, row },
        Operation::Mutate {
            table: "Logical_Switch".into(),
            condition: Condition::uuid(switch),
            mutations: vec![refer],
        },
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Figures {
    pub(super) fn text(&self) -> String {
        let header = ["SERVERS", "WRITER", "CLIENTS", "CREATES/S", "P50 MS", "P99 MS", "ERRORS"];
        let row = |c: &Creates| {
            vec![
                c.servers.to_string(),
                c.writer.clone(),
                c.clients.to_string(),
                format!("{:.0}", c.per_second),
                format!("{:.2}", c.p50_ms),
                format!("{:.2}", c.p99_ms),
                c.errors.to_string(),
            ]
        };
        let mut lines = vec![
            format!("a port is created, medians of {} runs", self.runs),
            table(&header, self.creates.iter().map(row)),
            String::new(),
            fields(&self.replica.rows()),
        ];
        lines.extend(self.missing.iter().map(|missing| format!("not measured: {missing}")));
        lines.extend(
            self.creates
                .iter()
                .filter_map(|c| Some(format!("first error of {}: {}", c.writer, c.first_error.as_ref()?))),
        );
        lines.join("\n")
    }
}
