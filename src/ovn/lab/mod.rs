//! A private OVN: real ovsdb-server and ovn-northd processes in a directory, for `ovncp dev` and for tests.
//!
//! [`Lab::start`] makes what is not there yet (databases, certificates, ports), starts the programs and returns when
//! they answer. Its servers can be killed, paused, restarted and asked to hand over. Dropping the lab kills its
//! processes, and Linux kills them when this process dies in any way (`launcher.rs` says how). The databases
//! stay in the directory and a later lab goes on with them.
//!
//! It is made for one machine and for nothing that matters: no certificates against strangers on `tcp:`, everything on
//! the loopback network.
//!
//! # Map
//!
//! `programs.rs` finds what is installed · `launcher.rs`, `process.rs` children · `server.rs`, `raft.rs` an
//! ovsdb-server · `hypervisor.rs` a chassis without a kernel module · `certificates.rs`, `ports.rs`, `tool.rs`

mod certificates;
mod error;
mod hypervisor;
mod launcher;
mod ports;
pub(crate) mod process;
pub(crate) mod programs;
mod raft;
mod server;
mod tool;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

pub use certificates::{Certificates, KeyPair};
pub use error::LabError;
pub use hypervisor::Hypervisor;
pub use process::{Process, START_TIMEOUT, STOP_GRACE};
pub use programs::{Missing, Programs};
pub use raft::ClusterStatus;
pub use server::OvsdbServer;

use process::POLL_INTERVAL;
use server::{Origin, Plan, check_socket};

use crate::unixctl::{Unixctl, UnixctlError};

/// Members of a clustered database.
const CLUSTER_SIZE: usize = 3;
/// Time that ovn-nbctl and its like take at most.
const TOOL_TIMEOUT: &str = "--timeout=60";
/// Held by the lab that runs in a directory.
const LOCK_FILE: &str = "lab.lock";

/// How a database is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// One server alone.
    Standalone,
    /// A cluster of three.
    Clustered,
}

/// What a lab is to have.
#[derive(Clone, Debug)]
pub struct LabSettings {
    /// Databases, logs and certificates; created if need be.
    pub dir: PathBuf,
    /// Sockets, if not in `dir`: their names must be short (`unixctl::SOCKET_PATH_BYTES_MAX`).
    pub sockets: Option<PathBuf>,
    /// Where the servers listen; without it an address of the loopback network that no other lab has.
    pub address: Option<Ipv4Addr>,
    /// The northbound database.
    pub northbound: Members,
    /// The port of its first server; without it a free one.
    pub northbound_port: Option<u16>,
    /// Its schema, if not the installed one.
    pub northbound_schema: Option<PathBuf>,
    /// The southbound database.
    pub southbound: Option<Members>,
    /// The port of its first server; without it a free one.
    pub southbound_port: Option<u16>,
    /// Whether ovn-northd runs; it needs a southbound database.
    pub northd: bool,
    /// Whether a hypervisor without a kernel module runs, so that ports go up; it needs ovn-northd.
    pub hypervisor: bool,
    /// Whether the servers listen on `ssl:` too.
    pub tls: bool,
}

impl LabSettings {
    /// Both databases, one server each, and ovn-northd.
    pub fn new(dir: impl Into<PathBuf>) -> LabSettings {
        LabSettings {
            dir: dir.into(),
            sockets: None,
            address: None,
            northbound: Members::Standalone,
            northbound_port: None,
            northbound_schema: None,
            southbound: Some(Members::Standalone),
            southbound_port: None,
            northd: true,
            hypervisor: false,
            tls: false,
        }
    }

    /// The northbound database and nothing else: all that a test of the client needs.
    pub fn northbound_only(dir: impl Into<PathBuf>, northbound: Members) -> LabSettings {
        LabSettings { northbound, southbound: None, northd: false, ..LabSettings::new(dir) }
    }
}

/// A running private OVN. Dropping it ends it.
#[derive(Debug)]
pub struct Lab {
    // Ended first to last.
    hypervisor: Option<Hypervisor>,
    northd: Option<Process>,
    northbound: Vec<OvsdbServer>,
    southbound: Vec<OvsdbServer>,
    certificates: Option<Certificates>,
    programs: Programs,
    dir: PathBuf,
    address: Ipv4Addr,
    _lock: File,
}

impl Lab {
    /// Starts all that `settings` ask for and waits until it answers.
    pub async fn start(settings: LabSettings) -> Result<Lab, LabError> {
        let programs = Programs::find()?;
        let lock = prepare(&settings)?;
        let dir = settings.dir.canonicalize().map_err(|e| LabError::io("find the directory", e))?;
        let address = settings.address.unwrap_or_else(ports::private_address);
        let certificates = match settings.tls {
            true => Some(Certificates::create(&dir.join("tls"), address).await?),
            false => None,
        };
        let mut lab = Lab {
            hypervisor: None,
            northd: None,
            northbound: Vec::new(),
            southbound: Vec::new(),
            certificates,
            programs,
            dir,
            address,
            _lock: lock,
        };
        let sockets = settings.sockets.as_ref().unwrap_or(&lab.dir).clone();
        let mut starter = Starter { lab: &lab, sockets: sockets.clone(), taken: Vec::new() };
        let schema = settings.northbound_schema.as_ref().unwrap_or(&lab.programs.northbound_schema);
        let northbound = Group { short: "nb", database: "OVN_Northbound", schema: schema.clone() };
        let schema = lab.programs.southbound_schema.clone();
        let southbound = Group { short: "sb", database: "OVN_Southbound", schema };
        let nb = starter.servers(&northbound, settings.northbound, settings.northbound_port).await?;
        let sb = match settings.southbound {
            Some(members) => starter.servers(&southbound, members, settings.southbound_port).await?,
            None => Vec::new(),
        };
        (lab.northbound, lab.southbound) = (nb, sb);
        lab.nbctl(&["init"]).await?;
        if settings.northd && !lab.southbound.is_empty() {
            lab.sbctl(&["init"]).await?;
            lab.northd = Some(lab.start_northd(&sockets).await?);
            if settings.hypervisor {
                lab.hypervisor = Some(lab.start_hypervisor(&sockets).await?);
            }
        }
        Ok(lab)
    }

    async fn start_northd(&self, sockets: &Path) -> Result<Process, LabError> {
        let socket = sockets.join("northd.ctl");
        check_socket(&socket)?;
        let log = self.dir.join("northd.log");
        let mut northd = Process::new("ovn-northd", &self.programs.setpriv, &self.programs.ovn_northd, log)
            .arguments(["-vconsole:info", "-vsyslog:off"].map(OsString::from))
            .arguments([
                OsString::from(format!("--unixctl={}", socket.display())),
                format!("--ovnnb-db={}", unix(&self.northbound)).into(),
                format!("--ovnsb-db={}", unix(&self.southbound)).into(),
            ]);
        northd.start()?;
        wait_for(&mut northd, &Unixctl::new(socket)).await?;
        Ok(northd)
    }

    async fn start_hypervisor(&self, sockets: &Path) -> Result<Hypervisor, LabError> {
        Hypervisor::start(&self.dir, sockets, &self.programs, &unix(&self.southbound)).await
    }

    /// The servers of the northbound database.
    pub fn northbound(&self) -> &[OvsdbServer] {
        &self.northbound
    }

    /// The same, to do something to them.
    pub fn northbound_mut(&mut self) -> &mut [OvsdbServer] {
        &mut self.northbound
    }

    /// The servers of the southbound database; empty if there is none.
    pub fn southbound(&self) -> &[OvsdbServer] {
        &self.southbound
    }

    /// The same, to do something to them.
    pub fn southbound_mut(&mut self) -> &mut [OvsdbServer] {
        &mut self.southbound
    }

    /// ovn-northd, if the lab has it.
    pub fn northd_mut(&mut self) -> Option<&mut Process> {
        self.northd.as_mut()
    }

    /// The hypervisor, if the lab has one.
    pub fn hypervisor(&self) -> Option<&Hypervisor> {
        self.hypervisor.as_ref()
    }

    /// The certificates, if the lab has them.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The directory that was asked for, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process ids of all that runs, by name.
    pub fn pids(&mut self) -> Vec<(String, u32)> {
        let servers = self.northbound.iter_mut().chain(&mut self.southbound);
        let servers = servers.filter_map(|server| Some((server.name().to_owned(), server.pid()?)));
        let mut pids: Vec<_> = servers.collect();
        pids.extend(self.northd.iter_mut().filter_map(|p| Some((p.name().to_owned(), p.pid()?))));
        pids.extend(self.hypervisor.iter_mut().flat_map(Hypervisor::pids));
        pids
    }

    /// Where the leader of a clustered northbound database stands in [`Lab::northbound`]: waits until one of the
    /// members that run leads. A server alone is its own leader.
    pub async fn northbound_leader(&mut self) -> Result<usize, LabError> {
        leader(&mut self.northbound).await
    }

    /// The same for the southbound database.
    pub async fn southbound_leader(&mut self) -> Result<usize, LabError> {
        leader(&mut self.southbound).await
    }

    /// Runs `ovn-nbctl` on the northbound database and gives what it prints.
    pub async fn nbctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.ctl(&self.programs.ovn_nbctl, &self.northbound, arguments).await
    }

    /// Runs `ovn-sbctl` on the southbound database and gives what it prints.
    pub async fn sbctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.ctl(&self.programs.ovn_sbctl, &self.southbound, arguments).await
    }

    async fn ctl(&self, tool: &Path, on: &[OvsdbServer], arguments: &[&str]) -> Result<String, LabError> {
        let database = format!("--db={}", unix(on));
        let line: Vec<&str> = [TOOL_TIMEOUT, &database].iter().chain(arguments).copied().collect();
        tool::run(tool, &line).await
    }

    /// Starts again what has ended, as it was; what is paused stays so.
    pub async fn restart_ended(&mut self) -> Result<(), LabError> {
        for server in self.northbound.iter_mut().chain(&mut self.southbound) {
            server.start().await?;
        }
        // The others wait for their databases by themselves.
        if let Some(northd) = &mut self.northd {
            northd.start()?;
        }
        if let Some(hypervisor) = &mut self.hypervisor {
            hypervisor.restart_ended()?;
        }
        Ok(())
    }

    /// Ends everything in order, asking first.
    pub async fn stop(mut self) {
        if let Some(hypervisor) = &mut self.hypervisor {
            hypervisor.stop().await;
        }
        if let Some(northd) = &mut self.northd {
            northd.stop().await;
        }
        for server in self.northbound.iter_mut().chain(&mut self.southbound) {
            server.stop().await;
        }
    }
}

/// Creates the directories and takes the lock.
fn prepare(settings: &LabSettings) -> Result<File, LabError> {
    for dir in [Some(&settings.dir), settings.sockets.as_ref()].into_iter().flatten() {
        fs::create_dir_all(dir).map_err(|e| LabError::io(format!("create {}", dir.display()), e))?;
    }
    let path = settings.dir.join(LOCK_FILE);
    let failed = |e| LabError::io(format!("lock {}", path.display()), e);
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LabError::InUse { dir: settings.dir.clone() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The servers of one database.
struct Group {
    short: &'static str,
    database: &'static str,
    schema: PathBuf,
}

/// Starts servers one after the other, each with ports of its own.
struct Starter<'a> {
    lab: &'a Lab,
    sockets: PathBuf,
    taken: Vec<u16>,
}

impl Starter<'_> {
    async fn servers(
        &mut self,
        group: &Group,
        members: Members,
        port: Option<u16>,
    ) -> Result<Vec<OvsdbServer>, LabError> {
        if members == Members::Standalone {
            let plan = self.plan(group, group.short.to_owned(), Origin::Standalone, port)?;
            return Ok(vec![OvsdbServer::launch(plan, &self.lab.programs).await?]);
        }
        let mut servers: Vec<OvsdbServer> = Vec::new();
        let mut first = None;
        for rank in 0..CLUSTER_SIZE {
            let own = format!("tcp:{}:{}", self.lab.address, self.port(None)?);
            let origin = match &first {
                None => Origin::Cluster { own: own.clone() },
                Some(first) => Origin::Joined { own: own.clone(), first: String::clone(first) },
            };
            first.get_or_insert(own);
            let name = format!("{}-{}", group.short, rank + 1);
            let plan = self.plan(group, name, origin, port.filter(|_| rank == 0))?;
            servers.push(OvsdbServer::launch(plan, &self.lab.programs).await?);
        }
        // Only now: members of an existing cluster need a majority.
        for server in &mut servers {
            server.wait_joined().await?;
        }
        Ok(servers)
    }

    fn plan(
        &mut self,
        group: &Group,
        name: String,
        origin: Origin,
        port: Option<u16>,
    ) -> Result<Plan, LabError> {
        let port = self.port(port)?;
        let tls = match &self.lab.certificates {
            Some(certificates) => Some((self.port(None)?, certificates.clone())),
            None => None,
        };
        Ok(Plan {
            name,
            database: group.database,
            schema: group.schema.clone(),
            origin,
            dir: self.lab.dir.clone(),
            sockets: self.sockets.clone(),
            address: self.lab.address,
            port,
            tls,
        })
    }

    fn port(&mut self, asked: Option<u16>) -> Result<u16, LabError> {
        let port = match asked {
            Some(port) => port,
            None => ports::free_port(self.lab.address, &self.taken)?,
        };
        self.taken.push(port);
        Ok(port)
    }
}

/// What OVN's programs are given to find these servers.
fn unix(servers: &[OvsdbServer]) -> String {
    servers.iter().map(OvsdbServer::unix_endpoint).collect::<Vec<_>>().join(",")
}

async fn leader(servers: &mut [OvsdbServer]) -> Result<usize, LabError> {
    if servers.len() == 1 {
        return Ok(0);
    }
    let begun = Instant::now();
    loop {
        let mut best = None;
        for (rank, server) in servers.iter_mut().enumerate() {
            if !server.is_answering() {
                continue;
            }
            // One that was cut off may still think that it leads; its term is older.
            let status = server.cluster_status().await.unwrap_or_default();
            if status.is_leader() && best.is_none_or(|(term, _)| status.term > term) {
                best = Some((status.term, rank));
            }
        }
        if let Some((_, rank)) = best {
            return Ok(rank);
        }
        if begun.elapsed() > START_TIMEOUT {
            return Err(LabError::NoLeader { after: START_TIMEOUT });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until a process answers on its control socket.
async fn wait_for(process: &mut Process, unixctl: &Unixctl) -> Result<(), LabError> {
    let begun = Instant::now();
    loop {
        match unixctl.call("version", &[]).await {
            Ok(_) => return Ok(()),
            Err(UnixctlError::Unreachable { .. } | UnixctlError::TimedOut { .. }) => process.check()?,
            Err(source) => return Err(LabError::Unixctl { process: process.name().to_owned(), source }),
        }
        if begun.elapsed() > START_TIMEOUT {
            return Err(process.timed_out("answer", START_TIMEOUT));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
