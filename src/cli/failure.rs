//! How a command fails: an exit code that scripts can tell apart, and a message that names the way out.

use std::fmt;
use std::process::ExitCode;

/// Exit codes. They are part of the contract: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything that has no code of its own.
    Failure = 1,
    /// The command line or the configuration is wrong. clap ends with the same code.
    Usage = 2,
    /// No endpoint could be connected to.
    Unreachable = 3,
    /// Nodes answer, but fewer than a majority of the voters are there.
    NoQuorum = 4,
    /// The lock was not acquired in time.
    NotAcquired = 5,
    /// The lock was held and then lost.
    LockLost = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ends without success.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    help: Option<String>,
}

/// What every command returns: the exit code that it chose itself, or a failure to report.
pub(crate) type Outcome = Result<ExitCode, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), help: None }
    }

    /// An I/O error with what was being done.
    pub(crate) fn io(doing: impl fmt::Display, error: &std::io::Error) -> Failure {
        Failure::new(Exit::Failure, format!("{doing}: {error}"))
    }

    /// What the user can do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }

    /// Reports on stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("error: {self}");
        self.exit.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n help: {}", help.replace('\n', "\n       ")),
            None => Ok(()),
        }
    }
}
