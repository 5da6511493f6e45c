//! One ovsdb-server with one database: alone, or a member of a cluster.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::certificates::Certificates;
use super::error::LabError;
use super::ports;
use super::process::{POLL_INTERVAL, Process, START_TIMEOUT};
use super::programs::Programs;
use super::raft::ClusterStatus;
use super::tool::run;
use crate::unixctl::{SOCKET_PATH_BYTES_MAX, Unixctl, UnixctlError};

/// Time for one question while it is waited for something.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any answer to a probe.
const PROBE_REPLY_BYTES_MAX: usize = 1024 * 1024;

/// How a database came to be in a directory.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// By itself.
    Standalone,
    /// As the first member of a cluster, with the address of this member.
    Cluster { own: String },
    /// As a further member.
    Joined { own: String, first: String },
}

/// What a server is to be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    /// Such as `OVN_Northbound`.
    pub(super) database: &'static str,
    pub(super) schema: PathBuf,
    pub(super) origin: Origin,
    /// Where the database and the log go.
    pub(super) dir: PathBuf,
    /// Where the sockets go.
    pub(super) sockets: PathBuf,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    /// For an `ssl:` remote.
    pub(super) tls: Option<(u16, Certificates)>,
}

/// One ovsdb-server of a lab. It is started when the lab starts, and killed when it is dropped.
#[derive(Debug)]
pub struct OvsdbServer {
    plan: Plan,
    programs: Programs,
    process: Process,
    unixctl: Unixctl,
}

impl OvsdbServer {
    /// Makes the database, if there is none yet, and starts the server.
    pub(super) async fn launch(plan: Plan, programs: &Programs) -> Result<OvsdbServer, LabError> {
        for socket in ["sock", "ctl"] {
            check_socket(&plan.socket(socket))?;
        }
        plan.create_database(programs).await?;
        let log = plan.dir.join(format!("{}.log", plan.name));
        let process = Process::new(&plan.name, &programs.setpriv, &programs.ovsdb_server, log)
            .arguments(plan.arguments());
        let unixctl = Unixctl::new(plan.socket("ctl"));
        let mut server = OvsdbServer { plan, programs: programs.clone(), process, unixctl };
        server.start().await?;
        Ok(server)
    }

    /// Starts it after [`OvsdbServer::kill`] or [`OvsdbServer::stop`], with its database, ports and sockets as they
    /// were, and waits until it answers. A member of a cluster may still be about to catch up.
    pub async fn start(&mut self) -> Result<(), LabError> {
        if self.process.pid().is_some() {
            return Ok(());
        }
        let (tcp, tls) = (self.plan.port, self.plan.tls.as_ref().map(|(port, _)| *port));
        // ovsdb-server itself would only write to its log that it cannot listen.
        for port in [Some(tcp), tls].into_iter().flatten() {
            if !ports::is_free(self.plan.address, port) {
                return Err(LabError::PortTaken { address: self.plan.address, port });
            }
        }
        self.process.start()?;
        self.until("answer", async |server| Ok(server.probe("version", &[]).await?.map(drop))).await
    }

    /// Stops it, converts its database file to another schema, and starts it again. Not for members of a cluster,
    /// which convert while they run: [`OvsdbServer::convert`].
    pub async fn restart_with_schema(&mut self, schema: &Path) -> Result<(), LabError> {
        self.stop().await;
        let line =
            ["convert".into(), self.plan.database_file().into_os_string(), schema.as_os_str().to_owned()];
        run(&self.programs.ovsdb_tool, &line).await?;
        self.start().await
    }

    /// Converts the database to another schema while the server runs, alone or in a cluster.
    pub async fn convert(&self, schema: &Path) -> Result<(), LabError> {
        let line = [
            OsString::from("--timeout=60"),
            "convert".into(),
            self.unix_endpoint().into(),
            schema.as_os_str().to_owned(),
        ];
        run(&self.programs.ovsdb_client, &line).await.map(drop)
    }

    /// Ends it at once, as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end and waits.
    pub async fn stop(&mut self) {
        self.process.stop().await;
    }

    /// Stops it with SIGSTOP: its connections stay open and silent.
    pub async fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause().await
    }

    /// Lets it go on after [`OvsdbServer::pause`].
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.process.resume()
    }

    /// Its process id, while it runs or is paused.
    pub fn pid(&mut self) -> Option<u32> {
        self.process.pid()
    }

    /// Whether it runs and is not paused.
    pub fn is_answering(&mut self) -> bool {
        self.process.pid().is_some() && !self.process.is_paused()
    }

    /// Its name in the lab, such as `nb-1`.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// `tcp:<address>:<port>`.
    pub fn tcp_endpoint(&self) -> String {
        format!("tcp:{}:{}", self.plan.address, self.plan.port)
    }

    /// `ssl:<address>:<port>`, if the lab has certificates.
    pub fn ssl_endpoint(&self) -> Option<String> {
        self.plan.tls.as_ref().map(|(port, _)| format!("ssl:{}:{port}", self.plan.address))
    }

    /// `unix:<path>`.
    pub fn unix_endpoint(&self) -> String {
        format!("unix:{}", self.plan.socket("sock").display())
    }

    /// Its control socket, for commands that have no method here.
    pub fn unixctl(&self) -> &Unixctl {
        &self.unixctl
    }

    /// What it writes.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Rewrites the database file without its history.
    pub async fn compact(&self) -> Result<(), LabError> {
        self.command("ovsdb-server/compact", &[self.plan.database]).await.map(drop)
    }

    /// Makes a leader hand over to another member. Nothing happens on one that does not lead. Returns before the
    /// other one leads.
    pub async fn transfer_leadership(&self) -> Result<(), LabError> {
        self.command("cluster/failure-test", &["transfer-leadership"]).await.map(drop)
    }

    /// What it says of its cluster.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, LabError> {
        let text = self.command("cluster/status", &[self.plan.database]).await?;
        Ok(ClusterStatus::parse(&text))
    }

    /// Closes all client connections; they may come back at once.
    pub async fn drop_clients(&self) -> Result<(), LabError> {
        self.command("ovsdb-server/reconnect", &[]).await.map(drop)
    }

    /// Waits until it has joined its cluster and knows a leader.
    pub async fn wait_joined(&mut self) -> Result<(), LabError> {
        let database = self.plan.database;
        self.until("join its cluster", async |server| {
            let text = server.probe("cluster/status", &[database]).await?;
            let status = text.map(|text| ClusterStatus::parse(&text));
            Ok(status.filter(|status| status.is_member() && status.knows_leader()).map(drop))
        })
        .await
    }

    async fn command(&self, command: &str, arguments: &[&str]) -> Result<String, LabError> {
        let failed = |source| LabError::Unixctl { process: self.plan.name.clone(), source };
        self.unixctl.call(command, arguments).await.map_err(failed)
    }

    /// An answer, `None` if there is none yet, an error when the process has ended.
    pub(super) async fn probe(
        &mut self,
        command: &str,
        arguments: &[&str],
    ) -> Result<Option<String>, LabError> {
        let probe = self.unixctl.clone().with_limits(PROBE_TIMEOUT, PROBE_REPLY_BYTES_MAX);
        match probe.call(command, arguments).await {
            Ok(text) => Ok(Some(text)),
            Err(UnixctlError::Unreachable { .. } | UnixctlError::TimedOut { .. }) => {
                self.process.check().map(|()| None)
            }
            Err(source) => Err(LabError::Unixctl { process: self.plan.name.clone(), source }),
        }
    }

    async fn until(
        &mut self,
        awaited: &str,
        mut look: impl AsyncFnMut(&mut OvsdbServer) -> Result<Option<()>, LabError>,
    ) -> Result<(), LabError> {
        let begun = Instant::now();
        while look(self).await?.is_none() {
            if begun.elapsed() > START_TIMEOUT {
                return Err(self.process.timed_out(awaited, START_TIMEOUT));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

impl Plan {
    fn database_file(&self) -> PathBuf {
        self.dir.join(format!("{}.db", self.name))
    }

    fn socket(&self, kind: &str) -> PathBuf {
        self.sockets.join(format!("{}.{kind}", self.name))
    }

    /// Makes the database if there is none. A file that is there is whole: it got its name last.
    async fn create_database(&self, programs: &Programs) -> Result<(), LabError> {
        let file = self.database_file();
        if file.exists() {
            return Ok(());
        }
        let beside = file.with_extension("db.new");
        let failed = |e| LabError::io(format!("create {}", file.display()), e);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        run(&programs.ovsdb_tool, &self.creation(&beside)).await?;
        fs::rename(&beside, &file).map_err(failed)
    }

    fn creation(&self, file: &Path) -> Vec<OsString> {
        let file = file.as_os_str().to_owned();
        let schema = self.schema.clone().into_os_string();
        match &self.origin {
            Origin::Standalone => vec!["create".into(), file, schema],
            Origin::Cluster { own } => vec!["create-cluster".into(), file, schema, own.into()],
            Origin::Joined { own, first } => {
                vec!["join-cluster".into(), file, self.database.into(), own.into(), first.into()]
            }
        }
    }

    fn arguments(&self) -> Vec<OsString> {
        let with = |option: &str, path: &Path| {
            let mut argument = OsString::from(option);
            argument.push(path);
            argument
        };
        // What it says comes through its standard error to the log file, so that none of it is written twice.
        let mut line: Vec<OsString> =
            vec!["--no-chdir".into(), "-vconsole:info".into(), "-vsyslog:off".into()];
        line.push(with("--unixctl=", &self.socket("ctl")));
        line.push(with("--remote=punix:", &self.socket("sock")));
        line.push(format!("--remote=ptcp:{}:{}", self.port, self.address).into());
        if let Some((port, certificates)) = &self.tls {
            line.push(format!("--remote=pssl:{port}:{}", self.address).into());
            line.push(with("--private-key=", &certificates.server.private_key));
            line.push(with("--certificate=", &certificates.server.certificate));
            line.push(with("--ca-cert=", &certificates.authority));
        }
        line.push(self.database_file().into_os_string());
        line
    }
}

/// An error for a socket whose name is too long for Linux.
pub(super) fn check_socket(path: &Path) -> Result<(), LabError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(LabError::PathTooLong { path: path.to_owned(), length });
    }
    Ok(())
}
