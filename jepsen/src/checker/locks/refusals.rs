//! A refusal needs a reason: nobody is refused a lock that nobody can have held.
//!
//! Who may have held a lock is known from the clients' side: everybody who asked for it and was not refused, from the
//! request on until the release was answered or the holder was told that it had lost it. A lease that ends by itself
//! ends by the cluster's clock, which stands still while nobody leads, so its end is known only to be no later than
//! [`OVERDUE_MAX`] after it was due. While nobody can have held a lock there can be no queue before it either: its
//! head would have been granted. Locks that some request asked for together count as one: there a request may have to
//! wait for another that waits for a third.

use std::collections::BTreeMap;

use super::{Holding, TOLERANCE_NS, is_acquire, is_release, is_told_lost, keys, nanoseconds};
use crate::checker::operation::{Operation, Outcome};
use crate::checker::results::{Check, Finding};

/// By so much a lease, or a request that nobody answered, may outlive its time in milliseconds: longer than any outage
/// of a run, during which the cluster's clock stands still.
pub(in crate::checker) const OVERDUE_MAX_MS: u64 = 60_000;

/// Nanoseconds from and to which somebody may have held something; to: inclusive.
type Span = (u64, u64);

/// Who is sent away at once was so while somebody could have held the lock; who waited in vain did so all the time.
pub(in crate::checker) fn check_refusals(
    operations: &[Operation<'_>],
    holdings: &[Holding<'_, '_>],
) -> Option<Check> {
    let mut check = Check::new("refused locks", "nobody is refused a lock while nobody can have held it");
    let groups = Groups::new(operations);
    let mut spans: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for holding in holdings {
        let span = (holding.acquire.invoke.time_ns, gone_ns(holding));
        spans.entry(groups.of(holding.acquire)).or_default().push(span);
    }
    for lost in operations.iter().filter(|one| is_acquire(one) && one.outcome == Outcome::Info) {
        let waits = lost.number("wait_ms").unwrap_or(0).saturating_add(lost.number("ttl_ms").unwrap_or(0));
        let begins = lost.invoke.time_ns;
        let ends = begins.saturating_add(nanoseconds(waits.saturating_add(OVERDUE_MAX_MS)));
        spans.entry(groups.of(lost)).or_default().push((begins, ends));
    }
    let held: BTreeMap<&str, Vec<Span>> =
        spans.into_iter().map(|(key, spans)| (key, merged(spans))).collect();
    for refused in operations.iter().filter(|one| is_acquire(one) && one.outcome == Outcome::Fail) {
        let held = held.get(groups.of(refused)).map_or(&[] as &[_], Vec::as_slice);
        let free = match refused.error() {
            Some("lock_held" | "election_held") => free_throughout(refused, held),
            Some("lock_timeout") => {
                free_throughout(refused, held).or_else(|| free_while_waiting(refused, held))
            }
            _ => continue,
        };
        check.count("refusals", 1);
        if let Some((from, to)) = free {
            let mut finding = Finding::new(format!(
                "{}: refused with {}, although nobody can have held it for {:.1} ms",
                refused.key(),
                refused.error().unwrap_or_default(),
                to.saturating_sub(from) as f64 / 1e6,
            ));
            let last = holdings.iter().filter(|one| {
                groups.of(one.acquire) == groups.of(refused) && gone_ns(one) <= from.saturating_add(1)
            });
            let last = last.max_by_key(|one| gone_ns(one)).into_iter().flat_map(Holding::operations);
            finding = finding.about(refused.key()).shown_by(last.chain([refused]));
            check.fail(finding);
        }
    }
    check.counts.contains_key("refusals").then_some(check)
}

/// Until when somebody may have held it.
fn gone_ns(holding: &Holding<'_, '_>) -> u64 {
    let is_end = |one: &&&Operation<'_>| (is_release(one) && one.is_ok()) || is_told_lost(one);
    let told = holding.uses.iter().filter(is_end).filter_map(|one| one.ended_ns()).min();
    // What nobody answered may have extended it.
    let asked = holding.uses.iter().filter(|one| one.f() == "renew" && one.outcome == Outcome::Info);
    let extended = asked.map(|one| one.invoke.time_ns.saturating_add(super::ttl_ns(one))).max().unwrap_or(0);
    let due = holding.lease_ns.max(extended).max(holding.from_ns);
    told.unwrap_or(u64::MAX).min(due.saturating_add(nanoseconds(OVERDUE_MAX_MS)))
}

/// Spans in order, those that meet made one.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// The time of a request, if nobody can have held the lock at any moment of it.
fn free_throughout(refused: &Operation<'_>, held: &[Span]) -> Option<Span> {
    let (begins, ends) = (refused.invoke.time_ns, refused.ended_ns()?);
    let before = held.partition_point(|(from, _)| *from <= ends);
    let is_held = before.checked_sub(1).is_some_and(|last| held[last].1 >= begins);
    (!is_held).then_some((begins, ends))
}

/// A part of the time during which a request was surely in the queue and nobody can have held the lock.
///
/// It is sent away when it has waited its time by the cluster's clock, which may stand still but never runs ahead. So
/// it was in the queue by so much before it was answered, and stayed for so long after it was sent.
fn free_while_waiting(refused: &Operation<'_>, held: &[Span]) -> Option<Span> {
    let wait_ns = nanoseconds(refused.number("wait_ms").unwrap_or(0)).saturating_sub(TOLERANCE_NS);
    let from = refused.ended_ns()?.saturating_sub(wait_ns);
    let to = refused.invoke.time_ns.saturating_add(wait_ns);
    if from >= to {
        return None;
    }
    let before = held.partition_point(|(begins, _)| *begins <= from);
    let free_from = match before.checked_sub(1).map(|last| held[last].1) {
        Some(end) if end >= to => return None,
        Some(end) => end.max(from),
        None => from,
    };
    let free_to = held.get(before).map_or(to, |(begins, _)| (*begins).min(to));
    (free_from < free_to).then_some((free_from, free_to))
}

/// Which locks were asked for together, named by the least of them.
struct Groups<'h> {
    least: BTreeMap<&'h str, &'h str>,
}

impl<'h> Groups<'h> {
    fn new(operations: &[Operation<'h>]) -> Self {
        let mut groups = Self { least: BTreeMap::new() };
        for operation in operations.iter().filter(|one| is_acquire(one)) {
            let keys = keys(operation);
            for key in &keys {
                groups.least.entry(key).or_insert(key);
            }
            for pair in keys.windows(2) {
                let (one, other) = (groups.root(pair[0]), groups.root(pair[1]));
                groups.least.insert(one.max(other), one.min(other));
            }
        }
        groups
    }

    fn root(&self, key: &'h str) -> &'h str {
        let mut key = key;
        while let Some(less) = self.least.get(key).filter(|less| **less != key) {
            key = less;
        }
        key
    }

    fn of(&self, operation: &Operation<'h>) -> &'h str {
        keys(operation).first().map_or("", |key| self.root(key))
    }
}
