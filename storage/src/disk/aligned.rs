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
    /// Makes room for `len` bytes: those that it has stay, new ones are zero.
    pub(crate) fn grow(&mut self, len: usize) {
        if len <= self.len() {
            return;
        }
        // Twice as much, so that filling it bit by bit copies each byte about once.
        let room = len.max(2 * self.len());
        let mut memory = vec![0; room + BLOCK_BYTES];
        // `align_offset` may say that it does not know.
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        memory[start..start + self.len()].copy_from_slice(self.bytes());
        memory.truncate(start + room);
        *self = Self { memory, start };
    }

    /// How many bytes there is room for.
    pub(crate) fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// The bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
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
    fn it_begins_at_a_block_however_it_grew_and_keeps_its_bytes() {
        let mut aligned = Aligned::default();
        let mut filled = 0;
        for len in [1, BLOCK_BYTES, 3, 5 * BLOCK_BYTES, 40 * BLOCK_BYTES + 1] {
            aligned.grow(len);
            assert!(aligned.len() >= len);
            let expected = |at: usize| if at < filled { at as u8 | 1 } else { 0 };
            assert!(aligned.bytes().iter().enumerate().all(|(at, byte)| *byte == expected(at)));
            filled = aligned.len();
            aligned.bytes_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8 | 1);
            let block = aligned.bytes().len() / BLOCK_BYTES * BLOCK_BYTES;
            assert!(is_aligned(&aligned.bytes()[..block], 0));
            assert!(!is_aligned(&aligned.bytes()[..block], 512));
            assert!(!is_aligned(&aligned.bytes()[1..], 0));
        }
    }
}
