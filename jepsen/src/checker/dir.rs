//! The directory of a run: `plan.json` and `history.jsonl` in, `results.json` out.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{PlanFacts, Results};
use crate::history::{History, HistoryError};

/// Name of the plan in a run's directory.
const PLAN: &str = "plan.json";
/// Name of the history in a run's directory.
const HISTORY: &str = "history.jsonl";
/// Name of the judgement in a run's directory.
const RESULTS: &str = "results.json";

/// Why a run's directory cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Checks the run that is kept in a directory and writes `results.json` there.
pub fn check_dir(dir: &Path) -> Result<Results, DirError> {
    let results = super::check(&read_facts(dir)?, &read_history(dir)?);
    write_results(dir, &results)?;
    Ok(results)
}

/// The plan of a run.
pub fn read_facts(dir: &Path) -> Result<PlanFacts, DirError> {
    let path = dir.join(PLAN);
    let text = std::fs::read(&path).map_err(|source| DirError::Io { path: path.clone(), source })?;
    let facts: PlanFacts = serde_json::from_slice(&text)
        .map_err(|error| DirError::Content { path: path.clone(), problem: error.to_string() })?;
    if facts.nodes == 0 {
        return Err(DirError::Content { path, problem: "nodes: there is at least one".to_owned() });
    }
    Ok(facts)
}

/// The history of a run.
pub fn read_history(dir: &Path) -> Result<History, DirError> {
    let path = dir.join(HISTORY);
    let file = File::open(&path).map_err(|source| DirError::Io { path: path.clone(), source })?;
    History::read_jsonl(BufReader::new(file)).map_err(|error| match error {
        HistoryError::Io(source) => DirError::Io { path, source },
        HistoryError::Line { .. } => DirError::Content { path, problem: error.to_string() },
    })
}

/// The judgement of a run that was checked before.
pub fn read_results(dir: &Path) -> Result<Results, DirError> {
    let path = dir.join(RESULTS);
    let text = std::fs::read(&path).map_err(|source| DirError::Io { path: path.clone(), source })?;
    serde_json::from_slice(&text).map_err(|error| DirError::Content { path, problem: error.to_string() })
}

/// Writes a whole file or leaves the old one.
fn write_results(dir: &Path, results: &Results) -> Result<(), DirError> {
    let path = dir.join(RESULTS);
    let beside = dir.join("results.json.new");
    let failed = |source| DirError::Io { path: path.clone(), source };
    let text = serde_json::to_vec_pretty(results).map_err(|error| failed(error.into()))?;
    std::fs::write(&beside, text).map_err(failed)?;
    std::fs::rename(&beside, &path).map_err(failed)
}
