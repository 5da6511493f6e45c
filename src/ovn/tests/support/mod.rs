//! Private ovsdb-server processes for tests.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::wire::endpoint::Endpoint;

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Schema of the northbound database, as OVN's packages install it.
pub(crate) const NORTHBOUND: &str = "/usr/share/ovn/ovn-nb.ovsschema";

/// Runs a program to its end and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("run {program}: {error}; tests/setup.sh installs what these tests need")
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{text}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun_at = Instant::now();
    while !holds() {
        assert!(begun_at.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An ovsdb-server with one database.
pub(crate) struct Server {
    name: String,
    folder: PathBuf,
    remotes: Vec<String>,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A server of an empty standalone database, under `folder`, started.
    pub(crate) fn standalone(folder: &Path, name: &str) -> Self {
        let mut server = Self::prepared(folder, name);
        run("ovsdb-tool", &["create", &server.file(), NORTHBOUND]);
        server.start();
        server
    }

    /// A member of a cluster, started: the first founds it, others join the first.
    pub(crate) fn member(folder: &Path, number: usize) -> Self {
        let mut server = Self::prepared(folder, &format!("member{number}"));
        let address = |number: usize| format!("unix:{}/raft{number}.sock", folder.display());
        if number == 0 {
            run("ovsdb-tool", &["create-cluster", &server.file(), NORTHBOUND, &address(0)]);
        } else {
            run(
                "ovsdb-tool",
                &["join-cluster", &server.file(), "OVN_Northbound", &address(number), &address(0)],
            );
        }
        server.start();
        server
    }

    /// A server of a file that is still to be made, not started.
    pub(crate) fn prepared(folder: &Path, name: &str) -> Self {
        let remote = format!("punix:{}/{name}.sock", folder.display());
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            remotes: vec![remote],
            options: Vec::new(),
            child: None,
        }
    }

    /// Listens there as well.
    pub(crate) fn remote(&mut self, remote: impl Into<String>) {
        self.remotes.push(remote.into());
    }

    /// Has one more option.
    pub(crate) fn option(&mut self, option: impl Into<String>) {
        self.options.push(option.into());
    }

    /// The file of the database.
    pub(crate) fn file(&self) -> String {
        self.folder.join(format!("{}.db", self.name)).display().to_string()
    }

    /// Where its Unix socket is.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.folder.join(format!("{}.sock", self.name)))
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "started once at a time");
        let path = |suffix: &str| self.folder.join(format!("{}{suffix}", self.name)).display().to_string();
        let socket = path(".sock");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("ovsdb-server");
        command
            .arg("--no-chdir")
            .arg(format!("--log-file={}", path(".log")))
            .arg(format!("--unixctl={}", path(".ctl")));
        command.args(self.remotes.iter().map(|remote| format!("--remote={remote}"))).args(&self.options);
        command.arg(self.file()).env("OVS_RUNDIR", &self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("ovsdb-server starts"));
        let begun_at = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let gone = self.child.as_mut().and_then(|child| child.try_wait().expect("a child of ours"));
            let log = || std::fs::read_to_string(path(".log")).unwrap_or_default();
            assert!(gone.is_none(), "ovsdb-server ended with {gone:?}: {}", log());
            assert!(begun_at.elapsed() < PATIENCE, "ovsdb-server does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it something over its control socket.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let target = self.folder.join(format!("{}.ctl", self.name)).display().to_string();
        run("ovs-appctl", &[&["-t", &target], arguments].concat())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        run("kill", &[&format!("-{signal}"), &pid]);
    }

    /// Ends it at once, as a power failure would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Settings with short times, for the northbound database.
pub(crate) fn settings(endpoints: Vec<Endpoint>) -> DatabaseSettings {
    DatabaseSettings {
        name: "OVN_Northbound",
        endpoints,
        connect_timeout: Duration::from_secs(10),
        tls: None,
        leader_only: true,
        tables: None,
        probe_interval: Duration::from_secs(10),
    }
}

/// A database in sync.
pub(crate) async fn synced(settings: DatabaseSettings) -> Database {
    let database = Database::open(settings);
    database.wait_synced(PATIENCE).await.expect("in sync");
    database
}

/// Checks that the replica of one database is what a fresh session reads.
pub(crate) async fn assert_like_fresh(database: &Database, settings: DatabaseSettings) {
    database.wait_synced(PATIENCE).await.expect("in sync");
    let fresh = synced(settings).await;
    database.barrier().await.expect("nothing happens any more");
    fresh.barrier().await.expect("nothing happens any more");
    let difference = database.read(|replica| fresh.read(|fresh| replica.difference(fresh)));
    assert_eq!(difference, Some(Some(Vec::new())), "the replica is not what is in the database");
}
