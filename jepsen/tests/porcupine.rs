//! Our search and that of the crate porcupine-rs agree on the same histories, good and bad.
//!
//! porcupine-rs is another Wing-Gong-Lowe, depth first where ours goes breadth first. It is a dependency of tests
//! only: through criterion, which it wrongly counts among its own dependencies, it brings some thirty crates and one
//! small C file (alloca). Its models here are written anew, as naive as can be: no revisions filled in from elsewhere,
//! no pruning, so that a mistake in those shows as a disagreement.

use std::time::{Duration, Instant};

use ovncp_jepsen::checker::linearizable::{
    Call, Found, Limits, Lock, LockModel, Model, Register, RegisterModel, search,
};
use porcupine_rs::CheckResult;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// More than any of these searches needs on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(120);

/// A register as a child would write it: value, revision if known, highest revision so far.
#[derive(Clone)]
struct NaiveRegister;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Cell {
    value: Option<i64>,
    revision: Option<u64>,
    highest: u64,
}

impl Cell {
    /// The cell if it may be this, with what is learned of its revision.
    fn seen(&self, value: Option<i64>, revision: Option<u64>) -> Option<Self> {
        if self.value != value {
            return None;
        }
        match (revision, self.revision) {
            (None, _) => Some(self.clone()),
            (Some(seen), Some(known)) => (seen == known).then(|| self.clone()),
            (Some(seen), None) if seen > self.highest => {
                Some(Self { value, revision: Some(seen), highest: seen })
            }
            (Some(_), None) => None,
        }
    }

    fn set(&self, value: i64, revision: Option<u64>) -> Option<Self> {
        let highest = revision.unwrap_or(self.highest);
        let grows = revision.is_none_or(|revision| revision > self.highest);
        grows.then_some(Self { value: Some(value), revision, highest })
    }
}

/// An operation, and whether it may as well not have happened.
type Asked = (Register, bool);

impl porcupine_rs::Model for NaiveRegister {
    type State = Cell;
    type Op = Asked;
    type Metadata = ();

    fn init() -> Cell {
        Cell::default()
    }

    fn step(cell: &Cell, (operation, may_not): &Asked) -> (bool, Cell) {
        let after = match *operation {
            Register::Read { value, revision } => cell.seen(value, revision),
            Register::Write { value, revision } => cell.set(value, revision),
            Register::Swap { from, at, to, revision } => {
                cell.seen(from, at).and_then(|cell| cell.set(to, revision))
            }
            Register::Refused { from, at } => match cell.seen(from, at) {
                Some(_) => None,
                None => Some(cell.clone()),
            },
        };
        match after {
            Some(after) => (true, after),
            None => (*may_not, cell.clone()),
        }
    }
}

/// A lock: its holder and the last token.
#[derive(Clone)]
struct NaiveLock;

impl porcupine_rs::Model for NaiveLock {
    type State = (Option<u64>, u64);
    type Op = (Lock, bool);
    type Metadata = ();

    fn init() -> Self::State {
        (None, 0)
    }

    fn step(state: &Self::State, (operation, may_not): &Self::Op) -> (bool, Self::State) {
        let (holder, last) = *state;
        let after = match *operation {
            Lock::Acquire(token) if holder.is_none() && token > last => Some((Some(token), token)),
            Lock::End(token) if holder == Some(token) => Some((None, last)),
            Lock::Held(token) if holder == Some(token) => Some(*state),
            Lock::NotHeld(token) if holder != Some(token) => Some(*state),
            _ => None,
        };
        match after {
            Some(after) => (true, after),
            None => (*may_not, *state),
        }
    }
}

/// Theirs knows no operation that never happens: an unknown one ends after all others, and may do nothing.
fn theirs<M, O: Copy>(calls: &[Call<O>]) -> bool
where
    M: porcupine_rs::Model<Op = (O, bool), Metadata = ()>,
{
    let operations: Vec<porcupine_rs::Operation<M>> = calls
        .iter()
        .map(|call| porcupine_rs::Operation {
            client_id: None,
            call_time: call.invoked as i64,
            return_time: call.returned.map_or(i64::MAX, |returned| returned as i64),
            op: (call.operation, call.returned.is_none()),
            metadata: None,
        })
        .collect();
    match porcupine_rs::check_operations_timeout(&operations, TIME_MAX) {
        CheckResult::Ok => true,
        CheckResult::Illegal => false,
        CheckResult::Unknown => panic!("porcupine-rs found nothing in {TIME_MAX:?}"),
    }
}

fn ours<M: Model>(model: &M, calls: &[Call<M::Operation>]) -> bool {
    let answers = [true, false].map(|foresight| {
        let limits =
            Limits { deadline: Instant::now() + TIME_MAX, configurations_max: usize::MAX, foresight };
        match search(model, calls, limits) {
            Found::Linearizable => true,
            Found::Stuck(_) => false,
            Found::Unknown(why) => panic!("ours found nothing: {why}"),
        }
    });
    assert_eq!(answers[0], answers[1], "foresight changes the answer");
    answers[0]
}

/// Times of calls of a few clients, one after the other each; every so many is never answered.
fn spans(rng: &mut StdRng, count: usize, clients: usize) -> Vec<(u64, u64, Option<u64>)> {
    let mut free_at = vec![0_u64; clients];
    let mut spans = Vec::new();
    for _ in 0..count {
        let client = rng.random_range(0..clients);
        // Every moment is used once: what touches has no order, and the two programs may see that differently.
        let mut moment = |from: u64, long: u64| (from + rng.random_range(1..long)) / 64 * 64;
        let invoked = moment(free_at[client], 600);
        let instant = invoked + 64 + moment(0, 500);
        let returned = instant + 64 + moment(0, 500);
        free_at[client] = returned + 64;
        spans.push((invoked, instant, Some(returned)));
    }
    for (number, span) in spans.iter_mut().enumerate() {
        let shift = number as u64 % 64;
        *span = (span.0 + shift, span.1 + shift, span.2.map(|returned| returned + shift));
        if rng.random_range(0..12) == 0 {
            span.2 = None;
        }
    }
    spans.sort_unstable_by_key(|span| span.1);
    spans
}

/// What a good register answers, with unique values; `with_revisions` as the product's.
fn good_registers(rng: &mut StdRng, count: usize, with_revisions: bool) -> Vec<Call<Register>> {
    let (mut value, mut revision, mut calls) = (None, 0_u64, Vec::new());
    for (number, (invoked, _, returned)) in spans(rng, count, 4).into_iter().enumerate() {
        let fresh = number as i64 + 1;
        let lost = returned.is_none();
        let shown = |revision: u64| with_revisions.then_some(revision).filter(|_| !lost);
        let at = with_revisions.then_some(revision).filter(|_| value.is_some());
        let operation = match rng.random_range(0..8) {
            0..4 => Register::Read { value, revision: at },
            4..6 => Register::Write { value: fresh, revision: shown(revision + 1) },
            6 => Register::Swap { from: value, at, to: fresh, revision: shown(revision + 1) },
            _ => Register::Refused { from: Some(-1), at: None },
        };
        // Half of what nobody answered never happens.
        let happens = !lost || rng.random_bool(0.5);
        if let Register::Write { value: to, .. } | Register::Swap { to, .. } = operation
            && happens
        {
            (value, revision) = (Some(to), revision + 1);
        }
        if !(lost && matches!(operation, Register::Read { .. } | Register::Refused { .. })) {
            calls.push(Call { operation, invoked, returned });
        }
    }
    calls
}

/// One answer is replaced by that of another moment.
fn spoil(rng: &mut StdRng, calls: &mut [Call<Register>]) {
    let reads: Vec<usize> =
        (0..calls.len()).filter(|&call| matches!(calls[call].operation, Register::Read { .. })).collect();
    if reads.len() > 1 {
        let (one, other) = (reads[rng.random_range(0..reads.len())], reads[rng.random_range(0..reads.len())]);
        calls[one].operation = calls[other].operation;
    }
}

#[test]
fn both_agree_on_registers() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..600 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut calls = good_registers(&mut rng, 8 + seed as usize % 32, seed % 2 == 0);
        assert!(ours(&RegisterModel, &calls), "seed {seed}: a good history is refused");
        assert!(theirs::<NaiveRegister, _>(&calls), "seed {seed}: porcupine-rs refuses a good history");
        spoil(&mut rng, &mut calls);
        let (ours, theirs) = (ours(&RegisterModel, &calls), theirs::<NaiveRegister, _>(&calls));
        assert_eq!(ours, theirs, "seed {seed}: {calls:#?}");
        if ours { good += 1 } else { bad += 1 }
    }
    assert!(good > 100 && bad > 100, "{good} good, {bad} bad: the histories are too much alike");
}

#[test]
fn both_agree_on_registers_that_answer_anything() {
    // Few values, written more than once: what the product's workload never does.
    let (mut good, mut bad) = (0, 0);
    for seed in 0..2_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let value = |rng: &mut StdRng| i64::from(rng.random_range(1..4));
        let calls: Vec<Call<Register>> = spans(&mut rng, 6, 3)
            .into_iter()
            .map(|(invoked, _, returned)| {
                let operation = match rng.random_range(0..5) {
                    0 | 1 => Register::Write { value: value(&mut rng), revision: None },
                    2 => Register::Swap {
                        from: Some(value(&mut rng)),
                        at: None,
                        to: value(&mut rng),
                        revision: None,
                    },
                    3 => Register::Read { value: Some(value(&mut rng)), revision: None },
                    _ => Register::Refused { from: Some(value(&mut rng)), at: None },
                };
                Call { operation, invoked, returned }
            })
            .collect();
        let (ours, theirs) = (ours(&RegisterModel, &calls), theirs::<NaiveRegister, _>(&calls));
        assert_eq!(ours, theirs, "seed {seed}: {calls:#?}");
        if ours { good += 1 } else { bad += 1 }
    }
    assert!(good > 200 && bad > 200, "{good} good, {bad} bad: the histories are too much alike");
}

#[test]
fn both_agree_on_locks() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..600 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut holder, mut last, mut calls) = (None, 0_u64, Vec::new());
        for (invoked, _, returned) in spans(&mut rng, 8 + seed as usize % 24, 4) {
            let operation = match (holder, rng.random_range(0..4)) {
                (None, _) => {
                    (holder, last) = (Some(last + 1), last + 1);
                    Lock::Acquire(last)
                }
                (Some(token), 0 | 1) => {
                    holder = None;
                    Lock::End(token)
                }
                (Some(token), 2) => Lock::Held(token),
                (Some(token), _) => Lock::NotHeld(token + 1),
            };
            // An acquire that nobody answered has no token, and a read that nobody answered says nothing.
            let returned = match operation {
                Lock::End(_) => returned,
                _ => returned.or(Some(invoked + 1_000_000)),
            };
            calls.push(Call { operation, invoked, returned });
        }
        let before = (ours(&LockModel, &calls), theirs::<NaiveLock, _>(&calls));
        assert_eq!(before, (true, true), "seed {seed}: a good history is refused");
        let (one, other) = (rng.random_range(0..calls.len()), rng.random_range(0..calls.len()));
        (calls[one].operation, calls[other].operation) = (calls[other].operation, calls[one].operation);
        let (ours, theirs) = (ours(&LockModel, &calls), theirs::<NaiveLock, _>(&calls));
        assert_eq!(ours, theirs, "seed {seed}: {calls:#?}");
        if ours { good += 1 } else { bad += 1 }
    }
    assert!(good > 50 && bad > 50, "{good} good, {bad} bad: the histories are too much alike");
}
