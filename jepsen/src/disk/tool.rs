//! Programs of the machine.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

use super::DiskError;

/// Runs a program to its end and returns what it wrote.
pub(super) fn run<A: AsRef<OsStr>>(
    program: &str,
    package: &'static str,
    arguments: &[A],
) -> Result<String, DiskError> {
    let mut command = Command::new(program);
    // System programs live in folders that a user's PATH may leave out.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    let output =
        command.args(arguments).stdin(Stdio::null()).output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DiskError::Missing { program: program.to_owned(), package },
            _ => failed(&command, error.to_string()),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(&command, if said.is_empty() { output.status.to_string() } else { said }))
}

fn failed(command: &Command, problem: String) -> DiskError {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    DiskError::Failed { command: words.join(" "), problem }
}

/// Whether a program can be found, without running it.
pub(super) fn needs(program: &str, package: &'static str) -> Result<(), DiskError> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    match folders.any(|folder| std::path::Path::new(folder).join(program).is_file()) {
        true => Ok(()),
        false => Err(DiskError::Missing { program: program.to_owned(), package }),
    }
}
