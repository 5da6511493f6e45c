//! Faults of disks and clocks on clusters of the real binary: each shows its measured effect, and everything that was
//! acknowledged is there when it is over.
//!
//! The nodes' binary is the one that `OVNCP_BINARY` names, else that of the same build.

mod clock;
mod disk;
mod stage;
