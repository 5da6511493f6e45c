//! `serve`: one node. Only translation from the command line; `ovncp::node` does the rest.

use std::path::PathBuf;
use std::process::ExitCode;

use ovncp::config::{Config, Sources};
use ovncp::node::Node;
use ovncp::telemetry::logs;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Failure, Outcome};
use super::mutant;

/// Run one node until SIGTERM or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ovncp serve --data-dir /var/lib/ovncp                       one node, alone
  ovncp serve --config /etc/ovncp.yaml --node-id node-1
  ovncp serve --node-id a --peers a=10.0.0.1:7400,b=10.0.0.2:7400,c=10.0.0.3:7400

Settings come from the defaults, the file, the environment (NODE_ID, NODE_PORT, OVNCP_PEERS, ...) and these flags;
later ones win. `ovncp config show` prints the result, and where each value came from.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: Settings,
    /// (internal) Ends when this process does; `ovncp dev` gives its own
    #[arg(long, hide = true)]
    dev_parent: Option<u32>,
}

/// Flags that stand over file and environment. `config check` and `config show` know them too.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// YAML file; OVNCP_CONFIG names one too
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stable, unique name of this node
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// Address under which clients and peers reach this node
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<String>,
    /// Where the log, the snapshots and the identity are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address that all listeners bind
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// HTTP port
    #[arg(long, value_name = "PORT")]
    http_port: Option<String>,
    /// Metrics port
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<String>,
    /// Port for the other nodes
    #[arg(long, value_name = "PORT")]
    peer_port: Option<String>,
    /// All nodes of the cluster, this one included: NAME=HOST:PORT, separated by commas
    #[arg(long, value_name = "PEERS")]
    peers: Option<String>,
    /// What is logged: info, debug, ovncp_raft=trace
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
}

impl Settings {
    /// Every source, the flags last.
    pub(super) fn sources(&self) -> Sources {
        let flags = [
            ("cluster.node_id", "--node-id", &self.node_id),
            ("cluster.node_ip", "--node-ip", &self.node_ip),
            ("storage.data_dir", "--data-dir", &self.data_dir),
            ("server.listen", "--listen", &self.listen),
            ("server.port", "--http-port", &self.http_port),
            ("server.metrics_port", "--metrics-port", &self.metrics_port),
            ("cluster.peer_port", "--peer-port", &self.peer_port),
            ("cluster.peers", "--peers", &self.peers),
            ("log.level", "--log-level", &self.log_level),
        ];
        let given = flags.into_iter().filter_map(|(path, flag, value)| Some((path, flag, value.as_ref()?)));
        given.fold(Sources::from_process(self.config.clone()), |sources, (path, flag, value)| {
            sources.with_override(path, flag, value)
        })
    }
}

pub(crate) fn run(args: ServeArgs) -> Outcome {
    let mutant = mutant::choose()?;
    if let Some(parent) = args.dev_parent {
        end_with_parent(parent)?;
    }
    let loaded = Config::load(&args.settings.sources()).map_err(|e| wrong_configuration(&e))?;
    loaded.config.check_start().map_err(|e| wrong_configuration(&e))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Failure::io("start the runtime", &e))?.block_on(serve(loaded.config, mutant))
}

pub(super) fn wrong_configuration(error: &ovncp::config::ConfigError) -> Failure {
    Failure::new(Exit::Usage, format!("the configuration is wrong\n{error}"))
        .help("`ovncp config check` looks at it without starting anything")
}

async fn serve(config: Config, mutant: Option<String>) -> Outcome {
    let stop = stop_signal()?;
    let failed = |e: &dyn std::error::Error| Failure::new(Exit::Failure, super::output::error_chain(e));
    logs::init(&config.log).map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
    if let Some(mutant) = mutant {
        tracing::error!("{mutant}");
    }
    let mut stop = std::pin::pin!(stop);
    let node = tokio::select! {
        built = Node::build(config) => built.map_err(|e| failed(&e))?,
        // Nothing is served yet, so there is nothing to finish.
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    node.run(stop).await.map_err(|e| failed(&e))?;
    Ok(ExitCode::SUCCESS)
}

/// Completes at SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::io("listen to signals", &e));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Has the kernel kill this process when `parent` dies, however that happens.
pub(super) fn end_with_parent(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Failure::io("ask for a signal at the parent's death", &e.into()))?;
    // It may have died before that: then somebody else adopted us and no signal will come.
    let adopted = getppid().map(Pid::as_raw_nonzero).map(std::num::NonZeroI32::get);
    if adopted.and_then(|pid| u32::try_from(pid).ok()) == Some(parent) {
        return Ok(());
    }
    Err(Failure::new(Exit::Failure, format!("the parent process {parent} is gone")))
}
