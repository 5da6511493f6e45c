//! What the checks found, as it is kept in `results.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::operation::{Fault, Operation};

/// Findings that one check keeps; further ones are only counted.
pub const FINDINGS_MAX: usize = 20;

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every promise held.
    Pass,
    /// Nothing can be said: a limit was reached, or the run proved too little.
    Unknown,
    /// A promise was broken.
    Fail,
}

impl Verdict {
    /// The word for people and scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Unknown => "unknown",
            Self::Fail => "fail",
        }
    }
}

/// One broken promise, or one reason why nothing can be said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong, in one sentence.
    pub text: String,
    /// The operations that show it, one per line, in the order of their invocations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// The object it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Nanoseconds from which to which one should look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ns: Option<(u64, u64)>,
    /// Indexes of the events that show it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<u64>,
}

impl Finding {
    /// A finding without witnesses.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Adds the operations that show it.
    pub fn shown_by<'h>(mut self, operations: impl IntoIterator<Item = &'h Operation<'h>>) -> Self {
        let mut operations: Vec<_> = operations.into_iter().copied().collect();
        operations.sort_by_key(|operation| operation.invoke.index);
        operations.dedup_by_key(|operation| operation.invoke.index);
        for operation in &operations {
            self.lines.push(super::describe::operation(operation));
            self.events.extend(operation.events());
            let (from, to) =
                (operation.invoke.time_ns, operation.ended_ns().unwrap_or(operation.invoke.time_ns));
            let window = self.window_ns.unwrap_or((from, to));
            self.window_ns = Some((window.0.min(from), window.1.max(to)));
        }
        if self.key.is_none() {
            self.key = operations.first().and_then(|operation| operation.invoke.key.clone());
        }
        self
    }

    /// Names the object.
    pub fn about(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }
}

/// The answer of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What it found out.
    pub verdict: Verdict,
    /// What it promises, in one line for people.
    pub promise: String,
    /// At most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many there were in all.
    pub findings_total: u64,
    /// What it looked at.
    pub counts: BTreeMap<String, u64>,
}

impl Check {
    /// A check that has found nothing yet.
    pub fn new(name: &str, promise: &str) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::Pass,
            promise: promise.to_owned(),
            findings: Vec::new(),
            findings_total: 0,
            counts: BTreeMap::new(),
        }
    }

    /// The promise was broken.
    pub fn fail(&mut self, finding: Finding) {
        self.keep(Verdict::Fail, finding);
    }

    /// Nothing can be said, and why.
    pub fn unknown(&mut self, finding: Finding) {
        self.keep(Verdict::Unknown, finding);
    }

    /// Worth showing, without judgement.
    pub fn note(&mut self, finding: Finding) {
        self.keep(Verdict::Pass, finding);
    }

    fn keep(&mut self, verdict: Verdict, finding: Finding) {
        // What broke a promise stands before reasons for doubt, however many those are.
        let place = if verdict > self.verdict { 0 } else { self.findings.len() };
        self.verdict = self.verdict.max(verdict);
        self.findings_total += 1;
        self.findings.insert(place, finding);
        self.findings.truncate(FINDINGS_MAX);
    }

    /// Counts something it looked at.
    pub fn count(&mut self, name: &str, number: u64) {
        let counted = self.counts.entry(name.to_owned()).or_default();
        *counted = counted.saturating_add(number);
    }
}

/// Operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationCounts {
    /// Happened.
    pub ok: u64,
    /// Did not happen.
    pub fail: u64,
    /// Nobody knows.
    pub info: u64,
    /// The errors of those that failed or are unknown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
}

/// Everything that was found out about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// `fail` if any check failed; else `unknown` if any is; else `pass`.
    pub verdict: Verdict,
    /// In the order in which they are worth reading.
    pub checks: Vec<Check>,
    /// Per kind of operation.
    pub operations: BTreeMap<String, OperationCounts>,
    /// In the order in which they began.
    pub faults: Vec<Fault>,
    /// What the checker assumes about clocks and limits, by name.
    pub assumptions: BTreeMap<String, u64>,
    /// How long the run took by its own clock.
    pub history_ms: u64,
    /// How long the checks took.
    pub took_ms: u64,
}

impl Results {
    /// The check of that name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// A few lines for a terminal: the verdict, and every check that did not pass with its first findings.
    pub fn summary(&self) -> String {
        const FINDINGS_SHOWN: usize = 3;
        let total: u64 = self.operations.values().map(|counts| counts.ok + counts.fail + counts.info).sum();
        let ok: u64 = self.operations.values().map(|counts| counts.ok).sum();
        let mut text = format!(
            "{}: {total} operations ({ok} ok), {} faults, {} checks in {} ms\n",
            self.verdict.name(),
            self.faults.len(),
            self.checks.len(),
            self.took_ms
        );
        for check in self.checks.iter().filter(|check| check.verdict != Verdict::Pass) {
            text += &format!("  {}: {} ({})\n", check.verdict.name(), check.name, check.promise);
            for finding in check.findings.iter().take(FINDINGS_SHOWN) {
                text += &format!("    {}\n", finding.text);
                finding.lines.iter().for_each(|line| text += &format!("      {line}\n"));
            }
            let more = check.findings_total.saturating_sub(FINDINGS_SHOWN as u64);
            if more > 0 {
                text += &format!("    and {more} more in results.json\n");
            }
        }
        text
    }
}
