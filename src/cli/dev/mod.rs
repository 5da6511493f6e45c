//! `ovncp dev`: a cluster on this machine for people who want to try one.
//!
//! Every node is a real one: a child process of this binary with its own data directory and log file, so that
//! `kill -9` means what it means elsewhere. The supervisor (this process) starts them, starts them again when
//! they die, and tells what happens. A private OVN runs beside them (`ovn.rs`). It keeps `dev.json` beside the data for scripts. The children end with the
//! supervisor, even when that is killed.

pub(crate) mod cluster;
pub(crate) mod layout;
pub(crate) mod observe;
mod ovn;
mod screen;
mod story;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cluster::{Cluster, Ended, STOP_GRACE};
use self::layout::{Layout, NODES_MAX, Wishes, write_json};
use self::observe::Observer;
use self::ovn::{Ovn, OvnFile};
use self::screen::Screen;
use self::story::Story;
use super::failure::{Exit, Failure, Outcome};
use super::output::Format;

/// Before a dead node is started again.
const RESTART_AFTER: Duration = Duration::from_secs(3);
/// The longest such pause, for a node that dies again and again.
const RESTART_AFTER_MAX: Duration = Duration::from_secs(60);
/// A node that ran less than this died at once.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// The table is shown when all is well, or after this, whatever there is.
const TABLE_WITHIN: Duration = Duration::from_millis(4_500);
/// How often pending restarts are looked at.
const RESTART_CHECK: Duration = Duration::from_millis(100);
/// Lines of a dead node's log that are shown.
const TAIL_LINES: usize = 6;
/// What scripts read while the cluster runs.
const DEV_FILE: &str = "dev.json";
/// Held while the cluster runs.
const LOCK_FILE: &str = "dev.lock";

/// Run a cluster on this machine: real nodes, real data, live notices.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp dev                          three nodes, data removed at the end
  ovncp dev --data-dir ./cluster     the same cluster again at the next start
  ovncp dev --nodes 5 --no-restart   a killed node stays dead
Then, in another terminal: `ovncp status`, `ovncp members`, `ovncp lock demo -- sleep 10`, or kill -9 a node.")]
pub(crate) struct DevArgs {
    /// Number of nodes, 1 to 9 [default: 3, or what --data-dir holds]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=NODES_MAX as i64))]
    nodes: Option<u8>,
    /// Keep the nodes' data here and continue with it; temporary otherwise
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// HTTP port of the first node, the others follow; 0 takes free private ones [default: 8080, or the next free]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Metrics port of the first node [default: 9090, or the next free]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Peer port of the first node [default: 7400, or the next free]
    #[arg(long, value_name = "PORT")]
    peer_port: Option<u16>,
    /// Do not start a node again when it dies
    #[arg(long)]
    no_restart: bool,
    /// Start no private OVN (databases on ports 6641 and 6642, or the next free, and ovn-northd)
    #[arg(long)]
    no_ovn: bool,
}

/// A data directory, removed at the end unless the user named it.
enum Place {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Place {
    fn path(&self) -> &std::path::Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(dir) => dir.path(),
        }
    }
}

pub(crate) async fn run(args: DevArgs, format: Format) -> Outcome {
    // Before anything is started, so that no signal finds the default action.
    let mut signals = Signals::new()?;
    let place = match args.data_dir {
        Some(path) => Place::Kept(path),
        None => Place::Temporary(temporary_dir()?),
    };
    fs::create_dir_all(place.path())
        .map_err(|e| Failure::io(format!("create {}", place.path().display()), &e))?;
    let _lock = lock_dir(place.path())?;
    let wishes = Wishes {
        nodes: args.nodes.map(usize::from),
        http: args.http_port,
        metrics: args.metrics_port,
        peer: args.peer_port,
    };
    let layout = Layout::prepare(place.path(), wishes)?;
    let screen = Screen::new(format, matches!(place, Place::Temporary(_)));
    screen.opening(&layout);
    let ovn = Ovn::start(&layout.dir, !args.no_ovn, args.http_port == Some(0)).await?;
    let mut supervisor = Supervisor::start(layout, ovn, screen, !args.no_restart)?;
    let ended = supervisor.supervise(&mut signals).await;
    supervisor.stop(&mut signals).await;
    ended
}

fn temporary_dir() -> Result<tempfile::TempDir, Failure> {
    let made = tempfile::Builder::new().prefix("ovncp-dev-").tempdir();
    made.map_err(|e| Failure::io("make a temporary directory", &e).help("name a directory with --data-dir"))
}

/// Two supervisors of one directory would fight over its nodes.
fn lock_dir(dir: &std::path::Path) -> Result<File, Failure> {
    let path = dir.join(LOCK_FILE);
    let file = File::create(&path).map_err(|e| Failure::io(format!("create {}", path.display()), &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(Exit::Failure, format!("another `ovncp dev` runs in {}", dir.display()))
                .help("stop it first, or use another --data-dir"))
        }
        Err(TryLockError::Error(e)) => Err(Failure::io(format!("lock {}", path.display()), &e)),
    }
}

struct Signals {
    stop: StopSignals,
    child: Signal,
}

/// Whatever asks to end.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let listen = |kind| signal(kind).map_err(|e| Failure::io("listen to signals", &e));
        let stop = StopSignals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        };
        Ok(Signals { stop, child: listen(SignalKind::child())? })
    }
}

impl StopSignals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// `dev.json`.
#[derive(Serialize)]
struct DevFile<'a> {
    nodes: Vec<DevNode<'a>>,
    /// `null` where none runs.
    ovn: Option<OvnFile>,
}

/// What it says of a node.
#[derive(Serialize)]
struct DevNode<'a> {
    id: &'a str,
    /// `null` while the node is down.
    pid: Option<u32>,
    http: u16,
    metrics: u16,
    peer: u16,
    data_dir: PathBuf,
}

struct Supervisor {
    cluster: Cluster,
    ovn: Ovn,
    story: Story,
    observer: Observer,
    screen: Screen,
    restart: bool,
    /// When to start a dead node again, and how long the next pause is.
    plans: Vec<Restart>,
    begun: Instant,
    table_shown: bool,
}

#[derive(Clone, Copy)]
struct Restart {
    at: Option<Instant>,
    pause: Duration,
}

impl Supervisor {
    fn start(layout: Layout, ovn: Ovn, screen: Screen, restart: bool) -> Result<Supervisor, Failure> {
        let begun = Instant::now();
        let story = Story::new(layout.nodes.iter().map(|node| node.name.clone()), begun);
        let plans = layout.nodes.iter().map(|_| Restart { at: None, pause: RESTART_AFTER }).collect();
        let observer = Observer::start(&layout);
        let mut cluster = Cluster::new(layout);
        cluster.environment.extend(ovn.environment());
        cluster.start_all()?;
        let supervisor =
            Supervisor { cluster, ovn, story, observer, screen, restart, plans, begun, table_shown: false };
        supervisor.write_dev_file()?;
        Ok(supervisor)
    }

    /// Until a signal asks to stop.
    async fn supervise(&mut self, signals: &mut Signals) -> Outcome {
        let mut check = tokio::time::interval(RESTART_CHECK);
        loop {
            tokio::select! {
                () = signals.stop.next() => return Ok(ExitCode::SUCCESS),
                _ = signals.child.recv() => self.bury()?,
                Some(seen) = self.observer.next() => {
                    let notices = self.story.seen(&seen, Instant::now());
                    // What happened before the table stands in the table.
                    if self.table_shown {
                        notices.iter().for_each(|notice| self.screen.notice(notice));
                        self.summary_after(&notices);
                    }
                }
                _ = check.tick() => {
                    // A missed SIGCHLD (they merge) is made up for here.
                    self.bury()?;
                    self.restart_due()?;
                    self.look_after_ovn().await?;
                }
            }
            self.observer.hurry(!self.story.is_settled());
            self.show_table_when_due();
        }
    }

    fn show_table_when_due(&mut self) {
        let all_ready = self.story.ready() == self.cluster.layout.nodes.len() && self.story.is_settled();
        if !self.table_shown && (all_ready || self.begun.elapsed() >= TABLE_WITHIN) {
            self.table_shown = true;
            self.screen.table(&self.cluster, &self.ovn, &self.story, self.begun.elapsed());
        }
    }

    /// One line on the whole when it is whole again.
    fn summary_after(&self, notices: &[story::Notice]) {
        let all = self.cluster.layout.nodes.len();
        if !notices.is_empty() && self.story.ready() == all && self.story.is_settled() {
            self.screen.whole(all, self.story.leader());
        }
    }

    /// Tells which nodes ended and plans their return.
    fn bury(&mut self) -> Result<(), Failure> {
        let ended = self.cluster.reap();
        if ended.is_empty() {
            return Ok(());
        }
        // First: who reads a notice may look there.
        self.write_dev_file()?;
        for Ended { index, status, ran } in &ended {
            let notices = self.story.died(*index, cluster::describe(*status), Instant::now());
            notices.iter().for_each(|notice| self.screen.notice(notice));
            if !cluster::ended_from_outside(*status) {
                self.screen.log_tail(&self.cluster.layout.log_file(*index), TAIL_LINES);
            }
            let plan = &mut self.plans[*index];
            let short = *ran < SHORT_LIFE && !cluster::ended_from_outside(*status);
            plan.pause = if short { plan.pause } else { RESTART_AFTER };
            let name = &self.cluster.layout.nodes[*index].name;
            if self.restart {
                plan.at = Some(Instant::now() + plan.pause);
                self.screen.planned(name, Some(plan.pause));
                plan.pause = (plan.pause * 2).min(RESTART_AFTER_MAX);
            } else {
                self.screen.planned(name, None);
            }
        }
        Ok(())
    }

    fn restart_due(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        for index in 0..self.plans.len() {
            if self.plans[index].at.is_none_or(|at| at > now) {
                continue;
            }
            self.plans[index].at = None;
            let pid = self.cluster.start(index)?;
            self.write_dev_file()?;
            let notice = self.story.restarted(index, pid, now);
            self.screen.notice(&notice);
        }
        Ok(())
    }

    async fn look_after_ovn(&mut self) -> Result<(), Failure> {
        let told = self.ovn.look_after(self.restart).await;
        if !told.is_empty() {
            self.write_dev_file()?;
        }
        told.iter().for_each(|sentence| self.screen.ovn(sentence));
        Ok(())
    }

    fn write_dev_file(&self) -> Result<(), Failure> {
        let layout = &self.cluster.layout;
        let nodes = layout.nodes.iter().enumerate().map(|(index, node)| DevNode {
            id: &node.name,
            pid: self.cluster.pid(index),
            http: node.http,
            metrics: node.metrics,
            peer: node.peer,
            data_dir: layout.data_dir(index),
        });
        write_json(&layout.dir.join(DEV_FILE), &DevFile { nodes: nodes.collect(), ovn: self.ovn.file() })
    }

    async fn stop(&mut self, signals: &mut Signals) {
        let begun = Instant::now();
        self.screen.stopping(self.cluster.running());
        let killed = self.cluster.stop(STOP_GRACE, signals.stop.next()).await;
        // After the nodes, which would only report that it is gone.
        self.ovn.stop().await;
        // The children are gone, so is the need for their addresses.
        let _ = fs::remove_file(self.cluster.layout.dir.join(DEV_FILE));
        self.screen.stopped(killed, begun.elapsed(), &self.cluster.layout);
    }
}
