//! A client of registers: reads, writes, compares and sets, deletes.

use std::collections::BTreeMap;
use std::time::Duration;

use ovncp_state::command::{KvCondition, KvExpect, KvOperation, WriteKv};
use ovncp_state::{Command, Refusal, Reply, Revision};
use rand::RngExt;

use super::{Client, Mutant, Outcome, PATIENCE, REQUEST_TIME};
use crate::check::linear::{Action, Operation};
use crate::cluster::Connection;
use crate::machine::Machine;

/// Registers that all clients of a run share.
const REGISTERS: u8 = 5;
/// Operations on one register that the checker can take.
const OPERATIONS_MAX: usize = 250;

/// What this client last saw of a register: its revision and value, or that it was absent.
type Seen = BTreeMap<u8, Option<(Revision, u64)>>;

fn name(register: u8) -> Vec<u8> {
    vec![b'r', register]
}

/// Works on registers until the run ends. `number` makes its values unique.
pub async fn run<D: Machine>(mut client: Client<D>, number: u64) {
    let mut seen = Seen::new();
    let mut value = number << 32;
    while !client.stopped() {
        client.rest(5..150).await;
        let register = client.rng.random_range(0..REGISTERS);
        let operations = client.history.record().registers.get(&register).map_or(0, Vec::len);
        if operations >= OPERATIONS_MAX {
            continue;
        }
        let Some(node) = client.connect().await else { continue };
        if client.rng.random_bool(0.35) {
            read(&mut client, &node, register, &mut seen).await;
        } else {
            value += 1;
            write(&mut client, &node, register, value, &mut seen).await;
        }
    }
}

/// A linearizable read.
pub async fn read<D: Machine>(
    client: &mut Client<D>,
    node: &Connection,
    register: u8,
    seen: &mut BTreeMap<u8, Option<(Revision, u64)>>,
) -> bool {
    let invoked = client.now();
    let stale = client.mutant == Some(Mutant::StaleRead);
    let answer = node
        .call(REQUEST_TIME + PATIENCE, move |group| async move {
            if !stale {
                group.read_barrier(REQUEST_TIME).await.ok()?;
            }
            let (_, found) = group.read(|state| state.kv(&name(register)));
            Some(found.map(|(meta, bytes)| (meta.revision, value_of(&bytes))))
        })
        .await;
    let Some(Some(found)) = answer else {
        client.history.record().failed += 1;
        return false;
    };
    let completed = Some(client.now());
    client.cluster.trace.note(format_args!(
        "{}: read r{register} at {}: {:?}",
        client.name,
        node.name,
        found.map(|(revision, value)| (revision.0, value))
    ));
    let mut record = client.history.record();
    record.ok += 1;
    if let Some((revision, value)) = found {
        let first = *record.written.entry(revision.0).or_insert(value);
        if first != value {
            record.wrong.push(format!("revision {revision} of r{register} is {value} and was {first}"));
        }
    }
    let action = Action::Read(found.map(|(_, value)| value));
    record.registers.entry(register).or_default().push(Operation { invoked, completed, action });
    seen.insert(register, found);
    true
}

fn value_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap_or([0xff; 8]))
}

async fn write<D: Machine>(
    client: &mut Client<D>,
    node: &Connection,
    register: u8,
    value: u64,
    seen: &mut Seen,
) {
    let key = name(register);
    let known = seen.get(&register).copied();
    let (conditions, operation, expect) = match (known, client.rng.random_range(0..10)) {
        // A compare and set from what was seen last.
        (Some(known), 0..6) => {
            let expect = known.map_or(KvExpect::Absent, |(revision, _)| KvExpect::Revision(revision));
            (vec![KvCondition { key: key.clone(), expect }], put(&key, value), Some(known.map(|it| it.1)))
        }
        (_, 6) => (Vec::new(), KvOperation::Delete { key }, None),
        _ => (Vec::new(), put(&key, value), None),
    };
    let delete = matches!(operation, KvOperation::Delete { .. });
    let command = Command::WriteKv(WriteKv { conditions, operations: vec![operation] });
    let request_key = client.maybe_key();
    let invoked = client.now();
    let outcome = client.propose(node, command, request_key).await;
    let completed = Some(client.now());
    client.cluster.trace.note(format_args!(
        "{}: write r{register} {} at {}: {}",
        client.name,
        if delete { "delete".to_owned() } else { format!("{value} expecting {expect:?}") },
        node.name,
        match &outcome {
            Outcome::Done(committed) => format!("{:?} at {}", committed.reply, committed.index),
            Outcome::Failed => "failed".to_owned(),
            Outcome::Unknown => "unknown".to_owned(),
        }
    ));
    let mut record = client.history.record();
    let (completed, action) = match outcome {
        Outcome::Failed => {
            record.failed += 1;
            return;
        }
        Outcome::Unknown => {
            record.unknown += 1;
            let action = match (delete, expect) {
                (true, _) => Action::Delete(None),
                (_, Some(expect)) => Action::SwapUnknown { expect, value },
                (_, None) => Action::Put(value),
            };
            (None, action)
        }
        Outcome::Done(committed) => match committed.reply {
            Reply::Written { deleted, .. } if delete => {
                seen.insert(register, None);
                (completed, Action::Delete(Some(deleted > 0)))
            }
            Reply::Written { revision, .. } => {
                if request_key.is_none() && revision.0 != committed.index.0 {
                    record.wrong.push(format!("answered at {} with revision {revision}", committed.index));
                }
                seen.insert(register, Some((revision, value)));
                if record.written.insert(revision.0, value).is_some_and(|other| other != value) {
                    record.wrong.push(format!("revision {revision} was given twice"));
                }
                let action = match expect {
                    Some(expect) => Action::Swapped { expect, value },
                    None => Action::Put(value),
                };
                (completed, action)
            }
            Reply::Refused(Refusal::RevisionMismatch { .. }) => {
                seen.remove(&register);
                match expect {
                    Some(expect) => (completed, Action::NotSwapped { expect }),
                    None => {
                        record.wrong.push("an unconditional write was refused by condition".to_owned());
                        return;
                    }
                }
            }
            // The very first moments of a cluster.
            Reply::Refused(Refusal::NotFormed) => {
                record.failed += 1;
                return;
            }
            other => {
                record.wrong.push(format!("a write was answered {other:?}"));
                return;
            }
        },
    };
    record.ok += u64::from(completed.is_some());
    record.registers.entry(register).or_default().push(Operation { invoked, completed, action });
}

fn put(key: &[u8], value: u64) -> KvOperation {
    KvOperation::Put { key: key.to_vec(), value: value.to_le_bytes().to_vec(), content_type: None, ttl: None }
}

/// Reads every register once more through `node`, so that a write lost at the very end is missed.
pub async fn read_all<D: Machine>(client: &mut Client<D>, node: &Connection) -> bool {
    let mut seen = Seen::new();
    for register in 0..REGISTERS {
        if !read(client, node, register, &mut seen).await {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    true
}
