//! Recording while a run goes on: each event is written through to `history.jsonl` at once, so that a killed
//! harness leaves what it saw.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::{Event, History, Kind, Process};

/// Records events of all processes in one order. Clones share the history.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    next_process: AtomicU64,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    events: Vec<Event>,
    file: Option<BufWriter<File>>,
    /// First trouble with the file: it ends the run with an error instead of losing lines silently.
    trouble: Option<std::io::Error>,
}

/// What an operation is about; given at its invocation and repeated at its completion.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Who.
    pub process: Process,
    /// What.
    pub f: String,
    /// The object.
    pub key: Option<String>,
    /// The node that is asked.
    pub node: Option<String>,
}

impl Recorder {
    /// Records in memory and, where a path is given, in a new file of JSON lines.
    pub fn new(path: Option<&Path>) -> std::io::Result<Self> {
        let file = path.map(File::create_new).transpose()?.map(BufWriter::new);
        let written = Mutex::new(Written { events: Vec::new(), file, trouble: None });
        Ok(Self {
            inner: Arc::new(Inner { began: Instant::now(), next_process: AtomicU64::new(0), written }),
        })
    }

    /// A number that no client of this run has had.
    pub fn new_process(&self) -> Process {
        Process::Client(self.inner.next_process.fetch_add(1, Ordering::Relaxed))
    }

    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.inner.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// When the run began.
    pub fn began(&self) -> Instant {
        self.inner.began
    }

    /// Records that `invocation` begins with the arguments `value`. Call it before anything is sent.
    pub fn invoke(&self, invocation: &Invocation, value: Value) {
        self.record(invocation, Kind::Invoke, value, None);
    }

    /// Records the outcome of `invocation`. Call it after the answer has arrived whole.
    pub fn complete(&self, invocation: &Invocation, kind: Kind, value: Value, error: Option<String>) {
        self.record(invocation, kind, value, error);
    }

    fn record(&self, invocation: &Invocation, kind: Kind, value: Value, error: Option<String>) {
        let mut written = self.inner.written.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            index: written.events.len() as u64,
            process: invocation.process,
            kind,
            f: invocation.f.clone(),
            key: invocation.key.clone(),
            value,
            // Read under the lock: times grow with the index.
            time_ns: self.now_ns(),
            node: invocation.node.clone(),
            error,
        };
        if let Some(file) = &mut written.file {
            let line = serde_json::to_writer(&mut *file, &event).map_err(std::io::Error::from);
            if let Err(trouble) = line.and_then(|()| file.write_all(b"\n")) {
                written.trouble.get_or_insert(trouble);
            }
        }
        written.events.push(event);
    }

    /// Looks at the events so far. Nothing is recorded meanwhile: be quick.
    pub fn with_events<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.inner.written.lock().unwrap_or_else(PoisonError::into_inner).events)
    }

    /// Flushes the file and gives the history so far; an error where any line could not be written.
    pub fn history(&self) -> std::io::Result<History> {
        let mut written = self.inner.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trouble) = written.trouble.take() {
            return Err(trouble);
        }
        if let Some(file) = &mut written.file {
            file.flush()?;
        }
        Ok(History { events: written.events.clone() })
    }
}
