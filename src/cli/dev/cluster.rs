//! The nodes as child processes: started, reaped, killed, and never left behind.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::layout::Layout;
use crate::cli::failure::Failure;

/// Between SIGTERM and SIGKILL at the end.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);
const REAP_INTERVAL: Duration = Duration::from_millis(20);
/// A log larger than this is set aside when its node is started.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What says who a node is. Set in the user's shell for some other node, these must not reach ours; the rest of
/// the environment (time-outs, databases, `RUST_LOG`) is passed on.
const IDENTITY_VARIABLES: [&str; 14] = [
    "ENABLE_CLUSTERING",
    "METRICS_PORT",
    "NODE_HOSTNAME",
    "NODE_ID",
    "NODE_IP",
    "NODE_PORT",
    "OVNCP_CONFIG",
    "OVNCP_DATA_DIR",
    "OVNCP_ENDPOINTS",
    "OVNCP_LISTEN_ADDRESS",
    "OVNCP_METRICS_PORT",
    "OVNCP_PEERS",
    "OVNCP_PEER_PORT",
    "OVNCP_VOTERS_TARGET",
];

/// A layout and the processes that run it. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) layout: Layout,
    /// More environment for the nodes.
    pub(crate) environment: Vec<(&'static str, String)>,
    children: Vec<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    since: Instant,
}

/// A child that ended, reported once.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) index: usize,
    pub(crate) status: ExitStatus,
    /// How long it ran.
    pub(crate) ran: Duration,
}

impl Cluster {
    pub(crate) fn new(layout: Layout) -> Cluster {
        let children = layout.nodes.iter().map(|_| None).collect();
        Cluster { layout, environment: Vec::new(), children }
    }

    pub(crate) fn start_all(&mut self) -> Result<(), Failure> {
        (0..self.children.len()).try_for_each(|index| self.start(index).map(drop))
    }

    /// Starts a node that does not run, and gives its process id.
    ///
    /// Call it from the main thread only: Linux ends a child when the *thread* that made it ends.
    pub(crate) fn start(&mut self, index: usize) -> Result<u32, Failure> {
        debug_assert!(self.children[index].is_none(), "started twice");
        let child = self.command(index)?.spawn();
        let child = child.map_err(|e| Failure::io("start a node (a child process of this binary)", &e))?;
        let pid = child.id();
        self.children[index] = Some(Running { child, since: Instant::now() });
        Ok(pid)
    }

    fn command(&self, index: usize) -> Result<Command, Failure> {
        let (layout, node) = (&self.layout, &self.layout.nodes[index]);
        let exe = std::env::current_exe().map_err(|e| Failure::io("find this binary", &e))?;
        let log = open_log(&layout.log_file(index))?;
        let err = log.try_clone().map_err(|e| Failure::io("share the log file", &e))?;
        let mut command = Command::new(exe);
        for name in IDENTITY_VARIABLES {
            command.env_remove(name);
        }
        command
            .args(["serve", "--node-id", &node.name, "--dev-parent", &std::process::id().to_string()])
            .args([
                "--listen",
                &Ipv4Addr::LOCALHOST.to_string(),
                "--node-ip",
                &Ipv4Addr::LOCALHOST.to_string(),
            ])
            // Nobody balances load here, and Ctrl-C shall be quick.
            .env("OVNCP_DRAIN_DELAY", std::env::var_os("OVNCP_DRAIN_DELAY").unwrap_or_else(|| "0s".into()))
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .args(["--http-port", &node.http.to_string(), "--metrics-port", &node.metrics.to_string()])
            .args(["--peer-port", &node.peer.to_string(), "--peers", &layout.peers()])
            .arg("--data-dir")
            .arg(layout.data_dir(index))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err)
            // Ctrl-C at the terminal is for the supervisor, which then stops the nodes in its own way.
            .process_group(0);
        Ok(command)
    }

    pub(crate) fn pid(&self, index: usize) -> Option<u32> {
        self.children[index].as_ref().map(|running| running.child.id())
    }

    pub(crate) fn running(&self) -> usize {
        self.children.iter().flatten().count()
    }

    /// Children that ended since the last call.
    pub(crate) fn reap(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (index, slot) in self.children.iter_mut().enumerate() {
            let Some(running) = slot else { continue };
            if let Ok(Some(status)) = running.child.try_wait() {
                ended.push(Ended { index, status, ran: running.since.elapsed() });
                *slot = None;
            }
        }
        ended
    }

    /// Sends a signal to a node that runs. It is only reaped by [`Cluster::reap`], so the id is still its own.
    pub(crate) fn signal(&self, index: usize, signal: Signal) {
        let pid = self.pid(index).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // Fails only when it just ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks all nodes to stop, waits, then kills what is left. `hurry` ends the waiting early. Gives the number
    /// of nodes that had to be killed.
    pub(crate) async fn stop(&mut self, grace: Duration, hurry: impl Future<Output = ()>) -> usize {
        let all = 0..self.children.len();
        all.clone().for_each(|index| self.signal(index, Signal::TERM));
        tokio::select! {
            () = self.all_ended() => return 0,
            () = tokio::time::sleep(grace) => {}
            () = hurry => {}
        }
        let left = self.running();
        all.for_each(|index| self.signal(index, Signal::KILL));
        self.all_ended().await;
        left
    }

    async fn all_ended(&mut self) {
        while self.running() > 0 {
            self.reap();
            tokio::time::sleep(REAP_INTERVAL).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in self.children.iter_mut().flatten() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// `killed by SIGKILL`, `exit code 1`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(9), _) => "killed by SIGKILL".to_owned(),
        (Some(15), _) => "ended by SIGTERM".to_owned(),
        (Some(6), _) => "aborted (SIGABRT)".to_owned(),
        (Some(11), _) => "crashed (SIGSEGV)".to_owned(),
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

/// Whether somebody ended it from outside, so that its log has nothing to say about it.
pub(crate) fn ended_from_outside(status: ExitStatus) -> bool {
    matches!(status.signal(), Some(2 | 9 | 15))
}

fn open_log(path: &Path) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::io(format!("open {}", path.display()), &e);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("old")).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path, lines: usize) -> Vec<String> {
    const TAIL_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<String> = text.lines().map(str::to_owned).collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_gives_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, (0..5_000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2), ["line 4998", "line 4999"]);
        assert_eq!(tail(&dir.path().join("none"), 2), Vec::<String>::new());
    }

    #[test]
    fn ends_are_described_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(9)), "killed by SIGKILL");
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "exit code 1");
        assert!(ended_from_outside(ExitStatus::from_raw(9)));
        assert!(!ended_from_outside(ExitStatus::from_raw(1 << 8)));
    }
}
