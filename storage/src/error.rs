//! What can go wrong on this node's disk. Nobody recovers from these by going on: the node stops rather than
//! diverge, and says which file it was.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::codec::CodecError;
use crate::disk::is_disk_full;

/// Disk or decoding failed on this node.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Bytes that were durable once are damaged or missing. Never repaired by cutting them off.
    #[error("{file} is damaged at offset {offset}: {what}", file = file.display())]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Another process uses the directory.
    #[error("data directory {path} is in use by another process", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was written by a newer version.
    #[error("data directory {path} has format {found}, this version reads up to {supported}", path = path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What this version knows.
        supported: u32,
    },
    /// Bytes that are whole, since their checksum matches, and that this version does not understand.
    #[error(
        "{file} was written by a newer version of ovncp than this one: start this node with the version that the \
         other nodes run ({source})",
        file = file.display()
    )]
    Codec {
        /// Which file.
        file: PathBuf,
        /// What is not understood.
        source: CodecError,
    },
    /// The storage failed earlier and accepts nothing until the node is started again.
    #[error("{0}")]
    Failed(StorageFailure),
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_path_buf(), offset, what: what.into() }
    }

    /// As `Replica::health` reports it.
    pub fn failure(&self) -> StorageFailure {
        if let Self::Failed(failure) = self {
            return failure.clone();
        }
        let (kind, file) = match self {
            Self::Io { path, source, .. } if is_disk_full(source) => (FailureKind::DiskFull, path.clone()),
            Self::Io { path, .. } | Self::Locked { path } | Self::NewerFormat { path, .. } => {
                (FailureKind::Io, path.clone())
            }
            Self::Corrupt { file, .. } => (FailureKind::Damaged, file.clone()),
            Self::Codec { file, .. } => (FailureKind::Newer, file.clone()),
            Self::Failed(_) => (FailureKind::Io, PathBuf::new()),
        };
        StorageFailure { kind, file, message: self.to_string() }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Io { source, .. } => source.kind(),
            StorageError::Corrupt { .. } | StorageError::Codec { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Kind of a [`StorageFailure`], for operators and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No space left; start again once there is.
    DiskFull,
    /// The device or file system failed.
    Io,
    /// Bytes are damaged or missing.
    Damaged,
    /// Bytes are whole and not understood: a newer version wrote them.
    Newer,
}

/// Why the storage of this node accepts nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFailure {
    /// What kind.
    pub kind: FailureKind,
    /// Which file.
    pub file: PathBuf,
    /// The error in words, naming the file.
    pub message: String,
}

impl fmt::Display for StorageFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FailureKind::DiskFull => "disk full",
            FailureKind::Io => "i/o error",
            FailureKind::Damaged => "damaged data",
            FailureKind::Newer => "newer version",
        };
        write!(f, "storage stopped ({kind}): {}", self.message)
    }
}
