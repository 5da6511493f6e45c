//! Log output to standard error, as text or JSON, and what is logged: changeable while the process runs.
//!
//! The log belongs to the process: whoever runs several nodes in one changes it for all of them.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use super::config::{LogConfig, LogFormat};

/// Longest filter that is taken.
pub const FILTER_BYTES_MAX: usize = 1_024;
/// Longest time after which a change reverts by itself.
pub const REVERT_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the log could not be set up or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The filter is no filter.
    #[error("`{directive}` is not understood ({reason}): write info, debug or ovncp=debug")]
    Filter {
        /// The part that is wrong.
        directive: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something set up a log already.
    #[error("the log is set up already")]
    Twice,
    /// The log went away.
    #[error("the log takes no change: {0}")]
    Gone(String),
}

/// The log of this process, once [`init`] set it up.
static CONTROL: OnceLock<Arc<LogControl>> = OnceLock::new();

/// Sets up the log of this process.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = parse(&config.level)?;
    let plain = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let (reload, set): (Reload, _) = match config.format {
        LogFormat::Json => {
            let json = plain.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = json.reload_handle();
            (Box::new(move |filter| handle.reload(filter).map_err(gone)), json.try_init())
        }
        LogFormat::Text => {
            let is_terminal = std::io::stderr().is_terminal();
            let text = plain.with_ansi(is_terminal).with_env_filter(filter).with_filter_reloading();
            let handle = text.reload_handle();
            (Box::new(move |filter| handle.reload(filter).map_err(gone)), text.try_init())
        }
    };
    set.map_err(|_| LogError::Twice)?;
    CONTROL.set(Arc::new(LogControl::new(config.level.clone(), reload))).map_err(|_| LogError::Twice)
}

fn gone(error: tracing_subscriber::reload::Error) -> LogError {
    LogError::Gone(error.to_string())
}

/// The log of this process; absent when somebody else set it up, as a program does that has nodes in it.
#[must_use]
pub fn control() -> Option<&'static Arc<LogControl>> {
    CONTROL.get()
}

/// A filter, or the first part of it that is wrong.
pub fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let refuse = |directive: &str, reason: &str| {
        let directive = directive.chars().take(80).collect();
        Err(LogError::Filter { directive, reason: reason.to_owned() })
    };
    if filter.len() > FILTER_BYTES_MAX {
        return refuse(filter, &format!("{} bytes, at most {FILTER_BYTES_MAX}", filter.len()));
    }
    let mut parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    if parts.peek().is_none() {
        return refuse(filter, "it is empty; `off` silences the log");
    }
    for part in parts {
        if let Err(error) = Directive::from_str(part) {
            return refuse(part, &error.to_string());
        }
        // A lone word that is no level would be taken for the name of a module: a slip, and then silence.
        if !part.contains(['=', '[', ':']) && LevelFilter::from_str(part).is_err() {
            return refuse(part, "neither a level (off, error, warn, info, debug, trace) nor target=level");
        }
    }
    // Values in filters are compared as text: no pattern of a caller is ever run.
    let built = EnvFilter::builder().with_regex(false).parse(filter);
    built.map_err(|error| LogError::Filter { directive: filter.to_owned(), reason: error.to_string() })
}

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), LogError> + Send + Sync>;

/// What is logged, and how to change it.
pub struct LogControl {
    configured: String,
    reload: Reload,
    current: Mutex<Current>,
}

struct Current {
    filter: String,
    /// Counts changes, so that an old one does not revert a newer one.
    change: u64,
    reverts_at: Option<Instant>,
}

/// What is logged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel {
    /// The filter in force.
    pub filter: String,
    /// The filter of the configuration, to which a temporary change reverts.
    pub configured: String,
    /// Time until it reverts by itself.
    pub reverts_in: Option<Duration>,
}

impl LogControl {
    fn new(configured: String, reload: Reload) -> Self {
        let current = Current { filter: configured.clone(), change: 0, reverts_at: None };
        Self { configured, reload, current: Mutex::new(current) }
    }

    /// What is logged now.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        let current = self.lock();
        LogLevel {
            filter: current.filter.clone(),
            configured: self.configured.clone(),
            reverts_in: current.reverts_at.map(|at| at.saturating_duration_since(Instant::now())),
        }
    }

    /// Logs by another filter, or by the configured one when none is given; for a while, when a time is given.
    /// A wrong filter changes nothing.
    pub fn change(
        self: &Arc<Self>,
        filter: Option<&str>,
        revert_after: Option<Duration>,
    ) -> Result<LogLevel, LogError> {
        let filter = filter.unwrap_or(&self.configured);
        let parsed = parse(filter)?;
        let mut current = self.lock();
        (self.reload)(parsed)?;
        current.change += 1;
        filter.clone_into(&mut current.filter);
        current.reverts_at = revert_after.map(|time| Instant::now() + time);
        if let Some(at) = current.reverts_at {
            let (control, change) = (Arc::clone(self), current.change);
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                control.revert(change);
            });
        }
        drop(current);
        tracing::warn!(filter, ?revert_after, "what is logged was changed");
        Ok(self.level())
    }

    /// Ends a temporary change, unless another one came meanwhile.
    fn revert(self: &Arc<Self>, change: u64) {
        if self.lock().change == change
            && let Err(error) = self.change(None, None)
        {
            tracing::error!(%error, "the log stays as it was changed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Arc<Mutex<Vec<String>>>;

    fn control() -> (Arc<LogControl>, Seen) {
        let seen = Seen::default();
        let sink = Arc::clone(&seen);
        let reload = move |filter: EnvFilter| {
            sink.lock().unwrap().push(filter.to_string());
            Ok(())
        };
        (Arc::new(LogControl::new("info".to_owned(), Box::new(reload))), seen)
    }

    fn wrong(filter: &str) -> (String, String) {
        match parse(filter) {
            Err(LogError::Filter { directive, reason }) => (directive, reason),
            other => panic!("{filter:?}: {other:?}"),
        }
    }

    #[test]
    fn the_part_that_is_wrong_is_named() {
        for right in
            ["info", "off", "info,ovncp_raft=debug", "ovncp::api=trace, warn", "ovncp[request]=debug"]
        {
            assert!(parse(right).is_ok(), "{right}");
        }
        assert_eq!(wrong("info,ovncp=loud").0, "ovncp=loud");
        assert_eq!(wrong("inof").0, "inof");
        assert_eq!(wrong("info,,=,debug").0, "=");
        assert!(wrong(" , ").1.contains("empty"));
        let (directive, reason) = wrong(&"a=info,".repeat(200));
        assert!(directive.len() <= 80 && reason.contains("1400 bytes"), "{directive} {reason}");
    }

    #[tokio::test]
    async fn a_temporary_change_reverts_unless_another_one_came() {
        let (control, seen) = control();
        control.change(Some("debug"), Some(Duration::from_secs(3_600))).unwrap();
        assert!(control.level().reverts_in.is_some_and(|left| left > Duration::from_secs(3_000)));
        let level = control.change(Some("trace"), None).unwrap();
        assert_eq!((level.filter.as_str(), level.configured.as_str()), ("trace", "info"));
        control.revert(1);
        assert_eq!(control.level().filter, "trace", "the time of the first change is not its own");
        assert!(control.change(Some("ovncp=loud"), None).is_err());
        control.change(Some("warn"), Some(Duration::from_millis(1))).unwrap();
        while control.level().filter != "info" {
            tokio::task::yield_now().await;
        }
        assert_eq!(control.level().reverts_in, None);
        assert_eq!(*seen.lock().unwrap(), ["debug", "trace", "warn", "info"]);
    }
}
