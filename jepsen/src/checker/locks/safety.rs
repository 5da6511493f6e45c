//! Who holds a lock holds it alone, and for as long as it was promised.

use std::collections::BTreeMap;

use super::{Holding, TOLERANCE_NS, keys};
use crate::checker::describe::seconds;
use crate::checker::results::{Check, Finding};

/// Two that exclude each other never hold at once.
pub(in crate::checker) fn check_overlaps(holdings: &[Holding<'_, '_>]) -> Option<Check> {
    let mut check =
        Check::new("lock safety", "two that exclude each other never hold one lock or office at once");
    let mut by_key: BTreeMap<&str, Vec<&Holding<'_, '_>>> = BTreeMap::new();
    for holding in holdings {
        keys(holding.acquire).into_iter().for_each(|key| by_key.entry(key).or_default().push(holding));
    }
    check.count("holdings", holdings.len() as u64);
    check.count("keys", by_key.len() as u64);
    for (key, mut of_key) in by_key {
        of_key.sort_by_key(|holding| holding.from_ns);
        let mut live: Vec<&Holding<'_, '_>> = Vec::new();
        for holding in of_key {
            live.retain(|other| other.until_ns > holding.from_ns.saturating_add(TOLERANCE_NS));
            if holding.until_ns <= holding.from_ns {
                continue; // Over before its holder knew of it.
            }
            for other in live.iter().filter(|other| other.conflicts(holding)) {
                check.fail(overlap(key, other, holding));
            }
            live.push(holding);
        }
    }
    (!holdings.is_empty()).then_some(check)
}

fn overlap(key: &str, first: &Holding<'_, '_>, second: &Holding<'_, '_>) -> Finding {
    let until_ns = first.until_ns.min(second.until_ns);
    let text = format!(
        "{key}: tokens {} (process {}) and {} (process {}) were both held from {} to {}",
        first.token,
        first.acquire.process,
        second.token,
        second.acquire.process,
        seconds(second.from_ns),
        seconds(until_ns),
    );
    // What came after the overlap does not show it.
    let operations = first.operations().chain(second.operations());
    let shown = operations.filter(|operation| operation.invoke.time_ns <= until_ns);
    let mut finding = Finding::new(text).about(key).shown_by(shown);
    finding.window_ns = Some((second.acquire.invoke.time_ns.min(second.from_ns), until_ns));
    finding
}

/// A lease never ends early.
pub(in crate::checker) fn check_early_ends(holdings: &[Holding<'_, '_>]) -> Option<Check> {
    let mut check =
        Check::new("full leases", "nobody loses a lock or office before the lease ends, unless given up");
    check.count("holdings", holdings.len() as u64);
    for holding in holdings {
        let Some((told, lease_ns)) = holding.told_early else { continue };
        let text = format!(
            "{}: token {} was lost by {}, although its lease could not end before {}",
            holding.acquire.key(),
            holding.token,
            seconds(told.ended_ns().unwrap_or_default()),
            seconds(lease_ns),
        );
        let until = holding.operations().filter(|operation| operation.invoke.index <= told.invoke.index);
        check.fail(Finding::new(text).shown_by(until));
    }
    (!holdings.is_empty()).then_some(check)
}
