//! Starts one node: opens what is stored, binds, and sets every task going.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::RaftLogReader;
use ovncp_state::NodeId;
use ovncp_storage::disk::Disk;
use ovncp_storage::runtime::{self, random_u64};
use ovncp_storage::{DataDir, Replica, StorageError, Store, StoreOptions};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::agreement::Agreement;
use crate::callers::Callers;
use crate::counters::Counters;
use crate::engine::{Engine, Handler, Members};
use crate::error::StartError;
use crate::network::{self, Net, NetworkOptions, PeerNetwork};
use crate::observer::{Logs, Observer, Sink, spawn_recheck};
use crate::peers::Peers;
use crate::seat::Seat;
use crate::settings::GroupConfig;
use crate::shared::{LEADER_PENDING_BYTES_MAX, LEADER_PENDING_MAX, Membership, Route, Shared};
use crate::status::{GroupStatus, Phase};
use crate::waiters::Waiters;
use crate::{duties, failover, formation, integrity, lookout, office, proposals, reads, renewals, report};

/// A node that stops waits so long for a snapshot that is being built.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(10);

/// The tasks of a running node.
pub(crate) struct Running {
    pub(crate) status: watch::Sender<GroupStatus>,
    pub(crate) peer_address: String,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Ends when nobody uses the data directory any more.
    released: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Running {
    fn add(&self, task: JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Waits until everything has ended.
    pub(crate) async fn join(&self, shared: &Shared) {
        if let Some(consensus) = shared.consensus.get() {
            consensus.shutdown().await;
        }
        shared.peers.shutdown().await;
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A task that panicked has said so itself.
            let _ = task.await;
        }
        // openraft does not wait for what applies entries or builds a snapshot.
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(released) = released
            && timeout(RELEASE_TIME_MAX, released).await.is_err()
        {
            tracing::warn!("the data directory is still in use, by a snapshot perhaps");
        }
    }
}

/// What was opened and bound, before anything runs.
struct Opened<D: Disk, N: Net> {
    dir: DataDir<D>,
    store: Store<D>,
    agreement: Option<Agreement>,
    net: N,
    listener: N::Listener,
    installed: Arc<Notify>,
}

pub(crate) async fn start<D: Disk, N: Net>(
    config: GroupConfig,
    disk: D,
    net: N,
    options: StoreOptions,
    observer: Option<Arc<dyn Observer>>,
) -> Result<(Arc<Shared>, Arc<Running>), StartError> {
    config.validate()?;
    let raft_config = config.raft_config()?;
    let listen = config.listen.to_string();
    let (callers, waiters) = (Callers::new(), Arc::new(Waiters::default()));
    let events = watch::Sender::new(ovncp_state::EventOffset(0));
    let logs = Logs::new();
    let installed = Arc::new(Notify::new());
    let sink = Arc::new(Sink {
        callers: Arc::clone(&callers),
        waiters: Arc::clone(&waiters),
        events: events.clone(),
        logs: logs.clone(),
        installed: Arc::clone(&installed),
        observer,
    });
    let failed = |error: StorageError| storage_failed(&config.data_dir, error);
    let dir = DataDir::open(disk, &config.data_dir).map_err(failed)?;
    refuse_quarantined(&dir)?;
    let store = ovncp_storage::open(dir.clone(), options, sink).map_err(failed)?;
    let agreement =
        Agreement::load(dir.disk(), dir.path()).map_err(|error| storage_failed(&config.data_dir, error))?;
    check_name(&config, &dir, &store)?;
    let own = dir.node_id();
    check_version(&config, own, &store.replica)?;
    let listen_failed = |source| StartError::Listen { addr: listen.clone(), source };
    let listener = net.bind(&listen).await.map_err(listen_failed)?;
    let peer_address = net.local_addr(&listener).map_err(listen_failed)?;
    store.replica.read(|state| logs.catch_up(state));
    events.send_replace(store.replica.read(|state| state.cluster().events.1));
    let opened = Opened { dir, store, agreement, net, listener, installed };
    let parts = (callers, waiters, events, logs);
    run(config, raft_config, opened, parts, peer_address).await
}

fn storage_failed(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Storage { path: path.display().to_string(), source: Box::new(error) }
}

/// What was found to be wrong is not served again, not even for the moment until it is found again.
fn refuse_quarantined<D: Disk>(dir: &DataDir<D>) -> Result<(), StartError> {
    let path = || dir.path().display().to_string();
    match integrity::load(dir.disk(), dir.path()) {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(StartError::Quarantined { path: path(), reason }),
        Err(error) => Err(StartError::Storage { path: path(), source: Box::new(error) }),
    }
}

/// A data directory belongs to the node that made it.
fn check_name<D: Disk>(config: &GroupConfig, dir: &DataDir<D>, store: &Store<D>) -> Result<(), StartError> {
    let own = dir.node_id().and_then(|id| store.replica.read(|state| state.node(id)));
    match own.filter(|node| node.name != config.name) {
        Some(node) => Err(StartError::WrongName {
            path: config.data_dir.display().to_string(),
            found: node.name,
            name: config.name.clone(),
        }),
        None => Ok(()),
    }
}

/// A state that a later version may have written must not be gone on with, even where it can be read.
fn check_version(config: &GroupConfig, id: Option<NodeId>, replica: &Replica) -> Result<(), StartError> {
    match replica.read(|state| lookout::outdated(state, id, config)) {
        None => Ok(()),
        Some((own, cluster)) => {
            Err(StartError::Outdated { path: config.data_dir.display().to_string(), own, cluster })
        }
    }
}

type Parts = (Arc<Callers>, Arc<Waiters>, watch::Sender<ovncp_state::EventOffset>, Logs);

async fn run<D: Disk, N: Net>(
    config: GroupConfig,
    raft_config: Arc<openraft::Config>,
    opened: Opened<D, N>,
    (callers, waiters, events, logs): Parts,
    peer_address: String,
) -> Result<(Arc<Shared>, Arc<Running>), StartError> {
    let Opened { dir, store, agreement, net, listener, installed } = opened;
    let place = seat_on_disk(&dir);
    let identity = network::Identity::new(config.name.clone(), dir.incarnation(), dir.boot(), random_u64());
    let presented = place.or_else(|| agreement.as_ref().and_then(|known| known.place(dir.incarnation())));
    identity.set_membership(presented.map(|place| place.cluster_id), presented.map(|place| place.node_id));
    let network_options = NetworkOptions::default();
    let members = Arc::new(Members(store.replica.clone()));
    let network = PeerNetwork::new(net, Arc::new(identity), members, network_options);

    let voted_before =
        store.log.reader().read_vote().await.ok().flatten().map_or(0, |vote| vote.leader_id.term);
    let (proposal_sender, proposal_queue) = proposals::queue();
    let (read_sender, read_queue) = reads::queue();
    let (renewal_sender, renewal_queue) = renewals::queue();
    let (flush_sender, flush_queue) = renewals::flushes();
    let shared = Arc::new(Shared {
        incarnation: dir.incarnation(),
        boot: dir.boot(),
        replica: store.replica.clone(),
        callers,
        waiters,
        counters: Counters::default(),
        storage: Arc::clone(&store.stats),
        voted_before,
        peers: Arc::new(network.clone()) as Arc<dyn Peers>,
        consensus: OnceLock::new(),
        seated: watch::Sender::new(false),
        membership: Mutex::new(None),
        clock: Mutex::new(None),
        applied_term: watch::Sender::new(0),
        route: watch::Sender::new(Route::Nobody { last_known: None }),
        known_peers: Mutex::default(),
        last_heard: Mutex::new(None),
        phase: watch::Sender::new(Phase::Recovering),
        integrity: watch::Sender::default(),
        events,
        logs,
        proposals: proposal_sender,
        reads: read_sender,
        renewals: renewal_sender,
        flush_renewals: flush_sender,
        admission: Arc::new(Semaphore::new(LEADER_PENDING_MAX)),
        admission_bytes: Arc::new(Semaphore::new(LEADER_PENDING_BYTES_MAX)),
        stopping: watch::Sender::new(None),
        started: Instant::now(),
        config,
    });
    let released: Mutex<Option<BoxFuture<'static, ()>>> = Mutex::new(Some(Box::pin(dir.released())));
    let engine =
        Engine::new(Arc::clone(&shared), dir, raft_config, network.clone(), store, agreement.clone());
    let mut tasks = vec![
        runtime::spawn(proposals::run(Arc::clone(&shared), proposal_queue)),
        runtime::spawn(reads::run(Arc::clone(&shared), read_queue)),
        runtime::spawn(renewals::run(Arc::clone(&shared), renewal_queue, flush_queue)),
    ];
    spawn_recheck(&shared, installed);
    let stopped = Arc::clone(&shared);
    let handler = Arc::new(Handler(Arc::clone(&engine)));
    tasks.push(runtime::spawn(async move {
        network::serve(network, listener, handler, async move { stopped.until_stopped().await }).await;
    }));
    let status = watch::Sender::new(report::status(&shared));
    tasks.push(runtime::spawn(report::run(Arc::clone(&shared), status.clone())));
    let running = Running { status, peer_address, tasks: Mutex::new(tasks), released };
    if let Some(place) = place
        && let Err(error) = resume(&shared, &*engine, place).await
    {
        shared.stop(error.to_string());
        // The last that holds the directory, when its tasks have ended.
        drop(engine);
        running.join(&shared).await;
        return Err(error);
    }
    running.add(runtime::spawn(live(Arc::clone(&shared), engine, place.zip(agreement))));
    Ok((shared, Arc::new(running)))
}

/// Takes the seat that the directory has. The log may know more than the snapshot: what is known to be committed has
/// been applied when this returns, and may have raised the cluster's version.
async fn resume(shared: &Shared, seat: &dyn Seat, place: Membership) -> Result<(), StartError> {
    seat.take(place).await.map_err(|error| StartError::Raft { reason: error.to_string() })?;
    check_version(&shared.config, Some(place.node_id), &shared.replica)
}

/// The seat that the data directory has taken.
fn seat_on_disk<D: Disk>(dir: &DataDir<D>) -> Option<Membership> {
    Some(Membership { cluster_id: dir.cluster_id()?, node_id: dir.node_id()?, key: dir.cluster_key()? })
}

/// From a seat, found or taken, to the end.
async fn live(shared: Arc<Shared>, seat: Arc<dyn Seat>, resumed: Option<(Membership, Agreement)>) {
    match resumed {
        Some((place, agreement)) => formation::resume(&shared, &agreement, place).await,
        None if shared.consensus.get().is_none() => {
            formation::run(Arc::clone(&shared), Arc::clone(&seat)).await;
        }
        None => {}
    }
    let Some(consensus) = shared.consensus.get().cloned() else { return };
    tokio::join!(
        office::run(Arc::clone(&shared), Arc::clone(&consensus)),
        duties::run(Arc::clone(&shared), Arc::clone(&consensus), Arc::clone(&seat)),
        failover::run(Arc::clone(&shared), Arc::clone(&consensus)),
        integrity::run(Arc::clone(&shared), Arc::clone(&consensus), Arc::clone(&seat)),
        lookout::run(Arc::clone(&shared), Arc::clone(&consensus)),
        lookout::report_start(Arc::clone(&shared)),
    );
    // Whatever the reason: a stopped node neither votes nor appends.
    consensus.shutdown().await;
}
