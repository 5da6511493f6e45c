//! Damage: a torn tail is repaired, anything else is refused with file and offset, never cut off.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use openraft::storage::RaftLogStorage;
use ovncp_storage::disk::{Disk, SimDisk};
use ovncp_storage::{DataDir, StorageError};
use support::{DATA, History, Model, Op, append, entry, open_log, run, segments, tiny};

const HEADER_BYTES: usize = 24;
const SECTOR: usize = 512;
/// Bytes of the stream of records in a sector; number of the segment and checksum follow.
const PIECE: usize = 504;

/// The stream of records of a segment.
fn stream(segment: &[u8]) -> Vec<u8> {
    segment.chunks(SECTOR).flat_map(|sector| &sector[..PIECE]).copied().collect()
}

/// Where a byte of the stream lies in the file.
fn in_file(at: usize) -> usize {
    at / PIECE * SECTOR + at % PIECE
}

/// Where the sector of a byte of the stream begins in the file.
fn sector_of(at: usize) -> usize {
    at / PIECE * SECTOR
}

/// Gives every sector that is not blank a good checksum again: whoever wrote this wrote it so.
fn restamp(segment: &mut [u8], salt: u32) {
    for (nth, sector) in segment.chunks_mut(SECTOR).enumerate() {
        if sector.iter().any(|byte| *byte != 0) {
            let crc = crc(salt.wrapping_add(nth as u32), &sector[..508]);
            sector[508..].copy_from_slice(&crc);
        }
    }
}

fn crc(salt: u32, bytes: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}

/// Changes the stream of a segment as a writer would have, stamps included.
fn rewrite(disk: &SimDisk, file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let salt = salt(disk);
    disk.tamper(file, |content| {
        let mut stream = stream(content);
        change(&mut stream);
        for (sector, piece) in content.chunks_mut(SECTOR).zip(stream.chunks(PIECE)) {
            sector[..PIECE].copy_from_slice(piece);
        }
        restamp(content, salt);
    });
}

/// A log over several segments, each entry synced on its own; the model of it.
fn written(entries: u64, bytes: usize) -> (SimDisk, Model) {
    let disk = SimDisk::new();
    let model = run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        log.save_vote(&support::vote(1, 1)).await.unwrap();
        for index in 1..=entries {
            append(&mut log, vec![entry(1, index, bytes, 0)]).await.unwrap();
        }
        Model::of(&mut log).await.unwrap()
    });
    (disk.kill(), model)
}

/// Offsets in the stream and lengths of the records of a segment, payload included.
fn records(segment: &[u8]) -> Vec<(usize, usize)> {
    let segment = stream(segment);
    let mut at = 0;
    let mut found = Vec::new();
    while at + HEADER_BYTES <= segment.len() && segment[at..at + HEADER_BYTES].iter().any(|byte| *byte != 0) {
        let len = u32::from_le_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
        found.push((at, HEADER_BYTES + len));
        at += HEADER_BYTES + len;
    }
    found
}

fn used_segments(disk: &SimDisk) -> Vec<PathBuf> {
    let used = |path: &PathBuf| disk.content(path).unwrap().iter().any(|byte| *byte != 0);
    segments(disk).into_iter().filter(used).collect()
}

fn reopen(disk: &SimDisk) -> Result<Model, StorageError> {
    let disk = disk.kill();
    run(async {
        let mut log = open_log(&disk, DATA, tiny())?;
        Ok(Model::of(&mut log).await.unwrap())
    })
}

fn assert_refused(result: Result<Model, StorageError>, file: &Path, from: usize, to: usize) {
    match result {
        Err(StorageError::Corrupt { file: named, offset, .. }) => {
            assert_eq!(named, file);
            assert!((from..to).contains(&(offset as usize)), "offset {offset}, damage in {from}..{to}");
        }
        other => panic!("damage at {}:{from} gave {other:?}", file.display()),
    }
}

#[test]
fn a_flipped_bit_in_any_sector_is_refused_with_file_and_offset() {
    let (disk, _) = written(12, 500);
    let files = used_segments(&disk);
    assert!(files.len() > 1);
    for file in &files {
        let content = disk.content(file).unwrap();
        let (at, len) = *records(&content).last().unwrap();
        // The last one, too, whose write nothing vouches for: no sector of it is missing.
        for sector in (0..=sector_of(at + len - 1)).step_by(SECTOR) {
            // Bytes of records, the number, the checksum.
            for byte in [0, 1, 77, 250, 503, 504, 507, 508, 511] {
                let disk = disk.fork();
                disk.tamper(file, |content| content[sector + byte] ^= 1 << (byte % 8));
                assert_refused(reopen(&disk), file, sector, sector + 1);
            }
        }
    }
}

#[test]
fn a_damaged_record_in_whole_sectors_is_refused_too() {
    // What no disk does, but a fault in a program could.
    let (disk, _) = written(12, 500);
    let files = used_segments(&disk);
    for file in &files {
        for (at, len) in records(&disk.content(file).unwrap()) {
            for byte in (0..HEADER_BYTES).chain([HEADER_BYTES, len / 2, len - 1]).filter(|byte| *byte < len) {
                let disk = disk.fork();
                rewrite(&disk, file, |stream| stream[at + byte] ^= 1 << (byte % 8));
                assert_refused(reopen(&disk), file, in_file(at), in_file(at + len));
            }
        }
    }
}

#[test]
fn damage_behind_the_last_record_is_refused_because_it_may_have_been_one() {
    let (disk, _) = written(3, 100);
    let file = &used_segments(&disk)[0];
    for sector in [2_048, 4_096 - SECTOR] {
        let disk = disk.fork();
        disk.tamper(file, |content| content[sector + 9] ^= 4);
        assert_refused(reopen(&disk), file, sector, sector + 1);
    }
}

#[test]
fn a_sector_lost_before_the_tail_is_refused() {
    let (disk, _) = written(12, 700);
    for file in used_segments(&disk) {
        let last = used_segments(&disk).last() == Some(&file);
        let (tail, len) = *records(&disk.content(&file).unwrap()).last().unwrap();
        let end = if last { sector_of(tail) } else { sector_of(tail + len - 1) + SECTOR };
        let (salt, number) = (salt(&disk), disk.content(&file).unwrap()[PIECE]);
        for from in (0..end).step_by(SECTOR) {
            let to = from + SECTOR;
            let zeroed = disk.fork();
            zeroed.tamper(&file, |content| content[from..to].fill(0));
            assert_refused(reopen(&zeroed), &file, 0, to);
            if number > 1 {
                let earlier = disk.fork();
                earlier.tamper(&file, |content| make_earlier(content, from, salt));
                assert_refused(reopen(&earlier), &file, 0, to);
            }
        }
    }
}

/// Puts a sector of an earlier life in the place of one.
fn make_earlier(segment: &mut [u8], from: usize, salt: u32) {
    let number = segment[from + PIECE];
    segment[from..from + SECTOR].fill(0x5a);
    segment[from + PIECE..from + 508].copy_from_slice(&[number - 1, 0, 0, 0]);
    restamp(segment, salt);
}

/// Takes from the last write what it put into one sector: the old content of that sector is still there.
fn lose(segment: &mut [u8], record: usize, sector: usize, earlier: bool, salt: u32) {
    if sector < in_file(record) {
        // It began in the middle of a sector, which was there before.
        segment[in_file(record)..sector + PIECE].fill(0);
        restamp(segment, salt);
    } else if earlier {
        make_earlier(segment, sector, salt);
    } else {
        segment[sector..sector + SECTOR].fill(0);
    }
}

#[test]
fn a_torn_tail_is_removed_and_the_log_goes_on() {
    // The last write loses each of its sectors in turn, in a new segment and in one used before.
    let (disk, model) = written(6, 1_200);
    let file = used_segments(&disk).pop().unwrap();
    let (at, len) = *records(&disk.content(&file).unwrap()).last().unwrap();
    let sectors = (sector_of(at)..=sector_of(at + len - 1)).step_by(SECTOR);
    assert!(sectors.clone().count() > 2 && disk.content(&file).unwrap()[PIECE] > 1);
    let salt = salt(&disk);
    for (sector, earlier) in sectors.flat_map(|sector| [(sector, false), (sector, true)]) {
        let disk = disk.fork();
        disk.tamper(&file, |content| lose(content, at, sector, earlier, salt));
        let found = reopen(&disk).unwrap();
        assert_eq!(found.entries.len(), model.entries.len() - 1);
        let disk = disk.kill();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            append(&mut log, vec![entry(2, 6, 40, 0)]).await.unwrap();
        });
        let found = reopen(&disk).unwrap();
        assert_eq!(found.entries[&6].log_id, support::log_id(2, 6));
    }
}

#[test]
fn the_length_of_a_record_is_not_believed() {
    // A length that reaches over the records behind it must not hide that they are there.
    let (disk, _) = written(4, 300);
    let file = &used_segments(&disk)[0];
    let (at, len) = records(&disk.content(file).unwrap())[2];
    rewrite(&disk, file, |stream| stream[at + 8..at + 12].copy_from_slice(&3_000_u32.to_le_bytes()));
    assert_refused(reopen(&disk), file, in_file(at), in_file(at + len));
}

#[test]
fn a_client_cannot_imitate_a_record() {
    // A torn write whose payload holds a copy of a real record: without the salt it would vouch for itself.
    let (disk, model) = written(2, 100);
    let other = SimDisk::new();
    run(async {
        let mut log = open_log(&other, DATA, tiny()).unwrap();
        append(&mut log, vec![entry(1, 1, 600, 0), entry(1, 2, 600, 0)]).await.unwrap();
        append(&mut log, vec![entry(1, 3, 10, 0)]).await.unwrap();
    });
    let file = used_segments(&disk).pop().unwrap();
    let theirs = other.content(&used_segments(&other)[0]).unwrap();
    let (at, _) = *records(&theirs).last().unwrap();
    let forged = stream(&theirs)[at..at + 64].to_vec();
    let end = records(&disk.content(&file).unwrap()).last().map(|(at, len)| at + len).unwrap();
    let (salt, from) = (salt(&disk), sector_of(end) + 2 * SECTOR);
    disk.tamper(&file, |content| {
        // The first sector of the write was lost, the rest with the imitation is there.
        content[from..from + forged.len()].copy_from_slice(&forged);
        content[from + PIECE] = 1;
        restamp(content, salt);
    });
    assert_eq!(reopen(&disk).unwrap(), model);
}

#[test]
fn missing_and_shortened_segments_are_refused() {
    let (disk, _) = written(24, 500);
    let files = used_segments(&disk);
    assert!(files.len() >= 3);
    for file in &files {
        let disk = disk.fork();
        disk.remove(file).unwrap();
        disk.sync_dir(file.parent().unwrap()).unwrap();
        let error = reopen(&disk).unwrap_err();
        assert!(matches!(&error, StorageError::Corrupt { .. }), "{} removed: {error}", file.display());
    }
    for file in &files {
        let disk = disk.fork();
        disk.tamper(file, |content| content.truncate(1_000));
        assert_refused(reopen(&disk), file, 1_000, 1_001);
    }
}

#[test]
fn a_missing_log_is_refused() {
    let (disk, _) = written(2, 100);
    for file in segments(&disk) {
        disk.remove(&file).unwrap();
        disk.sync_dir(file.parent().unwrap()).unwrap();
    }
    let error = reopen(&disk).unwrap_err();
    assert!(error.to_string().contains("the log is missing"), "{error}");
}

#[test]
fn a_log_of_another_directory_is_refused() {
    let (disk, _) = written(2, 100);
    let (other, _) = written(2, 100);
    let file = used_segments(&disk)[0].clone();
    let theirs = other.content(&file).unwrap();
    disk.tamper(&file, |content| *content = theirs);
    assert_refused(reopen(&disk), &file, 0, 1);
}

#[test]
fn a_record_of_an_unknown_kind_is_refused() {
    // Only a newer version writes such a record, with correct checksums: it is neither skipped nor cut off.
    let (disk, _) = written(3, 100);
    let file = used_segments(&disk)[0].clone();
    let (salt, at) = (salt(&disk), records(&disk.content(&file).unwrap()).last().unwrap().0);
    rewrite(&disk, &file, |stream| {
        stream[at + 20] = 99;
        let header = crc(salt, &stream[at + 4..at + HEADER_BYTES]);
        stream[at..at + 4].copy_from_slice(&header);
    });
    let error = reopen(&disk).unwrap_err();
    assert!(error.to_string().contains("unknown kind"), "{error}");
}

#[test]
fn damage_found_while_reading_stops_the_log() {
    let (disk, _) = written(12, 500);
    let disk = disk.kill();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        let file = used_segments(&disk)[0].clone();
        let (at, _) = records(&disk.content(&file).unwrap())[2];
        disk.tamper(&file, |content| content[in_file(at + 100)] ^= 1);
        let mut reader = log.get_log_reader().await;
        openraft::RaftLogReader::try_get_log_entries(&mut reader, 1..5).await.unwrap_err();
        let failure = log.failure().unwrap();
        assert_eq!((failure.kind, &failure.file), (ovncp_storage::FailureKind::Damaged, &file));
        append(&mut log, vec![entry(1, 13, 10, 0)]).await.unwrap_err();
        log.save_vote(&support::vote(9, 1)).await.unwrap_err();
    });
}

#[test]
fn old_records_in_a_recycled_segment_are_never_read() {
    // What the first segment holds stands behind the end of the last one, as if that were the first one recycled.
    let (disk, model) = written(15, 500);
    let files = used_segments(&disk);
    let (first, last) = (disk.content(&files[0]).unwrap(), files.last().unwrap());
    let end = records(&disk.content(last).unwrap()).last().map(|(at, len)| at + len).unwrap();
    let from = sector_of(end) + SECTOR;
    assert!(from < in_file(records(&first).last().unwrap().0), "a whole old record behind the end");
    disk.tamper(last, |content| content[from..].copy_from_slice(&first[from..]));
    assert_eq!(reopen(&disk).unwrap(), model);
    // Good sectors at the wrong place are no remains of an earlier life.
    disk.tamper(last, |content| content[from..].copy_from_slice(&first[..first.len() - from]));
    assert_refused(reopen(&disk), last, from, from + 1);
}

#[test]
fn recycled_segments_carry_the_log_on() {
    let disk = SimDisk::new();
    let mut history = History::default();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        for _ in 0..60 {
            history.ask(&mut log, &Op::Append { appends: 1, entries: 3, bytes: 400 }).await.unwrap();
            history.ask(&mut log, &Op::Purge(3)).await.unwrap();
        }
        // Every few segments one was used again: the numbers went up, the space did not.
        assert!(segments(&disk).last().unwrap().to_str().unwrap() > "/data/log/0000000015");
        assert!(segments(&disk).len() <= 3);
        let free = disk.files().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "free"));
        assert!((1..=4).contains(&free.count()));
    });
    for seed in 0..8 {
        let disk = disk.fork().crash(seed);
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            history.check(&Model::of(&mut log).await.unwrap());
        });
    }
}

fn salt(disk: &SimDisk) -> u32 {
    let disk = disk.kill();
    let dir = DataDir::open(disk, DATA).unwrap();
    u32::from_le_bytes(*dir.incarnation().0.first_chunk().unwrap())
}
