//! WebSocket sessions: what many idle ones cost, how fast they come, and how fast a thousand of them move when their
//! node is drained or killed.
//!
//! All sockets go to one node, so that its memory shows what a socket costs and that of the others what a session costs
//! that is elsewhere. Clients do what users' clients do: they follow `migrate` and resume on another node when theirs
//! is gone.

mod crowd;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use self::crowd::Crowd;
use super::BenchArgs;
use super::closed_loop::progress;
use super::target::Target;
use super::wire::{Connection, request};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::fields;

/// Sessions, when none are asked for.
pub(super) const SESSIONS_DEFAULT: u32 = 10_000;
/// Sessions that move, at most.
const MOVED_MAX: u32 = 1_000;
/// Sessions per second that the drain may move: more than it can.
const DRAIN_RATE: u32 = 10_000;
/// After this time, what has not come is missing.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the sockets are. Not the first node, which is often the leader.
const HOME: usize = 1;

/// What was measured.
#[derive(Serialize)]
pub(super) struct Sessions {
    sessions: u32,
    connects_per_second: f64,
    idle: Idle,
    drained: Moved,
    killed: Moved,
}

/// While nobody says anything.
#[derive(Serialize)]
struct Idle {
    seconds: f64,
    /// Growth of the node that has the sockets, per session.
    kib_per_session_home: Option<f64>,
    /// Growth of another node, per session.
    kib_per_session_elsewhere: Option<f64>,
    entries_per_second: f64,
    /// Of all nodes, in percent of one core.
    cpu_percent: Option<f64>,
    /// Sockets that were lost meanwhile.
    lost: u64,
}

/// Sessions that had to go elsewhere.
#[derive(Serialize)]
struct Moved {
    sessions: u32,
    /// Until the last one was served again.
    all_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub(super) async fn run(
    args: &BenchArgs,
    addresses: &[String],
    target: &mut Target,
) -> Result<Sessions, Failure> {
    if addresses.len() < HOME + 2 {
        return Err(Failure::new(Exit::Usage, "sessions needs at least 3 nodes").help("raise --nodes"));
    }
    let count = if args.held == 0 { SESSIONS_DEFAULT } else { args.held };
    let memory = |target: &Target, node| target.sizes(node).memory_mb;
    let before = [memory(target, HOME), memory(target, HOME + 1)];
    let bar = progress(u64::from(count));
    bar.set_message("sessions");
    let begun = Instant::now();
    let mut crowd = Crowd::open(count, addresses, HOME);
    crowd.served(count, PATIENCE, |served| bar.set_position(u64::from(served))).await?;
    let connects_per_second = f64::from(count) / begun.elapsed().as_secs_f64();
    bar.finish_and_clear();
    tokio::time::sleep(args.warmup).await;

    let per_session = |node: usize, before: Option<f64>| {
        memory(target, node).zip(before).map(|(now, before)| (now - before) * 1_024.0 / f64::from(count))
    };
    let kib = [per_session(HOME, before[0]), per_session(HOME + 1, before[1])];
    let idle = idle(args, &mut crowd, target, kib).await?;
    drop(crowd);

    let moved = count.min(MOVED_MAX);
    let drained = drained(moved, addresses, target).await?;
    let killed = killed(moved, addresses, target).await?;
    Ok(Sessions { sessions: count, connects_per_second, idle, drained, killed })
}

async fn idle(
    args: &BenchArgs,
    crowd: &mut Crowd,
    target: &Target,
    kib: [Option<f64>; 2],
) -> Result<Idle, Failure> {
    let bar = progress(args.seconds);
    bar.set_message("idle");
    let (from, cpu, (_, index)) = (Instant::now(), target.cpu_seconds(), target.progress().await?);
    let lost = crowd.lost();
    for _ in 0..args.seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let ((_, index_then), seconds) = (target.progress().await?, from.elapsed().as_secs_f64());
    let used = cpu.zip(target.cpu_seconds()).map(|(before, after)| after - before);
    Ok(Idle {
        seconds,
        kib_per_session_home: kib[0],
        kib_per_session_elsewhere: kib[1],
        entries_per_second: index_then.saturating_sub(index) as f64 / seconds,
        cpu_percent: used.map(|used| 100.0 * used / seconds),
        lost: crowd.lost() - lost,
    })
}

/// A thousand sessions on a node that is drained.
async fn drained(count: u32, addresses: &[String], target: &mut Target) -> Result<Moved, Failure> {
    let mut crowd = Crowd::open(count, addresses, HOME);
    crowd.served(count, PATIENCE, |_| {}).await?;
    crowd.forget();
    let begun = Instant::now();
    let path = format!("/api/v1/cluster/nodes/node-{}", HOME + 1);
    post(&addresses[0], &format!("{path}/drain"), &format!(r#"{{"rate_per_s":{DRAIN_RATE}}}"#)).await?;
    let moved = crowd.moved(count, begun, PATIENCE).await?;
    post(&addresses[0], &format!("{path}/resume"), "{}").await?;
    target.until_ready().await?;
    Ok(moved)
}

async fn post(address: &str, path: &str, body: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io(format!("POST {path}"), &error);
    let mut open = Connection::open(address).await.map_err(failed)?;
    let request = request("POST", address, path, "application/json", body.as_bytes());
    let reply = open.send(&request).await.map_err(failed)?;
    if reply.status < 300 {
        return Ok(());
    }
    let words = String::from_utf8_lossy(reply.body).into_owned();
    Err(Failure::new(Exit::Failure, format!("POST {path}: {words}")))
}

/// A thousand sessions on a node that is killed.
async fn killed(count: u32, addresses: &[String], target: &mut Target) -> Result<Moved, Failure> {
    let mut crowd = Crowd::open(count, addresses, HOME);
    crowd.served(count, PATIENCE, |_| {}).await?;
    crowd.forget();
    let begun = Instant::now();
    let Some(cluster) = target.cluster() else {
        return Err(Failure::new(
            Exit::Usage,
            "sessions kills a node, so it runs on a cluster of its own only",
        ));
    };
    cluster.signal(HOME, Signal::KILL);
    let moved = crowd.moved(count, begun, PATIENCE).await;
    while let Some(cluster) = target.cluster().filter(|cluster| cluster.pid(HOME).is_some()) {
        cluster.reap();
        tokio::time::sleep(LOOK_EVERY).await;
    }
    moved
}

impl Sessions {
    /// For people.
    pub(super) fn text(&self) -> String {
        let optional = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} {unit}"))
        };
        let moved = |moved: &Moved| {
            format!(
                "{} sessions in {:.0} ms (p50 {:.0} ms, p99 {:.0} ms)",
                moved.sessions, moved.all_ms, moved.p50_ms, moved.p99_ms
            )
        };
        let idle = &self.idle;
        fields(&[
            ("sessions", format!("{} idle WebSockets on one node", self.sessions)),
            ("connects/s", format!("{:.0}", self.connects_per_second)),
            ("memory per session", optional(idle.kib_per_session_home, "KiB on their node")),
            ("", optional(idle.kib_per_session_elsewhere, "KiB on another one")),
            ("log entries/s", format!("{:.1} over {:.0} s", idle.entries_per_second, idle.seconds)),
            ("CPU of all nodes", optional(idle.cpu_percent, "% of a core")),
            ("sockets lost", idle.lost.to_string()),
            ("drained", moved(&self.drained)),
            ("kill -9", moved(&self.killed)),
        ])
    }
}
