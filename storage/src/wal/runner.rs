//! Who runs the writer: a thread of its own, a task that may block a worker of the runtime, or a task of a
//! simulation.
//!
//! **On a worker** ([`WriterMode::Worker`](super::WriterMode::Worker)) a batch costs no hand-over between threads:
//! the append that woke the task left it on its own worker, and so does the answer that wakes the appender. The
//! worker is blocked while it syncs, which a quick disk (a few hundred microseconds) does not make worth a
//! second thread. After a batch that took longer than [`SLOW`], batches are written by a thread, until
//! [`QUICK_RUN`] in succession were quick again. So a slow disk costs the node one worker for one batch.

use std::future::poll_fn;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::writer::{BATCH_OPERATIONS_MAX, Operation, Writer};
use crate::disk::Disk;

/// A batch that takes longer makes the next ones go to the thread.
const SLOW: Duration = Duration::from_millis(2);
/// Batches that must be quick in succession before a worker writes again.
const QUICK_RUN: u32 = 256;

/// Drains operations on this thread until the log is dropped.
pub(super) fn run_thread<D: Disk>(mut writer: Writer<D>, mut queue: mpsc::Receiver<Operation>) {
    let mut operations = Vec::with_capacity(BATCH_OPERATIONS_MAX);
    while queue.blocking_recv_many(&mut operations, BATCH_OPERATIONS_MAX) > 0 {
        writer.process(&mut operations);
    }
}

/// Drains operations in this task until the log is dropped.
pub(super) async fn run_task<D: Disk>(mut writer: Writer<D>, mut queue: mpsc::Receiver<Operation>) {
    let mut operations = Vec::with_capacity(BATCH_OPERATIONS_MAX);
    while queue.recv_many(&mut operations, BATCH_OPERATIONS_MAX).await > 0 {
        let latency = writer.disk().latency();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        writer.process(&mut operations);
    }
}

/// A writer that whoever holds the lock may run.
pub(super) struct Seat<D: Disk> {
    running: Mutex<Option<Running<D>>>,
}

impl<D: Disk> std::fmt::Debug for Seat<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

struct Running<D: Disk> {
    writer: Writer<D>,
    queue: mpsc::Receiver<Operation>,
    operations: Vec<Operation>,
    /// Quick batches in succession; a worker writes from [`QUICK_RUN`] on.
    quick: u32,
}

enum Next {
    /// A batch was written here.
    Written,
    /// A batch waits for the thread.
    ForThread,
    /// The log was dropped.
    Ended,
}

impl<D: Disk> Seat<D> {
    pub(super) fn new(writer: Writer<D>, queue: mpsc::Receiver<Operation>) -> Self {
        let operations = Vec::with_capacity(BATCH_OPERATIONS_MAX);
        Self { running: Mutex::new(Some(Running { writer, queue, operations, quick: QUICK_RUN })) }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running<D>>> {
        // A writer that panicked has stopped the log, and answers whatever comes with that failure.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut guard = self.running();
        let Some(running) = guard.as_mut() else { return Poll::Ready(Next::Ended) };
        match running.queue.poll_recv_many(cx, &mut running.operations, BATCH_OPERATIONS_MAX) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => {
                *guard = None;
                Poll::Ready(Next::Ended)
            }
            Poll::Ready(_) if running.quick < QUICK_RUN => Poll::Ready(Next::ForThread),
            Poll::Ready(_) => {
                running.process();
                Poll::Ready(Next::Written)
            }
        }
    }

    /// Writes what waits for the thread.
    fn process(&self) {
        if let Some(running) = self.running().as_mut() {
            running.process();
        }
    }

    /// Writes what is queued and gives the writer up. The sender must be dropped before.
    pub(super) fn finish(&self) {
        let mut guard = self.running();
        let Some(mut running) = guard.take() else { return };
        loop {
            if !running.operations.is_empty() {
                running.process();
            }
            // Not by polling, which may decline for the sake of other tasks.
            while running.operations.len() < BATCH_OPERATIONS_MAX
                && let Ok(operation) = running.queue.try_recv()
            {
                running.operations.push(operation);
            }
            if running.operations.is_empty() {
                return;
            }
        }
    }
}

impl<D: Disk> Running<D> {
    fn process(&mut self) {
        let begun = Instant::now();
        self.writer.process(&mut self.operations);
        self.quick = if begun.elapsed() > SLOW { 0 } else { self.quick.saturating_add(1).min(QUICK_RUN) };
    }
}

/// Writes batches while the disk is slow.
#[derive(Debug)]
pub(super) struct SlowLane {
    jobs: SyncSender<oneshot::Sender<()>>,
}

impl SlowLane {
    /// Starts the thread. It ends when the lane is dropped.
    pub(super) fn start<D: Disk>(seat: Arc<Seat<D>>) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, work): (_, Receiver<oneshot::Sender<()>>) = sync_channel(1);
        let thread = std::thread::Builder::new().name("ovncp-log".to_owned());
        let handle = thread.spawn(move || {
            while let Ok(done) = work.recv() {
                seat.process();
                // The task that waits may be gone with its runtime.
                let _ = done.send(());
            }
        })?;
        Ok((Self { jobs }, handle))
    }

    async fn process(&self) {
        let (done, processed) = oneshot::channel();
        if self.jobs.send(done).is_ok() {
            let _ = processed.await;
        }
    }
}

/// Drains operations on a worker of the runtime, or beside it while the disk is slow.
pub(super) async fn run_worker<D: Disk>(seat: Arc<Seat<D>>, slow: SlowLane) {
    loop {
        match poll_fn(|cx| seat.poll(cx)).await {
            Next::Written => {}
            Next::ForThread => slow.process().await,
            Next::Ended => return,
        }
    }
}
