//! The client against small servers that answer as each test needs: what is asked of whom, and what it becomes.

mod elections;
mod events;
mod exchange;
mod fake;
mod guard;
mod invalidations;
