//! Damage to files of a stopped node: what a disk does that lies, and an operator who copies half a file.
//!
//! Where to hit is seen from outside: segments of the log are `log/<number>.wal`, cut into sectors that end in
//! their segment's number and a checksum; snapshots are `snapshot/<index>.snap`. A sector with its segment's own
//! number was written, and was synced unless it belongs to the very last write. Everything of it counts: one bit
//! changed is damage, wherever it lies, and so is a segment that is shorter than it was made.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt};
use serde::Serialize;

use super::DiskError;

const SECTOR_BYTES: usize = 512;
/// Where a sector says which segment it was written for.
const SEGMENT_AT: usize = 504;

/// Which files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The newest segment of the log that was written to.
    Log,
    /// The newest snapshot.
    Snapshot,
}

/// A file that can be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Which it is.
    pub path: PathBuf,
    /// Places in it that count: where they begin, all of the same length.
    places: Vec<u64>,
    place_bytes: u64,
}

/// What was done to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Its name.
    pub file: String,
    /// First byte that is not as it was.
    pub offset: u64,
    /// Bits changed.
    pub bits: u64,
    /// Bytes cut off.
    pub bytes_cut: u64,
}

impl Victim {
    /// Finds a file in a data directory; `None` where the node has not written one.
    pub fn find(data_dir: &Path, target: Target) -> Result<Option<Self>, DiskError> {
        let (folder, suffix) = match target {
            Target::Log => ("log", ".wal"),
            Target::Snapshot => ("snapshot", ".snap"),
        };
        let mut paths = files(&data_dir.join(folder), suffix)?;
        // The newest segment may have been made ready, but not written to.
        while let Some(path) = paths.pop() {
            let victim = match target {
                Target::Log => Self::segment(path)?,
                Target::Snapshot => Self::whole(path)?,
            };
            if !victim.places.is_empty() {
                return Ok(Some(victim));
            }
        }
        Ok(None)
    }

    fn segment(path: PathBuf) -> Result<Self, DiskError> {
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        let bytes = fs::read(&path).map_err(DiskError::io("read", &path))?;
        let written = |sector: &[u8]| {
            number.is_some_and(|number| sector[SEGMENT_AT..SEGMENT_AT + 4] == number.to_le_bytes())
        };
        let sectors = bytes.chunks_exact(SECTOR_BYTES).enumerate().filter(|(_, sector)| written(sector));
        let places = sectors.map(|(nth, _)| (nth * SECTOR_BYTES) as u64).collect();
        Ok(Self { path, places, place_bytes: SECTOR_BYTES as u64 })
    }

    fn whole(path: PathBuf) -> Result<Self, DiskError> {
        let place_bytes = fs::metadata(&path).map_err(DiskError::io("look at", &path))?.len();
        let places = if place_bytes > 0 { vec![0] } else { Vec::new() };
        Ok(Self { path, places, place_bytes })
    }

    fn pick(&self, rng: &mut impl Rng) -> u64 {
        let place = self.places[rng.random_range(0..self.places.len())];
        place + rng.random_range(0..self.place_bytes)
    }

    /// Flips one bit.
    pub fn flip(&self, rng: &mut impl Rng) -> Result<Damage, DiskError> {
        let offset = self.pick(rng);
        let file = self.open()?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).map_err(DiskError::io("read", &self.path))?;
        byte[0] ^= 1 << rng.random_range(0..8_u32);
        file.write_all_at(&byte, offset).map_err(DiskError::io("write", &self.path))?;
        file.sync_all().map_err(DiskError::io("sync", &self.path))?;
        Ok(Damage { file: self.name(), offset, bits: 1, bytes_cut: 0 })
    }

    /// Cuts the file off at a place that counts.
    pub fn truncate(&self, rng: &mut impl Rng) -> Result<Damage, DiskError> {
        let offset = self.pick(rng);
        let file = self.open()?;
        let length = file.metadata().map_err(DiskError::io("look at", &self.path))?.len();
        file.set_len(offset).map_err(DiskError::io("truncate", &self.path))?;
        file.sync_all().map_err(DiskError::io("sync", &self.path))?;
        Ok(Damage { file: self.name(), offset, bits: 0, bytes_cut: length - offset })
    }

    fn open(&self) -> Result<File, DiskError> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path);
        file.map_err(DiskError::io("open", &self.path))
    }

    fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Files of a folder with a suffix, oldest first: names sort by age. A folder that is missing has none.
fn files(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>, DiskError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(DiskError::io("read", folder))?,
    };
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(DiskError::io("read", folder))?;
    paths.retain(|path| path.to_string_lossy().ends_with(suffix));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn sector(segment: u32, fill: u8) -> Vec<u8> {
        let mut sector = vec![fill; SECTOR_BYTES];
        sector[SEGMENT_AT..SEGMENT_AT + 4].copy_from_slice(&segment.to_le_bytes());
        sector
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("log")).unwrap();
        folder
    }

    #[test]
    fn only_sectors_that_were_written_are_hit() {
        let folder = folder();
        let log = folder.path().join("log");
        // Segment 7: one sector of its own, one of an earlier life, one never written. Segment 8: made ready only.
        let seven = [sector(3, 1), sector(7, 1), vec![0; SECTOR_BYTES]].concat();
        fs::write(log.join("0000000007.wal"), &seven).unwrap();
        fs::write(log.join("0000000008.wal"), vec![0; 2 * SECTOR_BYTES]).unwrap();
        fs::write(log.join("0000000006.free"), sector(6, 1)).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let victim = Victim::find(folder.path(), Target::Log).unwrap().expect("segment 7");
        for _ in 0..100 {
            let damage = victim.flip(&mut rng).unwrap();
            assert_eq!((damage.file.as_str(), damage.bits), ("0000000007.wal", 1));
            assert!((512..1_024).contains(&damage.offset), "{damage:?}");
            let now = fs::read(&victim.path).unwrap();
            let changed = now.iter().zip(&seven).filter(|(now, before)| now != before).count();
            assert_eq!(changed, 1);
            fs::write(&victim.path, &seven).unwrap();
        }
        let damage = victim.truncate(&mut rng).unwrap();
        assert_eq!(fs::metadata(&victim.path).unwrap().len(), damage.offset);
        assert_eq!(damage.bytes_cut, seven.len() as u64 - damage.offset);
    }

    #[test]
    fn the_newest_snapshot_is_hit_and_none_where_there_is_none() {
        let folder = folder();
        assert_eq!(Victim::find(folder.path(), Target::Snapshot).unwrap(), None);
        assert_eq!(Victim::find(folder.path(), Target::Log).unwrap(), None);
        let snapshots = folder.path().join("snapshot");
        fs::create_dir(&snapshots).unwrap();
        for name in ["00000000000000000010.snap", "00000000000000000200.snap", "3.tmp"] {
            fs::write(snapshots.join(name), b"contents").unwrap();
        }
        let victim = Victim::find(folder.path(), Target::Snapshot).unwrap().expect("a snapshot");
        assert!(victim.path.ends_with("00000000000000000200.snap"));
    }
}
