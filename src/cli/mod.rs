//! The command line. `serve` and `dev` run nodes; everything else is a client of the HTTP API.
//!
//! ```text
//! failure.rs  exit codes and the words that go with them dev/    three nodes on this machine
//! output.rs   table, JSON, YAML                          work/   what runs under a lock or a term
//! man.rs      manual pages                               bench/  load, measured as a user would
//! ```

mod bench;
mod cluster;
mod config;
mod dev;
mod drain;
mod elections;
mod failure;
mod invalidate;
mod kv;
mod lock;
mod log_level;
mod man;
mod mutant;
mod output;
mod ovn;
mod serve;
mod sessions;
mod watch;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ovncp::client::Client;

use self::failure::{Failure, Outcome};
use self::output::Format;

/// Where a node of `ovncp dev` or a lone node listens: what is asked when no endpoint is named.
const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:8080";
/// How long commands go on when endpoints answer but cannot serve, or do not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Highly available control platform for OVN: Raft coordination in one binary, no Redis, no etcd.
#[derive(Debug, Parser)]
#[command(
    name = "ovncp",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "\
Examples:
  ovncp dev                              three nodes on this machine, to try it
  ovncp status                           how the cluster is
  ovncp lock deploy -- ./deploy.sh       run a command while holding a lock
  ovncp serve --config /etc/ovncp.yaml   run one node

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 no endpoint reachable, 4 no quorum,
            5 lock or election not won in time, 6 lock or term lost"
)]
struct Cli {
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    output: Format,
    /// A node's HTTP address; repeat it and the others are asked when one does not answer
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "OVNCP_ENDPOINTS",
        value_delimiter = ',',
        help_heading = "Global options",
        help = "A node's HTTP address [default: http://127.0.0.1:8080]; repeat it for fail-over"
    )]
    endpoint: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Dev(dev::DevArgs),
    Status(cluster::StatusArgs),
    Members(cluster::MembersArgs),
    TransferLeader(cluster::TransferArgs),
    Locks(lock::LocksArgs),
    Lock(lock::LockArgs),
    Elections(elections::ElectionsArgs),
    Kv(kv::KvArgs),
    Ovn(ovn::OvnArgs),
    Sessions(sessions::SessionsArgs),
    Drain(drain::DrainArgs),
    Resume(drain::ResumeArgs),
    Invalidate(invalidate::InvalidateArgs),
    Watch(watch::WatchArgs),
    LogLevel(log_level::LogLevelArgs),
    Config(config::ConfigArgs),
    Bench(Box<bench::BenchArgs>),
    Completion(CompletionArgs),
    Man(man::ManArgs),
    #[command(hide = true)]
    ExecUnder(work::ExecUnderArgs),
}

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ovncp completion bash > /etc/bash_completion.d/ovncp")]
struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Parses the command line, runs the command and gives its exit code.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    run(cli).unwrap_or_else(|failure| failure.report())
}

fn run(cli: Cli) -> Outcome {
    let format = cli.output;
    let endpoints = Endpoints(cli.endpoint);
    match cli.command {
        Command::Serve(args) => serve::run(*args),
        // One thread: children must be made by the thread that lives longest, and clients are light.
        Command::Dev(args) => block_on(dev::run(args, format)),
        Command::Status(args) => {
            block_on(async { cluster::status(&args, &endpoints.client()?, format).await })
        }
        Command::Members(args) => {
            block_on(async { cluster::members(&args, &endpoints.client()?, format).await })
        }
        Command::TransferLeader(args) => {
            block_on(async { cluster::transfer(&args, &endpoints.client()?, format).await })
        }
        Command::Locks(args) => block_on(async { lock::list(&args, &endpoints.client()?, format).await }),
        Command::Lock(args) => block_on(async { lock::hold(args, endpoints.client()?).await }),
        Command::Kv(args) => block_on(async { kv::run(args, &endpoints.client()?, format).await }),
        Command::Ovn(args) => block_on(async { ovn::run(args, &endpoints.client()?, format).await }),
        Command::Sessions(args) => {
            block_on(async { sessions::run(args, &endpoints.client()?, format).await })
        }
        Command::Drain(args) => block_on(async { drain::drain(&args, &endpoints.client()?, format).await }),
        Command::Resume(args) => block_on(async { drain::resume(&args, &endpoints.client()?, format).await }),
        Command::Invalidate(args) => {
            block_on(async { invalidate::run(args, &endpoints.client()?, format).await })
        }
        Command::Watch(args) => block_on(async { watch::run(&args, &endpoints.client()?, format).await }),
        Command::Elections(args) => {
            block_on(async { elections::run(args, &endpoints.client()?, format).await })
        }
        Command::LogLevel(args) => block_on(log_level::run(&args, endpoints, format)),
        Command::Config(args) => config::run(&args, format),
        Command::Bench(args) => block_on(bench::run(*args, endpoints.named(), format)),
        Command::Completion(args) => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(args.shell, &mut command, "ovncp", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man(args) => man::run(&args, <Cli as clap::CommandFactory>::command(), format),
        Command::ExecUnder(args) => work::exec_under(&args),
    }
}

fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::io("start the runtime", &e))?.block_on(command)
}

/// What `--endpoint` or its variable named.
struct Endpoints(Vec<String>);

impl Endpoints {
    fn named(self) -> Vec<String> {
        self.0.into_iter().filter(|text| !text.trim().is_empty()).collect()
    }

    /// Each by itself, for what concerns one node.
    fn each(self) -> Vec<Endpoints> {
        let mut named = self.named();
        if named.is_empty() {
            named.push(ENDPOINT_DEFAULT.to_owned());
        }
        named.into_iter().map(|one| Endpoints(vec![one])).collect()
    }

    fn client(self) -> Result<Client, Failure> {
        let mut builder = Client::builder()
            .endpoints(self.named())
            .deadline(PATIENCE)
            .try_timeout(PATIENCE)
            .fail_fast(true);
        if let Some(token) = std::env::var("OVNCP_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.token(token);
        }
        Ok(builder.build()?)
    }
}

/// 128 random bits as hexadecimal digits.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
