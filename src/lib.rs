//! ovncp: edges, services, adapters and wiring around the Raft group.
//!
//! One way for data: an edge ([`api`]) takes a request, a service ([`services`]) says it in domain words and
//! proposes one command to the group, the state machine answers, the edge maps the answer. [`config`] is what
//! a node is told, [`telemetry`] what it tells, [`node`] the only place that knows every part. [`client`] speaks
//! to nodes from outside, as any Rust program may.

pub mod api;
pub mod cache;
pub mod client;
pub mod config;
pub mod node;
pub mod services;
pub mod telemetry;
pub mod wall_clock;
