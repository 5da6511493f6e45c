//! Other clients of OVN, as their users run them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use super::creates::Sample;

/// For how long OVN's tools may wait for a server, in seconds.
const TOOL_TIMEOUT: &str = "--timeout=60";

async fn finish(mut command: Command) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(errors.lines().last().unwrap_or("it failed without a word").to_owned())
}

/// ovn-nbctl, a process for each command.
pub(super) struct Nbctl {
    database: String,
}

impl Nbctl {
    pub(super) fn new(addresses: &str) -> Nbctl {
        Nbctl { database: format!("--db={addresses}") }
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new("ovn-nbctl");
        command.args([&self.database, TOOL_TIMEOUT]).args(arguments);
        finish(command).await.map(drop)
    }
}

/// ovn-nbctl with a daemon that keeps the database; each command is still a process.
pub(super) struct Daemon {
    socket: PathBuf,
    pid_file: PathBuf,
}

impl Daemon {
    pub(super) async fn start(addresses: &str, dir: &Path) -> Result<Daemon, String> {
        let (socket, pid_file) = (dir.join("nbctl.ctl"), dir.join("nbctl.pid"));
        let mut command = Command::new("ovn-nbctl");
        command.arg("--detach").arg("--no-chdir").arg(format!("--db={addresses}"));
        command
            .arg(format!("--unixctl={}", socket.display()))
            .arg(format!("--pidfile={}", pid_file.display()));
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        let status = command.status().await.map_err(|e| e.to_string())?;
        if status.success() {
            Ok(Daemon { socket, pid_file })
        } else {
            Err(format!("it ended with {status}"))
        }
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new("ovn-nbctl");
        command.env("OVN_NB_DAEMON", &self.socket).arg(TOOL_TIMEOUT).args(arguments);
        finish(command).await.map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid =
            std::fs::read_to_string(&self.pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// Python's ovsdbapp: one process, a thread for each client.
pub(super) struct Python {
    addresses: String,
}

/// Creates ports and prints what came of it.
const SCRIPT: &str = r#"
import json, sys, threading, time, uuid
from ovsdbapp.backend.ovs_idl import connection
from ovsdbapp.schema.ovn_northbound import impl_idl
addresses, clients, seconds, switches = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
idl = connection.OvsdbIdl.from_server(addresses, "OVN_Northbound")
api = impl_idl.OvnNbApiIdlImpl(connection.Connection(idl, 60))
times, errors, lock = [], [], threading.Lock()
warm = time.monotonic() + 0.5
end = warm + seconds
def client(number):
    switch, own = switches[number % len(switches)], []
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            api.lsp_add(switch, str(uuid.uuid4())).execute(check_error=True)
            if warm <= begun and time.monotonic() <= end:
                own.append((time.monotonic() - begun) * 1000)
        except Exception as error:
            with lock:
                errors.append(repr(error))
    with lock:
        times.extend(own)
threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
times.sort()
at = lambda share: times[int(len(times) * share)] if times else 0
print(json.dumps({"per_second": len(times) / seconds, "p50_ms": at(0.5), "p99_ms": at(0.99),
    "errors": len(errors), "first_error": errors[0] if errors else None}))
"#;

#[derive(Deserialize)]
struct Printed {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    errors: u64,
    first_error: Option<String>,
}

impl Python {
    /// If it can be imported.
    pub(super) async fn find(addresses: &str) -> Result<Python, String> {
        let mut command = Command::new("python3");
        command.args(["-c", "import ovsdbapp"]);
        let found = finish(command).await;
        found
            .map(|_| Python { addresses: addresses.to_owned() })
            .map_err(|why| format!("Python ovsdbapp: {why}"))
    }

    pub(super) async fn create(
        &self,
        switches: &[&str],
        clients: u16,
        seconds: u64,
    ) -> Result<Sample, String> {
        let mut command = Command::new("python3");
        command
            .args(["-c", SCRIPT, &self.addresses, &clients.to_string(), &seconds.to_string()])
            .args(switches);
        let printed = finish(command).await?;
        let printed: Printed = serde_json::from_str(&printed).map_err(|e| e.to_string())?;
        let Printed { per_second, p50_ms, p99_ms, errors, first_error } = printed;
        Ok(Sample { per_second, p50_ms, p99_ms, errors, first_error })
    }
}
