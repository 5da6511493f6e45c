//! What happens between two hosts, for each direction by itself.
//!
//! A fault imposes an [`Impairment`] on some ordered pairs and gets an [`Imposed`] to lift it again; several may
//! lie on one pair. Every frame (or, of the proxy, every piece of a stream) is judged against all of them, and
//! each impairment counts what it hit: that count is the measured effect of the fault.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::sync::watch;

/// How a link is worse than it should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Impairment {
    /// Nothing comes through.
    Cut,
    /// A frame is lost with this probability.
    Loss {
        /// 0 to 1.
        probability: f64,
    },
    /// Everything comes later, in order.
    Delay {
        /// At least this much.
        by: Duration,
        /// Up to this much more, drawn for each frame.
        jitter: Duration,
    },
    /// A frame comes twice with this probability.
    Duplicate {
        /// 0 to 1.
        probability: f64,
    },
    /// A frame is held back with this probability, so that later ones overtake it.
    Reorder {
        /// 0 to 1.
        probability: f64,
        /// For how long.
        by: Duration,
    },
    /// No more than this comes through.
    Rate {
        /// Of frames, headers included.
        bytes_per_second: u64,
    },
}

/// An ordered pair of host names: from, to.
pub type Pair = (String, String);

/// A frame that waits longer than this for its turn under [`Impairment::Rate`] is dropped, as by a full queue.
const RATE_QUEUE_MAX: Duration = Duration::from_millis(500);
/// A frame that comes later than this because of a rate was hit by it, whether it waited for others or for its own end.
const RATE_FELT: Duration = Duration::from_millis(1);

/// Receipt for an impairment; lift it with [`Links::lift`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Imposed {
    id: u64,
}

/// What an impairment did, over all of its pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// Frames that it dropped, delayed, doubled or held back; of the proxy: pieces of streams and connections.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What shall happen to one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on at once.
    Pass,
    /// It never arrives.
    Drop,
    /// One copy is due at each of these times.
    Later(Vec<Instant>),
}

/// What a stream between two hosts must respect at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Added to the time at which a piece arrived.
    pub delay: Duration,
    /// Lowest imposed rate.
    pub bytes_per_second: Option<u64>,
}

/// The links of all hosts.
#[derive(Debug)]
pub struct Links {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    next_id: u64,
    links: BTreeMap<Pair, Link>,
}

#[derive(Debug, Default)]
struct Link {
    imposed: Vec<Lying>,
    /// Under a delay with jitter nothing overtakes: due times only grow.
    last_due: Option<Instant>,
}

/// One impairment on one pair.
#[derive(Debug)]
struct Lying {
    id: u64,
    impairment: Impairment,
    hits: Hits,
    /// When the next byte may go, under a rate.
    free_at: Option<Instant>,
}

impl Links {
    /// Links without any impairment; chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let inner = Inner { rng: StdRng::seed_from_u64(seed), next_id: 0, links: BTreeMap::new() };
        Self { inner: Mutex::new(inner), changes: watch::channel(0).0 }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts an impairment on each of the pairs.
    pub fn impose(&self, pairs: &[Pair], impairment: Impairment) -> Imposed {
        let id = self.with(|inner| {
            inner.next_id += 1;
            for pair in pairs {
                let lying = Lying { id: inner.next_id, impairment, hits: Hits::default(), free_at: None };
                inner.links.entry(pair.clone()).or_default().imposed.push(lying);
            }
            inner.next_id
        });
        self.changes.send_modify(|changes| *changes += 1);
        Imposed { id }
    }

    /// Takes an impairment away and says what it did.
    pub fn lift(&self, imposed: Imposed) -> Hits {
        let hits = self.hits(&imposed);
        self.with(|inner| {
            for link in inner.links.values_mut() {
                link.imposed.retain(|lying| lying.id != imposed.id);
            }
        });
        self.changes.send_modify(|changes| *changes += 1);
        hits
    }

    /// What an impairment did so far.
    pub fn hits(&self, imposed: &Imposed) -> Hits {
        self.with(|inner| {
            let all = inner.links.values().flat_map(|link| &link.imposed);
            all.filter(|lying| lying.id == imposed.id).fold(Hits::default(), |sum, lying| Hits {
                frames: sum.frames + lying.hits.frames,
                bytes: sum.bytes + lying.hits.bytes,
            })
        })
    }

    /// Decides about one frame of `bytes` that arrived at `now`.
    pub fn judge(&self, from: &str, to: &str, bytes: usize, now: Instant) -> Fate {
        self.with(|inner| {
            let Some(link) = inner.links.get_mut(&(from.to_owned(), to.to_owned())) else {
                return Fate::Pass;
            };
            if link.imposed.is_empty() {
                return Fate::Pass;
            }
            link.judge(bytes as u64, now, &mut inner.rng)
        })
    }

    /// What a stream must respect apart from cuts; counts `bytes` for each impairment that touches it.
    pub fn stream(&self, from: &str, to: &str, bytes: usize) -> Stream {
        self.with(|inner| {
            let Some(link) = inner.links.get_mut(&(from.to_owned(), to.to_owned())) else {
                return Stream::default();
            };
            let mut stream = Stream::default();
            for lying in &mut link.imposed {
                match lying.impairment {
                    Impairment::Delay { by, jitter } => {
                        stream.delay += by + jitter.mul_f64(inner.rng.random::<f64>());
                    }
                    Impairment::Rate { bytes_per_second } => {
                        let lowest =
                            stream.bytes_per_second.map_or(bytes_per_second, |r| r.min(bytes_per_second));
                        stream.bytes_per_second = Some(lowest);
                    }
                    // See `held`. And no stream can lose, double or reorder: the faults say so before they begin.
                    Impairment::Cut
                    | Impairment::Loss { .. }
                    | Impairment::Duplicate { .. }
                    | Impairment::Reorder { .. } => continue,
                }
                lying.hit(bytes as u64);
            }
            stream
        })
    }

    /// Whether `bytes` may not go from one host to the other at the moment; if so, they count as hit.
    pub fn held(&self, from: &str, to: &str, bytes: usize) -> bool {
        self.with(|inner| {
            let link = inner.links.get_mut(&(from.to_owned(), to.to_owned()));
            link.is_some_and(|link| link.hit_cuts(bytes as u64))
        })
    }

    /// Whether nothing may go from one host to the other at the moment. Counts nothing.
    pub fn is_cut(&self, from: &str, to: &str) -> bool {
        self.with(|inner| {
            let link = inner.links.get(&(from.to_owned(), to.to_owned()));
            link.is_some_and(|link| link.imposed.iter().any(|lying| lying.impairment == Impairment::Cut))
        })
    }

    /// Whether nothing is imposed on any link.
    pub fn is_unharmed(&self) -> bool {
        self.with(|inner| inner.links.values().all(|link| link.imposed.is_empty()))
    }

    /// Changes whenever something is imposed or lifted.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Lying {
    fn hit(&mut self, bytes: u64) {
        self.hits.frames += 1;
        self.hits.bytes += bytes;
    }
}

impl Link {
    /// Whether the link is cut; if so, every cut on it counts what it would have stopped alone.
    fn hit_cuts(&mut self, bytes: u64) -> bool {
        let cuts = self.imposed.iter_mut().filter(|lying| lying.impairment == Impairment::Cut);
        cuts.map(|cut| cut.hit(bytes)).count() > 0
    }

    fn judge(&mut self, bytes: u64, now: Instant, rng: &mut StdRng) -> Fate {
        if self.hit_cuts(bytes) {
            return Fate::Drop;
        }
        let (mut due, mut held, mut copies) = (now, Duration::ZERO, 1_usize);
        for lying in &mut self.imposed {
            match lying.impairment {
                // See above.
                Impairment::Cut => {}
                Impairment::Loss { probability } => {
                    if rng.random_bool(probability) {
                        lying.hit(bytes);
                        return Fate::Drop;
                    }
                }
                Impairment::Delay { by, jitter } => {
                    due += by + jitter.mul_f64(rng.random::<f64>());
                    lying.hit(bytes);
                }
                Impairment::Duplicate { probability } => {
                    if rng.random_bool(probability) {
                        copies += 1;
                        lying.hit(bytes);
                    }
                }
                Impairment::Reorder { probability, by } => {
                    if rng.random_bool(probability) {
                        held += by;
                        lying.hit(bytes);
                    }
                }
                Impairment::Rate { bytes_per_second } => {
                    let turn = lying.free_at.map_or(now, |free_at| free_at.max(now));
                    let takes = Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
                    if turn + takes >= now + RATE_FELT {
                        lying.hit(bytes);
                    }
                    if turn > now + RATE_QUEUE_MAX {
                        return Fate::Drop;
                    }
                    lying.free_at = Some(turn + takes);
                    due = due.max(turn + takes);
                }
            }
        }
        // Nothing overtakes but what reordering holds back.
        due = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(due);
        if due <= now && held.is_zero() && copies == 1 {
            return Fate::Pass;
        }
        Fate::Later(vec![due + held; copies])
    }
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
