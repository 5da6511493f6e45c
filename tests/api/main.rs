//! The HTTP edge of one real node: what it promises, and every kind of bad input.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod client;
mod cluster;
mod edge;
mod elections;
mod events;
mod invalidations;
mod kv;
mod leader_task;
mod locks;
mod moving;
mod network;
mod network_faults;
mod network_views;
mod openapi;
mod sessions;
mod socket;
mod support;
mod three;
mod waiting;
mod ws;
