//! The invalidation log: the same entries at the same offsets for everybody, none lost, none invented, none moved.
//!
//! `append` asks for an entry with a unique number in it, `follow` is one look from a position on, by whatever way, and
//! `cleared` reads how far each node has cleared its caches, after a barrier has answered.

use std::collections::BTreeMap;

use serde_json::Value;

use super::operation::{Operation, Outcome};
use super::results::{Check, Finding};

/// A place in the log: epoch, then offset.
type Place = (u64, u64);

/// All checks of the log; none where the run was about something else.
pub(super) fn checks(operations: &[Operation<'_>]) -> Vec<Check> {
    if !operations.iter().any(|one| one.f() == "append") {
        return Vec::new();
    }
    let appends: BTreeMap<u64, Operation<'_>> = operations
        .iter()
        .filter(|one| one.f() == "append")
        .filter_map(|one| Some((one.input().get("data")?.as_u64()?, *one)))
        .collect();
    let looks: Vec<Look<'_>> = operations.iter().filter(|one| one.is_ok()).filter_map(Look::new).collect();
    vec![
        entries(&appends, &looks),
        offsets(&appends),
        gaps(&looks),
        complete(&appends, &looks),
        barriers(&appends, operations),
    ]
}

/// One answer to somebody who follows.
struct Look<'h> {
    operation: Operation<'h>,
    /// Where it was to begin; none: wherever the log begins.
    since: Option<Place>,
    /// Place and number of each entry.
    entries: Vec<(Place, u64)>,
    /// The log goes on there, and nothing before it is kept.
    reset: Option<Place>,
}

impl<'h> Look<'h> {
    fn new(operation: &Operation<'h>) -> Option<Self> {
        if !matches!(operation.f(), "follow" | "final-follow") {
            return None;
        }
        let output = operation.output();
        let entry = |entry: &Value| Some((place(entry)?, entry.get("data")?.as_u64()?));
        let entries = output.get("entries").and_then(Value::as_array);
        Some(Self {
            operation: *operation,
            since: operation.input().get("since").and_then(place),
            entries: entries.into_iter().flatten().filter_map(entry).collect(),
            reset: output.get("reset").and_then(place),
        })
    }
}

/// `{"epoch": 0, "offset": 5}`.
fn place(value: &Value) -> Option<Place> {
    Some((value.get("epoch")?.as_u64()?, value.get("offset")?.as_u64()?))
}

fn shown((epoch, offset): Place) -> String {
    format!("{epoch}:{offset}")
}

fn acknowledged(append: &Operation<'_>) -> Option<Place> {
    if append.is_ok() { place(append.output()) } else { None }
}

/// An entry is what somebody asked for, is the same wherever it is seen, and stands at one place.
fn entries(appends: &BTreeMap<u64, Operation<'_>>, looks: &[Look<'_>]) -> Check {
    let mut check = Check::new(
        "identical entries",
        "each offset holds one entry, the same on every node, and each entry one offset",
    );
    let mut at: BTreeMap<Place, (u64, Operation<'_>)> = BTreeMap::new();
    let mut of: BTreeMap<u64, (Place, Operation<'_>)> = BTreeMap::new();
    for (data, append) in appends {
        if let Some(place) = acknowledged(append) {
            seen(&mut check, &mut at, &mut of, (place, *data), append);
        }
    }
    for look in looks {
        check.count("entries seen", look.entries.len() as u64);
        for (place, data) in &look.entries {
            let Some(append) = appends.get(data) else {
                let text = format!("entry {} was asked for by nobody", shown(*place));
                check.fail(Finding::new(text).shown_by([&look.operation]));
                continue;
            };
            if append.outcome == Outcome::Fail {
                let text = format!("entry {} was refused when it was asked for", shown(*place));
                check.fail(Finding::new(text).shown_by([append, &look.operation]));
            }
            seen(&mut check, &mut at, &mut of, (*place, *data), &look.operation);
        }
    }
    check.count("offsets", at.len() as u64);
    check
}

fn seen<'h>(
    check: &mut Check,
    at: &mut BTreeMap<Place, (u64, Operation<'h>)>,
    of: &mut BTreeMap<u64, (Place, Operation<'h>)>,
    (place, data): (Place, u64),
    by: &Operation<'h>,
) {
    let (other, first) = *at.entry(place).or_insert((data, *by));
    if other != data {
        let text = format!("two entries at {}: {other} and {data}", shown(place));
        check.fail(Finding::new(text).shown_by([&first, by]));
    }
    let (elsewhere, first) = *of.entry(data).or_insert((place, *by));
    if elsewhere != place {
        let text = format!("one entry at two places, {} and {}", shown(elsewhere), shown(place));
        check.fail(Finding::new(text).shown_by([&first, by]));
    }
}

/// Who asks after another was answered gets a later place.
fn offsets(appends: &BTreeMap<u64, Operation<'_>>) -> Check {
    let mut check = Check::new(
        "offsets grow",
        "what is appended after an acknowledged entry stands behind it, whoever leads",
    );
    let mut answered: Vec<(u64, Place, &Operation<'_>)> = appends
        .values()
        .filter_map(|append| Some((append.complete?.index, acknowledged(append)?, append)))
        .collect();
    check.count("acknowledged", answered.len() as u64);
    answered.sort_by_key(|(end, ..)| *end);
    let mut begun: Vec<_> = answered.clone();
    begun.sort_by_key(|(.., append)| append.invoke.index);
    let (mut ends, mut highest) = (answered.into_iter().peekable(), None::<(Place, &Operation<'_>)>);
    for (_, place, append) in begun {
        while let Some((_, before, by)) = ends.next_if(|(end, ..)| *end < append.invoke.index) {
            if highest.is_none_or(|(highest, _)| highest < before) {
                highest = Some((before, by));
            }
        }
        if let Some((before, by)) = highest.filter(|(before, _)| *before >= place) {
            let text = format!("{} was given after {} had been", shown(place), shown(before));
            check.fail(Finding::new(text).shown_by([by, append]));
        }
    }
    check
}

/// A look begins where it was asked to, or says that it cannot, and leaves out nothing.
fn gaps(looks: &[Look<'_>]) -> Check {
    let mut check = Check::new(
        "dense offsets",
        "who follows the log sees every offset from where it asked on, or an explicit reset",
    );
    for look in looks {
        check.count("looks", 1);
        check.count("resets", u64::from(look.reset.is_some()));
        let mut due = look.reset.or(look.since);
        if let (Some(since), Some(reset)) = (look.since, look.reset)
            && reset <= since
            && reset.0 == since.0
        {
            let text = format!("a reset to {} although {} was asked for", shown(reset), shown(since));
            check.fail(Finding::new(text).shown_by([&look.operation]));
        }
        for (place, _) in &look.entries {
            if due.is_some_and(|due| due != *place) {
                let due = due.map(shown).unwrap_or_default();
                let text = format!("{} was shown where {due} was due", shown(*place));
                check.fail(Finding::new(text).shown_by([&look.operation]));
            }
            due = Some((place.0, place.1 + 1));
        }
    }
    check
}

/// What one node showed in the end.
#[derive(Default)]
struct Last<'l, 'h> {
    /// Where its log begins.
    first: Option<Place>,
    entries: BTreeMap<Place, u64>,
    looks: Vec<&'l Operation<'h>>,
}

/// In the end every node shows every acknowledged entry, unless it is no longer kept.
fn complete(appends: &BTreeMap<u64, Operation<'_>>, looks: &[Look<'_>]) -> Check {
    let mut check =
        Check::new("acknowledged entries", "in the end every node shows all that was acknowledged");
    let mut by_node: BTreeMap<&str, Last<'_, '_>> = BTreeMap::new();
    for look in looks.iter().filter(|look| look.operation.f() == "final-follow") {
        let last = by_node.entry(look.operation.invoke.node.as_deref().unwrap_or("")).or_default();
        if last.looks.is_empty() {
            last.first = look.reset.or_else(|| look.entries.first().map(|(place, _)| *place));
        }
        last.entries.extend(look.entries.iter().copied());
        last.looks.push(&look.operation);
    }
    check.count("nodes", by_node.len() as u64);
    for append in appends.values() {
        let Some(place) = acknowledged(append) else { continue };
        check.count("acknowledged", 1);
        for (node, last) in &by_node {
            let is_kept = last.first.is_none_or(|first| first <= place);
            if is_kept && !last.entries.contains_key(&place) {
                let text = format!("{node} does not show {}, which was acknowledged", shown(place));
                check.fail(Finding::new(text).shown_by(last.looks.iter().copied().take(1).chain([append])));
            }
        }
    }
    if by_node.is_empty() {
        check.unknown(Finding::new("no node showed its log in the end"));
    }
    check
}

/// Whoever is named by a barrier shows, in any later look, that it has cleared that entry.
fn barriers(appends: &BTreeMap<u64, Operation<'_>>, operations: &[Operation<'_>]) -> Check {
    let mut check =
        Check::new("barriers", "who is named as having cleared an entry had cleared it when the answer came");
    for look in operations.iter().filter(|one| one.f() == "cleared" && one.is_ok()) {
        let Some(append) =
            look.input().get("data").and_then(Value::as_u64).and_then(|data| appends.get(&data))
        else {
            continue;
        };
        let Some(place) = acknowledged(append).filter(|_| append.precedes(look)) else { continue };
        let names = |field: &str| {
            let all = append.output().get(field).and_then(Value::as_array);
            all.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
        };
        let waits_for_all = append.input().get("wait").and_then(Value::as_str) == Some("all");
        let complete = waits_for_all && names("missing").is_empty();
        check.count("barriers", 1);
        check.count("complete barriers", u64::from(complete));
        let cleared = look.output().get("nodes").and_then(Value::as_object);
        for name in names("applied_by") {
            let Some(next) = cleared.and_then(|nodes| nodes.get(name)).and_then(self::place) else {
                continue;
            };
            check.count("nodes looked at", 1);
            if next <= place {
                let text =
                    format!("{name} was named as having cleared {} and is at {}", shown(place), shown(next));
                check.fail(Finding::new(text).shown_by([append, look]));
            }
        }
    }
    check
}
