//! Whoever lost its lock commits nothing.

use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::error::TransactError;
use ovncp_ovn::fence::{Claim, Fence, Guard, is_fenced};
use ovncp_ovn::lab::Members;
use ovncp_ovn::operation::Operation;
use ovncp_ovn::writer::{Transact, Writer, WriterSettings};
use tokio::sync::{Mutex, oneshot};

use super::{directory, northbound, open, switch, switches};

async fn claimed<T: Transact>(fence: &Fence<T>, resource: &str, token: u64) -> Guard {
    match fence.claim(resource, token).await.unwrap() {
        Claim::Claimed(guard) => guard,
        Claim::Stale { current } => panic!("{current} has it"),
    }
}

fn guarded(guard: &Guard, uuid: Uuid, name: &str) -> Vec<Operation> {
    vec![guard.operation(), switch(uuid, name)]
}

/// A lock with leases: what the fence is for cannot rely on anybody keeping to them.
struct Leases {
    token: u64,
    until: tokio::time::Instant,
}

#[tokio::test]
async fn a_holder_that_was_paused_past_its_lease_is_fenced() {
    let directory = directory();
    let lab = northbound(&directory, Members::Clustered).await;
    let ttl = Duration::from_millis(300);
    let leases = Arc::new(Mutex::new(Leases { token: 0, until: tokio::time::Instant::now() }));
    let acquire = |leases: Arc<Mutex<Leases>>| async move {
        loop {
            let mut held = leases.lock().await;
            let now = tokio::time::Instant::now();
            if held.until <= now {
                *held = Leases { token: held.token + 1, until: now + ttl };
                return held.token;
            }
            let until = held.until;
            drop(held);
            tokio::time::sleep_until(until).await;
        }
    };

    let slow = Writer::new(open(&lab).await, WriterSettings::default());
    let first = acquire(Arc::clone(&leases)).await;
    let stale = claimed(&Fence::new(slow.clone()), "plan", first).await;
    slow.submit(guarded(&stale, Uuid::from_u128(1), "in-time")).await.unwrap();
    // It stops here, in the middle of its work, and knows nothing of the time that passes.
    let (wake, sleeping) = oneshot::channel::<()>();
    let paused = tokio::spawn(async move {
        sleeping.await.unwrap();
        let answer = slow.submit(guarded(&stale, Uuid::from_u128(2), "too-late")).await;
        (slow, answer)
    });

    let quick = Writer::new(open(&lab).await, WriterSettings::default());
    let second = acquire(leases).await;
    assert!(second > first);
    let guard = claimed(&Fence::new(quick.clone()), "plan", second).await;
    wake.send(()).unwrap();
    let (slow, answer) = paused.await.unwrap();
    assert!(is_fenced(answer.as_ref().unwrap_err()), "{answer:?}");
    assert_eq!(Fence::new(slow).claim("plan", first).await, Ok(Claim::Stale { current: second }));

    quick.submit(guarded(&guard, Uuid::from_u128(3), "successor")).await.unwrap();
    let database = quick.database();
    assert_eq!(switches(database, "in-time").len(), 1);
    assert!(switches(database, "too-late").is_empty());
    assert_eq!(switches(database, "successor").len(), 1);
}

#[tokio::test]
async fn tokens_only_grow_whoever_claims_at_the_same_time() {
    let directory = directory();
    let lab = northbound(&directory, Members::Clustered).await;
    let mut claims = tokio::task::JoinSet::new();
    for part in 0..4_u64 {
        let fence = Fence::new(open(&lab).await);
        claims.spawn(async move {
            let mut held = Vec::new();
            for token in (1 + part..80).step_by(4) {
                match fence.claim("contended", token).await.unwrap() {
                    Claim::Claimed(guard) => held.push(guard.token()),
                    Claim::Stale { current } => assert!(current > token),
                }
            }
            held
        });
    }
    let held: Vec<_> = claims.join_all().await.into_iter().flatten().collect();
    assert!(held.contains(&79), "the highest is never stale");
    let fence = Fence::new(open(&lab).await);
    assert_eq!(fence.claim("contended", 78).await, Ok(Claim::Stale { current: 79 }));
    // The same again, as after a lost answer; another resource, in the same row or not, has its own.
    claimed(&fence, "contended", 79).await;
    for number in 0..64 {
        claimed(&fence, &format!("other-{number}"), 1).await;
    }
    claimed(&fence, "contended", 79).await;
}

#[tokio::test]
async fn a_guard_is_told_from_other_failures() {
    let directory = directory();
    let lab = northbound(&directory, Members::Standalone).await;
    let database = open(&lab).await;
    let fence = Fence::new(database.clone());
    let guard = claimed(&fence, "a", 5).await;
    let taken = Uuid::from_u128(7);
    database.transact(guarded(&guard, taken, "there")).await.unwrap();
    let duplicate = database.transact(guarded(&guard, taken, "again")).await.unwrap_err();
    assert!(!is_fenced(&duplicate), "{duplicate}");
    let own_wait = vec![guard.operation(), Operation::wait_absent(super::SWITCH, "name", "there")];
    let own_wait = database.transact(own_wait).await.unwrap_err();
    assert!(matches!(own_wait, TransactError::Rejected(_)) && !is_fenced(&own_wait), "{own_wait}");
    // By whom the claim was made does not matter, only the token.
    let elsewhere = Fence::new(open(&lab).await);
    database.transact(vec![elsewhere.guard("a", 5).await.unwrap()]).await.unwrap();
    let stale = database.transact(vec![elsewhere.guard("a", 4).await.unwrap()]).await.unwrap_err();
    assert!(is_fenced(&stale), "{stale}");
    // A row that somebody deletes lets nobody through, and comes back.
    let row = fence.ensure_row("a").await.unwrap().to_string();
    lab.nbctl(&["destroy", "Address_Set", &row]).await.unwrap();
    let gone = database.transact(vec![guard.operation()]).await.unwrap_err();
    assert!(is_fenced(&gone), "{gone}");
    claimed(&fence, "a", 6).await;
}
