//! Groups over real disks and TCP on loopback: formation, writes, reads, fail-over, membership.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod failover;
mod faults;
mod integrity;
mod locks;
mod membership;
mod single;
mod three;
mod transfer;
mod version;
