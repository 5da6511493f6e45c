//! A client for Rust programs: any number of endpoints, retries that cannot happen twice, locks that know when
//! they are lost.
//!
//! ```no_run
//! use std::time::Duration;
//! use ovncp::client::{Client, Error};
//!
//! # async fn move_port() -> Result<(), Error> { Ok(()) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .endpoint("http://10.0.0.1:8080")
//!     .endpoint("http://10.0.0.2:8080")
//!     .endpoint("http://10.0.0.3:8080")
//!     .build()?;
//!
//! // Waits in the queue, then renews in the background until it is released or lost.
//! let guard = client.lock("switch:42").owner("migrator").wait(Duration::from_secs(20)).guard().await?;
//! println!("fencing token {}", guard.fencing_token());
//! // The work is dropped as soon as the lock is no longer certain.
//! match guard.run(move_port()).await {
//!     Ok(done) => done?,
//!     Err(lost) => eprintln!("given up half way: {lost}"),
//! }
//! guard.release().await?;
//!
//! // One leader at a time, with a token per term; what it does ends before its term can.
//! let leadership = client.election("scheduler").campaign().wait(Duration::from_secs(60)).lead().await?;
//! leadership.run(move_port()).await??;
//! leadership.resign().await?;
//!
//! // Compare-and-set: only if nobody wrote since.
//! if let Some(entry) = client.kv().get("settings:mtu").await? {
//!     match client.kv().put("settings:mtu", "9000").if_revision(entry.revision).send().await {
//!         Ok(revision) => println!("stored at revision {revision}"),
//!         Err(Error::RevisionMismatch { .. }) => println!("somebody else was faster"),
//!         // It may have happened or may still: read before doing it again.
//!         Err(Error::Unknown { .. }) => println!("unknown"),
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What a call promises
//!
//! A call goes to the endpoint that answered last. When that one cannot be reached or cannot serve, the next is
//! asked, with a jittered and bounded pause before the same one is asked again (never less than its
//! `Retry-After`), until the deadline of the call. Every write carries one idempotency key over all its tries,
//! so a try whose outcome is unknown is repeated without happening twice. When the deadline passes and some try
//! may have happened, the error is [`Error::Unknown`] and nothing else: never "failed".
//!
//! Handing over leadership, removing a node and changing a log level are no entries with a key: a repeated try is
//! done anew. Name the target of a hand-over where that matters; a removal that ends as `NotFound` may be its own.
//!
//! Reads are linearizable. With [`Consistency::Local`] they are answered by whatever node is asked, which sees
//! at least everything that this client has seen or written so far, on whatever node that was.
//!
//! # Map
//!
//! `call.rs` says what is sent, `exchange.rs` sends it until an answer counts, `rotation.rs` decides whom to ask
//! and when, `error.rs` what an answer means. The typed calls on top are `locks.rs` with `guard.rs`, `elections.rs`
//! with `leadership.rs` and `observation.rs`, `kv.rs`, `cluster.rs`, `sessions.rs`, `invalidations.rs` and `events.rs` (on
//! `sse.rs`). Locks and terms are
//! one thing below: `tenure.rs` is what is held, `lease.rs` how long that is certain, `keeper.rs` renews it.
//!
//! # Caveats
//!
//! Endpoints are plain HTTP. The cluster remembers the replies of the last 100,000 writes with a key, for at most 10
//! minutes: under full load that is a matter of seconds, and a retry that comes later may happen a second time. So
//! keep deadlines short, and writes conditional where that matters. A program that is stopped (SIGSTOP, a suspended
//! machine) can do nothing about its locks meanwhile: what they protect must check the fencing token.

mod builder;
mod call;
mod cluster;
mod elections;
mod error;
mod events;
mod exchange;
mod guard;
mod invalidations;
mod keeper;
mod kv;
mod leadership;
mod lease;
mod locks;
mod observation;
mod rotation;
mod sessions;
mod sse;
mod tenure;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Url;

pub use builder::Builder;
pub use call::{Answer, Call, Consistency};
pub use cluster::{Cluster, ClusterView, LeaderView, NodeView, NodesView};
pub use elections::{Campaign, CandidateView, Election, ElectionView, Term, TermView};
pub use error::{Error, Holder, Problem};
pub use events::{Event, Events, EventsRequest};
pub use guard::Guard;
pub use invalidations::{
    Cleared, Followed, Follower, InvalidateRequest, Invalidated, Invalidation, InvalidationPage,
    InvalidationProgress,
};
pub use keeper::{LossSignal, Lost};
pub use kv::{DeleteRequest, Entry, Key, Kv, PutRequest};
pub use leadership::Leadership;
pub use lease::Lease;
pub use locks::{HolderView, Lock, LockRequest, LockView, Mode, WaiterView};
pub use observation::{Change, EndedTerm, Observation, Observed, ObservedLeader};
pub use sessions::{DrainView, SessionFilter, SessionView, Sessions};
pub use tenure::Renewed;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins; absent at the end.
    pub next_cursor: Option<String>,
}

/// A connection pool to one cluster. Cheap to clone; all clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    endpoints: Vec<Url>,
    /// Position of the endpoint that answered last.
    preferred: AtomicUsize,
    /// Largest index that any answer showed.
    seen_index: AtomicU64,
    token: Option<String>,
    owner: String,
    deadline: Duration,
    try_timeout: Duration,
    fail_fast: bool,
}

impl Client {
    /// Begins a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The largest index that any answer showed: what a local read through this client sees at least. Hand it
    /// to another process together with what was written, and let that one call
    /// [`see_index`](Self::see_index), and it reads what this one wrote.
    #[must_use]
    pub fn seen_index(&self) -> u64 {
        self.inner.seen_index.load(Ordering::Relaxed)
    }

    /// Makes local reads see at least this index.
    pub fn see_index(&self, index: u64) {
        self.inner.seen_index.fetch_max(index, Ordering::Relaxed);
    }
}

/// 128 random bits as hexadecimal digits: idempotency keys, secrets.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// As the API wants it: a duration that is no whole number of milliseconds is rounded up.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
