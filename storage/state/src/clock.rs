//! The cluster clock's list of what ends when.
//!
//! Every lease, wait, register with a time to live and session without a socket has exactly one entry here, ordered by deadline, so
//! clean-up and [`next_deadline`](crate::State::next_deadline) look at the front only. A renewal moves the
//! entry: nothing can act on a deadline that was renewed meanwhile.

use crate::cow_map::CowMap;
use crate::name::Bytes;
use crate::{FencingToken, LogIndex, Millis, SessionNumber};

/// What ends. The order breaks ties between equal deadlines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lease {
    /// A grant, by token.
    Grant(FencingToken),
    /// A waiter, by the index of its request.
    Waiter(LogIndex),
    /// A register, by key.
    Register(Bytes),
    /// A session without a socket.
    Session(SessionNumber),
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Deadlines {
    set: CowMap<(Millis, Lease), ()>,
}

impl Deadlines {
    pub(crate) fn add(&mut self, deadline: Millis, lease: Lease) {
        self.set.insert((deadline, lease), ());
    }

    pub(crate) fn remove(&mut self, deadline: Millis, lease: Lease) {
        self.set.remove(&(deadline, lease));
    }

    pub(crate) fn contains(&self, deadline: Millis, lease: Lease) -> bool {
        self.set.contains(&(deadline, lease))
    }

    pub(crate) fn next(&self) -> Option<Millis> {
        self.set.first().map(|((deadline, _), ())| *deadline)
    }

    /// The first lease that has ended at `now`.
    pub(crate) fn first_ended(&self, now: Millis) -> Option<&Lease> {
        self.ended(now).next()
    }

    /// Every lease that has ended at `now` and was not cleaned up yet, in order.
    pub(crate) fn ended(&self, now: Millis) -> impl Iterator<Item = &Lease> {
        self.set.iter().take_while(move |((deadline, _), ())| *deadline <= now).map(|((_, lease), ())| lease)
    }

    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    #[cfg(test)]
    pub(crate) fn map(&self) -> &CowMap<(Millis, Lease), ()> {
        &self.set
    }
}

/// Arithmetic on the cluster clock never wraps: a far deadline is simply never reached.
impl Millis {
    /// The instant `duration` later.
    #[must_use]
    pub fn after(self, duration: Self) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// The instant `duration` earlier, or the beginning.
    #[must_use]
    pub fn before(self, duration: Self) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }

    /// Time from `earlier` to here; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}
