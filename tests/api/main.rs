//! The HTTP edge of one real node: what it promises, and every kind of bad input.

mod cluster;
mod edge;
mod kv;
mod locks;
mod openapi;
mod support;
mod three;
mod waiting;
