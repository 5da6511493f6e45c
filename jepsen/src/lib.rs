//! The chaos harness: real nodes under real faults; what clients saw is recorded and judged against the promises.
//!
//! [`run`] starts a [`cluster`] of the release binary on a [`net`] and on [`disk`]s that can be harmed, lets the
//! clients of a [`workload`] loose on it while a [`nemesis`] harms it, heals it, reads the end state, and keeps
//! everything in a [`store`]. [`checker`] then decides from the recorded [`history`] alone, and [`report`] draws
//! it for people. The harness knows the nodes from outside: HTTP, processes, files.

// Read beside the code: the program is the interface.
#![allow(rustdoc::private_intra_doc_links)]

pub mod checker;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod disk;
#[cfg(test)]
mod fake;
pub mod history;
pub mod mutants;
pub mod nemesis;
pub mod net;
pub mod report;
pub mod run;
pub mod store;
pub mod workload;
