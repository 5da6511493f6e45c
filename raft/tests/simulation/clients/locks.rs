//! A client of locks: tries, waits, renews, releases, lets leases run out, cancels.

use std::collections::BTreeSet;
use std::time::Duration;

use ovncp_raft::Group;
use ovncp_state::command::{AcquireLock, CancelWait, LockMode, ReleaseLock, RenewLock};
use ovncp_state::reply::Grant;
use ovncp_state::{Command, Millis, NodeId, Refusal, Reply, Request, RequestKey, SecretHash, WaiterId};
use rand::{Rng, RngExt};
use tokio::time::timeout;

use super::{Client, Mutant, Outcome, PATIENCE, REQUEST_TIME};
use crate::check::locks::Holding;
use crate::cluster::Connection;
use crate::machine::Machine;

/// Keys that all clients of a run share.
const KEYS: u8 = 4;
/// Time after its deadline that a waiter gives its node to tell it so.
const WAIT_SLACK: u64 = 2_000;

/// Works on locks until the run ends.
pub async fn run<D: Machine>(mut client: Client<D>) {
    while !client.stopped() {
        client.rest(5..200).await;
        let Some(node) = client.connect().await else { continue };
        let acquire = plan(&mut client);
        if let Some(holding) = acquire_lock(&mut client, &node, acquire.clone()).await {
            hold(&mut client, &acquire, holding).await;
        }
    }
}

fn plan<D: Machine>(client: &mut Client<D>) -> AcquireLock {
    let rng = &mut client.rng;
    let mut keys = BTreeSet::from([rng.random_range(0..KEYS)]);
    if rng.random_bool(0.15) {
        keys.insert(rng.random_range(0..KEYS));
    }
    let (mut secret, mut waiter) = ([0; 32], [0; 16]);
    rng.fill_bytes(&mut secret);
    rng.fill_bytes(&mut waiter);
    AcquireLock {
        keys: keys.into_iter().map(|key| format!("lock-{key}")).collect(),
        mode: if rng.random_bool(0.2) { LockMode::Shared } else { LockMode::Exclusive },
        owner: client.name.clone(),
        secret: SecretHash(secret),
        salt: None,
        ttl: Millis(rng.random_range(500..3_000)),
        wait: Millis(if rng.random_bool(0.4) { 0 } else { rng.random_range(50..4_000) }),
        hold_max: rng.random_bool(0.1).then(|| Millis(rng.random_range(500..4_000))),
        metadata: None,
        waiter: WaiterId(waiter),
        node: NodeId(0),
    }
}

/// What a node told about an acquire.
enum Told {
    Granted(Grant),
    Refused(Refusal),
    /// It stopped waiting for an outcome that never came.
    Silence,
    Failed,
    Unknown,
}

/// Asks for a lock until it knows whether it has it.
async fn acquire_lock<D: Machine>(
    client: &mut Client<D>,
    node: &Connection,
    acquire: AcquireLock,
) -> Option<Holding> {
    let key = client.maybe_key();
    let invoked = client.now();
    let mut node = node.clone();
    // A cancelled wait may have been granted before: whatever the answer is, the client does not hold.
    let cancel_after = client.rng.random_bool(0.15).then(|| client.rng.random_range(20..2_000));
    let mut attempts = 0;
    let told = loop {
        let told = ask(client, &node, &acquire, key, cancel_after).await;
        attempts += 1;
        let retry = matches!(told, Told::Unknown | Told::Silence | Told::Failed) && key.is_some();
        if !retry || attempts == 3 || cancel_after.is_some() || client.stopped() {
            break told;
        }
        client.rest(20..300).await;
        match client.connect().await {
            Some(other) => node = other,
            None => break told,
        }
    };
    let told_as = match &told {
        Told::Granted(grant) => format!("granted, token {}", grant.token),
        Told::Refused(refusal) => format!("refused: {refusal}"),
        Told::Silence => "nothing".to_owned(),
        Told::Failed => "failed".to_owned(),
        Told::Unknown => "unknown".to_owned(),
    };
    client.cluster.trace.note(format_args!(
        "{}: acquire {:?} {:?} wait {} ttl {} since {invoked} at {} cancel {cancel_after:?}: {told_as}",
        client.name, acquire.keys, acquire.mode, acquire.wait, acquire.ttl, node.name
    ));
    let learned = client.now();
    let mut record = client.history.record();
    match told {
        Told::Granted(grant) => {
            record.ok += 1;
            record.waited += u64::from(grant.waited.0 > 0);
            if grant.keys != acquire.keys || grant.owner != acquire.owner || grant.mode != acquire.mode {
                record.wrong.push(format!("{acquire:?} was granted as {grant:?}"));
            }
            let slack = if client.mutant == Some(Mutant::LateHolder) { 1_500 } else { 0 };
            let ttl = acquire.hold_max.map_or(acquire.ttl, |most| most.min(acquire.ttl)).0;
            Some(Holding {
                client: client.name.clone(),
                keys: acquire.keys,
                mode: acquire.mode,
                token: grant.token.0,
                invoked,
                learned,
                ttl,
                hold_max: acquire.hold_max.map(|most| most.0),
                wait: acquire.wait.0,
                waited: grant.waited.0,
                until: Holding::first_end(invoked, grant.waited.0, ttl) + slack,
            })
        }
        Told::Refused(refusal) => {
            record.refused += 1;
            let possible = matches!(
                refusal,
                Refusal::LockHeld { .. }
                    | Refusal::LockTimeout { .. }
                    | Refusal::WaitCancelled
                    | Refusal::LockLost { .. }
                    | Refusal::NotFormed
            );
            if !possible {
                record.wrong.push(format!("{acquire:?} was refused: {refusal}"));
            }
            None
        }
        Told::Failed => {
            record.failed += 1;
            None
        }
        Told::Silence | Told::Unknown => {
            record.unknown += 1;
            None
        }
    }
}

async fn ask<D: Machine>(
    client: &mut Client<D>,
    node: &Connection,
    acquire: &AcquireLock,
    key: Option<RequestKey>,
    cancel_after: Option<u64>,
) -> Told {
    let (waiter, mut acquire) = (acquire.waiter, acquire.clone());
    let limit = REQUEST_TIME + PATIENCE + Duration::from_millis(acquire.wait.0 + WAIT_SLACK);
    let answer = node.call(limit, move |group| async move {
        acquire.node = group.identity().node_id.unwrap_or(NodeId(0));
        acquire_at(&group, acquire, key).await
    });
    let hang_up_after = cancel_after.map_or(limit * 2, Duration::from_millis);
    tokio::select! {
        biased;
        told = answer => return told.unwrap_or(Told::Unknown),
        () = tokio::time::sleep(hang_up_after) => {}
    }
    // The client hung up; the edge cancels on its behalf.
    let at = node.group.identity().node_id.unwrap_or(NodeId(0));
    let cancel = Command::CancelWait(CancelWait { waiter, node: at });
    let cancelled = client.propose(node, cancel, None).await;
    let done = matches!(cancelled, Outcome::Done(_));
    client.history.record().cancelled += u64::from(done);
    Told::Unknown
}

/// What the edge of a node does for a client.
async fn acquire_at(group: &Group, acquire: AcquireLock, key: Option<RequestKey>) -> Told {
    let wait = Duration::from_millis(acquire.wait.0 + WAIT_SLACK);
    let mut handle = group.await_waiter(acquire.waiter);
    let request = Request { idempotency: key, command: Command::AcquireLock(acquire) };
    let committed = match group.propose(request, REQUEST_TIME).await {
        Ok(committed) => committed,
        Err(ovncp_raft::ProposeError::Unknown) => return Told::Unknown,
        Err(_) => return Told::Failed,
    };
    match committed.reply {
        Reply::Granted(grant) => Told::Granted(grant),
        Reply::Refused(refusal) => Told::Refused(refusal),
        // The waiter is the one asked for: a retry carries the same one.
        Reply::Waiting { .. } => match timeout(wait, handle.outcome()).await {
            Ok(Ok(grant)) => Told::Granted(grant),
            Ok(Err(refusal)) => Told::Refused(refusal),
            Err(_) => Told::Silence,
        },
        other => Told::Refused(Refusal::InvalidArgument {
            field: "reply".to_owned(),
            problem: format!("{other:?}"),
        }),
    }
}

/// Holds a lock for a while as a careful client does: it trusts its lease, no more.
async fn hold<D: Machine>(client: &mut Client<D>, acquire: &AcquireLock, mut holding: Holding) {
    let token = holding.token;
    loop {
        let left = holding.until.saturating_sub(client.now());
        if left == 0 || client.stopped() {
            break;
        }
        match client.rng.random_range(0..10) {
            // Lets it run out.
            0 => break,
            1..5 => {
                client.rest(5..left.max(6)).await;
                renew(client, acquire, &mut holding).await;
            }
            5..7 => client.rest(5..left.max(6)).await,
            _ => {
                release(client, acquire, &mut holding).await;
                break;
            }
        }
    }
    let now = client.now();
    client
        .cluster
        .trace
        .note(format_args!("{}: held {token} until {} (now {now})", client.name, holding.until));
    client.history.record().holdings.push(holding);
}

async fn renew<D: Machine>(client: &mut Client<D>, acquire: &AcquireLock, holding: &mut Holding) {
    let Some(node) = client.connect().await else { return };
    let asked = client.now();
    let ttl = client.rng.random_bool(0.3).then(|| Millis(client.rng.random_range(500..3_000)));
    let renewal = RenewLock { key: acquire.keys[0].clone(), secret: acquire.secret, ttl };
    let expired = asked >= holding.until;
    let answer = node
        .call(REQUEST_TIME + PATIENCE, move |group| async move { group.renew(renewal, REQUEST_TIME).await })
        .await;
    let name = &client.name;
    client.cluster.trace.note(format_args!("{name}: renew {} at {}: {answer:?}", holding.token, node.name));
    let mut record = client.history.record();
    match answer {
        Some(Ok(Ok(renewed))) => {
            record.ok += 1;
            record.renewed += 1;
            if renewed.token.0 != holding.token {
                record.wrong.push(format!("a renewal of {} answered {renewed:?}", holding.token));
            }
            holding.renewed(asked, renewed.ttl.0);
        }
        Some(Ok(Err(Refusal::NotHolder { .. }))) => {
            record.refused += 1;
            // Nobody ends a lease before its time. An earlier attempt of this renewal, whose answer got lost, may
            // have left it a shorter one.
            if let Some(ttl) = ttl {
                holding.perhaps_renewed(asked, ttl.0);
            }
            let now = client.cluster.trace.now();
            if !expired && now < holding.until {
                record.wrong.push(format!("a lease ended early: refused at {now}: {holding:?}"));
            }
        }
        Some(Ok(Err(refusal))) => {
            record.wrong.push(format!("a renewal of {} was refused: {refusal}", holding.token));
        }
        Some(Err(_)) | None => {
            record.unknown += 1;
            holding.perhaps_renewed(asked, ttl.unwrap_or(acquire.ttl).0);
        }
    }
}

async fn release<D: Machine>(client: &mut Client<D>, acquire: &AcquireLock, holding: &mut Holding) {
    let Some(node) = client.connect().await else { return };
    let asked = client.now();
    let in_time = asked < holding.until;
    let until = holding.until;
    holding.until = holding.until.min(asked);
    let command = Command::ReleaseLock(ReleaseLock { key: acquire.keys[0].clone(), secret: acquire.secret });
    let key = client.maybe_key();
    let outcome = client.propose(&node, command, key).await;
    let mut record = client.history.record();
    match outcome {
        Outcome::Done(committed) => match committed.reply {
            Reply::Released { token } => {
                record.ok += 1;
                if token.0 != holding.token {
                    record.wrong.push(format!("the release of {} answered {token}", holding.token));
                }
            }
            Reply::Refused(Refusal::NotHolder { .. }) => {
                record.refused += 1;
                if in_time && client.cluster.trace.now() < until {
                    record.wrong.push(format!("a lease ended before {until}: {holding:?}"));
                }
            }
            other => record.wrong.push(format!("a release was answered {other:?}")),
        },
        Outcome::Failed => record.failed += 1,
        Outcome::Unknown => record.unknown += 1,
    }
}
