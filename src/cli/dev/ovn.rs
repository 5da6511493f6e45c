//! The private OVN of a local cluster: databases and ovn-northd beside the nodes, if their programs are installed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ovncp_ovn::lab::{Lab, LabError, LabSettings, OvsdbServer};
use ovncp_ovn::unixctl::SOCKET_PATH_BYTES_MAX;
use serde::Serialize;

use super::layout::Ports;
use crate::cli::failure::{Exit, Failure};

/// Where OVN's programs look for the northbound database; the southbound one is next to it.
const PORT_BASE: u16 = 6641;
/// How the nodes are told. Whoever has set one of these has an OVN of their own.
const NORTHBOUND: &str = "OVN_NORTHBOUND_DB";
const SOUTHBOUND: &str = "OVN_SOUTHBOUND_DB";
/// In the data directory.
const FOLDER: &str = "ovn";
/// The longest name of a socket that the lab makes.
const LONGEST_SOCKET: &str = "northd.ctl";
/// Before what ended is started again.
const RESTART_AFTER: Duration = Duration::from_secs(3);

/// What the cluster has.
pub(super) enum Ovn {
    Private(Box<Private>),
    /// None, and why.
    None(String),
}

/// Running servers.
pub(super) struct Private {
    lab: Lab,
    /// What runs, as far as it was told.
    known: BTreeMap<String, u32>,
    restart_at: Option<Instant>,
    /// For sockets, where the names in the data directory would be too long.
    _sockets: Option<tempfile::TempDir>,
}

/// One process for people.
pub(super) struct Line {
    pub(super) what: &'static str,
    pub(super) endpoint: String,
    pub(super) pid: Option<u32>,
    pub(super) data: String,
}

/// What `dev.json` and `-o json` say.
#[derive(Serialize)]
pub(super) struct OvnFile {
    pub(super) northbound: String,
    southbound: String,
    pids: BTreeMap<String, u32>,
}

impl Ovn {
    /// Starts it, with the databases that `dir` has or new ones. Without the programs there is none, and no error.
    pub(super) async fn start(dir: &Path, wanted: bool, private_ports: bool) -> Result<Ovn, Failure> {
        if !wanted {
            return Ok(Ovn::None("none (--no-ovn)".to_owned()));
        }
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if let Some(name) = [NORTHBOUND, SOUTHBOUND].iter().find(|name| is_set(name)) {
            return Ok(Ovn::None(format!("none of its own, {name} is set")));
        }
        let asked = private_ports.then_some(0);
        let ports = Ports { flag: "--no-ovn", asked, base: PORT_BASE, kept: Vec::new() }.choose(2, &[])?;
        let dir = dir.join(FOLDER);
        let sockets = short_folder(&dir)?;
        let settings = LabSettings {
            sockets: sockets.as_ref().map(|folder| folder.path().to_owned()),
            address: Some(Ipv4Addr::LOCALHOST),
            northbound_port: Some(ports[0]),
            southbound_port: Some(ports[1]),
            ..LabSettings::new(dir)
        };
        match Lab::start(settings).await {
            Ok(mut lab) => {
                let known = lab.pids().into_iter().collect();
                Ok(Ovn::Private(Box::new(Private { lab, known, restart_at: None, _sockets: sockets })))
            }
            Err(LabError::Missing(missing)) => Ok(Ovn::None(missing.to_string())),
            Err(error) => Err(Failure::new(Exit::Failure, format!("start OVN: {error}"))
                .help("`ovncp dev --no-ovn` starts the nodes without it")),
        }
    }

    /// What the nodes are told.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Ovn::Private(private) => {
                let file = private.file();
                vec![(NORTHBOUND, file.northbound), (SOUTHBOUND, file.southbound)]
            }
            Ovn::None(_) => Vec::new(),
        }
    }

    pub(super) fn file(&self) -> Option<OvnFile> {
        match self {
            Ovn::Private(private) => Some(private.file()),
            Ovn::None(_) => None,
        }
    }

    /// Sentences on what ended and what was started again since the last call.
    pub(super) async fn look_after(&mut self, restart: bool) -> Vec<String> {
        match self {
            Ovn::Private(private) => private.look_after(restart).await,
            Ovn::None(_) => Vec::new(),
        }
    }

    pub(super) async fn stop(&mut self) {
        if let Ovn::Private(private) = std::mem::replace(self, Ovn::None("stopped".to_owned())) {
            private.lab.stop().await;
        }
    }
}

impl Private {
    fn file(&self) -> OvnFile {
        OvnFile {
            northbound: endpoint(self.lab.northbound()),
            southbound: endpoint(self.lab.southbound()),
            pids: self.known.clone(),
        }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let file = self.file();
        let line = |what, name: &str, endpoint: String, data: &str| Line {
            what,
            endpoint,
            pid: file.pids.get(name).copied(),
            data: self.lab.dir().join(data).display().to_string(),
        };
        vec![
            line("northbound", "nb", file.northbound.clone(), "nb.db"),
            line("southbound", "sb", file.southbound.clone(), "sb.db"),
            line("ovn-northd", "ovn-northd", "-".to_owned(), "northd.log"),
        ]
    }

    async fn look_after(&mut self, restart: bool) -> Vec<String> {
        let now = Instant::now();
        let mut told = Vec::new();
        let running: BTreeMap<String, u32> = self.lab.pids().into_iter().collect();
        let ended: Vec<String> = self.known.keys().filter(|n| !running.contains_key(*n)).cloned().collect();
        self.known = running;
        for name in &ended {
            told.push(match restart {
                true => format!("OVN's {name} ended; it is started again in {} s", RESTART_AFTER.as_secs()),
                false => format!("OVN's {name} ended and stays down (--no-restart)"),
            });
        }
        if restart && !ended.is_empty() {
            self.restart_at = Some(now + RESTART_AFTER);
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            told.extend(self.restart_ended(now).await);
        }
        told
    }

    async fn restart_ended(&mut self, now: Instant) -> Vec<String> {
        let result = self.lab.restart_ended().await;
        let running: BTreeMap<String, u32> = self.lab.pids().into_iter().collect();
        let fresh = running.iter().filter(|(name, _)| !self.known.contains_key(*name));
        let mut told: Vec<_> =
            fresh.map(|(name, pid)| format!("OVN's {name} runs again, pid {pid}")).collect();
        self.known = running;
        if let Err(error) = result {
            told.push(format!("OVN: {error}; tried again in {} s", RESTART_AFTER.as_secs()));
            self.restart_at = Some(now + RESTART_AFTER);
        }
        told
    }
}

fn endpoint(servers: &[OvsdbServer]) -> String {
    servers.iter().map(OvsdbServer::tcp_endpoint).collect::<Vec<_>>().join(",")
}

/// A folder for sockets if their names in `dir` would be longer than Linux allows.
fn short_folder(dir: &Path) -> Result<Option<tempfile::TempDir>, Failure> {
    let failed = |e: std::io::Error| Failure::io("make a folder for OVN's sockets", &e);
    let dir = std::path::absolute(dir).map_err(failed)?;
    if fits(dir) {
        return Ok(None);
    }
    tempfile::Builder::new().prefix("ovncp-").tempdir().map(Some).map_err(failed)
}

fn fits(dir: PathBuf) -> bool {
    dir.join(LONGEST_SOCKET).as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_directories_get_short_names_for_their_sockets() {
        assert!(short_folder(Path::new("/var/tmp/cluster")).unwrap().is_none());
        let long = PathBuf::from("/").join("d".repeat(SOCKET_PATH_BYTES_MAX));
        let short = short_folder(&long).unwrap().unwrap();
        assert!(fits(short.path().to_owned()), "{}", short.path().display());
    }
}
