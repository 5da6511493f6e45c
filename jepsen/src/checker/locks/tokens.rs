//! Tokens grow, and whoever looks sees the present.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Floor, Holding, TOLERANCE_NS, is_release, keys};
use crate::checker::operation::Operation;
use crate::checker::results::{Check, Finding};

/// Tokens are unique and grow in the order of real time, over all locks.
pub(in crate::checker) fn check_tokens(
    operations: &[Operation<'_>],
    holdings: &[Holding<'_, '_>],
) -> Option<Check> {
    let mut check = Check::new(
        "fencing tokens",
        "no token is given twice, and a later grant has a larger one than an earlier",
    );
    check.count("tokens", holdings.len() as u64);
    let mut first: BTreeMap<u64, &Operation<'_>> = BTreeMap::new();
    for holding in holdings {
        if let Some(other) = first.insert(holding.token, holding.acquire) {
            let text = format!("token {} was given twice", holding.token);
            check.fail(Finding::new(text).shown_by([other, holding.acquire]));
        }
    }
    let granted = holdings.iter().map(|holding| (holding.token, holding.acquire));
    let seen = operations.iter().filter_map(|one| Some((seen_tokens(one).into_iter().max()?, one)));
    let floor = Floor::new(granted.chain(seen));
    for holding in holdings {
        if let Some((above, of)) = floor.before(holding.acquire)
            && above > holding.token
        {
            let text = format!(
                "{}: token {} was asked for and given after token {above} was known",
                holding.acquire.key(),
                holding.token,
            );
            check.fail(Finding::new(text).shown_by([of, holding.acquire]));
        }
    }
    (!holdings.is_empty()).then_some(check)
}

/// Tokens of holders that an answer to `observe` or `queue` names.
fn seen_tokens(operation: &Operation<'_>) -> Vec<u64> {
    if !operation.is_ok() {
        return Vec::new();
    }
    let output = operation.output();
    match operation.f() {
        "observe" => output.get("token").and_then(Value::as_u64).into_iter().collect(),
        "queue" => {
            let tokens = output.get("holder_tokens").and_then(Value::as_array);
            tokens.into_iter().flatten().filter_map(Value::as_u64).collect()
        }
        _ => Vec::new(),
    }
}

/// Whoever looks at a lock or an office never sees a holder that had gone before.
pub(in crate::checker) fn check_views(
    operations: &[Operation<'_>],
    holdings: &[Holding<'_, '_>],
) -> Option<Check> {
    let mut check = Check::new(
        "views of locks",
        "whoever looks at a lock or an office sees who holds it, and nobody who had gone",
    );
    let views: Vec<&Operation<'_>> =
        operations.iter().filter(|one| matches!(one.f(), "observe" | "queue") && one.is_ok()).collect();
    check.count("views", views.len() as u64);
    let released: BTreeMap<u64, &Operation<'_>> = holdings
        .iter()
        .flat_map(|holding| holding.uses.iter().map(move |one| (holding.token, *one)))
        .filter(|(_, one)| is_release(one) && one.is_ok())
        .collect();
    let mut granted: BTreeMap<&str, Vec<(u64, &Operation<'_>)>> = BTreeMap::new();
    for holding in holdings.iter().filter(|holding| !super::is_shared(holding.acquire)) {
        for key in keys(holding.acquire) {
            granted.entry(key).or_default().push((holding.token, holding.acquire));
        }
    }
    let floors: BTreeMap<&str, Floor<'_, '_>> =
        granted.into_iter().map(|(key, grants)| (key, Floor::new(grants))).collect();
    for view in &views {
        for token in seen_tokens(view) {
            let key = view.key();
            let gone = released.get(&token).filter(|release| release.precedes(view));
            // A later exclusive holder had it already: the earlier one had gone.
            let above =
                floors.get(key).and_then(|floor| floor.before(view)).filter(|(above, _)| *above > token);
            if let Some(proof) = gone.copied().or(above.map(|(_, of)| of)) {
                let text = format!("{key}: token {token} was seen as the holder's after it had gone");
                check.fail(Finding::new(text).shown_by([proof, view]));
            }
        }
    }
    let mut held: BTreeMap<&str, Vec<&Holding<'_, '_>>> = BTreeMap::new();
    for holding in holdings {
        keys(holding.acquire).into_iter().for_each(|key| held.entry(key).or_default().push(holding));
    }
    for view in &views {
        let shown = seen_tokens(view);
        let ended_ns = view.ended_ns().unwrap_or(u64::MAX).saturating_add(TOLERANCE_NS);
        let is_live = |one: &&&Holding<'_, '_>| one.acquire.precedes(view) && ended_ns < one.until_ns;
        let of_key = held.get(view.key()).map_or(&[] as &[_], Vec::as_slice);
        for hidden in of_key.iter().filter(is_live).filter(|one| !shown.contains(&one.token)) {
            let text = format!("{}: token {} was held, and not seen", view.key(), hidden.token);
            check.fail(Finding::new(text).shown_by([hidden.acquire, *view]));
        }
    }
    (!views.is_empty()).then_some(check)
}

/// What was given back is neither renewed nor given back again.
pub(in crate::checker) fn check_given_back(holdings: &[Holding<'_, '_>]) -> Option<Check> {
    let mut check = Check::new("given back", "what was released is neither renewed nor released again");
    for holding in holdings {
        let Some(first) = holding.uses.iter().find(|one| is_release(one) && one.is_ok()) else { continue };
        check.count("released", 1);
        for again in holding.uses.iter().filter(|one| one.is_ok() && first.precedes(one)) {
            let key = holding.acquire.key();
            let text = format!("{key}: {} of token {} after it had been released", again.f(), holding.token);
            check.fail(Finding::new(text).shown_by([*first, *again]));
        }
    }
    check.counts.contains_key("released").then_some(check)
}
