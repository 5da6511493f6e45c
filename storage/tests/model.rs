//! Random operations, crashes and restarts beside a naive model.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use openraft::storage::RaftLogStorage;
use ovncp_storage::disk::SimDisk;
use ovncp_storage::{StoreOptions, WriterMode};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{DATA, History, Model, Op, open_log, run};

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..4_u8, 0..5_u8, 0..900_u16)
            .prop_map(|(appends, entries, bytes)| Op::Append { appends, entries, bytes }),
        2 => Just(Op::Vote),
        2 => Just(Op::Commit),
        2 => (0..6_u8).prop_map(Op::Truncate),
        2 => (0..8_u8).prop_map(Op::Purge),
        1 => (200..204_u8).prop_map(Op::Purge),
    ]
}

/// One life of the process.
#[derive(Clone, Debug)]
struct Life {
    ops: Vec<Op>,
    /// The power fails after so many further steps; otherwise the process just ends.
    power_off_in: Option<u64>,
    crash: Option<u64>,
    cache_bytes: usize,
}

fn life() -> impl Strategy<Value = Life> {
    let cache = prop_oneof![Just(0_usize), Just(2_000), Just(1 << 20)];
    (vec(op(), 1..25), proptest::option::of(1..120_u64), proptest::option::of(any::<u64>()), cache)
        .prop_map(|(ops, power_off_in, crash, cache_bytes)| Life { ops, power_off_in, crash, cache_bytes })
}

async fn live(disk: &SimDisk, life: &Life, history: &mut History) {
    let options =
        StoreOptions { writer: WriterMode::Task, segment_bytes: 4_096, cache_bytes: life.cache_bytes };
    let Ok(mut log) = open_log(disk, DATA, options) else {
        assert!(life.power_off_in.is_some(), "the log must open");
        return;
    };
    // While the power fails already, reads may fail too.
    let Ok(found) = Model::of(&mut log).await else { return };
    history.check(&found);
    let committed = log.read_committed().await.unwrap();
    assert!(committed <= found.last, "committed {committed:?}, last {:?}", found.last);
    history.restarted(found);
    for op in &life.ops {
        if history.ask(&mut log, op).await.is_err() {
            return;
        }
        match Model::of(&mut log).await {
            Ok(found) => assert_eq!(&found, history.now(), "after {op:?}"),
            Err(_) => return,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_the_model_does(lives in vec(life(), 1..5)) {
        let mut disk = SimDisk::new();
        let mut history = History::default();
        for life in lives {
            if let Some(steps) = life.power_off_in {
                disk.power_off_at(disk.counters().steps + steps);
            }
            run(live(&disk, &life, &mut history));
            disk = match life.crash {
                Some(seed) => disk.crash(seed),
                None => disk.kill(),
            };
        }
        run(async {
            let mut log = open_log(&disk, DATA, support::tiny()).unwrap();
            history.check(&Model::of(&mut log).await.unwrap());
        });
    }
}
