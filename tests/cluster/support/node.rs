//! One process of the real binary.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const HTTP_PORT: u16 = 8080;
pub(crate) const METRICS_PORT: u16 = 9090;
pub(crate) const PEER_PORT: u16 = 7400;

/// What a node is started with.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) name: String,
    pub(crate) ip: String,
    pub(crate) peers: String,
    pub(crate) data_dir: PathBuf,
    /// More environment, in the guide's names or ours.
    pub(crate) environment: Vec<(String, String)>,
}

impl NodeOptions {
    pub(crate) fn new(name: String, ip: String, peers: String, data_dir: PathBuf) -> Self {
        Self { name, ip, peers, data_dir, environment: Vec::new() }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }
}

/// A node and its process, if it runs.
pub(crate) struct Node {
    pub(crate) options: NodeOptions,
    child: Option<Child>,
    pub(crate) client: reqwest::Client,
}

impl Node {
    pub(crate) fn new(options: NodeOptions) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(std::time::Duration::from_secs(2))
            .timeout(std::time::Duration::from_secs(60))
            .build()
            .expect("HTTP client");
        Self { options, child: None, client }
    }

    pub(crate) fn name(&self) -> &str {
        &self.options.name
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{HTTP_PORT}{path}", self.options.ip)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the process; does not wait.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name());
        std::fs::create_dir_all(&self.options.data_dir).expect("data directory");
        let log = self.open_log();
        let options = &self.options;
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovncp"));
        command
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NODE_ID", &options.name)
            .env("NODE_IP", &options.ip)
            .env("NODE_PORT", HTTP_PORT.to_string())
            .env("OVNCP_METRICS_PORT", METRICS_PORT.to_string())
            .env("OVNCP_PEER_PORT", PEER_PORT.to_string())
            .env("OVNCP_LISTEN_ADDRESS", &options.ip)
            .env("ENABLE_CLUSTERING", "true")
            .env("OVNCP_PEERS", &options.peers)
            .env("OVNCP_DATA_DIR", &options.data_dir)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log handle"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the binary starts"));
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running node");
        child.kill().expect("kill -9");
        child.wait().expect("wait for the killed process");
    }

    /// SIGTERM, and waits for the exit.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.take().expect("a running node").wait().expect("wait for the terminated process")
    }

    /// SIGTERM; does not wait.
    pub(crate) fn begin_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: the process exists, its sockets accept, nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The exit status, when the process ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("look at the process")?;
        self.child = None;
        Some(status)
    }

    /// Everything the process printed, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Forgets what was printed so far.
    pub(crate) fn clear_log(&self) {
        File::create(self.log_path()).expect("empty log");
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running node");
        kill_process(Pid::from_child(child), signal).expect("signal");
    }

    fn log_path(&self) -> PathBuf {
        self.options.data_dir.with_extension("log")
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_path()).expect("log file")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A paused process takes SIGKILL all the same.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
