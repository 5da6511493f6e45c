//! One child process of a lab: started, watched, paused, killed, and never left behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::error::LabError;
use super::launcher;

/// A process that does not come up in this time never will, also on a machine that does much else.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Between SIGTERM and SIGKILL.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// Time for Linux to stop all threads of a process after SIGSTOP.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often something is looked at that is waited for.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Lines of a log that go into an error.
const LOG_LINES: usize = 8;
/// The part of a log that is read for that.
const LOG_TAIL_BYTES: u64 = 16 * 1024;
/// A log larger than this is set aside when its process is started.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A program with its arguments, and the process that runs it, if one does. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    name: String,
    setpriv: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    log: PathBuf,
    /// Length of the log when the process was started.
    log_start: u64,
    child: Option<Child>,
    paused: bool,
}

impl Process {
    /// A program that does not run yet. What it says goes to the end of `log`.
    pub(crate) fn new(name: impl Into<String>, setpriv: &Path, program: &Path, log: PathBuf) -> Process {
        Process {
            name: name.into(),
            setpriv: setpriv.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log,
            log_start: 0,
            child: None,
            paused: false,
        }
    }

    pub(crate) fn arguments(mut self, arguments: impl IntoIterator<Item = OsString>) -> Process {
        self.arguments.extend(arguments);
        self
    }

    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<OsString>) -> Process {
        self.environment.push((name, value.into()));
        self
    }

    /// Its name in the lab, such as `nb-1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it writes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it, if it does not run, and gives its process id.
    pub(crate) fn start(&mut self) -> Result<u32, LabError> {
        if let Some(pid) = self.pid() {
            return Ok(pid);
        }
        let log = self.open_log().map_err(|e| LabError::io(format!("open {}", self.log.display()), e))?;
        let also = log.try_clone().map_err(|e| LabError::io("share a log file", e))?;
        let mut command = Command::new(&self.setpriv);
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            // Ctrl-C at the terminal is for whoever owns the lab.
            .process_group(0);
        let child = launcher::spawn(command);
        let child = child.map_err(|e| LabError::io(format!("start {}", self.program.display()), e))?;
        let pid = child.id();
        tracing::debug!(process = self.name, pid, "started");
        (self.child, self.paused) = (Some(child), false);
        Ok(pid)
    }

    fn open_log(&mut self) -> std::io::Result<File> {
        if fs::metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            fs::rename(&self.log, self.log.with_extension("old"))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.log_start = file.metadata()?.len();
        Ok(file)
    }

    /// The process id, while it runs or is paused.
    pub fn pid(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        match child.try_wait() {
            Ok(None) => Some(child.id()),
            _ => None,
        }
    }

    /// Whether it is stopped by [`Process::pause`].
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Ends it at once, as a crash or `kill -9` would; it may be paused. Nothing happens if it does not run.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.paused = false;
    }

    /// Stops it with SIGSTOP: it keeps its sockets and answers nobody. Returns when it stands still.
    pub async fn pause(&mut self) -> Result<(), LabError> {
        let pid = self.signal(Signal::STOP)?;
        self.paused = true;
        let stat = format!("/proc/{pid}/stat");
        let begun = Instant::now();
        // After the name in parentheses: ` T ` once all its threads stand still.
        while !fs::read_to_string(&stat)
            .is_ok_and(|s| s.rsplit(')').next().is_some_and(|s| s.starts_with(" T")))
        {
            if begun.elapsed() > PAUSE_TIMEOUT {
                return Err(self.timed_out("stop at SIGSTOP", PAUSE_TIMEOUT));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Lets it go on after [`Process::pause`].
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.signal(Signal::CONT)?;
        self.paused = false;
        Ok(())
    }

    /// Asks it to end, and kills it after [`STOP_GRACE`].
    pub async fn stop(&mut self) {
        if self.paused {
            // A stopped process does not see SIGTERM.
            let _ = self.resume();
        }
        if self.signal(Signal::TERM).is_ok() {
            let begun = Instant::now();
            while self.pid().is_some() && begun.elapsed() < STOP_GRACE {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        self.kill();
    }

    /// Sends a signal. The child is reaped only here, so the id is still its own.
    fn signal(&mut self, signal: Signal) -> Result<u32, LabError> {
        let gone = LabError::NotRunning { process: self.name.clone() };
        let Some(number) = self.pid() else { return Err(gone) };
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        match pid.map(|pid| kill_process(pid, signal)) {
            Some(Ok(())) => Ok(number),
            _ => Err(gone),
        }
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        let status = match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => return Ok(()),
            Some(Ok(Some(status))) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => return Err(LabError::NotRunning { process: self.name.clone() }),
        };
        Err(LabError::Ended { process: self.name.clone(), status, log: self.said() })
    }

    pub(crate) fn timed_out(&self, awaited: impl Into<String>, after: Duration) -> LabError {
        LabError::TimedOut { process: self.name.clone(), awaited: awaited.into(), after, log: self.said() }
    }

    /// The last lines that it wrote since its start.
    pub(crate) fn said(&self) -> Vec<String> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.log_start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
