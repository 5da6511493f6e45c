//! tokio as openraft's runtime, with two things that a simulation needs.
//!
//! A random number generator that can be seeded: openraft draws election time-outs from its runtime. In
//! production this is the operating system's generator. A simulation runs every node on one thread and seeds
//! that thread, so that a run can be replayed exactly. [`random_u64`] is the one source for our own tickets,
//! jitter and the like.
//!
//! A [`Scope`] around all tasks of one node: they can be aborted together at any moment, as a kill does. Every
//! task of a node is spawned by [`spawn`], openraft's included.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::{SmallRng, ThreadRng};
use rand::{Rng, SeedableRng, TryRng};
use tokio::task::{AbortHandle, JoinHandle};

tokio::task_local! {
    static SCOPE: Scope;
}

thread_local! {
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// From now on everything on this thread that draws from [`Runtime`] or [`random_u64`] is determined by
/// `seed`; `None` returns to the operating system's generator. For simulations only: nothing secret may be
/// drawn while a seed is set.
pub fn seed_this_thread(seed: Option<u64>) {
    SEEDED.with(|rng| *rng.borrow_mut() = seed.map(SmallRng::seed_from_u64));
}

/// A random number, from the seed of this thread when it has one.
pub fn random_u64() -> u64 {
    thread_rng().next_u64()
}

/// Random bytes, from the seed of this thread when it has one.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    thread_rng().fill_bytes(&mut bytes);
    bytes
}

fn thread_rng() -> RuntimeRng {
    let seeded =
        SEEDED.with(|rng| rng.borrow_mut().as_mut().map(|rng| SmallRng::seed_from_u64(rng.next_u64())));
    match seeded {
        Some(rng) => RuntimeRng::Seeded(rng),
        None => RuntimeRng::System(rand::rng()),
    }
}

/// All tasks of one node. Tasks spawned by a task of a scope belong to it too.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    tasks: Arc<Mutex<Tasks>>,
}

#[derive(Debug, Default)]
struct Tasks {
    killed: bool,
    running: Vec<AbortHandle>,
    /// Look for ended tasks when there are so many.
    sweep_at: usize,
}

impl Scope {
    /// An empty scope.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` as a part of this scope.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        SCOPE.scope(self.clone(), future).await
    }

    /// Aborts every task of this scope, and every one that is still spawned in it. They end when the runtime
    /// next looks at them, without running any more of their own code than destructors.
    pub fn kill(&self) {
        let mut tasks = self.lock();
        tasks.killed = true;
        for task in tasks.running.drain(..) {
            task.abort();
        }
    }

    fn adopt(&self, task: AbortHandle) {
        let mut tasks = self.lock();
        if tasks.killed {
            task.abort();
            return;
        }
        if tasks.running.len() >= tasks.sweep_at {
            tasks.running.retain(|task| !task.is_finished());
            tasks.sweep_at = (2 * tasks.running.len()).max(64);
        }
        tasks.running.push(task);
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spawns a task, in the scope of the spawning task when it has one.
pub fn spawn<T>(future: T) -> JoinHandle<T::Output>
where
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    match SCOPE.try_with(Scope::clone) {
        Err(_) => tokio::spawn(future),
        Ok(scope) => {
            let task = tokio::spawn(SCOPE.scope(scope.clone(), future));
            scope.adopt(task.abort_handle());
            task
        }
    }
}

/// What [`Runtime`] draws from.
#[derive(Debug)]
pub enum RuntimeRng {
    /// Seeded by the operating system.
    System(ThreadRng),
    /// Seeded by [`seed_this_thread`].
    Seeded(SmallRng),
}

impl TryRng for RuntimeRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(match self {
            Self::System(rng) => rng.next_u32(),
            Self::Seeded(rng) => rng.next_u32(),
        })
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(match self {
            Self::System(rng) => rng.next_u64(),
            Self::Seeded(rng) => rng.next_u64(),
        })
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::System(rng) => rng.fill_bytes(bytes),
            Self::Seeded(rng) => rng.fill_bytes(bytes),
        }
        Ok(())
    }
}

/// tokio with a seedable generator.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = RuntimeRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> RuntimeRng {
        thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, std::io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_scope_takes_all_its_tasks_with_it() {
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let scope = Scope::new();
        let inner = alive.clone();
        scope
            .run(async move {
                spawn(async move {
                    let _child = Runtime::spawn(async move {
                        let _alive = inner;
                        std::future::pending::<()>().await;
                    });
                    std::future::pending::<()>().await;
                });
            })
            .await;
        tokio::task::yield_now().await;
        scope.kill();
        let late = alive.clone();
        scope
            .run(async move {
                spawn(async move {
                    let _late = late;
                    std::future::pending::<()>().await;
                })
            })
            .await;
        drop(alive);
        // Resolves only when every task has dropped its sender.
        assert_eq!(gone.recv().await, None);
    }

    #[test]
    fn a_seed_determines_every_draw_and_can_be_taken_back() {
        let draw = |seed| {
            seed_this_thread(Some(seed));
            let drawn: [u64; 3] = std::array::from_fn(|_| random_u64());
            let bytes: [u8; 16] = random_bytes();
            seed_this_thread(None);
            (drawn, bytes)
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(random_bytes::<16>(), random_bytes::<16>());
    }
}
