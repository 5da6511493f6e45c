//! Settings of the log output.

use crate::config::section::section;
use crate::config::value::Setting;

section! {
    /// Log output.
    pub struct LogConfig, file LogFile {
        /// Form of the log lines: `text` or `json`.
        format: LogFormat = LogFormat::Text, env "OVNCP_LOG_FORMAT" , env "LOG_FORMAT";
        /// What is logged, as `tracing` filters: `info`, `debug`, `ovncp=debug,ovncp_raft=trace`.
        level: String = "info,openraft=error".to_owned(), env "OVNCP_LOG" , env "LOG_LEVEL";
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Setting for LogFormat {
    type File = String;
    const KIND: &'static str = "`text` or `json`";

    fn from_file(file: String) -> Result<Self, String> {
        Self::from_text(&file)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no log format: write text or json")),
        }
    }
    fn shown(&self) -> crate::config::value::Shown {
        crate::config::value::Shown::Scalar(match self {
            Self::Text => "text".to_owned(),
            Self::Json => "json".to_owned(),
        })
    }
}
