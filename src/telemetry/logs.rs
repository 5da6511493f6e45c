//! Log output to standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::config::{LogConfig, LogFormat};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no filter.
    #[error("log.level: `{level}` is not understood ({reason}): write info, debug or ovncp=debug")]
    Level {
        /// What was asked.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something set up a log already.
    #[error("the log is set up already")]
    Twice,
}

/// Sets up the log of this process.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(&config.level)
        .map_err(|error| LogError::Level { level: config.level.clone(), reason: error.to_string() })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match config.format {
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    set.map_err(|_| LogError::Twice)
}
