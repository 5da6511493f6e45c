//! The seam under all I/O of this crate.
//!
//! Everything that must survive a restart goes through [`Disk`] and [`File`], so that a simulation can crash,
//! tear, flip and refuse. The methods are synchronous on purpose: the log writer is one thread (or one task in a
//! simulation), and an asynchronous file API would only hide a thread pool.
//!
//! What an implementation promises, and no more:
//! - written bytes are readable at once, and survive a power loss only after [`File::sync_data`] returned;
//! - a created, renamed or removed name survives only after [`Disk::sync_dir`] of its directory returned;
//! - a sector ([`SECTOR_BYTES`]) holds either its old or its new content after a crash, never a mixture. Writes
//!   of several sectors may reach the disk in any order and in part.

mod aligned;
mod real;
mod sim;

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

pub(crate) use aligned::Aligned;
pub use real::{RealDisk, RealFile, RealLock};
pub use sim::{DiskCounters, Fault, SimDisk, SimFile, SimLock, SimOp};

/// Bytes that a disk writes all or nothing. 512 is the smallest in use; larger sectors are the safe direction.
pub const SECTOR_BYTES: u64 = 512;

/// Block of the file systems in use, and the largest sector of their disks: what is written past the page cache
/// begins and ends at a multiple of it, in the file and in memory.
pub const BLOCK_BYTES: usize = 4_096;

/// A file system, or what a simulation takes for one. Paths are used as they are given.
pub trait Disk: Clone + Send + Sync + fmt::Debug + 'static {
    /// An open file.
    type File: File;
    /// Held while a directory is in use; dropping it gives the directory back.
    type Lock: Send + Sync + fmt::Debug + 'static;

    /// Creates a directory and its parents; an existing one is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, sorted, so that no order of the file system leaks into behaviour.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// The same for a file that is written in whole [`BLOCK_BYTES`] and synced each time: such writes may go past
    /// the page cache, which saves a copy and a scan of dirty pages. Everything else holds as for [`open`].
    ///
    /// [`open`]: Disk::open
    fn open_direct(&self, path: &Path) -> io::Result<Self::File> {
        self.open(path)
    }
    /// Creates an empty file, replacing one of this name. `private` makes it readable by its owner only.
    fn create(&self, path: &Path, private: bool) -> io::Result<Self::File>;
    /// Gives a file another name, replacing one of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock file at `path`, creating it when needed; `None` when somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;
    /// How long a simulated disk takes for a batch of the log. A real one takes its time by itself.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file. Shared by reference: all methods take their position.
pub trait File: Send + Sync + fmt::Debug + 'static {
    /// Writes all of `bytes` at `offset`. After an error any part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads up to `bytes.len()`, fewer only at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes written bytes, and the length needed to read them, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends (by zeroes) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves blocks for the first `len` bytes and extends the file to it, or fails while nothing depends on
    /// the space yet.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly `bytes.len()` bytes.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(bytes, offset)? == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "file is shorter than expected"))
        }
    }
}

/// Reads a whole file.
pub(crate) fn read_all<D: Disk>(disk: &D, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a small file so that after a crash either the old or the new content is there, whole.
pub(crate) fn write_atomically<D: Disk>(
    disk: &D,
    dir: &Path,
    name: &str,
    bytes: &[u8],
    private: bool,
) -> io::Result<()> {
    let beside = dir.join(format!("{name}.tmp"));
    let file = disk.create(&beside, private)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&beside, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// Whether a name exists in a directory. A missing directory has no names.
pub(crate) fn exists<D: Disk>(disk: &D, dir: &Path, name: &str) -> io::Result<bool> {
    match disk.read_dir(dir) {
        Ok(names) => Ok(names.iter().any(|other| other == name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error says that there is no space left (or that a quota is used up).
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
