//! What must be true of a run, apart from how it came about. Each checker is fed by histories alone, so that a
//! test can feed it a wrong one.

pub mod linear;
pub mod locks;
pub mod log;
