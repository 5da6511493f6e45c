//! Relations between settings, and names that nobody reads.

use std::collections::BTreeMap;
use std::time::Duration;

use ovncp_state::limits::{SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN};

use super::layers::{Origin, Override, Problem};
use super::{Config, docs};

/// Three reports may be missed before a node is suspect; the time-out must leave room for them.
const HEARTBEATS_PER_TIMEOUT_MIN: u32 = 3;
/// A server that compacts its database is silent for longer than less.
const OVN_PROBE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Contradictions are problems; what is odd but possible is a warning.
pub(crate) fn relations(config: &Config, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let mut report = |path: &str, message: String| {
        problems.push(Problem { origin: config.origin(path), path: path.to_owned(), message });
    };
    raft(config, &mut report);
    cluster(config, &mut report);
    server(config, &mut report);
    sessions(config, &mut report);
    database(config, &mut report);
    ovn(config, &mut report);
    if config.cluster.enabled && config.cluster.peers.is_empty() {
        warnings.push(clustering_without_peers(config));
    }
    if config.cluster.enabled
        && !config.cluster.peers.is_empty()
        && config.cluster.peers.len().is_multiple_of(2)
    {
        warnings.push(Problem {
            origin: config.origin("cluster.peers"),
            path: "cluster.peers".to_owned(),
            message: format!(
                "{} initial voters survive no more failures than {}: use an odd number",
                config.cluster.peers.len(),
                config.cluster.peers.len() - 1
            ),
        });
    }
}

/// The one thing a checked file may lack.
pub(crate) fn clustering_without_peers(config: &Config) -> Problem {
    Problem {
        origin: config.origin("cluster.enabled"),
        path: "cluster.enabled".to_owned(),
        message: "clustering needs the list of nodes: set OVNCP_PEERS=node-1=host:7400,node-2=... \
                  (`cluster.peers`), or turn it off to run this node alone"
            .to_owned(),
    }
}

fn raft(config: &Config, report: &mut impl FnMut(&str, String)) {
    let raft = &config.raft;
    if raft.heartbeat_interval.is_zero() {
        report("raft.heartbeat_interval", "must be longer than 0".to_owned());
    }
    if raft.heartbeat_interval.saturating_mul(2) >= raft.election_timeout_min {
        report(
            "raft.heartbeat_interval",
            format!(
                "{:?} is not shorter than half of raft.election_timeout_min ({:?}): one lost heartbeat would depose \
                 a healthy leader; use at most a third of it",
                raft.heartbeat_interval, raft.election_timeout_min
            ),
        );
    }
    if raft.election_timeout_min >= raft.election_timeout_max {
        report(
            "raft.election_timeout_min",
            format!(
                "{:?} is not shorter than raft.election_timeout_max ({:?}): elections need the spread to end",
                raft.election_timeout_min, raft.election_timeout_max
            ),
        );
    }
    if raft.snapshot_entries == 0 {
        report("raft.snapshot_entries", "must be at least 1".to_owned());
    }
    if raft.snapshot_keep_entries > raft.snapshot_entries {
        report(
            "raft.snapshot_keep_entries",
            format!(
                "{} is more than raft.snapshot_entries ({})",
                raft.snapshot_keep_entries, raft.snapshot_entries
            ),
        );
    }
}

fn cluster(config: &Config, report: &mut impl FnMut(&str, String)) {
    let cluster = &config.cluster;
    if let Err(message) = super::value::check_node_name(&cluster.node_id) {
        report("cluster.node_id", message);
    }
    if cluster.heartbeat_interval.is_zero() {
        report("cluster.heartbeat_interval", "must be longer than 0".to_owned());
    }
    if cluster.heartbeat_interval.saturating_mul(HEARTBEATS_PER_TIMEOUT_MIN) >= cluster.node_timeout {
        report(
            "cluster.node_timeout",
            format!(
                "{:?} leaves no room for {HEARTBEATS_PER_TIMEOUT_MIN} missed reports of cluster.heartbeat_interval \
                 ({:?}): raise it, or report more often",
                cluster.node_timeout, cluster.heartbeat_interval
            ),
        );
    }
    if !matches!(cluster.voters_target, 1 | 3 | 5 | 7) {
        report("cluster.voters_target", format!("{} is none of 1, 3, 5 and 7", cluster.voters_target));
    }
    if !cluster.enabled && !cluster.peers.is_empty() {
        report(
            "cluster.enabled",
            "clustering is off but cluster.peers (OVNCP_PEERS) is set: remove one of the two".to_owned(),
        );
    }
    for (rank, peer) in cluster.peers.iter().enumerate() {
        let earlier = &cluster.peers[..rank];
        if earlier.iter().any(|other| other.name == peer.name) {
            report("cluster.peers", format!("two peers have the name {}", peer.name));
        } else if earlier.iter().any(|other| other.address() == peer.address()) {
            report("cluster.peers", format!("two peers have the address {}", peer.address()));
        }
    }
}

fn sessions(config: &Config, report: &mut impl FnMut(&str, String)) {
    let ttl = config.session.ttl;
    let [min, max] = [SESSION_TTL_MS_MIN, SESSION_TTL_MS_MAX].map(|bound| Duration::from_millis(bound.0));
    if !(min..=max).contains(&ttl) {
        report("session.ttl", format!("{ttl:?} is not between {min:?} and {max:?}"));
    }
    let schemes = ["http://", "https://", "ws://", "wss://"];
    if let Some(url) = &config.server.public_url
        && !schemes.iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
    {
        report(
            "server.public_url",
            format!("{url:?} does not begin with http://, https://, ws:// or wss://"),
        );
    }
}

fn server(config: &Config, report: &mut impl FnMut(&str, String)) {
    let ports = [
        ("server.port", config.server.port),
        ("server.metrics_port", config.server.metrics_port),
        ("cluster.peer_port", config.cluster.peer_port),
    ];
    for (rank, (path, port)) in ports.iter().enumerate() {
        if let Some((other, _)) = ports[..rank].iter().find(|(_, earlier)| earlier == port && *port != 0) {
            report(path, format!("port {port} is that of {other} already"));
        }
    }
    for (path, value) in [
        ("server.concurrent_requests_max", config.server.concurrent_requests_max),
        ("server.connections_max", config.server.connections_max),
    ] {
        if value == 0 || value > tokio::sync::Semaphore::MAX_PERMITS {
            report(path, format!("must be between 1 and {}", tokio::sync::Semaphore::MAX_PERMITS));
        }
    }
    for (path, value) in [
        ("server.header_timeout", config.server.header_timeout),
        ("server.body_timeout", config.server.body_timeout),
        ("server.write_timeout", config.server.write_timeout),
        ("server.propose_timeout", config.server.propose_timeout),
        ("server.read_timeout", config.server.read_timeout),
    ] {
        if value.is_zero() {
            report(path, "must be longer than 0".to_owned());
        }
    }
    if config.server.admin_token.as_ref().is_some_and(|token| token.reveal().is_empty()) {
        report("server.admin_token", "is empty: leave it out, or give it a value".to_owned());
    }
}

fn database(config: &Config, report: &mut impl FnMut(&str, String)) {
    let database = &config.database;
    if database.pool.url.is_some() && database.primary.is_some() {
        report(
            "database.url",
            "both database.url (DATABASE_URL) and database.primary name the server: keep one".to_owned(),
        );
    }
    if database.primary.as_ref().is_some_and(|primary| primary.host.is_none()) {
        report("database.primary.host", "is missing".to_owned());
    }
    for (rank, replica) in database.replicas.iter().enumerate() {
        if replica.host.is_none() {
            report(&format!("database.replicas[{rank}].host"), "is missing".to_owned());
        }
    }
    if database.pool.max_open_connections == 0 {
        report("database.max_open_connections", "must be at least 1".to_owned());
    }
    if database.pool.max_idle_connections > database.pool.max_open_connections {
        report(
            "database.max_idle_connections",
            format!(
                "{} is more than database.max_open_connections ({})",
                database.pool.max_idle_connections, database.pool.max_open_connections
            ),
        );
    }
}

fn ovn(config: &Config, report: &mut impl FnMut(&str, String)) {
    let ovn = &config.ovn;
    if ovn.pool.max_connections == 0 {
        report("ovn.max_connections", "must be at least 1".to_owned());
    }
    let probe = ovn.pool.probe_interval;
    if !probe.is_zero() && probe < OVN_PROBE_INTERVAL_MIN {
        report(
            "ovn.probe_interval",
            format!("{probe:?} is shorter than {OVN_PROBE_INTERVAL_MIN:?}; 0s turns the probes off"),
        );
    }
    if ovn.northbound.endpoints.is_empty() && !ovn.southbound.endpoints.is_empty() {
        let message =
            "is missing, and ovn.southbound.endpoints alone is of no use: set OVN_NORTHBOUND_DB too";
        report("ovn.northbound.endpoints", message.to_owned());
    }
    let databases = [("northbound", &ovn.northbound.endpoints), ("southbound", &ovn.southbound.endpoints)];
    for (name, endpoints) in databases {
        let twice = endpoints.iter().enumerate().find(|(rank, one)| endpoints[..*rank].contains(one));
        if let Some((_, endpoint)) = twice {
            report(&format!("ovn.{name}.endpoints"), format!("{} is there twice", endpoint.0));
        }
    }
    ovn_tls(config, report);
}

fn ovn_tls(config: &Config, report: &mut impl FnMut(&str, String)) {
    let (ovn, tls) = (&config.ovn, &config.ovn.tls);
    let all = ovn.northbound.endpoints.iter().chain(&ovn.southbound.endpoints);
    let encrypted = all.map(|endpoint| endpoint.0.as_str()).find(|endpoint| endpoint.starts_with("ssl:"));
    let files = [
        ("private_key", "OVN_PRIVATE_KEY", &tls.private_key),
        ("certificate", "OVN_CERTIFICATE", &tls.certificate),
        ("ca_certificate", "OVN_CA_CERTIFICATE", &tls.ca_certificate),
    ];
    let given = files.iter().find(|(_, _, file)| file.is_some());
    for (name, variable, file) in &files {
        let because = match (file, encrypted, given) {
            (None, Some(endpoint), _) => format!("{endpoint} needs it"),
            (None, None, Some((other, ..))) => format!("ovn.tls.{other} is of no use without it"),
            _ => continue,
        };
        report(&format!("ovn.tls.{name}"), format!("is missing ({variable}): {because}"));
    }
}

/// A flag must name a setting.
pub(crate) fn unknown_overrides(overrides: &[Override], problems: &mut Vec<Problem>) {
    let known = docs::all();
    for flag in overrides.iter().filter(|flag| !known.iter().any(|setting| setting.path == flag.path)) {
        problems.push(Problem {
            origin: Origin::Flag(flag.flag.clone()),
            path: flag.path.clone(),
            message: "no such setting".to_owned(),
        });
    }
}

/// Read by the command line, or set for children of `ovncp lock`; no settings of a node.
const OTHER_VARIABLES: [&str; 4] =
    ["OVNCP_CONFIG", "OVNCP_ENDPOINTS", "OVNCP_FENCING_TOKEN", "OVNCP_LOCK_KEY"];

/// Likely slips: `OVNCP_PEER` for `OVNCP_PEERS`. Others are left alone, since Kubernetes sets variables such
/// as `OVNCP_SERVICE_HOST` for every service.
pub(crate) fn unknown_variables(environment: &BTreeMap<String, String>, warnings: &mut Vec<Problem>) {
    let settings = docs::all();
    let known: Vec<&str> =
        settings.iter().flat_map(|setting| setting.env.iter().copied()).chain(OTHER_VARIABLES).collect();
    for name in
        environment.keys().filter(|name| name.starts_with("OVNCP_") && !known.contains(&name.as_str()))
    {
        let near = known.iter().map(|other| (distance(name, other), other)).min();
        if let Some((1..=2, other)) = near {
            warnings.push(Problem {
                origin: Origin::Environment(name.clone()),
                path: String::new(),
                message: format!("nothing reads it: did you mean {other}?"),
            });
        }
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
