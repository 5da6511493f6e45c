//! Groups over real disks and TCP on loopback: formation, writes, reads, fail-over, membership.

mod cluster;
mod membership;
mod single;
mod three;
