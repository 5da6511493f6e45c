//! One run from its seed to its verdict.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ovncp_raft::SnapshotSettings;
use ovncp_state::invariants;
use ovncp_storage::runtime::{Process, seed_this_thread};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::check::{linear, locks};
use crate::clients::{self, Client, History, Mutant};
use crate::cluster::{Cluster, Connection, Settings};
use crate::machine::Machine;
use crate::nemesis::{Nemesis, Trouble};
use crate::trace::Trace;

/// How often nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Every how many looks a whole state is checked.
const CHECK_EVERY: u64 = 25;
/// Virtual time in which a repaired cluster must be whole and serve again.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// Real time that one run may take, on a machine that is busy with other things.
const REAL_TIME_MAX: Duration = Duration::from_secs(120);
/// Clients at work, ...
const CLIENTS: u64 = 8;
/// ... and how many of them work on registers; the others on locks.
const REGISTER_CLIENTS: u64 = 3;

/// What a run was good for.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub trace_hash: u64,
    pub virtual_time: Duration,
    pub troubles: BTreeMap<Trouble, u64>,
    pub ok: u64,
    pub unknown: u64,
    pub grants: u64,
    pub waited: u64,
    pub renewed: u64,
    pub cancelled: u64,
    pub entries: u64,
    pub terms: u64,
    pub installs: u64,
}

/// Why a run failed.
#[derive(Debug)]
pub struct Failure {
    pub what: String,
    pub tail: String,
}

/// A way to run a scenario.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Kinds of trouble; drawn from the seed when absent.
    pub kinds: Option<Vec<Trouble>>,
    /// What is deliberately wrong.
    pub mutant: Option<Mutant>,
}

/// Runs one seed on a fresh single-threaded runtime with a paused clock.
pub fn run<D: Machine>(seed: u64, plan: &Plan) -> Result<Report, Failure> {
    simulate(seed, |trace| scenario::<D>(seed, plan.clone(), trace))
}

/// Runs `future` in a world where everything follows from `seed`.
pub fn simulate<F, T>(seed: u64, make: impl FnOnce(Trace) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, String>>,
{
    seed_this_thread(Some(seed));
    let _watchdog = Watchdog::new(seed);
    let escaped: Arc<Mutex<Option<String>>> = Arc::default();
    let seen = escaped.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .unhandled_panic(tokio::runtime::UnhandledPanic::ShutdownRuntime)
        .on_task_spawn(move |task| {
            // Whatever a node starts must die with it.
            if Process::current().is_some() && !Process::adopting() {
                *seen.lock().unwrap() = Some(task.spawned_at().to_string());
            }
        })
        .build()
        .unwrap();
    let kept: Arc<Mutex<Option<Trace>>> = Arc::default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let trace = Trace::new();
            *kept.lock().unwrap() = Some(trace.clone());
            make(trace).await
        })
    }));
    let trace = kept.lock().unwrap().take();
    let tail = trace.as_ref().map(Trace::tail).unwrap_or_default();
    drop(catch_unwind(AssertUnwindSafe(|| drop(runtime))));
    seed_this_thread(None);
    let escaped = escaped.lock().unwrap().take();
    let what = match (trace.and_then(|trace| trace.first_violation()), result, escaped) {
        (Some(violation), ..) => violation,
        (None, Err(_), _) => "a task panicked (its message stands above)".to_owned(),
        (None, Ok(Err(what)), _) => what,
        (None, Ok(Ok(_)), Some(place)) => format!("a task escaped from its process at {place}"),
        (None, Ok(Ok(value)), None) => return Ok(value),
    };
    Err(Failure { what, tail })
}

/// Ends the process when a run hangs in real time: somebody spins and virtual time stands still.
struct Watchdog(#[allow(dead_code, reason = "dropping it is the sign")] SyncSender<()>);

impl Watchdog {
    fn new(seed: u64) -> Self {
        let (alive, ended) = sync_channel(0);
        std::thread::spawn(move || {
            if ended.recv_timeout(REAL_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
                eprintln!("seed {seed} hangs: no end after {REAL_TIME_MAX:?}; replay it with SIM_TRACE=1");
                std::process::exit(1);
            }
        });
        Self(alive)
    }
}

async fn scenario<D: Machine>(seed: u64, plan: Plan, trace: Trace) -> Result<Report, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let settings = draw_settings(&mut rng);
    trace.note(format_args!("seed {seed}: {settings:?}"));
    let cluster = Cluster::<D>::new(rng.next_u64(), settings, &trace);
    for name in cluster.settings().founders.clone() {
        cluster.add(&name);
        cluster.start(&name);
        sleep(Duration::from_millis(rng.random_range(0..300))).await;
    }
    let looks = tokio::spawn(look(cluster.clone()));
    let history = History::default();
    let (stop, stopped) = watch::channel(false);
    let client = |name: String, seed| Client {
        name,
        cluster: cluster.clone(),
        history: history.clone(),
        rng: SmallRng::seed_from_u64(seed),
        stop: stopped.clone(),
        mutant: plan.mutant,
    };
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = client(format!("client-{number}"), rng.next_u64());
        clients.push(if number < REGISTER_CLIENTS {
            tokio::spawn(clients::kv::run(client, number + 1))
        } else {
            tokio::spawn(clients::locks::run(client))
        });
    }
    let mut nemesis = match &plan.kinds {
        None => Nemesis::new(&cluster, rng.next_u64()),
        Some(kinds) => Nemesis::with_kinds(&cluster, SmallRng::seed_from_u64(rng.next_u64()), kinds.clone()),
    };
    nemesis.rage(Duration::from_millis(rng.random_range(10_000..25_000))).await;
    check_violation(&trace)?;
    nemesis.repair().await;
    recover(&cluster).await?;
    stop.send_replace(true);
    for client in clients {
        client.await.map_err(|error| format!("a client ended: {error}"))?;
    }
    let members = converge(&cluster).await?;
    read_everywhere(&cluster, client("reader".to_owned(), 0), members).await?;
    looks.abort();
    check_violation(&trace)?;
    verdict(&cluster, &history)?;
    Ok(report(&cluster, &history, nemesis.made))
}

fn draw_settings(rng: &mut SmallRng) -> Settings {
    let mut settings = Settings::new(if rng.random_bool(0.15) { 5 } else { 3 });
    let every_entries = [10, 30, 100, 1_000][rng.random_range(0..4)];
    settings.snapshot = SnapshotSettings { every_entries, keep_entries: rng.random_range(0..every_entries) };
    settings.segment_bytes = [16, 32, 64][rng.random_range(0..3)] * 1_024;
    settings.disk_latency = Duration::from_millis([0, 1, 3, 8][rng.random_range(0..4)]);
    settings.weather.latency_ms = [0..=1, 0..=5, 1..=12][rng.random_range(0..3)].clone();
    settings
}

fn report<D: Machine>(cluster: &Cluster<D>, history: &History, troubles: BTreeMap<Trouble, u64>) -> Report {
    let record = history.record();
    Report {
        trace_hash: cluster.trace.hash(),
        virtual_time: Duration::from_millis(cluster.trace.now()),
        troubles,
        ok: record.ok,
        unknown: record.unknown,
        grants: record.holdings.len() as u64,
        waited: record.waited,
        renewed: record.renewed,
        cancelled: record.cancelled,
        entries: cluster.ledger.last_applied(),
        terms: cluster.ledger.terms() as u64,
        installs: cluster.ledger.look(|claims| claims.installs),
    }
}

fn check_violation(trace: &Trace) -> Result<(), String> {
    trace.first_violation().map_or(Ok(()), Err)
}

/// Looks at every node again and again.
pub async fn look<D: Machine>(cluster: Cluster<D>) {
    for count in 0_u64.. {
        sleep(LOOK_EVERY).await;
        for node in cluster.connect_all() {
            let status = node.group.status();
            if status.is_leader
                && let Some(id) = status.node_id
            {
                cluster.ledger.leads(&node.name, status.term, id);
            }
            let thorough = count.is_multiple_of(CHECK_EVERY);
            let (_, (applied, hash, broken)) = node.group.read(|state| {
                let broken = if thorough { invariants::check(state) } else { Ok(()) };
                (state.applied(), state.hash(), broken)
            });
            cluster.ledger.state(&node.name, applied, hash);
            if let Err(broken) = broken {
                cluster.trace.violation(format!("{}: {broken}", node.name));
            }
        }
    }
}

/// Members as the leader's state has them, once all of them agree on everything.
fn whole<D: Machine>(cluster: &Cluster<D>) -> Result<Vec<String>, String> {
    let leader = cluster.leader().ok_or("nobody leads")?;
    let (_, (applied, hash, members)) =
        leader.group.read(|state| (state.applied(), state.hash(), state.nodes()));
    let mut names = Vec::new();
    for member in &members {
        let name = &member.name;
        let Some(node) = cluster.connect(name) else {
            if cluster.is_leaving(name) {
                continue;
            }
            return Err(format!("{name} is down"));
        };
        if node.group.identity().node_id != Some(member.id) {
            // The member of a disk that was wiped stays until it is replaced.
            return Err(format!("{name} is not node {} yet", member.id));
        }
        let status = node.group.status();
        if status.leader != leader.group.status().node_id {
            return Err(format!("{name} follows {:?}", status.leader));
        }
        let (_, (theirs, their_hash)) = node.group.read(|state| (state.applied(), state.hash()));
        if (theirs, their_hash) != (applied, hash) {
            return Err(format!("{name} has applied {theirs}, the leader {applied}"));
        }
        names.push(name.clone());
    }
    names.sort();
    if names.len() < 2 { Err(format!("only {names:?} are members")) } else { Ok(names) }
}

/// What a node would tell an operator who asks why nothing goes on.
fn describe(node: &Connection) -> String {
    let status = node.group.status();
    format!(
        "{} is {:?} ({:?}) in term {}, follows {:?}, voters {:?}",
        node.name, status.node_id, status.phase, status.term, status.leader, status.voters
    )
}

/// Waits until a leader leads and every write is answered again.
pub async fn recover<D: Machine>(cluster: &Cluster<D>) -> Result<(), String> {
    let end = Instant::now() + RECOVERY_MAX;
    loop {
        check_violation(&cluster.trace)?;
        for name in cluster.reap() {
            cluster.start(&name);
        }
        if let Some(leader) = cluster.leader() {
            let read = leader.call(Duration::from_secs(2), |group| async move {
                group.read_barrier(Duration::from_secs(1)).await
            });
            if matches!(read.await, Some(Ok(_))) {
                cluster.trace.note(format_args!("recovered: {} leads", leader.name));
                return Ok(());
            }
        }
        if Instant::now() >= end {
            let nodes: Vec<String> = cluster.connect_all().iter().map(describe).collect();
            return Err(format!(
                "no progress within {RECOVERY_MAX:?} after everything was repaired: {}",
                nodes.join("; ")
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until every member has the same state, and says who they are.
pub async fn converge<D: Machine>(cluster: &Cluster<D>) -> Result<Vec<String>, String> {
    let end = Instant::now() + RECOVERY_MAX;
    loop {
        check_violation(&cluster.trace)?;
        for name in cluster.reap() {
            cluster.start(&name);
        }
        match whole(cluster) {
            Ok(members) => {
                cluster.trace.note(format_args!("whole: {members:?}"));
                return Ok(members);
            }
            Err(why) if Instant::now() >= end => {
                return Err(format!("not whole within {RECOVERY_MAX:?}: {why}"));
            }
            Err(_) => sleep(Duration::from_millis(25)).await,
        }
    }
}

/// Reads every register once more through every member, so that a write lost at the very end is missed.
async fn read_everywhere<D: Machine>(
    cluster: &Cluster<D>,
    mut reader: Client<D>,
    members: Vec<String>,
) -> Result<(), String> {
    for name in members {
        let node = cluster.connect(&name).ok_or("a member died in peace")?;
        if !clients::kv::read_all(&mut reader, &node).await {
            return Err(format!("{name} does not serve reads in a repaired cluster"));
        }
    }
    Ok(())
}

fn verdict<D: Machine>(cluster: &Cluster<D>, history: &History) -> Result<(), String> {
    let record = history.record();
    if let Some(wrong) = record.wrong.first() {
        return Err(wrong.clone());
    }
    if let Some(wrong) = locks::check(&record.holdings).into_iter().next() {
        return Err(wrong);
    }
    let lost = cluster.ledger.look(|claims| {
        let mut lost = locks::unknown_to_log(&record.holdings, &claims.granted);
        lost.extend(locks::overtaken(&claims.granted));
        let (granted, released) = (&claims.granted, &claims.released);
        lost.extend(locks::overstayed(&record.holdings, granted, released, &claims.renewed));
        let revisions = record.written.keys().filter(|revision| !claims.written.contains_key(revision));
        lost.extend(
            revisions.map(|revision| format!("the acknowledged write at {revision} is not in the log")),
        );
        lost
    });
    if let Some(lost) = lost.into_iter().next() {
        return Err(lost);
    }
    for (register, operations) in &record.registers {
        if !linear::is_linearizable(operations)? {
            return Err(format!("register {register} is not linearizable: {operations:#?}"));
        }
    }
    Ok(())
}
