//! An exclusive lock with tokens and leases, as an object.
//!
//! The end of a lease is an operation too, one that nobody makes: it may happen at any time after the lease could
//! have ended, or never. An acquire of unknown outcome is left out. It could only make the lock held, and nothing
//! that is looked at here asks for it to be held by somebody unknown.

use std::fmt;

use super::minimise::Reduce;
use super::model::{Call, Model};
use crate::checker::locks::{self, Holding, TOLERANCE_NS};
use crate::checker::operation::{Operation, Outcome};

/// Who holds the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Token of the holder.
    pub holder: Option<u64>,
    /// The last token that was given.
    pub last: u64,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.holder, self.last) {
            (Some(token), _) => write!(formatter, "held with token {token}"),
            (None, 0) => write!(formatter, "free and never held"),
            (None, last) => write!(formatter, "free, last held with token {last}"),
        }
    }
}

/// What was done, with what came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It was free and was given, with this token.
    Acquire(u64),
    /// The holding with this token ended: it was released, or its lease ended.
    End(u64),
    /// It was held with this token.
    Held(u64),
    /// It was not held with this token.
    NotHeld(u64),
}

impl Lock {
    fn token(self) -> u64 {
        let (Self::Acquire(token) | Self::End(token) | Self::Held(token) | Self::NotHeld(token)) = self;
        token
    }
}

/// One lock, free at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct LockModel;

impl Model for LockModel {
    type State = State;
    type Operation = Lock;

    fn initial(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: &Lock) -> Option<State> {
        match *operation {
            Lock::Acquire(token) => (state.holder.is_none() && token > state.last)
                .then_some(State { holder: Some(token), last: token }),
            Lock::End(token) => {
                (state.holder == Some(token)).then_some(State { holder: None, last: state.last })
            }
            Lock::Held(token) => (state.holder == Some(token)).then(|| state.clone()),
            Lock::NotHeld(token) => (state.holder != Some(token)).then(|| state.clone()),
        }
    }

    fn is_read(&self, operation: &Lock) -> bool {
        matches!(operation, Lock::Held(_) | Lock::NotHeld(_))
    }

    fn needs(&self, operation: &Lock, other: &Lock) -> bool {
        match (*operation, *other) {
            (Lock::Acquire(token), Lock::End(before)) => before < token,
            (Lock::NotHeld(token), Lock::End(of)) => token == of,
            (Lock::Held(token) | Lock::End(token), Lock::Acquire(of)) => token == of,
            _ => false,
        }
    }

    fn is_past(&self, state: &State, operation: &Lock) -> bool {
        match *operation {
            Lock::Acquire(token) => token <= state.last,
            Lock::End(token) | Lock::Held(token) => {
                token < state.last || (token == state.last && state.holder.is_none())
            }
            Lock::NotHeld(_) => false,
        }
    }
}

impl Reduce for LockModel {
    fn unit(&self, _: usize, operation: &Lock) -> u64 {
        operation.token()
    }

    fn weaker(&self, _: &Lock) -> Option<Lock> {
        None
    }
}

/// Of one lock: its calls, and the operation that each comes from (the end of a lease: from its acquire).
pub(super) fn calls<'o, 'h>(
    holdings: &[&Holding<'o, 'h>],
    event_times_ns: &[u64],
) -> (Vec<Call<Lock>>, Vec<&'o Operation<'h>>) {
    let (mut calls, mut from) = (Vec::new(), Vec::new());
    let mut push = |operation: Lock, of: &'o Operation<'h>| {
        // Events are at odd positions, so that the end of a lease fits in between.
        let returned = of.complete.filter(|_| of.outcome != Outcome::Info).map(|event| event.index * 2 + 1);
        calls.push(Call { operation, invoked: of.invoke.index * 2 + 1, returned });
        from.push(of);
    };
    for holding in holdings {
        push(Lock::Acquire(holding.token), holding.acquire);
        for one in &holding.uses {
            match (one.f(), one.outcome) {
                ("renew", Outcome::Ok) => push(Lock::Held(holding.token), one),
                ("release" | "resign", Outcome::Ok | Outcome::Info) => push(Lock::End(holding.token), one),
                _ if locks::is_told_lost(one) => push(Lock::NotHeld(holding.token), one),
                _ => {}
            }
        }
    }
    for holding in holdings {
        let may_end_ns = holding.lease_ns.saturating_sub(TOLERANCE_NS);
        let event = event_times_ns.partition_point(|&time_ns| time_ns < may_end_ns);
        calls.push(Call { operation: Lock::End(holding.token), invoked: event as u64 * 2, returned: None });
        from.push(holding.acquire);
    }
    (calls, from)
}
