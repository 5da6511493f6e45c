//! Two small files that tell whether a power loss was one: it must take the one that was never synced, and must
//! not take the one that was.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::DiskError;

const SYNCED: &str = "canary-synced";
const UNSYNCED: &str = "canary-unsynced";
/// Written into both.
const SONG: &[u8] = b"still here\n";

/// The files of one file system.
#[derive(Debug)]
pub struct Canaries {
    synced: PathBuf,
    unsynced: PathBuf,
}

/// Writes and syncs the canary that has to survive. This happens when the file system is mounted, long before the
/// power is lost: a sync right before would commit what the node has not synced.
pub fn plant_synced(folder: &Path) -> Result<(), DiskError> {
    let path = folder.join(SYNCED);
    write(&path)?.sync_all().map_err(DiskError::io("sync", &path))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(DiskError::io("sync", folder))
}

impl Canaries {
    /// Writes the canary that has to die.
    pub fn plant_unsynced(folder: &Path) -> Result<Self, DiskError> {
        let unsynced = folder.join(UNSYNCED);
        write(&unsynced)?;
        Ok(Self { synced: folder.join(SYNCED), unsynced })
    }

    /// Whether the unsynced one is gone and the synced one is there.
    pub fn look(&self) -> Result<(bool, bool), DiskError> {
        // The name without the contents counts as gone: the data were lost.
        let sings = |path: &Path| fs::read(path).is_ok_and(|song| song == SONG);
        let seen = (!sings(&self.unsynced), sings(&self.synced));
        if self.unsynced.exists() {
            fs::remove_file(&self.unsynced).map_err(DiskError::io("remove", &self.unsynced))?;
        }
        Ok(seen)
    }
}

fn write(path: &Path) -> Result<File, DiskError> {
    let mut file = File::create(path).map_err(DiskError::io("create", path))?;
    file.write_all(SONG).map_err(DiskError::io("write", path))?;
    Ok(file)
}
