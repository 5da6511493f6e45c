//! A small set of slots.

/// Which slots are in the set. Equal sets are equal values: there are never empty words at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bits(Vec<u64>);

const WORD: usize = u64::BITS as usize;

impl Bits {
    pub(super) fn get(&self, slot: usize) -> bool {
        self.0.get(slot / WORD).is_some_and(|word| word >> (slot % WORD) & 1 == 1)
    }

    pub(super) fn set(&mut self, slot: usize) {
        if self.0.len() <= slot / WORD {
            self.0.resize(slot / WORD + 1, 0);
        }
        self.0[slot / WORD] |= 1 << (slot % WORD);
    }

    pub(super) fn clear(&mut self, slot: usize) {
        if let Some(word) = self.0.get_mut(slot / WORD) {
            *word &= !(1 << (slot % WORD));
            self.trim();
        }
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.0.iter_mut().zip(&other.0).for_each(|(word, gone)| *word &= !gone);
        left.trim();
        left
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        self.0.len() <= other.0.len() && self.0.iter().zip(&other.0).all(|(mine, theirs)| mine & !theirs == 0)
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_with_the_same_slots_are_equal_however_they_were_made() {
        let mut grown = Bits::default();
        grown.set(3);
        grown.set(200);
        grown.clear(200);
        let mut small = Bits::default();
        small.set(3);
        assert_eq!(grown, small);
        assert!(small.get(3) && !small.get(4) && !small.get(1_000));
        small.set(130);
        assert!(grown.is_subset(&small) && !small.is_subset(&grown));
        assert_eq!(small.without(&grown).count(), 1);
        let mut only = Bits::default();
        only.set(130);
        assert_eq!(small.without(&grown), only);
    }
}
