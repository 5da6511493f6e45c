//! The sources of a configuration, in order, and where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::value::Setting;

/// Where to look. Later wins: defaults, file, environment, flags.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file of `--config`. Without it the variable `OVNCP_CONFIG` names one.
    pub file: Option<PathBuf>,
    /// The environment, taken as a value so that tests need not change that of the process.
    pub environment: BTreeMap<String, String>,
    /// Flags of the command line.
    pub overrides: Vec<Override>,
}

impl Sources {
    /// The environment of this process, and `--config`.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        // Names and values that are not UTF-8 cannot be settings.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, overrides: Vec::new() }
    }

    /// Adds a flag: `path` is the key of the setting, such as `server.port`.
    #[must_use]
    pub fn with_override(mut self, path: &str, flag: &str, value: impl Into<String>) -> Self {
        self.overrides.push(Override { path: path.to_owned(), flag: flag.to_owned(), value: value.into() });
        self
    }
}

/// One flag of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Key of the setting.
    pub path: String,
    /// How the user wrote it, such as `--http-port`.
    pub flag: String,
    /// Its text.
    pub value: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A place in the file.
    File {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
    },
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Something wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// Which setting, when it is one.
    pub path: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.path.as_str()) {
            (Origin::Default, "") => f.write_str(&self.message),
            (Origin::Default, path) => write!(f, "{path}: {}", self.message),
            (origin, "") => write!(f, "{origin}: {}", self.message),
            (origin, path) => write!(f, "{origin}: {path}: {}", self.message),
        }
    }
}

/// Lays the sources over the defaults, collects what is wrong and remembers where values came from.
pub(crate) struct Layers<'a> {
    file: Option<&'a Path>,
    environment: &'a BTreeMap<String, String>,
    overrides: &'a [Override],
    pub(crate) origins: BTreeMap<String, Origin>,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(sources: &'a Sources, file: Option<&'a Path>) -> Self {
        Self {
            file,
            environment: &sources.environment,
            overrides: &sources.overrides,
            origins: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// One setting: the last source that has it wins; a wrong value in an earlier one is an error all the
    /// same, since it would come into force when the later one goes.
    pub(crate) fn apply<T: Setting>(
        &mut self,
        path: &str,
        variables: &[&str],
        file: Option<Spanned<T::File>>,
        value: &mut T,
    ) {
        if let Some(spanned) = file {
            let origin = Origin::File {
                path: self.file.unwrap_or(Path::new("")).to_owned(),
                line: spanned.referenced.line(),
                column: spanned.referenced.column(),
            };
            self.set(path, origin, T::from_file(spanned.value), value);
        }
        // An empty variable counts as not set, as compose files write it.
        let variable = variables.iter().find_map(|name| {
            let text = self.environment.get(*name).filter(|text| !text.is_empty())?;
            Some((*name, text))
        });
        if let Some((name, text)) = variable {
            self.set(path, Origin::Environment(name.to_owned()), T::from_text(text), value);
        }
        let overrides = self.overrides;
        if let Some(flag) = overrides.iter().rev().find(|flag| flag.path == path) {
            self.set(path, Origin::Flag(flag.flag.clone()), T::from_text(&flag.value), value);
        }
    }

    fn set<T>(&mut self, path: &str, origin: Origin, parsed: Result<T, String>, value: &mut T) {
        match parsed {
            Ok(parsed) => {
                *value = parsed;
                self.origins.insert(path.to_owned(), origin);
            }
            Err(message) => self.problems.push(Problem { origin, path: path.to_owned(), message }),
        }
    }
}
