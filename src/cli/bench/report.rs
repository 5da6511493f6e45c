//! The figures, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::environment::Environment;
use super::ovn::Figures;
use super::sessions::Sessions;
use super::target::{Cores, Cost, Sizes};
use super::{Aim, Scenario};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Format, fields, table};

pub(super) struct Report {
    pub(super) scenario: Scenario,
    /// Locks that were held all the time.
    pub(super) held: u32,
    pub(super) environment: Environment,
    pub(super) results: Results,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Results {
    Rates(Vec<Rate>),
    Contended(Vec<Contention>),
    Renewals(Renewals),
    Failover(Failover),
    Handover(Handover),
    Overload(Overloads),
    Churn(Churn),
    Invalidations(Vec<Delivery>),
    Sessions(Sessions),
    Ovn(Figures),
}

/// Of invalidations at one rate.
#[derive(Serialize)]
pub(super) struct Delivery {
    /// Per second, as asked for.
    pub(super) rate: u32,
    /// Clients that took and gave back locks meanwhile.
    pub(super) lock_clients: u16,
    pub(super) lock_pairs_per_second: Option<f64>,
    /// Subscribers, one on each.
    pub(super) nodes: usize,
    pub(super) published: u64,
    /// Deliveries that did not come.
    pub(super) missing: u64,
    /// From the moment it was sent until a subscriber had it; every subscriber counts.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// From the moment it was due until it was sent.
    pub(super) sent_late_p99_ms: f64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    #[serde(flatten)]
    pub(super) cost: Cost,
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
    #[serde(flatten)]
    pub(super) cost: Cost,
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
    #[serde(flatten)]
    pub(super) cost: Cost,
}

/// Of holders that renew.
#[derive(Serialize)]
pub(super) struct Renewals {
    pub(super) holders: u32,
    pub(super) ttl_ms: u64,
    pub(super) connections: u16,
    pub(super) renewals: u64,
    pub(super) per_second: f64,
    /// Of the log.
    pub(super) entries_per_second: f64,
    /// From the moment a renewal was due to its answer.
    pub(super) late_p50_ms: f64,
    pub(super) late_p99_ms: f64,
    pub(super) late_max_ms: f64,
    pub(super) elections: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    #[serde(flatten)]
    pub(super) cost: Cost,
}

/// Of all runs.
#[derive(Serialize)]
pub(super) struct Failover {
    pub(super) clients: u16,
    pub(super) median_ms: f64,
    pub(super) max_ms: f64,
    pub(super) outages_ms: Vec<f64>,
}

impl Failover {
    /// At least one run.
    pub(super) fn new(clients: u16, times: &[Duration]) -> Failover {
        let outages_ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
        let mut sorted = outages_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |position: usize| sorted.get(position).copied().unwrap_or_default();
        Failover {
            clients,
            median_ms: at(sorted.len() / 2),
            max_ms: at(sorted.len().saturating_sub(1)),
            outages_ms,
        }
    }
}

/// Of planned hand-overs.
#[derive(Serialize)]
pub(super) struct Handover {
    /// Time without a successful write.
    #[serde(flatten)]
    pub(super) outages: Failover,
    /// How long the call took that asked for it.
    pub(super) calls: Failover,
    pub(super) writes: u64,
    /// Writes that were refused, cut off or late; clients do not try again here.
    pub(super) failed: u64,
    pub(super) first_error: Option<String>,
    #[serde(flatten)]
    pub(super) cost: Cost,
}

/// What was done of far too much.
#[derive(Serialize)]
pub(super) struct Overloads {
    pub(super) capacity_per_second: f64,
    pub(super) factor: f64,
    /// Which cores the own nodes and the load had, where they had different ones.
    pub(super) cores: Option<Cores>,
    pub(super) memory_mb_before: Option<f64>,
    pub(super) steps: Vec<Overload>,
}

/// Of one number of connections.
#[derive(Serialize)]
pub(super) struct Overload {
    pub(super) connections: u16,
    /// By the schedule.
    pub(super) due_per_second: f64,
    pub(super) sent_per_second: f64,
    /// Due while every connection waited for an answer.
    pub(super) held_back_per_second: f64,
    /// By status.
    pub(super) answers: BTreeMap<u16, u64>,
    pub(super) goodput_per_second: f64,
    /// 429 and 503.
    pub(super) refused_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) refused_p99_ms: f64,
    pub(super) elections: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    #[serde(flatten)]
    pub(super) cost: Cost,
}

/// Of what comes and goes.
#[derive(Serialize)]
pub(super) struct Churn {
    pub(super) seconds: f64,
    pub(super) clients: u16,
    /// Operations per second that were asked for.
    pub(super) rate: u32,
    pub(super) counts: ChurnCounts,
    pub(super) elections: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    pub(super) growth: Vec<Growth>,
    pub(super) samples: Vec<Sample>,
}

/// What was done.
#[derive(Serialize)]
pub(super) struct ChurnCounts {
    pub(super) lock_pairs: u64,
    pub(super) leases_left_to_end: u64,
    pub(super) waits_granted: u64,
    pub(super) waits_timed_out: u64,
    pub(super) registers: u64,
    pub(super) terms: u64,
    pub(super) watchers: u64,
    pub(super) events_seen: u64,
}

/// Memory of one node, at the beginning and at the end.
#[derive(Serialize)]
pub(super) struct Growth {
    /// Counted from 1.
    pub(super) node: usize,
    /// Median of the second tenth of the samples.
    pub(super) first_mb: Option<f64>,
    /// Median of the last tenth.
    pub(super) last_mb: Option<f64>,
    pub(super) max_mb: Option<f64>,
}

/// What was seen at one moment.
#[derive(Serialize)]
pub(super) struct Sample {
    pub(super) at_s: f64,
    /// What the state holds; absent when no node answered in time.
    pub(super) held: Option<Held>,
    pub(super) nodes: Vec<NodeSample>,
}

/// What the replicated state holds.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Held {
    pub(super) locks: u64,
    pub(super) waiters: u64,
    pub(super) registers: u64,
    pub(super) events: u64,
}

/// Of one node at one moment.
#[derive(Serialize)]
pub(super) struct NodeSample {
    pub(super) applied_index: Option<u64>,
    #[serde(flatten)]
    pub(super) sizes: Sizes,
}

impl Sample {
    fn cells(&self) -> Vec<String> {
        let held =
            |of: fn(&Held) -> u64| self.held.as_ref().map_or("-".to_owned(), |held| of(held).to_string());
        let each = |of: fn(&Sizes) -> Option<f64>| {
            let all: Vec<_> = self.nodes.iter().map(|node| optional(of(&node.sizes))).collect();
            all.join(" ")
        };
        let entries = self.nodes.iter().filter_map(|node| node.applied_index).max();
        vec![
            format!("{:.0}", self.at_s),
            entries.map_or("-".to_owned(), |entries| entries.to_string()),
            held(|held| held.locks),
            held(|held| held.waiters),
            held(|held| held.registers),
            held(|held| held.events),
            each(|sizes| sizes.memory_mb),
            each(|sizes| sizes.log_mb),
            each(|sizes| sizes.snapshot_mb),
        ]
    }

    /// One line for people who wait.
    pub(super) fn line(&self) -> String {
        let [at, entries, locks, _, _, _, memory, log, snapshot] = &self.cells()[..] else {
            return String::new();
        };
        format!(
            "{at} s: entry {entries}, {locks} locks, memory {memory} MB, log {log} MB, snapshot {snapshot} MB"
        )
    }
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
            "held": self.held,
            "environment": self.environment,
            "results": results,
        });
        format.print(&value, |_| self.text())
    }

    fn text(&self) -> String {
        let mut lines = vec![self.environment.line()];
        lines.extend(self.environment.caveats().into_iter().map(|caveat| format!("caution: {caveat}")));
        if self.held > 0 && !matches!(self.scenario, Scenario::Renew | Scenario::Sessions) {
            lines.push(format!("{} locks held all the time", self.held));
        }
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
            Results::Renewals(r) => {
                lines.push(renewals_text(r));
                lines.extend(errors([(r.connections, r.errors, &r.first_error)].into_iter()));
            }
            Results::Sessions(sessions) => lines.push(sessions.text()),
            Results::Ovn(figures) => lines.push(figures.text()),
            Results::Failover(failover) => {
                let what = format!(
                    "time without a successful write after kill -9 of the leader, {} clients",
                    failover.clients
                );
                lines.push(times_text(&what, failover));
            }
            Results::Handover(handover) => lines.push(handover_text(handover)),
            Results::Overload(overloads) => {
                lines.push(overload_text(overloads));
                lines.extend(errors(
                    overloads.steps.iter().map(|r| (r.connections, r.errors, &r.first_error)),
                ));
            }
            Results::Invalidations(all) => {
                lines.push(deliveries_table(all));
                lines.extend(errors(all.iter().map(|r| (r.lock_clients, r.errors, &r.first_error))));
            }
            Results::Churn(churn) => {
                lines.push(churn_text(churn));
                lines.extend(errors([(churn.clients, churn.errors, &churn.first_error)].into_iter()));
            }
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
            optional(r.cost.cpu_seconds_per_100k),
            optional(r.cost.memory_mb),
        ]
    };
    table(&header, rates.iter().map(row))
}

fn contended_table(all: &[Contention]) -> String {
    let header = [
        "CLIENTS",
        "HAND-OVERS/S",
        "WAIT P50 MS",
        "WAIT P99 MS",
        "LONGEST WAIT MS",
        "JAIN",
        "ERRORS",
        "CPU S/100K",
        "MEMORY MB",
    ];
    let row = |r: &Contention| {
        vec![
            r.clients.to_string(),
            format!("{:.0}", r.per_second),
            format!("{:.2}", r.wait_p50_ms),
            format!("{:.2}", r.wait_p99_ms),
            format!("{:.1}", r.wait_max_ms),
            format!("{:.4}", r.jain),
            r.errors.to_string(),
            optional(r.cost.cpu_seconds_per_100k),
            optional(r.cost.memory_mb),
        ]
    };
    table(&header, all.iter().map(row))
}

fn deliveries_table(all: &[Delivery]) -> String {
    let header = [
        "PUBLISHED/S",
        "LOCK CLIENTS",
        "LOCK PAIRS/S",
        "NODES",
        "PUBLISHED",
        "MISSING",
        "P50 MS",
        "P99 MS",
        "MAX MS",
        "SENT LATE P99 MS",
        "ERRORS",
    ];
    let row = |r: &Delivery| {
        vec![
            r.rate.to_string(),
            r.lock_clients.to_string(),
            r.lock_pairs_per_second.map_or_else(|| "-".to_owned(), |pairs| format!("{pairs:.0}")),
            r.nodes.to_string(),
            r.published.to_string(),
            r.missing.to_string(),
            format!("{:.2}", r.p50_ms),
            format!("{:.2}", r.p99_ms),
            format!("{:.1}", r.max_ms),
            format!("{:.2}", r.sent_late_p99_ms),
            r.errors.to_string(),
        ]
    };
    table(&header, all.iter().map(row))
}

fn times_text(what: &str, times: &Failover) -> String {
    let runs: Vec<String> = times.outages_ms.iter().map(|ms| format!("{ms:.0}")).collect();
    format!(
        "{what}, {} runs\nmedian {:.0} ms, max {:.0} ms  ({} ms)",
        times.outages_ms.len(),
        times.median_ms,
        times.max_ms,
        runs.join(", ")
    )
}

fn handover_text(handover: &Handover) -> String {
    let what = format!(
        "time without a successful write at a planned hand-over, {} clients",
        handover.outages.clients
    );
    let rows = [
        ("writes", handover.writes.to_string()),
        ("failed writes", handover.failed.to_string()),
        ("first failure", handover.first_error.clone().unwrap_or_else(|| "-".to_owned())),
        (
            "hand-over call",
            format!("median {:.0} ms, max {:.0} ms", handover.calls.median_ms, handover.calls.max_ms),
        ),
        ("CPU s/100k writes", optional(handover.cost.cpu_seconds_per_100k)),
        ("memory MB", optional(handover.cost.memory_mb)),
    ];
    format!("{}\n\n{}", times_text(&what, &handover.outages), fields(&rows))
}

fn renewals_text(r: &Renewals) -> String {
    let rows = [
        ("holders", format!("{}, each renews {} s every third of it", r.holders, r.ttl_ms as f64 / 1_000.0)),
        ("connections", r.connections.to_string()),
        ("renewals/s", format!("{:.0}", r.per_second)),
        ("log entries/s", format!("{:.1}", r.entries_per_second)),
        (
            "answered after due",
            format!("p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms", r.late_p50_ms, r.late_p99_ms, r.late_max_ms),
        ),
        ("elections", r.elections.to_string()),
        ("errors", r.errors.to_string()),
        ("CPU s/100k renewals", optional(r.cost.cpu_seconds_per_100k)),
        ("memory MB", optional(r.cost.memory_mb)),
    ];
    fields(&rows)
}

fn overload_text(overloads: &Overloads) -> String {
    let header = [
        "CONNECTIONS",
        "DUE/S",
        "SENT/S",
        "GOODPUT/S",
        "OF CAPACITY",
        "REFUSED/S",
        "P50 MS",
        "P99 MS",
        "REFUSED P99 MS",
        "ELECTIONS",
        "ERRORS",
        "CPU S/100K",
        "MEMORY MB",
    ];
    let row = |r: &Overload| {
        vec![
            r.connections.to_string(),
            format!("{:.0}", r.due_per_second),
            format!("{:.0}", r.sent_per_second),
            format!("{:.0}", r.goodput_per_second),
            format!("{:.0} %", 100.0 * r.goodput_per_second / overloads.capacity_per_second),
            format!("{:.0}", r.refused_per_second),
            format!("{:.2}", r.p50_ms),
            format!("{:.2}", r.p99_ms),
            format!("{:.2}", r.refused_p99_ms),
            r.elections.to_string(),
            r.errors.to_string(),
            optional(r.cost.cpu_seconds_per_100k),
            optional(r.cost.memory_mb),
        ]
    };
    let cores = overloads.cores.as_ref().map_or_else(String::new, |cores| {
        format!("; nodes on cores {:?}, load on core {}", cores.nodes, cores.load)
    });
    format!(
        "capacity {:.0} writes/s (256 clients), {} times that on schedule; memory before {} MB{cores}\n{}",
        overloads.capacity_per_second,
        overloads.factor,
        optional(overloads.memory_mb_before),
        table(&header, overloads.steps.iter().map(row))
    )
}

/// Samples that are shown to people; programs get all.
const SAMPLES_SHOWN_MAX: usize = 20;

fn churn_text(churn: &Churn) -> String {
    let header = [
        "SECOND",
        "ENTRIES",
        "LOCKS",
        "WAITERS",
        "REGISTERS",
        "EVENTS",
        "MEMORY MB",
        "LOG MB",
        "SNAPSHOT MB",
    ];
    let step = churn.samples.len().div_ceil(SAMPLES_SHOWN_MAX).max(1);
    let last = churn.samples.len().saturating_sub(1);
    let shown = churn.samples.iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last);
    let growth = churn.growth.iter().map(|growth| {
        let ends = [growth.first_mb, growth.last_mb, growth.max_mb].map(optional);
        [vec![growth.node.to_string()], ends.to_vec()].concat()
    });
    let counts = &churn.counts;
    let rows = [
        ("lock pairs", counts.lock_pairs),
        ("leases left to end", counts.leases_left_to_end),
        ("waits granted", counts.waits_granted),
        ("waits timed out", counts.waits_timed_out),
        ("registers", counts.registers),
        ("terms", counts.terms),
        ("watchers", counts.watchers),
        ("events seen", counts.events_seen),
        ("elections", churn.elections),
        ("errors", churn.errors),
    ];
    format!(
        "{:.0} s with {} operations/s asked for\n{}\n\n{}\n\n{}",
        churn.seconds,
        churn.rate,
        fields(&rows.map(|(name, count)| (name, count.to_string()))),
        table(&header, shown.map(|(_, sample)| sample.cells())),
        table(&["NODE", "MB AT FIRST", "MB AT LAST", "MB AT MOST"], growth)
    )
}
