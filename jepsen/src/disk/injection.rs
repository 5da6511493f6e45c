//! System calls of a live process that fail or take long, by strace: works on every file system, needs the right
//! to trace the process and nothing else. What was injected is counted from what strace writes down.
//!
//! Caveat: tracing slows each system call of the threads that are traced. A delay is injected into the threads of
//! the log only, where they can be told; an error into all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::DiskError;
use super::tool::needs;

/// How long strace may take to attach, and to let go.
const TRACE_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Name of the thread that writes and syncs the log.
const LOG_THREAD: &str = "ovncp-log";

/// What is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Syncing files fails with EIO.
    SyncFails,
    /// Syncing the log takes so much longer.
    SyncIsSlow(Duration),
    /// Writing to files and giving them room fails with ENOSPC.
    NoRoom,
}

impl Failure {
    /// For file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::SyncFails => "sync-fails",
            Self::SyncIsSlow(_) => "sync-is-slow",
            Self::NoRoom => "no-room",
        }
    }

    fn calls(self) -> &'static str {
        match self {
            Self::SyncFails | Self::SyncIsSlow(_) => "fdatasync,fsync",
            // Sockets and standard output are not written to with this call.
            Self::NoRoom => "pwrite64,fallocate",
        }
    }

    fn expression(self) -> String {
        let what = match self {
            Self::SyncFails => "error=EIO".to_owned(),
            Self::SyncIsSlow(by) => format!("delay_enter={}", by.as_micros()),
            Self::NoRoom => "error=ENOSPC".to_owned(),
        };
        format!("inject={}:{what}", self.calls())
    }
}

/// An injection that goes on.
#[derive(Debug)]
pub struct Injection {
    strace: Child,
    output: PathBuf,
}

/// What was injected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Injected {
    /// Calls that failed or were delayed.
    pub calls: u64,
    /// Of these, on segments of the log.
    pub log_calls: u64,
}

/// Whether strace is there; else why not.
pub fn possible() -> Result<(), DiskError> {
    needs("strace", "strace")
}

/// Whether something traces a thread of this process already; there can be one tracer only.
pub fn is_under_way(pid: u32) -> Result<bool, DiskError> {
    Ok(all_threads(pid)?.into_iter().any(|thread| tracer(pid, thread).is_some_and(|tracer| tracer != 0)))
}

impl Injection {
    /// Begins to inject into a process. What strace sees goes to the file `output`.
    pub fn start(pid: u32, failure: Failure, output: &Path) -> Result<Self, DiskError> {
        possible()?;
        let mut command = Command::new("strace");
        command.args(["-qq", "-y", "-e", &format!("trace={}", failure.calls()), "-e", &failure.expression()]);
        let threads = match failure {
            Failure::SyncIsSlow(_) => log_threads(pid)?,
            Failure::SyncFails | Failure::NoRoom => Vec::new(),
        };
        if threads.is_empty() {
            command.args(["-f", "-p", &pid.to_string()]);
        }
        for thread in &threads {
            command.args(["-p", &thread.to_string()]);
        }
        let errors = output.with_extension("stderr");
        let stderr = fs::File::create(&errors).map_err(DiskError::io("create", &errors))?;
        command.arg("-o").arg(output).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let strace = command.spawn().map_err(DiskError::io("start", Path::new("strace")))?;
        let mut injection = Self { strace, output: output.to_path_buf() };
        injection.wait_attached(pid, &threads, &errors)?;
        Ok(injection)
    }

    fn wait_attached(&mut self, pid: u32, threads: &[u32], errors: &Path) -> Result<(), DiskError> {
        let start = Instant::now();
        loop {
            let wanted = if threads.is_empty() { all_threads(pid)? } else { threads.to_vec() };
            if !wanted.is_empty() && wanted.iter().all(|thread| is_traced(pid, *thread)) {
                return Ok(());
            }
            let ended = self.strace.try_wait().map_err(DiskError::io("wait for", Path::new("strace")))?;
            if let Some(status) = ended {
                let said = fs::read_to_string(errors).unwrap_or_default();
                let problem = format!("{status}: {}", said.trim());
                return Err(DiskError::Failed { command: format!("strace -p {pid}"), problem });
            }
            if start.elapsed() > TRACE_LIMIT {
                return Err(DiskError::TooLate { what: format!("strace traces {pid}"), limit: TRACE_LIMIT });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What was injected so far.
    pub fn injected(&self) -> Result<Injected, DiskError> {
        fs::read_to_string(&self.output).map(|text| count(&text)).map_err(DiskError::io("read", &self.output))
    }

    /// Ends it; what was injected in all.
    pub fn stop(mut self) -> Result<Injected, DiskError> {
        self.end()?;
        self.injected()
    }

    /// Interrupted, strace lets its threads go on as they were; so does the kernel when it is killed.
    fn end(&mut self) -> Result<(), DiskError> {
        let trouble = |error| DiskError::io("end", Path::new("strace"))(error);
        let start = Instant::now();
        while self.strace.try_wait().map_err(trouble)?.is_none() {
            if start.elapsed() > TRACE_LIMIT {
                self.strace.kill().map_err(trouble)?;
                self.strace.wait().map_err(trouble)?;
                break;
            }
            if let Some(pid) = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw) {
                // It may have ended by itself meanwhile, with the process that it traced.
                let _ = kill_process(pid, Signal::INT);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "an injection may go on");
        }
    }
}

fn all_threads(pid: u32) -> Result<Vec<u32>, DiskError> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let entries = fs::read_dir(&folder).map_err(DiskError::io("read", &folder))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn log_threads(pid: u32) -> Result<Vec<u32>, DiskError> {
    let name =
        |thread: u32| fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).unwrap_or_default();
    Ok(all_threads(pid)?.into_iter().filter(|thread| name(*thread).trim() == LOG_THREAD).collect())
}

/// A thread that has ended meanwhile needs no tracing.
fn is_traced(pid: u32, thread: u32) -> bool {
    tracer(pid, thread).is_none_or(|tracer| tracer != 0)
}

/// Process that traces a thread, 0 for none; `None` where the thread is gone.
fn tracer(pid: u32, thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())
}

/// Counts what strace marked as injected. A call that another one interrupts has two lines, and only the first of
/// them names the file.
fn count(text: &str) -> Injected {
    let mut injected = Injected::default();
    let mut is_log: BTreeMap<&str, bool> = BTreeMap::new();
    for line in text.lines() {
        let thread = line.split(' ').next().filter(|word| word.parse::<u32>().is_ok()).unwrap_or_default();
        if line.contains("</") {
            is_log.insert(thread, line.contains(".wal>"));
        }
        if line.ends_with("(INJECTED)") || line.ends_with("(DELAYED)") {
            injected.calls += 1;
            injected.log_calls += u64::from(is_log.get(thread).copied().unwrap_or(false));
        }
    }
    injected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injected_calls_are_counted_by_file() {
        let text = "\
71 fdatasync(9</d/log/0000000001.wal> <unfinished ...>
72 fdatasync(11</d/snapshot/1.tmp>) = -1 EIO (Input/output error) (INJECTED)
71 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
71 fsync(9</d/log/0000000002.wal>) = 0 (DELAYED)
73 fdatasync(9</d/log/0000000001.wal>) = 0
";
        assert_eq!(count(text), Injected { calls: 3, log_calls: 2 });
        // One thread only: no number before the call.
        assert_eq!(
            count("fdatasync(9</d/log/0000000001.wal>) = 0 (DELAYED)\n"),
            Injected { calls: 1, log_calls: 1 }
        );
    }
}
