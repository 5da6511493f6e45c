//! A cluster of simulated machines: each a disk, a place in the network and, while it runs, a process with a
//! real `Group` in it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ovncp_raft::{Group, GroupConfig, Integrity, Phase, SnapshotSettings, StaticPeer, Timing};
use ovncp_state::NodeId;
use ovncp_state::command::NodeInfo;
use ovncp_storage::StoreOptions;
use ovncp_storage::disk::Disk;
use ovncp_storage::runtime::Process;
use tokio::sync::watch;

use crate::check::log::{Ledger, NodeLog};
use crate::machine::Machine;
use crate::support::sim_net::{SimNet, Weather};
use crate::trace::Trace;

const PORT: u16 = 7_400;

/// What all nodes of a run are configured with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the static peer list.
    pub founders: Vec<String>,
    pub snapshot: SnapshotSettings,
    pub segment_bytes: u32,
    /// What a healthy disk takes for a batch.
    pub disk_latency: Duration,
    /// The network in fair weather.
    pub weather: Weather,
}

impl Settings {
    pub fn new(founders: usize) -> Self {
        Self {
            founders: (1..=founders).map(|number| format!("node-{number}")).collect(),
            snapshot: SnapshotSettings { every_entries: 100, keep_entries: 20 },
            segment_bytes: 32 * 1_024,
            disk_latency: Duration::from_millis(1),
            weather: Weather::default(),
        }
    }

    fn config(&self, name: &str) -> GroupConfig {
        let addr = |name: &str| format!("{name}:{PORT}");
        let listen = SocketAddr::from(([0, 0, 0, 0], PORT));
        let mut config = GroupConfig::new(name, listen, "/data");
        config.info = NodeInfo { peer_addr: addr(name), ..NodeInfo::default() };
        config.peers =
            self.founders.iter().map(|name| StaticPeer { name: name.clone(), addr: addr(name) }).collect();
        config.timing = Timing {
            raft_heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(500),
            node_timeout: Duration::from_secs(3),
            promotion_stable: Duration::from_secs(1),
            no_leader_wait: Duration::from_secs(1),
        };
        config.snapshot = self.snapshot;
        config
    }
}

/// One run of one node.
struct Run {
    process: Process,
    group: Option<Group>,
    paused: bool,
    /// Dropped with the process: whoever is connected sees the connection end.
    _alive: watch::Sender<()>,
    gone: watch::Receiver<()>,
}

struct Host<D> {
    disk: D,
    run: Option<Run>,
    runs: u64,
    /// Its disk fails or failed during this run: it may refuse to start or stop by itself.
    troubled: bool,
    /// Somebody asked to take it out of the cluster, or it is retired for good.
    leaving: bool,
    /// Stopped by an orderly shutdown that is under way.
    stopping: bool,
}

/// A cluster of machines with disks of type `D`. Clones share it.
pub struct Cluster<D> {
    pub net: SimNet,
    pub trace: Trace,
    pub ledger: Arc<Ledger>,
    settings: Settings,
    hosts: Arc<Mutex<BTreeMap<String, Host<D>>>>,
}

impl<D> Clone for Cluster<D> {
    fn clone(&self) -> Self {
        Self {
            net: self.net.clone(),
            trace: self.trace.clone(),
            ledger: self.ledger.clone(),
            settings: self.settings.clone(),
            hosts: self.hosts.clone(),
        }
    }
}

/// A client's connection to a running node.
#[derive(Clone)]
pub struct Connection {
    pub name: String,
    pub group: Group,
    process: Process,
    gone: watch::Receiver<()>,
}

impl Connection {
    /// Does something within the node. `None` when the node died meanwhile or did not answer in time: whatever
    /// was asked may have happened.
    pub async fn call<F>(&self, limit: Duration, ask: impl FnOnce(Group) -> F) -> Option<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let asked = self.process.own(ask(self.group.clone()));
        let mut gone = self.gone.clone();
        tokio::select! {
            biased;
            answer = asked => Some(answer),
            _ = gone.changed() => None,
            () = tokio::time::sleep(limit) => None,
        }
    }
}

impl<D: Machine> Cluster<D> {
    pub fn new(seed: u64, settings: Settings, trace: &Trace) -> Self {
        let net = SimNet::new(seed);
        net.set_weather(settings.weather.clone());
        Self {
            net,
            trace: trace.clone(),
            ledger: Ledger::new(trace.clone()),
            settings,
            hosts: Arc::default(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<String, Host<D>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Host<D>) -> T) -> Option<T> {
        self.hosts().get_mut(name).map(change)
    }

    /// Puts a new machine with an empty disk into the rack.
    pub fn add(&self, name: &str) {
        let host = Host {
            disk: self.new_disk(),
            run: None,
            runs: 0,
            troubled: false,
            leaving: false,
            stopping: false,
        };
        self.hosts().insert(name.to_owned(), host);
    }

    fn new_disk(&self) -> D {
        let disk = D::new();
        disk.sim().set_latency(self.settings.disk_latency);
        disk
    }

    /// Makes a disk healthy, roomy and quick again.
    pub fn mend_disk(&self, name: &str) {
        self.with(name, |host| {
            host.disk.sim().heal();
            host.disk.sim().set_capacity(None);
            host.disk.sim().set_latency(self.settings.disk_latency);
        });
    }

    /// All machines.
    pub fn names(&self) -> Vec<String> {
        self.hosts().keys().cloned().collect()
    }

    /// Machines for which `test` holds.
    fn names_where(&self, test: impl Fn(&Host<D>) -> bool) -> Vec<String> {
        self.hosts().iter().filter(|(_, host)| test(host)).map(|(name, _)| name.clone()).collect()
    }

    /// Machines with a process that makes progress.
    pub fn running(&self) -> Vec<String> {
        self.names_where(|host| host.run.as_ref().is_some_and(|run| !run.paused))
    }

    /// Machines without a process.
    pub fn down(&self) -> Vec<String> {
        self.names_where(|host| host.run.is_none())
    }

    /// The disk of a machine.
    pub fn disk(&self, name: &str) -> Option<D> {
        self.with(name, |host| host.disk.clone())
    }

    /// Connects to a running node.
    pub fn connect(&self, name: &str) -> Option<Connection> {
        let hosts = self.hosts();
        let run = hosts.get(name)?.run.as_ref()?;
        let group = run.group.clone()?;
        Some(Connection {
            name: name.to_owned(),
            group,
            process: run.process.clone(),
            gone: run.gone.clone(),
        })
    }

    /// Connects to every node that answers.
    pub fn connect_all(&self) -> Vec<Connection> {
        self.names().iter().filter_map(|name| self.connect(name)).collect()
    }

    /// A running node that leads as far as it knows.
    pub fn leader(&self) -> Option<Connection> {
        self.connect_all().into_iter().find(|node| node.group.status().is_leader)
    }

    /// The machine that is this member.
    pub fn name_of(&self, id: NodeId) -> Option<String> {
        let of_id = |node: &Connection| node.group.identity().node_id == Some(id);
        self.connect_all().into_iter().find(of_id).map(|node| node.name)
    }

    /// Starts a process on a machine that has none.
    pub fn start(&self, name: &str) {
        let process = Process::new();
        let (alive, gone) = watch::channel(());
        let started = self.with(name, |host| {
            if host.run.is_some() {
                return None;
            }
            host.runs += 1;
            host.stopping = false;
            let run = Run { process: process.clone(), group: None, paused: false, _alive: alive, gone };
            host.run = Some(run);
            Some((host.disk.clone(), host.runs))
        });
        let Some((disk, run)) = started.flatten() else { return };
        self.trace.note(format_args!("{name}: starts, run {run}"));
        let (cluster, config) = (self.clone(), self.settings.config(name));
        let net = self.net.host(name);
        let options =
            StoreOptions { segment_bytes: self.settings.segment_bytes, ..StoreOptions::simulation() };
        let log = NodeLog::new(name, &self.ledger);
        let name = name.to_owned();
        drop(tokio::spawn(process.own(async move {
            match Group::start_with(config, disk, net, options, Some(log)).await {
                Ok(group) => cluster.started(&name, run, group).await,
                Err(error) => cluster.not_started(&name, run, &error.to_string()),
            }
        })));
    }

    async fn started(&self, name: &str, run: u64, group: Group) {
        self.with(name, |host| {
            if let Some(current) = host.run.as_mut().filter(|_| host.runs == run) {
                current.group = Some(group.clone());
            }
        });
        let mut status = group.status_watch();
        loop {
            let (term, leader, cluster) = {
                let status = status.borrow_and_update();
                (status.term, status.leader, group.identity().cluster_id)
            };
            if let Some(leader) = leader {
                self.ledger.leads(name, term, leader);
            }
            if let Some(cluster) = cluster {
                self.ledger.belongs(name, cluster);
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    fn not_started(&self, name: &str, run: u64, error: &str) {
        self.trace.note(format_args!("{name}: does not start: {error}"));
        let cluster = self.clone();
        let name = name.to_owned();
        let error = error.to_owned();
        // The process ends itself, and may not do so from one of its own tasks.
        drop(tokio::spawn(async move {
            let troubled = cluster.with(&name, |host| {
                if host.runs == run
                    && let Some(run) = host.run.take()
                {
                    run.process.kill();
                }
                host.troubled
            });
            if troubled == Some(false) {
                cluster.trace.violation(format!("{name} does not start: {error}"));
            }
        }));
    }

    /// Ends the process of a machine on the spot. With a seed the power fails too, and the disk loses what was
    /// not synced.
    pub fn kill(&self, name: &str, power: Option<u64>) {
        let run = self.with(name, |host| host.run.take()).flatten();
        if let Some(run) = run {
            let how = if power.is_some() { "loses power" } else { "is killed" };
            self.trace.note(format_args!("{name}: {how}, {} tasks", run.process.tasks()));
            if power.is_some() {
                self.net.power_off(name);
            }
            run.process.kill();
        }
        self.with(name, |host| {
            let disk = match power {
                Some(seed) => host.disk.crash(seed),
                None => host.disk.kill(),
            };
            // A restarted machine has a healthy disk again, apart from what is full.
            host.disk = disk;
        });
        if power.is_some() {
            self.net.power_on(name);
        }
    }

    /// Stops polling the tasks of a node, or goes on with them.
    pub fn pause(&self, name: &str, paused: bool) {
        let changed = self.with(name, |host| {
            let run = host.run.as_mut().filter(|run| run.paused != paused)?;
            run.paused = paused;
            if paused {
                run.process.pause();
            } else {
                run.process.resume();
            }
            Some(())
        });
        if changed.flatten().is_some() {
            self.trace.note(format_args!("{name}: {}", if paused { "is paused" } else { "goes on" }));
        }
    }

    /// Replaces the disk of a machine by an empty one.
    pub fn wipe(&self, name: &str) {
        self.kill(name, None);
        self.trace.note(format_args!("{name}: gets an empty disk"));
        let disk = self.new_disk();
        self.with(name, |host| {
            host.disk = disk;
            host.troubled = false;
        });
    }

    /// From now on this node may stop or refuse to start because of its disk.
    pub fn set_troubled(&self, name: &str, troubled: bool) {
        self.with(name, |host| host.troubled = troubled);
    }

    /// From now on this node may be out of the cluster.
    pub fn set_leaving(&self, name: &str) {
        self.with(name, |host| host.leaving = true);
    }

    /// From now on this node stops because it was asked to.
    pub fn set_stopping(&self, name: &str) {
        self.with(name, |host| host.stopping = true);
    }

    /// Ends the processes of nodes that stopped by themselves, as a supervisor would see them exit. Whoever
    /// stops without cause is wrong.
    pub fn reap(&self) -> Vec<String> {
        let mut reaped = Vec::new();
        for node in self.connect_all() {
            let status = node.group.status();
            if let Integrity::Held { reason } | Integrity::Quarantined { reason } = &status.integrity {
                self.trace.violation(format!("{}: {reason}", node.name));
            }
            let Phase::Stopped { reason } = status.phase else { continue };
            let excused =
                self.with(&node.name, |host| host.troubled || host.leaving || host.stopping).unwrap_or(false);
            self.trace.note(format_args!("{}: stopped by itself: {reason}", node.name));
            if !excused {
                self.trace.violation(format!("{} stopped by itself: {reason}", node.name));
            }
            self.kill(&node.name, None);
            reaped.push(node.name);
        }
        reaped
    }
}

/// Whether a machine may be out of the cluster for good.
impl<D: Disk> Cluster<D> {
    pub fn is_leaving(&self, name: &str) -> bool {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(name).is_none_or(|host| host.leaving)
    }
}
