//! The figures, for people and for programs.

use serde::Serialize;
use serde_json::json;

use super::environment::Environment;
use super::{Aim, Scenario};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Format, table};

pub(super) struct Report {
    pub(super) scenario: Scenario,
    pub(super) environment: Environment,
    pub(super) results: Results,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Results {
    Rates(Vec<Rate>),
    Contended(Vec<Contention>),
    Failover(Failover),
}

/// Of one number of clients.
#[derive(Serialize)]
pub(super) struct Rate {
    pub(super) clients: u16,
    #[serde(serialize_with = "aim")]
    pub(super) target: Aim,
    pub(super) operations: u64,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Of all own nodes together.
    pub(super) cpu_seconds_per_100k: Option<f64>,
    /// Of all own nodes together, at the end.
    pub(super) memory_mb: Option<f64>,
}

/// Of one number of clients that want one key.
#[derive(Serialize)]
pub(super) struct Contention {
    pub(super) clients: u16,
    pub(super) handovers: u64,
    pub(super) per_second: f64,
    pub(super) wait_p50_ms: f64,
    pub(super) wait_p99_ms: f64,
    pub(super) wait_max_ms: f64,
    pub(super) jain: f64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// Of all runs.
#[derive(Serialize)]
pub(super) struct Failover {
    pub(super) clients: u16,
    pub(super) median_ms: f64,
    pub(super) max_ms: f64,
    pub(super) outages_ms: Vec<f64>,
}

fn aim<S: serde::Serializer>(aim: &Aim, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(aim_name(*aim))
}

fn aim_name(aim: Aim) -> &'static str {
    match aim {
        Aim::Leader => "leader",
        Aim::Follower => "follower",
        Aim::All => "all",
    }
}

impl Report {
    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        let results = serde_json::to_value(&self.results)
            .map_err(|e| Failure::new(Exit::Failure, format!("cannot describe the results: {e}")))?;
        let value = json!({
            "scenario": self.scenario.name(),
            "environment": self.environment,
            "results": results,
        });
        format.print(&value, |_| self.text())
    }

    fn text(&self) -> String {
        let mut lines = vec![self.environment.line()];
        lines.extend(self.environment.caveats().into_iter().map(|caveat| format!("caution: {caveat}")));
        lines.push(String::new());
        match &self.results {
            Results::Rates(rates) => {
                lines.push(rates_table(self.scenario, rates));
                lines.extend(errors(rates.iter().map(|r| (r.clients, r.errors, &r.first_error))));
            }
            Results::Contended(all) => {
                lines.push(contended_table(all));
                lines.extend(errors(all.iter().map(|r| (r.clients, r.errors, &r.first_error))));
            }
            Results::Failover(failover) => lines.push(failover_text(failover)),
        }
        lines.join("\n")
    }
}

fn errors<'a>(all: impl Iterator<Item = (u16, u64, &'a Option<String>)>) -> Vec<String> {
    let line = |(clients, count, first): (u16, u64, &Option<String>)| {
        let first = first.as_deref().unwrap_or("a token that did not grow");
        (count > 0).then(|| format!("{count} errors at {clients} clients, the first: {first}"))
    };
    all.filter_map(line).collect()
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn rates_table(scenario: Scenario, rates: &[Rate]) -> String {
    let rate = match scenario {
        Scenario::Lock => "PAIRS/S",
        Scenario::Read => "READS/S",
        _ => "WRITES/S",
    };
    let header =
        ["CLIENTS", "TARGET", rate, "P50 MS", "P99 MS", "MAX MS", "ERRORS", "CPU S/100K", "MEMORY MB"];
    let row = |r: &Rate| {
        vec![
            r.clients.to_string(),
            aim_name(r.target).to_owned(),
            format!("{:.0}", r.per_second),
            format!("{:.2}", r.p50_ms),
            format!("{:.2}", r.p99_ms),
            format!("{:.1}", r.max_ms),
            r.errors.to_string(),
            optional(r.cpu_seconds_per_100k),
            optional(r.memory_mb),
        ]
    };
    table(&header, rates.iter().map(row))
}

fn contended_table(all: &[Contention]) -> String {
    let header =
        ["CLIENTS", "HAND-OVERS/S", "WAIT P50 MS", "WAIT P99 MS", "LONGEST WAIT MS", "JAIN", "ERRORS"];
    let row = |r: &Contention| {
        vec![
            r.clients.to_string(),
            format!("{:.0}", r.per_second),
            format!("{:.2}", r.wait_p50_ms),
            format!("{:.2}", r.wait_p99_ms),
            format!("{:.1}", r.wait_max_ms),
            format!("{:.4}", r.jain),
            r.errors.to_string(),
        ]
    };
    table(&header, all.iter().map(row))
}

fn failover_text(failover: &Failover) -> String {
    let runs: Vec<String> = failover.outages_ms.iter().map(|ms| format!("{ms:.0}")).collect();
    format!(
        "time without a successful write after kill -9 of the leader, {} clients, {} runs\n\
         median {:.0} ms, max {:.0} ms  ({} ms)",
        failover.clients,
        failover.outages_ms.len(),
        failover.median_ms,
        failover.max_ms,
        runs.join(", ")
    )
}
