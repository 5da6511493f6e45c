//! The network between the nodes, which can be harmed for each ordered pair of them.
//!
//! Two ways to stand between peers, behind one type. [`NetKind::Netns`] gives every node a network namespace whose
//! only device is a TAP; the harness is the switch between them and does to frames what [`Links`] says. It needs
//! root. [`NetKind::Proxy`] needs nothing: peers reach each other through a TCP proxy in the harness, which can
//! hold and delay but, standing above TCP, cannot lose, double or reorder. In both the harness' own requests to a
//! node are never harmed: what clients see is the cluster's doing.

mod dialler;
mod links;
mod netns;
mod proxy;
mod switch;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use links::{Fate, Hits, Impairment, Imposed, Links, Pair, Stream};

use crate::cluster::{PEER_PORT, Pids, Place};
use crate::store::Leftovers;

/// Hosts that one run can have.
pub const HOSTS_MAX: u8 = 16;

/// How the harness stands between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum NetKind {
    /// Network namespaces and a switch in user space; needs root.
    Netns,
    /// A TCP proxy in front of each node's peer port; needs nothing.
    Proxy,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The system refuses.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("`{command}`: {problem}")]
    Command {
        /// What was run.
        command: String,
        /// What it printed.
        problem: String,
    },
    /// More hosts than addresses.
    #[error("a run has at most {HOSTS_MAX} hosts")]
    Full,
}

impl NetError {
    fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }
}

/// The network of one run. Dropping it takes away what it made.
#[derive(Debug)]
pub struct Network {
    links: Arc<Links>,
    /// In the order in which they came; their numbers follow from it.
    hosts: Vec<(String, Place)>,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Netns(netns::Namespaces),
    Proxy(proxy::Proxies),
}

/// Says why network namespaces cannot be used here, if so.
pub fn netns_possible() -> Result<(), String> {
    netns::possible()
}

impl Network {
    /// A network without hosts. Chance (which frame is lost) comes from `seed`; `pids` tells the proxy who dials.
    pub async fn prepare(
        kind: NetKind,
        seed: u64,
        pids: Pids,
        leftovers: Leftovers,
    ) -> Result<Self, NetError> {
        let links = Arc::new(Links::new(seed));
        let backing = match kind {
            NetKind::Netns => {
                Backing::Netns(netns::Namespaces::prepare(Arc::clone(&links), leftovers).await?)
            }
            NetKind::Proxy => Backing::Proxy(proxy::Proxies::prepare(Arc::clone(&links), pids)?),
        };
        Ok(Self { links, hosts: Vec::new(), backing })
    }

    /// Which of the two it is.
    pub fn kind(&self) -> NetKind {
        match self.backing {
            Backing::Netns(_) => NetKind::Netns,
            Backing::Proxy(_) => NetKind::Proxy,
        }
    }

    /// Makes a host for a node and says where it stands. A name that had a host before has it still.
    pub async fn add_host(&mut self, name: &str) -> Result<Place, NetError> {
        if let Some((_, place)) = self.hosts.iter().find(|(known, _)| known == name) {
            return Ok(place.clone());
        }
        let number = u8::try_from(self.hosts.len() + 1).unwrap_or(u8::MAX);
        if number > HOSTS_MAX {
            return Err(NetError::Full);
        }
        let place = match &mut self.backing {
            Backing::Netns(namespaces) => namespaces.add_host(name, number).await?,
            Backing::Proxy(proxies) => proxies.add_host(name, number).await?,
        };
        self.hosts.push((name.to_owned(), place.clone()));
        Ok(place)
    }

    /// The peer list of `names`, which are the first hosts in this order, whether they exist yet or not.
    pub fn peers(&self, names: &[String]) -> String {
        let peers = names.iter().zip(1..).map(|(name, number)| {
            let address = match &self.backing {
                Backing::Netns(namespaces) => namespaces.address(number),
                Backing::Proxy(proxies) => proxies.advertised(number),
            };
            format!("{name}={address}:{PEER_PORT}")
        });
        peers.collect::<Vec<_>>().join(",")
    }

    /// What can be done to the links.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Takes away what was made.
    pub async fn remove(self) -> Result<(), NetError> {
        match self.backing {
            Backing::Netns(namespaces) => namespaces.remove().await,
            Backing::Proxy(_) => Ok(()),
        }
    }
}
