//! The transport between peers, over real TCP and over the simulated network.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod sim_net;
