//! Queues as they were seen: whoever looks sees one queue, in which nobody moves but to the front.
//!
//! An owner asks once, so it enters the queue once, at its end, and leaves it once. Any two looks must agree with
//! that, whoever they come from.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::checker::operation::Operation;
use crate::checker::results::{Check, Finding};

type View<'o, 'h> = (&'o Operation<'h>, Vec<&'h str>);

/// Two looks at one queue show its owners in one order, nobody who comes later ahead of somebody who was there, and
/// nobody who had left.
pub(in crate::checker) fn check_queues(operations: &[Operation<'_>]) -> Option<Check> {
    let mut check =
        Check::new("views of queues", "looks at one queue agree: who comes stands last, who left stays away");
    let mut views: BTreeMap<&str, Vec<View<'_, '_>>> = BTreeMap::new();
    for view in operations.iter().filter(|one| matches!(one.f(), "queue" | "observe") && one.is_ok()) {
        let queue = view.output().get("queue").and_then(Value::as_array);
        let owners: Vec<&str> = queue.into_iter().flatten().filter_map(Value::as_str).collect();
        check.count("views", 1);
        check.count("places", owners.len() as u64);
        views.entry(view.key()).or_default().push((view, owners));
    }
    for (key, of_key) in &views {
        agree(&mut check, key, of_key);
        stay_away(&mut check, key, of_key);
    }
    check.counts.contains_key("views").then_some(check)
}

/// No two views show two owners in different orders, and none shows somebody ahead of an owner who was seen, by a
/// view that had ended before, without it.
fn agree(check: &mut Check, key: &str, views: &[View<'_, '_>]) {
    let mut ahead: HashMap<(&str, &str), &Operation<'_>> = HashMap::new();
    let mut first: HashMap<&str, &View<'_, '_>> = HashMap::new();
    for view in views {
        for owner in &view.1 {
            let earliest = first.entry(owner).or_insert(view);
            if ended(view.0) < ended(earliest.0) {
                *earliest = view;
            }
        }
    }
    for (view, owners) in views {
        for (place, behind) in owners.iter().enumerate() {
            for before in &owners[..place] {
                ahead.entry((before, behind)).or_insert(view);
                if let Some(other) = ahead.get(&(*behind, *before)) {
                    let text = format!("{key}: {before} and {behind} were seen in the queue in both orders");
                    check.fail(Finding::new(text).about(key).shown_by([*other, *view]));
                }
                let earlier = first
                    .get(behind)
                    .filter(|(earlier, seen)| earlier.precedes(view) && !seen.contains(before));
                if let Some((earlier, _)) = earlier {
                    let text =
                        format!("{key}: {before} came after {behind} was in the queue, and stood ahead");
                    check.fail(Finding::new(text).about(key).shown_by([*earlier, *view]));
                }
            }
        }
    }
}

/// Who was seen before and after is seen in between.
fn stay_away(check: &mut Check, key: &str, views: &[View<'_, '_>]) {
    let mut by_end: Vec<&View<'_, '_>> = views.iter().collect();
    by_end.sort_by_key(|(view, _)| ended(view));
    let mut seen: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (position, (_, owners)) in by_end.iter().enumerate() {
        for owner in owners {
            seen.entry(owner).or_insert((position, position)).1 = position;
        }
    }
    for (owner, (first, last)) in seen {
        let between = by_end[first..=last].iter().find(|(view, owners)| {
            let (before, after) = (by_end[first].0, by_end[last].0);
            before.precedes(view) && view.precedes(after) && !owners.contains(&owner)
        });
        if let Some((view, _)) = between {
            let text = format!("{key}: {owner} was in the queue, was not, and was again");
            check.fail(Finding::new(text).about(key).shown_by([by_end[first].0, *view, by_end[last].0]));
        }
    }
}

fn ended(view: &Operation<'_>) -> u64 {
    view.complete.map_or(u64::MAX, |event| event.index)
}
