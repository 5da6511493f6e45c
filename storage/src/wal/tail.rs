//! The end of a segment while it grows: records go into the sectors that are written, without a copy between.

use super::record::Stamp;
use super::sector::{BLOCK_PIECE, PIECE, SECTOR, framed_bytes, in_file, seal};
use crate::disk::{Aligned, BLOCK_BYTES};

/// Memory that the blocks move through before they come to the same place again. What the disk has just read is far from
/// this processor, and takes as long to overwrite as to write to the disk; after so many bytes it is not any more.
const MEMORY_BYTES: usize = 2 * 1_024 * 1_024;

/// The stream of a segment from a block on, laid out as it will lie in the file.
///
/// Each sector is stamped as soon as it is full, so that little is left to do once the last record is known.
#[derive(Debug)]
pub(super) struct Tail {
    stamp: Stamp,
    memory: Aligned,
    /// Where in the memory the first block begins.
    first: usize,
    /// Where it begins in the stream, and how many bytes of the stream are there.
    base: usize,
    len: usize,
}

impl Tail {
    /// The tail of a segment whose last block so far begins at `base` and holds `stream`.
    pub(super) fn new(stamp: Stamp, base: usize, stream: &[u8]) -> Self {
        debug_assert!(base.is_multiple_of(BLOCK_PIECE), "writes begin at a block");
        let mut tail = Self { stamp, memory: Aligned::default(), first: 0, base, len: 0 };
        tail.put([stream]);
        tail
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Where the next record goes.
    pub(super) fn end(&self) -> usize {
        self.base + self.len
    }

    /// Bytes of the stream that it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends to the stream, part by part.
    pub(super) fn put<const PARTS: usize>(&mut self, parts: [&[u8]; PARTS]) {
        let end = self.len + parts.iter().map(|part| part.len()).sum::<usize>();
        self.memory.grow(self.first + framed_bytes(end));
        let blocks = &mut self.memory.bytes_mut()[self.first..];
        let (mut nth, mut at) = (self.len / PIECE, self.len % PIECE);
        for mut part in parts {
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(PIECE - at));
                let sector = &mut blocks[nth * SECTOR..][..SECTOR];
                sector[at..at + now.len()].copy_from_slice(now);
                at += now.len();
                if at == PIECE {
                    seal(sector, self.base / PIECE + nth, self.stamp);
                    (nth, at) = (nth + 1, 0);
                }
                part = later;
            }
        }
        self.len = end;
    }

    /// The blocks to write, and where in the file.
    pub(super) fn blocks(&mut self) -> (&[u8], u64) {
        let (nth, begun) = (self.len / PIECE, self.len % PIECE);
        let blocks = self.first..self.first + framed_bytes(self.len);
        let bytes = &mut self.memory.bytes_mut()[blocks];
        bytes[nth * SECTOR + begun..].fill(0);
        if begun > 0 {
            seal(&mut bytes[nth * SECTOR..][..SECTOR], self.base / PIECE + nth, self.stamp);
        }
        (bytes, in_file(self.base))
    }

    /// Goes on behind what was written: keeps the block that is not full yet, whose next write replaces it.
    pub(super) fn advance(&mut self) {
        let whole = self.len / BLOCK_PIECE;
        let kept = self.first + whole * BLOCK_BYTES..self.first + framed_bytes(self.len);
        self.first = self.next(kept.end);
        self.base += whole * BLOCK_PIECE;
        self.len -= whole * BLOCK_PIECE;
        self.memory.grow(self.first + kept.len());
        self.memory.bytes_mut().copy_within(kept, self.first);
    }

    /// Goes on in another segment, of which nothing is written yet.
    pub(super) fn restart(&mut self, stamp: Stamp) {
        let end = self.first + framed_bytes(self.len);
        *self =
            Self { stamp, memory: std::mem::take(&mut self.memory), first: self.next(end), base: 0, len: 0 };
    }

    fn next(&self, end: usize) -> usize {
        if end < MEMORY_BYTES { end } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sector::frame;
    use super::*;

    const STAMP: Stamp = Stamp { segment: 7, salt: 99 };

    /// Puts a stream in parts, writing and going on after every `flush` of them; what the file holds then.
    fn written(tail: &mut Tail, stream: &[u8], parts: &[usize], flush: usize) -> Vec<u8> {
        let mut file = Vec::new();
        let mut write = |tail: &mut Tail| {
            let (blocks, at) = tail.blocks();
            file.truncate(usize::try_from(at).unwrap());
            file.extend_from_slice(blocks);
            tail.advance();
        };
        let mut rest = stream;
        for (nth, part) in parts.iter().cycle().enumerate() {
            let (now, later) = rest.split_at(rest.len().min(*part));
            tail.put([now]);
            rest = later;
            if rest.is_empty() {
                break;
            }
            if nth % flush == flush - 1 {
                write(tail);
            }
        }
        write(tail);
        file
    }

    #[test]
    fn however_it_is_filled_and_written_the_file_holds_the_framed_stream() {
        let stream: Vec<u8> = (0..60_000_u32).map(|n| (n * 7 % 251) as u8 | 1).collect();
        let part_sizes: [&[usize]; 6] =
            [&[1, 502], &[PIECE], &[24, 269], &[9_001], &[BLOCK_PIECE], &[60_000]];
        for len in [1, PIECE - 1, PIECE, PIECE + 1, BLOCK_PIECE - 1, BLOCK_PIECE, BLOCK_PIECE + 1, 60_000] {
            let mut expected = Vec::new();
            frame(&mut expected, &stream[..len], 0, STAMP);
            for parts in part_sizes {
                for flush in [1, 2, 5, usize::MAX] {
                    let mut tail = Tail::new(STAMP, 0, &[]);
                    let file = written(&mut tail, &stream[..len], parts, flush);
                    assert_eq!(file, expected, "{len} bytes by {parts:?}, written after {flush}");
                    assert_eq!((tail.end(), tail.len()), (len, len % BLOCK_PIECE));
                }
            }
        }
    }

    #[test]
    fn it_goes_on_where_a_file_ends_and_leaves_nothing_to_the_next_segment() {
        let stream: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8 | 1).collect();
        let mut expected = Vec::new();
        frame(&mut expected, &stream, 0, STAMP);
        let base = 2 * BLOCK_PIECE;
        let mut tail = Tail::new(STAMP, base, &stream[base..base + 700]);
        assert_eq!(tail.end(), base + 700);
        tail.put([&stream[base + 700..base + 701], &[], &stream[base + 701..]]);
        let (blocks, at) = tail.blocks();
        assert_eq!((blocks, at), (&expected[2 * BLOCK_BYTES..], 2 * BLOCK_BYTES as u64));
        let next = Stamp { segment: 8, ..STAMP };
        tail.restart(next);
        tail.put([b"head"]);
        let mut expected = Vec::new();
        frame(&mut expected, b"head", 0, next);
        assert_eq!(tail.blocks(), (&expected[..], 0));
        assert_eq!((tail.stamp(), tail.end()), (next, 4));
    }

    #[test]
    fn it_comes_round_in_its_memory_without_a_trace_of_what_was_there() {
        let stream: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8 | 1).collect();
        let mut expected = Vec::new();
        frame(&mut expected, &stream, 0, STAMP);
        let mut tail = Tail::new(STAMP, 0, &[]);
        assert_eq!(written(&mut tail, &stream, &[100_000, 70_001, 300], 1), expected);
        assert!(tail.memory.len() < 2 * (MEMORY_BYTES + 200_000), "{} bytes", tail.memory.len());
        // As much as fits is put at once, right before the end of the memory.
        while tail.first < MEMORY_BYTES - BLOCK_BYTES {
            tail.put([&[7; 3_000]]);
            tail.advance();
        }
        let (base, kept) = (tail.base, tail.len());
        tail.put([&stream]);
        let mut expected = vec![7; kept];
        expected.extend_from_slice(&stream);
        let mut framed = Vec::new();
        frame(&mut framed, &expected, base, STAMP);
        assert_eq!(tail.blocks().0, framed);
    }

    #[test]
    fn what_is_written_begins_at_a_block_in_memory() {
        let mut tail = Tail::new(STAMP, 0, &[]);
        for _ in 0..40 {
            tail.put([&[7; 3_000]]);
            assert_eq!(tail.blocks().0.as_ptr().align_offset(BLOCK_BYTES), 0);
        }
    }
}
