//! What this node counts about its part in the group: read when somebody scrapes, never decided by.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{ProposeError, ReadError};

/// How a proposal or a renewal of a caller of this node can end, as label values.
pub const WRITE_OUTCOMES: [&str; 7] =
    ["applied", "no_leader", "busy", "unknown", "too_large", "stopped", "not_yet"];
/// How a read barrier of a caller of this node can end, as label values.
pub const READ_OUTCOMES: [&str; 5] = ["confirmed", "no_leader", "lagging", "busy", "stopped"];

/// Only ever grows, from 0 at the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter per outcome.
#[derive(Debug, Default)]
pub(crate) struct Outcomes<const N: usize>([Counter; N])
where
    [Counter; N]: Default;

impl<const N: usize> Outcomes<N>
where
    [Counter; N]: Default,
{
    fn get(&self) -> [u64; N] {
        std::array::from_fn(|outcome| self.0[outcome].get())
    }
}

/// The counters of one node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) elections_started: Counter,
    pub(crate) elections_won: Counter,
    pub(crate) leader_changes: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) taken: Counter,
    pub(crate) retried: Counter,
    pub(crate) read_rounds: Counter,
    proposals: Outcomes<7>,
    renewals: Outcomes<7>,
    reads: Outcomes<5>,
}

impl Counters {
    pub(crate) fn proposed<T>(&self, result: &Result<T, ProposeError>) {
        self.proposals.0[write_outcome(result)].add(1);
    }

    pub(crate) fn renewed<T>(&self, result: &Result<T, ProposeError>) {
        self.renewals.0[write_outcome(result)].add(1);
    }

    pub(crate) fn read<T>(&self, result: &Result<T, ReadError>) {
        let outcome = match result {
            Ok(_) => 0,
            Err(ReadError::NoLeader { .. }) => 1,
            Err(ReadError::Lagging) => 2,
            Err(ReadError::Busy { .. }) => 3,
            Err(ReadError::Stopped { .. }) => 4,
        };
        self.reads.0[outcome].add(1);
    }

    pub(crate) fn snapshot(&self) -> GroupCounters {
        GroupCounters {
            elections_started: self.elections_started.get(),
            elections_won: self.elections_won.get(),
            leader_changes: self.leader_changes.get(),
            proposals: self.proposals.get(),
            renewals: self.renewals.get(),
            reads: self.reads.get(),
            forwarded: self.forwarded.get(),
            taken: self.taken.get(),
            retried: self.retried.get(),
            read_rounds: self.read_rounds.get(),
            ..GroupCounters::default()
        }
    }
}

/// The position in [`WRITE_OUTCOMES`].
fn write_outcome<T>(result: &Result<T, ProposeError>) -> usize {
    match result {
        Ok(_) => 0,
        Err(ProposeError::NoLeader { .. }) => 1,
        Err(ProposeError::Busy { .. }) => 2,
        Err(ProposeError::Unknown) => 3,
        Err(ProposeError::TooLarge { .. }) => 4,
        Err(ProposeError::Stopped { .. }) => 5,
        Err(ProposeError::NotYet { .. }) => 6,
    }
}

/// What one node counted since its process started, and how much it has in hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupCounters {
    /// Elections this node called: a vote for itself in a new term. Pre-votes that found no support are none.
    pub elections_started: u64,
    /// Elections it won.
    pub elections_won: u64,
    /// Times it learned of another leader, or of the same one in a new term.
    pub leader_changes: u64,
    /// Proposals of its callers by outcome ([`WRITE_OUTCOMES`]).
    pub proposals: [u64; 7],
    /// Renewals of its callers by outcome ([`WRITE_OUTCOMES`]).
    pub renewals: [u64; 7],
    /// Read barriers of its callers by outcome ([`READ_OUTCOMES`]).
    pub reads: [u64; 5],
    /// Proposals sent on to another node that leads; one that is sent again counts again.
    pub forwarded: u64,
    /// Proposals of other nodes that came here.
    pub taken: u64,
    /// Proposals that surely were not appended and went back into the queue.
    pub retried: u64,
    /// Questions for a read index; one covers every reader that asked before it left.
    pub read_rounds: u64,
    /// Callers of this node whose proposals have no outcome yet.
    pub pending: u64,
    /// On the leader: proposals of other nodes that it has taken and not resolved.
    pub admitted: u64,
    /// Requests of this node's clients that wait for a lock.
    pub waiters: u64,
}

#[cfg(test)]
mod tests {
    use ovncp_state::Version;

    use super::*;

    #[test]
    fn every_outcome_has_its_own_counter() {
        let counters = Counters::default();
        let stopped = || "test".to_owned();
        let writes: [Result<(), _>; 7] = [
            Ok(()),
            Err(ProposeError::NoLeader { last_known: None }),
            Err(ProposeError::Busy { queue: "test" }),
            Err(ProposeError::Unknown),
            Err(ProposeError::TooLarge { bytes: 2, max: 1 }),
            Err(ProposeError::Stopped { reason: stopped() }),
            Err(ProposeError::NotYet { needs: Version::BASE, cluster: Version::BASE, oldest: None }),
        ];
        for (position, result) in writes.iter().enumerate() {
            (0..=position).for_each(|_| counters.proposed(result));
            counters.renewed(result);
        }
        let reads: [Result<(), _>; 5] = [
            Ok(()),
            Err(ReadError::NoLeader { last_known: None }),
            Err(ReadError::Lagging),
            Err(ReadError::Busy { queue: "test" }),
            Err(ReadError::Stopped { reason: stopped() }),
        ];
        reads.iter().for_each(|result| counters.read(result));
        let counted = counters.snapshot();
        assert_eq!(counted.proposals, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(counted.renewals, [1; 7]);
        assert_eq!(counted.reads, [1; 5]);
    }
}
