//! First come, first served, as far as clients can tell: from what they saw of the queue.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{MILLISECOND_NS, TOLERANCE_NS, is_acquire, is_shared, keys, nanoseconds};
use crate::checker::operation::{Operation, Outcome};
use crate::checker::results::{Check, Finding};

/// One request of a key with what is known of its place.
struct Waiter<'o, 'h> {
    acquire: &'o Operation<'h>,
    /// None: not granted, as far as is known.
    token: Option<u64>,
    /// When an answer that showed it in the queue was there.
    seen: Option<u64>,
}

impl Waiter<'_, '_> {
    fn conflicts(&self, other: &Self) -> bool {
        !(is_shared(self.acquire) && is_shared(other.acquire))
    }

    /// It waited until it was refused.
    fn is_timed_out(&self) -> bool {
        self.acquire.outcome == Outcome::Fail && self.acquire.error() == Some("lock_timeout")
    }

    /// It cannot have been refused before this.
    fn deadline_ns(&self) -> u64 {
        self.acquire.invoke.time_ns.saturating_add(wait_ns(self.acquire))
    }
}

fn wait_ns(acquire: &Operation<'_>) -> u64 {
    nanoseconds(acquire.input().get("wait_ms").and_then(Value::as_u64).unwrap_or(0))
}

/// Who waits longer goes first.
pub(in crate::checker) fn check_order(operations: &[Operation<'_>]) -> Option<Check> {
    let mut check = Check::new(
        "first come, first served",
        "of two that exclude each other the one who waits longer goes first",
    );
    let views: Vec<&Operation<'_>> =
        operations.iter().filter(|one| matches!(one.f(), "queue" | "observe") && one.is_ok()).collect();
    check.count("views of queues", views.len() as u64);
    let mut by_key: BTreeMap<&str, BTreeMap<&str, Waiter<'_, '_>>> = BTreeMap::new();
    for acquire in operations.iter().filter(|operation| is_acquire(operation)) {
        let Some(owner) = acquire.input().get("owner").and_then(Value::as_str) else { continue };
        let token = acquire.output().get("token").and_then(Value::as_u64).filter(|_| acquire.is_ok());
        for key in keys(acquire) {
            by_key.entry(key).or_default().insert(owner, Waiter { acquire, token, seen: None });
        }
    }
    for view in &views {
        let Some(waiters) = by_key.get_mut(view.key()) else { continue };
        let queue = view.output().get("queue").and_then(Value::as_array);
        let owners: Vec<&str> = queue.into_iter().flatten().filter_map(Value::as_str).collect();
        check.count("places seen", owners.len() as u64);
        for owner in &owners {
            if let (Some(waiter), Some(end)) = (waiters.get_mut(owner), view.complete) {
                waiter.seen.get_or_insert(end.index);
            }
        }
        let places: Vec<&Waiter<'_, '_>> = owners.iter().filter_map(|owner| waiters.get(owner)).collect();
        for (place, behind) in places.iter().enumerate() {
            for ahead in &places[..place] {
                judge(&mut check, view.key(), ahead, behind, Some(view));
            }
        }
    }
    by_key.iter().for_each(|(key, waiters)| judge_latecomers(&mut check, key, waiters));
    (check.counts.get("places seen").copied().unwrap_or(0) > 0).then_some(check)
}

/// Those who came after others had been seen in the queue.
fn judge_latecomers(check: &mut Check, key: &str, waiters: &BTreeMap<&str, Waiter<'_, '_>>) {
    let mut seen: Vec<(u64, &Waiter<'_, '_>)> =
        waiters.values().filter_map(|waiter| Some((waiter.seen?, waiter))).collect();
    seen.sort_by_key(|(index, _)| *index);
    // Of all seen so far: who got the largest token, among all and among those that exclude everybody.
    let mut largest = Vec::with_capacity(seen.len());
    let (mut of_all, mut of_exclusive): (Option<&Waiter<'_, '_>>, Option<&Waiter<'_, '_>>) = (None, None);
    for (_, waiter) in &seen {
        if waiter.token > of_all.and_then(|one| one.token) {
            of_all = Some(waiter);
        }
        if !is_shared(waiter.acquire) && waiter.token > of_exclusive.and_then(|one| one.token) {
            of_exclusive = Some(waiter);
        }
        largest.push((of_all, of_exclusive));
    }
    let timed_out: Vec<_> = seen.iter().filter(|(_, waiter)| waiter.is_timed_out()).collect();
    for later in waiters.values().filter(|later| later.token.is_some()) {
        let before = |index: &u64| *index < later.acquire.invoke.index;
        let known = seen.partition_point(|(index, _)| before(index));
        if let Some((of_all, of_exclusive)) = known.checked_sub(1).map(|last| largest[last]) {
            let ahead = if is_shared(later.acquire) { of_exclusive } else { of_all };
            ahead.into_iter().for_each(|ahead| judge(check, key, ahead, later, None));
        }
        for (_, ahead) in timed_out.iter().take_while(|(index, _)| before(index)) {
            judge(check, key, ahead, later, None);
        }
    }
}

/// `ahead` was in the queue before `behind`.
fn judge(
    check: &mut Check,
    key: &str,
    ahead: &Waiter<'_, '_>,
    behind: &Waiter<'_, '_>,
    view: Option<&Operation<'_>>,
) {
    let Some(second) = behind.token else { return };
    if !ahead.conflicts(behind) {
        return;
    }
    let granted_ns = behind.acquire.ended_ns().unwrap_or(u64::MAX);
    let what = match ahead.token {
        Some(first) if first > second => format!("was granted token {second}, before token {first}"),
        None if ahead.is_timed_out() && granted_ns.saturating_add(TOLERANCE_NS) < ahead.deadline_ns() => {
            format!("was granted token {second}, while the other waited until it timed out")
        }
        _ => return,
    };
    let owner = |waiter: &Waiter<'_, '_>| {
        waiter.acquire.input().get("owner").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let text = format!("{key}: {} stood behind {} in the queue and {what}", owner(behind), owner(ahead));
    let shown = [ahead.acquire, behind.acquire].into_iter().chain(view);
    check.fail(Finding::new(text).about(key).shown_by(shown));
}

/// Nobody is granted a lock after the deadline, and nobody is sent away before it.
///
/// The deadline is one of the cluster's clock, which stands still while nobody leads: what counts is the time waited
/// that the grant itself names.
pub(in crate::checker) fn check_deadlines(operations: &[Operation<'_>]) -> Option<Check> {
    let mut check =
        Check::new("deadlines of waiters", "nobody is granted after its deadline, nor sent away before it");
    for acquire in operations.iter().filter(|one| is_acquire(one) && wait_ns(one) > 0) {
        check.count("waits", 1);
        let wait_ms = wait_ns(acquire) / MILLISECOND_NS;
        let waited_ms = acquire.output().get("waited_ms").and_then(Value::as_u64);
        if let Some(waited_ms) = waited_ms.filter(|waited| acquire.is_ok() && *waited > wait_ms) {
            let text = format!("{}: granted after {waited_ms} ms, for a wait of {wait_ms} ms", acquire.key());
            check.fail(Finding::new(text).shown_by([acquire]));
        }
        let ended_ns = acquire.ended_ns().unwrap_or(u64::MAX);
        let is_timed_out = acquire.outcome == Outcome::Fail && acquire.error() == Some("lock_timeout");
        if is_timed_out
            && ended_ns.saturating_add(TOLERANCE_NS) < acquire.invoke.time_ns.saturating_add(wait_ns(acquire))
        {
            let after_ms = (ended_ns - acquire.invoke.time_ns) / MILLISECOND_NS;
            let text =
                format!("{}: sent away after {after_ms} ms, for a wait of {wait_ms} ms", acquire.key());
            check.fail(Finding::new(text).shown_by([acquire]));
        }
    }
    check.counts.contains_key("waits").then_some(check)
}
