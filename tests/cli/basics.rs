//! Help, exit codes, output formats, configuration.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::fake::{Answer, Fake};
use crate::support::{ovncp, run};

/// The configuration file of the guide that this product replaces, as it stands there.
const GUIDE_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/fixtures/guide.yaml");

#[test]
fn every_command_has_help_with_an_example() {
    let all = run(ovncp(["--help"]));
    assert_eq!(all.code, Some(0));
    let commands = [
        "serve",
        "dev",
        "status",
        "members",
        "locks",
        "lock",
        "elections",
        "kv",
        "sessions",
        "ovn",
        "drain",
        "resume",
        "invalidate",
        "watch",
        "log-level",
        "config",
        "bench",
        "completion",
        "man",
    ];
    for command in commands {
        assert!(all.out.contains(&format!("\n  {command} ")), "{command} is listed in {}", all.out);
        let help = run(ovncp([command, "--help"]));
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.out.contains("Example"), "{command}: {}", help.out);
    }
    assert!(!all.out.contains("exec-under"), "internal commands are not shown");
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [vec!["status", "--nonsense"], vec!["nonsense"], vec!["lock", "key"], vec![]] {
        assert_eq!(run(ovncp(args.iter().copied())).code, Some(2), "{args:?}");
    }
    let strange = run(ovncp(["status", "--endpoint", "ftp://somewhere"]));
    assert_eq!(strange.code, Some(2), "{strange:?}");
}

#[test]
fn nobody_there_ends_with_3_and_names_the_way_out() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in ["status", "members", "locks"] {
        let done = run(ovncp([command, "--endpoint", &closed]));
        assert_eq!(done.code, Some(3), "{command}: {done:?}");
        assert!(done.err.contains(&closed) && done.err.contains("ovncp dev"), "{command}: {done:?}");
        assert_eq!(done.out, "", "{command}: errors are not results");
    }
}

#[test]
fn no_quorum_ends_with_4_and_shows_what_one_node_knows() {
    let fake = Fake::start(|verb| match verb {
        "nodes?consistency=local" => Answer::Json(200, json!({"nodes": [{"id": "node-1", "role": "voter"}]})),
        "leader?consistency=local" => Answer::Json(200, json!({"node_id": "node-1", "leader_id": null})),
        "cluster?consistency=local" => Answer::Json(200, json!({"cluster_id": "c1", "applied_index": "7"})),
        _ => Answer::Json(503, json!({"code": "no_leader", "detail": "no leader"})),
    });
    let done = run(ovncp(["status", "--endpoint", &fake.url()]));
    assert_eq!(done.code, Some(4), "{done:?}");
    assert!(done.err.contains("no leader") && done.err.contains("majority"), "{done:?}");
    assert!(
        done.out.contains("c1") && done.out.contains("node-1") && done.out.contains("caution"),
        "{done:?}"
    );
    let done = run(ovncp(["kv", "get", "x", "--endpoint", &fake.url()]));
    assert_eq!((done.code, done.out.as_str()), (Some(4), ""), "{done:?}");
}

#[test]
fn output_is_a_table_or_the_same_as_json_and_yaml() {
    let nodes =
        json!({"nodes": [{"id": "node-1", "role": "voter", "is_leader": true, "ip": "::1", "port": 1}]});
    let fake = Fake::start(move |_| Answer::Json(200, nodes.clone()));
    let members = |format| run(ovncp(["members", "-o", format, "--endpoint", &fake.url()])).out;
    assert!(members("table").starts_with("NODE"), "{}", members("table"));
    assert!(members("table").contains("node-1  leader"), "{}", members("table"));
    let json: Value = serde_json::from_str(&members("json")).unwrap();
    let yaml: Value = serde_saphyr::from_str(&members("yaml")).unwrap();
    assert_eq!(json, yaml);
    assert_eq!(json["nodes"][0]["id"], "node-1");
}

#[test]
fn endpoints_come_from_the_environment_too() {
    let fake = Fake::start(|_| Answer::Json(200, json!({"locks": [], "count": 0})));
    let mut command = ovncp(["locks"]);
    command.env("OVNCP_ENDPOINTS", format!("http://127.0.0.1:1,{}", fake.url()));
    let done = run(command);
    assert_eq!((done.code, fake.seen("locks").len()), (Some(0), 1), "{done:?}");
}

#[test]
fn file_of_the_guide_is_right_and_named_settings_are_replaced() {
    let mut command = ovncp(["config", "check", "--config", GUIDE_FILE, "-o", "json"]);
    let guide = [("NODE_ID", "node-1"), ("NODE_IP", "192.168.1.10"), ("DB_USER", "u"), ("DB_PASSWORD", "p")];
    command.envs(guide);
    let done = run(command);
    assert_eq!(done.code, Some(0), "{done:?}");
    let view: Value = serde_json::from_str(&done.out).unwrap();
    let warnings = view["warnings"].to_string();
    assert!(warnings.contains("redis"), "what replaces Redis is said: {warnings}");
}

#[test]
fn configuration_shows_values_sources_and_no_secret() {
    let mut command = ovncp(["config", "show", "--http-port", "18080"]);
    command.envs([("NODE_ID", "node-7"), ("OVNCP_ADMIN_TOKEN", "very-secret-token")]);
    let done = run(command);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("18080") && done.out.contains("--http-port"), "{}", done.out);
    assert!(done.out.contains("node-7") && done.out.contains("NODE_ID"), "{}", done.out);
    assert!(!done.out.contains("very-secret-token") && !done.err.contains("very-secret-token"));
}

#[test]
fn wrong_configuration_ends_with_2_and_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.yaml");
    std::fs::write(&path, "server:\n  port: 8080\n  prot: 1\n").unwrap();
    for args in [["config", "check", "--config"], ["config", "show", "--config"]] {
        let done = run(ovncp(args.into_iter().chain([path.to_str().unwrap()])));
        assert_eq!(done.code, Some(2), "{done:?}");
        let said = format!("{}{}", done.out, done.err);
        assert!(said.contains("wrong.yaml:3:"), "{said}");
    }
    let done = run(ovncp(["serve", "--config", path.to_str().unwrap()]));
    assert_eq!(done.code, Some(2), "a node does not start with it: {done:?}");
}

#[test]
fn completion_knows_the_commands() {
    let done = run(ovncp(["completion", "bash"]));
    assert_eq!(done.code, Some(0));
    assert!(done.out.contains("transfer-leader"));
}

/// The commands that `--help` lists, at any depth.
fn commands(path: &[&str]) -> Vec<String> {
    let help = run(ovncp(path.iter().copied().chain(["--help"]))).out;
    let list =
        help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or_default();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let mut all = Vec::new();
    for name in names.into_iter().filter(|name| *name != "help") {
        let path: Vec<_> = path.iter().copied().chain([name]).collect();
        all.push(path.join("-"));
        all.extend(commands(&path));
    }
    all
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("man1");
    let done = run(ovncp(["man", place.to_str().unwrap(), "-o", "yaml"]));
    assert_eq!(done.code, Some(0), "{done:?}");
    let written: Value = serde_saphyr::from_str(&done.out).unwrap();
    let commands = commands(&[]);
    assert!(commands.len() > 12 && commands.contains(&"kv-put".to_owned()), "{commands:?}");
    for command in commands {
        let page = format!("ovncp-{command}.1");
        let text =
            std::fs::read_to_string(place.join(&page)).unwrap_or_else(|_| panic!("{page} in {written}"));
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH NAME"), "{page}");
        assert!(written["pages"].as_array().unwrap().contains(&json!(page)));
    }
    assert!(!place.join("ovncp-exec-under.1").exists(), "internal commands have none");
}

#[test]
fn members_show_health_and_how_many_may_fail() {
    let leader = std::sync::Arc::new(std::sync::OnceLock::new());
    let view = |own: &str, port: u16, lag: Value| {
        let node = |id: &str, leads: bool, status: &str| {
            json!({"id": id, "role": "voter", "is_leader": leads, "status": status, "ip": "127.0.0.1",
                "port": if leads { port } else { 1 }, "lag": lag, "status_since": "2026-01-02T03:04:05.678Z"})
        };
        let nodes = [
            node("node-1", true, "active"),
            node("node-2", false, "active"),
            node("node-3", false, "suspect"),
        ];
        json!({"nodes": nodes, "self": own})
    };
    // The follower does not know the lag of the others; the leader does, and is asked where it says it is.
    let port = leader.clone();
    let knowing = Fake::start(move |_| Answer::Json(200, view("node-1", *port.get().unwrap(), json!(7))));
    leader.set(knowing.addr.port()).unwrap();
    let port = leader.clone();
    let asked = Fake::start(move |_| Answer::Json(200, view("node-2", *port.get().unwrap(), Value::Null)));
    let done = run(ovncp(["members", "--endpoint", &asked.url()]));
    assert_eq!(done.code, Some(0), "{done:?}");
    let row = done.out.lines().find(|line| line.starts_with("node-3")).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>()[1..5],
        ["voter", "suspect", "2026-01-02T03:04:05Z", "7"],
        "{}",
        done.out
    );
    assert!(done.out.contains("fault tolerance: 0 (2 of 3 voters healthy, 2 needed)"), "{}", done.out);
    let done = run(ovncp(["members", "--active", "-o", "json", "--endpoint", &asked.url()]));
    let view: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (view["nodes"].as_array().unwrap().len(), &view["autopilot"]["fault_tolerance"]),
        (2, &json!(0))
    );
}

#[test]
#[cfg(not(feature = "mutants"))]
fn a_binary_without_mutants_refuses_to_be_one() {
    let serve = |mutant: &str| {
        let mut command = ovncp(["serve", "--node-id", "a", "--data-dir", "/dev/null/data"]);
        command.env("OVNCP_MUTANT", mutant);
        run(command)
    };
    let done = serve("no-fsync");
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("OVNCP_MUTANT") && done.err.contains("no-fsync"), "{done:?}");
    assert!(!serve("").err.contains("OVNCP_MUTANT"), "an empty variable is none");
}
