//! What became of the mutants, as a table for people and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// How long a finding may be in the table.
const FINDING_CHARS_MAX: usize = 100;

/// What became of one mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which.
    pub mutant: String,
    /// What clients did.
    pub workload: String,
    /// What was done to the nodes.
    pub faults: String,
    /// Of the run that decided.
    pub seed: u64,
    /// From the first operation to the one without which nothing is found.
    pub time_to_detection: Option<Duration>,
    /// The check that found it, and what it found; or why nothing was found.
    pub finding: String,
    /// Whether it was caught.
    pub caught: bool,
    /// The command that makes the run again.
    pub replay: String,
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let time =
            self.time_to_detection.map_or("-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
        let verdict = if self.caught { "caught" } else { "SURVIVED" };
        [
            self.mutant.clone(),
            self.workload.clone(),
            self.faults.clone(),
            self.seed.to_string(),
            time,
            short(&self.finding),
            verdict.to_owned(),
        ]
    }
}

/// One line of bounded length.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(FINDING_CHARS_MAX) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}...", &line[..end]),
    }
}

const TITLES: [&str; 7] = ["mutant", "workload", "faults", "seed", "detected after", "finding", "verdict"];

/// One line, for the terminal.
pub(super) fn line(row: &Row) -> String {
    row.cells().join("  ")
}

/// As Markdown, with the replay commands below.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}\n", TITLES.join(" | "), " --- |".repeat(TITLES.len()));
    for row in rows {
        // A bar would end the cell.
        let cells = row.cells().map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push_str("\n```sh\n");
    rows.iter().for_each(|row| text.push_str(&format!("{}\n", row.replay)));
    text.push_str("```\n");
    text
}

/// Writes `mutants.md` and `mutants.json` into the store.
pub(super) fn write(rows: &[Row], store: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(store)?;
    std::fs::write(store.join("mutants.md"), markdown(rows))?;
    std::fs::write(store.join("mutants.json"), serde_json::to_vec_pretty(rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            mutant: "no-fsync".to_owned(),
            workload: "register".to_owned(),
            faults: "power-all".to_owned(),
            seed: 2,
            time_to_detection: Some(Duration::from_millis(12_340)),
            finding: format!("a | b{}\nsecond line", "x".repeat(200)),
            caught: true,
            replay: "ovncp-jepsen run --seed 2".to_owned(),
        }
    }

    #[test]
    fn a_row_is_one_line_and_its_command_stands_below() {
        let survivor = Row { caught: false, time_to_detection: None, ..row() };
        let text = markdown(&[row(), survivor]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].starts_with("| no-fsync | register | power-all | 2 | 12.3 s | a \\| bx"), "{text}");
        assert!(lines[2].ends_with("... | caught |") && lines[3].contains("| - |"), "{text}");
        assert!(lines[3].ends_with("| SURVIVED |"), "{text}");
        assert_eq!(text.matches("ovncp-jepsen run --seed 2\n").count(), 2);
        assert!(!text.contains("second line"));
    }

    #[test]
    fn both_files_are_written() {
        let store = tempfile::tempdir().unwrap();
        write(&[row()], &store.path().join("new")).unwrap();
        let json = std::fs::read(store.path().join("new/mutants.json")).unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(rows[0]["mutant"], "no-fsync");
        assert!(store.path().join("new/mutants.md").is_file());
    }
}
