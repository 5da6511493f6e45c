//! A disk in memory that loses what was not synced.
//!
//! Deterministic: the same calls and the same seed give the same bytes. Every file remembers the old content of
//! each sector written since its last sync, so a crash can put any subset of them back; directories remember
//! which names are durable. Faults are injected by operation, path and count.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Disk, File, SECTOR_BYTES};

const SECTOR: usize = SECTOR_BYTES as usize;

/// Operations that a [`Fault`] can hit, and that count as steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimOp {
    /// [`File::write_at`].
    Write,
    /// [`File::sync_data`].
    Sync,
    /// [`File::allocate`] and [`File::set_len`].
    Allocate,
    /// [`File::read_at`].
    Read,
    /// Creating, renaming and removing names.
    Name,
    /// [`Disk::sync_dir`].
    SyncDir,
}

/// An error to be given.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operation.
    pub op: SimOp,
    /// Files whose path contains this text.
    pub path: String,
    /// Matching operations that still succeed before it.
    pub after: u64,
    /// Raw OS error, for example 5 (EIO) or 28 (ENOSPC).
    pub errno: i32,
    /// Whether it stays, or hits once.
    pub sticky: bool,
}

/// What was asked of the disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Calls of `write_at`.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Calls of `read_at`.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Calls of `sync_data`.
    pub syncs: u64,
    /// Everything that changes something or makes it durable.
    pub steps: u64,
}

/// A handle of a simulated disk. Clones share it. After [`SimDisk::crash`] all older handles, files and locks
/// are dead, as if their process were: each call fails and changes nothing.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    epoch: u64,
}

/// A file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: u64,
    path: PathBuf,
}

/// A lock of a [`SimDisk`].
#[derive(Debug)]
pub struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct World {
    epoch: u64,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    /// Names as a running process sees them.
    names: BTreeMap<PathBuf, u64>,
    /// Names as they are after a power loss.
    names_durable: BTreeMap<PathBuf, u64>,
    dirs: Vec<PathBuf>,
    locks: Vec<PathBuf>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    power_off_at: Option<u64>,
    latency: Duration,
    counters: DiskCounters,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    data: Vec<u8>,
    len_durable: usize,
    /// Content that a sector had when it was last synced.
    undo: BTreeMap<usize, Vec<u8>>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self { world: Arc::default(), epoch: 0 }
    }

    /// Power loss. Each sector and each name that was not synced is kept or lost as the seed says; the returned
    /// handle is the machine after its restart. Faults and the planned power loss are cleared.
    pub fn crash(&self, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = self.world();
        // One crash in four loses everything, one keeps everything, the others a random part.
        let keep = [0.0, 1.0, 0.5, 0.9][rng.random_range(0..4)];
        world.crash(&mut rng, keep);
        Self { world: self.world.clone(), epoch: world.epoch }
    }

    /// The process dies, the machine stays: nothing written is lost, but handles and locks are dead.
    pub fn kill(&self) -> Self {
        let mut world = self.world();
        world.restart();
        Self { world: self.world.clone(), epoch: world.epoch }
    }

    /// A copy of the whole disk as it stands, with its own future.
    pub fn fork(&self) -> Self {
        let world = self.world();
        let copy = World {
            inodes: world.inodes.clone(),
            inode_next: world.inode_next,
            names: world.names.clone(),
            names_durable: world.names_durable.clone(),
            dirs: world.dirs.clone(),
            capacity: world.capacity,
            ..World::default()
        };
        Self { world: Arc::new(Mutex::new(copy)), epoch: 0 }
    }

    /// Copies all files of one directory (and below) to another one, durably.
    pub fn copy_dir(&self, from: &Path, to: &Path) {
        let mut world = self.world();
        let files: Vec<_> = world
            .names
            .iter()
            .filter_map(|(path, inode)| Some((path.strip_prefix(from).ok()?.to_path_buf(), *inode)))
            .collect();
        let dirs: Vec<_> = world
            .dirs
            .iter()
            .filter_map(|dir| dir.strip_prefix(from).ok().map(|rest| to.join(rest)))
            .collect();
        world.dirs.extend(dirs);
        for (rest, inode) in files {
            let mut copy = world.inodes.get(&inode).cloned().unwrap_or_default();
            copy.undo.clear();
            copy.len_durable = copy.data.len();
            let id = world.add_inode(copy);
            world.names.insert(to.join(&rest), id);
            world.names_durable.insert(to.join(&rest), id);
        }
    }

    /// Plans an error.
    pub fn inject(&self, fault: Fault) {
        self.world().faults.push(fault);
    }

    /// Forgets all planned errors and the planned power loss.
    pub fn heal(&self) {
        let mut world = self.world();
        world.faults.clear();
        world.power_off_at = None;
    }

    /// From this step on (see [`DiskCounters::steps`]) nothing works any more, until [`SimDisk::crash`].
    pub fn power_off_at(&self, step: u64) {
        self.world().power_off_at = Some(step);
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// From now on each batch of the log takes so long.
    pub fn set_latency(&self, latency: Duration) {
        self.world().latency = latency;
    }

    /// Bytes that all files together have.
    pub fn used(&self) -> u64 {
        self.world().used()
    }

    /// What was asked of the disk so far.
    pub fn counters(&self) -> DiskCounters {
        self.world().counters
    }

    /// All files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }

    /// Content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world();
        let inode = world.names.get(path)?;
        world.inodes.get(inode).map(|inode| inode.data.clone())
    }

    /// Changes the content of a file behind the back of its users, durably: bit rot, or an operator's mistake.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let inode = world.names.get(path).copied();
        if let Some(inode) = inode.and_then(|id| world.inodes.get_mut(&id)) {
            change(&mut inode.data);
            inode.undo.clear();
            inode.len_durable = inode.data.len();
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, if this handle is alive and nothing is planned against this operation.
    fn step(&self, op: SimOp, path: &Path) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world();
        if world.epoch != self.epoch {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        if op != SimOp::Read {
            world.counters.steps += 1;
        }
        if world.power_off_at.is_some_and(|step| world.counters.steps >= step) {
            return Err(io::Error::other("the simulated machine is off"));
        }
        world.hit(op, path)?;
        Ok(world)
    }
}

impl World {
    fn restart(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.faults.clear();
        self.power_off_at = None;
    }

    fn crash(&mut self, rng: &mut SmallRng, keep: f64) {
        self.restart();
        let mut names = self.names_durable.clone();
        let changed: Vec<_> = self
            .names
            .keys()
            .chain(self.names_durable.keys())
            .filter(|path| self.names.get(*path) != self.names_durable.get(*path))
            .cloned()
            .collect();
        for path in changed {
            if rng.random_bool(keep) {
                match self.names.get(&path) {
                    Some(inode) => names.insert(path, *inode),
                    None => names.remove(&path),
                };
            }
        }
        self.names_durable = names.clone();
        self.names = names;
        let live: Vec<u64> = self.names.values().copied().collect();
        self.inodes.retain(|id, _| live.contains(id));
        for inode in self.inodes.values_mut() {
            inode.crash(rng, keep);
        }
    }

    fn add_inode(&mut self, inode: Inode) -> u64 {
        self.inode_next += 1;
        self.inodes.insert(self.inode_next, inode);
        self.inode_next
    }

    fn used(&self) -> u64 {
        let mut live: Vec<u64> = self.names.values().copied().collect();
        live.dedup();
        live.iter().filter_map(|id| self.inodes.get(id)).map(|inode| inode.data.len() as u64).sum()
    }

    fn hit(&mut self, op: SimOp, path: &Path) -> io::Result<()> {
        let text = path.to_string_lossy();
        for at in 0..self.faults.len() {
            let fault = &mut self.faults[at];
            if fault.op != op || !text.contains(&fault.path) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            let errno = fault.errno;
            if !fault.sticky {
                self.faults.remove(at);
            }
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }

    fn grow(&mut self, inode: u64, len: usize) -> io::Result<()> {
        let used = self.used();
        let Some(file) = self.inodes.get_mut(&inode) else { return Err(io::ErrorKind::NotFound.into()) };
        if len > file.data.len() {
            let more = (len - file.data.len()) as u64;
            if self.capacity.is_some_and(|capacity| used + more > capacity) {
                return Err(io::Error::from_raw_os_error(28));
            }
            file.resize(len);
        }
        Ok(())
    }
}

impl Inode {
    fn resize(&mut self, len: usize) {
        for sector in len / SECTOR..self.data.len().div_ceil(SECTOR) {
            self.remember(sector);
        }
        self.data.resize(len, 0);
    }

    /// Keeps the durable content of a sector before its first change.
    fn remember(&mut self, sector: usize) {
        let start = (sector * SECTOR).min(self.data.len());
        let end = ((sector + 1) * SECTOR).min(self.data.len());
        self.undo.entry(sector).or_insert_with(|| self.data[start..end].to_vec());
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.remember(sector);
        }
        self.data[offset..end].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.undo.clear();
        self.len_durable = self.data.len();
    }

    fn crash(&mut self, rng: &mut SmallRng, keep: f64) {
        let len = if rng.random_bool(keep) { self.data.len() } else { self.len_durable };
        self.data.resize(self.data.len().max(len), 0);
        for (sector, old) in std::mem::take(&mut self.undo) {
            if rng.random_bool(keep) {
                continue;
            }
            let start = sector * SECTOR;
            let end = ((sector + 1) * SECTOR).min(self.data.len());
            if start < end {
                self.data[start..end].fill(0);
                let end = end.min(start + old.len());
                self.data[start..end].copy_from_slice(&old[..end - start]);
            }
        }
        self.data.resize(len, 0);
        self.len_durable = len;
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.step(SimOp::Name, path)?;
        // Directories are durable at once: losing a whole directory is the loss of each name in it.
        for dir in path.ancestors() {
            if !world.dirs.iter().any(|known| known == dir) {
                world.dirs.push(dir.to_path_buf());
            }
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.step(SimOp::Read, path)?;
        if !world.dirs.iter().any(|known| known == path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = world.names.keys().filter(|file| file.parent() == Some(path));
        let dirs = world.dirs.iter().filter(|dir| dir.parent() == Some(path));
        let mut names: Vec<String> = names
            .map(PathBuf::as_path)
            .chain(dirs.map(PathBuf::as_path))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let world = self.step(SimOp::Read, path)?;
        let inode = *world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { disk: self.clone(), inode, path: path.to_path_buf() })
    }

    fn create(&self, path: &Path, _private: bool) -> io::Result<SimFile> {
        let mut world = self.step(SimOp::Name, path)?;
        if !path.parent().is_some_and(|parent| world.dirs.iter().any(|dir| dir == parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = world.add_inode(Inode::default());
        world.names.insert(path.to_path_buf(), inode);
        Ok(SimFile { disk: self.clone(), inode, path: path.to_path_buf() })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.step(SimOp::Name, from)?;
        let inode = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_path_buf(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.step(SimOp::Name, path)?;
        world.names.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.step(SimOp::SyncDir, path)?;
        let in_dir = |file: &PathBuf| file.parent() == Some(path);
        world.names_durable.retain(|file, _| !in_dir(file));
        let durable: Vec<_> =
            world.names.iter().filter(|(file, _)| in_dir(file)).map(|(f, i)| (f.clone(), *i)).collect();
        world.names_durable.extend(durable);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        let mut world = self.step(SimOp::Name, path)?;
        if world.locks.iter().any(|held| held == path) {
            return Ok(None);
        }
        world.locks.push(path.to_path_buf());
        Ok(Some(SimLock { disk: self.clone(), path: path.to_path_buf() }))
    }

    fn latency(&self) -> Duration {
        self.world().latency
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.epoch == self.disk.epoch {
            world.locks.retain(|held| held != &self.path);
        }
    }
}

impl SimFile {
    fn inode<T>(&self, world: &mut World, then: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        world.inodes.get_mut(&self.inode).map(then).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.step(SimOp::Write, &self.path)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        world.grow(self.inode, offset + bytes.len())?;
        world.counters.writes += 1;
        world.counters.bytes_written += bytes.len() as u64;
        self.inode(&mut world, |inode| inode.write(bytes, offset))
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.step(SimOp::Read, &self.path)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let read = self.inode(&mut world, |inode| {
            let from = offset.min(inode.data.len());
            let count = bytes.len().min(inode.data.len() - from);
            bytes[..count].copy_from_slice(&inode.data[from..from + count]);
            count
        })?;
        world.counters.reads += 1;
        world.counters.bytes_read += read as u64;
        Ok(read)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.step(SimOp::Sync, &self.path)?;
        world.counters.syncs += 1;
        self.inode(&mut world, Inode::sync)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.step(SimOp::Allocate, &self.path)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        world.grow(self.inode, len)?;
        self.inode(&mut world, |inode| inode.resize(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.step(SimOp::Allocate, &self.path)?;
        world.grow(self.inode, usize::try_from(len).map_err(io::Error::other)?)
    }

    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.step(SimOp::Read, &self.path)?;
        self.inode(&mut world, |inode| inode.data.len() as u64)
    }
}
