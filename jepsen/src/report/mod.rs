//! What people look at: one page per run, and the two plots as pictures of their own.
//!
//! The page needs nothing from anywhere: no server, no script from elsewhere. On top stands what was found out and
//! what shows it, then the operations over time, latency and rate with the faults behind them, and the tables.
//! What is drawn is bounded, whatever the run; the page says what was left out.

mod axis;
mod page;
mod plots;
mod timeline;

use std::path::{Path, PathBuf};

use crate::checker::{self, DirError, PlanFacts, Results};
use crate::history::History;

/// The page.
const PAGE: &str = "timeline.html";
/// Latencies as a picture.
const LATENCY: &str = "latency.svg";
/// Rates as a picture.
const RATE: &str = "rate.svg";

/// Writes `timeline.html`, `latency.svg` and `rate.svg` into a run's directory and says where they are.
pub fn write(
    dir: &Path,
    facts: &PlanFacts,
    history: &History,
    results: &Results,
) -> Result<Vec<PathBuf>, DirError> {
    let mut written = Vec::new();
    for (name, text) in draw(facts, history, results, timeline::OPERATIONS_MAX) {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|source| DirError::Io { path: path.clone(), source })?;
        written.push(path);
    }
    Ok(written)
}

/// The files by name; the page with at most so many operations.
fn draw(
    facts: &PlanFacts,
    history: &History,
    results: &Results,
    drawn_max: usize,
) -> [(&'static str, String); 3] {
    let operations = checker::operations(history).all;
    let plots = plots::Plots::new(&operations, &results.faults);
    let (latency, rate) = (plots.latency(), plots.rate());
    let timeline = timeline::data(history, &operations, results, drawn_max);
    let page = page::page(facts, results, &latency, &rate, &timeline);
    [(PAGE, page), (LATENCY, latency), (RATE, rate)]
}

/// Writes the report of a run that is kept in a directory. One that was not checked yet is checked first.
pub fn write_dir(dir: &Path) -> Result<Vec<PathBuf>, DirError> {
    let results = match checker::read_results(dir) {
        Ok(results) => results,
        Err(DirError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            checker::check_dir(dir)?
        }
        Err(error) => return Err(error),
    };
    write(dir, &checker::read_facts(dir)?, &checker::read_history(dir)?, &results)
}

/// Text for HTML and SVG.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
