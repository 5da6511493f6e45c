//! One process.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a node may take between SIGTERM and its end: its own drain and shutdown times, and a busy machine.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How long the kernel may take to end a killed process (one that waits for a disk takes no signal).
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// A log that is shown ends with this much of it.
const TAIL_BYTES: u64 = 4096;

/// Why something could not be done to a node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Nobody of that name.
    #[error("there is no node {0}")]
    NoSuchNode(String),
    /// It must run for this.
    #[error("{0} does not run")]
    NotRunning(String),
    /// It must not run for this.
    #[error("{0} runs already")]
    Running(String),
    /// Starting or signalling failed.
    #[error("{action} {node}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// On whom.
        node: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("{node} did not end within {STOP_GRACE:?} of SIGTERM and was killed")]
    Stubborn {
        /// Who.
        node: String,
    },
    /// Its process is still there after SIGKILL.
    #[error("{0} does not end after SIGKILL")]
    Immortal(String),
    /// It did not answer its readiness probe in time.
    #[error("{0} is not ready after {1:?}")]
    NotReady(String, Duration),
}

/// How a node is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment, but for `PATH`.
    pub environment: BTreeMap<String, String>,
    /// Its data directory; made before each start.
    pub data_dir: PathBuf,
}

/// A node that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Who.
    pub node: String,
    /// Exit code or signal, for people.
    pub status: String,
    /// Whether it ended with exit code 0.
    pub clean: bool,
    /// Whether a fault had said that it may end.
    pub expected: bool,
    /// Last lines of its log.
    pub last_words: String,
}

/// A node and its process, if it runs.
#[derive(Debug)]
pub struct Node {
    name: String,
    launch: Launch,
    log: PathBuf,
    url: String,
    child: Option<Child>,
    may_exit: bool,
    starts: u32,
}

impl Node {
    pub(super) fn new(name: &str, launch: Launch, log: PathBuf, url: String) -> Self {
        Self { name: name.to_owned(), launch, log, url, child: None, may_exit: false, starts: 0 }
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Base address of its HTTP interface.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.launch.data_dir
    }

    /// Where its output goes, over all its starts.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    pub(super) fn may_exit(&mut self) {
        self.may_exit = true;
    }

    pub(super) fn start(&mut self, more: &[(String, String)]) -> Result<u32, NodeError> {
        if self.child.is_some() {
            return Err(NodeError::Running(self.name.clone()));
        }
        let child = self.spawn(more).map_err(|source| self.trouble("start", source))?;
        self.starts += 1;
        self.may_exit = false;
        let pid = child.id().ok_or_else(|| NodeError::NotRunning(self.name.clone()))?;
        self.child = Some(child);
        Ok(pid)
    }

    fn spawn(&self, more: &[(String, String)]) -> std::io::Result<Child> {
        std::fs::create_dir_all(&self.launch.data_dir)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        Command::new(&self.launch.command[0])
            .args(&self.launch.command[1..])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.launch.environment)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<(), NodeError> {
        // Only this owner reaps the process, so the id is still its own.
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| NodeError::NotRunning(self.name.clone()))?;
        kill_process(pid, signal).map_err(|errno| self.trouble("signal", errno.into()))
    }

    pub(super) async fn kill(&mut self) -> Result<(), NodeError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        // Fails only for a process that ended by itself a moment ago.
        let _ = child.start_kill();
        let gone = tokio::time::timeout(KILL_PATIENCE, child.wait()).await;
        gone.map_err(|_| NodeError::Immortal(self.name.clone()))?
            .map_err(|source| self.trouble("wait for", source))?;
        self.child = None;
        Ok(())
    }

    pub(super) async fn terminate(&mut self) -> Result<Ended, NodeError> {
        self.signal(Signal::TERM)?;
        let Some(child) = &mut self.child else { return Err(NodeError::NotRunning(self.name.clone())) };
        let Ok(status) = tokio::time::timeout(STOP_GRACE, child.wait()).await else {
            self.kill().await?;
            return Err(NodeError::Stubborn { node: self.name.clone() });
        };
        let status = status.map_err(|source| self.trouble("wait for", source))?;
        self.child = None;
        Ok(self.ended(status, true))
    }

    /// Whether it ended by itself since the last look.
    pub(super) fn reap(&mut self) -> Option<Ended> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(self.ended(status, self.may_exit))
    }

    fn ended(&self, status: ExitStatus, expected: bool) -> Ended {
        let text = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        let last_words = last_lines(&self.log).unwrap_or_default();
        Ended { node: self.name.clone(), status: text, clean: status.success(), expected, last_words }
    }

    fn trouble(&self, action: &'static str, source: std::io::Error) -> NodeError {
        NodeError::Process { action, node: self.name.clone(), source }
    }
}

fn last_lines(log: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
