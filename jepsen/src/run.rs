//! One run, from an empty directory to a verdict.
//!
//! Start the network, the disks and the nodes; wait until all are ready; let the clients and the nemesis go; heal;
//! wait until all nodes are ready again and clients have had a quiet while; read the end state; stop; judge. What was made outside of the run's
//! directory is taken away whatever happens, an interruption included.

mod clients;
mod plan;
mod progress;
mod stage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

pub use plan::{MIXED, Plan};

use crate::checker::{self, DirError};
use crate::history::{History, HistoryError, Invocation, Kind, Process, Recorder, write_edn};
use crate::nemesis::Env;
use crate::nemesis::conductor::{Conductor, Score};
use crate::nemesis::schedule;
use crate::report;
use crate::store::{self, Leftovers};
use clients::Clients;

/// How long the nodes of a new cluster may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// After everything was healed, all nodes are ready again within this time: part of what is judged.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);
/// How long clients go on when all nodes are ready again: they see the cluster recovered.
const QUIET_AFTER_RECOVERY: Duration = Duration::from_secs(3);

/// Why a run came to no end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system refuses.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The network, the disks or the nodes cannot be set up.
    #[error("{0}")]
    Stage(String),
    /// A workload cannot run at all.
    #[error(transparent)]
    Workload(#[from] crate::workload::WorkloadError),
    /// What was recorded cannot be written.
    #[error("write the history: {0}")]
    History(#[from] HistoryError),
    /// What was written cannot be judged.
    #[error(transparent)]
    Check(#[from] DirError),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted: everything that was made is cleaned up, the history so far is in {}", .0.display())]
    Interrupted(PathBuf),
}

impl RunError {
    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Finished {
    /// Where everything about it is.
    pub dir: PathBuf,
    /// The judgement.
    pub results: checker::Results,
}

/// Makes a run in a new directory below `store`. `interrupted` becoming true ends it early.
pub async fn run(plan: Plan, store: &Path, interrupted: watch::Receiver<bool>) -> Result<Finished, RunError> {
    let dir = store::new_run(store, &plan.name(), &store::utc_now())
        .and_then(|dir| dir.canonicalize())
        .map_err(RunError::io(format!("make a directory in {}", store.display())))?;
    eprintln!("run     {}", dir.display());
    let leftovers = Leftovers::begin(&dir).map_err(RunError::io("write the state file"))?;
    let mut plan = plan;
    let mut env = match stage::set_up(&mut plan, &dir, &leftovers).await {
        Ok(env) => env,
        Err(error) => {
            leftovers.end().map_err(RunError::io("remove the state file"))?;
            return Err(error);
        }
    };
    let outcome = perform(&plan, &dir, &mut env, interrupted.clone()).await;
    let passed = matches!(&outcome, Ok(results) if results.verdict == checker::Verdict::Pass);
    // Disks of a run that found something are evidence.
    stage::tear_down(env, passed && !plan.keep_disks).await?;
    leftovers.end().map_err(RunError::io("remove the state file"))?;
    let results = outcome?;
    if *interrupted.borrow() {
        return Err(RunError::Interrupted(dir));
    }
    Ok(Finished { dir, results })
}

async fn perform(
    plan: &Plan,
    dir: &Path,
    env: &mut Env,
    interrupted: watch::Receiver<bool>,
) -> Result<checker::Results, RunError> {
    plan.write(&dir.join(store::PLAN)).map_err(RunError::io("write the plan"))?;
    for name in env.cluster.names() {
        env.start(&name).map_err(|error| RunError::Stage(error.to_string()))?;
    }
    all_ready(env, START_PATIENCE).await.map_err(|late| {
        RunError::Stage(format!("{} not ready; see {}", late.join(", "), dir.join(store::LOGS).display()))
    })?;
    let recorder =
        Recorder::new(Some(&dir.join(store::HISTORY))).map_err(RunError::io("begin the history"))?;
    let outcome = clients_and_faults(plan, env, &recorder, interrupted).await;
    write_history(&recorder.history().map_err(RunError::io("write the history"))?, dir)?;
    outcome?;
    let dir = dir.to_path_buf();
    let checked = tokio::task::spawn_blocking(move || {
        let results = checker::check_dir(&dir)?;
        report::write_dir(&dir)?;
        Ok::<_, checker::DirError>(results)
    })
    .await;
    Ok(checked.map_err(|error| RunError::Stage(format!("the checker: {error}")))??)
}

async fn clients_and_faults(
    plan: &Plan,
    env: &mut Env,
    recorder: &Recorder,
    interrupted: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let mut clients = Clients::start(plan, recorder, env);
    let score = Arc::new(Score::default());
    let progress = progress::show(plan, recorder.clone(), Arc::clone(&score));
    let slots = schedule::slots(plan.seed, plan.time);
    Conductor::new(env, recorder.clone(), score, &plan.nemeses, plan.seed)
        .run(&slots, plan.time, interrupted.clone())
        .await;
    // Clients stop last: healing may have taken longer than the run was to last, and somebody has to see what then
    // becomes of the cluster.
    if !*interrupted.borrow() {
        recover(env, recorder).await;
        let mut stop = interrupted.clone();
        let stopped = stop.wait_for(|interrupted| *interrupted);
        let _ = tokio::time::timeout(QUIET_AFTER_RECOVERY, stopped).await;
    }
    progress.end();
    clients.stop().await?;
    if !*interrupted.borrow() {
        clients.finish(plan).await?;
    }
    clients.end_probe().await
}

/// Starts what does not run, waits until all nodes are ready, and writes down how long that took.
async fn recover(env: &mut Env, recorder: &Recorder) {
    let began = Instant::now();
    let invocation =
        Invocation { process: Process::Nemesis, f: "recovery".to_owned(), key: None, node: None };
    recorder.invoke(&invocation, json!(null));
    for name in env.cluster.names() {
        if !env.cluster.is_running(&name)
            && let Err(error) = env.start(&name)
        {
            tracing::warn!(node = name, %error, "could not be started again");
        }
    }
    let late = all_ready(env, RECOVERY_PATIENCE).await.err().unwrap_or_default();
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    recorder.complete(&invocation, Kind::Info, json!({ "took_ms": took_ms, "not_ready": late }), None);
}

/// Waits until all nodes are ready; else the names of those that are not.
async fn all_ready(env: &Env, patience: Duration) -> Result<(), Vec<String>> {
    let deadline = Instant::now() + patience;
    let mut late = Vec::new();
    for name in env.cluster.names() {
        let left = deadline.saturating_duration_since(Instant::now());
        if env.cluster.ready(&name, left.max(Duration::from_millis(1))).await.is_err() {
            late.push(name);
        }
    }
    if late.is_empty() { Ok(()) } else { Err(late) }
}

fn write_history(history: &History, dir: &Path) -> Result<(), RunError> {
    let path = dir.join(store::HISTORY_EDN);
    let file = std::fs::File::create(&path).map_err(RunError::io("make history.edn"))?;
    write_edn(history, std::io::BufWriter::new(file)).map_err(RunError::io("write history.edn"))
}
