//! One `ovn-trace --detach` and the guard that ends it.
//!
//! ovn-trace answers commands only when it detaches: it forks, leaves its session, and is nobody's child. Nothing
//! that Linux offers for children holds it, so a small shell process stands guard: it reads from a pipe whose
//! other end only we have. When that closes, because the [`Daemon`] is dropped or because this process died of
//! anything, the guard kills the daemon by the process id in its pid file.
//!
//! Somebody has to collect what is left of it. In a container the first process often does not, and each daemon
//! would leave an entry in the table of processes; so this process adopts it (`PR_SET_CHILD_SUBREAPER`).

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::TraceSettings;
use crate::lab::{Missing, programs};
use crate::unixctl::{SOCKET_PATH_BYTES_MAX, Unixctl};

/// How often a start is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The part of a log that is read.
const LOG_BYTES_MAX: usize = 64 * 1024;
/// Distinguishes the daemons of this process.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// `$1` is the folder of this daemon, the rest its command line. The name in /proc is compared in case the daemon
/// is long gone and its number somebody else's. A start under way ends when its daemon is killed.
const GUARD: &str = r#"
trap '' HUP INT TERM
dir=$1; shift
("$@" && : >"$dir/ready" || : >"$dir/failed") &
starter=$!
end() {
    pid=$(cat "$dir/pid" 2>/dev/null) || return 0
    read -r name 2>/dev/null <"/proc/$pid/comm" || return 0
    [ "$name" != ovn-trace ] || kill -KILL "$pid"
}
read -r _
end
while kill -0 "$starter" 2>/dev/null; do sleep 0.1; end; done
rm -rf "$dir"
"#;

/// A daemon that has read the database. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Daemon {
    guard: Option<Guard>,
    dir: PathBuf,
    unixctl: Unixctl,
}

#[derive(Debug)]
struct Guard {
    child: Child,
    /// Closing it is the word to end.
    pipe: Option<ChildStdin>,
}

#[derive(Debug)]
pub(super) enum StartError {
    Missing(Missing),
    Failed(String),
}

impl Daemon {
    /// Starts one and waits until it has read the database.
    pub(super) async fn start(
        settings: &TraceSettings,
        program: &Path,
        options: Vec<String>,
    ) -> Result<Daemon, StartError> {
        // Where it is not allowed, the first process has to do it.
        let _ = set_child_subreaper(Some(getpid()));
        let sh = programs::find("sh", "dash").map_err(StartError::Missing)?;
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let dir = settings.dir.join(format!("t{}-{number}", std::process::id()));
        let failed =
            |what: &str, e: std::io::Error| StartError::Failed(format!("{what} {}: {e}", dir.display()));
        let socket = dir.join("ctl");
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let text = format!("{} is too long for a socket: use a shorter directory", socket.display());
            return Err(StartError::Failed(text));
        }
        // Left by a process that had this process id and its guard killed.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| failed("create", e))?;
        let log = File::create(dir.join("log")).map_err(|e| failed("write to", e))?;
        let also = log.try_clone().map_err(|e| failed("write to", e))?;
        let mut child = Command::new(sh)
            .args(["-c", GUARD, "ovn-trace-guard"])
            .arg(&dir)
            .arg(program)
            .args(command_line(settings, &dir))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(also)
            // Ctrl-C at the terminal is for us.
            .process_group(0)
            .spawn()
            .map_err(|e| failed("start ovn-trace in", e))?;
        let pipe = child.stdin.take();
        let unixctl = Unixctl::new(socket);
        let mut daemon = Daemon { guard: Some(Guard { child, pipe }), dir, unixctl };
        daemon.wait_ready().await?;
        Ok(daemon)
    }

    async fn wait_ready(&mut self) -> Result<(), StartError> {
        let (ready, failed) = (self.dir.join("ready"), self.dir.join("failed"));
        loop {
            if ready.exists() {
                return Ok(());
            }
            let guard = self.guard.as_mut().map(|guard| guard.child.try_wait());
            if failed.exists() || !matches!(guard, Some(Ok(None))) {
                let log = self.log();
                let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                return Err(StartError::Failed(last.to_owned()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub(super) fn unixctl(&self) -> &Unixctl {
        &self.unixctl
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()
    }

    /// The assertion that failed, if one did: `assertion in_key failed`.
    pub(super) fn assertion(&self) -> Option<String> {
        let log = self.log();
        let (_, text) = log.lines().rfind(|line| line.contains("|EMER|"))?.split_once(": ")?;
        Some(text.split(" in ").next().unwrap_or(text).to_owned())
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("log")).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(LOG_BYTES_MAX)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        // The guard removes the file.
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        guard.pipe = None;
        // It takes a few milliseconds, which are not those of the runtime. Without a thread both stay in the table of
        // processes until this one ends.
        let _ = std::thread::Builder::new().name("ovn-trace-end".to_owned()).spawn(move || {
            let _ = guard.child.wait();
            if let Some(pid) = pid {
                collect(pid);
            }
        });
    }
}

/// Takes what is left of a daemon out of the table of processes; nothing happens if somebody else adopted it.
fn collect(pid: Pid) {
    if let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG) {
        // Ours and alive: its guard was killed. Its number is its own until it is collected.
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

fn command_line(settings: &TraceSettings, dir: &Path) -> Vec<String> {
    let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
    let mut line = vec!["--detach".to_owned(), "--no-friendly-names".to_owned(), "-vsyslog:off".to_owned()];
    line.push(file("pidfile", &dir.join("pid")));
    line.push(file("unixctl", &dir.join("ctl")));
    line.push(file("log-file", &dir.join("log")));
    line.push(format!("--db={}", settings.southbound));
    if !settings.leader_only {
        line.push("--no-leader-only".to_owned());
    }
    if let Some(tls) = &settings.tls {
        line.push(file("private-key", &tls.private_key));
        line.push(file("certificate", &tls.certificate));
        line.push(file("ca-cert", &tls.ca_certificate));
    }
    line
}
