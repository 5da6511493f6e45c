//! How switches, routers and physical networks hang together, read from the northbound database.
//!
//! Links are those that ovn-northd makes (its `join_logical_ports`), and nothing is guessed from addresses:
//!
//! - a switch port of type `router` and the router port that its `options:router-port` names;
//! - two router ports whose `peer` name each other;
//! - two switch ports of type `switch` whose `peer` name each other, where the schema has that column;
//! - a switch port of type `localnet` and the physical network of its `options:network_name`, with the port's VLAN tag;
//! - load balancers, directly or through a group, and the switches and routers that have them.
//!
//! What names something that is not there is a [`Fault`], not a link. Everything here takes time and memory in proportion
//! to the rows: [`Rows::of`] is the only part that needs the database, and only clones references to rows.

mod build;
mod path;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::contents::{Contents, Row};
use crate::operation::Name;
use crate::schema::TableSchema;
pub use path::{Hop, NoPath, Path};

/// The rows that a graph is made of. Cheap to take under a lock.
#[derive(Debug, Default)]
pub struct Rows {
    switches: Vec<Arc<Row>>,
    switch_ports: Table,
    routers: Vec<Arc<Row>>,
    router_ports: Table,
    balancers: Vec<Arc<Row>>,
    groups: Table,
    schemas: HashMap<&'static str, Arc<TableSchema>>,
}

type Table = HashMap<Uuid, Arc<Row>>;

/// Tables that a graph depends on.
pub const TABLES: [&str; 6] = [SWITCH, SWITCH_PORT, ROUTER, ROUTER_PORT, BALANCER, GROUP];

const SWITCH: &str = "Logical_Switch";
const SWITCH_PORT: &str = "Logical_Switch_Port";
const ROUTER: &str = "Logical_Router";
const ROUTER_PORT: &str = "Logical_Router_Port";
const BALANCER: &str = "Load_Balancer";
const GROUP: &str = "Load_Balancer_Group";

impl Rows {
    /// As they are now. Tables that the schema does not have are empty.
    #[must_use]
    pub fn of(contents: &Contents) -> Self {
        let list =
            |name| contents.table(name).map(|table| table.rows().cloned().collect()).unwrap_or_default();
        let by_uuid = |name| {
            let table = contents.table(name);
            table
                .map(|table| table.rows().map(|row| (row.uuid, Arc::clone(row))).collect())
                .unwrap_or_default()
        };
        let schema = |name| Some((name, Arc::clone(contents.table(name)?.schema())));
        Self {
            switches: list(SWITCH),
            switch_ports: by_uuid(SWITCH_PORT),
            routers: list(ROUTER),
            router_ports: by_uuid(ROUTER_PORT),
            balancers: list(BALANCER),
            groups: by_uuid(GROUP),
            schemas: TABLES.into_iter().filter_map(schema).collect(),
        }
    }
}

/// Kinds of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A logical switch.
    Switch,
    /// A logical router.
    Router,
    /// A physical network, or one VLAN of it. Not a row: what ports of type `localnet` name.
    Network,
    /// A load balancer.
    LoadBalancer,
}

/// What has ports, or is reached through them.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Its row, unless it is a physical network.
    pub uuid: Option<Uuid>,
    /// Its name, perhaps empty.
    pub name: Name,
    /// VLAN of a physical network.
    pub tag: Option<i64>,
    /// How many ports it has.
    pub ports: usize,
}

impl Node {
    /// What the graph's readers know it by: the row's uuid, `network:<name>` or `network:<name>:<tag>`.
    #[must_use]
    pub fn id(&self) -> String {
        match (self.uuid, self.tag) {
            (Some(uuid), _) => uuid.to_string(),
            (None, Some(tag)) => format!("network:{}:{tag}", self.name),
            (None, None) => format!("network:{}", self.name),
        }
    }
}

/// A port of a switch or a router.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its row.
    pub uuid: Uuid,
    /// Its name.
    pub name: Name,
    /// The switch or router that has it: a position in [`Graph::nodes`].
    pub node: usize,
    /// Type of a switch port as in the database; empty for one of a virtual machine, and for router ports.
    pub kind: Name,
    /// Addresses of a switch port; MAC and networks of a router port.
    pub addresses: Vec<Name>,
    /// Whether it passes packets at all.
    pub enabled: bool,
    /// Whether a hypervisor has it, as far as OVN says so.
    pub up: Option<bool>,
}

/// Kinds of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A switch and a router.
    Router,
    /// Two routers, or two switches.
    Peer,
    /// A switch and a physical network.
    Localnet,
    /// A switch or router and a load balancer that it has.
    LoadBalancer,
}

/// Two nodes that are connected.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// How.
    pub kind: LinkKind,
    /// One end. Of a switch and anything else, the switch.
    pub from: End,
    /// The other end.
    pub to: End,
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Position in [`Graph::nodes`].
    pub node: usize,
    /// Position in [`Graph::ports`], where there is one.
    pub port: Option<usize>,
}

/// A port that should be connected and is not, or not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Position in [`Graph::ports`].
    pub port: usize,
    /// What is wrong.
    pub kind: FaultKind,
    /// What it names, if anything.
    pub names: Option<Name>,
}

/// What can be wrong with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Of type `router`, without `options:router-port`.
    NamesNoRouterPort,
    /// Its `options:router-port` is no router port.
    MissingRouterPort,
    /// Another switch port names the same router port; ovn-northd serves one of them only.
    RouterPortTaken,
    /// Its `peer` does not exist.
    MissingPeer,
    /// Its `peer` names another port, or none.
    OneSidedPeer,
    /// Of type `localnet`, without `options:network_name`.
    NamesNoNetwork,
}

impl FaultKind {
    /// Stable word for it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NamesNoRouterPort => "names_no_router_port",
            Self::MissingRouterPort => "missing_router_port",
            Self::RouterPortTaken => "router_port_taken",
            Self::MissingPeer => "missing_peer",
            Self::OneSidedPeer => "one_sided_peer",
            Self::NamesNoNetwork => "names_no_network",
        }
    }
}

/// Everything and how it hangs together.
#[derive(Debug, Default)]
pub struct Graph {
    /// Switches, then routers, physical networks and load balancers.
    pub nodes: Vec<Node>,
    /// Ports of all nodes: of switches first, node by node.
    pub ports: Vec<Port>,
    /// Connections.
    pub links: Vec<Link>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Links of each node, by position.
    around: Vec<Vec<usize>>,
    by_uuid: HashMap<Uuid, usize>,
    by_name: HashMap<Name, usize>,
}

impl Graph {
    /// The graph of these rows.
    #[must_use]
    pub fn of(rows: &Rows) -> Self {
        build::graph(rows)
    }

    /// The port of this uuid or name.
    #[must_use]
    pub fn port(&self, id: &str) -> Option<usize> {
        let by_uuid = id.parse().ok().and_then(|uuid: Uuid| self.by_uuid.get(&uuid));
        by_uuid.or_else(|| self.by_name.get(id)).copied()
    }

    /// The shortest way between two ports, by their positions: see [`Path`].
    pub fn path(&self, from: usize, to: usize) -> Result<Path, NoPath> {
        path::find(self, from, to)
    }

    fn is_enabled(&self, link: &Link) -> bool {
        [link.from, link.to].iter().all(|end| end.port.is_none_or(|port| self.ports[port].enabled))
    }
}
