//! `ovncp dev` end to end: real nodes, real kills, nothing left behind.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Running, is_alive, json, ovncp, run, signal, until};

/// A cluster on free ports that keeps its data in `dir`.
pub(crate) struct Dev {
    running: Running,
    dir: std::path::PathBuf,
}

impl Dev {
    /// The nodes alone.
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Dev {
        Dev::start_with(dir, &[&["--no-ovn"], more].concat(), &[])
    }

    fn start_with(dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Dev {
        std::fs::create_dir_all(dir).unwrap();
        let args = ["dev", "--http-port", "0", "--data-dir", dir.to_str().unwrap()];
        let mut command = ovncp(args.into_iter().chain(more.iter().copied()));
        command.envs(environment.iter().copied());
        // What a shell may hold of another node, and must not reach these.
        command.envs([("NODE_ID", "intruder"), ("NODE_PORT", "1"), ("OVNCP_PEERS", "x=127.0.0.1:1")]);
        command.envs([("OVNCP_DATA_DIR", "/nowhere"), ("ENABLE_CLUSTERING", "false")]);
        Dev { running: Running::start(command), dir: dir.canonicalize().unwrap() }
    }

    pub(crate) fn ready(&mut self) -> String {
        self.running.line(&[" of ", "nodes ready", " leads in term "])
    }

    fn nodes(&self) -> Vec<Value> {
        json(&self.dir.join("dev.json"))["nodes"].as_array().unwrap().clone()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes().iter().map(|node| u32::try_from(node["pid"].as_u64().unwrap()).unwrap()).collect()
    }

    pub(crate) fn endpoint(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes()[index]["http"])
    }

    /// A fencing token, taken and given back on one node.
    fn token(&self, index: usize, key: &str) -> u64 {
        let endpoint = self.endpoint(index);
        let args =
            ["lock", key, "-q", "--endpoint", &endpoint, "--", "sh", "-c", "echo $OVNCP_FENCING_TOKEN"];
        let done = run(ovncp(args));
        assert_eq!(done.code, Some(0), "{done:?}");
        done.out.trim().parse().unwrap()
    }

    fn status(&self, index: usize) -> Value {
        let endpoint = self.endpoint(index);
        let done = run(ovncp(["status", "-o", "json", "--endpoint", &endpoint]));
        assert_eq!(done.code, Some(0), "{done:?}");
        serde_json::from_str(&done.out).unwrap()
    }

    fn ovn(&self) -> Value {
        json(&self.dir.join("dev.json"))["ovn"].clone()
    }

    fn ovn_pids(&self) -> Vec<u32> {
        let pids = self.ovn()["pids"].as_object().unwrap().clone();
        pids.values().map(|pid| u32::try_from(pid.as_u64().unwrap()).unwrap()).collect()
    }

    /// Ctrl-C, and what must be gone afterwards.
    fn stop(mut self) {
        let pids = self.pids();
        signal(self.running.pid(), Signal::INT);
        self.running.line(&["stopped in "]);
        assert_eq!(self.running.end(), Some(0));
        assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
        assert!(!self.dir.join("dev.json").exists());
    }
}

#[test]
fn three_nodes_serve_locks_survive_a_kill_and_continue_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let header = dev.running.line(&["NODE", "ROLE", "STATUS", "URL", "PID"]);
    let leader = dev.running.line(&["leader", "ready", "http://127.0.0.1:"]);
    assert!(header.find("ROLE") == leader.find("leader"), "columns line up:\n{header}\n{leader}");
    assert!(dev.ready().contains("3 of 3 nodes ready"));
    dev.running.line(&["curl -sS -X POST http://127.0.0.1:"]);

    // Files: what scripts read, and a log for each node.
    let nodes = dev.nodes();
    assert_eq!(nodes.len(), 3);
    for (index, node) in nodes.iter().enumerate() {
        let name = format!("node-{}", index + 1);
        assert_eq!(node["id"], name.as_str());
        assert!(Path::new(node["data_dir"].as_str().unwrap()).is_dir());
        assert!(dev.dir.join(name).join("log").is_file());
        let port = |field: &str| node[field].as_u64().unwrap();
        assert_eq!(port("http"), nodes[0]["http"].as_u64().unwrap() + index as u64);
        assert!(port("metrics") > 0 && port("peer") > 0);
        assert!(is_alive(u32::try_from(port("pid")).unwrap()));
    }

    // Every node takes requests, and tokens grow across them.
    let tokens: Vec<u64> = (0..3).map(|index| dev.token(index, "demo")).collect();
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "{tokens:?}");

    // The leader dies: told, elected, started again, ready again.
    let name = leader.split_whitespace().next().unwrap().to_owned();
    let index = name.trim_start_matches("node-").parse::<usize>().unwrap() - 1;
    let before = dev.pids();
    signal(before[index], Signal::KILL);
    dev.running.line(&[&name, "died: killed by SIGKILL. It was the leader"]);
    dev.running.line(&["is the leader of term", "elected in"]);
    let survivor = (index + 1) % 3;
    assert!(dev.token(survivor, "demo") > tokens[2]);
    dev.running.line(&[&name, "restarted, pid"]);
    dev.running.line(&[&name, "is ready"]);
    let after = dev.pids();
    assert_ne!(before[index], after[index], "dev.json follows");
    assert_eq!(before[survivor], after[survivor]);

    // The same cluster again, with what it knew.
    let cluster_id = dev.status(survivor)["cluster"]["cluster_id"].clone();
    assert!(cluster_id.is_string(), "{cluster_id}");
    let put = run(ovncp(["kv", "put", "kept", "value", "--endpoint", &dev.endpoint(survivor)]));
    assert_eq!(put.code, Some(0), "{put:?}");
    dev.stop();
    let mut dev = Dev::start(dir.path(), &[]);
    dev.ready();
    assert_eq!(dev.status(0)["cluster"]["cluster_id"], cluster_id);
    let got = run(ovncp(["kv", "get", "kept", "--endpoint", &dev.endpoint(0)]));
    assert_eq!(got.out, "value", "{got:?}");
    dev.stop();
}

#[test]
fn nodes_die_with_a_killed_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--nodes", "1"]);
    dev.ready();
    let pids = dev.pids();
    signal(dev.running.pid(), Signal::KILL);
    until("the nodes end", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

/// Whether OVN is missing here; says so.
fn ovn_is_missing() -> bool {
    match ovncp_ovn::lab::Programs::find() {
        Ok(_) => false,
        Err(missing) => {
            eprintln!("skipped: {missing}");
            true
        }
    }
}

/// What ovn-nbctl prints.
fn nbctl(dev: &Dev, args: &[&str]) -> String {
    let mut command = std::process::Command::new("ovn-nbctl");
    command.args(["--timeout=60", &format!("--db={}", dev.ovn()["northbound"].as_str().unwrap())]).args(args);
    let done = run(command);
    assert_eq!(done.code, Some(0), "{done:?}");
    done.out
}

#[test]
fn private_ovn_is_started_handed_to_the_nodes_kept_and_stopped() {
    if ovn_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start_with(dir.path(), &["--nodes", "1"], &[]);
    let header = dev.running.line(&["OVN", "ENDPOINT", "PID", "DATA"]);
    let northbound = dev.running.line(&["northbound", "tcp:127.0.0.1:", "nb.db"]);
    assert_eq!(header.find("ENDPOINT"), northbound.find("tcp:"), "columns line up:\n{header}\n{northbound}");
    dev.running.line(&["southbound", "tcp:127.0.0.1:", "sb.db"]);
    dev.running.line(&["ovn-northd", "northd.log"]);
    dev.ready();
    let endpoint = dev.ovn()["northbound"].as_str().unwrap().to_owned();
    dev.running.line(&["ovn-nbctl --db=", &endpoint, " show"]);
    assert!(northbound.contains(&endpoint), "{northbound}");

    // The nodes know it.
    let node = std::fs::read(format!("/proc/{}/environ", dev.pids()[0])).unwrap();
    let node = String::from_utf8_lossy(&node).into_owned();
    assert!(node.contains(&format!("OVN_NORTHBOUND_DB={endpoint}\0")), "{node}");
    let southbound = dev.ovn()["southbound"].as_str().unwrap().to_owned();
    assert!(node.contains(&format!("OVN_SOUTHBOUND_DB={southbound}\0")), "{node}");

    // northd works, and what dies is started again.
    nbctl(&dev, &["--wait=sb", "ls-add", "blue"]);
    let before = dev.ovn();
    let killed = u32::try_from(before["pids"]["nb"].as_u64().unwrap()).unwrap();
    signal(killed, Signal::KILL);
    dev.running.line(&["OVN's nb ended; it is started again in 3 s"]);
    dev.running.line(&["OVN's nb runs again"]);
    assert_ne!(dev.ovn()["pids"]["nb"], before["pids"]["nb"]);
    assert_eq!(dev.ovn()["pids"]["sb"], before["pids"]["sb"]);
    assert_eq!(dev.ovn()["northbound"], before["northbound"]);
    nbctl(&dev, &["--wait=sb", "ls-add", "red"]);

    let pids = dev.ovn_pids();
    assert_eq!(pids.len(), 3);
    dev.stop();
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");

    let mut dev = Dev::start_with(dir.path(), &["--nodes", "1"], &[]);
    dev.ready();
    let kept = nbctl(&dev, &["show"]);
    assert!(kept.contains("(blue)") && kept.contains("(red)"), "{kept}");
    let pids = dev.ovn_pids();
    signal(dev.running.pid(), Signal::KILL);
    until("OVN ends with a killed supervisor", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

#[test]
fn without_a_private_ovn_one_line_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let mut dev = Dev::start(&path, &["--nodes", "1"]);
    dev.running.line(&["OVN: none (--no-ovn)"]);
    dev.ready();
    assert!(dev.ovn().is_null());
    dev.stop();

    // An OVN of the user's own is left to the nodes.
    let own = [("OVN_NORTHBOUND_DB", "tcp:192.0.2.1:6641")];
    let mut dev = Dev::start_with(&path, &["--nodes", "1"], &own);
    dev.running.line(&["OVN: none of its own, OVN_NORTHBOUND_DB is set"]);
    dev.ready();
    assert!(dev.ovn().is_null());
    let node = std::fs::read(format!("/proc/{}/environ", dev.pids()[0])).unwrap();
    assert!(String::from_utf8_lossy(&node).contains("OVN_NORTHBOUND_DB=tcp:192.0.2.1:6641\0"));
    dev.stop();
}

#[test]
fn killed_node_stays_down_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--no-restart", "--nodes", "1"]);
    dev.ready();
    signal(dev.pids()[0], Signal::KILL);
    dev.running.line(&["node-1 died"]);
    dev.running.line(&["no majority"]);
    dev.running.line(&["node-1 stays down"]);
    assert!(dev.nodes()[0]["pid"].is_null());
    signal(dev.running.pid(), Signal::TERM);
    assert_eq!(dev.running.end(), Some(0));
}

#[test]
fn node_that_dies_at_once_shows_its_log_and_returns_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--nodes", "1"]);
    dev.ready();
    let port = u16::try_from(dev.nodes()[0]["http"].as_u64().unwrap()).unwrap();
    signal(dev.pids()[0], Signal::KILL);
    dev.running.line(&["node-1 is started again in 3 s"]);
    let taken = until("the port is free", || std::net::TcpListener::bind(("127.0.0.1", port)).ok());
    dev.running.line(&["node-1 died: exit code 1"]);
    dev.running.line(&["the end of", "node-1/log"]);
    dev.running.line(&["| ", "error: ", &port.to_string()]);
    dev.running.line(&["node-1 is started again in 6 s"]);
    drop(taken);
    dev.running.line(&["node-1 is ready"]);
    dev.stop();
}

#[test]
fn second_supervisor_of_one_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--nodes", "1"]);
    dev.ready();
    let second = run(ovncp(["dev", "--data-dir", dir.path().to_str().unwrap()]));
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.err.contains("another `ovncp dev` runs"), "{second:?}");
    dev.stop();
}
