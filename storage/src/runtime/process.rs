//! Simulated processes: the tasks of one node of many on one thread, which end or stand still together.
//!
//! A simulation polls a node's first future within [`Process::own`]; whatever that starts by [`spawn`] or
//! [`adopt`] belongs to the same process, and so on. [`Process::kill`] drops all of it at once, wherever each
//! task stands, as `kill -9` would; [`Process::pause`] polls none of it until [`Process::resume`], as
//! `SIGSTOP` would, while clocks go on. Outside of a process (in production, always) nothing is wrapped and the
//! price is one look at a thread-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::future::Either;

use super::Runtime;
use openraft_rt::AsyncRuntime;

thread_local! {
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
    /// Futures adopted and not seen by [`Process::adopting`] yet.
    static ADOPTED: Cell<u64> = const { Cell::new(0) };
}

/// Spawns on the current runtime, within the current process if there is one. Use it in place of
/// `tokio::spawn`, or a simulation cannot kill the task.
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Runtime::spawn(future)
}

/// Makes a future part of the current process, for those who spawn it by other means (a `JoinSet`).
pub fn adopt<F>(future: F) -> impl Future<Output = F::Output> + Send
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match Process::current() {
        None => Either::Left(future),
        Some(process) => {
            ADOPTED.set(ADOPTED.get() + 1);
            Either::Right(process.own(future))
        }
    }
}

/// A simulated process. Clones name the same one.
#[derive(Clone, Default)]
pub struct Process {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    killed: bool,
    paused: bool,
    next: u64,
    tasks: BTreeMap<u64, Arc<dyn Kill>>,
    /// Who wanted to run while it was paused.
    stopped: Vec<Waker>,
}

/// A task whose future can be dropped from outside.
trait Kill: Send + Sync {
    fn kill(&self);
}

type Slot<T> = Mutex<Option<Pin<Box<dyn Future<Output = T> + Send>>>>;

impl<T> Kill for Slot<T> {
    fn kill(&self) {
        // Dropped outside of the lock: the drop may run anything.
        let future = lock(self).take();
        drop(future);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// A process without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process whose task is polled right now.
    pub fn current() -> Option<Self> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// Whether a future was adopted since this was asked last. A simulation asks at each spawn, to find tasks that
    /// would outlive their process.
    pub fn adopting() -> bool {
        ADOPTED.replace(0) > 0
    }

    /// Makes `future` a task of this process. It never resolves once the process is killed.
    pub fn own<F>(&self, future: F) -> Owned<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let slot: Arc<Slot<F::Output>> = Arc::new(Mutex::new(Some(Box::pin(future))));
        let mut inner = lock(&self.inner);
        let id = inner.next;
        inner.next += 1;
        if inner.killed {
            drop(inner);
            slot.kill();
        } else {
            inner.tasks.insert(id, slot.clone());
        }
        Owned { process: self.clone(), id, slot }
    }

    /// Drops every task where it stands. Not to be called by one of its own tasks.
    pub fn kill(&self) {
        let tasks = {
            let mut inner = lock(&self.inner);
            inner.killed = true;
            inner.stopped.clear();
            std::mem::take(&mut inner.tasks)
        };
        let _entered = Entered::new(self);
        for task in tasks.into_values() {
            task.kill();
        }
    }

    /// From now on no task is polled.
    pub fn pause(&self) {
        lock(&self.inner).paused = true;
    }

    /// Lets the tasks go on.
    pub fn resume(&self) {
        let stopped = {
            let mut inner = lock(&self.inner);
            inner.paused = false;
            std::mem::take(&mut inner.stopped)
        };
        stopped.into_iter().for_each(Waker::wake);
    }

    /// Tasks that have not ended.
    pub fn tasks(&self) -> usize {
        lock(&self.inner).tasks.len()
    }
}

/// Makes a process the current one while it lives.
struct Entered(Option<Process>);

impl Entered {
    fn new(process: &Process) -> Self {
        Self(CURRENT.with(|current| current.borrow_mut().replace(process.clone())))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.0.take();
        CURRENT.with(|current| *current.borrow_mut() = before);
    }
}

/// A task of a [`Process`].
pub struct Owned<T> {
    process: Process,
    id: u64,
    slot: Arc<Slot<T>>,
}

impl<T> Future for Owned<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        {
            let mut inner = lock(&self.process.inner);
            if inner.killed {
                return Poll::Pending;
            }
            if inner.paused {
                inner.stopped.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let _entered = Entered::new(&self.process);
        let mut slot = lock(&self.slot);
        let Some(future) = slot.as_mut() else { return Poll::Pending };
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            let future = slot.take();
            drop(slot);
            drop(future);
            lock(&self.process.inner).tasks.remove(&self.id);
        }
        polled
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        let _entered = Entered::new(&self.process);
        lock(&self.process.inner).tasks.remove(&self.id);
        self.slot.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    struct Alive(Arc<AtomicU32>);

    impl Alive {
        fn new(count: &Arc<AtomicU32>) -> Self {
            count.fetch_add(1, Ordering::Relaxed);
            Self(count.clone())
        }
    }

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A task with a child by each way of spawning; all count.
    async fn family(alive: Arc<AtomicU32>, ticks: Arc<AtomicU32>) {
        let _alive = Alive::new(&alive);
        let child = |alive: Arc<AtomicU32>, ticks: Arc<AtomicU32>| async move {
            let _alive = Alive::new(&alive);
            loop {
                ticks.fetch_add(1, Ordering::Relaxed);
                sleep(STEP).await;
            }
        };
        let mut set = JoinSet::new();
        set.spawn(adopt(child(alive.clone(), ticks.clone())));
        drop(spawn(child(alive.clone(), ticks.clone())));
        set.join_next().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_drops_every_task_at_once_and_spares_others() {
        let (alive, ticks) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (first, second) = (Process::new(), Process::new());
        for process in [&first, &second] {
            drop(tokio::spawn(process.own(family(alive.clone(), ticks.clone()))));
        }
        sleep(STEP / 2).await;
        assert_eq!((alive.load(Ordering::Relaxed), first.tasks()), (6, 3));
        first.kill();
        assert_eq!((alive.load(Ordering::Relaxed), first.tasks()), (3, 0), "at once, without another poll");
        let before = ticks.load(Ordering::Relaxed);
        sleep(STEP).await;
        assert_eq!(ticks.load(Ordering::Relaxed), before + 2, "the other process goes on");
        drop(tokio::spawn(first.own(family(alive.clone(), ticks.clone()))));
        sleep(STEP).await;
        assert_eq!(alive.load(Ordering::Relaxed), 3, "nothing starts in a dead process");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_process_stands_still_and_goes_on_where_it_was() {
        let (alive, ticks) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let process = Process::new();
        drop(tokio::spawn(process.own(family(alive.clone(), ticks.clone()))));
        sleep(STEP / 2).await;
        process.pause();
        let before = ticks.load(Ordering::Relaxed);
        sleep(STEP * 10).await;
        assert_eq!((ticks.load(Ordering::Relaxed), alive.load(Ordering::Relaxed)), (before, 3));
        process.resume();
        sleep(STEP / 2).await;
        assert_eq!(ticks.load(Ordering::Relaxed), before + 2);
    }

    #[tokio::test]
    async fn outside_of_a_process_nothing_is_wrapped() {
        assert!(Process::current().is_none());
        assert_eq!(spawn(async { 7 }).await.unwrap(), 7);
        assert!(adopt(async { Process::current().is_none() }).await);
    }
}
