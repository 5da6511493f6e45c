//! What would happen to a packet: `ovn-trace`, asked often and answered fast.
//!
//! One `ovn-trace` process reads the whole southbound database before it answers: 2.5 s with 30,000 flows. As a daemon
//! it answers in milliseconds, but it has habits (seen in OVN 23.03, and in the source of today's) that make up this
//! module:
//!
//! - It reads the database **once**, when it starts, and shows that moment for ever. So a [`Tracer`] replaces its
//!   daemon when the caller knows of something newer ([`Freshness`]), and never answers from before the request
//!   when the caller knows nothing.
//! - It takes `--ct` and `--lb-dst` at its start only, and each `--ct` counts for one packet. A request that has them
//!   gets a daemon of its own.
//! - A microflow that names no port of its datapath ends it with a failed assertion, and with it the traces beside.
//!   Each of them is tried again with a daemon of its own, so that the mistake is told to the one who made it.
//! - Users write the microflow. It travels as one JSON string, and nothing that could be an option gets through.
//!
//! `daemon.rs` runs one, `parse.rs` reads what it prints, `request.rs` says what may be asked.

mod daemon;
mod parse;
mod request;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};

pub use parse::{Pipeline, Step, Summary};
pub use request::{CT_STATES_MAX, MICROFLOW_BYTES_MAX, NAME_BYTES_MAX};
pub use request::{CtFlag, Detail, InvalidRequest, LoadBalancerTarget, TraceRequest};

use crate::lab::{Missing, programs};
use crate::unixctl::UnixctlError;
use daemon::{Daemon, StartError};

/// A longer output is refused: floods over many ports repeat the same tables for each.
pub const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// After a start that failed the next one waits, first this long,
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// then twice as long each time, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Where the southbound database is and how much may be asked.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The southbound database as OVN's programs take it: `tcp:`, `ssl:` and `unix:`, separated by commas.
    pub southbound: String,
    /// For `ssl:`.
    pub tls: Option<TraceTls>,
    /// Whether only the leader of a clustered database will do.
    pub leader_only: bool,
    /// For sockets and logs: a folder with a short name that is ours alone.
    pub dir: PathBuf,
    /// The program, if not the one in the path.
    pub program: Option<PathBuf>,
    /// Time for one request, with the start of a daemon if it needs one.
    pub timeout: Duration,
    /// Requests at once; more are refused.
    pub concurrent_max: usize,
    /// Without a request for so long the daemon is ended: it holds a copy of the database.
    pub idle_max: Duration,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct TraceTls {
    /// Our key.
    pub private_key: PathBuf,
    /// Our certificate.
    pub certificate: PathBuf,
    /// Who signs theirs.
    pub ca_certificate: PathBuf,
}

impl TraceSettings {
    /// With the usual limits.
    pub fn new(southbound: impl Into<String>, dir: impl Into<PathBuf>) -> TraceSettings {
        TraceSettings {
            southbound: southbound.into(),
            tls: None,
            leader_only: true,
            dir: dir.into(),
            program: None,
            timeout: Duration::from_secs(60),
            concurrent_max: 16,
            idle_max: Duration::from_secs(5 * 60),
        }
    }
}

/// How new the answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not older than the request.
    Now,
    /// Of this state of the southbound database, or a later one: any word that changes whenever the database does,
    /// such as its last transaction id. It must have been read before the request.
    AsOf(Arc<str>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What ovn-trace printed in the detail that was asked for. Its first line is the packet.
    pub text: String,
    /// The same, read.
    pub summary: Summary,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The request is wrong; the caller can do something about it.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// ovn-trace is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Too many traces at once.
    #[error("{max} traces are under way")]
    Busy {
        /// How many may be.
        max: usize,
    },
    /// The database cannot be read, or ovn-trace does not start or does not stay.
    #[error("ovn-trace is unavailable: {reason}")]
    Unavailable {
        /// In its own words, if it had any.
        reason: String,
    },
    /// It took too long.
    #[error("the trace took longer than {after:?}")]
    TimedOut {
        /// What was allowed.
        after: Duration,
    },
    /// The answer is too long.
    #[error("the trace is longer than {max} bytes: trace a packet to one address, or at one port less")]
    TooLarge {
        /// What is allowed.
        max: usize,
    },
}

/// Answers traces. Cheap to clone; the last one ends the daemon.
#[derive(Clone, Debug)]
pub struct Tracer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: TraceSettings,
    slots: Semaphore,
    shared: Mutex<Shared>,
}

/// The daemon that requests share.
#[derive(Debug, Default)]
struct Shared {
    daemon: Option<Running>,
    /// Since when nobody asked.
    idle_since: Option<Instant>,
    watched: bool,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Running {
    daemon: Arc<Daemon>,
    /// Before it read the database.
    begun: Instant,
    /// What the caller that wanted it knew.
    of: Freshness,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    backoff: Duration,
    retry_at: Instant,
}

impl Tracer {
    /// Nothing is started before the first request.
    pub fn new(settings: TraceSettings) -> Tracer {
        let slots = Semaphore::new(settings.concurrent_max);
        Tracer { inner: Arc::new(Inner { settings, slots, shared: Mutex::new(Shared::default()) }) }
    }

    /// Traces one packet.
    pub async fn trace(&self, request: &TraceRequest, freshness: Freshness) -> Result<Trace, TraceError> {
        let arguments = request.arguments()?;
        let settings = &self.inner.settings;
        let busy = TraceError::Busy { max: settings.concurrent_max };
        let _slot = self.inner.slots.try_acquire().map_err(|_| busy)?;
        let asked = Instant::now();
        let deadline = asked + settings.timeout;
        let late = TraceError::TimedOut { after: settings.timeout };
        let answer = async {
            if !request.needs_own_daemon() {
                let daemon = self.daemon(&freshness, asked, deadline).await?;
                match ask(&daemon, &arguments, deadline).await {
                    // Somebody ended it, or a trace did, ours or one beside ours.
                    Err(AskError::Gone { .. }) => self.discard(&daemon).await,
                    Err(late @ AskError::Late(_)) => {
                        self.discard(&daemon).await;
                        return Err(late.into_trace());
                    }
                    answer => return answer.map_err(AskError::into_trace),
                }
            }
            let daemon = self.inner.start(request.start_options(), deadline).await?;
            ask(&daemon, &arguments, deadline).await.map_err(AskError::into_trace)
        };
        let output = timeout_at(deadline, answer).await.map_err(|_| late)??;
        Ok(parse::read(&output, request.detail)?)
    }

    /// A daemon that is new enough. Those who wait for a start share what comes of it.
    async fn daemon(
        &self,
        freshness: &Freshness,
        asked: Instant,
        deadline: Instant,
    ) -> Result<Arc<Daemon>, TraceError> {
        let mut shared = self.inner.shared.lock().await;
        shared.idle_since = Some(Instant::now());
        if let Some(running) = &shared.daemon {
            let fits = match freshness {
                Freshness::Now => running.begun >= asked,
                known => running.of == *known || running.begun >= asked,
            };
            if fits {
                return Ok(running.daemon.clone());
            }
        }
        let now = Instant::now();
        if let Some(failure) = shared.failure.as_ref().filter(|failure| failure.retry_at > now) {
            return Err(TraceError::Unavailable { reason: failure.reason.clone() });
        }
        shared.daemon = None;
        match self.inner.start(Vec::new(), deadline).await {
            Ok(daemon) => {
                let daemon = Arc::new(daemon);
                shared.failure = None;
                shared.daemon = Some(Running { daemon: daemon.clone(), begun: now, of: freshness.clone() });
                self.watch(&mut shared);
                Ok(daemon)
            }
            Err(error) => {
                let before = shared.failure.take().map(|failure| failure.backoff * 2);
                let backoff = before.unwrap_or(BACKOFF_MIN).min(BACKOFF_MAX);
                let retry_at = Instant::now() + backoff;
                tracing::warn!(%error, ?backoff, "ovn-trace did not start");
                shared.failure = Some(Failure { reason: error.to_string(), backoff, retry_at });
                Err(error)
            }
        }
    }

    /// Lets go of a daemon, unless another took its place.
    async fn discard(&self, daemon: &Arc<Daemon>) {
        let mut shared = self.inner.shared.lock().await;
        if shared.daemon.as_ref().is_some_and(|running| Arc::ptr_eq(&running.daemon, daemon)) {
            shared.daemon = None;
        }
    }

    /// Ends the daemon when nobody asks any more.
    fn watch(&self, shared: &mut Shared) {
        if std::mem::replace(&mut shared.watched, true) {
            return;
        }
        let (inner, idle_max) = (Arc::downgrade(&self.inner), self.inner.settings.idle_max);
        tokio::spawn(async move {
            let mut wake = Instant::now() + idle_max;
            loop {
                tokio::time::sleep_until(wake).await;
                let Some(inner) = inner.upgrade() else { return };
                let mut shared = inner.shared.lock().await;
                wake = shared.idle_since.unwrap_or(wake) + idle_max;
                if wake <= Instant::now() {
                    (shared.daemon, shared.watched) = (None, false);
                    return;
                }
            }
        });
    }

    /// The process id of the daemon, if one runs.
    pub async fn daemon_pid(&self) -> Option<u32> {
        self.inner.shared.lock().await.daemon.as_ref()?.daemon.pid()
    }
}

impl Inner {
    async fn start(&self, options: Vec<String>, deadline: Instant) -> Result<Daemon, TraceError> {
        let program = match &self.settings.program {
            Some(program) => program.clone(),
            None => programs::find("ovn-trace", "ovn-common")?,
        };
        let start = Daemon::start(&self.settings, &program, options);
        let started = timeout_at(deadline, start).await.unwrap_or_else(|_| {
            // Without its database it waits for ever.
            let reason = format!("{} does not give its contents in time", self.settings.southbound);
            Err(StartError::Failed(reason))
        });
        started.map_err(|error| match error {
            StartError::Missing(missing) => missing.into(),
            StartError::Failed(reason) => TraceError::Unavailable { reason },
        })
    }
}

/// What became of a question.
#[derive(Debug)]
enum AskError {
    /// The daemon is gone, perhaps by a failed assertion.
    Gone {
        reason: String,
        assertion: Option<String>,
    },
    Late(Duration),
    TooLarge,
    Strange(String),
}

impl AskError {
    fn into_trace(self) -> TraceError {
        match self {
            AskError::Gone { assertion: Some(assertion), .. } => InvalidRequest::microflow(format!(
                "ovn-trace gives up on it ({assertion}): does it name an inport of this datapath?"
            ))
            .into(),
            AskError::Gone { reason, .. } | AskError::Strange(reason) => TraceError::Unavailable { reason },
            AskError::Late(after) => TraceError::TimedOut { after },
            AskError::TooLarge => TraceError::TooLarge { max: OUTPUT_BYTES_MAX },
        }
    }
}

async fn ask(daemon: &Daemon, arguments: &[&str], deadline: Instant) -> Result<String, AskError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let unixctl = daemon.unixctl().clone().with_limits(left, OUTPUT_BYTES_MAX);
    unixctl.call("trace", arguments).await.map_err(|error| match error {
        UnixctlError::Unreachable { source, .. } => {
            AskError::Gone { reason: source.to_string(), assertion: daemon.assertion() }
        }
        UnixctlError::TimedOut { after, .. } => AskError::Late(after),
        UnixctlError::TooLarge { .. } => AskError::TooLarge,
        error @ (UnixctlError::Refused(_) | UnixctlError::Protocol { .. }) => {
            AskError::Strange(error.to_string())
        }
    })
}
