//! The real binary, as a user runs it: what it prints, how it ends, and what it leaves behind.

#![expect(clippy::unwrap_used, reason = "a test ends by panicking")]

mod basics;
mod bench;
mod dev;
mod elections;
mod fake;
mod invalidate;
mod lock;
mod log_level;
mod support;
mod watch;
