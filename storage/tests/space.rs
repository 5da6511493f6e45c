//! Space: it comes back after a purge, and a long log is opened with one look at each byte.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use ovncp_storage::StoreOptions;
use ovncp_storage::disk::{RealDisk, SimDisk};
use support::{DATA, append, entry, log_id, open_log, run, submit, tiny, vote};
use tempfile::TempDir;

const SEGMENT: u64 = 64 * 1_024;
/// Retired segments that are kept to be used again.
const KEPT: u64 = 4;

fn small() -> StoreOptions {
    StoreOptions::simulation()
}

#[test]
fn purging_gives_the_space_back() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, small()).unwrap();
        let empty = disk.used();
        for index in 1..=4_000 {
            append(&mut log, vec![entry(1, index, 256, 0)]).await.unwrap();
        }
        let full = disk.used();
        assert!(full - empty > 15 * SEGMENT);
        log.purge(log_id(1, 2_000)).await.unwrap();
        log.save_vote(&vote(2, 1)).await.unwrap();
        let half = disk.used();
        assert!(half - empty < (full - empty) / 2 + (KEPT + 2) * SEGMENT);
        log.purge(log_id(1, 4_000)).await.unwrap();
        log.save_vote(&vote(3, 1)).await.unwrap();
        // What is left: the segment in use, the next one, and those kept to be used again.
        assert!(disk.used() - empty <= (KEPT + 2) * SEGMENT);
        // Writing on uses what was kept and does not grow beyond what it needs.
        for index in 4_001..=4_600 {
            append(&mut log, vec![entry(1, index, 256, 0)]).await.unwrap();
            log.purge(log_id(1, index)).await.unwrap();
        }
        log.save_vote(&vote(4, 1)).await.unwrap();
        assert!(disk.used() - empty <= (KEPT + 2) * SEGMENT);
    });
    let disk = disk.crash(1);
    run(async {
        let mut log = open_log(&disk, DATA, small()).unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!(
            (state.last_purged_log_id, state.last_log_id),
            (Some(log_id(1, 4_600)), Some(log_id(1, 4_600)))
        );
        assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote(4, 1)));
    });
}

#[test]
fn a_vote_outlives_every_segment_that_it_was_written_to() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        log.save_vote(&vote(7, 3)).await.unwrap();
        log.save_committed(None).await.unwrap();
        for index in 1..100 {
            append(&mut log, vec![entry(7, index, 1_000, 0)]).await.unwrap();
            log.purge(log_id(7, index)).await.unwrap();
        }
    });
    let disk = disk.crash(2);
    assert!(!disk.files().iter().any(|path| path.ends_with("0000000001.wal")));
    run(async {
        let log = open_log(&disk, DATA, tiny()).unwrap();
        assert_eq!(log.reader().read_vote().await.unwrap(), Some(vote(7, 3)));
    });
}

#[test]
fn recent_entries_are_read_from_memory_and_old_ones_with_few_calls() {
    let disk = SimDisk::new();
    run(async {
        let options = StoreOptions { cache_bytes: 100 * 500, ..small() };
        let mut log = open_log(&disk, DATA, options).unwrap();
        for index in 1..=1_000 {
            append(&mut log, vec![entry(1, index, 256, 0)]).await.unwrap();
        }
        let mut reader = log.get_log_reader().await;
        let reads = disk.counters().reads;
        assert_eq!(reader.try_get_log_entries(950..=1_000).await.unwrap().len(), 51);
        assert_eq!(disk.counters().reads, reads, "recent entries");
        assert_eq!(reader.try_get_log_entries(1..=800).await.unwrap().len(), 800);
        let calls = disk.counters().reads - reads;
        assert!(calls <= 6, "{calls} calls for 800 entries in some 250 KiB");
    });
}

#[test]
fn bounded_reads_are_bounded_by_bytes_and_never_empty() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, StoreOptions { segment_bytes: 4 << 20, ..small() }).unwrap();
        for index in 1..=6 {
            append(&mut log, vec![entry(1, index, 400 * 1_024, 0)]).await.unwrap();
        }
        append(&mut log, vec![entry(1, 7, 2 * 1_024 * 1_024, 0)]).await.unwrap();
        let mut reader = log.get_log_reader().await;
        assert_eq!(reader.limited_get_log_entries(1, 8).await.unwrap().len(), 2);
        assert_eq!(reader.limited_get_log_entries(7, 8).await.unwrap().len(), 1);
        assert_eq!(reader.try_get_log_entries(1..8).await.unwrap().len(), 7);
        log.purge(log_id(1, 3)).await.unwrap();
        reader.limited_get_log_entries(2, 8).await.unwrap_err();
    });
}

#[test]
fn an_entry_larger_than_a_segment_is_refused_and_the_log_goes_on() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        append(&mut log, vec![entry(1, 1, 10, 0)]).await.unwrap();
        assert!(submit(&mut log, vec![entry(1, 2, 4_096, 0)]).await.is_err());
        append(&mut log, vec![entry(1, 2, 3_500, 0)]).await.unwrap();
        append(&mut log, vec![entry(1, 3, 3_500, 0)]).await.unwrap();
        assert!(log.failure().is_none());
    });
}

#[test]
fn a_hole_is_refused() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        append(&mut log, vec![entry(1, 1, 10, 0)]).await.unwrap();
        assert!(submit(&mut log, vec![entry(1, 3, 10, 0)]).await.is_err());
    });
}

#[test]
fn a_million_entries_are_opened_with_one_look_at_each_byte() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("data");
    let options = || StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() };
    run(async {
        let mut log = open_log(&RealDisk, &path, options()).unwrap();
        for start in (1..=1_000_000).step_by(10_000) {
            let batch = (start..start + 10_000).map(|index| entry(1, index, 16, 0)).collect();
            append(&mut log, batch).await.unwrap();
        }
    });
    run(async {
        let mut log = open_log(&RealDisk, &path, options()).unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_log_id, Some(log_id(1, 1_000_000)));
        let mut reader = log.get_log_reader().await;
        for index in [1, 77_777, 500_000, 999_999, 1_000_000] {
            let found = reader.try_get_log_entries(index..=index).await.unwrap();
            assert_eq!(found, vec![entry(1, index, 16, 0)]);
        }
    });
}

#[test]
fn opening_reads_every_byte_of_the_log_once_and_the_last_segment_again() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, small()).unwrap();
        for start in (1..=20_000).step_by(500) {
            append(&mut log, (start..start + 500).map(|index| entry(1, index, 64, 0)).collect())
                .await
                .unwrap();
        }
    });
    let disk = disk.kill();
    let before = disk.counters();
    let segments = support::segments(&disk).len() as u64;
    assert!(segments > 20);
    run(async {
        open_log(&disk, DATA, small()).unwrap();
        let after = disk.counters();
        let read = after.bytes_read - before.bytes_read;
        assert!(read <= (segments + 2) * SEGMENT, "read {read} bytes of {segments} segments");
        // Identity, repair of the last segment, and preparation of the next one where it is missing.
        assert!(after.bytes_written - before.bytes_written <= 3 * SEGMENT);
    });
}

#[test]
fn the_figures_say_what_was_done() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        for index in (1..=20).step_by(2) {
            append(&mut log, vec![entry(1, index, 500, 0), entry(1, index + 1, 500, 0)]).await.unwrap();
        }
        let figures = log.stats().read();
        assert_eq!((figures.append_batches, figures.append_entries), (10, 20));
        assert!((20 * 500..20 * 600).contains(&figures.append_bytes));
        assert_eq!(figures.segments as usize, segments_used(&disk));
        assert!(figures.syncs.counts.iter().sum::<u64>() >= 10);
        assert!(figures.writer_busy >= figures.syncs.sum);
        log.purge(log_id(1, 20)).await.unwrap();
        log.save_vote(&vote(2, 1)).await.unwrap();
        assert_eq!(log.stats().read().segments, 1);
    });
}

fn segments_used(disk: &SimDisk) -> usize {
    let used = |path: &std::path::PathBuf| disk.content(path).unwrap().iter().any(|byte| *byte != 0);
    support::segments(disk).into_iter().filter(used).count()
}
