//! What happened in a run, in order: a tail of lines for people and one hash over everything for replay.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Lines kept for a failure report.
const TAIL_LINES: usize = 400;

/// The record of one run. Clones share it.
#[derive(Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
    start: Instant,
}

struct Inner {
    hash: Digest,
    lines: u64,
    tail: VecDeque<String>,
    violations: Vec<String>,
    echo: bool,
}

impl Trace {
    /// Starts at the present instant of the runtime.
    pub fn new() -> Self {
        let inner = Inner {
            hash: Digest::default(),
            lines: 0,
            tail: VecDeque::new(),
            violations: Vec::new(),
            echo: std::env::var_os("SIM_TRACE").is_some(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), start: Instant::now() }
    }

    /// Virtual milliseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    /// Records that something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>8} ms  {what}", self.now());
        let mut inner = self.lock();
        if inner.echo {
            println!("{line}");
        }
        inner.hash.bytes(line.as_bytes());
        inner.lines += 1;
        if inner.tail.len() == TAIL_LINES {
            inner.tail.pop_front();
        }
        inner.tail.push_back(line);
    }

    /// Records what is too much for people to read.
    pub fn mark(&self, number: u64) {
        let now = self.now();
        let mut inner = self.lock();
        inner.hash.bytes(&now.to_le_bytes());
        inner.hash.bytes(&number.to_le_bytes());
    }

    /// Records that something must not be. The run ends at its next look.
    pub fn violation(&self, what: String) {
        self.note(format_args!("VIOLATION {what}"));
        self.lock().violations.push(what);
    }

    /// The first thing that must not be.
    pub fn first_violation(&self) -> Option<String> {
        self.lock().violations.first().cloned()
    }

    /// Hash over everything recorded so far.
    pub fn hash(&self) -> u64 {
        self.lock().hash.value()
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        self.lock().tail.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// FNV-1a over whatever is written to it.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn value(self) -> u64 {
        self.0
    }

    /// Of anything that can be printed for debugging.
    pub fn of(value: &impl fmt::Debug) -> u64 {
        let mut digest = Self::default();
        write!(digest, "{value:?}").unwrap();
        digest.value()
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}
