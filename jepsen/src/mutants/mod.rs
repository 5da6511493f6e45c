//! Proof that the proof can fail: runs with a known bug put back, which must be found, and runs without, which must
//! raise no alarm.
//!
//! The bugs are in the nodes' binary, one of which each process can make at a time (`OVNCP_MUTANT`); [`CASES`] says
//! which clients and faults should find which. A run goes on until something is found, or to its end; then the next
//! seed is tried. Every mutant that the binary knows must have a case.

mod cases;
mod detection;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::sync::watch;

pub use cases::{CASES, Case, TIME_OUT_FAILS};
pub use detection::{Detection, detect};
pub use table::Row;

use crate::checker::{self, Verdict};
use crate::disk::DiskKind;
use crate::net::NetKind;
use crate::run::{self, Plan, RunError};
use crate::store;

/// The variable that says which bug a node has.
const VARIABLE: &str = "OVNCP_MUTANT";
/// Begins the answer of a binary that is asked for a mutant that it does not know.
const KNOWN: &str = "known are ";
/// Between two looks at what a run has recorded so far.
const LOOK_PERIOD: Duration = Duration::from_secs(8);

/// What `mutants` is asked for.
#[derive(Debug, Args)]
pub struct MutantsArgs {
    /// Only these, with commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Seconds per run at most.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    time: u64,
    /// Seeds within which each must be caught.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Runs without a mutant, which must raise no alarm: so many seeds, each with the workload and the faults of
    /// another mutant. With this option no mutant is run.
    #[arg(long, value_name = "SEEDS")]
    clean: Option<u64>,
    /// The nodes' binary, built with `--profile chaos --features mutants`; else the one in `chaos` beside the
    /// folder of this program.
    #[arg(long, env = "OVNCP_BINARY", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// What stands between the nodes.
    #[arg(long, value_enum, default_value = "netns")]
    net: NetKind,
    /// What the nodes write to.
    #[arg(long, value_enum, default_value = "loop")]
    disk: DiskKind,
}

/// What a hunt needs to know.
struct Hunt<'a> {
    args: &'a MutantsArgs,
    binary: PathBuf,
    store: PathBuf,
    interrupted: watch::Receiver<bool>,
}

/// Runs what was asked for; exit code 1 where a mutant survives or a clean run raises an alarm.
pub async fn main(args: MutantsArgs, store: &Path, interrupted: watch::Receiver<bool>) -> ExitCode {
    match prepare(&args, store, interrupted) {
        Ok((hunt, cases)) => match args.clean {
            None => hunt.mutants(&cases).await,
            Some(seeds) => hunt.clean(&cases, seeds).await,
        },
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

fn prepare<'a>(
    args: &'a MutantsArgs,
    store: &Path,
    interrupted: watch::Receiver<bool>,
) -> Result<(Hunt<'a>, Vec<&'static Case>), String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("chaos/ovncp"));
    let binary = args.binary.clone().or_else(beside).unwrap_or_default();
    let build = "build it with `cargo build --profile chaos --features mutants`, or name one with --binary";
    let binary = binary.canonicalize().map_err(|error| format!("{}: {error}: {build}", binary.display()))?;
    let known = known_to(&binary).map_err(|problem| format!("{}: {problem}: {build}", binary.display()))?;
    let cases = chosen(&args.only, &known)?;
    Ok((Hunt { args, binary, store: store.join("mutants"), interrupted }, cases))
}

/// The mutants of a binary, which names them when it is asked for one that it does not know.
fn known_to(binary: &Path) -> Result<Vec<String>, String> {
    let asked = Command::new(binary).arg("serve").env_clear().env(VARIABLE, "?").output();
    let said = asked.map_err(|error| error.to_string())?.stderr;
    let said = String::from_utf8_lossy(&said);
    let names = said.lines().find_map(|line| line.trim().strip_prefix(KNOWN)).ok_or("it has no mutants")?;
    Ok(names.split(", ").map(str::to_owned).collect())
}

/// The cases that were asked for, all of them by default.
fn chosen(only: &[String], known: &[String]) -> Result<Vec<&'static Case>, String> {
    let find = |name: &str| CASES.iter().find(|case| case.mutant == name);
    if let Some(unknown) = known.iter().find(|name| find(name).is_none()) {
        return Err(format!("the binary has the mutant {unknown}, and no run is meant to find it"));
    }
    let missing =
        CASES.iter().find(|case| case.mutant != TIME_OUT_FAILS && !known.iter().any(|k| k == case.mutant));
    if let Some(missing) = missing {
        return Err(format!("the binary is another version: it has no mutant {}", missing.mutant));
    }
    if only.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let names = || CASES.iter().map(|case| case.mutant).collect::<Vec<_>>().join(", ");
    let find =
        |name: &String| find(name).ok_or_else(|| format!("no mutant \"{name}\"; there are {}", names()));
    only.iter().map(find).collect()
}

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Something is wrong.
    Found(Detection),
    /// Nothing is; why it may prove nothing.
    Nothing(String),
    /// By the person at the keyboard.
    Interrupted,
}

impl Hunt<'_> {
    async fn mutants(&self, cases: &[&Case]) -> ExitCode {
        let mut rows = Vec::new();
        for case in cases {
            let Some(row) = self.catch(case).await else { break };
            println!("{}", table::line(&row));
            rows.push(row);
            if let Err(error) = table::write(&rows, &self.store) {
                eprintln!("error: write the table into {}: {error}", self.store.display());
                return ExitCode::from(2);
            }
        }
        println!("\n{}", table::markdown(&rows));
        let survivors: Vec<_> =
            rows.iter().filter(|row| !row.caught).map(|row| row.mutant.as_str()).collect();
        println!("{} of {} mutants caught", rows.len() - survivors.len(), cases.len());
        if rows.len() < cases.len() {
            return ExitCode::from(3);
        }
        if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Tries seeds until one finds it; none when it was interrupted.
    async fn catch(&self, case: &Case) -> Option<Row> {
        for seed in 1..self.args.seeds {
            let row = self.attempt(case, seed).await?;
            if row.caught {
                return Some(row);
            }
        }
        self.attempt(case, self.args.seeds).await
    }

    async fn attempt(&self, case: &Case, seed: u64) -> Option<Row> {
        let plan = self.plan(case, Some(case.mutant), seed);
        let mut row = Row {
            mutant: case.mutant.to_owned(),
            workload: name_of(&case.workload),
            faults: case.nemesis(),
            seed,
            time_to_detection: None,
            finding: String::new(),
            caught: false,
            replay: plan.replay.clone(),
        };
        match self.run(plan).await {
            End::Interrupted => return None,
            End::Nothing(why) => row.finding = why,
            End::Found(found) => {
                row.time_to_detection = Some(found.after);
                row.finding = format!("{}: {}", found.check, found.finding);
                row.caught = true;
            }
        }
        Some(row)
    }

    /// Runs without a mutant.
    async fn clean(&self, cases: &[&Case], seeds: u64) -> ExitCode {
        let (mut alarms, mut silent) = (0, 0);
        for (seed, case) in (1..=seeds).zip(cases.iter().cycle()) {
            let plan = self.plan(case, None, seed);
            match self.run(plan.clone()).await {
                End::Found(found) => {
                    alarms += 1;
                    println!("seed {seed}: ALARM: {}: {}\n  {}", found.check, found.finding, plan.replay);
                }
                End::Nothing(why) if why.is_empty() => println!("seed {seed}: clean: {}", plan.replay),
                End::Nothing(why) => {
                    silent += 1;
                    println!("seed {seed}: proves nothing: {why}\n  {}", plan.replay);
                }
                End::Interrupted => return ExitCode::from(3),
            }
        }
        println!("{seeds} clean seeds: {alarms} alarms, {silent} that prove nothing");
        match (alarms, silent) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }

    fn plan(&self, case: &Case, mutant: Option<&str>, seed: u64) -> Plan {
        let mut plan = Plan {
            workload: case.workload,
            nemesis: case.nemesis(),
            nemeses: case.faults.to_vec(),
            time: Duration::from_secs(self.args.time),
            clients: 16,
            seed,
            nodes: 3,
            net: self.args.net,
            disk: self.args.disk,
            rate: 40.0,
            binary: self.binary.clone(),
            mutant: mutant.map(str::to_owned),
            keep_disks: false,
            replay: String::new(),
            notices: Vec::new(),
        };
        plan.replay = crate::cli::replay(&plan, Path::new("store"));
        plan
    }

    /// One run, ended as soon as something is found.
    async fn run(&self, plan: Plan) -> End {
        let name = plan.mutant.clone().unwrap_or_else(|| "clean".to_owned());
        let is_mutant = plan.mutant.is_some();
        let store = self.store.join(name).join(plan.seed.to_string());
        let before = store::runs(&store).unwrap_or_default();
        let (end, ended) = watch::channel(false);
        let watching = tokio::spawn(watch_for_findings(store.clone(), before, end, self.interrupted.clone()));
        let outcome = run::run(plan, &store, ended).await;
        watching.abort();
        let dir = match outcome {
            Ok(finished) => finished.dir,
            Err(RunError::Interrupted(_)) if *self.interrupted.borrow() => return End::Interrupted,
            Err(RunError::Interrupted(dir)) => dir,
            Err(error) => return End::Nothing(format!("the run could not be made: {error}")),
        };
        let judged = tokio::task::spawn_blocking(move || {
            // What a mutant wrote is of no use to anybody, and there are many of them.
            if is_mutant && let Err(error) = std::fs::remove_dir_all(dir.join(store::DISKS)) {
                tracing::warn!(%error, "the disks of a mutant could not be removed");
            }
            judge(&dir)
        })
        .await;
        judged.unwrap_or_else(|error| End::Nothing(format!("the checker: {error}")))
    }
}

/// The name of a choice, as on the command line.
fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Looks at what a run records, and ends it once something is wrong, or when the person at the keyboard says so.
async fn watch_for_findings(
    store: PathBuf,
    before: Vec<PathBuf>,
    end: watch::Sender<bool>,
    mut interrupted: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            _ = interrupted.wait_for(|interrupted| *interrupted) => break,
            () = tokio::time::sleep(LOOK_PERIOD) => {}
        }
        let runs = store::runs(&store).unwrap_or_default();
        let Some(dir) = runs.into_iter().find(|run| !before.contains(run)) else { continue };
        let failed = tokio::task::spawn_blocking(move || {
            let (facts, history) = (checker::read_facts(&dir).ok()?, checker::read_history(&dir).ok()?);
            Some(checker::check(&facts, &history).verdict == Verdict::Fail)
        });
        if matches!(failed.await, Ok(Some(true))) {
            break;
        }
    }
    end.send_replace(true);
}

/// What a run found.
fn judge(dir: &Path) -> End {
    let judged = checker::check_dir(dir)
        .and_then(|results| Ok((checker::read_facts(dir)?, checker::read_history(dir)?, results)));
    let (facts, history, results) = match judged {
        Ok(judged) => judged,
        Err(error) => return End::Nothing(error.to_string()),
    };
    if let Some(detection) = detect(&facts, &history, &results) {
        return End::Found(detection);
    }
    let doubts = results.checks.iter().filter(|check| check.verdict == Verdict::Unknown);
    let doubts: Vec<_> =
        doubts.flat_map(|check| &check.findings).map(|finding| finding.text.as_str()).collect();
    End::Nothing(doubts.join("; "))
}

#[cfg(test)]
mod tests;
