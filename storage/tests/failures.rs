//! Failing and full disks: nothing is acknowledged that is not durable, the log says why it stopped, and a
//! restart goes on from what really is on the disk.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use openraft::storage::RaftLogStorage;
use ovncp_storage::FailureKind;
use ovncp_storage::disk::{Fault, SimDisk, SimOp};
use support::{DATA, History, Model, Op, append, entry, open_log, open_store, run, tiny, vote};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn fault(op: SimOp, path: &str, after: u64, errno: i32) -> Fault {
    Fault { op, path: path.to_owned(), after, errno, sticky: false }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    for op in [SimOp::Sync, SimOp::Write] {
        let disk = SimDisk::new();
        let mut history = History::default();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            history.ask(&mut log, &Op::Vote).await.unwrap();
            history.ask(&mut log, &Op::Append { appends: 1, entries: 2, bytes: 100 }).await.unwrap();
            disk.inject(fault(op, ".wal", 0, EIO));
            history.ask(&mut log, &Op::Append { appends: 2, entries: 2, bytes: 100 }).await.unwrap_err();
            // The fault hit once and is gone; the log stays shut all the same.
            append(&mut log, vec![entry(2, 7, 10, 0)]).await.unwrap_err();
            log.save_vote(&vote(9, 2)).await.unwrap_err();
            log.save_committed(Some(support::log_id(2, 2))).await.unwrap_err();
            log.truncate_after(None).await.unwrap_err();
            log.purge(support::log_id(2, 1)).await.unwrap_err();
            let failure = log.failure().unwrap();
            assert_eq!(failure.kind, FailureKind::Io);
            assert_eq!(failure.file.to_str().unwrap(), "/data/log/0000000001.wal");
            assert!(failure.message.contains("0000000001.wal"), "{failure}");
        });
        for seed in 0..16 {
            let disk = disk.fork().crash(seed);
            run(async {
                let mut log = open_log(&disk, DATA, tiny()).unwrap();
                history.check(&Model::of(&mut log).await.unwrap());
                let next = log_next(&mut log).await;
                append(&mut log, vec![entry(3, next, 10, 0)]).await.unwrap();
            });
        }
    }
}

async fn log_next(log: &mut ovncp_storage::LogStore<SimDisk>) -> u64 {
    log.get_log_state().await.unwrap().last_log_id.map_or(1, |id| id.index + 1)
}

#[test]
fn a_failed_sync_is_not_believed_after_a_restart_either() {
    // The kernel marks pages clean after a failed sync, so the next sync succeeds without writing them. What is
    // read back then is not on the disk: a restarted log writes it again before it trusts it.
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        append(&mut log, vec![entry(1, 1, 700, 0)]).await.unwrap();
        disk.inject(fault(SimOp::Sync, ".wal", 0, EIO));
        append(&mut log, vec![entry(1, 2, 700, 0)]).await.unwrap_err();
    });
    let disk = disk.kill();
    let before = disk.counters();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        assert_eq!(log_next(&mut log).await, 3);
    });
    let written = disk.counters().bytes_written - before.bytes_written;
    assert!(written >= 1_400, "only {written} bytes were written again");
}

#[test]
fn a_full_disk_is_noticed_when_space_is_prepared_not_when_it_is_needed() {
    let disk = SimDisk::new();
    let mut history = History::default();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        disk.set_capacity(Some(disk.used() + 2 * 4_096 + 100));
        let op = Op::Append { appends: 1, entries: 1, bytes: 600 };
        while history.ask(&mut log, &op).await.is_ok() {}
        let failure = log.failure().unwrap();
        assert_eq!(failure.kind, FailureKind::DiskFull, "{failure}");
        assert!(failure.message.contains("/data/log/"), "{failure}");
        log.save_vote(&vote(9, 1)).await.unwrap_err();
    });
    // Still full: it starts, and shows everything that it acknowledged.
    let disk = disk.crash(3);
    disk.set_capacity(Some(disk.used()));
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        let found = Model::of(&mut log).await.unwrap();
        history.check(&found);
        history.restarted(found);
    });
    // Space is back: it goes on.
    let disk = disk.crash(4);
    disk.set_capacity(None);
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        for _ in 0..20 {
            history.ask(&mut log, &Op::Append { appends: 1, entries: 1, bytes: 600 }).await.unwrap();
        }
        assert_eq!(&Model::of(&mut log).await.unwrap(), history.now());
    });
}

#[test]
fn every_write_that_fails_for_lack_of_space_loses_nothing_acknowledged() {
    for after in 0..40 {
        let disk = SimDisk::new();
        let mut history = History::default();
        run(async {
            let Ok(mut log) = open_log(&disk, DATA, tiny()) else { return };
            disk.inject(Fault { sticky: true, ..fault(SimOp::Write, "", after, ENOSPC) });
            let ops = [Op::Vote, Op::Append { appends: 2, entries: 1, bytes: 700 }, Op::Purge(1)];
            for op in ops.iter().cycle().take(60) {
                if history.ask(&mut log, op).await.is_err() {
                    break;
                }
            }
            assert_eq!(log.failure().unwrap().kind, FailureKind::DiskFull);
        });
        let disk = disk.crash(after);
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            history.check(&Model::of(&mut log).await.unwrap());
        });
    }
}

#[test]
fn readers_of_the_store_learn_why_it_stopped() {
    let disk = SimDisk::new();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        let health = store.replica.health();
        assert_eq!(*health.borrow(), None);
        disk.inject(fault(SimOp::Sync, ".wal", 0, EIO));
        append(&mut store.log, vec![entry(1, 1, 10, 0)]).await.unwrap_err();
        assert!(health.has_changed().unwrap());
        assert_eq!(health.borrow().as_ref().map(|failure| failure.kind), Some(FailureKind::Io));
    });
}

#[test]
fn a_failed_read_is_an_error_not_a_hole() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        for index in 1..20 {
            append(&mut log, vec![entry(1, index, 500, 0)]).await.unwrap();
        }
        disk.inject(fault(SimOp::Read, ".wal", 0, EIO));
        let mut reader = log.get_log_reader().await;
        openraft::RaftLogReader::limited_get_log_entries(&mut reader, 1, 10).await.unwrap_err();
    });
}

#[test]
fn nothing_is_acknowledged_before_a_slow_disk_answered() {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        disk.set_latency(Duration::from_millis(100));
        let flushed = support::submit(&mut log, vec![entry(1, 1, 10, 0)]).await.unwrap();
        let mut flushed = std::pin::pin!(flushed);
        tokio::time::timeout(Duration::from_millis(99), &mut flushed).await.unwrap_err();
        tokio::time::timeout(Duration::from_millis(2), &mut flushed).await.unwrap().unwrap().unwrap();
    });
}
