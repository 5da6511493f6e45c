//! What can go wrong with a private OVN.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::programs::Missing;
use crate::unixctl::{SOCKET_PATH_BYTES_MAX, UnixctlError};

/// Why the lab, or a process of it, could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program or a schema is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The sockets would have names that Linux does not allow.
    #[error("{} is {length} bytes long and a Unix socket takes {SOCKET_PATH_BYTES_MAX}: use a shorter directory", path.display())]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// Bytes of it.
        length: usize,
    },
    /// A file, a process or a port.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended that should run.
    #[error("{process} ended ({status}){}", Tail(log))]
    Ended {
        /// Its name in the lab.
        process: String,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        log: Vec<String>,
    },
    /// A process runs and does not do what it is for.
    #[error("{process} did not {awaited} in {after:?}{}", Tail(log))]
    TimedOut {
        /// Its name in the lab.
        process: String,
        /// What was waited for.
        awaited: String,
        /// How long.
        after: Duration,
        /// The last lines that it wrote.
        log: Vec<String>,
    },
    /// A process is asked for something while it does not run.
    #[error("{process} does not run")]
    NotRunning {
        /// Its name in the lab.
        process: String,
    },
    /// Another program holds the port that was asked for.
    #[error("port {port} of {address} is taken")]
    PortTaken {
        /// The address.
        address: std::net::Ipv4Addr,
        /// The port.
        port: u16,
    },
    /// No free port was found.
    #[error("no free port on {address}")]
    NoPort {
        /// Where it was looked for.
        address: std::net::Ipv4Addr,
    },
    /// No member of a clustered database leads.
    #[error("no member leads after {after:?}")]
    NoLeader {
        /// How long it was waited.
        after: Duration,
    },
    /// Another lab runs in this directory.
    #[error("another lab runs in {}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A tool such as `ovn-nbctl` failed.
    #[error("`{command}` failed ({status}): {output}")]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote to its standard error.
        output: String,
    },
    /// A command over a control socket failed.
    #[error("{process}: {source}")]
    Unixctl {
        /// Its name in the lab.
        process: String,
        /// Why.
        source: UnixctlError,
    },
}

impl LabError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> LabError {
        LabError::Io { what: what.into(), source }
    }
}

/// The last lines of a log, set apart.
struct Tail<'a>(&'a [String]);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}
