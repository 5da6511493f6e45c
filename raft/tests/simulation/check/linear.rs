//! Is a history of one register linearizable? Wing and Gong's search with Lowe's cache of visited states.
//!
//! Every write has a value of its own, so a register is "absent" or the number of the write that made it.

use std::collections::BTreeSet;

/// What one operation asked and, when that is known, what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Found this value.
    Read(Option<u64>),
    /// Wrote without condition.
    Put(u64),
    /// Removed; whether there was something to remove.
    Delete(Option<bool>),
    /// Wrote because the register was as expected.
    Swapped { expect: Option<u64>, value: u64 },
    /// Did not write because the register was not as expected.
    NotSwapped { expect: Option<u64> },
    /// A conditional write of unknown outcome: if it happened at all, it wrote or did not.
    SwapUnknown { expect: Option<u64>, value: u64 },
}

/// One operation on one register.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// When it began.
    pub invoked: u64,
    /// When its outcome was known; `None`: it may happen at any time after it began, or never.
    pub completed: Option<u64>,
    pub action: Action,
}

impl Action {
    /// The register afterwards, if this can happen to it now.
    fn step(self, state: Option<u64>) -> Option<Option<u64>> {
        match self {
            Self::Read(found) => (found == state).then_some(state),
            Self::Put(value) => Some(Some(value)),
            Self::Delete(existed) => existed.is_none_or(|it| it == state.is_some()).then_some(None),
            Self::Swapped { expect, value } => (expect == state).then_some(Some(value)),
            Self::NotSwapped { expect } => (expect != state).then_some(state),
            Self::SwapUnknown { expect, value } => Some(if expect == state { Some(value) } else { state }),
        }
    }
}

/// Steps of the search before it gives up. A history of this size is the harness' mistake.
const STEPS_MAX: u64 = 5_000_000;

#[derive(Clone, Copy)]
enum Mark {
    Call(usize),
    Return(usize),
}

/// The history in real-time order, with operations taken out while they are tried: a linked list by index.
struct Order {
    marks: Vec<Mark>,
    next: Vec<usize>,
    before: Vec<usize>,
    call_of: Vec<usize>,
    return_of: Vec<Option<usize>>,
}

impl Order {
    fn new(history: &[Operation]) -> Self {
        let mut timed = Vec::new();
        for (id, operation) in history.iter().enumerate() {
            // At equal times calls come first: the operations overlap.
            timed.push((operation.invoked, 0, id, Mark::Call(id)));
            if let Some(completed) = operation.completed {
                timed.push((completed, 1, id, Mark::Return(id)));
            }
        }
        timed.sort_by_key(|(at, kind, id, _)| (*at, *kind, *id));
        let marks: Vec<Mark> = timed.into_iter().map(|(.., mark)| mark).collect();
        let mut call_of = vec![0; history.len()];
        let mut return_of = vec![None; history.len()];
        for (at, mark) in marks.iter().enumerate() {
            match *mark {
                Mark::Call(id) => call_of[id] = at + 1,
                Mark::Return(id) => return_of[id] = Some(at + 1),
            }
        }
        // Position 0 is the head; the end is marks.len() + 1.
        let count = marks.len() + 2;
        let next = (1..=count).collect();
        let before = (0..count).map(|at| usize::saturating_sub(at, 1)).collect();
        Self { marks, next, before, call_of, return_of }
    }

    fn end(&self) -> usize {
        self.marks.len() + 1
    }

    fn take(&mut self, id: usize) {
        for at in [Some(self.call_of[id]), self.return_of[id]].into_iter().flatten() {
            self.next[self.before[at]] = self.next[at];
            self.before[self.next[at]] = self.before[at];
        }
    }

    fn put_back(&mut self, id: usize) {
        for at in [self.return_of[id], Some(self.call_of[id])].into_iter().flatten() {
            self.next[self.before[at]] = at;
            self.before[self.next[at]] = at;
        }
    }
}

/// Whether there is an order of the operations that respects real time and explains every outcome, starting
/// from an absent register.
///
/// # Errors
/// When the search takes too long: the history is too large to say.
pub fn is_linearizable(history: &[Operation]) -> Result<bool, String> {
    let mut order = Order::new(history);
    let mut state = None;
    let mut done = vec![0_u64; history.len().div_ceil(64)];
    let mut seen: BTreeSet<(Vec<u64>, Option<u64>)> = BTreeSet::new();
    let mut stack: Vec<(usize, Option<u64>)> = Vec::new();
    let mut required = history.iter().filter(|operation| operation.completed.is_some()).count();
    let mut at = order.next[0];
    for _ in 0..STEPS_MAX {
        if required == 0 {
            return Ok(true);
        }
        let mark = if at == order.end() { None } else { Some(order.marks[at - 1]) };
        if let Some(Mark::Call(id)) = mark {
            if let Some(after) = history[id].action.step(state) {
                done[id / 64] |= 1 << (id % 64);
                if seen.insert((done.clone(), after)) {
                    stack.push((id, state));
                    state = after;
                    required -= usize::from(history[id].completed.is_some());
                    order.take(id);
                    at = order.next[0];
                    continue;
                }
                done[id / 64] &= !(1 << (id % 64));
            }
            at = order.next[at];
            continue;
        }
        // An operation returned that was not placed yet, or nothing is left to try: undo the last placement.
        let Some((id, before)) = stack.pop() else { return Ok(false) };
        state = before;
        done[id / 64] &= !(1 << (id % 64));
        required += usize::from(history[id].completed.is_some());
        order.put_back(id);
        at = order.next[order.call_of[id]];
    }
    Err(format!("{} operations on one register are too many to check", history.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(invoked: u64, completed: u64, action: Action) -> Operation {
        Operation { invoked, completed: Some(completed), action }
    }

    fn unknown(invoked: u64, action: Action) -> Operation {
        Operation { invoked, completed: None, action }
    }

    #[track_caller]
    fn check(expected: bool, history: &[Operation]) {
        assert_eq!(is_linearizable(history), Ok(expected), "{history:?}");
    }

    #[test]
    fn a_read_sees_the_last_write_that_completed_before_it() {
        check(true, &[op(0, 1, Action::Put(1)), op(2, 3, Action::Read(Some(1)))]);
        check(false, &[op(0, 1, Action::Put(1)), op(2, 3, Action::Read(None))]);
        let stale = [op(0, 1, Action::Put(1)), op(2, 3, Action::Put(2)), op(4, 5, Action::Read(Some(1)))];
        check(false, &stale);
    }

    #[test]
    fn concurrent_operations_may_fall_either_way_but_not_both_ways() {
        let write = op(0, 10, Action::Put(1));
        check(true, &[write, op(1, 2, Action::Read(None)), op(3, 4, Action::Read(Some(1)))]);
        check(false, &[write, op(1, 2, Action::Read(Some(1))), op(3, 4, Action::Read(None))]);
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_twice() {
        let lost = unknown(0, Action::Put(1));
        check(true, &[lost, op(5, 6, Action::Read(None))]);
        check(true, &[lost, op(5, 6, Action::Read(None)), op(7, 8, Action::Read(Some(1)))]);
        let twice = [
            lost,
            op(1, 2, Action::Read(Some(1))),
            op(3, 4, Action::Put(2)),
            op(5, 6, Action::Read(Some(1))),
        ];
        check(false, &twice);
        check(false, &[op(5, 6, Action::Read(Some(1))), unknown(7, Action::Put(1))]);
    }

    #[test]
    fn of_two_swaps_from_the_same_value_one_fails() {
        let swap = |value| Action::Swapped { expect: None, value };
        check(false, &[op(0, 5, swap(1)), op(0, 5, swap(2))]);
        check(true, &[op(0, 5, swap(1)), op(0, 5, Action::NotSwapped { expect: None })]);
        check(false, &[op(0, 1, Action::NotSwapped { expect: None })]);
        let unknown_swap = unknown(0, Action::SwapUnknown { expect: None, value: 1 });
        check(true, &[unknown_swap, op(0, 5, swap(2)), op(6, 7, Action::Read(Some(2)))]);
        check(true, &[unknown_swap, op(0, 5, Action::NotSwapped { expect: None })]);
    }

    #[test]
    fn a_delete_says_whether_there_was_something() {
        check(true, &[op(0, 1, Action::Put(1)), op(2, 3, Action::Delete(Some(true)))]);
        check(false, &[op(0, 1, Action::Put(1)), op(2, 3, Action::Delete(Some(false)))]);
        check(false, &[op(0, 1, Action::Delete(None)), op(0, 1, Action::Read(Some(1)))]);
    }

    #[test]
    fn many_concurrent_unknown_writes_are_searched_in_reasonable_time() {
        let mut history: Vec<_> = (1..=10).map(|value| unknown(0, Action::Put(value))).collect();
        history.extend((0..100).map(|at| op(10 + 2 * at, 11 + 2 * at, Action::Read(Some(1 + at / 10)))));
        check(true, &history);
        history.push(op(500, 501, Action::Read(Some(3))));
        check(false, &history);
    }
}
