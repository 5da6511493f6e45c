//! Writers that share transactions do not notice each other, whatever fails.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod coalescing;
mod fake;
mod properties;
