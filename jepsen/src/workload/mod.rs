//! Comes with its own part.
