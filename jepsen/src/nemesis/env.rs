//! What faults work on: the nodes, the network between them, their disks, and who is harmed already.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::FaultError;
use super::clock::Clocks;
use crate::cluster::{Cluster, NodeError};
use crate::disk::Disks;
use crate::net::Network;

/// Which node a fault wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Whichever.
    Any,
    /// The one that leads.
    Leader,
    /// One that does not lead.
    Follower,
}

/// Everything that can be harmed in a run.
#[derive(Debug)]
pub struct Env {
    /// The nodes.
    pub cluster: Cluster,
    /// The network between them.
    pub network: Network,
    /// Their disks.
    pub disks: Disks,
    /// Their wall clocks, in a run that moves them.
    pub clocks: Option<Clocks>,
    /// Nodes that some fault has taken down or may take down.
    claimed: BTreeSet<String>,
    /// Those of them that no fault looks after any more; see [`Env::keep`].
    kept: BTreeMap<String, Kept>,
}

/// Why a node stays claimed when the fault that claimed it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It does not vote yet. The Raft id is that of its old self, which is shown as a voter as long as no leader
    /// has looked at it.
    Joins(Option<String>),
    /// It was to leave, and nobody knows yet whether it does.
    Leaves,
}

impl Env {
    /// Nobody is harmed yet.
    pub fn new(cluster: Cluster, network: Network, disks: Disks, clocks: Option<Clocks>) -> Self {
        Self { cluster, network, disks, clocks, claimed: BTreeSet::new(), kept: BTreeMap::new() }
    }

    /// Makes host and disk of a further node; does not start it.
    pub async fn add(&mut self, name: &str) -> Result<(), FaultError> {
        let place =
            self.network.add_host(name).await.map_err(|error| FaultError::Failed(error.to_string()))?;
        if self.disks.get(name).is_err() {
            self.disks.add(name).map_err(|error| FaultError::Failed(error.to_string()))?;
        }
        let data_dir = self.disks.data_dir(name).map_err(|error| FaultError::Failed(error.to_string()))?;
        self.cluster.add(name, &place, &data_dir);
        Ok(())
    }

    /// Starts a node that does not run. Does not wait for it.
    pub fn start(&mut self, name: &str) -> Result<(), NodeError> {
        let environment = self.clocks.as_ref().map(|clocks| clocks.environment(name)).transpose();
        let trouble =
            |source| NodeError::Process { action: "make a clock for", node: name.to_owned(), source };
        self.cluster.start_with(name, &environment.map_err(trouble)?.unwrap_or_default())
    }

    /// Nodes that no fault has claimed.
    pub fn unclaimed(&self) -> Vec<String> {
        let names = self.cluster.names().into_iter();
        names.filter(|name| !self.claimed.contains(name) && self.cluster.is_running(name)).collect()
    }

    /// A node that may go down: nobody else harms it until [`Env::release`], and with all the others that are
    /// claimed it is a minority.
    pub async fn claim(&mut self, rng: &mut StdRng, pick: Pick) -> Result<String, FaultError> {
        self.room_for_one()?;
        let leader = if pick == Pick::Any { None } else { self.cluster.leader().await };
        let mut candidates = self.unclaimed();
        match pick {
            Pick::Any => {}
            Pick::Leader => candidates.retain(|name| Some(name) == leader.as_ref()),
            Pick::Follower => candidates.retain(|name| Some(name) != leader.as_ref()),
        }
        let chosen = candidates.choose(rng).cloned();
        let chosen = chosen.ok_or_else(|| FaultError::NotNow(format!("no node for {pick:?}")))?;
        self.claimed.insert(chosen.clone());
        Ok(chosen)
    }

    /// This very node, as far as [`Env::claim`] would give it.
    pub fn claim_named(&mut self, name: &str) -> Result<(), FaultError> {
        if self.claimed.contains(name) {
            return Err(FaultError::NotNow(format!("{name} is harmed already")));
        }
        self.room_for_one()?;
        self.claimed.insert(name.to_owned());
        Ok(())
    }

    fn room_for_one(&self) -> Result<(), FaultError> {
        let nodes = self.cluster.names().len();
        if self.claimed.len() < nodes.saturating_sub(1) / 2 {
            return Ok(());
        }
        let claimed = self.claimed.iter().cloned().collect::<Vec<_>>().join(", ");
        Err(FaultError::NotNow(format!("one more node than {claimed} is too many of {nodes}")))
    }

    /// All nodes at once, when nobody is harmed.
    pub fn claim_all(&mut self) -> Result<Vec<String>, FaultError> {
        let all = self.cluster.names();
        if self.unclaimed() != all {
            return Err(FaultError::NotNow("some nodes are down already".to_owned()));
        }
        self.claimed.extend(all.iter().cloned());
        Ok(all)
    }

    /// Whether some fault has claimed it.
    pub fn is_claimed(&self, name: &str) -> bool {
        self.claimed.contains(name)
    }

    /// Leaves a claimed node claimed when its fault ends. Whoever finds that it is settled releases it.
    pub(super) fn keep(&mut self, name: &str, why: Kept) {
        self.kept.insert(name.to_owned(), why);
    }

    /// Nodes that are claimed though no fault looks after them.
    pub(super) fn kept(&self) -> BTreeMap<String, Kept> {
        self.kept.clone()
    }

    pub(super) fn claims(&self) -> BTreeSet<String> {
        self.claimed.clone()
    }

    /// A fault that did not begin harms nobody.
    pub(super) fn restore_claims(&mut self, claims: BTreeSet<String>) {
        self.claimed = claims;
    }

    /// The node may be harmed again.
    pub fn release(&mut self, name: &str) {
        self.claimed.remove(name);
        self.kept.remove(name);
    }
}
