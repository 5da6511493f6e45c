//! Power, syncs, room, damage.

use ovncp_jepsen::disk::{DiskKind, injection};
use ovncp_jepsen::nemesis::NemesisKind;

use crate::stage::{Stage, skipped};

/// More than one snapshot's worth, so that there is one to be damaged.
const MANY: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_lose_power_keep_what_they_acknowledged() {
    let Some(mut stage) = Stage::set(DiskKind::Loop, false).await else { return };
    for (kind, nodes, writes) in [(NemesisKind::PowerOne, 1, 10), (NemesisKind::PowerAll, 3, 0)] {
        stage.progress(20).await;
        let (_, effect) = stage.harm(kind, 1, writes).await;
        assert!(effect.effective, "{effect:?}");
        assert_eq!(effect.measured["unsynced_canaries_lost"], nodes, "{effect:?}");
        assert_eq!(effect.measured["synced_canaries_kept"], nodes, "{effect:?}");
        stage.all_ready().await;
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_sync_fails_says_so_and_serves_nothing() {
    if let Err(why) = injection::possible() {
        return skipped(&why.to_string());
    }
    let Some(mut stage) = Stage::set(DiskKind::Dir, false).await else { return };
    let (_, effect) = stage.harm(NemesisKind::FsyncEio, 1, 10).await;
    assert!(effect.effective, "{effect:?}");
    assert!(effect.measured["failed"]["log_calls"].as_u64() > Some(0), "{effect:?}");
    let said = effect.measured["said"].as_str().unwrap_or_default();
    assert!(said.contains("Input/output error") && said.contains(".wal"), "{said}");
    stage.all_ready().await;
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_syncs_take_long_goes_on() {
    if let Err(why) = injection::possible() {
        return skipped(&why.to_string());
    }
    let Some(mut stage) = Stage::set(DiskKind::Dir, false).await else { return };
    let (_, effect) = stage.harm(NemesisKind::FsyncSlow, 1, 10).await;
    assert!(effect.effective, "{effect:?}");
    assert!(effect.measured["delayed"]["log_calls"].as_u64() > Some(0), "{effect:?}");
    stage.finish().await;
}

/// Full disks until one of them is noticed.
const FULL_TIMES_MAX: u64 = 5;

async fn fills_up(disk: DiskKind) {
    let Some(mut stage) = Stage::set(disk, false).await else { return };
    // What the node has set aside may last for one time, on a machine that is too busy to use it up.
    for seed in 0..FULL_TIMES_MAX {
        let (_, effect) = stage.harm(NemesisKind::DiskFull, seed, 10).await;
        assert!(effect.effective && effect.measured["took_nothing"] == true, "{effect:?}");
        stage.all_ready().await;
        if effect.measured["stopped"] == true {
            break;
        }
        assert!(seed + 1 < FULL_TIMES_MAX, "no node noticed: {effect:?}");
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_a_full_disk_says_so_and_recovers_with_room() {
    fills_up(DiskKind::Loop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_its_disk_is_full_says_so_and_recovers() {
    if let Err(why) = injection::possible() {
        return skipped(&why.to_string());
    }
    fills_up(DiskKind::Dir).await;
}

async fn is_damaged(kind: NemesisKind) {
    let Some(mut stage) = Stage::set(DiskKind::Dir, false).await else { return };
    stage.progress(MANY).await;
    let mut files = Vec::new();
    // The first seed draws the log, the other one the snapshot.
    for seed in [0, 2] {
        let (detail, effect) = stage.harm(kind, seed, 5).await;
        assert!(effect.effective, "{effect:?}");
        let file = detail["damage"]["file"].as_str().unwrap_or_default().to_owned();
        let said = effect.measured["said"].as_str().unwrap_or_default();
        assert!(said.contains(&file) && said.contains("damaged at offset"), "{said}");
        stage.all_ready().await;
        files.push(file);
    }
    for suffix in [".wal", ".snap"] {
        assert!(files.iter().any(|file| file.ends_with(suffix)), "{files:?}");
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_refused_and_the_node_replaced() {
    is_damaged(NemesisKind::BitFlip).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_short_is_refused_and_the_node_replaced() {
    is_damaged(NemesisKind::Truncate).await;
}
