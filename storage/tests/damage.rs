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

/// Offsets and lengths of the records of a segment, payload included.
fn records(segment: &[u8]) -> Vec<(usize, usize)> {
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
fn a_flipped_bit_in_any_record_before_the_tail_is_refused_with_file_and_offset() {
    let (disk, _) = written(12, 500);
    let files = used_segments(&disk);
    assert!(files.len() > 1);
    for (nth, file) in files.iter().enumerate() {
        let content = disk.content(file).unwrap();
        let mut records = records(&content);
        if nth + 1 == files.len() {
            records.pop();
        }
        for (at, len) in records {
            // Every field of the header, and the payload's ends and middle.
            for byte in (0..HEADER_BYTES).chain([HEADER_BYTES, len / 2, len - 1]).filter(|byte| *byte < len) {
                let disk = disk.fork();
                disk.tamper(file, |content| content[at + byte] ^= 1 << (byte % 8));
                assert_refused(reopen(&disk), file, at, at + len);
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_record_is_refused_too_when_no_sector_is_missing() {
    let (disk, _) = written(3, 500);
    let file = used_segments(&disk).pop().unwrap();
    let (at, len) = *records(&disk.content(&file).unwrap()).last().unwrap();
    for byte in [4, 9, HEADER_BYTES, len / 2, len - 1] {
        let disk = disk.fork();
        disk.tamper(&file, |content| content[at + byte] ^= 0x10);
        assert_refused(reopen(&disk), &file, at, at + len);
    }
}

#[test]
fn a_zeroed_sector_before_the_tail_is_refused() {
    let (disk, _) = written(12, 700);
    for file in used_segments(&disk) {
        let last = used_segments(&disk).last() == Some(&file);
        let (tail, _) = *records(&disk.content(&file).unwrap()).last().unwrap();
        let end = if last { tail } else { 4_096 };
        for sector in 0..end / 512 {
            let (from, to) = (sector * 512, (sector + 1) * 512);
            let disk = disk.fork();
            let changed = disk.content(&file).unwrap()[from..to].iter().any(|byte| *byte != 0);
            disk.tamper(&file, |content| content[from..to].fill(0));
            if changed {
                assert_refused(reopen(&disk), &file, 0, to);
            }
        }
    }
}

#[test]
fn a_torn_tail_is_removed_and_the_log_goes_on() {
    // The last write loses each of its sectors in turn.
    let (disk, model) = written(3, 1_200);
    let file = used_segments(&disk).pop().unwrap();
    let (at, len) = *records(&disk.content(&file).unwrap()).last().unwrap();
    for sector in at / 512..(at + len).div_ceil(512) {
        let disk = disk.fork();
        disk.tamper(&file, |content| {
            let from = (sector * 512).max(at);
            content[from..((sector + 1) * 512).min(at + len)].fill(0);
        });
        let found = reopen(&disk).unwrap();
        assert_eq!(found.entries.len(), model.entries.len() - 1);
        let disk = disk.kill();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            append(&mut log, vec![entry(2, 3, 40, 0)]).await.unwrap();
        });
        let found = reopen(&disk).unwrap();
        assert_eq!(found.entries[&3].log_id, support::log_id(2, 3));
    }
}

#[test]
fn the_length_of_a_record_is_not_believed() {
    // A length that reaches over the records behind it must not hide that they are there.
    let (disk, _) = written(4, 300);
    let file = &used_segments(&disk)[0];
    let (at, len) = records(&disk.content(file).unwrap())[2];
    disk.tamper(file, |content| content[at + 8..at + 12].copy_from_slice(&3_000_u32.to_le_bytes()));
    assert_refused(reopen(&disk), file, at, at + len);
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
    let forged = theirs[at..at + 64].to_vec();
    let end = records(&disk.content(&file).unwrap()).last().map(|(at, len)| at + len).unwrap();
    disk.tamper(&file, |content| {
        // The first sector of the write was lost, the rest with the imitation is there.
        let from = (end / 512 + 2) * 512;
        content[from..from + forged.len()].copy_from_slice(&forged);
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
    let salt = salt(&disk);
    disk.tamper(&file, |content| {
        let (at, len) = *records(content).last().unwrap();
        content[at + 20] = 99;
        let crc = |bytes: &[u8]| {
            let mut crc = crc32fast::Hasher::new_with_initial(salt);
            crc.update(bytes);
            crc.finalize().to_le_bytes()
        };
        assert!(at + len < content.len());
        let header = crc(&content[at + 4..at + HEADER_BYTES]);
        content[at..at + 4].copy_from_slice(&header);
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
        disk.tamper(&file, |content| content[at + 100] ^= 1);
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
    // Put the bytes of an old segment where the zeroes of a recycled one should be.
    let (disk, model) = written(14, 500);
    let files = used_segments(&disk);
    let (first, last) = (disk.content(&files[0]).unwrap(), files.last().unwrap());
    let end = records(&disk.content(last).unwrap()).last().map(|(at, len)| at + len).unwrap();
    let old = records(&first)[1].0;
    disk.tamper(last, |content| {
        let count = (content.len() - end).min(first.len() - old);
        content[end..end + count].copy_from_slice(&first[old..old + count]);
    });
    match reopen(&disk) {
        // Not a torn write, as no sector of it is missing: refused. Never read, in any case.
        Err(error) => assert!(error.to_string().contains("another segment"), "{error}"),
        Ok(found) => assert_eq!(found, model),
    }
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
