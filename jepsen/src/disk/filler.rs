//! Somebody else's file that takes all the room of a file system.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::DiskError;

const NAME: &str = "somebody-elses-file";
/// More than what a node that gives up its reserve or removes a file makes free.
const PROBE_BYTES: usize = 16 * 1_024 * 1_024;
/// Smallest piece that is tried.
const PIECE_BYTES_MIN: u64 = 4_096;

/// The file. Removed on drop, for good: a power loss right after it does not bring the file back.
#[derive(Debug)]
pub struct Filler {
    path: PathBuf,
    /// Bytes that it took.
    pub bytes: u64,
    /// Bytes that are free all the same; file systems keep some for their own book-keeping.
    pub free_bytes: u64,
}

impl Filler {
    /// Takes all the room of the file system that is mounted at `mount_point`.
    pub fn fill(mount_point: &Path) -> Result<Self, DiskError> {
        let path = mount_point.join(NAME);
        let file = File::create(&path).map_err(DiskError::io("create", &path))?;
        let mut filler = Self { path, bytes: 0, free_bytes: free_bytes(mount_point)? };
        let mut piece = filler.free_bytes;
        while piece >= PIECE_BYTES_MIN {
            match fallocate(&file, FallocateFlags::empty(), filler.bytes, piece) {
                Ok(()) => filler.bytes += piece,
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(DiskError::io("fill", &filler.path)(error.into())),
            }
        }
        filler.free_bytes = free_bytes(mount_point)?;
        Ok(filler)
    }
}

impl Filler {
    /// Whether the file system takes nothing more, tried with a file of our own beside it.
    pub fn is_full(&self) -> Result<bool, DiskError> {
        let probe = self.path.with_extension("probe");
        let outcome = fs::write(&probe, vec![1; PROBE_BYTES]);
        fs::remove_file(&probe).map_err(DiskError::io("remove", &probe))?;
        match outcome {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(true),
            Err(error) => Err(DiskError::io("write", &probe)(error)),
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let folder = self.path.parent().unwrap_or(&self.path);
        let removed = fs::remove_file(&self.path).and_then(|()| File::open(folder)?.sync_all());
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "the disk stays full");
        }
    }
}

fn free_bytes(folder: &Path) -> Result<u64, DiskError> {
    let room = statvfs(folder).map_err(|error| DiskError::io("look at", folder)(error.into()))?;
    Ok(room.f_bavail * room.f_frsize)
}
