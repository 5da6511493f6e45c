//! The parser of matches beside OVN's own.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use ovncp_ovn::Uuid;
use ovncp_ovn::operation::Operation;
use ovncp_ovn::resource::expression::{self, AnyName};
use serde_json::{Value as Json, json};

use super::World;

/// A small generator of matches, right and wrong ones: numbers that follow one another without a pattern, and without
/// luck: the same every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
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
    let mut generator = Random(20_261_122);
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
