//! Sectors: a segment is a stream of records cut into pieces that a disk writes all or nothing.
//!
//! ```text
//! 0    504  bytes of the stream, zeroes after its end
//! 504  4    number of the segment
//! 508  4    CRC32 of bytes 0..508; starts from the salt and the sector's place
//! ```
//!
//! Each sector says by itself whether it was written in the life of this segment, in an earlier one, or never, and
//! whether its bytes are still those that were written. That is what makes a retired segment fit to be used again
//! as it is: a lost write shows as a sector of an earlier life, where zeroes would have to show it otherwise. And
//! it tells damage, which stops the node, from a torn write, which is cut off, by the sector.
//!
//! Places in the log count bytes of the stream; only this file and error messages know places in the file.
//! Writes begin and end at [`BLOCK_BYTES`], so that the file system never reads what it is about to overwrite.

use ovncp_state::mutants::{self, Mutant};

use super::record::{Stamp, is_blank};
use crate::disk::{BLOCK_BYTES, SECTOR_BYTES};

/// Bytes of a sector.
pub(super) const SECTOR: usize = SECTOR_BYTES as usize;
/// Bytes of the stream in one sector.
pub(super) const PIECE: usize = SECTOR - STAMP_BYTES;
const STAMP_BYTES: usize = 8;
/// Sectors of a block.
const BLOCK_SECTORS: usize = BLOCK_BYTES / SECTOR;

/// Bytes of the stream in one block.
pub(super) const BLOCK_PIECE: usize = BLOCK_SECTORS * PIECE;

/// Bytes of the stream that a segment holds.
pub(super) fn capacity(segment_bytes: u32) -> usize {
    segment_bytes as usize / BLOCK_BYTES * BLOCK_PIECE
}

/// Where a byte of the stream lies in the file.
pub(super) fn in_file(offset: usize) -> u64 {
    (offset / PIECE * SECTOR + offset % PIECE) as u64
}

/// What became of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Written in this life of the segment.
    Written,
    /// Not written in this life: all zeroes, or whole, but of an earlier life.
    Lost,
    /// Neither: its bytes have changed since they were written.
    Damaged,
}

fn crc(stamp: Stamp, sector: usize, bytes: &[u8]) -> [u8; 4] {
    let place = u32::try_from(sector).expect("segments are smaller than 4 GiB");
    Stamp { salt: stamp.salt.wrapping_add(place), ..stamp }.crc(bytes).to_le_bytes()
}

fn state(stamp: Stamp, sector: usize, bytes: &[u8]) -> State {
    let (content, check) = bytes.split_at(SECTOR - 4);
    let (_, number) = content.split_at(PIECE);
    let number = u32::from_le_bytes([number[0], number[1], number[2], number[3]]);
    if *check == crc(stamp, sector, content) || (mutants::is(Mutant::CrcIgnored) && !is_blank(bytes)) {
        match number {
            number if number == stamp.segment => State::Written,
            number if number < stamp.segment => State::Lost,
            _ => State::Damaged,
        }
    } else if is_blank(bytes) {
        State::Lost
    } else {
        State::Damaged
    }
}

/// Stamps a sector, the `nth` of its segment, that holds its piece of the stream.
pub(super) fn seal(sector: &mut [u8], nth: usize, stamp: Stamp) {
    sector[PIECE..SECTOR - 4].copy_from_slice(&stamp.segment.to_le_bytes());
    let check = crc(stamp, nth, &sector[..SECTOR - 4]);
    sector[SECTOR - 4..].copy_from_slice(&check);
}

/// Appends to `framed` the blocks that hold `stream`, which begins at a block; what remains of the last one is
/// zero.
pub(super) fn frame(framed: &mut Vec<u8>, stream: &[u8], offset: usize, stamp: Stamp) {
    debug_assert!(offset.is_multiple_of(BLOCK_PIECE), "writes begin at a block");
    let begin = framed.len();
    framed.resize(begin + framed_bytes(stream.len()), 0);
    let sectors = framed[begin..].chunks_exact_mut(SECTOR);
    for ((nth, piece), sector) in stream.chunks(PIECE).enumerate().zip(sectors) {
        sector[..piece.len()].copy_from_slice(piece);
        seal(sector, offset / PIECE + nth, stamp);
    }
}

/// Bytes that [`frame`] makes of `stream_bytes`.
pub(super) fn framed_bytes(stream_bytes: usize) -> usize {
    stream_bytes.div_ceil(BLOCK_PIECE) * BLOCK_BYTES
}

/// A segment as it was read.
#[derive(Debug)]
pub(super) struct Unframed {
    /// The stream; zeroes where a sector was not written in this life.
    pub(super) stream: Vec<u8>,
    states: Vec<State>,
}

impl Unframed {
    pub(super) fn new(file: &[u8], stamp: Stamp) -> Self {
        let mut stream = Vec::with_capacity(file.len() / SECTOR * PIECE);
        let mut states = Vec::with_capacity(file.len() / SECTOR);
        for (nth, sector) in file.chunks_exact(SECTOR).enumerate() {
            let state = state(stamp, nth, sector);
            match state {
                State::Lost => stream.resize(stream.len() + PIECE, 0),
                State::Written | State::Damaged => stream.extend_from_slice(&sector[..PIECE]),
            }
            states.push(state);
        }
        Self { stream, states }
    }

    /// First damaged sector that holds a byte of `from..to`: where it begins in the file.
    pub(super) fn damage(&self, from: usize, to: usize) -> Option<u64> {
        let sectors = from / PIECE..to.div_ceil(PIECE).min(self.states.len());
        let damaged =
            sectors.clone().zip(self.states.get(sectors)?).find(|(_, state)| **state == State::Damaged);
        damaged.map(|(sector, _)| (sector * SECTOR) as u64)
    }

    fn written_sectors(&self) -> usize {
        self.states.iter().rposition(|state| *state == State::Written).map_or(0, |last| last + 1)
    }

    /// End of the last sector that was written in this life, in the file.
    pub(super) fn written_end(&self) -> usize {
        self.written_sectors() * SECTOR
    }

    /// The stream up to there.
    pub(super) fn written_stream(&self) -> &[u8] {
        &self.stream[..self.written_sectors() * PIECE]
    }
}

/// Whether a write that lost sectors explains that `extent` bytes at `offset` of the stream are bad: each sector
/// lost shows as zeroes, be it new or the rewritten one that the write began in.
pub(super) fn looks_torn(stream: &[u8], offset: usize, extent: usize) -> bool {
    let end = (offset + extent).min(stream.len());
    let mut start = offset;
    while start < end {
        let next = ((start / PIECE + 1) * PIECE).min(end);
        if is_blank(&stream[start..next]) {
            return true;
        }
        start = next;
    }
    false
}

/// The blocks of a file that hold `from..to` of its stream: where they begin and end.
pub(super) fn sectors(from: usize, to: usize) -> (u64, usize) {
    let first = from / PIECE * SECTOR;
    (first as u64, to.div_ceil(PIECE) * SECTOR - first)
}

/// The bytes `from..to` of the stream out of what [`sectors`] named. Stamps are not looked at: the writer may be
/// replacing that of the last sector right now, and records have checksums of their own.
pub(super) fn strip(sectors: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut stream = Vec::with_capacity(sectors.len() / SECTOR * PIECE);
    sectors.chunks_exact(SECTOR).for_each(|sector| stream.extend_from_slice(&sector[..PIECE]));
    stream.truncate(from % PIECE + to - from);
    stream.drain(..from % PIECE);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { segment: 7, salt: 99 };

    fn file(stream: &[u8], stamp: Stamp) -> Vec<u8> {
        let mut framed = Vec::new();
        frame(&mut framed, stream, 0, stamp);
        framed
    }

    #[test]
    fn a_stream_is_read_back_whole_and_in_parts() {
        let stream: Vec<u8> = (0..10_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let file = file(&stream, STAMP);
        assert_eq!(file.len(), 3 * BLOCK_BYTES);
        let read = Unframed::new(&file, STAMP);
        assert_eq!(read.stream[..stream.len()], stream);
        assert!(is_blank(&read.stream[stream.len()..]));
        assert_eq!(read.written_end(), 20 * SECTOR);
        for (from, to) in [(0, 1), (503, 505), (504, 1_008), (1_700, 9_999), (9_999, 10_000)] {
            let (start, len) = sectors(from, to);
            let part = &file[start as usize..start as usize + len];
            assert_eq!(strip(part, from, to), stream[from..to], "{from}..{to}");
            assert_eq!(file[in_file(from) as usize], stream[from]);
        }
    }

    #[test]
    fn appending_rewrites_the_block_begun_and_no_other() {
        let stream: Vec<u8> = (0..9_000_u32).map(|n| (n % 251) as u8).collect();
        let mut apart = file(&stream[..5_000], STAMP);
        apart.truncate(BLOCK_BYTES);
        frame(&mut apart, &stream[BLOCK_PIECE..], BLOCK_PIECE, STAMP);
        assert_eq!(apart, file(&stream, STAMP));
    }

    #[test]
    fn every_flipped_bit_is_damage_of_its_sector() {
        let stream = vec![0x5a; 700];
        let good = file(&stream, STAMP);
        for bit in 0..3 * SECTOR * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = Unframed::new(&bad, STAMP);
            let sector = bit / 8 / SECTOR;
            assert_eq!(read.damage(0, read.stream.len()), Some((sector * SECTOR) as u64), "bit {bit}");
            assert_eq!(read.damage(0, sector * PIECE), None);
        }
    }

    #[test]
    fn earlier_lives_read_as_never_written_and_strangers_as_damage() {
        let earlier = file(&[0x5a; 700], Stamp { segment: 3, ..STAMP });
        let read = Unframed::new(&earlier, STAMP);
        assert!(is_blank(&read.stream));
        assert_eq!((read.damage(0, 700), read.written_end()), (None, 0));
        for stranger in [Stamp { segment: 8, ..STAMP }, Stamp { salt: 98, ..STAMP }] {
            assert_eq!(Unframed::new(&file(&[0x5a; 700], stranger), STAMP).damage(0, 700), Some(0));
        }
        // A sector of the right segment at the wrong place.
        let mut moved = file(&[0x5a; 1_500], STAMP);
        moved.copy_within(..SECTOR, SECTOR);
        assert_eq!(Unframed::new(&moved, STAMP).damage(0, 1_500), Some(SECTOR as u64));
    }

    #[test]
    fn only_a_lost_sector_looks_torn() {
        let mut stream = vec![0xab; 2_000];
        assert!(!looks_torn(&stream, 0, 2_000));
        stream[PIECE..2 * PIECE].fill(0);
        assert!(looks_torn(&stream, 0, 2_000));
        assert!(!looks_torn(&stream, 2 * PIECE, 2_000));
    }

    #[test]
    fn a_sector_has_its_golden_bytes() {
        let file = file(b"abc", STAMP);
        assert_eq!((&file[..3], &file[504..508]), (&b"abc"[..], &[7, 0, 0, 0][..]));
        assert_eq!(file[508..512], GOLDEN_CRC);
        assert!(is_blank(&file[3..504]) && is_blank(&file[512..]));
    }

    const GOLDEN_CRC: [u8; 4] = [199, 145, 156, 238];
}
