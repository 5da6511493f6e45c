//! When faults are made: drawn from the seed before the run begins.
//!
//! A schedule is a list of moments, each with the length of what begins then, as a share of what that kind of fault
//! may last; and an order of faults like a deck of cards, shuffled anew whenever it is used up, so that all kinds
//! are seen equally often. Which fault a moment gets is decided when it comes: one that is not possible *now*
//! (another node is down) lets the next in the deck go first and stays on top.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::NemesisKind;

/// Before the first fault: clients get something done.
const QUIET_FIRST: Duration = Duration::from_millis(1_500);
/// After the last fault has been healed, before clients stop: they see the cluster recover.
const QUIET_LAST: Duration = Duration::from_secs(3);
/// Between the beginnings of two faults: at least, at most. Shorter than most faults, so that they overlap.
const GAP: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_millis(4_500));
/// A fault that could not last this long is not begun any more.
const WORTH_WHILE: Duration = Duration::from_millis(700);
/// Faults that may be at work at once.
pub const OVERLAP_MAX: usize = 3;

/// A moment at which a fault begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// Since the clients began.
    pub at: Duration,
    /// Where between the least and the most that the fault may last: 0 to 1.
    pub share: f64,
    /// Seed of everything that is drawn for the fault.
    pub seed: u64,
}

impl Slot {
    /// How long a fault of this kind that begins here lasts.
    pub fn lasts(&self, kind: NemesisKind) -> Duration {
        let (least, most) = kind.lasts();
        least + (most - least).mul_f64(self.share)
    }
}

/// The moments of a run of this length.
pub fn slots(seed: u64, time: Duration) -> Vec<Slot> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut slots, mut at) = (Vec::new(), QUIET_FIRST);
    while at + WORTH_WHILE < last_end(time) {
        slots.push(Slot { at, share: rng.random(), seed: rng.random() });
        at += rng.random_range(GAP.0..GAP.1);
    }
    slots
}

/// When everything has to be healed.
pub fn last_end(time: Duration) -> Duration {
    time.saturating_sub(QUIET_LAST).max(time / 2)
}

/// The order of faults.
#[derive(Debug)]
pub struct Deck {
    kinds: Vec<NemesisKind>,
    cards: VecDeque<NemesisKind>,
    rng: StdRng,
}

impl Deck {
    /// A deck of these kinds.
    pub fn new(seed: u64, kinds: &[NemesisKind]) -> Self {
        Self { kinds: kinds.to_vec(), cards: VecDeque::new(), rng: StdRng::seed_from_u64(seed) }
    }

    /// The kind that is next, after `skip` that were passed over.
    pub fn look(&mut self, skip: usize) -> Option<NemesisKind> {
        if self.kinds.is_empty() || skip >= self.kinds.len() {
            return None;
        }
        while self.cards.len() <= skip {
            self.kinds.shuffle(&mut self.rng);
            self.cards.extend(&self.kinds);
        }
        self.cards.get(skip).copied()
    }

    /// Takes the card that [`Deck::look`] showed.
    pub fn take(&mut self, skip: usize) {
        self.cards.remove(skip);
    }

    /// Never shows this kind again.
    pub fn discard(&mut self, kind: NemesisKind) {
        self.kinds.retain(|other| *other != kind);
        self.cards.retain(|other| *other != kind);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_moments_and_enough_of_them() {
        let time = Duration::from_secs(300);
        let slots = super::slots(7, time);
        assert_eq!(slots, super::slots(7, time));
        assert_ne!(slots, super::slots(8, time));
        assert!(slots.len() >= 60, "{} faults in five minutes", slots.len());
        assert!(slots.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert!(slots.iter().all(|slot| slot.at >= QUIET_FIRST && slot.at < last_end(time)));
    }

    #[test]
    fn a_short_run_has_a_fault_too() {
        assert!(!super::slots(1, Duration::from_secs(5)).is_empty());
    }

    #[test]
    fn every_kind_comes_equally_often_and_one_that_waits_stays_on_top() {
        let kinds = [NemesisKind::KillOne, NemesisKind::Pause, NemesisKind::Loss];
        let mut deck = Deck::new(3, &kinds);
        let mut seen: BTreeMap<NemesisKind, usize> = BTreeMap::new();
        for _ in 0..30 {
            *seen.entry(deck.look(0).unwrap()).or_default() += 1;
            deck.take(0);
        }
        assert_eq!(seen.into_values().collect::<Vec<_>>(), [10, 10, 10]);

        let top = deck.look(0).unwrap();
        assert!(deck.look(1).is_some());
        deck.take(1);
        assert_eq!(deck.look(0), Some(top));
        assert!(deck.look(kinds.len()).is_none());
        deck.discard(top);
        assert!((0..10).all(|_| {
            let shown = deck.look(0).unwrap();
            deck.take(0);
            shown != top
        }));
    }

    #[test]
    fn a_fault_lasts_what_its_kind_may() {
        for kind in NemesisKind::all() {
            let slot = |share| Slot { at: Duration::from_secs(9), share, seed: 0 };
            assert_eq!((slot(0.0).lasts(*kind), slot(1.0).lasts(*kind)), kind.lasts());
        }
    }
}
