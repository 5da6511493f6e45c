//! What a search needs to know about the object under test.

use std::fmt::Display;
use std::hash::Hash;

/// An object with a state and operations that happen in one instant each.
pub trait Model {
    /// What the object is. Shown to people when no order can be found.
    type State: Clone + Eq + Hash + Display;
    /// One operation with its result, where that is known.
    type Operation;

    /// What it is at first.
    fn initial(&self) -> Self::State;

    /// What it is after the operation; none where the operation cannot happen with that result.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// Whether the operation leaves every state as it was. Such a one is put into the order as soon as it fits.
    fn is_read(&self, operation: &Self::Operation) -> bool;

    /// Whether `operation` could come out differently if `other` had not happened.
    ///
    /// What no operation of an order needs can be taken out of it: the others come out as before.
    fn needs(&self, operation: &Self::Operation, other: &Self::Operation) -> bool;

    /// Whether the operation can happen neither in this state nor in any that may follow.
    ///
    /// It may always say no. Where it says yes, whole branches of the search end early.
    fn is_past(&self, state: &Self::State, operation: &Self::Operation) -> bool;
}

/// An operation and when it was under way. Positions are of any clock that orders all of them.
#[derive(Clone, Copy, Debug)]
pub struct Call<O> {
    /// What.
    pub operation: O,
    /// It happened after this.
    pub invoked: u64,
    /// It happened before this. None: nobody knows whether it happened at all, nor when.
    pub returned: Option<u64>,
}
