//! Programs that do one thing and end: ovsdb-tool, ovn-nbctl, openssl.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::LabError;

/// Runs a program to its end and gives what it printed. It has a thread of its own until then: servers that it talks
/// to may be tasks of this runtime. The programs have time-outs of their own where they talk to servers.
pub(super) async fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> Result<String, LabError> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let line = arguments
        .iter()
        .fold(name, |line, argument| format!("{line} {}", argument.as_ref().to_string_lossy()));
    let (answer, output) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("ovn-lab-tool".to_owned())
        .spawn(move || answer.send(command.output()))
        .map_err(|e| LabError::io("start a thread", e))?;
    let lost = |_| std::io::Error::other("its thread is gone");
    let output = output.await.map_err(lost).flatten().map_err(|e| LabError::io(format!("run {line}"), e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(LabError::Tool { command: line, status: output.status.to_string(), output: text });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
