//! One running node: the only place that knows every part.
//!
//! [`Node::build`] opens the data directory and binds every port; [`Node::run`] serves until it is told to
//! stop, then finishes requests, hands leadership over and returns. It never changes the membership.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ovncp_raft::Observer;
use ovncp_raft::error::StartError;
use ovncp_raft::group::Group;
use ovncp_raft::settings::{GroupConfig, SnapshotSettings, StaticPeer, Timing};
use ovncp_state::command::NodeInfo;
use ovncp_state::{LogIndex, Millis};
use ovncp_storage::sink::AppliedEntry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::App;
use crate::api::config::ServerConfig;
use crate::api::edge::Edge;
use crate::api::health::Health;
use crate::api::server::{self, Limits};
use crate::api::{metrics, openapi};
use crate::config::value::join_host_port;
use crate::config::{Config, ConfigError};
use crate::services::elections::Elections;
use crate::services::events::Events;
use crate::services::invalidations::Invalidations;
use crate::services::leader_task::LeaderTask;
use crate::services::locks::Locks;
use crate::services::membership::Membership;
use crate::services::network::{Network, upkeep};
use crate::services::registers::Registers;
use crate::services::report;
use crate::services::sessions::hub::{Hub, SessionObserver};
use crate::services::sessions::{self, Sessions};
use crate::services::{Core, Patience};
use crate::telemetry::metrics::{HttpMetrics, LockMetrics, LockObserver, Metrics, SessionMetrics};

/// How long a stopping node takes waiters whose clients it has sent away out of their queues.
const CANCELLATIONS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stopping node waits for closed sockets to be gone and reported.
const SOCKETS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one try of a stopping leader may take to hand its office over while it still serves.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before another try: no other voter was caught up, or none answered at that moment.
const HANDOVER_PAUSE: Duration = Duration::from_millis(100);

/// Why a node did not start or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration lacks something.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The group did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A port cannot be bound.
    #[error("listen for {purpose} on {address}: {source}")]
    Listen {
        /// What for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A node with its ports bound.
pub struct Node {
    config: Config,
    group: Group,
    core: Core,
    invalidations: Invalidations,
    metrics: Metrics,
    locks: Locks,
    network: Network,
    /// Sockets of this node; there are none before it runs.
    hub: Arc<Hub>,
    http: TcpListener,
    scrape: TcpListener,
    http_address: SocketAddr,
    metrics_address: SocketAddr,
}

impl Node {
    /// Starts the group and binds every port. The node serves nothing before [`run`](Self::run).
    pub async fn build(config: Config) -> Result<Self, NodeError> {
        config.check_start()?;
        // HTTP ports first: the group announces the one that was really bound.
        let (http, http_address) = bind("HTTP", &config, config.server.port).await?;
        let (scrape, metrics_address) = bind("metrics", &config, config.server.metrics_port).await?;
        let locks = Arc::new(LockMetrics::default());
        let (hub, sessions) = (Arc::new(Hub::default()), Arc::new(SessionMetrics::default()));
        let observer = Arc::new(Observers(
            LockObserver(Arc::clone(&locks)),
            SessionObserver { hub: Arc::clone(&hub), metrics: Arc::clone(&sessions) },
        ));
        let group = Group::start_observed(group_config(&config, http_address.port()), observer).await?;
        let (propose, read) = (config.server.propose_timeout, config.server.read_timeout);
        let core = Core::new(group.clone(), Patience { propose, read });
        let invalidations =
            Invalidations::new(core.clone(), config.server.connections_max, config.cluster.node_timeout);
        let lock_service = Locks::new(core.clone(), Arc::clone(&locks));
        let network = Network::open(&config, core.clone(), lock_service.clone(), &invalidations);
        let metrics = Metrics::new(
            &config.cluster.node_id,
            group.clone(),
            network.clone(),
            locks,
            Arc::clone(invalidations.metrics()),
            sessions,
            http_metrics(&config.server),
        );
        Ok(Self {
            config,
            group,
            core,
            invalidations,
            metrics,
            locks: lock_service,
            network,
            hub,
            http,
            scrape,
            http_address,
            metrics_address,
        })
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where metrics are served.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// This node's part in the group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The invalidation log, and caches that it clears once the node runs.
    #[must_use]
    pub fn invalidations(&self) -> &Invalidations {
        &self.invalidations
    }

    /// Serves until `shutdown` resolves, then ends in order: no longer ready, leadership, no new connections,
    /// requests in progress, disk. Whoever sends requests to any node, and tries another one when this one is
    /// gone, loses none.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        let (drain, draining) = watch::channel(false);
        let (close, closing) = watch::channel(false);
        let name = &self.config.cluster.node_id;
        let core = self.core.clone();
        let lock_metrics = Arc::clone(&self.metrics.locks);
        let locks = self.locks.clone();
        let sessions = Sessions::new(core.clone(), Arc::clone(&self.hub), session_settings(&self.config));
        let health = Health::new(
            self.group.clone(),
            self.network.clone(),
            draining.clone(),
            sessions.standing_watch(),
        );
        let app = Arc::new(App {
            node_name: name.clone(),
            locks: locks.clone(),
            elections: Elections::new(locks.clone()),
            events: Events::new(core.clone(), self.config.server.connections_max),
            invalidations: self.invalidations.clone(),
            registers: Registers::new(core.clone()),
            sessions: sessions.clone(),
            session_metrics: Arc::clone(&self.metrics.sessions),
            network: self.network.clone(),
            membership: Membership::new(core),
            health: health.clone(),
            admin_token: self.config.server.admin_token.clone(),
            body_timeout: self.config.server.body_timeout,
            draining: draining.clone(),
        });
        // Until the listener has ended: who waits for a barrier waits for this node, too.
        let applier = tokio::spawn(self.invalidations.clone().run(closing.clone()));
        let feed = self.network.feed().ok().cloned();
        let feed = feed.map(|feed| tokio::spawn(feed.run(closing.clone())));
        let reports = self.report(Elections::new(locks.clone()), draining.clone());
        let upkeep = self.keep_up(Elections::new(locks.clone()), draining.clone());
        let http_metrics = Arc::clone(&self.metrics.http);
        let requests_max = self.config.server.concurrent_requests_max;
        let edge = Edge::new(openapi::router(app), name, requests_max, Arc::clone(&http_metrics));
        let hub = Arc::clone(&self.hub);
        let beat = tokio::spawn(health.beat(move |id| {
            lock_metrics.go_live(id);
            hub.go_live(id);
        }));
        let session_work = tokio::spawn(sessions.clone().run());
        let scrape = tokio::spawn(metrics::serve(self.scrape, self.metrics.clone()));
        let limits = Limits {
            connections_max: self.config.server.connections_max,
            header_timeout: self.config.server.header_timeout,
            write_timeout: self.config.server.write_timeout,
            shutdown_timeout: self.config.server.shutdown_timeout,
        };
        let ending = server::Ending { draining, closing };
        let serving = tokio::spawn(server::serve(self.http, Arc::new(edge), http_metrics, limits, ending));
        tracing::info!(node = name, http = %self.http_address, metrics = %self.metrics_address, "serving");
        shutdown.await;
        tracing::info!(node = name, "stopping");
        drain.send_replace(true);
        // All while everything is still answered: clients of sockets go while the others can take them, and a hand-over
        // costs the others a few milliseconds, the death of a leader an election.
        let delay = self.config.server.drain_delay;
        tokio::join!(tokio::time::sleep(delay), async {
            sessions.leave(self.config.session.drain_grace).await;
            sessions.settled(SOCKETS_TIMEOUT).await;
            hand_over(&self.group, delay).await;
        });
        close.send_replace(true);
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP listener ended badly");
        }
        if let Err(error) = applier.await {
            tracing::error!(%error, "the clearing of caches ended badly");
        }
        if let Some(Err(error)) = async { Some(feed?.await) }.await {
            tracing::error!(%error, "the feed of OVN ended badly");
        }
        // It resigns while the group still works.
        if let Err(error) = reports.await {
            tracing::error!(%error, "the report of the cluster ended badly");
        }
        if let Err(error) = upkeep.await {
            tracing::error!(%error, "the upkeep of OVN ended badly");
        }
        locks.settled(CANCELLATIONS_TIMEOUT).await;
        self.group.shutdown().await;
        session_work.abort();
        scrape.abort();
        beat.abort();
        tracing::info!(node = name, "stopped");
        Ok(())
    }
}

impl Node {
    /// Reports on the cluster, in turn with the others.
    fn report(&self, elections: Elections, stop: watch::Receiver<bool>) -> JoinHandle<()> {
        let (group, interval) = (self.group.clone(), self.config.cluster.report_interval);
        let task = LeaderTask {
            name: report::ELECTION.to_owned(),
            candidate: self.config.cluster.node_id.clone(),
            ttl: report::TTL,
        };
        tokio::spawn(async move {
            if !interval.is_zero() {
                task.run(elections, stop, |office| report::run(group.clone(), interval, office)).await;
            }
        })
    }

    /// Drops what nobody needs from OVN, in turn with the others.
    fn keep_up(&self, elections: Elections, stop: watch::Receiver<bool>) -> JoinHandle<()> {
        let network = self.network.clone();
        let task = LeaderTask {
            name: upkeep::ELECTION.to_owned(),
            candidate: self.config.cluster.node_id.clone(),
            ttl: upkeep::TTL,
        };
        tokio::spawn(async move {
            if network.is_configured() {
                task.run(elections, stop, |office| upkeep::run(network.clone(), office)).await;
            }
        })
    }
}

/// Has another node lead, if this one does and another one can. Tries again for so long; the end of the group
/// tries once more.
async fn hand_over(group: &Group, patience: Duration) {
    let begun = Instant::now();
    loop {
        let status = group.status();
        if !status.is_leader || status.voters.len() < 2 {
            return;
        }
        match group.transfer_leader(None, HANDOVER_TIMEOUT).await {
            Ok(successor) => return tracing::info!(%successor, "leadership handed over"),
            Err(error) if begun.elapsed() >= patience => {
                return tracing::warn!(%error, "leadership is not handed over yet");
            }
            Err(_) => tokio::time::sleep(HANDOVER_PAUSE).await,
        }
    }
}

/// Everything that looks at what is applied.
struct Observers(LockObserver, SessionObserver);

impl Observer for Observers {
    fn applied(&self, entries: &[AppliedEntry]) {
        self.0.applied(entries);
        self.1.applied(entries);
    }

    fn installed(&self, index: LogIndex) {
        self.0.installed(index);
        self.1.installed(index);
    }
}

fn session_settings(config: &Config) -> sessions::Settings {
    sessions::Settings {
        ttl: Millis(u64::try_from(config.session.ttl.as_millis()).unwrap_or(u64::MAX)),
        node_timeout: config.cluster.node_timeout,
        public_url: config.server.public_url.clone(),
    }
}

/// Counts by the routes that are published.
fn http_metrics(config: &ServerConfig) -> HttpMetrics {
    let routes = openapi::templates();
    HttpMetrics::new(&routes, config.concurrent_requests_max, config.connections_max)
}

async fn bind(
    purpose: &'static str,
    config: &Config,
    port: u16,
) -> Result<(TcpListener, SocketAddr), NodeError> {
    let address = SocketAddr::new(config.server.listen, port);
    let listen = |source| NodeError::Listen { purpose, address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

/// What the group is told, from what the node is told.
fn group_config(config: &Config, http_port: u16) -> GroupConfig {
    let cluster = &config.cluster;
    let own = config.own_peer();
    let peer_addr =
        own.map_or_else(|| join_host_port(&cluster.node_ip, cluster.peer_port), |own| own.address());
    let info = NodeInfo {
        hostname: cluster.node_hostname.clone(),
        ip: cluster.node_ip.clone(),
        http_port,
        peer_addr,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: cluster.zone.clone().unwrap_or_default(),
        metadata: cluster.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
    };
    let peers = cluster.peers.iter().map(|peer| StaticPeer { name: peer.name.clone(), addr: peer.address() });
    let listen = SocketAddr::new(config.server.listen, cluster.peer_port);
    GroupConfig {
        info,
        peers: if cluster.enabled { peers.collect() } else { Vec::new() },
        started_unix_ms: crate::wall_clock::unix_ms(),
        voters_target: cluster.voters_target,
        timing: Timing {
            raft_heartbeat: config.raft.heartbeat_interval,
            election_timeout_min: config.raft.election_timeout_min,
            election_timeout_max: config.raft.election_timeout_max,
            heartbeat_interval: cluster.heartbeat_interval,
            node_timeout: cluster.node_timeout,
            promotion_stable: cluster.promote_after,
            ..Timing::default()
        },
        snapshot: SnapshotSettings {
            every_entries: config.raft.snapshot_entries,
            keep_entries: config.raft.snapshot_keep_entries,
        },
        ..GroupConfig::new(cluster.node_id.clone(), listen, config.storage.data_dir.clone())
    }
}
