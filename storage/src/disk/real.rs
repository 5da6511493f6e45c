//! The file system of the machine.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ovncp_state::mutants::{self, Mutant};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::aligned::is_aligned;
use super::{Disk, File, is_disk_full};

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A file of the machine.
#[derive(Debug)]
pub struct RealFile {
    file: fs::File,
    /// The same file past the page cache, where the file system can do that.
    direct: Option<Direct>,
}

#[derive(Debug)]
struct Direct {
    file: fs::File,
    /// The file system opened it and then refused a write: its blocks are larger than ours.
    refused: AtomicBool,
}

impl From<fs::File> for RealFile {
    fn from(file: fs::File) -> Self {
        Self { file, direct: None }
    }
}

/// An advisory lock (`flock`); the kernel drops it with the process, however that ends.
#[derive(Debug)]
pub struct RealLock {
    _file: fs::File,
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<RealFile> {
        fs::OpenOptions::new().read(true).write(true).open(path).map(RealFile::from)
    }

    fn open_direct(&self, path: &Path) -> io::Result<RealFile> {
        if mutants::is(Mutant::NoFsync) {
            // What went past the page cache needs no sync to survive the end of the file system.
            return self.open(path);
        }
        let mut options = fs::OpenOptions::new();
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let direct = options.write(true).custom_flags(flags).open(path);
        // Not every file system can: then it is like any other file.
        let direct = direct.ok().map(|file| Direct { file, refused: AtomicBool::new(false) });
        Ok(RealFile { direct, ..self.open(path)? })
    }

    fn create(&self, path: &Path, private: bool) -> io::Result<RealFile> {
        let mode = if private { 0o600 } else { 0o644 };
        // A file of this name may have wider permissions, which `mode` would not narrow.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .map(RealFile::from)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<RealLock>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(RealLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// What a disk that is full does to a write.
fn may_be_full(error: io::Error) -> io::Result<()> {
    if mutants::is(Mutant::FullDiskAcknowledged) && is_disk_full(&error) { Ok(()) } else { Err(error) }
}

impl File for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && is_aligned(bytes, offset)
            && !direct.refused.load(Ordering::Relaxed)
        {
            match direct.file.write_all_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    direct.refused.store(true, Ordering::Relaxed);
                }
                result => return result.or_else(may_be_full),
            }
        }
        self.file.write_all_at(bytes, offset).or_else(may_be_full)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // A file system without it: the caller writes zeroes anyway, which allocates just as well.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if self.file.metadata()?.len() < len {
                    self.file.set_len(len)?;
                }
                Ok(())
            }
            Err(error) => may_be_full(error.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
