//! Whole clusters in one thread and virtual time, from a seed: real groups, real consensus, real frames over a
//! simulated network, the real log over simulated disks.
//!
//! A failing seed prints how to replay it. `SIM_SEEDS=n` runs n seeds per test in place of the default,
//! `SIM_FIRST=n` begins with another one, `SIM_TRACE=1` prints everything that happens as it happens.
//!
//! Map: `cluster` machines and processes, `nemesis` what goes wrong, `clients` who works meanwhile and writes
//! down what they were told, `check` what must be true of that, `scenario` one run, `formation` first starts,
//! `mutants` proof that the harness would notice.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod clients;
mod cluster;
mod formation;
mod machine;
mod mutants;
mod nemesis;
mod quorumless;
mod scenario;
mod seeds;
mod trace;
