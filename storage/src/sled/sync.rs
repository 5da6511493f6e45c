//! Makes what sled wrote durable: its flush, then an fdatasync of its files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ::sled::Db;
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::types::TypeConfig;

/// sled's log, in its directory.
const LOG: &str = "db";
/// Where sled puts values that are larger than one of its segments, a file each.
const BLOBS: &str = "blobs";
/// Answers that share a sync at most.
const BATCH_SYNCS_MAX: usize = 1_024;

/// Who waits for a sync.
pub(super) enum Synced {
    Flushed(IOFlushed<TypeConfig>),
    Done(oneshot::Sender<io::Result<()>>),
}

/// Syncs the files of one database.
pub(super) struct Syncer {
    db: Db,
    log: File,
    blobs: PathBuf,
    blobs_synced: BTreeSet<PathBuf>,
}

impl Syncer {
    pub(super) fn open(db: Db, path: &Path) -> io::Result<Self> {
        let log = File::open(path.join(LOG))?;
        // The names of what sled made.
        File::open(path)?.sync_all()?;
        Ok(Self { db, log, blobs: path.join(BLOBS), blobs_synced: BTreeSet::new() })
    }

    /// Answers until the log is dropped. A failure is final: what sled holds in memory and what is on the disk
    /// may differ from then on.
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Synced>) {
        let mut batch = Vec::with_capacity(BATCH_SYNCS_MAX);
        while waiting.blocking_recv_many(&mut batch, BATCH_SYNCS_MAX) > 0 {
            let result = self.sync();
            for answer in batch.drain(..) {
                answer.send(result.as_ref().map(|_| ()).map_err(|error| error.to_string()));
            }
            if let Err(error) = result {
                tracing::error!(%error, "the log stopped");
                return;
            }
        }
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.db.flush().map_err(io::Error::other)?;
        self.sync_blobs()?;
        self.log.sync_data()
    }

    fn sync_blobs(&mut self) -> io::Result<()> {
        let mut found = BTreeSet::new();
        for blob in fs::read_dir(&self.blobs)? {
            found.insert(blob?.path());
        }
        for blob in found.difference(&self.blobs_synced) {
            match File::open(blob) {
                Ok(file) => file.sync_all()?,
                // Collected meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if found != self.blobs_synced {
            File::open(&self.blobs)?.sync_all()?;
            self.blobs_synced = found;
        }
        Ok(())
    }
}

impl Synced {
    fn send(self, result: Result<(), String>) {
        let result = result.map_err(io::Error::other);
        match self {
            Self::Flushed(flushed) => flushed.io_completed(result),
            // Who does not wait any more needs no answer.
            Self::Done(done) => drop(done.send(result)),
        }
    }
}
