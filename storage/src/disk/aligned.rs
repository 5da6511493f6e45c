//! Memory that can be written past the page cache.

use super::BLOCK_BYTES;

/// Bytes that begin at a multiple of [`BLOCK_BYTES`] in memory.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    /// From `start` on, the bytes.
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Forgets the bytes and lets `fill` append up to `room` new ones. More than that are kept too, but perhaps not
    /// aligned any more.
    pub(crate) fn refill(&mut self, room: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        self.memory.clear();
        self.memory.reserve(room + BLOCK_BYTES);
        // `align_offset` may say that it does not know.
        self.start = self.memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        self.memory.resize(self.start, 0);
        fill(&mut self.memory);
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

/// Whether a write may go past the page cache.
pub(super) fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    bytes.as_ptr().align_offset(BLOCK_BYTES) == 0
        && bytes.len().is_multiple_of(BLOCK_BYTES)
        && offset.is_multiple_of(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_it_is_filled_with_begins_at_a_block() {
        let mut aligned = Aligned::default();
        for room in [1, BLOCK_BYTES, 3, 40 * BLOCK_BYTES, 5 * BLOCK_BYTES] {
            aligned.refill(room, |bytes| bytes.extend((0..room).map(|at| at as u8)));
            assert_eq!(aligned.bytes().len(), room);
            assert!(aligned.bytes().iter().enumerate().all(|(at, byte)| *byte == at as u8));
            assert_eq!(is_aligned(aligned.bytes(), 0), room.is_multiple_of(BLOCK_BYTES));
            assert!(!is_aligned(aligned.bytes(), 512));
            assert!(!is_aligned(&aligned.bytes()[1..], 0));
        }
    }
}
