//! Backup, restore and topology of a real database, filled by `ovn-nbctl`.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod support;

use ovncp_ovn::backup::{Backup, Difference, Fitted, Snapshot};
use ovncp_ovn::database::Database;
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::lab::{Lab, LabSettings, Members, Programs};
use ovncp_ovn::topology::{Graph, Hop, Rows};
use support::{settings, synced};

/// Something in most tables, with references of every kind.
const NETWORK: &str = "\
    ls-add blue -- ls-add green -- lsp-add blue vm1 -- lsp-set-addresses vm1 dynamic \
    -- set logical_switch blue other_config:subnet=10.0.1.0/24 \
    -- lsp-add green vm2 -- lsp-set-addresses vm2 02:00:00:00:02:02,10.0.2.2 \
    -- acl-add blue to-lport 1000 ip4 allow-related -- qos-add blue from-lport 10 ip4 rate=1000 \
    -- lr-add r -- lrp-add r r-blue 02:00:00:00:01:01 10.0.1.1/24 -- lrp-add r r-green 02:00:00:00:02:01 10.0.2.1/24 \
    -- lsp-add blue blue-r -- lsp-set-type blue-r router -- lsp-set-addresses blue-r router \
    -- lsp-set-options blue-r router-port=r-blue \
    -- lsp-add green green-r -- lsp-set-type green-r router -- lsp-set-addresses green-r router \
    -- lsp-set-options green-r router-port=r-green \
    -- lsp-add green uplink -- lsp-set-type uplink localnet -- lsp-set-options uplink network_name=physical \
    -- lrp-set-gateway-chassis r-green host1 10 -- lr-route-add r 0.0.0.0/0 10.0.2.254 \
    -- lr-policy-add r 10 ip4 drop -- lr-nat-add r snat 10.0.2.1 10.0.1.0/24 \
    -- lb-add web 10.0.9.9:80 10.0.1.5:80,10.0.1.6:80 -- ls-lb-add blue web -- lr-lb-add r web \
    -- pg-add everyone vm1 vm2 -- acl-add everyone from-lport 900 ip6 drop \
    -- create address_set name=friends addresses=10.0.1.7 -- meter-add slow drop 100 kbps \
    -- ha-chassis-group-add group -- ha-chassis-group-add-chassis group host1 5 \
    -- dhcp-options-create 10.0.1.0/24 -- copp-add limits arp slow";

async fn lab(dir: &tempfile::TempDir) -> Option<(Lab, Database)> {
    if let Err(missing) = Programs::find() {
        eprintln!("skipped: {missing}");
        return None;
    }
    let settings_of_lab = LabSettings::northbound_only(dir.path(), Members::Standalone);
    let lab = Lab::start(settings_of_lab).await.unwrap();
    let database = synced(settings(vec![lab.northbound()[0].unix_endpoint().parse().unwrap()])).await;
    Some((lab, database))
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bk").tempdir_in("/tmp").unwrap()
}

async fn nbctl(lab: &Lab, database: &Database, words: &str) {
    lab.nbctl(&words.split_whitespace().collect::<Vec<_>>()).await.unwrap();
    database.barrier().await.unwrap();
}

fn snapshot(database: &Database) -> Snapshot {
    database.read(Snapshot::of).unwrap()
}

fn taken(database: &Database) -> Backup {
    Backup::of(&snapshot(database), "now".to_owned())
}

fn difference(backup: &Fitted, database: &Database) -> Difference {
    backup.difference(&snapshot(database))
}

/// Through text, as over HTTP.
fn fitted(backup: &Backup, database: &Database) -> Fitted {
    let text = backup.to_json().to_string();
    let read = Backup::parse(&serde_json::from_str(&text).unwrap()).unwrap();
    read.fit(&database.schema().unwrap()).unwrap()
}

#[tokio::test]
async fn a_restore_brings_everything_back_with_its_uuids() {
    let dir = directory();
    let Some((lab, database)) = lab(&dir).await else { return };
    nbctl(&lab, &database, NETWORK).await;
    let backup = taken(&database);
    assert!(backup.counts().count() >= 18, "{:?}", backup.counts().collect::<Vec<_>>());
    let shown = lab.nbctl(&["show"]).await.unwrap();

    // Rows of each kind are deleted, changed and made, one with the name of a deleted one; a fence of ours comes too.
    nbctl(&lab, &database, "ls-del blue -- lr-del r -- lb-del web -- pg-del everyone").await;
    nbctl(
        &lab,
        &database,
        "set logical_switch green name=red -- lsp-set-addresses vm2 unknown -- ls-add later -- lsp-add later vm1 \
         -- create address_set name=ovncp_fence_1 -- set nb_global . options:mac_prefix=02:11:22",
    )
    .await;
    let fitted = fitted(&backup, &database);
    let plan = difference(&fitted, &database);
    let (created, updated, deleted) = plan.counts();
    assert!(created >= 14 && updated >= 3 && deleted == 2, "{:?}", plan.counts());
    database.transact(plan.operations().unwrap()).await.unwrap();

    assert_eq!(difference(&fitted, &database).changes, []);
    assert_eq!(taken(&database), backup);
    assert_eq!(lab.nbctl(&["show"]).await.unwrap(), shown);
    let own =
        lab.nbctl(&["--bare", "--columns=name", "find", "address_set", "name=ovncp_fence_1"]).await.unwrap();
    assert_eq!(own.trim(), "ovncp_fence_1", "our own rows are left alone");
}

#[tokio::test]
async fn an_empty_database_becomes_the_one_that_was_taken() {
    let (from, to) = (directory(), directory());
    let Some((first, database)) = lab(&from).await else { return };
    nbctl(&first, &database, NETWORK).await;
    let backup = taken(&database);
    let Some((second, empty)) = lab(&to).await else { return };
    let plan = difference(&fitted(&backup, &empty), &empty);
    assert_eq!(plan.counts().2, 0);
    empty.transact(plan.operations().unwrap()).await.unwrap();
    assert_eq!(second.nbctl(&["show"]).await.unwrap(), first.nbctl(&["show"]).await.unwrap());
    // And back to nothing, but for the one row that always is.
    let nothing = Backup::of(&Snapshot::of(&empty_like(&empty)), String::new());
    let plan = difference(&fitted(&nothing, &empty), &empty);
    empty.transact(plan.operations().unwrap()).await.unwrap();
    let left = taken(&empty);
    assert_eq!(left.counts().map(|(table, _)| table).collect::<Vec<_>>(), ["NB_Global"]);
}

fn empty_like(database: &Database) -> ovncp_ovn::contents::Contents {
    ovncp_ovn::contents::Contents::new(database.schema().unwrap())
}

#[tokio::test]
async fn a_plan_that_others_overtook_changes_nothing() {
    let dir = directory();
    let Some((lab, database)) = lab(&dir).await else { return };
    nbctl(&lab, &database, "ha-chassis-group-add group -- ls-add blue -- lsp-add blue vm1").await;
    let group =
        lab.nbctl(&["--bare", "--columns=_uuid", "find", "ha_chassis_group", "name=group"]).await.unwrap();
    let without = {
        let mut document = taken(&database).to_json();
        document["tables"]["HA_Chassis_Group"] = serde_json::json!([]);
        document["counts"]["HA_Chassis_Group"] = 0.into();
        document
    };
    let broken = Backup::parse(&without).unwrap_err().to_string();
    let checksum =
        broken.split("the content has ").nth(1).unwrap().split(':').take(2).collect::<Vec<_>>().join(":");
    let mut without = without;
    without["checksum"] = checksum.into();
    let backup = Backup::parse(&without).unwrap();
    let plan = difference(&fitted(&backup, &database), &database);
    assert_eq!(plan.counts(), (0, 0, 1));
    // Somebody refers to the group before it is deleted.
    nbctl(&lab, &database, &format!("set logical_switch_port vm1 ha_chassis_group={}", group.trim())).await;
    let before = taken(&database);
    match database.transact(plan.operations().unwrap()).await {
        Err(TransactError::Rejected(rejection)) => {
            assert_eq!(rejection.kind, RejectionKind::ReferentialIntegrity, "{rejection}");
        }
        other => panic!("a refusal, not {other:?}"),
    }
    assert_eq!(taken(&database), before);
}

#[tokio::test]
async fn the_graph_of_a_real_network() {
    let dir = directory();
    let Some((lab, database)) = lab(&dir).await else { return };
    nbctl(&lab, &database, NETWORK).await;
    let graph = Graph::of(&database.read(Rows::of).unwrap());
    assert_eq!(graph.faults, []);
    let nodes: std::collections::BTreeSet<_> = graph.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(nodes, ["blue", "green", "physical", "r", "web"].into());
    let path = graph.path(graph.port("vm1").unwrap(), graph.port("vm2").unwrap()).unwrap();
    let hops: Vec<_> = path
        .hops
        .iter()
        .map(|hop| match hop {
            Hop::Port(port) => &*graph.ports[*port].name,
            Hop::Node(node) => &*graph.nodes[*node].name,
        })
        .collect();
    assert_eq!(hops, ["vm1", "blue", "blue-r", "r-blue", "r", "r-green", "green-r", "green", "vm2"]);

    nbctl(&lab, &database, "lrp-del r-green").await;
    let graph = Graph::of(&database.read(Rows::of).unwrap());
    let faults: Vec<_> =
        graph.faults.iter().map(|fault| (&*graph.ports[fault.port].name, fault.kind.code())).collect();
    assert_eq!(faults, [("green-r", "missing_router_port")]);
}
