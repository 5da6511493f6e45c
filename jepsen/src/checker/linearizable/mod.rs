//! Linearizability: each operation seems to happen in one instant between its beginning and its end.

mod bits;
mod lock;
mod minimise;
mod model;
mod register;
mod search;

pub use lock::{Lock, LockModel, State as LockState};
pub use minimise::{Reduce, minimise};
pub use model::{Call, Model};
pub use register::{Register, RegisterModel, State as RegisterState};
pub use search::{Found, Limits, Stuck, search};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::describe;
use super::locks::{self, Holding};
use super::operation::{Operation, Outcome};
use super::results::{Check, Finding};

/// Time for one key. One that needs more is `unknown`.
pub const KEY_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for all keys of one check, so that a bad run does not check for ever.
pub const ALL_KEYS_TIME_MAX: Duration = Duration::from_secs(60);
/// Configurations of one key at once: what bounds the memory of a search, to some 100 MB.
pub const CONFIGURATIONS_MAX: usize = 500_000;
/// Time to look for a small part of a history that shows the same.
pub const MINIMISE_TIME_MAX: Duration = Duration::from_secs(3);
/// Operations shown of one key.
const LINES_MAX: usize = 30;

/// Registers: reads, writes and compare-and-sets, key by key.
pub fn check_registers(operations: &[Operation<'_>]) -> Option<Check> {
    let mut keys: BTreeMap<&str, Vec<(usize, &Operation<'_>)>> = BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        if matches!(operation.f(), "read" | "final-read" | "write" | "cas" | "create") {
            keys.entry(operation.key()).or_default().push((number, operation));
        }
    }
    let mut check = Check::new(
        "linearizable registers",
        "each read, write and compare-and-set takes effect in one instant between its call and its answer",
    );
    let mut budget = Budget::new();
    for (key, of_key) in &keys {
        let (calls, from) = register::calls(of_key);
        let stuck =
            check_key(&mut check, &mut budget, &RegisterModel, key, &calls, |call| &operations[from[call]]);
        if let Some((stuck, mut finding)) = stuck {
            if let Some(writer) = register::refused_writer(&operations[from[stuck]], of_key) {
                finding.lines.push("whoever wanted to write that was told that it had failed:".to_owned());
                push_lines(&mut finding, &[writer], &operations[from[stuck]]);
            }
            check.fail(finding);
        }
    }
    (!keys.is_empty()).then_some(check)
}

/// Exclusive locks and elections of one key each. `event_times_ns` are those of the whole history.
pub(super) fn check_locks(holdings: &[Holding<'_, '_>], event_times_ns: &[u64]) -> Option<Check> {
    let mut shared: BTreeMap<&str, bool> = BTreeMap::new();
    let mut by_key: BTreeMap<&str, Vec<&Holding<'_, '_>>> = BTreeMap::new();
    for holding in holdings {
        let keys = locks::keys(holding.acquire);
        for key in &keys {
            *shared.entry(key).or_default() |= keys.len() > 1 || locks::is_shared(holding.acquire);
            by_key.entry(key).or_default().push(holding);
        }
    }
    by_key.retain(|key, _| !shared[key]);
    let mut check = Check::new(
        "linearizable locks",
        "each grant, renewal and release takes effect in one instant, as on one lock that one client holds",
    );
    let mut budget = Budget::new();
    for (key, of_key) in &by_key {
        let (calls, from) = lock::calls(of_key, event_times_ns);
        let stuck = check_key(&mut check, &mut budget, &LockModel, key, &calls, |call| from[call]);
        if let Some((_, finding)) = stuck {
            check.fail(finding);
        }
    }
    (!by_key.is_empty()).then_some(check)
}

/// Time that is left for a check.
#[derive(Debug)]
struct Budget {
    end: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { end: Instant::now() + ALL_KEYS_TIME_MAX }
    }

    fn limits(&self, time_max: Duration) -> Limits {
        Limits {
            deadline: self.end.min(Instant::now() + time_max),
            configurations_max: CONFIGURATIONS_MAX,
            foresight: true,
        }
    }
}

/// The call that fits nowhere and what shows it, if there is no order.
fn check_key<'o, 'h: 'o, M: Reduce>(
    check: &mut Check,
    budget: &mut Budget,
    model: &M,
    key: &str,
    calls: &[Call<M::Operation>],
    operation_of: impl Fn(usize) -> &'o Operation<'h>,
) -> Option<(usize, Finding)>
where
    M::Operation: Copy,
{
    check.count("keys", 1);
    check.count("operations", calls.len() as u64);
    check.count("of unknown outcome", calls.iter().filter(|call| call.returned.is_none()).count() as u64);
    match search(model, calls, budget.limits(KEY_TIME_MAX)) {
        Found::Linearizable => None,
        Found::Unknown(why) => {
            let text = format!("{key}: {why} while looking for an order of {} operations", calls.len());
            check.unknown(Finding::new(text).about(key));
            None
        }
        Found::Stuck(stuck) => {
            // Again, to the shortest beginning that has no order; that much is certain already.
            let patient = Limits { foresight: false, ..budget.limits(MINIMISE_TIME_MAX) };
            let (stuck, enough) = match search(model, calls, patient) {
                Found::Stuck(stuck) => {
                    let enough = minimise(model, calls, stuck.call, budget.limits(MINIMISE_TIME_MAX));
                    (stuck, enough)
                }
                Found::Linearizable | Found::Unknown(_) => {
                    let until = calls[stuck.call].returned.unwrap_or(u64::MAX);
                    let before = (0..calls.len()).filter(|&call| calls[call].invoked < until).collect();
                    (stuck, before)
                }
            };
            Some((stuck.call, explain(key, calls.len(), &stuck, &enough, operation_of)))
        }
    }
}

/// What a person needs to see that there is no order: the operation that fits nowhere, what the object may have
/// been, what was under way, and a small part of the history that has no order already.
fn explain<'o, 'h: 'o>(
    key: &str,
    total: usize,
    stuck: &Stuck,
    enough: &[usize],
    operation_of: impl Fn(usize) -> &'o Operation<'h>,
) -> Finding {
    let culprit = operation_of(stuck.call);
    let text = format!(
        "{key}: no order has a place for \"{}\"; just before, it was {}",
        describe::operation(culprit),
        stuck.states.join(" or "),
    );
    let mut finding = Finding::new(text).about(key);
    finding.lines.push(format!("{} of {total} operations have no order already:", enough.len()));
    let shown: Vec<_> = enough.iter().map(|&call| operation_of(call)).collect();
    push_lines(&mut finding, &shown, culprit);
    let pending = stuck.pending.iter().map(|&call| operation_of(call));
    let (unknown, under_way): (Vec<_>, Vec<_>) = pending
        .filter(|one| !shown.iter().any(|shown| shown.invoke.index == one.invoke.index))
        .partition(|one| one.outcome == Outcome::Info);
    if !under_way.is_empty() {
        finding.lines.push("under way at that moment:".to_owned());
        push_lines(&mut finding, &under_way, culprit);
    }
    if !unknown.is_empty() {
        finding.lines.push(format!("and {} of unknown outcome, which would not explain it", unknown.len()));
    }
    let known =
        stuck.pending.iter().map(|&call| operation_of(call)).filter(|one| one.outcome != Outcome::Info);
    let from = known.chain([culprit]).map(|one| one.invoke.time_ns).min().unwrap_or_default();
    finding.window_ns = Some((from, culprit.ended_ns().unwrap_or(from)));
    finding.events.sort_unstable();
    finding.events.dedup();
    finding
}

fn push_lines(finding: &mut Finding, operations: &[&Operation<'_>], culprit: &Operation<'_>) {
    let hidden = operations.len().saturating_sub(LINES_MAX);
    if hidden > 0 {
        finding.lines.push(format!("  ({hidden} earlier ones left out)"));
    }
    for operation in &operations[hidden..] {
        let mark = if operation.invoke.index == culprit.invoke.index { "*" } else { " " };
        finding.lines.push(format!("{mark} {}", describe::operation(operation)));
        finding.events.extend(operation.events());
    }
}
