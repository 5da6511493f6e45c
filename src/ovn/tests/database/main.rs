//! The client against real ovsdb-servers, and against servers that behave badly.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod clustered;
mod fake;
mod proxy;
mod schemas;
mod standalone;
#[path = "../support/mod.rs"]
mod support;
mod tls;
