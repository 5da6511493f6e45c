//! Snapshots: written whole or not at all, checked before they are taken, and always fitting the log.
// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::stream;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Membership};
use ovncp_state::command::{KvOperation, WriteKv};
use ovncp_state::{ClusterId, Command, LogIndex, Millis, NodeId, Request, State, StateHash};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{Entry, WireLogId, encode_request};
use ovncp_storage::disk::{Disk, Fault, RealDisk, SimDisk, SimOp};
use ovncp_storage::sink::{AppliedEntry, ApplySink};
use ovncp_storage::types::Peer;
use ovncp_storage::{DataDir, FailureKind, Machine, StorageError, Store, StoreOptions, open};
use support::{DATA, append, log_id, open_store, run, tiny};

const TERM: u64 = 2;

/// Forms a cluster and writes registers, enough for several blocks.
fn commands(count: u64, bytes: usize) -> Vec<Entry> {
    let form = ovncp_state::command::FormCluster {
        cluster_id: ClusterId([1; 16]),
        formed_at_unix_ms: 0,
        voters_target: 1,
        nodes: vec![ovncp_state::command::JoinNode {
            name: "n1".into(),
            incarnation: ovncp_state::Incarnation([1; 16]),
            info: ovncp_state::command::NodeInfo::default(),
        }],
    };
    let mut entries = vec![membership(1), command(2, Command::FormCluster(form))];
    for index in 3..3 + count {
        let put = KvOperation::Put {
            key: format!("key/{index}").into_bytes(),
            value: vec![index as u8; bytes],
            content_type: None,
            ttl: None,
        };
        entries.push(command(
            index,
            Command::WriteKv(WriteKv { conditions: Vec::new(), operations: vec![put] }),
        ));
    }
    entries
}

fn command(index: u64, command: Command) -> Entry {
    let envelope = encode_request(&Request::from(command));
    normal_entry(TERM, index, Millis(index * 10), NodeId(1), index, envelope)
}

fn membership(index: u64) -> Entry {
    let peer = Peer { name: "n1".into(), addr: "n1:7400".into() };
    let membership =
        Membership::new(vec![[1].into()], std::collections::BTreeMap::from([(1, peer)])).unwrap();
    Entry { log_id: WireLogId { term: TERM, index }.into(), payload: EntryPayload::Membership(membership) }
}

async fn apply<D: Disk>(machine: &mut Machine<D>, entries: Vec<Entry>) -> std::io::Result<()> {
    machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

async fn build<D: Disk>(machine: &mut Machine<D>) -> std::io::Result<()> {
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.map(drop)
}

fn hash<D: Disk>(store: &Store<D>) -> StateHash {
    store.replica.read(State::hash)
}

fn snapshot_files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.starts_with("/data/snapshot")).collect()
}

/// A store with a snapshot of some size.
fn with_snapshot() -> (SimDisk, StateHash) {
    let disk = SimDisk::new();
    let hash = run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        apply(&mut store.machine, commands(140, 1_000)).await.unwrap();
        build(&mut store.machine).await.unwrap();
        hash(&store)
    });
    (disk.kill(), hash)
}

#[test]
fn a_snapshot_is_there_after_a_restart() {
    let (disk, before) = with_snapshot();
    let disk = disk.crash(0);
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        assert_eq!(hash(&store), before);
        assert_eq!(store.replica.applied(), LogIndex(142));
        let (last_applied, membership) = store.machine.applied_state().await.unwrap();
        assert_eq!(last_applied, Some(log_id(TERM, 142)));
        assert_eq!(membership.log_id(), &Some(log_id(TERM, 1)));
        assert_eq!(membership.nodes().count(), 1);
        // The state goes on from there.
        apply(&mut store.machine, vec![command(143, Command::Tick)]).await.unwrap();
        assert_ne!(hash(&store), before);
    });
}

#[test]
fn a_snapshot_travels_in_pieces_and_is_installed_on_another_node() {
    for mode in [tiny(), StoreOptions::default()] {
        let (disk, there) = with_snapshot();
        run(async {
            let source = open_store(&disk, DATA, tiny()).unwrap();
            let mut target = open_store(&disk, "/other", mode.clone()).unwrap();
            apply(&mut target.machine, commands(3, 10)).await.unwrap();
            build(&mut target.machine).await.unwrap();
            let (meta, file) = source.snapshots.current().unwrap();
            let mut sink = target.snapshots.receive().unwrap();
            let mut piece = vec![0; 10_007];
            while sink.len() < file.len() {
                let count = file.read_at(&mut piece, sink.len()).unwrap();
                sink.append(&piece[..count]).unwrap();
            }
            let received = sink.finish().unwrap();
            target.machine.install_snapshot(&meta, received).await.unwrap();
            assert_eq!(hash(&target), there);
            assert_eq!(target.replica.applied(), LogIndex(142));
            let current = target.machine.get_current_snapshot().await.unwrap().unwrap();
            assert_eq!(current.meta, meta);
            // The older one is gone, nothing temporary is left.
            let left: Vec<_> =
                disk.files().into_iter().filter(|path| path.starts_with("/other/snapshot")).collect();
            assert_eq!(left.len(), 1, "{left:?}");
        });
        let disk = disk.crash(0);
        run(async { assert_eq!(hash(&open_store(&disk, "/other", mode).unwrap()), there) });
    }
}

#[test]
fn a_newer_snapshot_replaces_the_older_one_and_a_reader_of_that_goes_on() {
    let (disk, _) = with_snapshot();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        let (_, old) = store.snapshots.current().unwrap();
        apply(&mut store.machine, vec![command(143, Command::Tick)]).await.unwrap();
        build(&mut store.machine).await.unwrap();
        assert_eq!(snapshot_files(&disk).len(), 1);
        let mut bytes = vec![0; old.len() as usize];
        assert_eq!(old.read_at(&mut bytes, 0).unwrap(), bytes.len());
    });
}

#[test]
fn apply_goes_on_while_a_snapshot_is_written() {
    let disk = SimDisk::new();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        apply(&mut store.machine, commands(140, 1_000)).await.unwrap();
        let at_snapshot = hash(&store);
        let mut builder = store.machine.try_create_snapshot_builder(true).await.unwrap();
        let building = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
        apply(&mut store.machine, vec![command(143, Command::Tick)]).await.unwrap();
        let snapshot = building.await.unwrap();
        assert_eq!(snapshot.meta.last_log_id, Some(log_id(TERM, 142)));
        assert_eq!(store.replica.applied(), LogIndex(143));
        drop(store);
        let disk = disk.kill();
        assert_eq!(hash(&open_store(&disk, DATA, tiny()).unwrap()), at_snapshot);
    });
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused_by_name() {
    let (disk, _) = with_snapshot();
    let file = snapshot_files(&disk)[0].clone();
    let len = disk.content(&file).unwrap().len();
    let mut places: Vec<usize> = (0..120).chain(len - 40..len).collect();
    places.extend((120..len - 40).step_by(len / 61));
    for at in places {
        let disk = disk.fork();
        disk.tamper(&file, |bytes| bytes[at] ^= 1 << (at % 8));
        refused(&disk, &file);
    }
    for at in (0..len).step_by(len / 23) {
        let disk = disk.fork();
        disk.tamper(&file, |bytes| bytes.truncate(at));
        refused(&disk, &file);
    }
    disk.tamper(&file, |bytes| bytes.push(0));
    refused(&disk, &file);
}

fn refused(disk: &SimDisk, file: &Path) {
    match run(async { open_store(disk, DATA, tiny()).map(drop) }) {
        Err(StorageError::Corrupt { file: named, .. } | StorageError::Codec { file: named, .. }) => {
            assert_eq!(named, file);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_snapshot_is_not_installed_and_the_old_state_stays() {
    let (disk, _) = with_snapshot();
    run(async {
        let source = open_store(&disk, DATA, tiny()).unwrap();
        let (meta, file) = source.snapshots.current().unwrap();
        for damage in [Some(5_000), None] {
            let path = format!("/other-{damage:?}");
            let mut target = open_store(&disk, &path, tiny()).unwrap();
            apply(&mut target.machine, commands(3, 10)).await.unwrap();
            build(&mut target.machine).await.unwrap();
            let before = hash(&target);
            let mut bytes = vec![0; file.len() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            let mut meta = meta.clone();
            match damage {
                Some(at) => bytes[at] ^= 1,
                // Sound, but not the one that was announced.
                None => meta.last_log_id = Some(log_id(TERM, 999)),
            }
            let mut sink = target.snapshots.receive().unwrap();
            sink.append(&bytes).unwrap();
            target.machine.install_snapshot(&meta, sink.finish().unwrap()).await.unwrap_err();
            assert_eq!(hash(&target), before);
            assert!(target.replica.health().borrow().is_some());
            drop(target);
            let disk = disk.fork();
            assert_eq!(hash(&open_store(&disk, &path, tiny()).unwrap()), before);
        }
    });
}

#[test]
fn a_crash_at_any_step_of_writing_a_snapshot_leaves_the_old_or_the_new_one() {
    let (disk, old) = with_snapshot();
    let write = |disk: &SimDisk, power_off_in: Option<u64>| {
        run(async {
            let mut store = open_store(disk, DATA, tiny()).unwrap();
            apply(&mut store.machine, vec![command(143, Command::Tick)]).await.unwrap();
            let start = disk.counters().steps;
            if let Some(step) = power_off_in {
                disk.power_off_at(start + step);
            }
            let built = build(&mut store.machine).await.is_ok();
            (built, hash(&store), disk.counters().steps - start)
        })
    };
    let (_, new, steps) = write(&disk.fork(), None);
    for (step, seed) in (1..=steps).flat_map(|step| (0..4).map(move |seed| (step, seed))) {
        let disk = disk.fork();
        let (built, _, _) = write(&disk, Some(step));
        let disk = disk.crash(seed);
        run(async {
            let store =
                open_store(&disk, DATA, tiny()).unwrap_or_else(|error| panic!("step {step}: {error}"));
            let found = hash(&store);
            assert!(found == new || (found == old && !built), "step {step}, seed {seed}");
            assert_eq!(snapshot_files(&disk).len(), 1);
        });
    }
}

#[test]
fn a_full_disk_while_a_snapshot_is_written_is_reported() {
    let (disk, _) = with_snapshot();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        disk.inject(Fault { op: SimOp::Write, path: "/snapshot/".into(), after: 2, errno: 28, sticky: true });
        build(&mut store.machine).await.unwrap_err();
        let health = store.replica.health().borrow().clone().unwrap();
        assert_eq!(health.kind, FailureKind::DiskFull);
        // The unfinished file gave its space back.
        assert_eq!(snapshot_files(&disk).len(), 1);
    });
}

#[test]
fn a_log_that_begins_after_the_snapshot_is_refused() {
    let disk = SimDisk::new();
    run(async {
        let mut store = open_store(&disk, DATA, tiny()).unwrap();
        append(&mut store.log, commands(3, 10)).await.unwrap();
        store.log.purge(log_id(TERM, 4)).await.unwrap();
        store.log.save_vote(&support::vote(3, 1)).await.unwrap();
    });
    let error = run(async { open_store(&disk.kill(), DATA, tiny()).map(drop) }).unwrap_err();
    assert!(error.to_string().contains("/data/snapshot"), "{error}");
}

#[test]
fn an_entry_that_does_not_decode_stops_the_node_and_says_what_to_do() {
    // Another kind of envelope, a command that is not known, and one that has more fields.
    let newer: [&[u8]; 3] = [&[1, 99], &[1, 1, 0, 0x7f], &[1, 1, 0, 0, 0]];
    for envelope in newer {
        let disk = SimDisk::new();
        run(async {
            let mut store = open_store(&disk, DATA, tiny()).unwrap();
            apply(&mut store.machine, commands(1, 10)).await.unwrap();
            let before = hash(&store);
            let unknown = normal_entry(TERM, 4, Millis(0), NodeId(1), 1, bytes::Bytes::from_static(envelope));
            let error =
                apply(&mut store.machine, vec![unknown, command(5, Command::Tick)]).await.unwrap_err();
            assert_eq!((hash(&store), store.replica.applied()), (before, LogIndex(3)));
            let failure = store.replica.health().borrow().clone().unwrap();
            assert_eq!(failure.kind, FailureKind::Newer);
            for text in [error.to_string(), failure.to_string()] {
                names_a_newer_version(&text);
                assert!(text.contains("log entry"), "{text}");
            }
        });
    }
}

fn names_a_newer_version(text: &str) {
    for part in
        ["written by a newer version of ovncp", "start this node with the version that the other nodes run"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_whole_snapshot_with_a_record_that_is_not_known_is_of_a_newer_version() {
    let (disk, _) = with_snapshot();
    let file = snapshot_files(&disk)[0].clone();
    disk.tamper(&file, |bytes| {
        // Behind the magic, the header's block and the head of the next one stand its kind and the first record.
        let header = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let block = 8 + 8 + header;
        let len = u32::from_le_bytes(bytes[block..block + 4].try_into().unwrap()) as usize;
        bytes[block + 9] = 0x7f;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&1_u64.to_le_bytes());
        crc.update(&bytes[block + 8..block + 8 + len]);
        bytes[block + 4..block + 8].copy_from_slice(&crc.finalize().to_le_bytes());
    });
    let error = run(async { open_store(&disk, DATA, tiny()).map(drop) }).unwrap_err();
    assert!(matches!(&error, StorageError::Codec { file: named, .. } if *named == file), "{error}");
    names_a_newer_version(&error.to_string());
}

#[derive(Default)]
struct Recorder {
    seen: Mutex<Vec<(u64, u64)>>,
    installed: Mutex<Vec<LogIndex>>,
}

impl ApplySink for Recorder {
    fn applied(&self, batch: Vec<AppliedEntry>) {
        self.seen.lock().unwrap().extend(batch.iter().map(|entry| (entry.index.0, entry.origin.ticket)));
    }

    fn installed(&self, index: LogIndex) {
        self.installed.lock().unwrap().push(index);
    }
}

#[test]
fn the_sink_sees_every_proposal_once_in_order_and_snapshots_too() {
    let recorder = Arc::new(Recorder::default());
    let disk = SimDisk::new();
    run(async {
        let dir = DataDir::open(disk.clone(), DATA).unwrap();
        let mut store = open(dir, tiny(), recorder.clone()).unwrap();
        let mut applied = store.replica.applied_watch();
        apply(&mut store.machine, commands(150, 10)).await.unwrap();
        assert_eq!(*applied.borrow_and_update(), LogIndex(152));
        build(&mut store.machine).await.unwrap();
        let (meta, file) = store.snapshots.current().unwrap();
        store.machine.install_snapshot(&meta, file).await.unwrap();
    });
    // The membership entry at 1 is nobody's proposal.
    let expected: Vec<_> = (2..=152).map(|index| (index, index)).collect();
    assert_eq!(*recorder.seen.lock().unwrap(), expected);
    assert_eq!(*recorder.installed.lock().unwrap(), vec![LogIndex(152)]);
}

#[test]
fn snapshots_work_on_the_machines_disk() {
    let root = tempfile::TempDir::new().unwrap();
    let path = root.path().join("data");
    run(async {
        let mut store = open_store(&RealDisk, &path, StoreOptions::default()).unwrap();
        apply(&mut store.machine, commands(140, 1_000)).await.unwrap();
        build(&mut store.machine).await.unwrap();
        let before = hash(&store);
        drop(store);
        assert_eq!(hash(&open_store(&RealDisk, &path, StoreOptions::default()).unwrap()), before);
    });
}

#[test]
fn hashes_are_remembered_at_the_same_indexes_however_entries_arrive_and_are_bounded() {
    use ovncp_storage::machine::{CHECKPOINT_ENTRIES, CHECKPOINTS_MAX};

    let entries = commands(CHECKPOINT_ENTRIES * 3, 1);
    let remembered = |portion: usize| {
        run(async {
            let mut store = open_store(&SimDisk::new(), DATA, tiny()).unwrap();
            for some in entries.chunks(portion) {
                apply(&mut store.machine, some.to_vec()).await.unwrap();
            }
            store.replica.checkpoints()
        })
    };
    let whole = remembered(entries.len());
    let indexes: Vec<_> = whole.iter().map(|checkpoint| checkpoint.index.0).collect();
    // The last one is the present.
    let multiple = |times| CHECKPOINT_ENTRIES * times;
    assert_eq!(indexes, [multiple(1), multiple(2), multiple(3), multiple(3) + 2]);
    assert_eq!(remembered(7), whole);
    assert_eq!(remembered(1), whole);
    let ticks: Vec<Entry> =
        (1..=CHECKPOINTS_MAX as u64 + 9).map(|n| command(multiple(n), Command::Tick)).collect();
    run(async {
        let mut store = open_store(&SimDisk::new(), DATA, tiny()).unwrap();
        store.machine.allow_gaps();
        for tick in ticks {
            apply(&mut store.machine, vec![tick]).await.unwrap();
        }
        let kept = store.replica.checkpoints();
        assert_eq!(kept.len(), CHECKPOINTS_MAX);
        assert_eq!(kept[0].index, LogIndex(multiple(10)));
    });
}

#[test]
fn an_entry_left_out_or_applied_twice_stops_the_node() {
    for next in [143, 141, 144] {
        let (disk, before) = with_snapshot();
        run(async {
            let mut store = open_store(&disk, DATA, tiny()).unwrap();
            let applied = apply(&mut store.machine, vec![command(next, Command::Tick)]).await;
            assert_eq!(applied.is_ok(), next == 143);
            let health = store.replica.health().borrow().clone();
            assert_eq!(health.map(|failure| failure.kind), (next != 143).then_some(FailureKind::Damaged));
            assert_eq!(hash(&store) == before, next != 143, "nothing of it was applied");
        });
    }
}

#[test]
fn a_panic_while_applying_stops_the_node() {
    struct Panics;
    impl ApplySink for Panics {
        fn applied(&self, _entries: Vec<AppliedEntry>) {
            panic!("as a defect would");
        }
        fn installed(&self, _last: LogIndex) {}
    }
    run(async {
        let dir = DataDir::open(SimDisk::new(), DATA).unwrap();
        let mut store = open(dir, tiny(), Arc::new(Panics)).unwrap();
        let replica = store.replica.clone();
        let panicked = tokio::spawn(async move { apply(&mut store.machine, commands(3, 10)).await }).await;
        assert!(panicked.is_err_and(|error| error.is_panic()));
        let failure = replica.health().borrow().clone().unwrap();
        assert!(failure.message.contains("panicked"), "{failure}");
    });
}
