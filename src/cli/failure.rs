//! How a command fails: an exit code that scripts can tell apart, and a message that names the way out.

use std::fmt;
use std::process::ExitCode;

use ovncp::client::Error;

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

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = error.code().unwrap_or_default().to_owned();
        match error {
            Error::Setup(words) => Failure::new(Exit::Usage, words).help(
                "more than one endpoint: repeat --endpoint, or separate them by commas in OVNCP_ENDPOINTS",
            ),
            Error::Unreachable { endpoints } => unreachable(&endpoints),
            Error::NoLeader(problem) => Failure::new(Exit::NoQuorum, problem.to_string())
                .help("a majority of the voters must run: see `ovncp members`, then start the missing nodes"),
            Error::Unknown { last, .. } => {
                let exit = match code.as_str() {
                    "no_leader" | "outcome_unknown" => Exit::NoQuorum,
                    _ => Exit::Failure,
                };
                Failure::new(exit, format!("the outcome is unknown: no answer from {last}"))
                    .help("it may have happened: read the state before trying again")
            }
            Error::Timeout { last } => Failure::new(Exit::Failure, format!("no answer from {last}")),
            Error::Denied(problem) => Failure::new(Exit::Failure, problem.to_string())
                .help("set OVNCP_ADMIN_TOKEN to the cluster's admin token"),
            Error::Protocol(words) => {
                Failure::new(Exit::Failure, words).help("is this endpoint an ovncp node?")
            }
            other => Failure::new(Exit::Failure, other.to_string()),
        }
    }
}

fn unreachable(endpoints: &[String]) -> Failure {
    let message = match endpoints {
        [one] => format!("cannot reach {one}"),
        many => format!("cannot reach any of {} endpoints:\n  {}", many.len(), many.join("\n  ")),
    };
    Failure::new(Exit::Unreachable, message).help(
        "start three nodes with `ovncp dev`, or name running ones with --endpoint URL (repeatable) \
         or OVNCP_ENDPOINTS=URL,URL",
    )
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
