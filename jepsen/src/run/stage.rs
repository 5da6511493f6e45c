//! Sets the stage and takes it down again.

use std::error::Error;
use std::path::Path;

use rand::RngExt;

use super::{MIXED, Plan, RunError};
use crate::cluster::{Cluster, Pids, Settings};
use crate::disk::Disks;
use crate::mutants::TIME_OUT_FAILS;
use crate::nemesis::clock::Clocks;
use crate::nemesis::{Env, NemesisKind, schedule};
use crate::net::{NetKind, Network, netns_possible};
use crate::store::{self, Leftovers};

/// Settings of the nodes that make faults bite within a run: snapshots are taken and sent, a replaced node gets its
/// vote back, members that are down are noticed.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("OVNCP_RAFT_SNAPSHOT_ENTRIES", "2000"),
    ("OVNCP_RAFT_SNAPSHOT_KEEP", "500"),
    ("CLUSTER_HEARTBEAT_INTERVAL", "500ms"),
    ("CLUSTER_NODE_TIMEOUT", "3s"),
    ("OVNCP_PROMOTE_AFTER", "1s"),
    ("OVNCP_DRAIN_DELAY", "200ms"),
    ("RUST_BACKTRACE", "1"),
];
/// Nodes that join are to become voters.
const VOTERS_WITH_MEMBERSHIP: &str = "5";
/// By which variable a node with the mutants in it is told which one to be.
const MUTANT_VARIABLE: &str = "OVNCP_MUTANT";

/// Makes the network, the disks, and the nodes, which do not run yet. What is possible is less than what was asked
/// for where the machine sets limits; the plan then says so.
pub(super) async fn set_up(plan: &mut Plan, dir: &Path, leftovers: &Leftovers) -> Result<Env, RunError> {
    let logs = dir.join(store::LOGS);
    std::fs::create_dir_all(&logs).map_err(RunError::io("make the folder of logs"))?;
    let names = plan.names();
    let pids = Pids::default();
    let network = network(plan, &pids, leftovers).await?;
    let disks = Disks::prepare(plan.disk, &dir.join(store::DISKS), &names).map_err(stage)?;
    if let Some(notice) = disks.notice() {
        plan.notice(notice.to_owned());
    }
    plan.disk = disks.kind();
    let clocks = clocks(plan, dir);
    let settings = settings(plan, &logs, network.peers(&names));
    let cluster = Cluster::new(settings, pids, leftovers.clone());
    let mut env = Env::new(cluster, network, disks, clocks);
    for name in &names {
        if let Err(error) = env.add(name).await {
            tear_down(env, true).await?;
            return Err(stage(error));
        }
    }
    leave_out_what_cannot_be(plan, &env);
    Ok(env)
}

async fn network(plan: &mut Plan, pids: &Pids, leftovers: &Leftovers) -> Result<Network, RunError> {
    let fall_back = "peers speak through proxies instead: no loss, duplication or reordering of frames";
    if plan.net == NetKind::Netns
        && let Err(why) = netns_possible()
    {
        plan.notice(format!("no network namespaces ({why}); {fall_back}"));
        plan.net = NetKind::Proxy;
    }
    match Network::prepare(plan.net, plan.seed, pids.clone(), leftovers.clone()).await {
        Ok(network) => Ok(network),
        Err(error) if plan.net == NetKind::Netns => {
            plan.notice(format!("no network namespaces ({}); {fall_back}", shown(&error)));
            plan.net = NetKind::Proxy;
            let proxies = Network::prepare(plan.net, plan.seed, pids.clone(), leftovers.clone()).await;
            proxies.map_err(stage)
        }
        Err(error) => Err(stage(error)),
    }
}

fn clocks(plan: &mut Plan, dir: &Path) -> Option<Clocks> {
    let wanted = [NemesisKind::ClockJump, NemesisKind::ClockDrift];
    if !plan.nemeses.iter().any(|kind| wanted.contains(kind)) {
        return None;
    }
    match Clocks::prepare(&dir.join(store::CLOCKS)) {
        Ok(clocks) => Some(clocks),
        Err(why) => {
            plan.notice(format!("clocks cannot be moved: {why}"));
            plan.nemeses.retain(|kind| !wanted.contains(kind));
            None
        }
    }
}

fn settings(plan: &Plan, logs: &Path, peers: String) -> Settings {
    let mut environment: Vec<(String, String)> =
        ENVIRONMENT.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let changes = [NemesisKind::Membership, NemesisKind::MembershipCut];
    if plan.nemeses.iter().any(|kind| changes.contains(kind)) {
        environment.push(("OVNCP_VOTERS_TARGET".to_owned(), VOTERS_WITH_MEMBERSHIP.to_owned()));
    }
    if let Some(mutant) = plan.mutant.as_ref().filter(|mutant| *mutant != TIME_OUT_FAILS) {
        environment.push((MUTANT_VARIABLE.to_owned(), mutant.clone()));
    }
    let admin_token = format!("{:032x}", rand::rng().random::<u128>());
    let (binary, logs) = (plan.binary.clone(), logs.to_path_buf());
    Settings { binary, logs, peers, admin_token, environment }
}

/// Takes the faults out of the plan that cannot be made in this run, and says why.
fn leave_out_what_cannot_be(plan: &mut Plan, env: &Env) {
    let mut left_out = std::collections::BTreeMap::<String, Vec<String>>::new();
    let kinds = std::mem::take(&mut plan.nemeses);
    for kind in kinds {
        match kind.possible(env) {
            Ok(()) => plan.nemeses.push(kind),
            Err(why) => left_out.entry(why).or_default().push(kind.name()),
        }
    }
    for (why, kinds) in left_out {
        plan.notice(format!("left out: {} ({why})", kinds.join(", ")));
    }
    let moments = schedule::slots(plan.seed, plan.time).len();
    if moments < plan.nemeses.len() && plan.nemesis != MIXED {
        plan.notice(format!("{moments} faults fit into the time, {} are asked for", plan.nemeses.len()));
    }
}

/// Stops all nodes and takes away everything outside of the run's directory.
pub(super) async fn tear_down(env: Env, delete_disks: bool) -> Result<(), RunError> {
    let Env { mut cluster, network, mut disks, .. } = env;
    let mut outcome = Ok(());
    for name in cluster.names() {
        outcome = outcome.and(cluster.kill(&name).await.map_err(stage));
    }
    outcome = outcome.and(network.remove().await.map_err(stage));
    let released = if delete_disks { disks.delete() } else { disks.release() };
    outcome.and(released.map_err(stage))
}

fn stage(error: impl Error) -> RunError {
    RunError::Stage(shown(&error))
}

/// An error with its causes.
fn shown(error: &impl Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    text
}
