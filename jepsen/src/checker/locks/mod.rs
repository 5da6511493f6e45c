//! Locks and elections: an election is a lock, and a term of office a holding of it.
//!
//! Clients' clock and the cluster's are two. The cluster's never runs ahead: it stands still while nobody leads,
//! and it is cut to whole milliseconds. So a lease asked for at `t` cannot end before `t + ttl`, but for
//! [`CLOCK_TOLERANCE`]; when it does end is known only later, from what others are told.

mod fairness;
mod fence;
mod queues;
mod refusals;
mod safety;
mod tokens;

pub(super) use fairness::{check_deadlines, check_order};
pub(super) use fence::check_fence;
pub(super) use queues::check_queues;
pub(super) use refusals::{OVERDUE_MAX_MS, check_refusals};
pub(super) use safety::{check_early_ends, check_overlaps};
pub(super) use tokens::{check_given_back, check_tokens, check_views};

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::operation::{Operation, Outcome};

/// What two clocks may disagree by: stamps and durations are each cut to whole milliseconds.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_millis(2);
pub(super) const TOLERANCE_NS: u64 = CLOCK_TOLERANCE.as_nanos() as u64;
const MILLISECOND_NS: u64 = 1_000_000;

/// Whether the operation asks for a lock or an office.
pub(super) fn is_acquire(operation: &Operation<'_>) -> bool {
    matches!(operation.f(), "acquire" | "campaign")
}

fn is_release(operation: &Operation<'_>) -> bool {
    matches!(operation.f(), "release" | "resign")
}

/// Whether the nodes said that the one who asked does not hold it.
pub(super) fn is_told_lost(operation: &Operation<'_>) -> bool {
    operation.outcome == Outcome::Fail
        && matches!(operation.error(), Some("not_holder" | "not_leader" | "lock_lost" | "unknown_lock"))
}

/// The keys that a request is about.
pub(super) fn keys<'h>(operation: &Operation<'h>) -> Vec<&'h str> {
    match operation.input().get("keys").and_then(Value::as_array) {
        Some(keys) => keys.iter().filter_map(Value::as_str).collect(),
        None => vec![operation.key()],
    }
}

/// Whether the request leaves room for others of its kind.
pub(super) fn is_shared(operation: &Operation<'_>) -> bool {
    operation.input().get("mode").and_then(Value::as_str) == Some("shared")
}

/// One grant and what its holder did with it.
#[derive(Clone, Debug)]
pub(super) struct Holding<'o, 'h> {
    /// The request that was granted.
    pub(super) acquire: &'o Operation<'h>,
    /// Its token.
    pub(super) token: u64,
    /// When its holder knew.
    pub(super) from_ns: u64,
    /// Until when nobody else may have it: the end of the lease, or of its holder's interest.
    pub(super) until_ns: u64,
    /// When the lease ends at the earliest if its holder does nothing more.
    pub(super) lease_ns: u64,
    /// Renewals and releases, in order.
    pub(super) uses: Vec<&'o Operation<'h>>,
    /// The answer that told its holder that it had lost it, and the end that its lease had then, which was later.
    pub(super) told_early: Option<(&'o Operation<'h>, u64)>,
}

impl<'o, 'h> Holding<'o, 'h> {
    fn new(acquire: &'o Operation<'h>, token: u64) -> Self {
        let lease_ns = granted_ns(acquire).saturating_add(ttl_ns(acquire));
        Self {
            acquire,
            token,
            from_ns: acquire.ended_ns().unwrap_or(acquire.invoke.time_ns),
            until_ns: lease_ns,
            lease_ns,
            uses: Vec::new(),
            told_early: None,
        }
    }

    /// The latest end that renewals can reach.
    fn hold_end_ns(&self) -> u64 {
        let hold = self.acquire.input().get("max_hold_ms").and_then(Value::as_u64);
        hold.map_or(u64::MAX, |hold| granted_ns(self.acquire).saturating_add(nanoseconds(hold)))
    }

    /// Goes through what its holder did, in order.
    fn follow(&mut self) {
        let hold_end_ns = self.hold_end_ns();
        self.lease_ns = self.lease_ns.min(hold_end_ns);
        let (mut given_up_ns, mut may_be_released) = (u64::MAX, false);
        for operation in &self.uses {
            let asked_ns = operation.invoke.time_ns;
            let ended_ns = operation.ended_ns().unwrap_or(u64::MAX);
            if is_told_lost(operation) {
                if !may_be_released && ended_ns.saturating_add(TOLERANCE_NS) < self.lease_ns {
                    self.told_early.get_or_insert((operation, self.lease_ns));
                }
                given_up_ns = given_up_ns.min(ended_ns);
            } else if is_release(operation) {
                may_be_released |= operation.outcome != Outcome::Fail;
                given_up_ns = given_up_ns.min(asked_ns);
            } else {
                let end_ns = asked_ns.saturating_add(ttl_ns(operation)).min(hold_end_ns);
                match operation.outcome {
                    Outcome::Ok => self.lease_ns = end_ns,
                    // It may have happened, and may have made the lease shorter.
                    Outcome::Info => self.lease_ns = self.lease_ns.min(end_ns),
                    Outcome::Fail => {}
                }
            }
        }
        self.until_ns = self.lease_ns.min(given_up_ns);
    }

    /// Whether the two may not be held at once.
    fn conflicts(&self, other: &Self) -> bool {
        !(is_shared(self.acquire) && is_shared(other.acquire))
    }

    /// All operations on it.
    fn operations(&self) -> impl Iterator<Item = &'o Operation<'h>> {
        std::iter::once(self.acquire).chain(self.uses.iter().copied())
    }
}

fn ttl_ns(operation: &Operation<'_>) -> u64 {
    nanoseconds(operation.number("ttl_ms").unwrap_or(0))
}

/// When the grant was made at the earliest.
fn granted_ns(acquire: &Operation<'_>) -> u64 {
    acquire.invoke.time_ns.saturating_add(nanoseconds(acquire.number("waited_ms").unwrap_or(0)))
}

/// What nodes say may be any number.
fn nanoseconds(milliseconds: u64) -> u64 {
    milliseconds.saturating_mul(MILLISECOND_NS)
}

/// Every grant of the run, in the order in which they were asked for.
pub(super) fn holdings<'o, 'h>(operations: &'o [Operation<'h>]) -> Vec<Holding<'o, 'h>> {
    let mut holdings: Vec<Holding<'o, 'h>> = Vec::new();
    let mut by_token: BTreeMap<u64, usize> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| is_acquire(operation) && operation.is_ok()) {
        let Some(token) = operation.output().get("token").and_then(Value::as_u64) else { continue };
        by_token.entry(token).or_insert(holdings.len());
        holdings.push(Holding::new(operation, token));
    }
    for operation in operations {
        if !matches!(operation.f(), "renew" | "release" | "resign") {
            continue;
        }
        let token = operation.input().get("token").and_then(Value::as_u64);
        if let Some(&number) = token.and_then(|token| by_token.get(&token)) {
            holdings[number].uses.push(operation);
        }
    }
    holdings.iter_mut().for_each(Holding::follow);
    holdings
}

/// The largest number among operations that surely ended before a given one began.
#[derive(Debug, Default)]
pub(super) struct Floor<'o, 'h> {
    /// By index of the completion; largest so far with its operation.
    steps: Vec<(u64, u64, &'o Operation<'h>)>,
}

impl<'o, 'h> Floor<'o, 'h> {
    pub(super) fn new(numbers: impl IntoIterator<Item = (u64, &'o Operation<'h>)>) -> Self {
        let mut steps: Vec<_> = numbers
            .into_iter()
            .filter_map(|(number, operation)| Some((operation.complete?.index, number, operation)))
            .collect();
        steps.sort_unstable_by_key(|(index, ..)| *index);
        let mut highest: Option<(u64, &'o Operation<'h>)> = None;
        for (_, number, operation) in &mut steps {
            match highest {
                Some((above, of)) if above >= *number => (*number, *operation) = (above, of),
                _ => highest = Some((*number, *operation)),
            }
        }
        Self { steps }
    }

    /// The largest number known when the operation began, and who knew it.
    pub(super) fn before(&self, operation: &Operation<'_>) -> Option<(u64, &'o Operation<'h>)> {
        let ended = self.steps.partition_point(|(index, ..)| *index < operation.invoke.index);
        let (_, number, of) = self.steps.get(ended.checked_sub(1)?)?;
        Some((*number, of))
    }
}
