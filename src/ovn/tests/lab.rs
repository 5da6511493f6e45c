//! The private OVN, with real programs: it comes up, bears what is done to it, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ovncp_ovn::lab::{Certificates, Lab, LabError, LabSettings, Members, Programs};
use ovncp_ovn::unixctl::UnixctlError;

/// Generous: machines that run tests do much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether OVN is missing here; says so.
fn missing() -> bool {
    match Programs::find() {
        Ok(_) => false,
        Err(missing) => {
            eprintln!("skipped: {missing}");
            true
        }
    }
}

/// A directory with a short name.
fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("lab").tempdir_in("/tmp").unwrap()
}

async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !look().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn northd_carries_a_switch_to_the_southbound_database_and_a_later_lab_finds_it() {
    if missing() {
        return;
    }
    let dir = directory();
    let mut lab = Lab::start(LabSettings::new(dir.path())).await.unwrap();
    lab.nbctl(&["--wait=sb", "ls-add", "blue"]).await.unwrap();
    let found = lab.sbctl(&["--bare", "--columns=external_ids", "list", "Datapath_Binding"]).await.unwrap();
    assert!(found.contains("name=blue"), "{found}");
    let names: Vec<_> = lab.pids().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["nb", "sb", "ovn-northd"]);

    let refused = Lab::start(LabSettings::new(dir.path())).await.unwrap_err();
    assert!(matches!(refused, LabError::InUse { .. }), "{refused}");

    let pids = lab.pids();
    lab.stop().await;
    assert!(pids.iter().all(|(_, pid)| !exists(*pid)), "{pids:?}");
    let lab = Lab::start(LabSettings::new(dir.path())).await.unwrap();
    assert!(lab.nbctl(&["show"]).await.unwrap().contains("(blue)"));
}

#[tokio::test]
async fn cluster_survives_what_is_done_to_its_leader() {
    if missing() {
        return;
    }
    let dir = directory();
    let settings = LabSettings::northbound_only(dir.path(), Members::Clustered);
    let mut lab = Lab::start(settings.clone()).await.unwrap();
    let first = lab.northbound_leader().await.unwrap();
    let endpoints: std::collections::BTreeSet<_> =
        lab.northbound().iter().map(|server| server.tcp_endpoint()).collect();
    assert_eq!(endpoints.len(), 3);

    lab.northbound()[first].transfer_leadership().await.unwrap();
    eventually("another member leads", async || lab.northbound_leader().await.unwrap() != first).await;

    let second = lab.northbound_leader().await.unwrap();
    lab.northbound_mut()[second].kill();
    assert_eq!(lab.northbound_mut()[second].pid(), None);
    let third = lab.northbound_leader().await.unwrap();
    assert_ne!(third, second);
    lab.nbctl(&["ls-add", "while-one-is-down"]).await.unwrap();
    let endpoint = lab.northbound()[second].tcp_endpoint();
    lab.northbound_mut()[second].start().await.unwrap();
    lab.northbound_mut()[second].wait_joined().await.unwrap();
    assert_eq!(lab.northbound()[second].tcp_endpoint(), endpoint, "it comes back where it was");

    let third = lab.northbound_leader().await.unwrap();
    lab.northbound_mut()[third].pause().await.unwrap();
    let fourth = lab.northbound_leader().await.unwrap();
    assert_ne!(fourth, third, "a paused leader is replaced");
    lab.northbound_mut()[third].resume().unwrap();
    lab.northbound()[fourth].compact().await.unwrap();
    eventually("the paused one follows", async || {
        lab.northbound()[third].cluster_status().await.is_ok_and(|s| s.role == "follower")
    })
    .await;
    lab.stop().await;

    // All three from their files.
    let lab = Lab::start(settings).await.unwrap();
    assert!(lab.nbctl(&["show"]).await.unwrap().contains("(while-one-is-down)"));
}

#[tokio::test]
async fn paused_server_is_silent_and_can_be_killed() {
    if missing() {
        return;
    }
    let dir = directory();
    let settings = LabSettings::northbound_only(dir.path(), Members::Standalone);
    let mut lab = Lab::start(settings).await.unwrap();
    let server = &mut lab.northbound_mut()[0];
    let pid = server.pid().unwrap();
    server.pause().await.unwrap();
    let impatient = server.unixctl().clone().with_limits(Duration::from_millis(200), 1_000);
    let silent = impatient.call("version", &[]).await.unwrap_err();
    assert!(matches!(silent, UnixctlError::TimedOut { .. }), "{silent}");
    server.resume().unwrap();
    assert!(server.unixctl().call("version", &[]).await.unwrap().starts_with("ovsdb-server"));
    let refused = server.unixctl().call("no-such --command", &["a", "b"]).await.unwrap_err();
    assert!(
        matches!(&refused, UnixctlError::Refused(text) if text.contains("not a valid command")),
        "{refused}"
    );
    server.pause().await.unwrap();
    server.kill();
    assert!(!exists(pid));
    assert!(matches!(server.resume().unwrap_err(), LabError::NotRunning { .. }));
    server.start().await.unwrap();
    lab.nbctl(&["ls-add", "after"]).await.unwrap();
}

#[tokio::test]
async fn tls_remote_takes_clients_of_its_authority_only() {
    if missing() {
        return;
    }
    let dir = directory();
    let mut settings = LabSettings::northbound_only(dir.path(), Members::Standalone);
    settings.tls = true;
    let lab = Lab::start(settings).await.unwrap();
    let endpoint = lab.northbound()[0].ssl_endpoint().unwrap();
    let address = endpoint.split(':').nth(1).unwrap().parse().unwrap();
    let strangers = Certificates::create(&dir.path().join("strangers"), address).await.unwrap();
    let own = lab.certificates().unwrap();
    let show = async |who: &Certificates| {
        let path = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let key = path("private-key", &who.client.private_key);
        let certificate = path("certificate", &who.client.certificate);
        let authority = path("ca-cert", &own.authority);
        // The last --db counts.
        let database = format!("--db={endpoint}");
        lab.nbctl(&[&key, &certificate, &authority, &database, "--timeout=5", "show"]).await
    };
    show(own).await.unwrap();
    assert!(matches!(show(&strangers).await.unwrap_err(), LabError::Tool { .. }));
}

/// The installed schema with another column and version.
fn newer_schema(dir: &Path) -> std::path::PathBuf {
    let installed = std::fs::read_to_string(Programs::find().unwrap().northbound_schema()).unwrap();
    let mut schema: serde_json::Value = serde_json::from_str(&installed).unwrap();
    schema["version"] = "99.0.0".into();
    schema["tables"]["Logical_Switch"]["columns"]["tomorrow"] =
        serde_json::json!({"type": {"key": "string", "min": 0, "max": 1}});
    let path = dir.join("newer.ovsschema");
    std::fs::write(&path, schema.to_string()).unwrap();
    path
}

#[tokio::test]
async fn schema_is_changed_between_runs_and_in_a_running_cluster() {
    if missing() {
        return;
    }
    let dir = directory();
    let newer = newer_schema(dir.path());
    let settings = LabSettings::northbound_only(dir.path().join("one"), Members::Standalone);
    let mut lab = Lab::start(settings).await.unwrap();
    lab.nbctl(&["ls-add", "old"]).await.unwrap();
    assert_ne!(version_of(&lab).await, "99.0.0");
    lab.northbound_mut()[0].restart_with_schema(&newer).await.unwrap();
    assert_eq!(version_of(&lab).await, "99.0.0");
    assert!(lab.nbctl(&["show"]).await.unwrap().contains("(old)"));

    let settings = LabSettings::northbound_only(dir.path().join("three"), Members::Clustered);
    let lab = Lab::start(settings).await.unwrap();
    lab.northbound()[0].convert(&newer).await.unwrap();
    assert_eq!(version_of(&lab).await, "99.0.0");
}

/// What the first server says of its schema.
async fn version_of(lab: &Lab) -> String {
    let endpoint = lab.northbound()[0].unix_endpoint();
    let output = tokio::task::spawn_blocking(move || {
        Command::new("ovsdb-client").args(["get-schema-version", &endpoint, "OVN_Northbound"]).output()
    });
    String::from_utf8(output.await.unwrap().unwrap().stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn ports_go_up_on_the_hypervisor() {
    if missing() {
        return;
    }
    let dir = directory();
    let settings = LabSettings { hypervisor: true, ..LabSettings::new(dir.path()) };
    let mut lab = match Lab::start(settings).await {
        Err(LabError::Missing(missing)) => return eprintln!("skipped: {missing}"),
        started => started.unwrap(),
    };
    lab.nbctl(&["ls-add", "blue", "--", "lsp-add", "blue", "vm 1"]).await.unwrap();
    lab.hypervisor().unwrap().plug("vm 1").await.unwrap();
    eventually("the port is up", async || {
        let up = lab.nbctl(&["--bare", "--columns=up", "list", "Logical_Switch_Port"]).await.unwrap();
        up.trim() == "true"
    })
    .await;
    assert_eq!(lab.pids().len(), 6);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    if missing() {
        return;
    }
    let dir = directory();
    let long = dir.path().join("d".repeat(100));
    let refused = Lab::start(LabSettings::northbound_only(long, Members::Standalone)).await.unwrap_err();
    assert!(matches!(refused, LabError::PathTooLong { .. }), "{refused}");
    assert!(refused.to_string().contains("use a shorter directory"), "{refused}");

    let damaged = dir.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    std::fs::write(damaged.join("nb.db"), "no database").unwrap();
    let refused = Lab::start(LabSettings::northbound_only(damaged, Members::Standalone)).await.unwrap_err();
    assert!(matches!(refused, LabError::Ended { .. }), "{refused}");
    assert!(refused.to_string().contains("nb.db"), "it says which file: {refused}");

    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let mut settings = LabSettings::northbound_only(dir.path().join("port"), Members::Standalone);
    (settings.address, settings.northbound_port) = (Some(std::net::Ipv4Addr::LOCALHOST), Some(port));
    let refused = Lab::start(settings).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("port {port} of 127.0.0.1 is taken"));
}

/// Says where the lab of the other process shall be.
const OTHER_DIR: &str = "OVNCP_TEST_LAB_DIR";

/// No test by itself: the process that `lab_ends_with_the_process_that_owns_it` kills.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn owner_of_a_lab() {
    let Some(dir) = std::env::var_os(OTHER_DIR) else { return };
    let mut lab = Lab::start(LabSettings::new(dir)).await.unwrap();
    let pids: Vec<_> = lab.pids().iter().map(|(_, pid)| pid.to_string()).collect();
    println!("\npids {}", pids.join(" "));
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn lab_ends_with_the_process_that_owns_it() {
    if missing() {
        return;
    }
    let dir = directory();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_of_a_lab", "--ignored", "--nocapture"])
        .env(OTHER_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids = lines.filter_map(|line| Some(line.strip_prefix("pids ")?.to_owned())).next();
    let pids: Vec<u32> = pids.expect("it started").split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| exists(*pid)));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let begun = Instant::now();
    while let Some(left) = pids.iter().find(|pid| is_alive(**pid)) {
        assert!(begun.elapsed() < PATIENCE, "process {left} outlived its owner");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Not gone, and not merely waiting for its new parent to notice.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}
