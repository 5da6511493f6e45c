//! Disks of nodes that can be harmed: losing power, filling up, failing, lying.
//!
//! Each node gets a folder. With [`DiskKind::Dir`] it is a plain one. With [`DiskKind::Loop`] an ext4 image of its
//! own is mounted there ([`image`]), which makes two more faults real: a power loss that takes away exactly what
//! was not synced, and a file system without a free block. Everything else works on both: system calls that fail
//! or take long ([`injection`]) and damaged files of a stopped node ([`damage`]).
//!
//! What is mounted is unmounted by [`Disks::release`] and at the latest on drop. After a harness that was killed,
//! [`clean`] does it.

pub mod canary;
pub mod damage;
pub mod filler;
pub mod image;
pub mod injection;
mod tool;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use image::{Image, PowerLoss, clean};

/// What the nodes' folders are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskKind {
    /// Plain folders. Needs nothing; power cannot be lost.
    Dir,
    /// One ext4 image per node on a loop device. Needs root.
    Loop,
}

/// Why something on a disk could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("{program} is not installed (Debian package {package})")]
    Missing {
        /// Its name.
        program: String,
        /// Where it comes from.
        package: &'static str,
    },
    /// A program ended with an error.
    #[error("{command}: {problem}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// What it wrote, or how it ended.
        problem: String,
    },
    /// Something did not come about in time.
    #[error("not within {limit:?}: {what}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: std::time::Duration,
    },
    /// Not on this machine, this kind of disk, or these files.
    #[error("{0}")]
    NotPossible(String),
}

impl DiskError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// The disk of one node.
#[derive(Clone, Debug)]
pub enum NodeDisk {
    /// A plain folder.
    Dir(PathBuf),
    /// A mounted image.
    Loop(Image),
}

impl NodeDisk {
    fn prepare(kind: DiskKind, folder: &Path, name: &str) -> Result<Self, DiskError> {
        let own = folder.join(name);
        let disk = match kind {
            DiskKind::Dir => Self::Dir(own),
            DiskKind::Loop => Self::Loop(Image::make(own)?),
        };
        let data = disk.data_dir();
        fs::create_dir_all(&data).map_err(DiskError::io("create", &data))?;
        Ok(disk)
    }

    /// Data directory of the node. Not the root of the file system, where ext4 keeps `lost+found`.
    pub fn data_dir(&self) -> PathBuf {
        match self {
            Self::Dir(folder) => folder.join("data"),
            Self::Loop(image) => image.mount_point().join("data"),
        }
    }

    /// The image, where there is one.
    pub fn image(&self) -> Result<&Image, DiskError> {
        match self {
            Self::Loop(image) => Ok(image),
            Self::Dir(_) => Err(DiskError::NotPossible(
                "needs a disk of its own per node: --disk loop, as root".to_owned(),
            )),
        }
    }

    /// An empty disk in place of the old one, as after an exchange. The node must be stopped.
    pub fn replace(&self) -> Result<(), DiskError> {
        let data = self.data_dir();
        fs::remove_dir_all(&data).map_err(DiskError::io("remove", &data))?;
        fs::create_dir_all(&data).map_err(DiskError::io("create", &data))
    }
}

/// The disks of a run.
#[derive(Debug)]
pub struct Disks {
    kind: DiskKind,
    notice: Option<String>,
    folder: PathBuf,
    disks: BTreeMap<String, NodeDisk>,
}

impl Disks {
    /// Makes a disk for each node below `folder`. Where images cannot be mounted, folders take their place and
    /// [`Disks::notice`] says why.
    pub fn prepare(wanted: DiskKind, folder: &Path, names: &[String]) -> Result<Self, DiskError> {
        fs::create_dir_all(folder).map_err(DiskError::io("create", folder))?;
        // Mounts are listed by their real path.
        let folder = folder.canonicalize().map_err(DiskError::io("resolve", folder))?;
        let (kind, notice) = match (wanted, image::possible(&folder)) {
            (DiskKind::Loop, Err(why)) => {
                (DiskKind::Dir, Some(format!("no loop disks, plain folders instead: {why}")))
            }
            (wanted, _) => (wanted, None),
        };
        let mut disks = Self { kind, notice, folder, disks: BTreeMap::new() };
        for name in names {
            disks.add(name)?;
        }
        Ok(disks)
    }

    /// What the disks are, which need not be what was asked for.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Why they are not what was asked for.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Makes the disk of a further node.
    pub fn add(&mut self, name: &str) -> Result<&NodeDisk, DiskError> {
        let disk = NodeDisk::prepare(self.kind, &self.folder, name)?;
        self.disks.insert(name.to_owned(), disk);
        self.get(name)
    }

    /// The disk of a node.
    pub fn get(&self, name: &str) -> Result<&NodeDisk, DiskError> {
        self.disks.get(name).ok_or_else(|| DiskError::NotPossible(format!("{name} has no disk")))
    }

    /// Data directory of a node.
    pub fn data_dir(&self, name: &str) -> Result<PathBuf, DiskError> {
        Ok(self.get(name)?.data_dir())
    }

    /// Unmounts and deletes the disk of a node that left for good.
    pub fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        match self.disks.remove(name) {
            Some(NodeDisk::Loop(image)) => image.delete(),
            Some(NodeDisk::Dir(folder)) => {
                fs::remove_dir_all(&folder).map_err(DiskError::io("remove", &folder))
            }
            None => Ok(()),
        }
    }

    /// Unmounts everything; the images and folders stay as evidence. The nodes must be stopped. Does nothing the
    /// second time. The first trouble is returned after all were tried.
    pub fn release(&mut self) -> Result<(), DiskError> {
        let mut outcome = Ok(());
        for disk in self.disks.values() {
            if let NodeDisk::Loop(image) = disk {
                outcome = outcome.and(image.unmount());
            }
        }
        outcome
    }

    /// Unmounts and deletes everything.
    pub fn delete(mut self) -> Result<(), DiskError> {
        self.release()?;
        let names: Vec<String> = self.disks.keys().cloned().collect();
        names.iter().try_for_each(|name| self.remove(name))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        if self.release().is_err() {
            // A process still has files open: at least nobody finds the mounts any more.
            for line in clean(&self.folder) {
                tracing::warn!("{line}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
