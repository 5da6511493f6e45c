//! Whole clusters of the real binary under kill -9, pauses, wiped and damaged disks.

mod crash;
mod data_directory;
mod formation;
mod full_disk;
mod invalidations;
mod prometheus;
mod proxies;
mod quorum;
mod replacement;
mod rolling;
mod sessions;
mod support;
mod workload;
