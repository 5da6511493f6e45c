//! The sources together, the guide's own texts, and every kind of mistake with its place.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

const GUIDE_YAML: &str = include_str!("fixtures/guide.yaml");
const GUIDE_TUNING_YAML: &str = include_str!("fixtures/guide-tuning.yaml");
const GUIDE_ENV: &str = include_str!("fixtures/guide.env");

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads `yaml` from a file named `config.yaml`; places are reported relative to it.
fn load(yaml: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, yaml).unwrap();
    Config::load(&Sources { file: Some(path), environment: environment(variables), overrides: Vec::new() })
}

/// The one message about `yaml`, from `config.yaml:` on.
fn problem(yaml: &str) -> String {
    let error = load(yaml, &[]).unwrap_err().to_string();
    let from = error.find("config.yaml:").unwrap_or_else(|| panic!("no place in {error:?}"));
    error[from..].to_owned()
}

fn texts(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

const GUIDE_VARIABLES: [(&str, &str); 4] =
    [("NODE_ID", "node-1"), ("NODE_IP", "192.168.1.10"), ("DB_USER", "ovncp"), ("DB_PASSWORD", "hunter2")];

#[test]
fn guide_file_loads_as_it_stands() {
    // REDIS_PASSWORD stands in an ignored section and need not exist.
    let loaded = load(GUIDE_YAML, &GUIDE_VARIABLES).unwrap();
    let config = &loaded.config;
    assert_eq!((config.server.port, config.server.metrics_port), (8080, 9090));
    assert!(config.cluster.enabled);
    assert_eq!(config.cluster.node_id, "node-1");
    assert_eq!(config.cluster.node_ip, "192.168.1.10");
    assert_eq!(config.cluster.heartbeat_interval, Duration::from_secs(5));
    assert_eq!(config.cluster.node_timeout, Duration::from_secs(30));
    let primary = config.database.primary.as_ref().unwrap();
    assert_eq!(primary.user.as_deref(), Some("ovncp"));
    assert_eq!(primary.password.as_ref().unwrap().reveal(), "hunter2");
    let replicas: Vec<_> =
        config.database.replicas.iter().filter_map(|replica| replica.host.as_deref()).collect();
    assert_eq!(replicas, ["postgres-replica-1", "postgres-replica-2"]);
    assert_eq!(config.database.pool.connection_max_lifetime, Duration::from_secs(3600));
    assert_eq!(config.ovn.northbound.endpoints.len(), 3);
    assert_eq!(config.ovn.southbound.endpoints[2].0, "tcp:ovn-sb-3:6642");
    let warnings = texts(&loaded.warnings);
    assert!(warnings.contains("config.yaml:13:1: redis: ignored"), "{warnings}");
    assert!(warnings.contains("cluster.peers"), "{warnings}");
    // It lacks the list of nodes, which only a start needs.
    assert!(config.check_start().unwrap_err().to_string().contains("OVNCP_PEERS=node-1=host:7400"));
}

#[test]
fn guide_tuning_fragments_load_as_they_stand() {
    let loaded = load(GUIDE_TUNING_YAML, &[]).unwrap();
    assert_eq!(loaded.config.ovn.pool.connection_lifetime, Duration::from_secs(30 * 60));
    assert_eq!(loaded.config.database.pool.max_open_connections, 50);
    let warnings = texts(&loaded.warnings);
    assert!(
        warnings.contains("cache: ignored") && warnings.contains("batch_processor: ignored"),
        "{warnings}"
    );
}

#[test]
fn guide_variables_load_as_they_stand() {
    let variables: Vec<(&str, &str)> = GUIDE_ENV
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once('=').unwrap())
        .collect();
    assert_eq!(variables.len(), 20);
    let loaded = load("", &variables).unwrap();
    let config = &loaded.config;
    assert_eq!(config.cluster.node_hostname, "ovncp-1.example.com");
    assert_eq!(config.session.ttl, Duration::from_secs(30 * 60));
    assert_eq!(config.ovn.pool.max_connections, 10);
    assert_eq!(config.database.pool.max_idle_connections, 5);
    let warned: Vec<String> = loaded
        .warnings
        .iter()
        .filter_map(|warning| match &warning.origin {
            Origin::Environment(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    for name in [
        "REDIS_URL",
        "REDIS_CLUSTER_MODE",
        "REDIS_SENTINEL_MASTER",
        "REDIS_SENTINEL_NODES",
        "REDIS_POOL_SIZE",
    ] {
        assert!(warned.iter().any(|warned| warned == name), "{name}");
    }
    for name in ["SESSION_STORE_TYPE", "SESSION_CLEANUP_INTERVAL", "CACHE_TYPE", "CACHE_KEY_PREFIX"] {
        assert!(warned.iter().any(|warned| warned == name), "{name}");
    }
}

#[test]
fn later_sources_win() {
    let sources = |flag: bool| {
        let mut sources =
            Sources { environment: environment(&[("NODE_PORT", "8002")]), ..Sources::default() };
        if flag {
            sources = sources.with_override("server.port", "--http-port", "8003");
        }
        sources
    };
    let loaded = load("server: {port: 8001}", &[]).unwrap();
    assert_eq!(loaded.config.server.port, 8001);
    let loaded = load("server: {port: 8001}", &[("NODE_PORT", "8002")]).unwrap();
    assert_eq!(loaded.config.server.port, 8002);
    assert_eq!(loaded.config.origin("server.port").to_string(), "environment variable NODE_PORT");
    let loaded = Config::load(&sources(true)).unwrap();
    assert_eq!(loaded.config.server.port, 8003);
    assert_eq!(loaded.config.origin("server.port").to_string(), "flag --http-port");
    // An empty variable is none.
    assert_eq!(load("", &[("NODE_PORT", "")]).unwrap().config.server.port, 8080);
}

#[test]
fn mistakes_name_file_line_and_column() {
    for (yaml, expected) in [
        ("server:\n  prot: 8080\n", "config.yaml:2:3: unknown field `prot`, expected one of"),
        ("sever:\n  port: 8080\n", "config.yaml:1:1: unknown field `sever`"),
        (
            "server:\n  port: 99999\n",
            "config.yaml:2:9: server.port: `99999` is not a whole number from 0 to 65535",
        ),
        ("server:\n  port: 1\n  port: 2\n", "config.yaml:3:3: duplicate"),
        (
            "cluster:\n  heartbeat_interval: 5\n",
            "config.yaml:2:23: cluster.heartbeat_interval: `5` is not a duration",
        ),
        (
            "cluster:\n  node_id: ${NODE_NAME}\n",
            "config.yaml:2:12: ${NODE_NAME} is not set: set the environment variable",
        ),
        ("cluster:\n  node_id: [a]\n", "config.yaml:2:12:"),
        (
            "cluster:\n  peers: [a=b:7400, a=c:7400]\n",
            "config.yaml:2:10: cluster.peers: two peers have the name a",
        ),
        ("cluster:\n  voters_target: 4\n", "config.yaml:2:18: cluster.voters_target: 4 is none of"),
        (
            "raft:\n  heartbeat_interval: 200ms\n",
            "config.yaml:2:23: raft.heartbeat_interval: 200ms is not shorter",
        ),
        (
            "raft:\n  election_timeout_min: 1s\n",
            "config.yaml:2:25: raft.election_timeout_min: 1s is not shorter",
        ),
        ("cluster:\n  node_timeout: 10s\n", "config.yaml:2:17: cluster.node_timeout: 10s leaves no room"),
        (
            "cluster:\n  enabled: false\n  peers: [a=b]\n",
            "config.yaml:2:12: cluster.enabled: clustering is off",
        ),
        ("session:\n  ttl: 500ms\n", "config.yaml:2:8: session.ttl: 500ms is not between 1s and 604800s"),
        (
            "server:\n  public_url: ovncp.example\n",
            "config.yaml:2:15: server.public_url: \"ovncp.example\" does not",
        ),
        (
            "server:\n  metrics_port: 8080\n",
            "config.yaml:2:17: server.metrics_port: port 8080 is that of server.port",
        ),
        (
            "ovn:\n  northbound:\n    endpoints: [ovn-nb-1]\n",
            "config.yaml:3:16: ovn.northbound.endpoints: `ovn-nb-1` is no",
        ),
        (
            "ovn:\n  northbound:\n    endpoints: ['tcp:a:1', 'tcp:b:1', 'tcp:a:1']\n",
            "config.yaml:3:16: ovn.northbound.endpoints: tcp:a:1 is there twice",
        ),
        ("ovn:\n  probe_interval: 10ms\n", "config.yaml:2:19: ovn.probe_interval: 10ms is shorter than 1s"),
        ("database:\n  replicas:\n    - hots: a\n", "config.yaml:3:7: unknown field `hots`"),
        ("server:\n\tport: 1\n", "config.yaml:2:2: tabs"),
    ] {
        let problem = problem(yaml);
        assert!(problem.starts_with(expected), "{yaml:?}\n  said     {problem}\n  expected {expected}");
    }
}

#[test]
fn certificates_of_ovn_go_together() {
    let problems = |environment: &[(&str, &str)]| match load("", environment) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let ssl = ("OVN_NORTHBOUND_DB", "ssl:nb:6641");
    let (key, certificate) = (("OVN_PRIVATE_KEY", "/k.pem"), ("OVN_CERTIFICATE", "/c.pem"));
    let authority = ("OVN_CA_CERTIFICATE", "/ca.pem");
    let lacks = problems(&[ssl, key, certificate]);
    assert!(
        lacks.contains("ovn.tls.ca_certificate: is missing (OVN_CA_CERTIFICATE): ssl:nb:6641 needs it"),
        "{lacks}"
    );
    let lacks = problems(&[ssl]);
    assert!(lacks.contains("ovn.tls.private_key") && lacks.contains("ovn.tls.certificate"), "{lacks}");
    let lacks = problems(&[key]);
    assert!(lacks.contains("ovn.tls.certificate: is missing"), "{lacks}");
    assert!(lacks.contains("ovn.tls.private_key is of no use without it"), "{lacks}");
    assert_eq!(problems(&[ssl, key, certificate, authority]), "");
    assert_eq!(problems(&[("OVN_NORTHBOUND_DB", "tcp:nb:6641"), key, certificate, authority]), "");

    let alone = problems(&[("OVN_SOUTHBOUND_DB", "tcp:sb:6642")]);
    assert!(alone.contains("ovn.northbound.endpoints: is missing"), "{alone}");
    assert_eq!(problems(&[("OVN_PROBE_INTERVAL", "0s")]), "");
}

#[test]
fn mistakes_elsewhere_name_the_variable_or_flag() {
    let error =
        load("", &[("CLUSTER_NODE_TIMEOUT", "soon"), ("CACHE_TYPE", "memcached")]).unwrap_err().to_string();
    assert!(
        error.contains("environment variable CLUSTER_NODE_TIMEOUT: cluster.node_timeout: `soon`"),
        "{error}"
    );
    assert!(error.contains("environment variable CACHE_TYPE: `memcached` is not supported"), "{error}");
    let flag = Sources::default().with_override("server.port", "--http-port", "x");
    assert!(Config::load(&flag).unwrap_err().to_string().starts_with("flag --http-port: server.port: `x`"));
    let unknown = Sources::default().with_override("server.prot", "--http-port", "1");
    assert!(Config::load(&unknown).unwrap_err().to_string().contains("no such setting"));
    let missing = Sources { file: Some("no-such-file.yaml".into()), ..Sources::default() };
    assert!(
        Config::load(&missing).unwrap_err().to_string().contains("read configuration file no-such-file.yaml")
    );
    let slip = load("", &[("OVNCP_PEER", "a=b"), ("OVNCP_SERVICE_HOST", "10.0.0.1")]).unwrap();
    assert_eq!(
        texts(&slip.warnings),
        "environment variable OVNCP_PEER: nothing reads it: did you mean OVNCP_PEERS?"
    );
}

#[test]
fn every_wrong_value_is_reported_at_once() {
    let error =
        load("server:\n  port: x\nraft:\n  heartbeat_interval: y\n", &[("NODE_PORT", "z")]).unwrap_err();
    assert_eq!(error.problems.len(), 3);
}

#[test]
fn variables_in_an_ignored_section_need_not_exist_but_positions_stay() {
    let yaml = "redis:\n  password: ${NOT_SET}\n# comment\n  more: 1\n\nserver:\n  port: x\n";
    assert!(problem(yaml).starts_with("config.yaml:7:9: server.port"));
}

#[test]
fn peers_switch_clustering_on_and_name_the_own_port() {
    let loaded = load("", &[("NODE_ID", "b"), ("OVNCP_PEERS", "a=h1:1,b=h2:2,c=h3:3")]).unwrap();
    let cluster = &loaded.config.cluster;
    assert!(cluster.enabled);
    assert_eq!((cluster.peer_port, cluster.node_ip.as_str(), cluster.voters_target), (2, "h2", 3));
    assert!(loaded.config.check_start().is_ok());
    let alone = load("", &[]).unwrap();
    assert!(!alone.config.cluster.enabled && alone.config.check_start().is_ok());
    let even = load("", &[("NODE_ID", "a"), ("OVNCP_PEERS", "a=h1:1,b=h2:2")]).unwrap();
    assert!(texts(&even.warnings).contains("use an odd number"));
}

#[test]
fn shown_configuration_hides_secrets_and_loads_again() {
    let variables = [("OVNCP_ADMIN_TOKEN", "hunter2"), ("OVNCP_PEERS", "node-1=h1:1,b=h2:2,c=h3:3")];
    let all: Vec<_> = GUIDE_VARIABLES.iter().chain(&variables).copied().collect();
    let shown = load(GUIDE_YAML, &all).unwrap().config.to_yaml_redacted();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        shown.contains("admin_token: \"<redacted>\"  # environment variable OVNCP_ADMIN_TOKEN"),
        "{shown}"
    );
    assert!(shown.contains("heartbeat_interval: 5s  # "), "{shown}");
    let again = load(&shown, &[]).unwrap();
    assert_eq!(again.config.cluster.peers.len(), 3);
    assert_eq!(again.config.database.replicas.len(), 2);
    assert_eq!(again.config.database.replicas[1].host.as_deref(), Some("postgres-replica-2"));
}
