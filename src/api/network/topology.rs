//! The topology: what is connected to what, and the way between two ports.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use ovncp_ovn::topology::{End, Graph, Hop, LinkKind, NoPath, Node, NodeKind, Port};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::resources::aged;
use crate::api::Shared;
use crate::api::error::{ApiError, Code};
use crate::api::extract::{ConsistencyParam, Query};

/// What to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TopologyQuery {
    /// Comma-separated: `ports` (every port, also those without a link), `load_balancers`.
    pub detail: Option<String>,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Which ports.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PathQuery {
    /// Name or id of the port where the way begins: of a switch or a router.
    pub from: String,
    /// Name or id of the port where it ends.
    pub to: String,
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Everything and how it hangs together.
#[derive(Debug, Serialize, ToSchema)]
pub struct Topology {
    /// Switches, routers, physical networks and, when asked for, load balancers.
    pub nodes: Vec<TopologyNode>,
    /// What connects them.
    pub links: Vec<TopologyLink>,
    /// Ports that should be connected and are not, or not as they should be.
    pub dangling: Vec<Dangling>,
    /// Every port, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<TopologyPort>>,
}

/// A node of the graph.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyNode {
    /// The row's uuid; `network:<name>` or `network:<name>:<vlan>` for a physical network.
    pub id: String,
    /// `switch`, `router`, `network` or `load_balancer`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// VLAN of a physical network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<i64>,
    /// How many ports it has.
    pub ports: usize,
}

/// A link of the graph.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyLink {
    /// `router` (a switch and a router), `peer` (two routers, or two switches), `localnet` (a switch and a physical network)
    /// or `load_balancer`.
    pub kind: &'static str,
    /// One end; of a switch and anything else, the switch.
    pub from: TopologyEnd,
    /// The other end.
    pub to: TopologyEnd,
}

/// One end of a link.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyEnd {
    /// Id of the node.
    pub node: String,
    /// Id of its port, where there is one.
    pub port: Option<String>,
    /// Name of that port.
    pub port_name: Option<String>,
}

/// A port.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyPort {
    /// The row's uuid.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of the switch or router that has it.
    pub node: String,
    /// Type of a switch port; empty for virtual machines and router ports.
    pub r#type: String,
    /// Addresses; MAC and networks of a router port.
    pub addresses: Vec<String>,
    /// Whether it passes packets.
    pub enabled: bool,
    /// Whether a hypervisor has it, as far as OVN says so.
    pub up: Option<bool>,
}

/// A port that leads nowhere.
#[derive(Debug, Serialize, ToSchema)]
pub struct Dangling {
    /// Id of the port.
    pub port: String,
    /// Its name.
    pub port_name: String,
    /// Id of its switch or router.
    pub node: String,
    /// `names_no_router_port`, `missing_router_port`, `router_port_taken`, `missing_peer`, `one_sided_peer` or
    /// `names_no_network`.
    pub problem: &'static str,
    /// What it names, if anything.
    pub names: Option<String>,
}

/// A way, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyPath {
    /// Whether the ports are connected. Routes, policies and ACLs decide what becomes of packets: see the trace.
    pub connected: bool,
    /// From the first port to the last; empty when there is none.
    pub hops: Vec<TopologyHop>,
    /// `not_connected`, or `disabled`: the only ways lead through ports that are disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Those ports, on the shortest of these ways.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<TopologyHop>,
}

/// One step of a way.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyHop {
    /// `port`, `switch`, `router` or `network`.
    pub kind: &'static str,
    /// Id of the row; see the nodes of the topology for a physical network.
    pub id: String,
    /// Its name.
    pub name: String,
}

fn kind(node: &Node) -> &'static str {
    match node.kind {
        NodeKind::Switch => "switch",
        NodeKind::Router => "router",
        NodeKind::Network => "network",
        NodeKind::LoadBalancer => "load_balancer",
    }
}

fn end(graph: &Graph, end: End) -> TopologyEnd {
    let port = end.port.map(|port| &graph.ports[port]);
    TopologyEnd {
        node: graph.nodes[end.node].id(),
        port: port.map(|port| port.uuid.to_string()),
        port_name: port.map(|port| port.name.to_string()),
    }
}

fn port(graph: &Graph, port: &Port) -> TopologyPort {
    TopologyPort {
        id: port.uuid.to_string(),
        name: port.name.to_string(),
        node: graph.nodes[port.node].id(),
        r#type: port.kind.to_string(),
        addresses: port.addresses.iter().map(ToString::to_string).collect(),
        enabled: port.enabled,
        up: port.up,
    }
}

fn hop(graph: &Graph, hop: Hop) -> TopologyHop {
    match hop {
        Hop::Port(port) => {
            let port = &graph.ports[port];
            TopologyHop { kind: "port", id: port.uuid.to_string(), name: port.name.to_string() }
        }
        Hop::Node(node) => {
            let node = &graph.nodes[node];
            TopologyHop { kind: kind(node), id: node.id(), name: node.name.to_string() }
        }
    }
}

impl Topology {
    fn new(graph: &Graph, ports: bool, balancers: bool) -> Self {
        let nodes = graph.nodes.iter().filter(|node| balancers || node.kind != NodeKind::LoadBalancer);
        let links = graph.links.iter().filter(|link| balancers || link.kind != LinkKind::LoadBalancer);
        Self {
            nodes: nodes
                .map(|node| TopologyNode {
                    id: node.id(),
                    kind: kind(node),
                    name: node.name.to_string(),
                    tag: node.tag,
                    ports: node.ports,
                })
                .collect(),
            links: links
                .map(|link| TopologyLink {
                    kind: match link.kind {
                        LinkKind::Router => "router",
                        LinkKind::Peer => "peer",
                        LinkKind::Localnet => "localnet",
                        LinkKind::LoadBalancer => "load_balancer",
                    },
                    from: end(graph, link.from),
                    to: end(graph, link.to),
                })
                .collect(),
            dangling: graph
                .faults
                .iter()
                .map(|fault| {
                    let port = &graph.ports[fault.port];
                    Dangling {
                        port: port.uuid.to_string(),
                        port_name: port.name.to_string(),
                        node: graph.nodes[port.node].id(),
                        problem: fault.kind.code(),
                        names: fault.names.as_deref().map(str::to_owned),
                    }
                })
                .collect(),
            ports: ports.then(|| graph.ports.iter().map(|shown| port(graph, shown)).collect()),
        }
    }
}

/// Shows how switches, routers and physical networks hang together: the links that OVN makes, and ports that lead nowhere.
#[utoipa::path(get, path = "/api/v1/topology", tag = "network", operation_id = "get_topology", params(TopologyQuery),
    responses((status = 200, body = Topology, description = "The graph.")))]
pub(super) async fn topology(
    State(app): State<Shared>,
    Query(query): Query<TopologyQuery>,
) -> Result<Response, ApiError> {
    let (mut ports, mut balancers) = (false, false);
    for detail in query.detail.as_deref().into_iter().flat_map(|detail| detail.split(',')) {
        match detail.trim() {
            "ports" => ports = true,
            "load_balancers" => balancers = true,
            other => {
                let problem = format!("{other:?} is no detail; there are ports and load_balancers");
                return Err(ApiError::invalid("detail", problem));
            }
        }
    }
    let seen = app.network.topology(query.consistency.unwrap_or_default().into()).await?;
    Ok(aged(seen.age, Json(Topology::new(&seen.value, ports, balancers)).into_response()))
}

/// Shows the shortest way between two ports: switches, routers, physical networks and the ports between them. No way is an
/// answer like any other.
#[utoipa::path(get, path = "/api/v1/topology/path", tag = "network", operation_id = "get_topology_path", params(PathQuery),
    responses((status = 200, body = TopologyPath, description = "The way, or why there is none."),
        (status = 404, description = "`unknown_resource`: there is no such port")))]
pub(super) async fn path(
    State(app): State<Shared>,
    Query(query): Query<PathQuery>,
) -> Result<Response, ApiError> {
    let seen = app.network.topology(query.consistency.unwrap_or_default().into()).await?;
    let graph = &*seen.value;
    let find = |field: &'static str, id: &str| {
        let unknown = || ApiError::new(Code::UnknownResource, format!("there is no port {id:?}"));
        graph.port(id).ok_or_else(|| unknown().with("field", field))
    };
    let (from, to) = (find("from", &query.from)?, find("to", &query.to)?);
    let none = |reason, disabled| TopologyPath {
        connected: false,
        hops: Vec::new(),
        reason: Some(reason),
        disabled,
    };
    let shown = match graph.path(from, to) {
        Ok(path) => TopologyPath {
            connected: true,
            hops: path.hops.iter().map(|step| hop(graph, *step)).collect(),
            reason: None,
            disabled: Vec::new(),
        },
        Err(NoPath::NotConnected) => none("not_connected", Vec::new()),
        Err(NoPath::Disabled(ports)) => {
            none("disabled", ports.iter().map(|port| hop(graph, Hop::Port(*port))).collect())
        }
    };
    Ok(aged(seen.age, Json(shown).into_response()))
}
