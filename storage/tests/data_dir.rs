//! The data directory: one process, one format, one identity.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ovncp_state::{ClusterId, NodeId};
use ovncp_storage::data_dir::FORMAT_VERSION;
use ovncp_storage::disk::{Disk, RealDisk, SimDisk};
use ovncp_storage::{DataDir, StorageError};
use support::{DATA, append, entry, open_store, run, tiny};
use tempfile::TempDir;

fn open(disk: &SimDisk) -> Result<DataDir<SimDisk>, StorageError> {
    DataDir::open(disk.clone(), DATA)
}

#[test]
fn identity_stays_and_every_start_is_counted() {
    let disk = SimDisk::new();
    let first = open(&disk).unwrap();
    assert_eq!((first.boot(), first.is_pristine()), (1, true));
    let incarnation = first.incarnation();
    first.set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).unwrap();
    drop(first);
    for boot in 2..5 {
        // Power loss right after `open` returned: the count is durable.
        let disk = disk.crash(boot);
        let dir = open(&disk).unwrap();
        assert_eq!(dir.boot(), boot);
        assert_eq!(dir.incarnation(), incarnation);
        assert_eq!((dir.cluster_id(), dir.node_id()), (Some(ClusterId([7; 16])), Some(NodeId(3))));
        assert_eq!(dir.cluster_key(), Some([9; 32]));
        assert!(!dir.is_pristine());
    }
    assert_ne!(open(&SimDisk::new()).unwrap().incarnation(), incarnation);
}

#[test]
fn a_directory_never_changes_its_cluster_or_id() {
    let dir = open(&SimDisk::new()).unwrap();
    dir.set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).unwrap();
    dir.set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).unwrap();
    for (cluster, node) in [(8, 3), (7, 4)] {
        let error = dir.set_membership(ClusterId([cluster; 16]), NodeId(node), [9; 32]).unwrap_err();
        assert!(error.to_string().contains("/data/identity"), "{error}");
    }
}

#[test]
fn a_crash_at_any_step_of_a_start_leaves_a_directory_that_starts() {
    let steps = {
        let disk = SimDisk::new();
        open(&disk).unwrap().set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).unwrap();
        disk.counters().steps
    };
    for (step, seed) in (1..=steps + 1).flat_map(|step| (0..8).map(move |seed| (step, seed))) {
        let disk = SimDisk::new();
        disk.power_off_at(step);
        let mut joined = false;
        let mut boot = 0;
        if let Ok(dir) = open(&disk) {
            boot = dir.boot();
            joined = dir.set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).is_ok();
        }
        let disk = disk.crash(seed);
        let dir = open(&disk).unwrap_or_else(|error| panic!("step {step}, seed {seed}: {error}"));
        assert!(dir.boot() > boot);
        assert!(!joined || dir.node_id() == Some(NodeId(3)));
        assert_eq!(dir.cluster_id().is_some(), dir.node_id().is_some());
        assert!(dir.cluster_id().is_none() || dir.cluster_key() == Some([9; 32]));
    }
}

#[test]
fn newer_formats_are_refused() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    disk.tamper(Path::new("/data/FORMAT"), |text| {
        let newer = String::from_utf8(text.clone()).unwrap().replace(&FORMAT_VERSION.to_string(), "999");
        *text = newer.into_bytes();
    });
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, StorageError::NewerFormat { found: 999, supported: FORMAT_VERSION, .. }));
    assert!(error.to_string().contains("/data"), "{error}");
    disk.tamper(Path::new("/data/FORMAT"), |text| {
        let older = String::from_utf8(text.clone()).unwrap().replace("999", "1");
        *text = older.into_bytes();
    });
    assert!(open(&disk).unwrap_err().to_string().contains("development build"));
    disk.tamper(Path::new("/data/FORMAT"), |text| text.truncate(5));
    assert!(matches!(open(&disk).unwrap_err(), StorageError::Corrupt { .. }));
}

#[test]
fn damaged_and_missing_files_are_refused_by_name() {
    let disk = SimDisk::new();
    open(&disk).unwrap().set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 4] = [
        ("identity", |bytes| bytes[6] ^= 1),
        ("identity", |bytes| bytes.truncate(2)),
        ("identity", |bytes| bytes.push(0)),
        ("cluster.key", |bytes| bytes.truncate(31)),
    ];
    for (name, damage) in cases {
        let disk = disk.fork();
        disk.tamper(&Path::new(DATA).join(name), damage);
        let error = open(&disk).unwrap_err();
        assert!(error.to_string().contains(&format!("/data/{name}")), "{error}");
    }
    for name in ["identity", "cluster.key", "FORMAT"] {
        let disk = disk.fork();
        disk.remove(&Path::new(DATA).join(name)).unwrap();
        let error = open(&disk).unwrap_err();
        assert!(error.to_string().contains(&format!("/data/{name}")), "{name}: {error}");
    }
}

#[test]
fn a_log_without_its_identity_is_refused() {
    let disk = SimDisk::new();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        append(&mut store.log, vec![entry(1, 1, 10, 0)]).await.unwrap();
    });
    let disk = disk.kill();
    disk.remove(Path::new("/data/identity")).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("/data/identity"), "{error}");
}

#[test]
fn a_store_is_pristine_until_it_holds_something() {
    let disk = SimDisk::new();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        assert!(store.is_pristine());
        openraft::storage::RaftLogStorage::save_vote(&mut store.log, &support::vote(1, 1)).await.unwrap();
        assert!(!store.is_pristine());
    });
    let disk = disk.kill();
    run(async { assert!(!open_store(&disk, DATA, tiny()).unwrap().is_pristine()) });
}

#[test]
fn the_cluster_key_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new().unwrap();
    let dir = DataDir::open(RealDisk, root.path().join("data")).unwrap();
    dir.set_membership(ClusterId([7; 16]), NodeId(3), [9; 32]).unwrap();
    let mode = std::fs::metadata(root.path().join("data/cluster.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_same_process_cannot_open_a_directory_twice() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("data");
    let dir = DataDir::open(RealDisk, &path).unwrap();
    let error = DataDir::open(RealDisk, &path).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop(dir);
    DataDir::open(RealDisk, &path).unwrap();
}

const HOLD: &str = "OVNCP_TEST_HOLD_DIRECTORY";

/// Not a test of its own: the second process of the next one.
#[test]
fn hold_a_directory_until_stdin_ends() {
    let Some(path) = std::env::var_os(HOLD) else { return };
    let _dir = DataDir::open(RealDisk, PathBuf::from(path)).unwrap();
    println!("\nholding");
    let _ = std::io::read_to_string(std::io::stdin());
}

#[test]
fn two_processes_cannot_open_a_directory() {
    use std::io::{BufRead, BufReader};
    let root = TempDir::new().unwrap();
    let path = root.path().join("data");
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["hold_a_directory_until_stdin_ends", "--exact", "--nocapture"])
        .env(HOLD, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")));
    let error = DataDir::open(RealDisk, &path).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    // kill -9 gives it back.
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(DataDir::open(RealDisk, &path).unwrap().boot(), 2);
}

#[test]
fn a_directory_is_released_with_its_last_clone_and_free_then() {
    let disk = SimDisk::new();
    run(async {
        let dir = open(&disk).unwrap();
        let (mut released, clone) = (Box::pin(dir.released()), dir.clone());
        drop(dir);
        let early = tokio::time::timeout(Duration::from_secs(60), &mut released).await;
        assert!(early.is_err(), "somebody still uses it");
        drop(clone);
        released.await;
        open(&disk).unwrap();
    });
}
