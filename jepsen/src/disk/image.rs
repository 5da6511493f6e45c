//! An ext4 file system in a file, mounted over a loop device: a disk that can lose power.
//!
//! The image and its mount point stand side by side: `n1.ext4` and `n1/`. The loop device belongs to the mount
//! (`mount -o loop`), so that it is gone with it, however that ends.
//!
//! Power is lost in three steps, the process having been killed: ext4 is told to shut down without writing its
//! journal (`EXT4_IOC_SHUTDOWN`, no log flush), is unmounted, which drops all its pages, and is mounted again,
//! which replays what the journal had on disk. What was synced is there, the rest is not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::canary::Canaries;
use super::tool::{needs, run};
use super::{DiskError, canary};

/// Size of a disk; the file is sparse. Large enough for a run, small enough to be filled in no time.
const IMAGE_BYTES: u64 = 512 * 1_024 * 1_024;
/// Ext4 commits by itself every five seconds; here it leaves that to whoever syncs, so that more can be lost.
const MOUNT_OPTIONS: &str = "loop,noatime,commit=300";
/// How long a file system may be busy after the last process that used it was killed.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);
/// Between two tries.
const UNMOUNT_EVERY: Duration = Duration::from_millis(20);
/// Blocks by which contents before and after are compared.
const BLOCK_BYTES: usize = 4_096;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, in the one interpreter that every Debian has. An ioctl
/// from here would need `unsafe`.
const SHUT_DOWN: &str = r#"
    sysopen(my $folder, $ARGV[0], 0) or die "open $ARGV[0]: $!\n";
    my $flags = pack("L", 2);
    ioctl($folder, 0x8004587d, $flags) or die "shut down the file system of $ARGV[0]: $!\n";
"#;

/// A mounted image.
#[derive(Clone, Debug)]
pub struct Image {
    file: PathBuf,
    mount_point: PathBuf,
}

/// What a power loss took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PowerLoss {
    /// The canary that was never synced is gone: unsynced data was lost indeed.
    pub unsynced_canary_lost: bool,
    /// The canary that was synced is there, whole.
    pub synced_canary_kept: bool,
    /// Files of the node that existed before and not after, or the other way round.
    pub files_changed: usize,
    /// Blocks of the node's files with other contents than the process had written.
    pub blocks_lost: usize,
}

impl PowerLoss {
    /// Whether it did what a power loss does, no less and no more.
    pub fn is_effective(&self) -> bool {
        self.unsynced_canary_lost && self.synced_canary_kept
    }
}

/// Whether images can be mounted here; else why not. Tries it, in `folder`.
pub fn possible(folder: &Path) -> Result<(), DiskError> {
    if !rustix::process::geteuid().is_root() {
        return Err(DiskError::NotPossible("mounting a loop device needs root".to_owned()));
    }
    needs("mkfs.ext4", "e2fsprogs")?;
    needs("mount", "mount")?;
    needs("losetup", "mount")?;
    needs("perl", "perl-base")?;
    // Containers may have root and no right to mount: only trying tells.
    Image::make(folder.join("probe"))?.delete()
}

impl Image {
    /// Makes an empty file system and mounts it at `mount_point`.
    pub fn make(mount_point: PathBuf) -> Result<Self, DiskError> {
        let image = Self { file: mount_point.with_extension("ext4"), mount_point };
        fs::create_dir_all(&image.mount_point).map_err(DiskError::io("create", &image.mount_point))?;
        let file = File::create(&image.file).map_err(DiskError::io("create", &image.file))?;
        file.set_len(IMAGE_BYTES).map_err(DiskError::io("create", &image.file))?;
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
        let arguments: Vec<&Path> = options.iter().map(Path::new).chain([image.file.as_path()]).collect();
        run("mkfs.ext4", "e2fsprogs", &arguments)?;
        image.mount()?;
        canary::plant_synced(&image.mount_point)?;
        Ok(image)
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    fn mount(&self) -> Result<(), DiskError> {
        let options = ["-t", "ext4", "-o", MOUNT_OPTIONS];
        let paths = [self.file.as_path(), self.mount_point.as_path()];
        let arguments: Vec<&Path> = options.iter().map(Path::new).chain(paths).collect();
        run("mount", "mount", &arguments).map(|_| ())
    }

    fn is_mounted(&self) -> Result<bool, DiskError> {
        Ok(mounts_below(&self.mount_point)?.contains(&self.mount_point))
    }

    /// Unmounts it, which also frees the loop device. Does nothing where it is not mounted.
    pub fn unmount(&self) -> Result<(), DiskError> {
        let start = Instant::now();
        while self.is_mounted()? {
            match run("umount", "mount", &[&self.mount_point]) {
                Ok(_) => break,
                Err(error) if start.elapsed() > UNMOUNT_LIMIT => return Err(error),
                // The last process that had files open is on its way out.
                Err(_) => std::thread::sleep(UNMOUNT_EVERY),
            }
        }
        self.wait_detached(start)
    }

    /// Another mount namespace may keep the file system alive after it was unmounted in this one. Mounted again it
    /// would then be the same one, with everything that it was to forget.
    fn wait_detached(&self, start: Instant) -> Result<(), DiskError> {
        let arguments = [Path::new("-j"), &self.file];
        while !run("losetup", "mount", &arguments)?.trim().is_empty() {
            if start.elapsed() > UNMOUNT_LIMIT {
                let what = format!("the loop device of {} is free", self.file.display());
                return Err(DiskError::TooLate { what, limit: UNMOUNT_LIMIT });
            }
            std::thread::sleep(UNMOUNT_EVERY);
        }
        Ok(())
    }

    /// Takes the power away and gives it back. The node must have been killed: what its process could still write
    /// would not be a loss of power.
    pub fn lose_power(&self) -> Result<PowerLoss, DiskError> {
        let data = self.mount_point.join("data");
        let before = contents(&data)?;
        let canaries = Canaries::plant_unsynced(&self.mount_point)?;
        run("perl", "perl-base", &[Path::new("-e"), Path::new(SHUT_DOWN), &self.mount_point])?;
        self.unmount()?;
        self.mount()?;
        let (unsynced_canary_lost, synced_canary_kept) = canaries.look()?;
        let after = contents(&data)?;
        canary::plant_synced(&self.mount_point)?;
        let files_changed = before.keys().filter(|path| !after.contains_key(*path)).count()
            + after.keys().filter(|path| !before.contains_key(*path)).count();
        let blocks_lost = before.iter().map(|(path, blocks)| differing(blocks, after.get(path))).sum();
        Ok(PowerLoss { unsynced_canary_lost, synced_canary_kept, files_changed, blocks_lost })
    }

    /// Unmounts it and deletes image and mount point.
    pub fn delete(&self) -> Result<(), DiskError> {
        self.unmount()?;
        fs::remove_file(&self.file).map_err(DiskError::io("remove", &self.file))?;
        fs::remove_dir(&self.mount_point).map_err(DiskError::io("remove", &self.mount_point))
    }
}

/// Unmounts what a killed harness left mounted below `folder`; one line for each.
pub fn clean(folder: &Path) -> Vec<String> {
    let mounts =
        folder.canonicalize().map_err(DiskError::io("resolve", folder)).and_then(|it| mounts_below(&it));
    let mounts = match mounts {
        Ok(mounts) => mounts,
        Err(error) => return vec![error.to_string()],
    };
    let unmount = |path: PathBuf| {
        let at_once = run("umount", "mount", &[&path]);
        // Lazily: it goes with the last process that uses it.
        match at_once.or_else(|_| run("umount", "mount", &[Path::new("-l"), &path])) {
            Ok(_) => format!("unmounted {}", path.display()),
            Err(error) => error.to_string(),
        }
    };
    mounts.into_iter().rev().map(unmount).collect()
}

/// Mount points at and below a folder, outer ones first.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let list = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(list).map_err(DiskError::io("read", list))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(folder)).collect())
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(point: &str) -> PathBuf {
    let mut parts = point.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => path.extend([char::from(code)].into_iter().chain(part[3..].chars())),
            None => path.extend(["\\", part]),
        }
    }
    PathBuf::from(path)
}

/// Hashes of the blocks of each file below a folder.
type Contents = BTreeMap<PathBuf, Vec<u64>>;

fn contents(folder: &Path) -> Result<Contents, DiskError> {
    let mut contents = Contents::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(DiskError::io("read", &folder))? {
            let path = entry.map_err(DiskError::io("read", &folder))?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(contents.insert(path.clone(), blocks(&path)?)),
            }
        }
    }
    Ok(contents)
}

fn blocks(path: &Path) -> Result<Vec<u64>, DiskError> {
    let mut file = File::open(path).map_err(DiskError::io("open", path))?;
    let (mut blocks, mut block) = (Vec::new(), Vec::with_capacity(BLOCK_BYTES));
    loop {
        block.clear();
        let taken = (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut block);
        if taken.map_err(DiskError::io("read", path))? == 0 {
            return Ok(blocks);
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&block);
        blocks.push(hasher.finish());
    }
}

/// Blocks of a file that are not there any more, or not as they were.
fn differing(before: &[u64], after: Option<&Vec<u64>>) -> usize {
    let after = after.map_or(&[][..], Vec::as_slice);
    before.iter().enumerate().filter(|(nth, block)| after.get(*nth) != Some(block)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape("/a\\040b\\011c"), Path::new("/a b\tc"));
        assert_eq!(unescape("/plain"), Path::new("/plain"));
    }

    #[test]
    fn blocks_that_are_gone_or_changed_count() {
        assert_eq!(differing(&[1, 2, 3], Some(&vec![1, 9])), 2);
        assert_eq!(differing(&[1, 2], None), 2);
        assert_eq!(differing(&[1], Some(&vec![1, 2])), 0);
    }
}
