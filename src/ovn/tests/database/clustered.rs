//! A cluster of three, and what happens to its members.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::changes::Step;
use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::lab::{Lab, Members};
use tokio::task::JoinHandle;

use crate::proxy::Proxy;
use crate::support::{
    PATIENCE, assert_like_fresh, catch_up, commit, endpoints, has_switch, insert, next_changes, northbound,
    settings, switches, synced, until,
};

/// What became of the writes of one load.
#[derive(Default)]
struct Fates {
    committed: Vec<Uuid>,
    /// Certainly not committed.
    failed: Vec<Uuid>,
    unknown: Vec<Uuid>,
}

/// Writers that go on until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    fates: Arc<Mutex<Fates>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(database: &Database, writers: usize) -> Self {
        let (stop, fates) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Fates::default())));
        let writers = (0..writers)
            .map(|_| tokio::spawn(write(database.clone(), Arc::clone(&stop), Arc::clone(&fates))));
        let writers = writers.collect();
        Self { stop, fates, writers }
    }

    fn committed(&self) -> usize {
        self.fates.lock().unwrap().committed.len()
    }

    /// Waits until so many more writes were committed.
    async fn more(&self, count: usize) {
        let aim = self.committed() + count;
        until("writes are committed", || self.committed() >= aim).await;
    }

    /// Ends the writers and checks what they were told against what a fresh session reads.
    async fn check(self, database: &Database, settings: DatabaseSettings) {
        self.stop.store(true, Ordering::SeqCst);
        for writer in self.writers {
            writer.await.unwrap();
        }
        let fresh = assert_like_fresh(database, settings).await;
        let fates = self.fates.lock().unwrap();
        for uuid in &fates.committed {
            assert!(has_switch(&fresh, *uuid), "{uuid} was acknowledged and is lost");
        }
        for uuid in &fates.failed {
            assert!(!has_switch(&fresh, *uuid), "{uuid} was refused and is there");
        }
        let known = fates.committed.len()..=fates.committed.len() + fates.unknown.len();
        let found = switches(&fresh).unwrap();
        assert!(known.contains(&found), "{found} rows, {known:?} can be explained");
    }
}

async fn write(database: Database, stop: Arc<AtomicBool>, fates: Arc<Mutex<Fates>>) {
    while !stop.load(Ordering::SeqCst) {
        let uuid = Uuid::new_v4();
        let result = database.transact(vec![insert(uuid, "s")]).await;
        match result {
            Ok(_) => {
                assert!(has_switch(&database, uuid), "what was acknowledged is in the replica at once");
                fates.lock().unwrap().committed.push(uuid);
            }
            Err(TransactError::OutcomeUnknown { .. }) => fates.lock().unwrap().unknown.push(uuid),
            Err(_) => {
                fates.lock().unwrap().failed.push(uuid);
                // It is refused at once; the others shall have their turn.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// The member that serves the session, and how many sessions were lost before it.
async fn server(lab: &Lab, database: &Database) -> (usize, u64) {
    database.wait_synced(PATIENCE).await.unwrap();
    // In this order: a session that is lost meanwhile is counted.
    let lost = database.metrics().sessions_lost.get();
    let endpoint = database.status().endpoint.unwrap();
    (endpoints(lab).iter().position(|candidate| *candidate == endpoint).unwrap(), lost)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_leader_is_killed() {
    let Some((mut lab, _directory)) = northbound(Members::Clustered).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
    assert!(database.status().clustered);
    let load = Load::start(&database, 4);
    for _ in 0..2 {
        load.more(40).await;
        let (member, _) = server(&lab, &database).await;
        lab.northbound_mut()[member].kill();
        load.more(40).await;
        lab.northbound_mut()[member].start().await.unwrap();
        lab.northbound_mut()[member].wait_joined().await.unwrap();
    }
    load.check(&database, settings(endpoints(&lab))).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_leadership_moves() {
    let Some((lab, _directory)) = northbound(Members::Clustered).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
    let load = Load::start(&database, 4);
    for _ in 0..4 {
        load.more(30).await;
        let (member, lost) = server(&lab, &database).await;
        lab.northbound()[member].transfer_leadership().await.unwrap();
        until("another member is followed", || database.metrics().sessions_lost.get() > lost).await;
    }
    load.more(30).await;
    load.check(&database, settings(endpoints(&lab))).await;
}

#[tokio::test]
async fn a_compaction_under_load_goes_unnoticed() {
    let Some((lab, _directory)) = northbound(Members::Clustered).await else { return };
    let database = synced(settings(endpoints(&lab))).await;
    let load = Load::start(&database, 2);
    for _ in 0..3 {
        load.more(60).await;
        // A leader may resign for it, so the next round meets another one.
        for member in lab.northbound() {
            member.compact().await.unwrap();
        }
    }
    load.more(60).await;
    load.check(&database, settings(endpoints(&lab))).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let Some((mut lab, _directory)) = northbound(Members::Clustered).await else { return };
    let mut short = settings(endpoints(&lab));
    (short.probe_interval, short.connect_timeout) = (Duration::from_secs(2), Duration::from_secs(4));
    let database = synced(short).await;
    let load = Load::start(&database, 2);
    load.more(30).await;
    let (member, lost) = server(&lab, &database).await;
    lab.northbound_mut()[member].pause().await.unwrap();
    until("the silent member is left", || database.metrics().sessions_lost.get() > lost).await;
    load.more(30).await;
    lab.northbound_mut()[member].resume().unwrap();
    load.more(30).await;
    load.check(&database, settings(endpoints(&lab))).await;
}

#[tokio::test]
async fn a_follower_refuses_who_needs_the_leader_and_serves_who_does_not() {
    let Some((mut lab, _directory)) = northbound(Members::Clustered).await else { return };
    let follower = loop {
        let leader = lab.northbound_leader().await.unwrap();
        let follower = endpoints(&lab)[(leader + 1) % 3].clone();
        let strict = Database::open(settings(vec![follower.clone()]));
        let refused = || strict.status().problem.is_some_and(|problem| problem.contains("does not lead"));
        until("it is refused, or has become the leader", || refused() || strict.status().in_sync).await;
        if !strict.status().in_sync {
            break follower;
        }
    };
    let mut any = settings(vec![follower]);
    any.leader_only = false;
    let reader = synced(any).await;
    assert!(reader.status().clustered);
    let uuid = Uuid::new_v4();
    commit(&reader, uuid, "through-a-follower").await;
    catch_up(&reader).await;
    assert!(has_switch(&reader, uuid));
}

#[tokio::test]
async fn a_barrier_shows_what_was_committed_through_another_member() {
    let Some((mut lab, _directory)) = northbound(Members::Clustered).await else { return };
    let leader = lab.northbound_leader().await.unwrap();
    let mut through_follower = settings(vec![endpoints(&lab)[(leader + 1) % 3].clone()]);
    through_follower.leader_only = false;
    let (writer, reader) = (synced(through_follower).await, synced(settings(endpoints(&lab))).await);
    for number in 1..=150_u128 {
        let uuid = Uuid::from_u128(number);
        commit(&writer, uuid, "s").await;
        catch_up(&reader).await;
        assert!(has_switch(&reader, uuid), "committed before the barrier began: {number}");
    }
}

#[tokio::test]
async fn a_short_absence_costs_only_what_was_missed() {
    let Some((mut lab, directory)) = northbound(Members::Clustered).await else { return };
    let leader = lab.northbound_leader().await.unwrap();
    let direct = synced(settings(endpoints(&lab))).await;
    let proxy = Proxy::new(&endpoints(&lab)[leader], directory.path());
    let mut behind = settings(vec![proxy.endpoint()]);
    behind.leader_only = false;
    let database = synced(behind).await;
    let mut changes = database.subscribe(None);
    commit(&direct, Uuid::new_v4(), "before").await;
    assert_eq!(next_changes(&mut changes).await.len(), 1);

    proxy.cut();
    until("the session is lost", || !database.status().in_sync).await;
    let missed = Uuid::new_v4();
    commit(&direct, missed, "missed").await;
    proxy.mend();
    let told = next_changes(&mut changes).await;
    assert_eq!((told.len(), told[0].uuid), (1, missed), "subscribers miss nothing and start nothing over");
    database.wait_synced(PATIENCE).await.unwrap();
    assert_eq!(database.metrics().resyncs_full.get(), 1);
    assert!(database.metrics().resyncs_fast.get() > 0);

    // A cluster remembers a hundred transactions.
    proxy.cut();
    until("the session is lost", || !database.status().in_sync).await;
    for _ in 0..150 {
        commit(&direct, Uuid::new_v4(), "many").await;
    }
    let last = Uuid::new_v4();
    commit(&direct, last, "last").await;
    proxy.mend();
    let told = tokio::time::timeout(PATIENCE, changes.next()).await.unwrap();
    assert!(matches!(told, Some(Step::Reset { .. })), "{told:?}");
    assert!(has_switch(&database, last), "who starts over finds everything");
    database.wait_synced(PATIENCE).await.unwrap();
    assert_eq!(database.metrics().resyncs_full.get(), 2);
    assert_like_fresh(&database, settings(endpoints(&lab))).await;
}

#[tokio::test]
async fn positions_are_the_same_seen_from_every_client() {
    let Some((lab, _directory)) = northbound(Members::Clustered).await else { return };
    let (one, other) = (synced(settings(endpoints(&lab))).await, synced(settings(endpoints(&lab))).await);
    let (mut from_one, mut from_other) = (one.subscribe(None), other.subscribe(None));
    let mut positions = Vec::new();
    for number in 1..=3 {
        commit(&one, Uuid::from_u128(number), "s").await;
        catch_up(&one).await;
        catch_up(&other).await;
        for changes in [&mut from_one, &mut from_other] {
            match tokio::time::timeout(PATIENCE, changes.next()).await.unwrap() {
                Some(Step::Changes(sets)) => positions.extend(sets.iter().map(|set| set.position)),
                told => panic!("{told:?}"),
            }
        }
    }
    assert_eq!(positions.len(), 6);
    assert!(positions.chunks(2).all(|pair| pair[0] == pair[1]), "{positions:?}");
    let mut resumed = other.subscribe(Some(positions[0]));
    let rest: Vec<_> = next_changes(&mut resumed).await.iter().map(|change| change.uuid).collect();
    assert_eq!(rest, [Uuid::from_u128(2), Uuid::from_u128(3)], "a stream goes on at another client");
}

#[tokio::test]
async fn a_lost_answer_leaves_the_outcome_open_and_a_retry_tells() {
    let Some((mut lab, directory)) = northbound(Members::Clustered).await else { return };
    let leader = lab.northbound_leader().await.unwrap();
    let proxy = Proxy::new(&endpoints(&lab)[leader], directory.path());
    let mut any = settings(vec![proxy.endpoint()]);
    any.leader_only = false;
    let database = synced(any).await;
    let uuid = Uuid::new_v4();
    proxy.mute();
    let carried = proxy.carried();
    let waiting = tokio::spawn({
        let database = database.clone();
        async move { database.transact(vec![insert(uuid, "s")]).await }
    });
    until("the transaction is sent", || proxy.carried() > carried).await;
    let direct = synced(settings(endpoints(&lab))).await;
    let begun_at = std::time::Instant::now();
    while !has_switch(&direct, uuid) {
        assert!(begun_at.elapsed() < PATIENCE, "it is committed");
        let _ = direct.barrier().await;
    }
    proxy.cut();
    let lost = waiting.await.unwrap();
    assert!(matches!(lost, Err(TransactError::OutcomeUnknown { .. })), "{lost:?}");
    proxy.mend();
    database.wait_synced(PATIENCE).await.unwrap();
    let begun_at = std::time::Instant::now();
    loop {
        match database.transact(vec![insert(uuid, "s")]).await {
            Err(TransactError::Rejected(rejection)) => {
                break assert_eq!(rejection.kind, RejectionKind::DuplicateUuid);
            }
            Ok(_) => panic!("the first try was committed"),
            Err(error) => assert!(begun_at.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
