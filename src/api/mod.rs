//! The HTTP edge.

pub mod config;
