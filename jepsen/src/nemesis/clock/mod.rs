//! Wall clocks that are wrong: they jump by an hour, or run too fast or too slow, and come back. Nothing in a node
//! may depend on them; leases least of all.
//!
//! Faults of this kind need a library that is preloaded into each node from its start (`jepsen/faults/clock.c`,
//! compiled when a run begins) and a small file per node that it reads at each call. The monotonic clock stays
//! true: a machine's wall clock can be set, that one cannot. What a node shows is read back and held beside the
//! clock of the harness.

mod faults;
mod library;
mod reading;

pub use faults::{Running, heal, possible, start};
pub use library::{Clocks, Wrong};
pub use reading::{Reading, read};
