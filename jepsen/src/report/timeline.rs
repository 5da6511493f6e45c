//! What the page's script draws: operations in lanes, faults, who led.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::checker::{Operation, Outcome, PROBES, Results, Verdict, compact};
use crate::history::History;

/// Operations that one page holds; more would make it slow to open.
pub(super) const OPERATIONS_MAX: usize = 60_000;
/// Characters of arguments or result that are shown of one operation.
const TEXT_MAX: usize = 240;

/// Gives texts numbers, so that each stands in the page once.
#[derive(Default)]
struct Words {
    numbers: BTreeMap<String, usize>,
    all: Vec<String>,
}

impl Words {
    fn number(&mut self, word: &str) -> usize {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        self.numbers.insert(word.to_owned(), self.all.len());
        self.all.push(word.to_owned());
        self.all.len() - 1
    }
}

/// Everything that the script needs, and how many operations there are in all.
pub(super) fn data(
    history: &History,
    operations: &[Operation<'_>],
    results: &Results,
    drawn_max: usize,
) -> Value {
    let drawn: Vec<&Operation<'_>> = operations.iter().filter(|one| !PROBES.contains(&one.f())).collect();
    let total = drawn.len();
    let marked = marked_events(results);
    let chosen = choose(drawn, &marked, drawn_max);
    let (lanes, lanes_total) = lanes(&chosen);
    let mut words = [(); 4].map(|()| Words::default());
    let rows: Vec<Value> = chosen
        .iter()
        .zip(&lanes)
        .map(|(one, lane)| {
            let [kinds, keys, nodes, errors] = &mut words;
            json!([
                lane,
                kinds.number(one.f()),
                keys.number(one.key()),
                nodes.number(one.invoke.node.as_deref().unwrap_or("")),
                match one.outcome {
                    Outcome::Ok => 0,
                    Outcome::Fail => 1,
                    Outcome::Info => 2,
                },
                one.invoke.time_ns / 1_000,
                one.ended_ns().map_or(-1, |end| ((end - one.invoke.time_ns) / 1_000) as i64),
                one.process,
                shortened(&compact(one.input())),
                shortened(&compact(one.output())),
                errors.number(one.error().unwrap_or("")),
                u8::from(marked.contains(&one.invoke.index)),
            ])
        })
        .collect();
    let [kinds, keys, nodes, errors] = words.map(|words| words.all);
    json!({
        "total": total, "lanes": lanes_total,
        "end": history.events.last().map_or(1, |event| event.time_ns / 1_000).max(1),
        "kinds": kinds, "keys": keys, "nodes": nodes, "errors": errors,
        "rows": rows,
        "faults": results.faults.iter().map(|fault| json!({
            "name": fault.name, "targets": fault.targets.join(", "), "effective": fault.effective,
            "from": fault.began_ns / 1_000, "to": fault.healed_ns.map(|healed| healed / 1_000),
            "effect": shortened(&fault.effect.to_string()),
        })).collect::<Vec<_>>(),
        "leaders": leaders(operations),
    })
}

/// Events that findings name.
fn marked_events(results: &Results) -> BTreeSet<u64> {
    let broken = results.checks.iter().filter(|check| check.verdict == Verdict::Fail);
    broken.flat_map(|check| &check.findings).flat_map(|finding| finding.events.iter().copied()).collect()
}

/// All, or as many as a page can hold: those that findings name, those that did not succeed, and of the others every
/// so many.
fn choose<'o, 'h>(
    drawn: Vec<&'o Operation<'h>>,
    marked: &BTreeSet<u64>,
    max: usize,
) -> Vec<&'o Operation<'h>> {
    if drawn.len() <= max {
        return drawn;
    }
    let rank = |one: &Operation<'_>| match (marked.contains(&one.invoke.index), one.outcome) {
        (true, _) => 0_u8,
        (false, Outcome::Info) => 1,
        (false, Outcome::Fail) => 2,
        (false, Outcome::Ok) => 3,
    };
    let mut ranks: [Vec<&Operation<'h>>; 4] = Default::default();
    drawn.into_iter().for_each(|one| ranks[usize::from(rank(one))].push(one));
    let mut chosen: Vec<&'o Operation<'h>> = Vec::with_capacity(max);
    for of_rank in ranks {
        let room = max - chosen.len();
        let count = of_rank.len();
        let taken = room.min(count);
        chosen.extend((0..taken).map(|number| of_rank[number * count / taken]));
    }
    chosen.sort_by_key(|one| one.invoke.index);
    chosen
}

/// A lane for each operation. A process keeps its lane; the one that goes on for it, after an operation of unknown
/// outcome, takes the first lane that is free.
fn lanes(operations: &[&Operation<'_>]) -> (Vec<usize>, usize) {
    let mut span: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for one in operations {
        let until = one.ended_ns().unwrap_or(u64::MAX);
        let entry = span.entry(one.process).or_insert((one.invoke.time_ns, until));
        entry.1 = entry.1.max(until);
    }
    let mut order: Vec<_> = span.into_iter().collect();
    order.sort_by_key(|(_, (from, _))| *from);
    let (mut busy_until, mut lane_of): (Vec<u64>, BTreeMap<u64, usize>) = Default::default();
    for (process, (from, until)) in order {
        let free = busy_until.iter().position(|busy| *busy <= from).unwrap_or(busy_until.len());
        if free == busy_until.len() {
            busy_until.push(until);
        } else {
            busy_until[free] = until;
        }
        lane_of.insert(process, free);
    }
    (operations.iter().map(|one| lane_of[&one.process]).collect(), busy_until.len())
}

/// Who said of itself that it led, and from when to when: `[from, to, node, term]`.
fn leaders(operations: &[Operation<'_>]) -> Vec<Value> {
    let mut spans: Vec<(u64, u64, String, u64)> = Vec::new();
    for one in operations.iter().filter(|one| one.f() == "leader" && one.is_ok()) {
        let output = one.output();
        if output.get("is_leader").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let node = output.get("node_id").map(compact).unwrap_or_default();
        let term = output.get("term").and_then(Value::as_u64).unwrap_or(0);
        let at = one.ended_ns().unwrap_or(one.invoke.time_ns) / 1_000;
        match spans.iter_mut().rev().find(|span| span.2 == node && span.3 == term) {
            Some(span) => span.1 = at,
            None => spans.push((at, at, node, term)),
        }
    }
    spans.into_iter().map(|(from, to, node, term)| json!([from, to, node, term])).collect()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
