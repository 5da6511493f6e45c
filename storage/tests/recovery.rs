//! Crashes: whatever was acknowledged is there afterwards, and nothing that was never asked for.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use openraft::storage::RaftLogStorage;
use ovncp_storage::disk::SimDisk;
use support::{DATA, History, Model, Op, open_log, run, tiny};

/// A bit of everything, over several segments.
fn script() -> Vec<Op> {
    let append = |appends, entries, bytes| Op::Append { appends, entries, bytes };
    vec![
        Op::Vote,
        append(1, 1, 10),
        Op::Commit,
        append(3, 2, 300),
        Op::Truncate(2),
        Op::Commit,
        append(2, 3, 700),
        Op::Vote,
        append(1, 2, 1_500),
        Op::Purge(4),
        Op::Commit,
        append(2, 2, 900),
        append(1, 1, 100),
        Op::Purge(5),
        append(2, 1, 1_200),
        Op::Vote,
        Op::Purge(205),
        append(1, 4, 200),
        Op::Commit,
        // From here on in segments that were used before.
        append(2, 2, 900),
        Op::Purge(6),
        append(1, 3, 700),
        Op::Vote,
        append(3, 1, 1_100),
        Op::Purge(4),
        append(2, 2, 800),
        append(1, 1, 30),
    ]
}

/// Runs the script until the power fails.
async fn drive(disk: &SimDisk, history: &mut History) {
    let Ok(mut log) = open_log(disk, DATA, tiny()) else { return };
    for op in script() {
        if history.ask(&mut log, &op).await.is_err() {
            return;
        }
    }
}

fn steps_of_script() -> u64 {
    let disk = SimDisk::new();
    run(drive(&disk, &mut History::default()));
    disk.counters().steps
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails_at_any_step() {
    for step in 1..=steps_of_script() + 1 {
        for seed in 0..12 {
            let disk = SimDisk::new();
            disk.power_off_at(step);
            let mut history = History::default();
            run(drive(&disk, &mut history));
            let disk = disk.crash(seed);
            run(async {
                let mut log = open_log(&disk, DATA, tiny())
                    .unwrap_or_else(|error| panic!("power lost at step {step}, seed {seed}: {error}"));
                let found = Model::of(&mut log).await.unwrap();
                history.check(&found);
                let committed = log.read_committed().await.unwrap();
                assert!(committed <= found.last);
                assert!(committed.is_none_or(|id| history.committed.contains(&id)));
                // It goes on as if nothing had happened.
                history.restarted(found);
                for op in script() {
                    history.ask(&mut log, &op).await.unwrap();
                }
                assert_eq!(&Model::of(&mut log).await.unwrap(), history.now());
            });
        }
    }
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    let steps = steps_of_script();
    for (step, again) in (1..=steps).step_by(3).flat_map(|step| (1..14).map(move |again| (step, again))) {
        let disk = SimDisk::new();
        disk.power_off_at(step);
        let mut history = History::default();
        run(drive(&disk, &mut history));
        let disk = disk.crash(step);
        disk.power_off_at(disk.counters().steps + again);
        let _ = run(async { open_log(&disk, DATA, tiny()).map(drop) });
        let disk = disk.crash(again);
        run(async {
            let mut log = open_log(&disk, DATA, tiny())
                .unwrap_or_else(|error| panic!("power lost at step {step} and {again} later: {error}"));
            history.check(&Model::of(&mut log).await.unwrap());
        });
    }
}

#[test]
fn a_killed_process_loses_nothing_at_all() {
    let disk = SimDisk::new();
    let mut history = History::default();
    let committed = run(async {
        drive(&disk, &mut history).await;
        history.committed.last().copied()
    });
    let disk = disk.kill();
    run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        assert_eq!(&Model::of(&mut log).await.unwrap(), history.now());
        // Written without a sync, but written.
        assert_eq!(log.read_committed().await.unwrap(), committed);
    });
}

#[test]
fn a_committed_index_is_written_soon_although_nothing_follows_it() {
    let disk = SimDisk::new();
    let mut history = History::default();
    let killed = run(async {
        let mut log = open_log(&disk, DATA, tiny()).unwrap();
        for op in [Op::Vote, Op::Append { appends: 1, entries: 3, bytes: 10 }, Op::Commit] {
            history.ask(&mut log, &op).await.unwrap();
        }
        let at_once = disk.fork().kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        (at_once, disk.fork().kill())
    });
    for (disk, expected) in [(killed.0, None), (killed.1, history.committed.last().copied())] {
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            assert_eq!(log.read_committed().await.unwrap(), expected);
        });
    }
}

#[test]
fn what_a_killed_process_left_unsynced_is_durable_once_it_was_read() {
    // The first process dies between write and sync; the second one reads the entry from the page cache and may
    // count it as its own from then on. A power loss must not take it away any more.
    for seed in 0..32 {
        let disk = SimDisk::new();
        let mut history = History::default();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            history.ask(&mut log, &Op::Append { appends: 1, entries: 1, bytes: 700 }).await.unwrap();
            disk.power_off_at(disk.counters().steps + 2);
            history.ask(&mut log, &Op::Append { appends: 1, entries: 3, bytes: 700 }).await.unwrap_err();
        });
        let disk = disk.kill();
        let found = run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            Model::of(&mut log).await.unwrap()
        });
        assert_eq!(found.entries.len(), 4);
        let disk = disk.crash(seed);
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            assert_eq!(Model::of(&mut log).await.unwrap(), found);
        });
    }
}

#[test]
fn what_a_killed_process_left_behind_survives_a_power_loss_of_the_next_one() {
    // Names and writes that were not durable when the first process died are read by the second one, which
    // builds on them; then the power fails.
    for (step, seed) in (1..=steps_of_script()).flat_map(|step| (0..6).map(move |seed| (step, seed))) {
        let disk = SimDisk::new();
        disk.power_off_at(step);
        run(drive(&disk, &mut History::default()));
        let disk = disk.kill();
        let mut history = History::default();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            history.restarted(Model::of(&mut log).await.unwrap());
            let appends = usize::try_from(seed % 3).unwrap();
            for _ in 0..appends * 3 {
                history.ask(&mut log, &Op::Append { appends: 1, entries: 1, bytes: 900 }).await.unwrap();
            }
        });
        let disk = disk.crash(seed);
        run(async {
            let mut log = open_log(&disk, DATA, tiny())
                .unwrap_or_else(|error| panic!("killed at step {step}, seed {seed}: {error}"));
            history.check(&Model::of(&mut log).await.unwrap());
        });
    }
}
