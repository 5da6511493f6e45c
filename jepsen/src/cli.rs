//! The command line.
//!
//! Exit codes: 0 the run passed, 1 it found something, 2 it was asked for wrongly or could not be made, 3 it proves
//! nothing either way.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rand::RngExt;
use tokio::sync::watch;

use crate::checker::{self, Verdict};
use crate::disk::DiskKind;
use crate::mutants::{self, MutantsArgs};
use crate::nemesis::NemesisKind;
use crate::net::NetKind;
use crate::report;
use crate::run::{self, Plan, RunError};
use crate::store;
use crate::workload::WorkloadKind;

/// The run could not be made.
const USAGE: u8 = 2;
/// It proves nothing.
const UNKNOWN: u8 = 3;
/// Longest run: what is recorded is held in memory.
const TIME_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// More than that is a load test.
const CLIENTS_MAX: i64 = 1_000;

/// Real nodes under real faults; what clients saw is judged against the promises.
#[derive(Debug, Parser)]
#[command(name = "ovncp-jepsen", version, max_term_width = 110)]
struct Cli {
    /// Folder of all runs.
    #[arg(long, global = true, default_value = "store", value_name = "DIR")]
    store: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster, harms it, and judges what clients saw.
    Run(RunArgs),
    /// Judges a run again.
    Check {
        /// Folder of the run.
        dir: PathBuf,
    },
    /// Draws the report of a run again: timeline.html, latency.svg, rate.svg.
    Report {
        /// Folder of the run.
        dir: PathBuf,
    },
    /// Puts known bugs into the nodes, one by one, and shows that each is found.
    Mutants(MutantsArgs),
    /// Lists workloads, faults, and the runs in the store.
    List,
    /// Takes away what runs that were killed left on this machine.
    Clean,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What clients do.
    #[arg(long, value_enum, default_value = "register")]
    workload: WorkloadKind,
    /// Faults, with commas; `mixed` for all that can be made here, `none` for none.
    #[arg(long, default_value = "mixed", value_name = "FAULTS", value_parser = parse_nemesis)]
    nemesis: Nemesis,
    /// Seconds for which clients work.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = parse_time)]
    time: Duration,
    /// Clients at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    clients: u32,
    /// Where all chance of the harness comes from; drawn and shown when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: u8,
    /// What stands between the nodes. `netns` needs root; without it `proxy` is used.
    #[arg(long, value_enum, default_value = "netns")]
    net: NetKind,
    /// What the nodes write to. `loop` needs root; without it `dir` is used.
    #[arg(long, value_enum, default_value = "loop")]
    disk: DiskKind,
    /// Operations per second of one client at most; 0 for no bound.
    #[arg(long, default_value_t = 60.0, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: f64,
    /// The nodes' binary; else the one beside this program.
    #[arg(long, env = "OVNCP_BINARY", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// A bug to put in; the binary must have been built with the mutants in it.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Keeps the nodes' disks in the run's folder.
    #[arg(long)]
    keep_disks: bool,
}

/// Faults as they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nemesis {
    text: String,
    kinds: Vec<NemesisKind>,
}

fn parse_nemesis(text: &str) -> Result<Nemesis, String> {
    let kinds = match text {
        run::MIXED => NemesisKind::all().to_vec(),
        "none" => Vec::new(),
        names => {
            let known = || NemesisKind::all().iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
            let parse = |name: &str| {
                NemesisKind::from_str(name, false)
                    .map_err(|_| format!("no fault \"{name}\"; there are mixed, none, {}", known()))
            };
            let mut kinds = names.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
            kinds.sort();
            kinds.dedup();
            kinds
        }
    };
    Ok(Nemesis { text: text.to_owned(), kinds })
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.parse().map_err(|_| format!("\"{text}\" is no number of seconds"))?;
    let time = Duration::from_secs(seconds);
    if time < Duration::from_secs(1) || time > TIME_MAX {
        return Err(format!("between 1 and {} seconds", TIME_MAX.as_secs()));
    }
    Ok(time)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    if rate.is_finite() && rate >= 0.0 { Ok(rate) } else { Err("0 or more".to_owned()) }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return trouble(&format!("start the runtime: {error}")),
    };
    match cli.command {
        Command::Run(args) => runtime.block_on(make_run(args, &cli.store)),
        Command::Check { dir } => check(&dir),
        Command::Report { dir } => draw(&dir),
        Command::Mutants(args) => runtime.block_on(hunt_mutants(args, &cli.store)),
        Command::List => list(&cli.store),
        Command::Clean => clean(&cli.store),
    }
}

fn trouble(text: &str) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(USAGE)
}

async fn make_run(args: RunArgs, store: &Path) -> ExitCode {
    let plan = match plan(args, store) {
        Ok(plan) => plan,
        Err(problem) => return trouble(&problem),
    };
    warn_of_leftovers(store);
    let replay = plan.replay.clone();
    let interrupted = match interruptions() {
        Ok(interrupted) => interrupted,
        Err(error) => return trouble(&format!("listen for signals: {error}")),
    };
    let code = match run::run(plan, store, interrupted).await {
        Ok(finished) => {
            print!("{}", finished.results.summary());
            exit_code(finished.results.verdict)
        }
        Err(error @ RunError::Interrupted(_)) => {
            eprintln!("{error}");
            ExitCode::from(UNKNOWN)
        }
        Err(error) => trouble(&error.to_string()),
    };
    println!("again   {replay}");
    code
}

async fn hunt_mutants(args: MutantsArgs, store: &Path) -> ExitCode {
    warn_of_leftovers(store);
    match interruptions() {
        Ok(interrupted) => mutants::main(args, store, interrupted).await,
        Err(error) => trouble(&format!("listen for signals: {error}")),
    }
}

fn exit_code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::FAILURE,
        Verdict::Unknown => ExitCode::from(UNKNOWN),
    }
}

fn draw(dir: &Path) -> ExitCode {
    match report::write_dir(dir) {
        Ok(files) => {
            files.iter().for_each(|file| println!("{}", file.display()));
            ExitCode::SUCCESS
        }
        Err(error) => trouble(&error.to_string()),
    }
}

fn check(dir: &Path) -> ExitCode {
    match checker::check_dir(dir) {
        Ok(results) => {
            print!("{}", results.summary());
            exit_code(results.verdict)
        }
        Err(error) => trouble(&error.to_string()),
    }
}

fn plan(args: RunArgs, store: &Path) -> Result<Plan, String> {
    let binary = find_binary(args.binary)?;
    let mut kinds = args.nemesis.kinds;
    if args.workload == WorkloadKind::Membership && !kinds.contains(&NemesisKind::Membership) {
        // The workload is about it.
        kinds.push(NemesisKind::Membership);
    }
    let mut plan = Plan {
        workload: args.workload,
        nemesis: args.nemesis.text,
        nemeses: kinds,
        time: args.time,
        clients: args.clients,
        seed: args.seed.unwrap_or_else(|| u64::from(rand::rng().random::<u32>())),
        nodes: args.nodes,
        net: args.net,
        disk: args.disk,
        rate: args.rate,
        binary,
        mutant: args.mutant,
        keep_disks: args.keep_disks,
        replay: String::new(),
        notices: Vec::new(),
    };
    plan.replay = replay(&plan, store);
    Ok(plan)
}

/// The command that makes the same run again.
pub(crate) fn replay(plan: &Plan, store: &Path) -> String {
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().to_owned());
    let mut words = vec!["ovncp-jepsen run".to_owned()];
    let mut option = |option: &str, value: String| words.push(format!("--{option} {value}"));
    option("workload", name(plan.workload.to_possible_value()).unwrap_or_default());
    option("nemesis", plan.nemesis.clone());
    option("time", plan.time.as_secs().to_string());
    option("clients", plan.clients.to_string());
    option("seed", plan.seed.to_string());
    option("nodes", plan.nodes.to_string());
    option("net", name(plan.net.to_possible_value()).unwrap_or_default());
    option("disk", name(plan.disk.to_possible_value()).unwrap_or_default());
    option("rate", plan.rate.to_string());
    if let Some(mutant) = &plan.mutant {
        option("mutant", mutant.clone());
    }
    if store != Path::new("store") {
        option("store", store.display().to_string());
    }
    words.join(" ")
}

fn find_binary(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("ovncp"));
    let path = given.or_else(beside).unwrap_or_else(|| PathBuf::from("ovncp"));
    if !path.is_file() {
        let path = path.display();
        return Err(format!(
            "no binary {path}: build it (`cargo build --release`) or name one with --binary"
        ));
    }
    path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))
}

/// Becomes true at Ctrl-C or SIGTERM. A second one ends the program at once.
fn interruptions() -> std::io::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        for last in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if last {
                eprintln!("ended without cleaning up; do that with `ovncp-jepsen clean`");
                std::process::exit(i32::from(UNKNOWN));
            }
            eprintln!("interrupted: healing and cleaning up ...");
            sender.send_replace(true);
        }
    });
    Ok(receiver)
}

fn warn_of_leftovers(store: &Path) {
    let Ok(unfinished) = store::unfinished(store) else { return };
    let killed = unfinished.values().filter(|alive| !**alive).count();
    if killed > 0 {
        let (it, was) = if killed == 1 { ("a run", "was") } else { ("runs", "were") };
        eprintln!(
            "note    {it} in {} {was} killed and left something; clean up with `ovncp-jepsen clean`",
            store.display()
        );
    }
}

fn list(store: &Path) -> ExitCode {
    println!("workloads");
    for kind in WorkloadKind::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
        let help = kind.get_help().map(ToString::to_string).unwrap_or_default();
        println!("  {:<18} {help}", kind.get_name());
    }
    println!("faults (--nemesis; `mixed` for all of them, `none` for none)");
    for kind in NemesisKind::all().iter().filter_map(ValueEnum::to_possible_value) {
        let help = kind.get_help().map(ToString::to_string).unwrap_or_default();
        println!("  {:<18} {help}", kind.get_name());
    }
    list_runs(store)
}

fn list_runs(store: &Path) -> ExitCode {
    let runs = match store::runs(store) {
        Ok(runs) => runs,
        Err(error) => return trouble(&format!("read {}: {error}", store.display())),
    };
    println!("runs in {}", store.display());
    for run in runs {
        println!("  {:<8} {}", store::verdict(&run).as_deref().unwrap_or("-"), run.display());
    }
    ExitCode::SUCCESS
}

fn clean(store: &Path) -> ExitCode {
    let unfinished = match store::unfinished(store) {
        Ok(unfinished) => unfinished,
        Err(error) => return trouble(&format!("read {}: {error}", store.display())),
    };
    let mut code = ExitCode::SUCCESS;
    for (run, alive) in unfinished {
        if alive {
            println!("{}: still goes on", run.display());
            continue;
        }
        match store::clean(&run) {
            Ok(done) => done.iter().for_each(|done| println!("{}: {done}", run.display())),
            Err(error) => code = trouble(&format!("clean {}: {error}", run.display())),
        }
    }
    code
}

#[cfg(test)]
mod tests;
