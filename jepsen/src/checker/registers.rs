//! What linearizability of single registers does not say: what is there at the end, revisions, and local reads.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::locks::Floor;
use super::operation::{Operation, Outcome};
use super::results::{Check, Finding};

fn is_write(operation: &Operation<'_>) -> bool {
    matches!(operation.f(), "write" | "cas" | "create")
}

fn revision(operation: &Operation<'_>) -> Option<u64> {
    operation.output().get("revision").and_then(Value::as_u64)
}

/// The value that an operation wrote or wants to write.
fn written(operation: &Operation<'_>) -> Option<i64> {
    let input = operation.input();
    input.get("value").or_else(|| input.get("to")).and_then(Value::as_i64)
}

/// The value that an operation read.
fn read_value(operation: &Operation<'_>) -> Option<i64> {
    operation.output().get("value").and_then(Value::as_i64)
}

type ByKey<'o, 'h> = BTreeMap<&'h str, Vec<&'o Operation<'h>>>;

fn by_key<'o, 'h>(operations: &'o [Operation<'h>], filter: impl Fn(&Operation<'h>) -> bool) -> ByKey<'o, 'h> {
    let mut keys: ByKey<'o, 'h> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| filter(operation)) {
        keys.entry(operation.key()).or_default().push(operation);
    }
    keys
}

/// At the end, every node has the last acknowledged value or a later one.
pub(super) fn check_acknowledged(operations: &[Operation<'_>]) -> Option<Check> {
    let writes = by_key(operations, is_write);
    if writes.is_empty() {
        return None;
    }
    let mut check = Check::new(
        "acknowledged writes",
        "at the end every node has the last value that was acknowledged, or one that may be later",
    );
    let asked = by_key(operations, |operation| operation.f() == "final-read");
    let nodes: BTreeSet<Option<&str>> =
        asked.values().flatten().map(|read| read.invoke.node.as_deref()).collect();
    if asked.is_empty() {
        check.unknown(Finding::new("no register was read at the end"));
        return Some(check);
    }
    let mut unread = Vec::new();
    for (key, of_key) in &writes {
        let of_asked = asked.get(key).map_or(&[] as &[_], Vec::as_slice);
        let reads: Vec<&Operation<'_>> = of_asked.iter().copied().filter(|read| read.is_ok()).collect();
        check.count("registers", 1);
        check.count("final reads", reads.len() as u64);
        let acknowledged = of_key
            .iter()
            .copied()
            .filter(|one| one.is_ok())
            .max_by_key(|one| (revision(one), one.invoke.index));
        for read in &reads {
            if let Some(problem) = lost(read, acknowledged, of_key) {
                let shown = acknowledged.into_iter().chain([*read]);
                check.fail(Finding::new(format!("{key}: {problem}")).shown_by(shown));
            }
        }
        let is_read = |node: &Option<&str>| reads.iter().any(|read| read.invoke.node.as_deref() == *node);
        if acknowledged.is_some() && !nodes.iter().all(is_read) {
            unread.push(*key);
        }
    }
    if let Some(first) = unread.first() {
        let text =
            format!("{} registers, {first} first, were not read at the end on every node", unread.len());
        check.unknown(Finding::new(text).about(first));
    }
    Some(check)
}

/// What is wrong with the last value of a register, if anything.
fn lost(
    read: &Operation<'_>,
    acknowledged: Option<&Operation<'_>>,
    writes: &[&Operation<'_>],
) -> Option<String> {
    let (value, at) = (read_value(read), revision(read));
    let writer = writes.iter().find(|write| value.is_some() && written(write) == value);
    if let Some(value) = value {
        match writer.map(|write| write.outcome) {
            None => return Some(format!("at the end it is {value}, which nobody wrote")),
            Some(Outcome::Fail) => {
                return Some(format!("at the end it is {value}, of a write that had failed"));
            }
            Some(Outcome::Ok | Outcome::Info) => {}
        }
    }
    let acknowledged = acknowledged?;
    let last = written(acknowledged)?;
    if value == Some(last) {
        return None;
    }
    let is_later = at > revision(acknowledged) && writer.is_some_and(|write| !write.precedes(acknowledged));
    (!is_later).then(|| format!("the acknowledged value {last} is lost"))
}

/// Whether a read may be old.
fn is_local(operation: &Operation<'_>) -> bool {
    operation.f() == "read-local"
}

/// Revisions of a register never repeat and never go back. What a local read shows may be old, but it is committed:
/// it has the value of its revision, and who asks later sees nothing older.
pub(super) fn check_revisions(operations: &[Operation<'_>]) -> Option<Check> {
    let keys = by_key(operations, |operation| {
        (is_write(operation) || matches!(operation.f(), "read" | "read-local" | "final-read"))
            && operation.is_ok()
            && revision(operation).is_some()
    });
    let mut check = Check::new(
        "revisions",
        "a register's revision grows with every write, and stands for one value only",
    );
    for (key, of_key) in &keys {
        check.count("revisions seen", of_key.len() as u64);
        let floor = Floor::new(of_key.iter().filter_map(|one| Some((revision(one)?, *one))));
        let mut values: BTreeMap<u64, (Option<i64>, &Operation<'_>)> = BTreeMap::new();
        for operation in of_key {
            let Some(at) = revision(operation) else { continue };
            let value = if is_write(operation) { written(operation) } else { read_value(operation) };
            let (other, by) = values.entry(at).or_insert((value, operation));
            if *other != value {
                let text = format!("{key}: revision {at} stands for two values");
                check.fail(Finding::new(text).shown_by([*by, *operation]));
            }
            let Some((above, of)) = floor.before(operation).filter(|_| !is_local(operation)) else {
                continue;
            };
            if above > at || (above == at && is_write(operation)) {
                let text = format!("{key}: revision {at} came after revision {above} was known");
                check.fail(Finding::new(text).shown_by([of, *operation]));
            }
        }
    }
    (!keys.is_empty()).then_some(check)
}

/// Local reads may be old, but not older than the index that they name, nor that than the one they were asked for.
/// They may be newer: the index is looked at before the state is.
pub(super) fn check_local_reads(operations: &[Operation<'_>]) -> Option<Check> {
    let reads = by_key(operations, |operation| is_local(operation) && operation.is_ok());
    let mut check = Check::new(
        "local reads",
        "a local read shows nothing older than the index that it names, and that is none before the one asked for",
    );
    let seen = by_key(operations, |operation| {
        (is_write(operation) || matches!(operation.f(), "read" | "read-local" | "final-read"))
            && operation.outcome != Outcome::Fail
    });
    for (key, of_key) in &reads {
        let all = seen.get(key).map_or(&[] as &[_], Vec::as_slice);
        let mut known: Vec<(u64, &Operation<'_>)> =
            all.iter().filter(|one| one.is_ok()).filter_map(|one| Some((revision(one)?, *one))).collect();
        known.sort_by_key(|(at, one)| (*at, one.invoke.index));
        let writes: BTreeMap<i64, &Operation<'_>> =
            all.iter().filter(|one| is_write(one)).filter_map(|one| Some((written(one)?, *one))).collect();
        for read in of_key {
            check.count("local reads", 1);
            if let Some((problem, by)) = wrong(read, &known, &writes) {
                check.fail(Finding::new(format!("{key}: {problem}")).shown_by(by.into_iter().chain([*read])));
            }
            if asked_for(read).is_some() {
                check.count("with an index", 1);
            }
        }
    }
    (!reads.is_empty()).then_some(check)
}

/// The index from which on a local read was to see.
fn asked_for(read: &Operation<'_>) -> Option<u64> {
    read.input().get("min_index").and_then(Value::as_u64)
}

/// What is wrong with a local read, if anything, and who proves it. `known` are the revisions of its register,
/// ascending, whoever saw them whenever: revisions are log indexes, so what is there at an index is settled.
fn wrong<'o, 'h>(
    read: &Operation<'_>,
    known: &[(u64, &'o Operation<'h>)],
    writes: &BTreeMap<i64, &'o Operation<'h>>,
) -> Option<(String, Option<&'o Operation<'h>>)> {
    let end = read.complete.map_or(u64::MAX, |event| event.index);
    if let Some(value) = read_value(read)
        && writes.get(&value).is_none_or(|write| write.invoke.index >= end)
    {
        return Some((format!("a local read showed {value}, which nobody had written"), None));
    }
    let (at, asked) = (revision(read), asked_for(read));
    let named = read.output().get("index").and_then(Value::as_u64);
    if let (Some(named), Some(asked)) = (named, asked)
        && named < asked
    {
        return Some((format!("a local read from index {asked} on was made at index {named}"), None));
    }
    // An answer that there is nothing names no index; then it is at least the one that was asked for.
    let from = named.or(asked)?;
    let newest = known.partition_point(|(revision, _)| *revision <= from).checked_sub(1)?;
    let (newest, by) = known[newest];
    let what = if named.is_some() { "at" } else { "from" };
    at.is_none_or(|at| at < newest)
        .then(|| (format!("a local read {what} index {from} did not show revision {newest}"), Some(by)))
}
