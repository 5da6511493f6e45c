//! A hundred writers while leaders fall: nothing that was acknowledged is lost, nothing happens twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::database::Database;
use ovncp_ovn::error::TransactError;
use ovncp_ovn::lab::{Lab, Members};
use ovncp_ovn::operation::{Condition, Mutation, Mutator, Operation};
use ovncp_ovn::writer::{Writer, WriterSettings};

use super::support::{assert_like_fresh, settings, until};
use super::{SWITCH, directory, endpoints, northbound, open, switch};

const WRITERS: usize = 100;
/// Writes that succeed between one fault and the next.
const WRITES_BETWEEN: i64 = 300;

#[derive(Default)]
struct Tally {
    stopped: AtomicBool,
    acknowledged: AtomicI64,
}

/// What became of the writes of one writer.
#[derive(Default)]
struct Writes {
    acknowledged: Vec<Uuid>,
    unknown: Vec<Uuid>,
    not_sent: Vec<Uuid>,
    rejected: Vec<(Uuid, TransactError)>,
    counted: i64,
    perhaps_counted: i64,
}

fn count(column: &str) -> Operation {
    let add = Mutation { column: column.into(), mutator: Mutator::Add, value: 1.into() };
    Operation::Mutate { table: "NB_Global".into(), condition: Condition::default(), mutations: vec![add] }
}

/// Creates switches; `nb_cfg` counts them in the same transaction and `sb_cfg` counts alone (there is no ovn-northd).
async fn write(writer: Writer, tally: Arc<Tally>) -> Writes {
    let mut writes = Writes::default();
    while !tally.stopped.load(Ordering::Relaxed) {
        let uuid = Uuid::new_v4();
        let name = uuid.to_string();
        let absent = Operation::wait_absent(SWITCH, "name", name.as_str());
        let answer = writer.submit(vec![absent, switch(uuid, &name), count("nb_cfg")]).await;
        let away = answer.is_err();
        match answer {
            Ok(_) => {
                writes.acknowledged.push(uuid);
                tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(TransactError::OutcomeUnknown { .. }) => writes.unknown.push(uuid),
            Err(error @ TransactError::Rejected(_)) => writes.rejected.push((uuid, error)),
            Err(_) => writes.not_sent.push(uuid),
        }
        match writer.submit(vec![count("sb_cfg")]).await {
            Ok(_) => writes.counted += 1,
            Err(TransactError::OutcomeUnknown { .. }) => writes.perhaps_counted += 1,
            Err(_) => {}
        }
        if away {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    writes
}

async fn more(tally: &Tally) {
    let wanted = tally.acknowledged.load(Ordering::Relaxed) + WRITES_BETWEEN;
    until("writes go on", || tally.acknowledged.load(Ordering::Relaxed) >= wanted).await;
}

async fn faults(lab: &mut Lab, tally: &Tally) {
    more(tally).await;
    let leader = lab.northbound_leader().await.unwrap();
    lab.northbound()[leader].transfer_leadership().await.unwrap();
    more(tally).await;
    let leader = lab.northbound_leader().await.unwrap();
    lab.northbound_mut()[leader].kill();
    more(tally).await;
    lab.northbound_mut()[leader].start().await.unwrap();
    let leader = lab.northbound_leader().await.unwrap();
    lab.northbound()[leader].transfer_leadership().await.unwrap();
    more(tally).await;
}

fn lab_addresses(lab: &Lab) -> String {
    let all: Vec<_> = lab.northbound().iter().map(|server| server.tcp_endpoint()).collect();
    all.join(",")
}

/// ovn-nbctl, again and again: the switches that it added, and all that it tried to add.
fn stranger(tally: &Tally, database: &str) -> (Vec<String>, Vec<String>) {
    let (mut added, mut tried) = (Vec::new(), Vec::new());
    while !tally.stopped.load(Ordering::Relaxed) {
        let name = format!("nbctl-{}", tried.len());
        let arguments = [&format!("--db={database}"), "--timeout=20", "ls-add", &name];
        let output = std::process::Command::new("ovn-nbctl").args(arguments).output().unwrap();
        tried.push(name.clone());
        if output.status.success() {
            added.push(name);
        }
    }
    (added, tried)
}

fn counter(database: &Database, column: &str) -> i64 {
    let value = database.read(|contents| {
        let table = contents.table("NB_Global").unwrap();
        table.schema().value(table.rows().next().unwrap(), column).unwrap().atoms()[0].to_string()
    });
    value.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_lose_and_double_nothing_while_leaders_fall() {
    let directory = directory();
    let mut lab = northbound(&directory, Members::Clustered).await;
    lab.nbctl(&["init"]).await.unwrap();
    let tally = Arc::new(Tally::default());
    let mut writers = Vec::new();
    for _ in 0..2 {
        writers.push(Writer::new(open(&lab).await, WriterSettings::default()));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        tasks.spawn(write(writers[number % writers.len()].clone(), Arc::clone(&tally)));
    }
    let stranger = std::thread::spawn({
        let (tally, database) = (Arc::clone(&tally), lab_addresses(&lab));
        move || stranger(&tally, &database)
    });
    faults(&mut lab, &tally).await;
    tally.stopped.store(true, Ordering::Relaxed);
    let writes = tasks.join_all().await;
    let (added, tried) = tokio::task::spawn_blocking(|| stranger.join().unwrap()).await.unwrap();
    assert!(!added.is_empty(), "ovn-nbctl never came through");

    let database = open(&lab).await;
    let present: BTreeSet<Uuid> = database
        .read(|contents| contents.table(SWITCH).unwrap().rows().map(|row| row.uuid).collect())
        .unwrap();
    let of =
        |what: fn(&Writes) -> &Vec<Uuid>| -> Vec<Uuid> { writes.iter().flat_map(what).copied().collect() };
    let (acknowledged, unknown, not_sent) =
        (of(|writes| &writes.acknowledged), of(|writes| &writes.unknown), of(|writes| &writes.not_sent));
    let rejected: Vec<_> = writes.iter().flat_map(|writes| &writes.rejected).collect();
    eprintln!(
        "{} acknowledged, {} unknown, {} not sent, {} rejected: {rejected:?}",
        acknowledged.len(),
        unknown.len(),
        not_sent.len(),
        rejected.len()
    );
    assert!(acknowledged.iter().all(|uuid| present.contains(uuid)), "lost");
    assert!(not_sent.iter().all(|uuid| !present.contains(uuid)), "said to be not sent");
    let doubtful: Vec<_> = rejected.iter().filter(|(uuid, _)| present.contains(uuid)).collect();
    assert!(doubtful.is_empty(), "said to be rejected: {doubtful:?}");
    let strange = tried.iter().map(|name| super::switches(&database, name).len());
    let happened = present.len() - strange.sum::<usize>();
    assert!(happened <= acknowledged.len() + unknown.len());
    assert_eq!(counter(&database, "nb_cfg"), happened as i64, "switches and their count go together");
    let counted: i64 = writes.iter().map(|writes| writes.counted).sum();
    let perhaps: i64 = writes.iter().map(|writes| writes.perhaps_counted).sum();
    let found = counter(&database, "sb_cfg");
    assert!((counted..=counted + perhaps).contains(&found), "{found} of {counted} and perhaps {perhaps}");
    for name in added {
        let found = super::switches(&database, &name);
        // A member that loses its leadership while it commits runs the transaction again, and ovn-nbctl lets the
        // server choose uuids, so its own may happen twice.
        assert!(!found.is_empty(), "{name} of ovn-nbctl is lost");
    }
    for writer in &writers {
        assert_like_fresh(writer.database(), settings(endpoints(&lab))).await;
    }
}
