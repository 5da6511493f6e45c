//! Segment files: made ready ahead of their use, retired behind it.
//!
//! A new segment gets its name only once all its blocks are written with zeroes and synced, so that appending to
//! it never allocates: an fdatasync on written blocks costs half of one on a growing file. Retired ones are kept (a
//! few) and used again as they are: their sectors tell that they are of an earlier life (`sector`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::disk::{Disk, File};
use crate::error::StorageError;

const SUFFIX: &str = ".wal";
/// A segment being made ready.
const NEXT: &str = "next.tmp";
/// A retired segment that waits to be used again, behind the number that it had.
const FREE_SUFFIX: &str = ".free";
/// Retired segments kept: about what a snapshot purges at once.
pub(super) const FREE_MAX: usize = 4;
/// Zeroes are written and synced in pieces, so that a sync of the log in between is not held up for long. Smaller
/// pieces disturb it more, by the number of their syncs.
const ZERO_BYTES: usize = 1_024 * 1_024;
/// Jobs that may wait for the helper thread: one preparation and a few retirements.
const JOBS_MAX: usize = 16;

/// Name of a segment.
pub(super) fn name(segment: u32) -> String {
    format!("{segment:010}{SUFFIX}")
}

/// Number of a segment file, if it is one.
pub(super) fn number(name: &str) -> Option<u32> {
    name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 10)?.parse().ok()
}

/// Whether a file holds nothing of the log: being made ready, or waiting to be used again.
pub(super) fn is_unused(name: &str) -> bool {
    name == NEXT || name.ends_with(FREE_SUFFIX)
}

/// Open files of all segments, for readers.
#[derive(Debug)]
pub(super) struct Files<F> {
    open: Mutex<BTreeMap<u32, Arc<F>>>,
}

impl<F> Default for Files<F> {
    fn default() -> Self {
        Self { open: Mutex::new(BTreeMap::new()) }
    }
}

impl<F> Files<F> {
    pub(super) fn get(&self, segment: u32) -> Option<Arc<F>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned()
    }

    /// Adds one; how many there are.
    pub(super) fn insert(&self, segment: u32, file: Arc<F>) -> usize {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(segment, file);
        open.len()
    }

    /// Takes all segments below `keep` out; their numbers, and how many are left.
    pub(super) fn retire_below(&self, keep: u32) -> (Vec<u32>, usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = open.split_off(&keep);
        let left = kept.len();
        (std::mem::replace(&mut *open, kept).into_keys().collect(), left)
    }
}

/// Where segments lie and how large they are.
#[derive(Clone, Debug)]
pub(super) struct Place<D> {
    pub(super) disk: D,
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u32,
}

impl<D: Disk> Place<D> {
    pub(super) fn path(&self, segment: u32) -> PathBuf {
        self.dir.join(name(segment))
    }

    fn free_path(&self, segment: u32) -> PathBuf {
        self.dir.join(format!("{segment:010}{FREE_SUFFIX}"))
    }

    /// Makes a segment of zeroes, durable under its name.
    pub(super) fn prepare(&self, segment: u32) -> Result<Arc<D::File>, StorageError> {
        let path = self.dir.join(NEXT);
        self.zeroed(&path).map_err(StorageError::io("prepare", &path))?;
        self.name(&path, segment)
    }

    /// Gives a file the name of a segment, durably, and opens it.
    fn name(&self, path: &Path, segment: u32) -> Result<Arc<D::File>, StorageError> {
        let named = self.path(segment);
        self.disk.rename(path, &named).map_err(StorageError::io("rename", path))?;
        self.disk.sync_dir(&self.dir).map_err(StorageError::io("sync", &self.dir))?;
        self.disk.open_direct(&named).map(Arc::new).map_err(StorageError::io("open", &named))
    }

    fn zeroed(&self, path: &Path) -> io::Result<()> {
        let bytes = u64::from(self.segment_bytes);
        let file = self.disk.create(path, false)?;
        file.allocate(bytes)?;
        let zeroes = vec![0; ZERO_BYTES.min(self.segment_bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let count = zeroes.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            file.write_at(&zeroes[..count], at)?;
            file.sync_data()?;
            at += count as u64;
        }
        Ok(())
    }
}

/// Segments to come: makes them, and keeps some of those that were.
#[derive(Debug)]
struct Stock<D> {
    place: Place<D>,
    /// Retired segments, durable under the name that says so.
    free: Vec<u32>,
}

impl<D: Disk> Stock<D> {
    fn new(place: Place<D>) -> Self {
        Self { place, free: Vec::new() }
    }

    fn prepare(&mut self, segment: u32) -> Result<Arc<D::File>, StorageError> {
        let Some(free) = self.free.pop() else { return self.place.prepare(segment) };
        self.place.name(&self.place.free_path(free), segment)
    }

    /// Gives the space of retired segments back, but for some that are used again.
    fn retire(&mut self, segments: &[u32]) -> Result<(), StorageError> {
        let place = &self.place;
        let (kept, removed) = segments.split_at(segments.len().min(FREE_MAX - self.free.len()));
        for segment in kept {
            let path = place.path(*segment);
            place
                .disk
                .rename(&path, &place.free_path(*segment))
                .map_err(StorageError::io("rename", &path))?;
        }
        for segment in removed {
            let path = place.path(*segment);
            place.disk.remove(&path).map_err(StorageError::io("remove", &path))?;
        }
        // Before one of them is overwritten: its old name must never lead to the new content.
        place.disk.sync_dir(&place.dir).map_err(StorageError::io("sync", &place.dir))?;
        self.free.extend_from_slice(kept);
        Ok(())
    }
}

/// A segment's number and file.
pub(super) type Numbered<D> = (u32, Arc<<D as Disk>::File>);

/// Who prepares and retires: a thread of its own, or the writer itself (in a simulation).
#[derive(Debug)]
pub(super) struct Helper<D: Disk> {
    place: Place<D>,
    /// Without a thread, its own.
    stock: Stock<D>,
    thread: Option<Thread<D>>,
    /// Prepared ahead or found at the start.
    ready: Option<Numbered<D>>,
}

#[derive(Debug)]
struct Thread<D: Disk> {
    jobs: Option<SyncSender<Job>>,
    prepared: Receiver<Result<Numbered<D>, StorageError>>,
    handle: Option<JoinHandle<()>>,
    /// A preparation is under way.
    asked: Option<u32>,
}

enum Job {
    Prepare(u32),
    Retire(Vec<u32>),
}

/// Called with each failure of the helper thread, as soon as it happens.
pub(super) type OnFailure = Box<dyn Fn(&StorageError) + Send>;

impl<D: Disk> Helper<D> {
    /// A helper on its own thread, or without one when `on_failure` is `None`.
    pub(super) fn new(place: Place<D>, on_failure: Option<OnFailure>) -> Result<Self, StorageError> {
        let thread = match on_failure {
            None => None,
            Some(on_failure) => {
                let (jobs, work) = sync_channel(JOBS_MAX);
                let (done, prepared) = sync_channel(1);
                let stock = Stock::new(place.clone());
                let handle = std::thread::Builder::new()
                    .name("ovncp-log-space".to_owned())
                    .spawn(move || run(stock, &work, &done, &on_failure))
                    .map_err(StorageError::io("start a thread for", &place.dir))?;
                Some(Thread { jobs: Some(jobs), prepared, handle: Some(handle), asked: None })
            }
        };
        Ok(Self { stock: Stock::new(place.clone()), place, thread, ready: None })
    }

    /// A segment that is ready already.
    pub(super) fn has_ready(&mut self, segment: u32, file: Arc<D::File>) {
        self.ready = Some((segment, file));
    }

    /// Starts to prepare a segment.
    pub(super) fn ask(&mut self, segment: u32) {
        if self.ready.as_ref().is_some_and(|(ready, _)| *ready == segment) {
            return;
        }
        if let Some(thread) = &mut self.thread {
            thread.asked = Some(segment);
            thread.send(Job::Prepare(segment));
        }
    }

    /// The prepared segment, waiting for it if need be.
    pub(super) fn take(&mut self, segment: u32) -> Result<Arc<D::File>, StorageError> {
        if let Some((ready, file)) = self.ready.take()
            && ready == segment
        {
            return Ok(file);
        }
        if let Some(thread) = &mut self.thread
            && thread.asked.take() == Some(segment)
        {
            let gone =
                || StorageError::io("prepare", &self.place.path(segment))(io::ErrorKind::BrokenPipe.into());
            return thread.prepared.recv().map_err(|_| gone())?.map(|(_, file)| file);
        }
        self.stock.prepare(segment)
    }

    /// Gives segments back.
    pub(super) fn retire(&mut self, segments: Vec<u32>) -> Result<(), StorageError> {
        match &mut self.thread {
            Some(thread) => {
                thread.send(Job::Retire(segments));
                Ok(())
            }
            None => self.stock.retire(&segments),
        }
    }
}

impl<D: Disk> Thread<D> {
    fn send(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A thread that is gone has reported why, and `take` finds out.
            let _ = jobs.send(job);
        }
    }
}

impl<D: Disk> Drop for Thread<D> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn run<D: Disk>(
    mut stock: Stock<D>,
    work: &Receiver<Job>,
    done: &SyncSender<Result<Numbered<D>, StorageError>>,
    on_failure: &OnFailure,
) {
    while let Ok(job) = work.recv() {
        match job {
            Job::Prepare(segment) => {
                let prepared = stock.prepare(segment).map(|file| (segment, file));
                let failed = prepared.is_err();
                if let Err(error) = &prepared {
                    on_failure(error);
                }
                if done.send(prepared).is_err() || failed {
                    return;
                }
            }
            Job::Retire(segments) => {
                if let Err(error) = stock.retire(&segments) {
                    // The recycled segment may still have its old name on disk: it must not be overwritten.
                    on_failure(&error);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, SimDisk, SimOp};

    #[test]
    fn a_segment_that_may_keep_its_old_name_is_not_overwritten() {
        let disk = SimDisk::new();
        let place = Place { disk: disk.clone(), dir: PathBuf::from("/log"), segment_bytes: 4_096 };
        disk.create_dir_all(&place.dir).unwrap();
        let file = place.prepare(1).unwrap();
        file.write_at(&[7; 4_096], 0).unwrap();
        file.sync_data().unwrap();
        // It is retired under another name, but that is not durable.
        disk.inject(Fault { op: SimOp::SyncDir, path: "/log".into(), after: 0, errno: 5, sticky: true });
        let (jobs, work) = sync_channel(JOBS_MAX);
        let (done, _prepared) = sync_channel(1);
        let (failures, failed) = sync_channel(JOBS_MAX);
        jobs.send(Job::Retire(vec![1])).unwrap();
        jobs.send(Job::Prepare(2)).unwrap();
        drop(jobs);
        let on_failure: OnFailure = Box::new(move |error| failures.send(error.to_string()).unwrap());
        run(Stock::new(place.clone()), &work, &done, &on_failure);
        assert!(failed.recv().unwrap().contains("/log"));
        let crashed = (0..16).filter_map(|seed| disk.fork().crash(seed).content(&place.path(1)));
        let kept: Vec<_> = crashed.collect();
        assert!(!kept.is_empty(), "some crash undoes the renaming");
        kept.iter().for_each(|content| assert_eq!(*content, [7; 4_096]));
    }
}
