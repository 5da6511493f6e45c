//! The disks a simulated machine can have: the honest one, and a mutant that lies about its syncs.

use std::io;
use std::path::Path;
use std::time::Duration;

use ovncp_storage::disk::{Disk, File, SimDisk, SimFile, SimLock};

/// A disk that can crash.
pub trait Machine: Disk {
    /// Whose disk it is underneath, for faults.
    fn sim(&self) -> &SimDisk;
    /// An empty disk.
    fn new() -> Self;
    /// See [`SimDisk::crash`].
    fn crash(&self, seed: u64) -> Self;
    /// See [`SimDisk::kill`].
    fn kill(&self) -> Self;
}

impl Machine for SimDisk {
    fn sim(&self) -> &SimDisk {
        self
    }

    fn new() -> Self {
        Self::new()
    }

    fn crash(&self, seed: u64) -> Self {
        self.crash(seed)
    }

    fn kill(&self) -> Self {
        self.kill()
    }
}

/// A mutant: says that data is durable and does nothing.
#[derive(Clone, Debug)]
pub struct LyingDisk(SimDisk);

/// A file of a [`LyingDisk`].
#[derive(Debug)]
pub struct LyingFile {
    file: SimFile,
    /// Files of the log lie; the rest of the data directory is honest, so that nodes start at all.
    lies: bool,
}

impl LyingDisk {
    fn file(file: SimFile, path: &Path) -> LyingFile {
        LyingFile { file, lies: path.to_string_lossy().contains("log") }
    }
}

impl Machine for LyingDisk {
    fn sim(&self) -> &SimDisk {
        &self.0
    }

    fn new() -> Self {
        Self(SimDisk::new())
    }

    fn crash(&self, seed: u64) -> Self {
        Self(self.0.crash(seed))
    }

    fn kill(&self) -> Self {
        Self(self.0.kill())
    }
}

impl Disk for LyingDisk {
    type File = LyingFile;
    type Lock = SimLock;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.read_dir(path)
    }

    fn open(&self, path: &Path) -> io::Result<LyingFile> {
        Ok(Self::file(self.0.open(path)?, path))
    }

    fn create(&self, path: &Path, private: bool) -> io::Result<LyingFile> {
        Ok(Self::file(self.0.create(path, private)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        self.0.lock(path)
    }

    fn latency(&self) -> Duration {
        self.0.latency()
    }
}

impl File for LyingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.lies { Ok(()) } else { self.file.sync_data() }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
