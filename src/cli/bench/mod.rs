//! `bench`: load as users make it, over HTTP with kept-alive connections, and what came of it.
//!
//! Without `--endpoint` it starts three nodes of its own with real data directories, as `dev` does, so that one
//! command gives figures that can be compared. Every answer is checked: a wrong status, a token that does not
//! grow or a value that was not written is counted as an error, and errors are shown beside the rate.

mod churn;
mod closed_loop;
mod contended;
mod environment;
mod failover;
mod handover;
mod held;
mod invalidate;
mod outage;
mod overload;
mod ovn;
mod renew;
mod report;
mod sessions;
mod target;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use self::environment::Environment;
use self::report::Report;
use self::target::Target;
use super::dev::layout::NODES_MAX;
use super::failure::{Exit, Failure, Outcome};
use super::output::Format;

/// Measure a cluster as its users would see it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Scenarios:
  lock       acquire and release, each client its own key
  contended  all clients want one key: hand-overs per second, longest wait, fairness
  read       linearizable reads of a register
  write      writes of a 256-byte register
  renew      many holders that renew: how late renewals are answered, entries per second
  failover   kill -9 of the leader under load: time without a successful write (own cluster only)
  handover   planned hand-overs under load: time without a successful write, failed requests
  overload   a multiple of what the cluster can do: what is still done, refused, and how late
  invalidate invalidations at 100 and 1,000 per second: until a subscriber of each node has them, quiet and beside locks
  sessions   idle WebSockets: memory, log entries; a thousand that move when their node is drained or killed
  ovn        creates in private OVN databases, coalesced and not, beside other clients; list, cold start, events
  churn      names, leases, waits, registers, terms and watchers that come and go: memory of each node over time

Examples:
  ovncp bench lock                                   three nodes of its own, 1, 16, 64 and 256 clients
  ovncp bench read --clients 64 --seconds 5 -o json
  ovncp bench write --endpoint http://10.0.0.1:8080 --endpoint http://10.0.0.2:8080
  ovncp bench lock --clients 64 --held 1000000       what held locks cost
  ovncp bench renew --held 10000 --ttl 30s
  ovncp bench failover --runs 7
  ovncp bench overload --clients 2048 --factor 10 --split-cores
  ovncp bench lock --nodes 10 --clients 64           three voters and seven learners
  ovncp bench churn --time 60m -o json
  ovncp bench ovn --seconds 3 --runs 3               needs OVN's programs, no nodes
  ovncp bench sessions --held 10000 --seconds 60")]
pub(crate) struct BenchArgs {
    /// What is measured
    #[arg(value_enum)]
    scenario: Scenario,
    /// Numbers of clients, each measured in turn [default: 1,16,64,256; contended, failover, handover: 16; renew: 512;
    /// overload: 2048; churn: 64; ovn: 1,16,64; invalidate: 16, which take locks meanwhile]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4_096))]
    clients: Vec<u16>,
    /// Measured time for each number of clients
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Time before it that is not counted
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    /// Which nodes the clients speak to
    #[arg(long, value_enum, default_value_t)]
    target: Aim,
    /// Locks that are held before anything is measured; for renew those that are renewed, for sessions the sessions
    /// [default there: 10,000]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(0..=2_000_000))]
    held: u32,
    /// Lease of the locks that are renewed
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// What is offered, as a multiple of what the cluster can do
    #[arg(long, default_value_t = 10.0)]
    factor: f64,
    /// Requests in progress that each node of the own cluster takes [default: as configured; overload: 512]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests_max: Option<u32>,
    /// Give the load a core of its own and the own nodes the others: what the load costs is then not taken from them
    #[arg(long)]
    split_cores: bool,
    /// How long churn goes on [default: 60m]
    #[arg(long, value_parser = churn_time)]
    time: Option<Duration>,
    /// Operations per second of churn
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Fail-overs or hand-overs in a row; of ovn, runs of which the median counts
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: u8,
    /// Nodes of the own cluster; three of them vote
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=NODES_MAX as i64))]
    nodes: u8,
    /// Where the own cluster keeps its data; a temporary directory on a disk otherwise
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// From a second to a week.
fn churn_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3_600);
    if range.contains(&time) { Ok(time) } else { Err("must be 1s to 7days".to_owned()) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    Lock,
    Contended,
    Read,
    Write,
    Renew,
    Failover,
    Handover,
    Overload,
    Churn,
    Invalidate,
    Sessions,
    Ovn,
}

/// Which nodes are spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Aim {
    /// Only the leader.
    Leader,
    /// Only the others.
    Follower,
    /// Clients are spread over all.
    #[default]
    All,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Scenario::Lock => "lock",
            Scenario::Contended => "contended",
            Scenario::Read => "read",
            Scenario::Write => "write",
            Scenario::Renew => "renew",
            Scenario::Failover => "failover",
            Scenario::Handover => "handover",
            Scenario::Overload => "overload",
            Scenario::Churn => "churn",
            Scenario::Invalidate => "invalidate",
            Scenario::Sessions => "sessions",
            Scenario::Ovn => "ovn",
        }
    }

    /// Requests in progress that each own node takes, where the configured number would hide what is measured.
    pub(super) fn requests_max(self) -> Option<u32> {
        (self == Scenario::Overload).then_some(overload::REQUESTS_MAX)
    }
}

pub(crate) async fn run(args: BenchArgs, endpoints: Vec<String>, format: Format) -> Outcome {
    if args.scenario == Scenario::Ovn {
        return ovn::run(&args, format).await;
    }
    if matches!(args.scenario, Scenario::Failover | Scenario::Sessions) && !endpoints.is_empty() {
        let name = args.scenario.name();
        return Err(Failure::new(
            Exit::Usage,
            format!("{name} kills nodes, so it runs on a cluster of its own only"),
        )
        .help("leave out --endpoint and OVNCP_ENDPOINTS"));
    }
    let mut target = Target::prepare(&args, endpoints).await?;
    let environment = Environment::look(target.data_dir());
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    // The end of `target` is the end of the own cluster, whichever way this goes.
    let measured = tokio::select! {
        measured = measure(&args, &mut target) => measured,
        () = interrupted => Err(Failure::new(Exit::Failure, "interrupted")),
    };
    target.stop();
    let report = Report { scenario: args.scenario, held: args.held, environment, results: measured? };
    report.print(format)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &BenchArgs, target: &mut Target) -> Result<report::Results, Failure> {
    let clients =
        |default: &[u16]| if args.clients.is_empty() { default.to_vec() } else { args.clients.clone() };
    let addresses = target.addresses(args.target).await?;
    if args.held > 0 && !matches!(args.scenario, Scenario::Renew | Scenario::Sessions) {
        held::hold(args.held, None, &addresses).await?;
    }
    Ok(match args.scenario {
        Scenario::Lock | Scenario::Read | Scenario::Write => {
            let steps = clients(&[1, 16, 64, 256]);
            report::Results::Rates(closed_loop::run(args, &steps, &addresses, target).await?)
        }
        Scenario::Contended => {
            report::Results::Contended(contended::run(args, &clients(&[16]), &addresses, target).await?)
        }
        Scenario::Renew => {
            report::Results::Renewals(renew::run(args, clients(&[512])[0], &addresses, target).await?)
        }
        Scenario::Failover => {
            report::Results::Failover(failover::run(args, clients(&[16])[0], target).await?)
        }
        Scenario::Handover => {
            report::Results::Handover(handover::run(args, clients(&[16])[0], target).await?)
        }
        Scenario::Overload => {
            report::Results::Overload(overload::run(args, &clients(&[2_048]), &addresses, target).await?)
        }
        Scenario::Invalidate => report::Results::Invalidations(
            invalidate::run(args, clients(&[16])[0], &addresses, target).await?,
        ),
        Scenario::Churn => {
            let clients = clients(&[churn::CLIENTS_DEFAULT])[0];
            report::Results::Churn(churn::run(args, clients, &addresses, target).await?)
        }
        Scenario::Sessions => report::Results::Sessions(sessions::run(args, &addresses, target).await?),
        Scenario::Ovn => return Err(Failure::new(Exit::Usage, "ovn is measured without nodes")),
    })
}
