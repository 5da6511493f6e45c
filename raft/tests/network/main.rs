//! The transport between peers, over real TCP and over the simulated network.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod appends;
mod bytes;
mod calls;
mod golden;
mod hostile;
mod node;
mod sights;
mod sim_net;
