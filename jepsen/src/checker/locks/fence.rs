//! The resource behind a lock, which is the harness' own: it refuses tokens older than the newest it has seen.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Floor;
use crate::checker::operation::{Operation, Outcome};
use crate::checker::results::{Check, Finding};

/// A fenced resource never accepts an older token after a newer one. One without a fence does, and is why there are
/// fences: what it accepts out of order is counted and shown, not judged.
pub(in crate::checker) fn check_fence(operations: &[Operation<'_>], is_fenced: bool) -> Option<Check> {
    let mut by_key: BTreeMap<&str, Vec<(u64, &Operation<'_>)>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.f() == "use") {
        if let Some(token) = operation.input().get("token").and_then(Value::as_u64) {
            by_key.entry(operation.key()).or_default().push((token, operation));
        }
    }
    let promise = if is_fenced {
        "the resource accepts no token older than one it has accepted"
    } else {
        "what a resource without a fence accepts out of order is shown, not judged"
    };
    let mut check = Check::new("fenced resource", promise);
    for (key, uses) in &by_key {
        check.count("uses", uses.len() as u64);
        let accepted = || uses.iter().copied().filter(|(_, one)| one.is_ok());
        let floor = Floor::new(accepted());
        for (token, operation) in accepted() {
            let previous = operation.output().get("previous").and_then(Value::as_u64);
            let before = floor.before(operation).filter(|(above, _)| *above > token);
            if before.is_none() && previous.is_none_or(|previous| previous <= token) {
                continue;
            }
            let above = before.map(|(above, _)| above).or(previous).unwrap_or_default();
            let text = format!("{key}: token {token} was accepted after the newer token {above}");
            let finding =
                Finding::new(text).shown_by(before.map(|(_, of)| of).into_iter().chain([operation]));
            check.count("accepted out of order", 1);
            if is_fenced {
                check.fail(finding);
            } else {
                check.note(finding);
            }
        }
        for (token, operation) in uses.iter().filter(|(_, one)| one.outcome == Outcome::Fail) {
            check.count("refused", 1);
            let end = operation.complete.map_or(u64::MAX, |event| event.index);
            if operation.error() == Some("fenced")
                && !accepted().any(|(other, by)| other > *token && by.invoke.index < end)
            {
                let text =
                    format!("{key}: token {token} was refused, although no newer one had been accepted");
                check.fail(Finding::new(text).shown_by([*operation]));
            }
        }
    }
    (!by_key.is_empty()).then_some(check)
}
