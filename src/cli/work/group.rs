//! The command and everything it starts: one process group, ended as a whole.

use std::io::IsTerminal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::serve::end_with_parent;

/// What shells answer when there is no such command, or it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// (internal) Runs a command that ends when its parent does.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecUnderArgs {
    /// The process that must live
    #[arg(long)]
    parent: u32,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Becomes the command. Between fork and exec only unsafe code could ask for the signal at the parent's death;
/// in a process of its own it is a plain call, and exec keeps it.
pub(crate) fn exec_under(args: &ExecUnderArgs) -> Outcome {
    end_with_parent(args.parent)?;
    let error = std::process::Command::new(&args.command[0]).args(&args.command[1..]).exec();
    eprintln!("error: cannot run `{}`: {error}", args.command[0]);
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    Ok(if missing { NOT_FOUND } else { NOT_EXECUTABLE }.into())
}

#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    pub(super) fn spawn(command: &[String], variables: &[(&str, &str)]) -> Result<Group, Failure> {
        let failed = |e: std::io::Error| Failure::io(format!("run `{}`", command[0]), &e);
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["exec-under", "--parent", &std::process::id().to_string(), "--"])
            .args(command)
            .envs(variables.iter().copied())
            // In a group of its own it would be stopped by its first read from the terminal, what it works under in hand.
            .stdin(if std::io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() })
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.ok_or_else(|| Failure::new(Exit::Failure, "the command has no process id"))?;
        Ok(Group { child, id })
    }

    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Passes a signal on to all of it.
    pub(super) fn signal(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            // Fails only when all of it ended already.
            let _ = kill_process_group(self.id, signal);
        }
    }

    /// SIGTERM now, SIGKILL to what is left when the command has ended or at `kill_at`.
    pub(super) async fn end(&mut self, kill_at: Instant) {
        let _ = kill_process_group(self.id, Signal::TERM);
        let _ = tokio::time::timeout_at(kill_at.into(), self.child.wait()).await;
        let _ = kill_process_group(self.id, Signal::KILL);
        let _ = self.child.wait().await;
    }
}

/// The exit code as a shell would give it.
pub(super) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
