//! tokio as openraft's runtime, with a random number generator that a simulation can seed.
//!
//! openraft draws election time-outs from its runtime. In production this is the operating system's
//! generator. A simulation runs every node on one thread and seeds that thread, so that a run can be
//! replayed exactly. Ours too: [`random_u64`] is the one source for tickets, jitter and the like. And every task
//! is started by [`spawn`] (or passes through [`adopt`]), so that a simulation can kill or stop one node's.

mod process;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::{SmallRng, ThreadRng};
use rand::{Rng, SeedableRng, TryRng};

pub use process::{Owned, Process, adopt, spawn};

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
        TokioRuntime::spawn(adopt(future))
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
