//! Rows to a graph, in one pass over each table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::{
    BALANCER, End, Fault, FaultKind, GROUP, Graph, Link, LinkKind, Node, NodeKind, Port, ROUTER, ROUTER_PORT,
    Rows, SWITCH, SWITCH_PORT,
};
use crate::contents::Row;
use crate::operation::Name;
use crate::schema::TableSchema;
use crate::value::{Atom, Datum};

pub(super) fn graph(rows: &Rows) -> Graph {
    let mut build = Build { rows, graph: Graph::default() };
    build.owners(SWITCH, &rows.switches, NodeKind::Switch);
    let switches = build.graph.nodes.len();
    let switch_ports = build.graph.ports.len();
    build.owners(ROUTER, &rows.routers, NodeKind::Router);
    let routers = build.graph.nodes.len();
    build.router_links(switch_ports);
    build.peers();
    build.networks(switch_ports);
    build.balancers(switches, routers);
    build.finish()
}

/// A column of a row, looked up by name once per table.
struct Columns<'a>(Option<&'a TableSchema>);

impl<'a> Columns<'a> {
    fn get(&self, row: &'a Row, column: &str) -> Option<&'a Datum> {
        self.0?.value(row, column)
    }

    fn text(&self, row: &'a Row, column: &str) -> Option<Name> {
        match self.get(row, column)? {
            Datum::Atom(Atom::String(text)) if !text.is_empty() => Some(Arc::clone(text)),
            _ => None,
        }
    }

    fn texts(&self, row: &'a Row, column: &str) -> impl Iterator<Item = Name> + use<'a> {
        let atoms = self.get(row, column).map_or(&[][..], Datum::atoms);
        atoms.iter().filter_map(|atom| match atom {
            Atom::String(text) => Some(Arc::clone(text)),
            _ => None,
        })
    }

    fn flag(&self, row: &'a Row, column: &str) -> Option<bool> {
        match self.get(row, column)?.atoms() {
            [Atom::Boolean(flag)] => Some(*flag),
            _ => None,
        }
    }

    fn uuids(&self, row: &'a Row, column: &str) -> impl Iterator<Item = Uuid> + use<'a> {
        self.get(row, column).map_or(&[][..], Datum::atoms).iter().filter_map(Atom::as_uuid)
    }
}

struct Build<'a> {
    rows: &'a Rows,
    graph: Graph,
}

impl<'a> Build<'a> {
    fn columns(&self, table: &str) -> Columns<'a> {
        Columns(self.rows.schemas.get(table).map(AsRef::as_ref))
    }

    fn row(&self, port: usize) -> Option<&'a Row> {
        let Port { uuid, node, .. } = &self.graph.ports[port];
        let table = match self.graph.nodes[*node].kind {
            NodeKind::Router => &self.rows.router_ports,
            _ => &self.rows.switch_ports,
        };
        table.get(uuid).map(AsRef::as_ref)
    }

    /// Nodes with ports, and the ports.
    fn owners(&mut self, table: &str, owners: &'a [Arc<Row>], kind: NodeKind) {
        let columns = self.columns(table);
        for owner in owners {
            let node = self.graph.nodes.len();
            let before = self.graph.ports.len();
            for uuid in columns.uuids(owner, "ports") {
                let port = match kind {
                    NodeKind::Router => {
                        self.rows.router_ports.get(&uuid).map(|row| self.router_port(row, node))
                    }
                    _ => self.rows.switch_ports.get(&uuid).map(|row| self.switch_port(row, node)),
                };
                self.graph.ports.extend(port);
            }
            let name = columns.text(owner, "name").unwrap_or_default();
            let ports = self.graph.ports.len() - before;
            self.graph.nodes.push(Node { kind, uuid: Some(owner.uuid), name, tag: None, ports });
        }
    }

    fn switch_port(&self, row: &'a Row, node: usize) -> Port {
        let columns = self.columns(SWITCH_PORT);
        Port {
            uuid: row.uuid,
            name: columns.text(row, "name").unwrap_or_default(),
            node,
            kind: columns.text(row, "type").unwrap_or_default(),
            addresses: columns.texts(row, "addresses").collect(),
            enabled: columns.flag(row, "enabled").unwrap_or(true),
            up: columns.flag(row, "up"),
        }
    }

    fn router_port(&self, row: &'a Row, node: usize) -> Port {
        let columns = self.columns(ROUTER_PORT);
        Port {
            uuid: row.uuid,
            name: columns.text(row, "name").unwrap_or_default(),
            node,
            kind: Name::default(),
            addresses: columns.text(row, "mac").into_iter().chain(columns.texts(row, "networks")).collect(),
            enabled: columns.flag(row, "enabled").unwrap_or(true),
            up: None,
        }
    }

    fn end(&self, port: usize) -> End {
        End { node: self.graph.ports[port].node, port: Some(port) }
    }

    fn fault(&mut self, port: usize, kind: FaultKind, names: Option<Name>) {
        self.graph.faults.push(Fault { port, kind, names });
    }

    fn by_name(&self, from: usize, to: usize) -> HashMap<Name, usize> {
        (from..to).map(|port| (Arc::clone(&self.graph.ports[port].name), port)).collect()
    }

    fn option(&self, port: usize, option: &str) -> Option<Name> {
        let options = self.columns(SWITCH_PORT).get(self.row(port)?, "options")?;
        options.get(option).filter(|name| !name.is_empty()).map(Into::into)
    }

    fn router_links(&mut self, switch_ports: usize) {
        let router_ports = self.by_name(switch_ports, self.graph.ports.len());
        let mut taken = HashMap::<usize, usize>::new();
        for port in
            (0..switch_ports).filter(|port| &*self.graph.ports[*port].kind == "router").collect::<Vec<_>>()
        {
            let Some(name) = self.option(port, "router-port") else {
                self.fault(port, FaultKind::NamesNoRouterPort, None);
                continue;
            };
            let Some(peer) = router_ports.get(&name) else {
                self.fault(port, FaultKind::MissingRouterPort, Some(name));
                continue;
            };
            if taken.insert(*peer, port).is_some() {
                self.fault(port, FaultKind::RouterPortTaken, Some(name));
            }
            let (from, to) = (self.end(port), self.end(*peer));
            self.graph.links.push(Link { kind: LinkKind::Router, from, to });
        }
    }

    /// Router ports name router ports, switch ports of type `switch` switch ports.
    fn peers(&mut self) {
        let peer_of = |build: &Self, port: usize| {
            let row = build.row(port)?;
            let Port { node, kind, .. } = &build.graph.ports[port];
            match build.graph.nodes[*node].kind {
                NodeKind::Router => build.columns(ROUTER_PORT).text(row, "peer"),
                _ if &**kind == "switch" => build.columns(SWITCH_PORT).text(row, "peer"),
                _ => None,
            }
        };
        let named: BTreeMap<usize, Name> =
            (0..self.graph.ports.len()).filter_map(|port| Some((port, peer_of(self, port)?))).collect();
        if named.is_empty() {
            return;
        }
        let all = self.by_name(0, self.graph.ports.len());
        for (&port, name) in &named {
            let kind = |port: usize| self.graph.nodes[self.graph.ports[port].node].kind;
            let Some(&peer) = all.get(name).filter(|peer| kind(**peer) == kind(port)) else {
                self.fault(port, FaultKind::MissingPeer, Some(Arc::clone(name)));
                continue;
            };
            if named.get(&peer) != Some(&self.graph.ports[port].name) {
                self.fault(port, FaultKind::OneSidedPeer, Some(Arc::clone(name)));
            } else if port < peer {
                let (from, to) = (self.end(port), self.end(peer));
                self.graph.links.push(Link { kind: LinkKind::Peer, from, to });
            }
        }
    }

    fn networks(&mut self, switch_ports: usize) {
        let mut known = HashMap::<(Name, Option<i64>), usize>::new();
        for port in
            (0..switch_ports).filter(|port| &*self.graph.ports[*port].kind == "localnet").collect::<Vec<_>>()
        {
            let Some(name) = self.option(port, "network_name") else {
                self.fault(port, FaultKind::NamesNoNetwork, None);
                continue;
            };
            let tag = self.row(port).and_then(|row| self.columns(SWITCH_PORT).get(row, "tag"));
            // 0 is what packets without a tag have.
            let tag = tag.and_then(|tag| match tag.atoms() {
                [Atom::Integer(tag)] if *tag != 0 => Some(*tag),
                _ => None,
            });
            let nodes = &mut self.graph.nodes;
            let node = *known.entry((Arc::clone(&name), tag)).or_insert_with(|| {
                nodes.push(Node { kind: NodeKind::Network, uuid: None, name, tag, ports: 0 });
                nodes.len() - 1
            });
            nodes[node].ports += 1;
            let from = self.end(port);
            self.graph.links.push(Link { kind: LinkKind::Localnet, from, to: End { node, port: None } });
        }
    }

    fn balancers(&mut self, switches: usize, routers: usize) {
        let columns = self.columns(BALANCER);
        let mut known = HashMap::new();
        for row in &self.rows.balancers {
            known.insert(row.uuid, self.graph.nodes.len());
            let name = columns.text(row, "name").unwrap_or_default();
            let node = Node { kind: NodeKind::LoadBalancer, uuid: Some(row.uuid), name, tag: None, ports: 0 };
            self.graph.nodes.push(node);
        }
        let owners = self.rows.switches.iter().chain(&self.rows.routers);
        for (node, owner) in (0..routers).zip(owners) {
            let columns = self.columns(if node < switches { SWITCH } else { ROUTER });
            let groups =
                columns.uuids(owner, "load_balancer_group").filter_map(|id| self.rows.groups.get(&id));
            let of_groups = groups.flat_map(|group| self.columns(GROUP).uuids(group, "load_balancer"));
            let mut has: Vec<_> = columns.uuids(owner, "load_balancer").chain(of_groups).collect();
            has.sort_unstable();
            has.dedup();
            for balancer in has.iter().filter_map(|uuid| known.get(uuid)) {
                let (from, to) = (End { node, port: None }, End { node: *balancer, port: None });
                self.graph.links.push(Link { kind: LinkKind::LoadBalancer, from, to });
            }
        }
    }

    fn finish(self) -> Graph {
        let mut graph = self.graph;
        graph.around = vec![Vec::new(); graph.nodes.len()];
        for (position, link) in graph.links.iter().enumerate() {
            if link.kind != LinkKind::LoadBalancer {
                graph.around[link.from.node].push(position);
                graph.around[link.to.node].push(position);
            }
        }
        graph.by_uuid = graph.ports.iter().enumerate().map(|(at, port)| (port.uuid, at)).collect();
        graph.by_name =
            graph.ports.iter().enumerate().map(|(at, port)| (Arc::clone(&port.name), at)).collect();
        graph
    }
}
