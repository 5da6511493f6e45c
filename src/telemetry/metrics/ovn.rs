//! What this node sees of OVN's databases.

use std::time::Duration;

use ovncp_ovn::contents::Table;
use ovncp_ovn::database::Database;
use ovncp_ovn::metrics::DatabaseMetrics;
use prometheus::proto::MetricFamily;

use super::declared::{Declared, declare};
use crate::services::network::Network;

declare! {
    /// OVN as this node sees it. `database` is `northbound` or `southbound`.
    OVN:
    CONNECTED = Gauge "ovncp_ovn_connected" {database} in "1",
        "1 while a server of the database is connected.",
        night "0: no server answers, or (writers need it) none of those that answer leads; /api/v1/ovn says why.";
    IN_SYNC = Gauge "ovncp_ovn_in_sync" {database} in "1",
        "1 while the replica of this node follows the server; /health/ready?for=api asks for it.",
        night "0 while ovncp_ovn_connected is 1: a large database is being read. 0 on all nodes: look at ovsdb-server.";
    LEADER = Gauge "ovncp_ovn_leader" {database} in "1",
        "1 while the connected server leads its cluster, or stands alone.",
        night "0 for more than a few seconds: the cluster of ovsdb-server has no leader; ask its cluster/status.";
    AGE = Gauge "ovncp_ovn_cache_age_seconds" {database} in "seconds",
        "Time since the replica was known to be current; while in sync, since the server was last heard.",
        night "Grows without end: OVN is away, and reads with consistency=local get older and older.";
    ROWS = Gauge "ovncp_ovn_rows" {database, table} in "rows",
        "Rows of each table that this node keeps.",
        night "A sudden step: somebody imported or deleted a lot. /api/v1/ovn/events tells what.";
    RESYNCS = Counter "ovncp_ovn_resyncs_total" {database, kind} in "reads",
        "Times the replica caught up after a connection was made: fast (what was missed) or full (all of it).",
        night "Many full ones: a standalone server restarts, or connections break for longer than its history (100 transactions).";
    SESSIONS_LOST = Counter "ovncp_ovn_sessions_lost_total" {database} in "sessions",
        "Sessions in sync that ended.",
        night "Steadily: the network, probes of a busy server that run out, or leadership that wanders.";
    TRANSACTIONS = Counter "ovncp_ovn_transactions_total" {database, outcome} in "transactions",
        "OVSDB transactions: committed, rejected by the database, never sent, or of unknown outcome.",
        night "Unknown ones: servers died while they committed. Rejected ones at a high rate: writers compete, see ovncp_ovn_requests_retried_total.";
    TRANSACTION_SECONDS = Counter "ovncp_ovn_transaction_seconds_total" {database} in "seconds",
        "Time that committed and rejected transactions took, waiting in this node included; divide by their rate.",
        night "Rises on all nodes: the database is at its limit (a cluster commits a few hundred per second).";
    CHANGES = Counter "ovncp_ovn_rows_changed_total" {database} in "rows",
        "Changed rows that the servers told, whoever changed them.",
        night "High without writes of ours: another writer (neutron, ovn-kubernetes, ovn-nbctl) is busy.";
    RECEIVED = Counter "ovncp_ovn_received_bytes_total" {database} in "bytes",
        "Bytes received from servers.",
        night "Compare with ovncp_ovn_rows_changed_total: full resyncs show as steps.";
    REQUESTS = Counter "ovncp_ovn_requests_total" {} in "requests",
        "Writes that were sent in transactions, coalesced ones each for itself, those sent again each time.",
        night "Divided by committed transactions: how many share one. Near 1 under load: they are all dependent.";
    RETRIED = Counter "ovncp_ovn_requests_retried_total" {} in "requests",
        "Writes that were sent again because another one in their transaction failed.",
        night "A client sends many writes that are refused: the counters of problems by code show which.";
    WAITING = Gauge "ovncp_ovn_requests_waiting" {} in "requests",
        "Writes that wait for their transaction.",
        night "Near 4096: OVN cannot keep up and callers get 429.";
}

/// Everything about OVN; nothing without configured servers.
pub(crate) fn families(network: &Network) -> Vec<MetricFamily> {
    let databases = network.databases();
    if databases.is_empty() {
        return Vec::new();
    }
    let flag = |declared: &Declared, read: fn(&ovncp_ovn::database::DatabaseStatus) -> bool| {
        let status = network.status();
        declared.each(status.iter().map(|(name, status)| (*name, f64::from(u8::from(read(status))))))
    };
    let counter = |declared: &Declared, read: fn(&DatabaseMetrics) -> f64| {
        declared.each(databases.iter().map(|(name, database)| (*name, read(database.metrics()))))
    };
    let mut families = vec![
        flag(&CONNECTED, |status| status.connected),
        flag(&IN_SYNC, |status| status.in_sync),
        flag(&LEADER, |status| status.leader),
        age(network),
        rows(&databases),
        counter(&SESSIONS_LOST, |metrics| metrics.sessions_lost.get() as f64),
        counter(&TRANSACTION_SECONDS, |metrics| metrics.transaction_micros.get() as f64 / 1e6),
        counter(&CHANGES, |metrics| metrics.rows_changed.get() as f64),
        counter(&RECEIVED, |metrics| metrics.bytes_received.get() as f64),
        kinds(&databases, &RESYNCS, |metrics| {
            vec![("fast", metrics.resyncs_fast.get()), ("full", metrics.resyncs_full.get())]
        }),
        kinds(&databases, &TRANSACTIONS, |metrics| {
            vec![
                ("committed", metrics.transactions_committed.get()),
                ("rejected", metrics.transactions_rejected.get()),
                ("unavailable", metrics.transactions_unavailable.get()),
                ("unknown", metrics.transactions_unknown.get()),
            ]
        }),
    ];
    if let Ok(writer) = network.writer() {
        families.push(REQUESTS.value(writer.metrics().requests() as f64));
        families.push(RETRIED.value(writer.metrics().retried() as f64));
        families.push(WAITING.value(writer.waiting() as f64));
    }
    families
}

fn age(network: &Network) -> MetricFamily {
    let status = network.status();
    let known = status.iter().filter_map(|(name, status)| Some((*name, status.age?)));
    AGE.each(known.map(|(name, age): (_, Duration)| (name, age.as_secs_f64())))
}

/// Tables come from the schema of the server: a few dozen.
fn rows(databases: &[(&'static str, &Database)]) -> MetricFamily {
    let mut samples = Vec::new();
    for (name, database) in databases {
        let counts = database.read(|contents| {
            let count = |table: &Table| (table.schema().name.to_string(), table.len());
            contents.tables().map(count).collect::<Vec<_>>()
        });
        for (table, count) in counts.unwrap_or_default() {
            samples.push(ROWS.labelled_value(&[name, &table], count as f64));
        }
    }
    ROWS.family(samples)
}

fn kinds(
    databases: &[(&'static str, &Database)],
    declared: &Declared,
    read: fn(&DatabaseMetrics) -> Vec<(&'static str, u64)>,
) -> MetricFamily {
    let mut samples = Vec::new();
    for (name, database) in databases {
        for (kind, count) in read(database.metrics()) {
            samples.push(declared.labelled_value(&[name, kind], count as f64));
        }
    }
    declared.family(samples)
}
