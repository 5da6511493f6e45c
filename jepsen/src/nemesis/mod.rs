//! Comes with its own part.
pub mod clock;
