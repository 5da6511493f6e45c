use serde_json::{Value as Json, json};

use super::*;
use crate::schema::Schema;

/// A part of OVN's northbound schema.
fn schema() -> Schema {
    let reference = |table: &str, kind: &str| json!({"type": {"key": {"type": "uuid", "refTable": table, "refType": kind}, "min": 0, "max": "unlimited"}});
    let texts = json!({"type": {"key": "string", "min": 0, "max": "unlimited"}});
    let options = json!({"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}});
    let text = json!({"type": "string"});
    let flag = json!({"type": {"key": "boolean", "min": 0, "max": 1}});
    let maybe = json!({"type": {"key": "string", "min": 0, "max": 1}});
    let owner = |ports: &str| {
        json!({"isRoot": true, "columns": {"name": text, "ports": reference(ports, "strong"),
            "load_balancer": reference(BALANCER, "weak"), "load_balancer_group": reference(GROUP, "strong")}})
    };
    let schema = json!({"name": "OVN_Northbound", "version": "7.0.0", "tables": {
        SWITCH: owner(SWITCH_PORT),
        ROUTER: owner(ROUTER_PORT),
        SWITCH_PORT: {"columns": {"name": text, "type": text, "options": options, "addresses": texts,
            "enabled": flag, "up": flag, "peer": maybe,
            "tag": {"type": {"key": "integer", "min": 0, "max": 1}}}},
        ROUTER_PORT: {"columns": {"name": text, "mac": text, "networks": texts, "peer": maybe, "enabled": flag}},
        BALANCER: {"isRoot": true, "columns": {"name": text}},
        GROUP: {"isRoot": true, "columns": {"name": text, "load_balancer": reference(BALANCER, "weak")}},
    }});
    Schema::parse(&schema).unwrap()
}

struct Lab {
    contents: Contents,
    next: u128,
}

impl Lab {
    fn new() -> Self {
        Self { contents: Contents::new(Arc::new(schema())), next: 0 }
    }

    fn row(&mut self, table: &str, row: Json) -> Uuid {
        self.next += 1;
        let uuid = Uuid::from_u128(self.next);
        self.contents.apply_row(table, uuid, &json!({"insert": row})).unwrap();
        uuid
    }

    fn owner(&mut self, table: &str, name: &str, ports: &[Uuid], more: Json) -> Uuid {
        let mut row = json!({"name": name, "ports": set(ports)});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.row(table, row)
    }

    fn vif(&mut self, name: &str) -> Uuid {
        self.row(SWITCH_PORT, json!({"name": name}))
    }

    fn toward_router(&mut self, name: &str, router_port: &str) -> Uuid {
        let options = json!(["map", [["router-port", router_port]]]);
        self.row(SWITCH_PORT, json!({"name": name, "type": "router", "options": options}))
    }

    fn localnet(&mut self, name: &str, network: &str, tag: i64) -> Uuid {
        let options = json!(["map", [["network_name", network]]]);
        self.row(SWITCH_PORT, json!({"name": name, "type": "localnet", "options": options, "tag": tag}))
    }

    fn router_port(&mut self, name: &str) -> Uuid {
        self.row(ROUTER_PORT, json!({"name": name, "mac": "02:00:00:00:00:01", "networks": "10.0.0.1/24"}))
    }

    fn graph(&self) -> Graph {
        Graph::of(&Rows::of(&self.contents))
    }
}

fn set(uuids: &[Uuid]) -> Json {
    json!(["set", uuids.iter().map(|uuid| json!(["uuid", uuid.to_string()])).collect::<Vec<_>>()])
}

/// As `port`, `[node]`.
fn shown(graph: &Graph, path: &Path) -> String {
    let hop = |hop: &Hop| match hop {
        Hop::Port(port) => graph.ports[*port].name.to_string(),
        Hop::Node(node) => format!("[{}]", graph.nodes[*node].name),
    };
    path.hops.iter().map(hop).collect::<Vec<_>>().join(" ")
}

fn way(graph: &Graph, from: &str, to: &str) -> Result<String, NoPath> {
    let path = graph.path(graph.port(from).unwrap(), graph.port(to).unwrap())?;
    Ok(shown(graph, &path))
}

/// Two switches at one router, which has a peer with a third one.
fn three_switches() -> Lab {
    let mut lab = Lab::new();
    for (switch, router_port) in [("a", "r-a"), ("b", "r-b"), ("c", "q-c")] {
        let ports = [lab.vif(&format!("{switch}1")), lab.toward_router(&format!("{switch}-r"), router_port)];
        lab.owner(SWITCH, switch, &ports, json!({}));
    }
    let (to_q, to_r) = (json!({"name": "r-q", "peer": "q-r"}), json!({"name": "q-r", "peer": "r-q"}));
    let ports = [lab.router_port("r-a"), lab.router_port("r-b"), lab.row(ROUTER_PORT, to_q)];
    lab.owner(ROUTER, "r", &ports, json!({}));
    let ports = [lab.router_port("q-c"), lab.row(ROUTER_PORT, to_r)];
    lab.owner(ROUTER, "q", &ports, json!({}));
    lab
}

#[test]
fn links_are_those_that_northd_makes() {
    let graph = three_switches().graph();
    assert_eq!(graph.faults, []);
    let name = |end: End| (&*graph.nodes[end.node].name, end.port.map(|port| &*graph.ports[port].name));
    let mut links: Vec<_> =
        graph.links.iter().map(|link| (link.kind, name(link.from), name(link.to))).collect();
    links.sort_by_key(|(_, from, _)| *from);
    assert_eq!(
        links,
        [
            (LinkKind::Router, ("a", Some("a-r")), ("r", Some("r-a"))),
            (LinkKind::Router, ("b", Some("b-r")), ("r", Some("r-b"))),
            (LinkKind::Router, ("c", Some("c-r")), ("q", Some("q-c"))),
            (LinkKind::Peer, ("r", Some("r-q")), ("q", Some("q-r"))),
        ]
    );
    let counts: Vec<_> = graph.nodes.iter().map(|node| (&*node.name, node.ports)).collect();
    assert_eq!(counts, [("a", 2), ("b", 2), ("c", 2), ("r", 3), ("q", 2)]);
    let router_port = &graph.ports[graph.port("r-a").unwrap()];
    assert_eq!(router_port.addresses, ["02:00:00:00:00:01".into(), Name::from("10.0.0.1/24")]);
}

#[test]
fn ways_lead_through_switches_and_routers() {
    let mut lab = three_switches();
    let alone = lab.vif("z1");
    lab.owner(SWITCH, "z", &[alone], json!({}));
    let graph = lab.graph();
    assert_eq!(way(&graph, "a1", "a1").unwrap(), "a1");
    assert_eq!(way(&graph, "a1", "b1").unwrap(), "a1 [a] a-r r-a [r] r-b b-r [b] b1");
    assert_eq!(way(&graph, "c1", "a1").unwrap(), "c1 [c] c-r q-c [q] q-r r-q [r] r-a a-r [a] a1");
    // From or to the end of a link, nothing is crossed twice.
    assert_eq!(way(&graph, "a-r", "r-a").unwrap(), "a-r r-a");
    assert_eq!(way(&graph, "a-r", "b1").unwrap(), "a-r r-a [r] r-b b-r [b] b1");
    assert_eq!(way(&graph, "a1", "b-r").unwrap(), "a1 [a] a-r r-a [r] r-b b-r");
    assert_eq!(way(&graph, "r-a", "r-b").unwrap(), "r-a [r] r-b");
    assert_eq!(way(&graph, "a1", "z1"), Err(NoPath::NotConnected));
    assert_eq!(way(&graph, "z1", "a1"), Err(NoPath::NotConnected));
    let uuid = graph.ports[graph.port("a1").unwrap()].uuid.to_string();
    assert_eq!(graph.port(&uuid), graph.port("a1"));
    assert_eq!(graph.port("nobody"), None);
}

#[test]
fn a_disabled_port_is_in_the_way() {
    let mut lab = three_switches();
    let off = json!({"modify": {"enabled": false}});
    let port = |lab: &Lab, name| lab.contents.table(ROUTER_PORT).unwrap().by_name(name)[0];
    let router_port = port(&lab, "r-b");
    lab.contents.apply_row(ROUTER_PORT, router_port, &off).unwrap();
    let graph = lab.graph();
    assert_eq!(way(&graph, "a1", "b1"), Err(NoPath::Disabled(vec![graph.port("r-b").unwrap()])));
    assert!(way(&graph, "a1", "c1").is_ok());

    // A second pair of ports leads around it.
    let (second, peer) = (lab.toward_router("b-r2", "r-b2"), lab.router_port("r-b2"));
    for (table, name, port) in [(SWITCH, "b", second), (ROUTER, "r", peer)] {
        let owner = lab.contents.table(table).unwrap().by_name(name)[0];
        lab.contents.apply_row(table, owner, &json!({"modify": {"ports": set(&[port])}})).unwrap();
    }
    assert_eq!(way(&lab.graph(), "a1", "b1").unwrap(), "a1 [a] a-r r-a [r] r-b2 b-r2 [b] b1");
}

#[test]
fn physical_networks_join_switches_by_vlan() {
    let mut lab = Lab::new();
    for (switch, network, tag) in [("a", "net", 0), ("b", "net", 0), ("c", "net", 7), ("d", "other", 0)] {
        let ports = [lab.vif(&format!("{switch}1")), lab.localnet(&format!("{switch}-n"), network, tag)];
        lab.owner(SWITCH, switch, &ports, json!({}));
    }
    let graph = lab.graph();
    let networks = graph.nodes.iter().filter(|node| node.kind == NodeKind::Network);
    let networks: Vec<_> = networks.map(|node| (node.id(), node.ports)).collect();
    let expected = [("network:net", 2), ("network:net:7", 1), ("network:other", 1)];
    assert_eq!(networks, expected.map(|(id, ports)| (id.to_owned(), ports)));
    assert_eq!(way(&graph, "a1", "b1").unwrap(), "a1 [a] a-n [net] b-n [b] b1");
    assert_eq!(way(&graph, "a1", "c1"), Err(NoPath::NotConnected));
    assert_eq!(way(&graph, "a1", "d1"), Err(NoPath::NotConnected));
}

#[test]
fn what_leads_nowhere_is_a_fault() {
    let mut lab = Lab::new();
    let ports = [
        lab.toward_router("dangling", "nowhere"),
        lab.row(SWITCH_PORT, json!({"name": "nameless", "type": "router"})),
        lab.toward_router("first", "rp"),
        lab.toward_router("second", "rp"),
        // The name of a switch port is no router port.
        lab.toward_router("confused", "first"),
        lab.row(SWITCH_PORT, json!({"name": "unplugged", "type": "localnet"})),
    ];
    lab.owner(SWITCH, "s", &ports, json!({}));
    let peer = |name: &str, peer: &str| json!({"name": name, "peer": peer});
    let ports = [
        lab.router_port("rp"),
        lab.row(ROUTER_PORT, peer("lonely", "gone")),
        lab.row(ROUTER_PORT, peer("unloved", "rp")),
        lab.row(ROUTER_PORT, peer("odd", "first")),
    ];
    lab.owner(ROUTER, "r", &ports, json!({}));
    let graph = lab.graph();
    let mut faults: Vec<_> = graph
        .faults
        .iter()
        .map(|fault| (&*graph.ports[fault.port].name, fault.kind.code(), fault.names.as_deref()))
        .collect();
    faults.sort_unstable();
    assert_eq!(
        faults,
        [
            ("confused", "missing_router_port", Some("first")),
            ("dangling", "missing_router_port", Some("nowhere")),
            ("lonely", "missing_peer", Some("gone")),
            ("nameless", "names_no_router_port", None),
            ("odd", "missing_peer", Some("first")),
            ("second", "router_port_taken", Some("rp")),
            ("unloved", "one_sided_peer", Some("rp")),
            ("unplugged", "names_no_network", None),
        ]
    );
    assert_eq!(graph.links.len(), 2, "both ports that name rp: {:?}", graph.links);
}

#[test]
fn load_balancers_are_found_through_groups_and_are_no_way() {
    let mut lab = Lab::new();
    let (direct, grouped) =
        (lab.row(BALANCER, json!({"name": "d"})), lab.row(BALANCER, json!({"name": "g"})));
    let group = lab.row(GROUP, json!({"name": "all", "load_balancer": set(&[direct, grouped])}));
    let (a, b) = (lab.vif("a1"), lab.vif("b1"));
    let has = json!({"load_balancer": set(&[direct]), "load_balancer_group": set(&[group])});
    lab.owner(SWITCH, "a", &[a], has);
    lab.owner(SWITCH, "b", &[b], json!({"load_balancer": set(&[direct])}));
    let graph = lab.graph();
    let name = |end: End| &*graph.nodes[end.node].name;
    let links: Vec<_> = graph.links.iter().map(|link| (name(link.from), name(link.to))).collect();
    assert_eq!(links, [("a", "d"), ("a", "g"), ("b", "d")]);
    assert_eq!(way(&graph, "a1", "b1"), Err(NoPath::NotConnected));
}

#[test]
fn work_grows_with_the_rows_and_not_faster() {
    const SWITCHES: usize = 1_000;
    const PORTS: usize = 100;
    let mut lab = Lab::new();
    for switch in 0..SWITCHES {
        let mut ports: Vec<_> = (1..PORTS).map(|port| lab.vif(&format!("{switch}-{port}"))).collect();
        ports.push(lab.toward_router(&format!("{switch}-r"), &format!("r-{switch}")));
        lab.owner(SWITCH, &format!("s{switch}"), &ports, json!({}));
    }
    let ports: Vec<_> = (0..SWITCHES).map(|switch| lab.router_port(&format!("r-{switch}"))).collect();
    lab.owner(ROUTER, "hub", &ports, json!({}));
    let graph = lab.graph();
    assert_eq!((graph.nodes.len(), graph.ports.len()), (SWITCHES + 1, SWITCHES * (PORTS + 1)));
    assert_eq!((graph.links.len(), graph.faults.len()), (SWITCHES, 0));
    let (from, to) = (graph.port("0-1").unwrap(), graph.port("999-99").unwrap());
    let path = graph.path(from, to).unwrap();
    assert_eq!(shown(&graph, &path), "0-1 [s0] 0-r r-0 [hub] r-999 999-r [s999] 999-99");
    assert!(path.looked_at <= 2 * graph.links.len(), "looked at {} links", path.looked_at);
}
