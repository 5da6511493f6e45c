//! Shared by the test binaries of this crate.
#![allow(unreachable_pub, reason = "a module of several test binaries")]
pub mod sim_net;
