//! The data directory: who may use it, which version wrote it, and whose it is.
//!
//! ```text
//! LOCK          held (flock) while a process uses the directory
//! FORMAT        one line of text: the version of everything below
//! identity      incarnation, boot counter, cluster and node id; checksummed, replaced as a whole
//! cluster.key   secret of the cluster, mode 0600
//! reserve       space given back when the disk is full, so that a start never needs new space
//! log/          segments of the write-ahead log
//! snapshot/     snapshot files
//! ```
//!
//! The parts belong together: a directory that once had a log and has none now is refused, because a node that
//! forgot its votes and entries under its old id can make two leaders.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ovncp_state::{ClusterId, Incarnation, NodeId};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::codec::{append, decode};
use crate::disk::{Disk, File, exists, is_disk_full, read_all, write_atomically};
use crate::error::StorageError;
use crate::runtime::random_bytes;

/// Version of everything in the directory. A newer one is refused, an older released one upgraded step by step.
/// Format 1 was never released: its log has no stamps (docs/decisions/0016).
pub const FORMAT_VERSION: u32 = 2;

/// Bytes of the reserve file.
pub const RESERVE_BYTES: u64 = 256 * 1_024;

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const IDENTITY: &str = "identity";
const CLUSTER_KEY: &str = "cluster.key";
const RESERVE: &str = "reserve";
const LOG: &str = "log";
const SNAPSHOT: &str = "snapshot";
const FORMAT_PREFIX: &str = "ovncp data directory, format ";

/// An opened, locked data directory. Clones share it; the lock is given back with the last one.
#[derive(Clone, Debug)]
pub struct DataDir<D: Disk> {
    inner: Arc<Inner<D>>,
}

#[derive(Debug)]
struct Inner<D: Disk> {
    disk: D,
    path: PathBuf,
    identity: Mutex<Identity>,
    /// Held while the identity is changed, from reading it until the new one is durable.
    changing: Mutex<()>,
    key: Mutex<Option<[u8; 32]>>,
    _lock: D::Lock,
    /// Closed when the directory is free again: so it stands after the lock.
    released: watch::Sender<()>,
}

/// What a directory knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    incarnation: Incarnation,
    boot: u64,
    cluster_id: Option<ClusterId>,
    node_id: Option<NodeId>,
    /// Set before the log accepts its first record; from then on its absence is damage.
    log_created: bool,
}

impl<D: Disk> DataDir<D> {
    /// Opens the directory, creating it when there is none, and counts this start.
    ///
    /// Fails when another process uses it, when a newer version wrote it, and when a part is missing.
    pub fn open(disk: D, path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        disk.create_dir_all(&path).map_err(StorageError::io("create data directory", &path))?;
        let lock = disk
            .lock(&path.join(LOCK))
            .map_err(StorageError::io("lock data directory", &path))?
            .ok_or_else(|| StorageError::Locked { path: path.clone() })?;
        for dir in [LOG, SNAPSHOT] {
            let dir = path.join(dir);
            disk.create_dir_all(&dir).map_err(StorageError::io("create directory", &dir))?;
        }
        check_format(&disk, &path)?;
        let mut identity = read_identity(&disk, &path)?;
        identity.boot += 1;
        let key = read_key(&disk, &path, identity.cluster_id.is_some())?;
        let dir = Self {
            inner: Arc::new(Inner {
                disk,
                path,
                identity: Mutex::new(identity.clone()),
                changing: Mutex::new(()),
                key: Mutex::new(key),
                _lock: lock,
                released: watch::Sender::new(()),
            }),
        };
        dir.write_identity_with_reserve(&identity)?;
        if let Some(parent) = dir.path().parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // The directory's own name. A parent that cannot be synced (no permission) was there before us.
            let _ = dir.disk().sync_dir(parent);
        }
        Ok(dir)
    }

    /// Ends when the last clone is gone and the lock given back. It keeps nothing open itself.
    pub fn released(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut held = self.inner.released.subscribe();
        async move { while held.changed().await.is_ok() {} }
    }

    /// The disk it lies on.
    pub fn disk(&self) -> &D {
        &self.inner.disk
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Random identity of this directory, made when it was created.
    pub fn incarnation(&self) -> Incarnation {
        self.identity().incarnation
    }

    /// How often it was opened, this time included. Durable before `open` returned.
    pub fn boot(&self) -> u64 {
        self.identity().boot
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.identity().cluster_id
    }

    /// The Raft id it has there.
    pub fn node_id(&self) -> Option<NodeId> {
        self.identity().node_id
    }

    /// The secret shared by the members of the cluster.
    pub fn cluster_key(&self) -> Option<[u8; 32]> {
        *self.inner.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it never belonged to a cluster. The log may say more: `Store::is_pristine`.
    pub fn is_pristine(&self) -> bool {
        let identity = self.identity();
        identity.cluster_id.is_none() && identity.node_id.is_none()
    }

    /// Makes the directory part of a cluster. Durable when it returns. Another cluster or id than it already has
    /// is refused: an id belongs to one directory for ever.
    pub fn set_membership(
        &self,
        cluster_id: ClusterId,
        node_id: NodeId,
        cluster_key: [u8; 32],
    ) -> Result<(), StorageError> {
        let _changing = self.changing();
        let mut identity = self.identity();
        let same = |old: Option<bool>| old.unwrap_or(true);
        if !same(identity.cluster_id.map(|id| id == cluster_id))
            || !same(identity.node_id.map(|id| id == node_id))
        {
            let problem =
                io::Error::new(io::ErrorKind::AlreadyExists, "the directory belongs to another member");
            return Err(StorageError::io("set membership in", &self.path().join(IDENTITY))(problem));
        }
        // The key first: a directory that names its cluster always has the key.
        let path = self.path().join(CLUSTER_KEY);
        write_atomically(self.disk(), self.path(), CLUSTER_KEY, &cluster_key, true)
            .map_err(StorageError::io("write", &path))?;
        identity.cluster_id = Some(cluster_id);
        identity.node_id = Some(node_id);
        self.write_identity(&identity)?;
        *self.inner.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster_key);
        Ok(())
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path().join(LOG)
    }

    pub(crate) fn snapshot_path(&self) -> PathBuf {
        self.path().join(SNAPSHOT)
    }

    pub(crate) fn log_created(&self) -> bool {
        self.identity().log_created
    }

    pub(crate) fn set_log_created(&self) -> Result<(), StorageError> {
        let _changing = self.changing();
        self.write_identity(&Identity { log_created: true, ..self.identity() })
    }

    /// Gives the reserve's space back to a full disk. Whether there was any.
    pub(crate) fn release_reserve(&self) -> bool {
        self.disk().remove(&self.path().join(RESERVE)).is_ok()
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity(&self) -> Identity {
        self.inner.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write_identity(&self, identity: &Identity) -> Result<(), StorageError> {
        let payload = append(Vec::new(), identity);
        let mut bytes = crc32fast::hash(&payload).to_le_bytes().to_vec();
        bytes.extend_from_slice(&payload);
        write_atomically(self.disk(), self.path(), IDENTITY, &bytes, false)
            .map_err(StorageError::io("write", &self.path().join(IDENTITY)))?;
        *self.inner.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity.clone();
        Ok(())
    }

    /// A start must be possible on a full disk: what it writes fits into the reserve, which is made again as
    /// soon as there is space.
    fn write_identity_with_reserve(&self, identity: &Identity) -> Result<(), StorageError> {
        match self.write_identity(identity) {
            Err(StorageError::Io { source, .. }) if is_disk_full(&source) && self.release_reserve() => {
                tracing::warn!(path = %self.path().display(), "disk full: started with the reserve");
                return self.write_identity(identity);
            }
            other => other?,
        }
        if let Err(error) = self.make_reserve() {
            tracing::warn!(path = %self.path().display(), %error, "no space for the reserve file");
        }
        Ok(())
    }

    fn make_reserve(&self) -> io::Result<()> {
        let path = self.path().join(RESERVE);
        if exists(self.disk(), self.path(), RESERVE)? && self.disk().open(&path)?.len()? >= RESERVE_BYTES {
            return Ok(());
        }
        let made = self
            .disk()
            .create(&path, false)
            .and_then(|file| file.allocate(RESERVE_BYTES).and_then(|()| file.sync_data()))
            .and_then(|()| self.disk().sync_dir(self.path()));
        if made.is_err() {
            let _ = self.disk().remove(&path);
        }
        made
    }
}

fn check_format<D: Disk>(disk: &D, path: &Path) -> Result<(), StorageError> {
    let file = path.join(FORMAT);
    let read = || -> io::Result<Option<Vec<u8>>> {
        if exists(disk, path, FORMAT)? { read_all(disk, &file).map(Some) } else { Ok(None) }
    };
    let Some(bytes) = read().map_err(StorageError::io("read", &file))? else {
        refuse_remains(disk, path, FORMAT)?;
        let text = format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n");
        return write_atomically(disk, path, FORMAT, text.as_bytes(), false)
            .map_err(StorageError::io("write", &file));
    };
    let text = String::from_utf8_lossy(&bytes);
    let found = text.trim_end().strip_prefix(FORMAT_PREFIX).and_then(|version| version.parse().ok());
    match found {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) if found > FORMAT_VERSION => {
            Err(StorageError::NewerFormat { path: path.to_path_buf(), found, supported: FORMAT_VERSION })
        }
        Some(found) => {
            let what = format!(
                "format {found} is that of a development build and cannot be read by this one, which has format \
                 {FORMAT_VERSION}: start the node with an empty directory, or with the build that wrote this one"
            );
            Err(StorageError::corrupt(&file, 0, what))
        }
        None => Err(StorageError::corrupt(&file, 0, format!("not a format version: {:?}", text.trim_end()))),
    }
}

fn read_identity<D: Disk>(disk: &D, path: &Path) -> Result<Identity, StorageError> {
    let file = path.join(IDENTITY);
    if !exists(disk, path, IDENTITY).map_err(StorageError::io("read", path))? {
        refuse_remains(disk, path, IDENTITY)?;
        let incarnation = Incarnation(random_bytes());
        return Ok(Identity { incarnation, boot: 0, cluster_id: None, node_id: None, log_created: false });
    }
    let bytes = read_all(disk, &file).map_err(StorageError::io("read", &file))?;
    let (crc, payload) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| StorageError::corrupt(&file, 0, format!("{} bytes are too few", bytes.len())))?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return Err(StorageError::corrupt(&file, 0, "checksum does not match"));
    }
    decode("identity", payload).map_err(|source| StorageError::Codec { file, source })
}

/// A directory without its `missing` file must hold nothing else of value.
fn refuse_remains<D: Disk>(disk: &D, path: &Path, missing: &str) -> Result<(), StorageError> {
    let io = |dir: &Path| StorageError::io("read directory", dir);
    let mut remains = disk.read_dir(path).map_err(io(path))?;
    remains.retain(|name| [IDENTITY, CLUSTER_KEY].contains(&name.as_str()));
    for dir in [LOG, SNAPSHOT] {
        let dir = path.join(dir);
        remains.extend(disk.read_dir(&dir).map_err(io(&dir))?);
    }
    match remains.first() {
        None => Ok(()),
        Some(name) => {
            let what = format!("the file is missing although the directory holds {name}");
            Err(StorageError::corrupt(&path.join(missing), 0, what))
        }
    }
}

fn read_key<D: Disk>(disk: &D, path: &Path, needed: bool) -> Result<Option<[u8; 32]>, StorageError> {
    let file = path.join(CLUSTER_KEY);
    if !exists(disk, path, CLUSTER_KEY).map_err(StorageError::io("read", path))? {
        return if needed {
            Err(StorageError::corrupt(&file, 0, "the cluster key is missing"))
        } else {
            Ok(None)
        };
    }
    let bytes = read_all(disk, &file).map_err(StorageError::io("read", &file))?;
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(key) => Ok(Some(key)),
        Err(_) => {
            Err(StorageError::corrupt(&file, 0, format!("the cluster key has {} bytes, not 32", bytes.len())))
        }
    }
}
