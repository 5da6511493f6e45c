//! Writes to real servers: coalesced, fenced, kept to once, waited for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod barrier;
mod fence;
mod marker;
mod storm;
#[path = "../support/mod.rs"]
mod support;

use ovncp_ovn::Uuid;
use ovncp_ovn::database::Database;
use ovncp_ovn::lab::{Lab, LabSettings, Members};
use ovncp_ovn::operation::Operation;
use ovncp_ovn::value::Datum;
use ovncp_ovn::wire::endpoint::Endpoint;
use tempfile::TempDir;

const SWITCH: &str = "Logical_Switch";

/// A directory with a short name, since those of sockets are bounded. It must outlive the lab.
fn directory() -> TempDir {
    tempfile::Builder::new().prefix("lab").tempdir_in("/tmp").unwrap()
}

async fn northbound(directory: &TempDir, members: Members) -> Lab {
    Lab::start(LabSettings::northbound_only(directory.path(), members)).await.unwrap()
}

fn endpoints(lab: &Lab) -> Vec<Endpoint> {
    let all: Vec<_> = lab.northbound().iter().map(|server| server.tcp_endpoint()).collect();
    Endpoint::parse_list(&all.join(",")).unwrap()
}

async fn open(lab: &Lab) -> Database {
    support::synced(support::settings(endpoints(lab))).await
}

fn switch(uuid: Uuid, name: &str) -> Operation {
    Operation::Insert { table: SWITCH.into(), uuid, row: vec![("name".into(), Datum::from(name))] }
}

/// The uuids of the switches with this name.
fn switches(database: &Database, name: &str) -> Vec<Uuid> {
    database.read(|contents| contents.table(SWITCH).unwrap().by_name(name).to_vec()).unwrap()
}
