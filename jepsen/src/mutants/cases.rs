//! Every mutant, and the run that should find it.

use crate::nemesis::NemesisKind::{self, *};
use crate::workload::WorkloadKind;

/// The mutant of the harness itself: a time-out counts as a failure. The nodes know nothing of it.
pub const TIME_OUT_FAILS: &str = "time-out-as-failure";

/// One mutant and its run.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As the nodes' binary calls it.
    pub mutant: &'static str,
    /// What clients do.
    pub workload: WorkloadKind,
    /// What is done to the nodes.
    pub faults: &'static [NemesisKind],
}

const fn case(mutant: &'static str, workload: WorkloadKind, faults: &'static [NemesisKind]) -> Case {
    Case { mutant, workload, faults }
}

/// All of them.
pub const CASES: &[Case] = &[
    case("no-fsync", WorkloadKind::Register, &[PowerAll]),
    case("vote-not-persisted", WorkloadKind::Register, &[KillAll, KillLeader]),
    case("crc-ignored", WorkloadKind::Register, &[BitFlip]),
    case("damage-truncated", WorkloadKind::Register, &[BitFlip]),
    case("fsync-eio-ignored", WorkloadKind::Register, &[FsyncEio]),
    case("enospc-acknowledged", WorkloadKind::Register, &[DiskFull]),
    case("ack-before-commit", WorkloadKind::Register, &[PartitionLeader, KillLeader]),
    case("follower-read-local", WorkloadKind::Register, &[PartitionOne, Delay]),
    case("leader-read-local", WorkloadKind::Register, &[PartitionLeader]),
    case("double-grant", WorkloadKind::Lock, &[]),
    case("release-without-secret", WorkloadKind::Lock, &[]),
    case("token-from-local-counter", WorkloadKind::Lock, &[KillOne]),
    case("token-lost-in-snapshot", WorkloadKind::Lock, &[KillOne]),
    case("waiter-granted-late", WorkloadKind::Fifo, &[]),
    case("lifo-waiters", WorkloadKind::Fifo, &[]),
    case("expiry-by-wall-clock", WorkloadKind::Lock, &[ClockJump]),
    case("waiter-lost-in-snapshot", WorkloadKind::Fifo, &[KillOne]),
    case("retry-without-key", WorkloadKind::Register, &[PartitionLeader, KillLeader]),
    case("hash-order-in-apply", WorkloadKind::Shared, &[]),
    case("session-placed-twice", WorkloadKind::Session, &[]),
    case("invalidation-skipped", WorkloadKind::Invalidation, &[KillLeader]),
    case("message-duplicated", WorkloadKind::Session, &[]),
    case("single-step-membership", WorkloadKind::Register, &[MembershipCut]),
    case(TIME_OUT_FAILS, WorkloadKind::Register, &[PartitionLeader, KillLeader]),
];

impl Case {
    /// The faults as they stand on the command line.
    pub fn nemesis(&self) -> String {
        let names: Vec<_> = self.faults.iter().map(|kind| kind.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_one_run() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.mutant).collect();
        assert_eq!(names.len(), CASES.len());
        assert!(names.contains(TIME_OUT_FAILS));
    }

    #[test]
    fn faults_are_written_as_they_are_read() {
        assert_eq!(CASES[0].nemesis(), "power-all");
        assert_eq!(case("x", WorkloadKind::Lock, &[]).nemesis(), "none");
        assert_eq!(case("x", WorkloadKind::Lock, &[FsyncEio, PowerAll]).nemesis(), "fsync-eio,power-all");
    }
}
