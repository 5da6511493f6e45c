//! Every mutant of the storage is one: it keeps, reads or acknowledges what the storage does not.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, Membership};
use ovncp_state::command::{FormCluster, JoinNode, NodeInfo};
use ovncp_state::mutants::{Mutant, choose, is};
use ovncp_state::{ClusterId, Command, Incarnation, LogIndex, Millis, NodeId, Reply};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{Entry, decode_entry, encode_entry, encode_request};
use ovncp_storage::disk::{Disk, Fault, File, RealDisk, SimDisk, SimOp};
use ovncp_storage::sink::{AppliedEntry, ApplySink};
use ovncp_storage::types::Peer;
use ovncp_storage::{DataDir, StoreOptions};
use support::{DATA, Model, append, entry, log_id, open_log, run, segments, tiny, vote};

const EIO: i32 = 5;

/// What the storage does, and what it does as this mutant. A mutant belongs to its whole process: one test at a
/// time.
fn both<T: Debug + PartialEq>(mutant: Mutant, scenario: impl Fn() -> T) -> (T, T) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let right = scenario();
    choose(Some(mutant));
    assert!(is(mutant));
    let wrong = scenario();
    choose(None);
    assert_eq!(right, scenario(), "the choice can be taken back");
    (right, wrong)
}

/// A disk with a log of some acknowledged entries.
fn written(entries: u64) -> SimDisk {
    let disk = SimDisk::new();
    run(async {
        let mut log = open_log(&disk, DATA, StoreOptions::simulation()).unwrap();
        for index in 1..=entries {
            append(&mut log, vec![entry(1, index, 600, 0)]).await.unwrap();
        }
    });
    disk.kill()
}

/// Entries that a restart finds, or why there is none.
fn found(disk: &SimDisk) -> Result<BTreeMap<u64, Entry>, String> {
    run(async {
        let options = StoreOptions { cache_bytes: 0, ..StoreOptions::simulation() };
        let mut log = open_log(disk, DATA, options).map_err(|error| error.to_string())?;
        Ok(Model::of(&mut log).await.map_err(|error| error.to_string())?.entries)
    })
}

#[test]
fn no_fsync_loses_what_was_acknowledged() {
    const ENTRIES: usize = 8;
    let lost_by_any_crash = || {
        let disk = written(ENTRIES as u64);
        (0..16).any(|seed| found(&disk.fork().crash(seed)).is_ok_and(|found| found.len() < ENTRIES))
    };
    assert_eq!(both(Mutant::NoFsync, lost_by_any_crash), (false, true));
}

#[test]
fn vote_not_persisted_is_forgotten_by_a_restart() {
    let (right, wrong) = both(Mutant::VoteNotPersisted, || {
        let disk = SimDisk::new();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            log.save_vote(&vote(7, 2)).await.unwrap();
            assert_eq!(Model::of(&mut log).await.unwrap().vote, Some(vote(7, 2)), "until then it is kept");
        });
        let disk = disk.kill();
        run(async { Model::of(&mut open_log(&disk, DATA, tiny()).unwrap()).await.unwrap().vote })
    });
    assert_eq!((right, wrong), (Some(vote(7, 2)), None));
}

/// A disk whose log has one flipped bit within the fourth of eight acknowledged entries.
fn damaged() -> SimDisk {
    let disk = written(8);
    let file = segments(&disk).into_iter().next().unwrap();
    disk.tamper(&file, |bytes| {
        let needle = [4_u8 | 1; 64];
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        bytes[at + 30] ^= 0x10;
    });
    disk
}

#[test]
fn crc_ignored_reads_what_was_never_written() {
    let (right, wrong) = both(Mutant::CrcIgnored, || found(&damaged()).map_err(drop));
    assert!(right.is_err());
    let wrong = wrong.unwrap();
    assert_eq!(wrong.len(), 8);
    let changed: Vec<_> = wrong.iter().filter(|(at, found)| **found != entry(1, **at, 600, 0)).collect();
    assert!(!changed.is_empty());
}

#[test]
fn damage_truncated_forgets_the_rest_of_the_log() {
    let (right, wrong) = both(Mutant::DamageTruncated, || {
        found(&damaged()).map(|found| found.into_keys().collect::<Vec<_>>()).map_err(drop)
    });
    assert_eq!((right, wrong), (Err(()), Ok(vec![1, 2, 3])));
}

#[test]
fn a_damage_that_was_truncated_lets_the_log_go_on() {
    let (_, wrong) = both(Mutant::DamageTruncated, || {
        let disk = damaged();
        run(async {
            let Ok(mut log) = open_log(&disk, DATA, StoreOptions::simulation()) else { return None };
            append(&mut log, vec![entry(2, 4, 600, 9)]).await.unwrap();
            Some(Model::of(&mut log).await.unwrap().entries.len())
        })
    });
    assert_eq!(wrong, Some(4));
}

#[test]
fn fsync_eio_ignored_acknowledges() {
    let acknowledged = || {
        let disk = SimDisk::new();
        run(async {
            let mut log = open_log(&disk, DATA, tiny()).unwrap();
            append(&mut log, vec![entry(1, 1, 100, 0)]).await.unwrap();
            let path = ".wal".to_owned();
            disk.inject(Fault { op: SimOp::Sync, path, after: 0, errno: EIO, sticky: true });
            append(&mut log, vec![entry(1, 2, 100, 0)]).await.is_ok()
        })
    };
    assert_eq!(both(Mutant::FsyncErrorIgnored, acknowledged), (false, true));
}

#[test]
fn enospc_acknowledged_writes_to_a_full_disk() {
    // Every write to this device finds no space.
    let write = || RealDisk.open(Path::new("/dev/full")).unwrap().write_at(b"entry", 0).is_ok();
    assert_eq!(both(Mutant::FullDiskAcknowledged, write), (false, true));
}

#[derive(Debug, Default)]
struct Answers(Mutex<Vec<(LogIndex, Reply)>>);

impl ApplySink for Answers {
    fn applied(&self, batch: Vec<AppliedEntry>) {
        self.0.lock().unwrap().extend(batch.into_iter().map(|entry| (entry.index, entry.applied.reply)));
    }

    fn installed(&self, _index: LogIndex) {}
}

#[test]
fn ack_before_commit_answers_what_is_only_appended() {
    let (right, wrong) = both(Mutant::AckBeforeCommit, || {
        let answers = Arc::new(Answers::default());
        run(async {
            let dir = DataDir::open(SimDisk::new(), Path::new(DATA)).unwrap();
            let mut store = ovncp_storage::open(dir, StoreOptions::simulation(), answers.clone()).unwrap();
            let info = NodeInfo::default();
            let node = JoinNode { name: "a".to_owned(), incarnation: Incarnation([1; 16]), info };
            let form = FormCluster {
                cluster_id: ClusterId([1; 16]),
                formed_at_unix_ms: 0,
                voters_target: 1,
                nodes: vec![node],
            };
            let envelope = encode_request(&Command::FormCluster(form).into());
            let first = normal_entry(1, 1, Millis(0), NodeId(1), 1, envelope);
            let second = normal_entry(1, 2, Millis(0), NodeId(1), 2, encode_request(&Command::Tick.into()));
            append(&mut store.log, vec![first, second]).await.unwrap();
            assert!(!store.replica.read(ovncp_state::State::is_formed), "nothing is committed");
        });
        std::mem::take(&mut *answers.0.lock().unwrap())
    });
    assert_eq!(right, []);
    assert!(matches!(wrong.as_slice(), [(LogIndex(1), _), (LogIndex(2), Reply::Done)]), "{wrong:?}");
}

#[test]
fn single_step_membership_leaves_out_the_joint_step() {
    let (right, wrong) = both(Mutant::SingleStepMembership, || {
        let sets = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2, 4])];
        let nodes: BTreeMap<u64, Peer> = (1..=4).map(|id| (id, Peer::default())).collect();
        let joint = Membership::new(sets, nodes).unwrap();
        let entry = Entry { log_id: log_id(1, 5), payload: EntryPayload::Membership(joint) };
        match decode_entry(&encode_entry(&entry)).unwrap().payload {
            EntryPayload::Membership(membership) => membership.get_joint_config().clone(),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(right.len(), 2);
    assert_eq!(wrong, [BTreeSet::from([1, 2, 4])]);
}
