//! The snapshot files of a data directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{SnapshotMeta, load};
use crate::data_dir::DataDir;
use crate::disk::{Disk, File};
use crate::error::StorageError;

const SUFFIX: &str = ".snap";
const TEMPORARY: &str = ".tmp";
/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1_024;

/// The snapshot files of a data directory. Clones share it.
#[derive(Clone, Debug)]
pub struct SnapshotStore<D: Disk> {
    inner: Arc<Inner<D>>,
}

#[derive(Debug)]
struct Inner<D: Disk> {
    disk: D,
    path: PathBuf,
    temporaries: AtomicU64,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile<D>)>>,
    _dir: DataDir<D>,
}

/// A finished snapshot file: what openraft hands around as snapshot data. Stays readable after a newer one
/// replaced it.
#[derive(Debug)]
pub struct SnapshotFile<D: Disk> {
    file: Arc<D::File>,
    path: PathBuf,
    len: u64,
    temporary: Option<Arc<Temporary<D>>>,
}

/// A snapshot file that is being received or built. Removed when dropped unfinished.
#[derive(Debug)]
pub struct SnapshotSink<D: Disk> {
    file: Arc<D::File>,
    len: u64,
    temporary: Arc<Temporary<D>>,
}

/// Removes a file that was not persisted.
#[derive(Debug)]
struct Temporary<D: Disk> {
    store: SnapshotStore<D>,
    path: PathBuf,
}

impl<D: Disk> Drop for Temporary<D> {
    fn drop(&mut self) {
        // Gone already when it was persisted under its final name.
        let _ = self.store.inner.disk.remove(&self.path);
    }
}

impl<D: Disk> Clone for SnapshotFile<D> {
    fn clone(&self) -> Self {
        let (file, temporary) = (self.file.clone(), self.temporary.clone());
        Self { file, path: self.path.clone(), len: self.len, temporary }
    }
}

impl<D: Disk> SnapshotFile<D> {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a snapshot has a header at least.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads up to `bytes.len()` bytes at `offset`, fewer only at the end.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }
}

impl<D: Disk> SnapshotSink<D> {
    /// Takes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far: where the next ones belong.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes are here, durable but not checked: that happens when the snapshot is installed.
    pub fn finish(self) -> io::Result<SnapshotFile<D>> {
        self.file.sync_data()?;
        let len = self.file.len()?;
        let path = self.temporary.path.clone();
        Ok(SnapshotFile { file: self.file, path, len, temporary: Some(self.temporary) })
    }

    pub(crate) fn file(&self) -> &D::File {
        &self.file
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// Opens the newest snapshot and removes what is unfinished or outdated.
    pub(crate) fn open(dir: &DataDir<D>) -> Result<(Self, Option<ovncp_state::State>), StorageError> {
        let (disk, path) = (dir.disk().clone(), dir.snapshot_path());
        let mut names = disk.read_dir(&path).map_err(StorageError::io("read directory", &path))?;
        for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
            let temporary = path.join(name);
            disk.remove(&temporary).map_err(StorageError::io("remove", &temporary))?;
        }
        names.retain(|name| name.ends_with(SUFFIX));
        let mut current = None;
        let mut state = None;
        if let Some(newest) = names.pop() {
            let path = path.join(newest);
            let file = disk.open(&path).map(Arc::new).map_err(StorageError::io("open", &path))?;
            let len = file.len().map_err(StorageError::io("read", &path))?;
            let (meta, loaded) = load(&*file, &path)?;
            state = Some(loaded);
            current = Some((meta, SnapshotFile { file, path, len, temporary: None }));
        }
        for name in names {
            let old = path.join(name);
            disk.remove(&old).map_err(StorageError::io("remove", &old))?;
        }
        // A killed process may have renamed the newest one without syncing its name: from now on the log may be
        // purged because of it.
        disk.sync_dir(&path).map_err(StorageError::io("sync", &path))?;
        let temporaries = AtomicU64::new(0);
        let inner = Inner { disk, path, temporaries, current: Mutex::new(current), _dir: dir.clone() };
        Ok((Self { inner: Arc::new(inner) }, state))
    }

    /// The newest snapshot.
    pub fn current(&self) -> Option<(SnapshotMeta, SnapshotFile<D>)> {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to receive a snapshot of another node.
    pub fn receive(&self) -> io::Result<SnapshotSink<D>> {
        let number = self.inner.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.path.join(format!("{number}{TEMPORARY}"));
        let file = Arc::new(self.inner.disk.create(&path, false)?);
        Ok(SnapshotSink { file, len: 0, temporary: Arc::new(Temporary { store: self.clone(), path }) })
    }

    /// Makes a checked file the current snapshot, durably, and removes older ones.
    pub(crate) fn persist(
        &self,
        meta: SnapshotMeta,
        file: SnapshotFile<D>,
    ) -> Result<SnapshotFile<D>, StorageError> {
        let mut current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, file)) = &*current
            && known.last_log_id > meta.last_log_id
        {
            // One built while a newer one was installed.
            return Ok(file.clone());
        }
        let dir = &self.inner.path;
        let path = dir.join(name(&meta));
        self.inner.disk.rename(&file.path, &path).map_err(StorageError::io("rename", &file.path))?;
        self.inner.disk.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
        let file = SnapshotFile { path, temporary: None, ..file };
        *current = Some((meta, file.clone()));
        self.remove_older(&file.path);
        Ok(file)
    }

    /// The file as one of ours that can be persisted: itself, or a copy of a file of another directory.
    pub(crate) fn own(&self, file: SnapshotFile<D>) -> io::Result<SnapshotFile<D>> {
        if file.path.parent() == Some(&self.inner.path) {
            return Ok(file);
        }
        let mut sink = self.receive()?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = file.read_at(&mut buffer, sink.len())?;
            if count == 0 {
                return sink.finish();
            }
            sink.append(&buffer[..count])?;
        }
    }

    /// Reads and checks a file.
    pub(crate) fn load(
        &self,
        file: &SnapshotFile<D>,
    ) -> Result<(SnapshotMeta, ovncp_state::State), StorageError> {
        load(&*file.file, &file.path)
    }

    /// An old file that stays costs space, nothing else: the next one tries again.
    fn remove_older(&self, keep: &Path) {
        let Ok(names) = self.inner.disk.read_dir(&self.inner.path) else { return };
        for name in names.iter().filter(|name| name.ends_with(SUFFIX)) {
            let path = self.inner.path.join(name);
            if path != keep
                && let Err(error) = self.inner.disk.remove(&path)
            {
                tracing::warn!(file = %path.display(), %error, "an old snapshot stays");
            }
        }
    }
}

/// Names sort by position in the log.
fn name(meta: &SnapshotMeta) -> String {
    format!("{:020}{SUFFIX}", meta.last_log_id.map_or(0, |id| id.index + 1))
}
