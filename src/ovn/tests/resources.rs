//! Resources against real servers: what is planned is what happens, and matches are judged as OVN judges them.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::contents::Contents;
use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::error::TransactError;
use ovncp_ovn::lab::{Lab, LabSettings, Members, Programs};
use ovncp_ovn::operation::Operation;
use ovncp_ovn::resource::expression::{self, AnyName};
use ovncp_ovn::resource::{
    Catalogue, IfMatch, Outcome, Plan, Planner, Refusal, RefusalKind, Resource, View, transaction,
};
use ovncp_ovn::wire::endpoint::Endpoint;
use serde_json::{Value as Json, json};

/// Generous: machines that run tests do much else.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    database: Database,
    catalogue: Catalogue,
    lab: Lab,
    _directory: tempfile::TempDir,
}

impl World {
    /// None where OVN is not installed; says so.
    async fn start(whole: bool) -> Option<Self> {
        if let Err(missing) = Programs::find() {
            eprintln!("skipped: {missing}");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("res").tempdir_in("/tmp").unwrap();
        let settings = if whole {
            LabSettings::new(directory.path())
        } else {
            LabSettings::northbound_only(directory.path(), Members::Standalone)
        };
        let lab = Lab::start(settings).await.unwrap();
        let endpoints = Endpoint::parse_list(&lab.northbound()[0].unix_endpoint()).unwrap();
        let database = Database::open(DatabaseSettings {
            name: "OVN_Northbound",
            endpoints,
            connect_timeout: PATIENCE,
            tls: None,
            leader_only: true,
            tables: None,
            probe_interval: PATIENCE,
        });
        database.wait_synced(PATIENCE).await.unwrap();
        let catalogue = Catalogue::new(&database.schema().unwrap());
        Some(Self { database, catalogue, lab, _directory: directory })
    }

    fn resource(&self, path: &str) -> Arc<Resource> {
        Arc::clone(self.catalogue.by_path(path).unwrap())
    }

    fn plan(
        &self,
        make: impl FnOnce(&Contents, &Catalogue, &mut dyn FnMut() -> Uuid) -> Result<Plan, Refusal>,
    ) -> Result<Plan, Refusal> {
        self.database.read(|contents| make(contents, &self.catalogue, &mut Uuid::new_v4)).unwrap()
    }

    /// Plans and commits; the first row.
    async fn commit(&self, plan: Result<Plan, Refusal>) -> Result<Uuid, Refusal> {
        let plan = plan?;
        match self.database.transact(plan.operations.clone()).await {
            Ok(results) => {
                plan.verify(&results).unwrap();
                Ok(plan.answers[0].id)
            }
            Err(TransactError::Rejected(rejection)) => {
                Err(self.database.read(|contents| plan.explain(&rejection, 0, contents)).unwrap())
            }
            Err(other) => panic!("{other}"),
        }
    }

    async fn step(&self, step: impl FnOnce(&mut Planner<'_>)) -> Result<Uuid, Refusal> {
        let plan = self.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            step(&mut planner);
            planner.finish()
        });
        self.commit(plan).await
    }

    async fn create(&self, path: &str, body: &Json) -> Result<Uuid, Refusal> {
        let resource = self.resource(path);
        self.step(|planner| {
            planner.create(&resource, None, body);
        })
        .await
    }

    fn view(&self, path: &str, id: Uuid) -> Option<(Json, String)> {
        let resource = self.resource(path);
        self.database
            .read(|contents| {
                let row = resource.find(contents, &id.to_string()).ok()?;
                let view = View::new(&resource, &row, contents);
                Some((view.to_json(), view.etag()))
            })
            .unwrap()
    }

    /// The row as `ovn-nbctl` prints it, by column, in wire form.
    async fn listed(&self, table: &str, id: Uuid) -> BTreeMap<String, Json> {
        let text = self.lab.nbctl(&["--format=json", "list", table, &id.to_string()]).await.unwrap();
        let listed: Json = serde_json::from_str(&text).unwrap();
        let names =
            listed["headings"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        names.zip(listed["data"][0].as_array().unwrap().iter().cloned()).collect()
    }
}

/// One of every resource, and a change of it, in an order in which each finds what it needs.
fn samples() -> Vec<(&'static str, Json, Json)> {
    let keys = json!({"external_ids": {"owner": "me"}});
    vec![
        ("switches", json!({"name": "blue", "other_config": {"subnet": "10.0.0.0/24"}}), keys.clone()),
        ("routers", json!({"name": "edge", "enabled": true}), json!({"options": {"chassis": "c1"}})),
        (
            "dhcp-options",
            json!({"cidr": "10.0.0.0/24", "options": {"server_id": "10.0.0.1",
            "server_mac": "0a:00:00:00:00:fe", "lease_time": "3600"}}),
            json!({"options": {"mtu": "1400"}}),
        ),
        (
            "ha-chassis-groups",
            json!({"name": "ha", "ha_chassis": [{"chassis_name": "c0", "priority": 9}]}),
            keys.clone(),
        ),
        (
            "ha-chassis",
            json!({"ha_chassis_group_id": "ha", "chassis_name": "c1", "priority": 10}),
            json!({"priority": 11}),
        ),
        (
            "mirrors",
            json!({"name": "tap", "filter": "to-lport", "type": "gre", "sink": "10.9.9.9", "index": 1}),
            json!({"sink": "10.9.9.8"}),
        ),
        (
            "ports",
            json!({"switch_id": "blue", "name": "vm1", "addresses": ["0a:00:00:00:00:01 10.0.0.4"],
            "port_security": ["0a:00:00:00:00:01 10.0.0.4"], "mirror_rules": ["tap"], "tag_request": 7,
            "parent_name": "vm0"}),
            json!({"enabled": false, "addresses": ["unknown"]}),
        ),
        (
            "forwarding-groups",
            json!({"switch_id": "blue", "name": "fg", "vip": "10.0.0.9", "vmac": "0a:00:00:00:00:09",
            "child_port": ["vm1"]}),
            json!({"liveness": true}),
        ),
        (
            "router-ports",
            json!({"router_id": "edge", "name": "edge-blue", "mac": "0a:00:00:00:01:01",
            "networks": ["10.0.0.1/24", "fd00::1/64"], "ipv6_ra_configs": {"address_mode": "slaac"}}),
            json!({"networks": ["10.0.0.1/24"]}),
        ),
        (
            "gateway-chassis",
            json!({"router_port_id": "edge-blue", "name": "edge-blue-c1", "chassis_name": "c1",
            "priority": 20}),
            json!({"priority": 21}),
        ),
        (
            "bfd",
            json!({"logical_port": "edge-blue", "dst_ip": "10.0.0.254", "min_tx": 100}),
            json!({"min_rx": 200}),
        ),
        (
            "static-routes",
            json!({"router_id": "edge", "ip_prefix": "0.0.0.0/0", "nexthop": "10.0.0.254"}),
            json!({"policy": "src-ip"}),
        ),
        (
            "policies",
            json!({"router_id": "edge", "priority": 5, "match": "ip4.src == 10.0.0.0/24",
            "action": "reroute", "nexthops": ["10.0.0.2", "10.0.0.3"]}),
            json!({"action": "drop", "nexthops": []}),
        ),
        ("address-sets", json!({"name": "hosts", "addresses": ["10.0.0.4", "10.0.0.5"]}), keys.clone()),
        (
            "nat",
            json!({"router_id": "edge", "type": "snat", "external_ip": "172.16.0.1", "logical_ip": "10.0.0.0/24",
            "allowed_ext_ips": "hosts"}),
            json!({"allowed_ext_ips": null}),
        ),
        ("port-groups", json!({"name": "web", "ports": ["vm1"]}), keys.clone()),
        (
            "acls",
            json!({"port_group_id": "web", "direction": "to-lport", "priority": 1000, "action": "allow-related",
            "match": "outport == @web && ip4.src == $hosts && tcp.dst == {80, 443}", "name": "http"}),
            json!({"priority": 1001}),
        ),
        (
            "load-balancers",
            json!({"name": "lb", "protocol": "tcp", "vips": {"10.0.0.9:80": "10.0.0.4:8080,10.0.0.5:8080"},
            "health_check": [{"vip": "10.0.0.9:80"}]}),
            json!({"vips": {"10.0.0.9:81": "10.0.0.4:8081"}}),
        ),
        (
            "load-balancer-health-checks",
            json!({"load_balancer_id": "lb", "vip": "10.0.0.9:81"}),
            json!({"options": {"interval": "5"}}),
        ),
        (
            "load-balancer-groups",
            json!({"name": "lbs", "load_balancer": ["lb"]}),
            json!({"load_balancer": []}),
        ),
        ("dns", json!({"records": {"vm1.lab": "10.0.0.4"}}), json!({"records": {"vm2.lab": "10.0.0.5"}})),
        (
            "qos",
            json!({"switch_id": "blue", "priority": 7, "direction": "from-lport", "match": "ip4", "action": {"dscp": 10}}),
            json!({"bandwidth": {"rate": 1000}}),
        ),
        (
            "meters",
            json!({"name": "m", "unit": "kbps", "bands": [{"action": "drop", "rate": 100}]}),
            json!({"fair": true}),
        ),
        ("meter-bands", json!({"meter_id": "m", "action": "drop", "rate": 200}), json!({"burst_size": 5})),
        ("copp", json!({"name": "copp", "meters": {"arp": "m"}}), json!({"meters": {"arp": null}})),
        (
            "static-mac-bindings",
            json!({"logical_port": "edge-blue", "ip": "10.0.0.77", "mac": "0a:00:00:00:00:77"}),
            json!({"override_dynamic_mac": true}),
        ),
        (
            "chassis-template-vars",
            json!({"chassis": "c1", "variables": {"vip": "10.0.0.1"}}),
            json!({"variables": {"vip": "10.0.0.2"}}),
        ),
    ]
}

#[tokio::test]
async fn one_of_everything_is_made_read_changed_and_deleted() {
    let Some(world) = World::start(false).await else { return };
    let samples = samples();
    let tried: BTreeSet<_> = samples.iter().map(|(path, _, _)| *path).chain(["nb-global"]).collect();
    let all: BTreeSet<_> = world.catalogue.typed().map(|resource| resource.path.to_string()).collect();
    assert_eq!(
        tried.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
        all,
        "every resource has a sample"
    );
    let mut made = Vec::new();
    for (path, body, patch) in &samples {
        let resource = world.resource(path);
        let id = world.create(path, body).await.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"));
        let (created, etag) = world.view(path, id).unwrap();
        same_as_listed(&world, &resource, id, &created).await;
        for (field, value) in body.as_object().unwrap() {
            let plain = !value.to_string().contains('{') || value.is_object();
            let literal = resource
                .field(field)
                .is_some_and(|column| resource.table.columns[column].key.ref_table.is_none());
            assert!(!(plain && literal) || created[field] == *value, "{path} {field}: {created}");
        }
        // Changed with its ETag, not with an old one.
        let with = |etag: &str| IfMatch::parse(&format!("\"{etag}\"")).unwrap();
        let patched = world
            .step(|planner| {
                planner.patch(&resource, &id.to_string(), patch, &with(&etag));
            })
            .await;
        assert_eq!(patched.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}")), id);
        let (changed, new_etag) = world.view(path, id).unwrap();
        assert_ne!(etag, new_etag, "{path}");
        same_as_listed(&world, &resource, id, &changed).await;
        let again = world
            .step(|planner| {
                planner.patch(&resource, &id.to_string(), patch, &with(&etag));
            })
            .await;
        assert_eq!(again.unwrap_err().kind, RefusalKind::PreconditionFailed, "{path}");
        // What was read can be sent back, and changes nothing.
        let put = world.step(|planner| {
            planner.replace(&resource, &id.to_string(), &changed, &with(&new_etag));
        });
        put.await.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"));
        assert_eq!(world.view(path, id).unwrap(), (changed, new_etag), "{path}");
        made.push((resource, id));
    }
    while let Some((resource, id)) = made.pop() {
        let etag = world.view(&resource.path, id).unwrap().1;
        let if_match = IfMatch::Of(vec![etag]);
        let gone = world
            .step(|planner| {
                planner.delete(&resource, &id.to_string(), &if_match);
            })
            .await;
        gone.unwrap_or_else(|refusal| panic!("{}: {refusal:?}", resource.path));
        assert!(world.view(&resource.path, id).is_none(), "{}", resource.path);
    }
    let left = world.database.read(|contents| {
        let tables =
            contents.tables().filter(|table| !matches!(&*table.schema().name, "NB_Global" | "Connection"));
        tables.map(|table| table.len()).sum::<usize>()
    });
    assert_eq!(left, Some(0), "everything went with what held it");
}

/// `ovn-nbctl list` shows the same values.
async fn same_as_listed(world: &World, resource: &Resource, id: Uuid, json: &Json) {
    let listed = world.listed(&resource.table.name, id).await;
    for (column, field) in resource.table.columns.iter().zip(&resource.fields) {
        let listed = &listed[&*column.name];
        let value = ovncp_ovn::value::Datum::from_wire(listed, column).unwrap();
        assert_eq!(json[&*field.name], value.to_plain(column), "{} {}", resource.table.name, column.name);
    }
}

#[tokio::test]
async fn what_changes_behind_the_replica_is_noticed() {
    let Some(world) = World::start(false).await else { return };
    world.create("switches", &json!({"name": "blue"})).await.unwrap();
    let switches = world.resource("switches");
    let ports = world.resource("ports");
    // Plans that are made first and sent after somebody else was faster.
    let named = |name: &str| {
        world.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            planner.create(&switches, None, &json!({"name": name}));
            planner.finish()
        })
    };
    let (first, second) = (named("red"), named("red"));
    world.commit(first).await.unwrap();
    let refusal = world.commit(second).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::Conflict, "duplicate_name"));

    let port = |name: &str| {
        world.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            planner.create(&ports, None, &json!({"name": name, "switch_id": "blue"}));
            planner.finish()
        })
    };
    let (first, second, orphan) = (port("vm1"), port("vm1"), port("vm2"));
    world.commit(first).await.unwrap();
    let refusal = world.commit(second).await.unwrap_err();
    assert_eq!((refusal.code, refusal.problems[0].pointer.as_str()), ("duplicate_name", "/name"));
    assert_eq!(refusal.rows[0].name.as_deref(), Some("vm1"));

    let etag = world.database.read(|contents| {
        let row = switches.find(contents, "blue").unwrap();
        ovncp_ovn::resource::etag(&switches, &row)
    });
    let change = |if_match: IfMatch| {
        world.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            planner.patch(&switches, "blue", &json!({"external_ids": {"a": "b"}}), &if_match);
            planner.finish()
        })
    };
    let (stale, careless) = (change(IfMatch::Of(vec![etag.unwrap()])), change(IfMatch::None));
    world.lab.nbctl(&["set", "Logical_Switch", "blue", "external_ids:a=c"]).await.unwrap();
    let refusal = world.commit(stale).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::PreconditionFailed);
    let current = refusal.current_etag.unwrap();
    world.commit(careless).await.unwrap();
    let found = world.lab.nbctl(&["get", "Logical_Switch", "blue", "external_ids:a"]).await.unwrap();
    assert_eq!(found.trim(), "b");
    assert!(!current.is_empty());

    world.lab.nbctl(&["ls-del", "blue"]).await.unwrap();
    let refusal = world.commit(orphan).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::Conflict, "reference_gone"));
    let late = world
        .step(|planner| {
            planner.delete(&switches, "blue", &IfMatch::None);
        })
        .await;
    assert_eq!(late.unwrap_err().kind, RefusalKind::NotFound);
    let left = world.lab.nbctl(&["--bare", "--columns=name", "list", "Logical_Switch_Port"]).await.unwrap();
    assert_eq!(left.trim(), "", "nothing half done");
}

#[tokio::test]
async fn a_large_transaction_happens_at_once_or_not_at_all() {
    let Some(world) = World::start(false).await else { return };
    let mut steps =
        vec![json!({"op": "create", "resource": "switches", "ref": "s", "body": {"name": "blue"}})];
    for number in 0..2_000 {
        steps.push(json!({"op": "create", "resource": "ports", "parent": {"ref": "s"}, "body": {"name": format!("p{number}")}}));
    }
    let run = |steps: &Json| {
        world.plan(|contents, catalogue, fresh| {
            transaction::plan(contents, catalogue, fresh, steps, "/operations")
        })
    };
    let plan = run(&Json::from(steps.clone())).unwrap();
    assert_eq!(plan.answers.len(), 2_001);
    // Somebody takes one of the names between plan and commit.
    world.lab.nbctl(&["ls-add", "red", "--", "lsp-add", "red", "p1999"]).await.unwrap();
    let refusal = world.commit(Ok(plan)).await.unwrap_err();
    assert_eq!(refusal.problems[0].pointer, "/operations/2000/body/name");
    let count = |table: &str| {
        let table = table.to_owned();
        world.database.read(|contents| contents.table(&table).unwrap().len()).unwrap()
    };
    assert_eq!((count("Logical_Switch"), count("Logical_Switch_Port")), (1, 1));
    steps.pop();
    let plan = run(&Json::from(steps));
    assert_eq!(plan.as_ref().unwrap().answers[1].outcome, Outcome::Created);
    world.commit(plan).await.unwrap();
    assert_eq!((count("Logical_Switch"), count("Logical_Switch_Port")), (2, 2_000));
    let switches = world.resource("switches");
    world
        .step(|planner| {
            planner.delete(&switches, "blue", &IfMatch::None);
        })
        .await
        .unwrap();
    assert_eq!((count("Logical_Switch"), count("Logical_Switch_Port")), (1, 1));
}

/// A small generator of matches, right and wrong ones: numbers that follow one another without a pattern, and without
/// luck: the same every time.
struct Matches(u64);

impl Matches {
    fn below(&mut self, bound: usize) -> usize {
        // Steele and Vigna's splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn field(&mut self) -> String {
        let symbols = expression::symbols();
        let name = match self.below(12) {
            0 => self.any(&["ip5", "tcp.source", "eth", "ip4.srcs", "ports"]),
            1 | 2 => self.any(&["inport", "outport", "ip.proto", "eth.type"]),
            _ => symbols[self.below(symbols.len())].name,
        };
        let bits = match self.below(8) {
            0 => format!("[{}]", self.below(20)),
            1 => format!("[{}..{}]", self.below(12), self.below(40)),
            _ => String::new(),
        };
        format!("{name}{bits}")
    }

    fn constant(&mut self) -> String {
        const ONES: &[&str] = &[
            "0",
            "1",
            "2",
            "6",
            "80",
            "255",
            "65535",
            "65536",
            "0x800",
            "0xfff",
            "10.0.0.1",
            "10.0.0.0/8",
            "fe80::1",
            "fe80::/10",
            "::",
            "00:00:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "1/1",
            "0/0x1",
            "0x1/0x3",
            "\"vm1\"",
            "\"a b\"",
            "10.0.0.0/33",
            "10.0.0",
            "080",
            "0x",
            "fe80::/129",
            "18446744073709551616",
            "1.2.3.4/255.0.255.0",
            "\"\\u0041\"",
            "\"\\q\"",
            "5/ff:ff:ff:ff:ff:ff",
            "0x10000000000000000",
        ];
        match self.below(6) {
            0 => {
                let count = self.below(4);
                let ones: Vec<_> = (0..count).map(|_| self.any(ONES)).collect();
                format!("{{{}}}", ones.join(if self.below(2) == 0 { ", " } else { " " }))
            }
            _ => self.any(ONES).to_owned(),
        }
    }

    fn relation(&mut self) -> &'static str {
        self.any(&["==", "==", "==", "==", "!=", "<", "<=", ">", ">=", "="])
    }

    fn primary(&mut self, depth: usize) -> String {
        const RIGHT: &[&str] = &[
            "ip4.src == 10.0.0.0/8",
            "ip4.dst != 10.0.0.1",
            "ip6.src == fe80::/10",
            "ip6.dst == {::1, ff02::1}",
            "eth.src == 00:00:00:00:00:01",
            "eth.dst[40]",
            "eth.dst[0..15] > 0x1111",
            "tcp.dst == 80",
            "udp.src == {53, 67 68}",
            "1024 <= tcp.src <= 49151",
            "5 > sctp.dst > 2",
            "80 == tcp.src",
            "tcp.flags != 0",
            "tcp.flags[1..3] == 5",
            "inport == \"vm1\"",
            "outport == {\"vm1\", \"vm2\"}",
            "ip.proto == {6, 17}",
            "ip.ttl == 1",
            "vlan.vid == 5",
            "vlan.tci[13..15] == 3",
            "icmp4.type == 8",
            "icmp6.type == {135, 136}",
            "arp.op == 1",
            "arp.spa == 10.0.0.1",
            "ct.new",
            "ct_mark.blocked == 0",
            "ct_label == 1/1",
            "reg0[0..3] < 7",
            "ip4",
            "tcp",
            "ip.is_frag",
            "is_chassis_resident(\"vm1\")",
        ];
        if self.below(10) < 8 {
            return if depth > 0 && self.below(4) == 0 {
                format!("({})", self.expression(depth - 1))
            } else {
                self.any(RIGHT).to_owned()
            };
        }
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => self
                .any(&[
                    "ip4",
                    "ip6",
                    "tcp",
                    "udp",
                    "icmp",
                    "arp",
                    "vlan.present",
                    "ct.est",
                    "1",
                    "0",
                    "2",
                    "nd",
                ])
                .to_owned(),
            1 => self.field(),
            2 => format!("{} {} {}", self.constant(), self.relation(), self.field()),
            3 => format!(
                "{} {} {} {} {}",
                self.constant(),
                self.relation(),
                self.field(),
                self.relation(),
                self.constant()
            ),
            4 | 5 => format!("{} {} {}", self.field(), self.relation(), self.constant()),
            6 => self
                .any(&["is_chassis_resident(\"vm1\")", "is_chassis_resident(vm1)", "resident(\"vm1\")"])
                .to_owned(),
            7 => format!("({})", self.expression(depth - 1)),
            _ => format!("!({})", self.expression(depth - 1)),
        }
    }

    fn expression(&mut self, depth: usize) -> String {
        let mut text = self.primary(depth);
        let operator = self.any(&["&&", "||"]);
        for _ in 0..self.below(3) {
            let operator =
                if self.below(12) == 0 { self.any(&["&&", "||", "&", "|", "!"]) } else { operator };
            let not = if self.below(10) == 0 { "!" } else { "" };
            text = format!("{text} {operator} {not}{}", self.primary(depth));
        }
        text
    }

    fn next(&mut self) -> String {
        let mut text = self.expression(2);
        // Broken here and there.
        if self.below(8) == 0 && !text.is_empty() {
            let at = self.below(text.len());
            match self.below(3) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, char::from(*b"()[]{}=!&|,.\"$@5a".get(self.below(17)).unwrap())),
                _ => text.truncate(at),
            }
        }
        text
    }
}

/// Number of matches that both judge.
const MATCHES: usize = 1_500;

#[tokio::test]
async fn matches_are_judged_as_ovn_judges_them() {
    let Some(world) = World::start(true).await else { return };
    world.create("switches", &json!({"name": "blue"})).await.unwrap();
    world.create("ports", &json!({"name": "vm1", "switch_id": "blue"})).await.unwrap();
    let mut generator = Matches(20_261_122);
    let mut texts = BTreeSet::new();
    while texts.len() < MATCHES {
        let text = generator.next();
        // Names of sets have a test of their own, and templates are judged by the chassis.
        if !text.contains(['$', '@', '^']) && !text.contains("//") {
            texts.insert(text);
        }
    }
    // As rows that nobody checks on their way: each ACL says by its id which match it is.
    let blue = world.lab.nbctl(&["--bare", "--columns=_uuid", "list", "Logical_Switch"]).await.unwrap();
    let blue: Uuid = blue.trim().parse().unwrap();
    let (mut operations, mut acls) = (Vec::new(), BTreeMap::new());
    for text in &texts {
        let id = Uuid::new_v4();
        operations.push(Operation::Insert {
            table: "ACL".into(),
            uuid: id,
            row: vec![
                ("direction".into(), "from-lport".into()),
                ("priority".into(), 100.into()),
                ("action".into(), "drop".into()),
                ("match".into(), text.as_str().into()),
            ],
        });
        acls.insert(id, text);
    }
    let ids = ovncp_ovn::value::Datum::set(acls.keys().map(|id| (*id).into()));
    operations.push(Operation::Update {
        table: "Logical_Switch".into(),
        condition: ovncp_ovn::operation::Condition::uuid(blue),
        row: vec![("acls".into(), ids)],
    });
    world.database.transact(operations).await.unwrap();
    world.lab.nbctl(&["--wait=sb", "--timeout=120", "sync"]).await.unwrap();

    let refused_by_ovn = refused_by_ovn_trace(&world).await;
    let (mut good, mut bad) = (0, 0);
    let mut differences = Vec::new();
    for (id, text) in &acls {
        let ours = expression::check(text, &AnyName);
        let theirs = refused_by_ovn.get(&hint(*id));
        match (&ours, theirs) {
            (Ok(()), None) => good += 1,
            (Err(_), Some(_)) => bad += 1,
            _ => differences.push(format!("{text:?}: we say {ours:?}, OVN says {theirs:?}")),
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert!(good > MATCHES / 10 && bad > MATCHES / 10, "{good} good and {bad} bad ones tell little");
}

/// What northd writes into a flow to say which ACL it is from.
fn hint(id: Uuid) -> String {
    id.simple().to_string()[..8].to_owned()
}

/// Flows that `ovn-trace` cannot parse, by the hint of the ACL that they come from, with its reason.
async fn refused_by_ovn_trace(world: &World) -> BTreeMap<String, String> {
    let flows = world
        .lab
        .sbctl(&["--format=json", "--columns=match,external_ids", "list", "Logical_Flow"])
        .await
        .unwrap();
    let flows: Json = serde_json::from_str(&flows).unwrap();
    let mut hints = BTreeMap::new();
    for flow in flows["data"].as_array().unwrap() {
        let ids = flow[1][1].as_array().unwrap();
        if let Some(hint) = ids.iter().find(|pair| pair[0] == "stage-hint") {
            hints.insert(flow[0].as_str().unwrap().to_owned(), hint[1].as_str().unwrap().to_owned());
        }
    }
    assert!(hints.len() >= MATCHES, "northd made {} flows of ACLs", hints.len());
    let endpoint = world.lab.southbound()[0].unix_endpoint();
    let output = tokio::task::spawn_blocking(move || {
        let arguments =
            ["--no-leader-only", "--db", &endpoint, "-vconsole:warn", "blue", "inport == \"vm1\""];
        Command::new("ovn-trace").args(arguments).output().unwrap()
    });
    let output = output.await.unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let mut refused = BTreeMap::new();
    for line in log.lines() {
        // "...|WARN|<match>: parsing expression failed (<reason>)"
        let Some((before, reason)) = line.split_once(": parsing expression failed (") else { continue };
        let text = before.split_once("|WARN|").unwrap().1;
        if let Some(hint) = hints.get(text) {
            refused.insert(hint.clone(), reason.to_owned());
        }
    }
    assert!(!refused.is_empty(), "ovn-trace names bad matches: {log}");
    refused
}
