//! Locks through the group: waiters on any node, renewals in bundles, expiry in time, one clock.

use std::time::{Duration, Instant};

use ovncp_raft::Group;
use ovncp_state::command::{AcquireLock, LockMode, ReleaseLock, RenewLock};
use ovncp_state::event::ReleaseCause;
use ovncp_state::reply::Grant;
use ovncp_state::{
    Command, EventKind, EventOffset, Millis, NodeId, Reply, Request, SecretHash, State, WaiterId,
};
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, TIMEOUT};

fn acquire(key: &str, number: u8, ttl: u64, wait: u64, node: NodeId) -> Request {
    Request::from(Command::AcquireLock(AcquireLock {
        keys: vec![key.to_owned()],
        mode: LockMode::Exclusive,
        owner: format!("owner-{number}"),
        secret: SecretHash([number; 32]),
        salt: None,
        ttl: Millis(ttl),
        wait: Millis(wait),
        hold_max: None,
        metadata: None,
        waiter: WaiterId([number; 16]),
        node,
    }))
}

async fn granted(group: &Group, key: &str, number: u8, ttl: u64) -> Grant {
    let node = group.identity().node_id.unwrap();
    match group.propose(acquire(key, number, ttl, 0, node), TIMEOUT).await.unwrap().reply {
        Reply::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_on_any_node_is_woken_by_a_release_on_another() {
    let mut cluster = Cluster::formed(3).await;
    let holder = cluster.node("n1").group().clone();
    let first = granted(&holder, "k", 1, 30_000).await;
    for (number, name) in [(2, "n2"), (3, "n3")] {
        let group = cluster.node(name).group().clone();
        let mut handle = group.await_waiter(WaiterId([number; 16]));
        let node = group.identity().node_id.unwrap();
        let reply = group.propose(acquire("k", number, 30_000, 30_000, node), TIMEOUT).await.unwrap().reply;
        assert!(matches!(reply, Reply::Waiting { .. }), "{reply:?}");
        let release = ReleaseLock { key: "k".to_owned(), secret: SecretHash([number - 1; 32]) };
        holder.propose(Request::from(Command::ReleaseLock(release)), TIMEOUT).await.unwrap();
        let grant = timeout(TIMEOUT, handle.outcome()).await.unwrap().unwrap();
        assert!(grant.token > first.token);
        assert_eq!(grant.owner, format!("owner-{number}"));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_never_ends_early_and_its_waiter_is_woken_soon_after() {
    const TTL: u64 = 500;
    let mut cluster = Cluster::formed(3).await;
    let group = cluster.node(&cluster.follower().await).group().clone();
    let node = group.identity().node_id.unwrap();
    for round in 0..5_u8 {
        let (holder, waiter) = (10 + 2 * round, 11 + 2 * round);
        let before = Instant::now();
        granted(&group, "k", holder, TTL).await;
        let mut handle = group.await_waiter(WaiterId([waiter; 16]));
        group.propose(acquire("k", waiter, 30_000, 30_000, node), TIMEOUT).await.unwrap();
        timeout(TIMEOUT, handle.outcome()).await.unwrap().unwrap();
        assert!(before.elapsed() >= Duration::from_millis(TTL), "early on the wall");
        let release = ReleaseLock { key: "k".to_owned(), secret: SecretHash([waiter; 32]) };
        group.propose(Request::from(Command::ReleaseLock(release)), TIMEOUT).await.unwrap();
    }
    // On the cluster clock, where a busy machine does not count.
    let events = group.read(|state| state.events(EventOffset(0), 1_000)).1.unwrap();
    let mut acquired = std::collections::BTreeMap::new();
    let mut ended = 0;
    for event in events {
        match event.kind {
            EventKind::LockAcquired { token, .. } => {
                acquired.insert(token, event.at);
            }
            EventKind::LockReleased { token, cause: ReleaseCause::Expired, .. } => {
                let held = event.at.0 - acquired[&token].0;
                println!("expired {} ms late", held as i64 - TTL as i64);
                assert!(held >= TTL, "early on the cluster clock: {held}");
                // The promise is 100 ms; a machine that runs builds beside this test gets more.
                assert!(held <= TTL + 10_000, "late on the cluster clock: {held}");
                ended += 1;
            }
            _ => {}
        }
    }
    assert_eq!(ended, 5);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_renewals_from_all_nodes_share_few_entries_and_keep_the_locks() {
    let mut cluster = Cluster::formed(3).await;
    let groups: Vec<Group> = cluster.running().map(|node| node.group().clone()).collect();
    for number in 1..=90_u8 {
        granted(&groups[0], &format!("k-{number}"), number, 60_000).await;
    }
    let before = groups[0].read_barrier(TIMEOUT).await.unwrap();
    let renewals: Vec<_> = (1..=90_u8)
        .map(|number| {
            let group = groups[usize::from(number) % groups.len()].clone();
            tokio::spawn(async move {
                let secret = SecretHash([number; 32]);
                let renewal = RenewLock { key: format!("k-{number}"), secret, ttl: Some(Millis(120_000)) };
                group.renew(renewal, TIMEOUT).await.unwrap().unwrap()
            })
        })
        .collect();
    for renewal in renewals {
        assert_eq!(renewal.await.unwrap().ttl, Millis(120_000));
    }
    let after = groups[0].read_barrier(TIMEOUT).await.unwrap();
    let entries = after.0 - before.0;
    assert!(entries <= 45, "90 renewals took {entries} entries");
    let strange = RenewLock { key: "k-1".to_owned(), secret: SecretHash([99; 32]), ttl: None };
    assert!(groups[1].renew(strange, TIMEOUT).await.unwrap().is_err(), "a wrong secret renews nothing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_stands_still_without_a_leader_and_goes_on_with_the_next() {
    const TTL: u64 = 5_000;
    const OUTAGE: Duration = Duration::from_millis(5_500);
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let others: Vec<String> = cluster.nodes.keys().filter(|name| **name != leader).cloned().collect();
    let survivor = cluster.node(&leader).group().clone();
    let began = Instant::now();
    granted(&survivor, "k", 1, TTL).await;
    for name in &others {
        cluster.node_mut(name).kill();
    }
    survivor_has_no_majority(&survivor).await;
    let before = survivor.read(State::now).1;
    // Longer than the lease: what is shown is that time does not pass.
    sleep(OUTAGE).await;
    assert_eq!(survivor.read(State::now).1, before, "time passes without a majority");
    for name in &others {
        cluster.node_mut(name).start().await;
    }
    let freed = |state: &State| state.lock("k", 0).is_none();
    cluster.node(&leader).until_state("the lease ends on the cluster clock", freed).await;
    // The time without a majority did not count, but for the grace of the leader's clock.
    let (passed, grace) = (began.elapsed(), Duration::from_millis(500));
    assert!(passed + grace >= OUTAGE + Duration::from_millis(TTL), "the lease ended after {passed:?}");
    cluster.stop().await;
}

async fn survivor_has_no_majority(group: &Group) {
    let probe = || group.read_barrier(Duration::from_millis(300));
    while probe().await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_stepped_by_an_hour_either_way_moves_no_lease() {
    const HOUR_MS: u64 = 3_600_000;
    const DATE_MS: u64 = 1_700_000_000_000;
    let mut cluster = Cluster::new(3).await;
    for node in cluster.nodes.values_mut() {
        node.config.started_unix_ms = DATE_MS;
        node.start().await;
    }
    for node in cluster.running() {
        node.serving().await;
    }
    let began = Instant::now();
    let before = cluster.node("n1").group().read(State::now).1;
    granted(cluster.node("n1").group(), "k", 1, HOUR_MS / 2).await;
    // Each leads in turn on a clock of its own. Nothing else that the group is given knows a date.
    for (name, date) in [("n1", DATE_MS + HOUR_MS), ("n2", DATE_MS - HOUR_MS), ("n3", 0)] {
        cluster.node_mut(name).stop().await;
        cluster.node_mut(name).config.started_unix_ms = date;
        cluster.node_mut(name).start().await;
        cluster.node(name).serving().await;
        cluster.make_leader(name).await;
        let group = cluster.node(name).group();
        group.propose(Request::from(Command::Tick), TIMEOUT).await.unwrap();
        let passed = group.read(State::now).1.0 - before.0;
        let real = began.elapsed() + Duration::from_secs(1);
        assert!(u128::from(passed) <= real.as_millis(), "{name}: {passed} ms of cluster time in {real:?}");
        assert!(group.read(|state| state.lock("k", 0)).1.is_some(), "{name}: the lease ended");
        assert_eq!(group.read(|state| state.cluster().formed_at_unix_ms / HOUR_MS).1, DATE_MS / HOUR_MS);
    }
    cluster.stop().await;
}
