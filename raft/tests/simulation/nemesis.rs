//! What goes wrong in a run, drawn from its seed: crashes, pauses, partitions, bad weather, failing disks, and
//! operators who move leaders and members about.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use ovncp_storage::disk::{Fault, SimOp};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::support::sim_net::Weather;

const EIO: i32 = 5;
/// Machines in a rack at most.
const MACHINES_MAX: usize = 5;

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Kill,
    PowerLoss,
    TornWrite,
    KillAll,
    Pause,
    Split,
    OneWay,
    Bridge,
    Reset,
    Storm,
    SlowDisk,
    DiskError,
    DiskFull,
    Transfer,
    Shutdown,
    Join,
    Remove,
    Wipe,
}

impl Trouble {
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::PowerLoss,
        Self::TornWrite,
        Self::KillAll,
        Self::Pause,
        Self::Split,
        Self::OneWay,
        Self::Bridge,
        Self::Reset,
        Self::Storm,
        Self::SlowDisk,
        Self::DiskError,
        Self::DiskFull,
        Self::Transfer,
        Self::Shutdown,
        Self::Join,
        Self::Remove,
        Self::Wipe,
    ];
}

/// What ends a trouble.
enum Relief {
    Start(String),
    Resume(String),
    Mend(Vec<(String, String)>),
    Calm,
    Disk(String),
    PowerLoss(String),
}

/// Makes trouble until a moment, then has everything repaired.
pub struct Nemesis<D> {
    cluster: Cluster<D>,
    rng: SmallRng,
    kinds: Vec<Trouble>,
    /// By moment and number.
    reliefs: BTreeMap<(Instant, u64), Relief>,
    count: u64,
    /// A voter whose disk was wiped, until another node has its place.
    wiped: Option<String>,
    /// How often each kind happened.
    pub made: BTreeMap<Trouble, u64>,
}

impl<D: Machine> Nemesis<D> {
    /// Draws a handful of kinds for this run.
    pub fn new(cluster: &Cluster<D>, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut kinds = Trouble::ALL.to_vec();
        let wanted = rng.random_range(3..9);
        while kinds.len() > wanted {
            kinds.remove(rng.random_range(0..kinds.len()));
        }
        Self::with_kinds(cluster, rng, kinds)
    }

    /// The same with chosen kinds.
    pub fn with_kinds(cluster: &Cluster<D>, rng: SmallRng, kinds: Vec<Trouble>) -> Self {
        cluster.trace.note(format_args!("nemesis: {kinds:?}"));
        let cluster = cluster.clone();
        let (reliefs, made) = (BTreeMap::new(), BTreeMap::new());
        Self { cluster, rng, kinds, reliefs, count: 0, wiped: None, made }
    }

    /// Makes trouble for this long.
    pub async fn rage(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        let mut next = Instant::now() + self.millis(200..1_500);
        while Instant::now() < end && self.cluster.trace.first_violation().is_none() {
            let relief = self.reliefs.keys().next().map_or(end, |(at, _)| *at);
            sleep_until(next.min(relief).min(end)).await;
            self.relieve(Some(Instant::now()));
            for name in self.cluster.reap() {
                let relief = Relief::Start(name);
                self.later(200..3_000, relief);
            }
            if Instant::now() >= next {
                let kind = self.kinds[self.rng.random_range(0..self.kinds.len())];
                if self.make(kind) {
                    *self.made.entry(kind).or_default() += 1;
                }
                next = Instant::now() + self.millis(50..2_000);
            }
        }
    }

    /// Ends every trouble and starts whatever is down.
    pub async fn repair(&mut self) {
        self.relieve(None);
        self.cluster.trace.note(format_args!("nemesis: everything is repaired"));
        self.cluster.net.heal();
        self.calm();
        for name in self.cluster.names() {
            self.cluster.pause(&name, false);
            self.cluster.mend_disk(&name);
        }
        // Nodes that stop because of what their disk did before are started once more.
        sleep(Duration::from_millis(500)).await;
        self.cluster.reap();
        for name in self.cluster.down() {
            if !self.cluster.is_leaving(&name) {
                self.cluster.start(&name);
            }
            self.cluster.set_troubled(&name, false);
        }
    }

    fn relieve(&mut self, until: Option<Instant>) {
        while let Some(entry) = self.reliefs.first_entry() {
            if until.is_some_and(|until| entry.key().0 > until) {
                return;
            }
            match entry.remove() {
                Relief::Start(name) => self.cluster.start(&name),
                Relief::Resume(name) => self.cluster.pause(&name, false),
                Relief::Mend(paths) => {
                    self.cluster.trace.note(format_args!("network: mended {paths:?}"));
                    for (from, to) in paths {
                        self.cluster.net.mend_one_way(&from, &to);
                    }
                }
                Relief::Calm => self.calm(),
                Relief::Disk(name) => self.mend_disk(&name),
                Relief::PowerLoss(name) => {
                    let seed = self.rng.next_u64();
                    self.cluster.kill(&name, Some(seed));
                    self.later(50..3_000, Relief::Start(name));
                }
            }
        }
    }

    fn calm(&self) {
        self.cluster.net.set_weather(self.cluster.settings().weather.clone());
    }

    fn mend_disk(&mut self, name: &str) {
        self.cluster.trace.note(format_args!("{name}: its disk is healthy again"));
        self.cluster.mend_disk(name);
        // An operator starts it once more: after a failure it does not come back by itself.
        for name in self.cluster.reap() {
            self.later(10..500, Relief::Start(name));
        }
        if self.cluster.down().iter().any(|down| down == name) {
            self.later(10..500, Relief::Start(name.to_owned()));
        }
    }

    fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    fn later(&mut self, after: Range<u64>, relief: Relief) {
        let at = Instant::now() + self.millis(after);
        self.count += 1;
        self.reliefs.insert((at, self.count), relief);
    }

    fn pick(&mut self, among: &[String]) -> Option<String> {
        (!among.is_empty()).then(|| among[self.rng.random_range(0..among.len())].clone())
    }

    /// A node that runs; the leader more often than by chance.
    fn victim(&mut self) -> Option<String> {
        let leader = self.cluster.leader().filter(|_| self.rng.random_bool(0.4));
        match leader {
            Some(leader) => Some(leader.name),
            None => self.pick(&self.cluster.running()),
        }
    }

    /// Makes one trouble, if it is possible now.
    fn make(&mut self, kind: Trouble) -> bool {
        match kind {
            Trouble::Split | Trouble::OneWay | Trouble::Bridge | Trouble::Reset | Trouble::Storm => {
                self.trouble_network(kind).is_some()
            }
            Trouble::Transfer | Trouble::Shutdown | Trouble::Join | Trouble::Remove | Trouble::Wipe => {
                self.operate(kind).is_some()
            }
            _ => self.trouble_machine(kind).is_some(),
        }
    }

    fn trouble_machine(&mut self, kind: Trouble) -> Option<()> {
        let name = self.victim()?;
        let disk = self.cluster.disk(&name)?;
        match kind {
            Trouble::Kill => {
                self.cluster.kill(&name, None);
                self.later(0..4_000, Relief::Start(name));
            }
            Trouble::PowerLoss => {
                let seed = self.rng.next_u64();
                self.cluster.kill(&name, Some(seed));
                self.later(50..4_000, Relief::Start(name));
            }
            Trouble::TornWrite => {
                // The disk dies in the middle of whatever it does next, and the rest of the machine soon after.
                let step = disk.sim().counters().steps + self.rng.random_range(1..12);
                self.cluster.trace.note(format_args!("{name}: its disk dies at step {step}"));
                self.cluster.set_troubled(&name, true);
                disk.sim().power_off_at(step);
                self.later(5..400, Relief::PowerLoss(name));
            }
            Trouble::KillAll => {
                for name in self.cluster.names() {
                    let power = self.rng.random_bool(0.5).then(|| self.rng.next_u64());
                    if self.cluster.running().contains(&name) {
                        self.cluster.kill(&name, power);
                        self.later(0..3_000, Relief::Start(name));
                    }
                }
            }
            Trouble::Pause => {
                self.cluster.pause(&name, true);
                self.later(100..6_000, Relief::Resume(name));
            }
            Trouble::SlowDisk => {
                let latency = self.millis(5..250);
                self.cluster.trace.note(format_args!("{name}: its disk takes {latency:?}"));
                disk.sim().set_latency(latency);
                self.later(500..5_000, Relief::Disk(name));
            }
            Trouble::DiskError => {
                let op = [SimOp::Write, SimOp::Sync, SimOp::Name][self.rng.random_range(0..3)];
                let after = self.rng.random_range(0..20);
                self.cluster.trace.note(format_args!("{name}: EIO at {op:?} after {after} more"));
                self.cluster.set_troubled(&name, true);
                disk.sim().inject(Fault { op, path: String::new(), after, errno: EIO, sticky: false });
                self.later(500..4_000, Relief::Disk(name));
            }
            _ => {
                let room = self.rng.random_range(0..40_000);
                self.cluster.trace.note(format_args!("{name}: its disk has {room} bytes left"));
                self.cluster.set_troubled(&name, true);
                disk.sim().set_capacity(Some(disk.sim().used() + room));
                self.later(1_000..6_000, Relief::Disk(name));
            }
        }
        Some(())
    }

    fn trouble_network(&mut self, kind: Trouble) -> Option<()> {
        let names = self.cluster.names();
        let victim = self.victim()?;
        let mut paths = Vec::new();
        let mut cut = |a: &String, b: &String| {
            if a != b {
                paths.push((a.clone(), b.clone()));
            }
        };
        match kind {
            Trouble::Split => {
                // A minority, or half of an even number, on one side.
                let side = self.rng.random_range(1..=names.len() / 2);
                let at = names.iter().position(|name| *name == victim)?;
                let inside =
                    |name: &String| names.iter().cycle().skip(at).take(side).any(|other| other == name);
                for a in &names {
                    for b in names.iter().filter(|b| inside(a) != inside(b)) {
                        cut(a, b);
                    }
                }
            }
            Trouble::OneWay => {
                let inward = self.rng.random_bool(0.5);
                let all = self.rng.random_bool(0.5);
                let other = self.rng.random_range(0..names.len());
                for (at, name) in names.iter().enumerate() {
                    if all || at == other {
                        if inward { cut(name, &victim) } else { cut(&victim, name) }
                    }
                }
            }
            Trouble::Bridge => {
                // Only the victim sees everybody.
                let others: Vec<&String> = names.iter().filter(|name| **name != victim).collect();
                let (left, right) = others.split_at(others.len() / 2);
                for a in left {
                    for b in right {
                        cut(a, b);
                        cut(b, a);
                    }
                }
            }
            Trouble::Reset => {
                self.cluster.trace.note(format_args!("{victim}: its connections are reset"));
                self.cluster.net.reset_host(&victim);
                return Some(());
            }
            _ => {
                let worst = self.rng.random_range(2..80);
                let weather = Weather {
                    latency_ms: 0..=worst,
                    loss_per_10k: self.rng.random_range(0..800),
                    ..Weather::default()
                };
                self.cluster.trace.note(format_args!("network: {weather:?}"));
                self.cluster.net.set_weather(weather);
                self.later(500..5_000, Relief::Calm);
                return Some(());
            }
        }
        self.cluster.trace.note(format_args!("network: cut {paths:?}"));
        for (from, to) in &paths {
            self.cluster.net.cut_one_way(from, to);
        }
        self.later(300..6_000, Relief::Mend(paths));
        Some(())
    }

    fn operate(&mut self, kind: Trouble) -> Option<()> {
        match kind {
            Trouble::Transfer => self.transfer(),
            Trouble::Shutdown => self.shut_down(),
            Trouble::Join => {
                let names = self.cluster.names();
                let name = format!("node-{}", names.len() + 1);
                if names.len() >= MACHINES_MAX {
                    return None;
                }
                self.cluster.add(&name);
                self.cluster.start(&name);
                Some(())
            }
            Trouble::Remove => self.remove(),
            _ => self.wipe(),
        }
    }

    fn transfer(&mut self) -> Option<()> {
        let name = self.pick(&self.cluster.running())?;
        let node = self.cluster.connect(&name)?;
        let members = node.group.status().voters;
        let target = (!members.is_empty() && self.rng.random_bool(0.7))
            .then(|| members[self.rng.random_range(0..members.len())]);
        let trace = self.cluster.trace.clone();
        drop(tokio::spawn(async move {
            let limit = Duration::from_secs(2);
            let asked = node
                .call(limit * 2, move |group| async move { group.transfer_leader(target, limit).await })
                .await;
            trace.note(format_args!("operator: transfer to {target:?} at {name}: {asked:?}"));
        }));
        Some(())
    }

    fn shut_down(&mut self) -> Option<()> {
        let name = self.victim()?;
        let node = self.cluster.connect(&name)?;
        self.cluster.set_stopping(&name);
        self.cluster.trace.note(format_args!("operator: shuts {name} down"));
        let cluster = self.cluster.clone();
        let restart = self.millis(100..3_000);
        drop(tokio::spawn(async move {
            let limit = Duration::from_secs(10);
            let done = node.call(limit, |group| async move { group.shutdown().await }).await;
            cluster.trace.note(format_args!("operator: {name} is shut down: {done:?}"));
            // Dead meanwhile: somebody else starts it.
            if done.is_some() {
                cluster.kill(&name, None);
                sleep(restart).await;
                cluster.start(&name);
            }
        }));
        Some(())
    }

    fn remove(&mut self) -> Option<()> {
        let name = self.pick(&self.cluster.running())?;
        let members = self.cluster.leader()?.group.status();
        if members.voters.len() + members.learners.len() <= self.cluster.settings().founders.len() {
            return None;
        }
        let node = self.cluster.connect(&name)?;
        let id = node.group.identity().node_id?;
        let asked = self.cluster.leader()?;
        self.cluster.set_leaving(&name);
        let trace = self.cluster.trace.clone();
        drop(tokio::spawn(async move {
            let limit = Duration::from_secs(5);
            let reason = "simulated".to_owned();
            let done = asked
                .call(limit * 2, move |group| async move { group.remove_node(id, reason, limit).await })
                .await;
            trace.note(format_args!("operator: removes {name}, node {id}: {done:?}"));
        }));
        Some(())
    }

    /// At most one voter at a time may lose its disk, and only while all others are well: more would be the
    /// loss of the quorum for good.
    fn wipe(&mut self) -> Option<()> {
        let leader = self.cluster.leader()?;
        let status = leader.group.status();
        if let Some(wiped) = &self.wiped {
            let id = self.cluster.connect(wiped)?.group.identity().node_id?;
            if !status.voters.contains(&id) {
                return None;
            }
            self.wiped = None;
        }
        let running = self.cluster.running();
        // The leader's membership holds from its append on; a majority may not have it before it is committed, and
        // then the wiped node of the last swap still counts.
        let committed = status.committed == status.last_log;
        let well = committed
            && status.voters.len() >= 3
            && status
                .voters
                .iter()
                .all(|voter| self.cluster.name_of(*voter).is_some_and(|name| running.contains(&name)));
        if !well {
            return None;
        }
        let name = self.victim()?;
        let voter = self.cluster.connect(&name)?.group.identity().node_id?;
        self.cluster.wipe(&name);
        if status.voters.contains(&voter) {
            self.wiped = Some(name.clone());
        }
        self.later(0..2_000, Relief::Start(name));
        Some(())
    }
}
