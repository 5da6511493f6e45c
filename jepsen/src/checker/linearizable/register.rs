//! A register with a revision: read, write, compare-and-set.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value;

use super::minimise::Reduce;
use super::model::{Call, Model};
use crate::checker::operation::{Operation, Outcome};

/// The value of a register and what is known of its revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// None: never written.
    pub value: Option<i64>,
    /// None: never written, or by a write whose revision nobody saw.
    pub revision: Option<u64>,
    /// The highest revision known to have been there. Revisions are positions in one log: they only grow.
    pub floor: u64,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value, self.revision) {
            (None, _) => write!(formatter, "empty"),
            (Some(value), Some(revision)) => write!(formatter, "{value} (revision {revision})"),
            (Some(value), None) => write!(formatter, "{value} (revision unknown)"),
        }
    }
}

/// What was done, with what came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// It was this value, of this revision.
    Read {
        /// None: empty.
        value: Option<i64>,
        /// Where the answer told it.
        revision: Option<u64>,
    },
    /// It became this value.
    Write {
        /// What is written.
        value: i64,
        /// The revision it got.
        revision: Option<u64>,
    },
    /// It became `to` because it was `from`.
    Swap {
        /// None: it had to be empty.
        from: Option<i64>,
        /// The revision that it had to have.
        at: Option<u64>,
        /// What is written.
        to: i64,
        /// The revision it got.
        revision: Option<u64>,
    },
    /// It was something else than this, so nothing was written.
    Refused {
        /// None: it had to be empty.
        from: Option<i64>,
        /// The revision that it had to have.
        at: Option<u64>,
    },
}

/// One register, empty at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegisterModel;

impl Model for RegisterModel {
    type State = State;
    type Operation = Register;

    fn initial(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: &Register) -> Option<State> {
        match *operation {
            Register::Read { value, revision } => matches(state, value, revision).then(|| state.clone()),
            Register::Write { value, revision } => written(state, value, revision),
            Register::Swap { from, at, to, revision } => {
                matches(state, from, at).then(|| written(state, to, revision))?
            }
            Register::Refused { from, at } => (!matches(state, from, at)).then(|| state.clone()),
        }
    }

    fn is_read(&self, operation: &Register) -> bool {
        matches!(operation, Register::Read { .. } | Register::Refused { .. })
    }

    fn needs(&self, operation: &Register, other: &Register) -> bool {
        let (Register::Write { value: written, revision } | Register::Swap { to: written, revision, .. }) =
            *other
        else {
            return false;
        };
        match *operation {
            Register::Read { value, .. } | Register::Swap { from: value, .. } => value == Some(written),
            Register::Write { .. } => false,
            // What came before the revision that was asked for is not what had taken its place.
            Register::Refused { at, .. } => match (at, revision) {
                (Some(at), Some(revision)) => revision > at,
                _ => true,
            },
        }
    }

    fn is_past(&self, state: &State, operation: &Register) -> bool {
        match *operation {
            Register::Read { value: None, .. } => state.value.is_some(),
            Register::Read { revision, .. } => revision.is_some_and(|revision| revision < state.floor),
            Register::Write { revision, .. } => revision.is_some_and(|revision| revision <= state.floor),
            Register::Swap { from, at, revision, .. } => {
                revision.is_some_and(|revision| revision <= state.floor)
                    || at.is_some_and(|at| at < state.floor)
                    || (from.is_none() && state.value.is_some())
            }
            Register::Refused { .. } => false,
        }
    }
}

impl Reduce for RegisterModel {
    fn unit(&self, index: usize, _: &Register) -> u64 {
        index as u64
    }

    fn weaker(&self, operation: &Register) -> Option<Register> {
        match *operation {
            Register::Swap { to, revision, .. } => Some(Register::Write { value: to, revision }),
            _ => None,
        }
    }
}

/// Whether this is what the register may be. A revision that nobody saw is any above the last one seen.
fn matches(state: &State, value: Option<i64>, revision: Option<u64>) -> bool {
    let Some(revision) = revision else { return state.value == value };
    state.value == value && state.revision.map_or(revision > state.floor, |known| known == revision)
}

fn written(state: &State, value: i64, revision: Option<u64>) -> Option<State> {
    match revision {
        Some(revision) if revision <= state.floor => None,
        Some(floor) => Some(State { value: Some(value), revision, floor }),
        None => Some(State { value: Some(value), revision: None, floor: state.floor }),
    }
}

fn integer(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_i64)
}

fn unsigned(value: &Value, name: &str) -> Option<u64> {
    value.get(name).and_then(Value::as_u64)
}

/// What an operation says about its register; none where it says nothing.
fn register(operation: &Operation<'_>) -> Option<Register> {
    let (input, output) = (operation.input(), operation.output());
    let revision = unsigned(output, "revision");
    match (operation.f(), operation.outcome) {
        ("read" | "final-read", Outcome::Ok) => {
            Some(Register::Read { value: integer(output, "value"), revision })
        }
        ("write", Outcome::Ok | Outcome::Info) => {
            Some(Register::Write { value: integer(input, "value")?, revision })
        }
        ("cas" | "create", outcome) => {
            let (from, at) = (integer(input, "from"), unsigned(input, "revision"));
            if outcome != Outcome::Fail {
                return Some(Register::Swap { from, at, to: integer(input, "to")?, revision });
            }
            // Only this answer comes from the state; the others say that nothing was proposed.
            (operation.error() == Some("revision_mismatch")).then_some(Register::Refused { from, at })
        }
        _ => None,
    }
}

/// The calls of one register, with the number of the operation that each comes from.
///
/// Values are written once per register, so a read of a value tells the revision of the write that nobody
/// answered. Filled in, such a write fits in one place instead of many.
pub(super) fn calls(operations: &[(usize, &Operation<'_>)]) -> (Vec<Call<Register>>, Vec<usize>) {
    let mut seen: HashMap<i64, u64> = HashMap::new();
    for (_, operation) in operations {
        if let Some(
            Register::Read { value: Some(value), revision: Some(revision) }
            | Register::Swap { from: Some(value), at: Some(revision), .. }
            | Register::Refused { from: Some(value), at: Some(revision) },
        ) = register(operation)
        {
            seen.entry(value).or_insert(revision);
        }
    }
    let (mut calls, mut from) = (Vec::new(), Vec::new());
    for (number, operation) in operations {
        let Some(mut register) = register(operation) else { continue };
        match &mut register {
            Register::Write { value, revision } | Register::Swap { to: value, revision, .. } => {
                *revision = revision.or_else(|| seen.get(value).copied());
            }
            Register::Read { .. } | Register::Refused { .. } => {}
        }
        let returned =
            operation.complete.filter(|_| operation.outcome != Outcome::Info).map(|event| event.index);
        calls.push(Call { operation: register, invoked: operation.invoke.index, returned });
        from.push(*number);
    }
    (calls, from)
}

/// A read of what a write had wanted that was answered with a failure: the pair explains more than the read.
pub(super) fn refused_writer<'o, 'h>(
    read: &Operation<'_>,
    operations: &[(usize, &'o Operation<'h>)],
) -> Option<&'o Operation<'h>> {
    let Some(Register::Read { value: Some(value), .. }) = register(read) else { return None };
    let wanted = |one: &Operation<'_>| integer(one.input(), "value").or_else(|| integer(one.input(), "to"));
    operations
        .iter()
        .map(|(_, one)| *one)
        .find(|one| one.outcome == Outcome::Fail && wanted(one) == Some(value))
}
